"""What an app that imports smalti needs: the embedded bundles, the modules loaded by name, and ONNX Runtime."""

from __future__ import annotations

from importlib import metadata, util

from PyInstaller.utils.hooks import (  # pyright: ignore[reportMissingModuleSource] - imported by PyInstaller alone
    collect_data_files,
    collect_dynamic_libs,
    collect_submodules,
    copy_metadata,
)

PLUGIN = "onnxruntime_ep_webgpu"


def _is_needed(module: str) -> bool:
    # An app that has the command line imports it; else its packages would be searched for in vain.
    return not module.startswith("smalti.cli")


datas = collect_data_files("smalti")
binaries: list[tuple[str, str]] = []
hiddenimports = ["onnxruntime", *collect_submodules("smalti", filter=_is_needed)]
for _package in ("smalti", "onnxruntime", "onnxruntime-gpu"):
    try:
        datas += copy_metadata(_package)
    except metadata.PackageNotFoundError:
        continue
if util.find_spec(PLUGIN) is not None:
    hiddenimports.append(PLUGIN)
    binaries += collect_dynamic_libs(PLUGIN)
    datas += collect_data_files(PLUGIN)
