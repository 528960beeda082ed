"""The compiled kernels, which an app reads as files."""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_data_files  # pyright: ignore[reportMissingModuleSource] - by it alone

datas = collect_data_files("smalti_kernels")
excludedimports = ["triton"]  # compiles kernels; an app runs those that are compiled
