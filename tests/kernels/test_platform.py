"""The driver's library on Windows, simulated, and the cores of a process."""

from __future__ import annotations

import ctypes
import os
from types import SimpleNamespace

import pytest

from smalti_kernels import platform
from smalti_kernels.errors import DriverUnavailable
from smalti_kernels.impl.cuda.driver import open_driver


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Windows without a driver, as `smalti_kernels.platform` sees it; what is asked for is listed."""
    asked: list[str] = []

    def load(name: str) -> ctypes.CDLL:
        asked.append(name)
        text = f"Could not find module '{name}' (or one of its dependencies). Try using the full path with constructor"
        raise FileNotFoundError(text)

    monkeypatch.setattr(platform, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(ctypes, "WinDLL", load, raising=False)
    return asked


def test_a_driver_that_is_missing_on_windows_is_told_in_plain_words(windows: list[str]) -> None:
    with pytest.raises(DriverUnavailable) as caught:
        open_driver("nvcuda.dll")
    assert windows == ["nvcuda.dll"]
    assert "there is no NVIDIA driver (nvcuda.dll is missing, or a library that it needs)" in str(caught.value)
    assert "constructor" not in str(caught.value)


def test_the_drivers_library_is_loaded_by_the_calling_convention_of_windows(
    windows: list[str], stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "WinDLL", ctypes.CDLL)
    monkeypatch.setattr(ctypes, "CDLL", None)
    assert open_driver(stub.path).device_count == 1


def test_a_library_that_is_no_library_keeps_its_reason(windows: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise OSError("[WinError 193] %1 is not a valid Win32 application")

    monkeypatch.setattr(ctypes, "WinDLL", load)
    with pytest.raises(DriverUnavailable, match="WinError 193"):
        open_driver("nvcuda.dll")


def test_cores_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(os, "sched_getaffinity"):
        assert platform.usable_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # Windows and macOS have none
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert platform.usable_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert platform.usable_cores() == 1
