"""The libraries that ONNX Runtime's CUDA provider needs: their names, the packages that bring them, where they lie."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Final, NamedTuple

from smalti.verification.doctor.facts import CudaLibrary

MAJORS: Final = (12, 13)
"""Versions of CUDA that the extras cu12 and cu13 are for."""


class Library(NamedTuple):
    """Names of one library; ``{}`` stands for its own major version."""

    package: str
    """The package without the version of CUDA at its end."""
    linux: str
    windows: str
    versions: Mapping[int, str]
    """Its own major version for each version of CUDA."""

    def file(self, cuda: int, windows: bool) -> str:
        """Return the name that ONNX Runtime asks for."""
        return (self.windows if windows else self.linux).format(self.versions[cuda])

    def package_for(self, cuda: int) -> str:
        """Return the package; from CUDA 13 on, only that of cuDNN ends with the version."""
        return f"{self.package}-cu{cuda}" if cuda == 12 or self.package == "nvidia-cudnn" else self.package


_SAME: Final = {12: "12", 13: "13"}
LIBRARIES: Final[dict[str, Library]] = {
    "cudart": Library("nvidia-cuda-runtime", "libcudart.so.{}", "cudart64_{}.dll", _SAME),
    "cublas": Library("nvidia-cublas", "libcublas.so.{}", "cublas64_{}.dll", _SAME),
    "cublasLt": Library("nvidia-cublas", "libcublasLt.so.{}", "cublasLt64_{}.dll", _SAME),
    "curand": Library("nvidia-curand", "libcurand.so.{}", "curand64_{}.dll", {12: "10", 13: "10"}),
    "cufft": Library("nvidia-cufft", "libcufft.so.{}", "cufft64_{}.dll", {12: "11", 13: "12"}),
    "cudnn": Library("nvidia-cudnn", "libcudnn.so.{}", "cudnn64_{}.dll", {12: "9", 13: "9"}),
    "nvrtc": Library("nvidia-cuda-nvrtc", "libnvrtc.so.{}", "nvrtc64_{}0_0.dll", _SAME),
    "nvJitLink": Library("nvidia-nvjitlink", "libnvJitLink.so.{}", "nvJitLink_{}0_0.dll", _SAME),
}


def find_cuda_libraries() -> tuple[CudaLibrary, ...]:
    """Find the libraries of all versions of CUDA, in installed packages and where the system looks. Loads none."""
    windows = sys.platform == "win32"
    wanted = {library.file(cuda, windows) for library in LIBRARIES.values() for cuda in MAJORS}
    return (*_of_packages(windows), *_of_system(wanted, windows))


def _of_packages(windows: bool) -> Iterator[CudaLibrary]:
    for name, library in LIBRARIES.items():
        for cuda in MAJORS:
            package, file = library.package_for(cuda), library.file(cuda, windows)
            try:
                found = metadata.distribution(package)
            except metadata.PackageNotFoundError:
                continue
            folder = Path(str(found.locate_file("nvidia")))
            below = ("*/bin/{}", "*/bin/*/{}") if windows else ("*/lib/{}",)
            path = next((path for one in below for path in folder.glob(one.format(file))), None)
            if path is not None:
                yield CudaLibrary(name, file, found.version, package, str(path))


def _of_system(wanted: set[str], windows: bool) -> Iterator[CudaLibrary]:
    names = {library.file(cuda, windows): name for name, library in LIBRARIES.items() for cuda in MAJORS}
    listed = {} if windows else _listed()
    folders = [Path(folder) for folder in _searched(windows) if folder]
    for file in sorted(wanted):
        places = [folder / file for folder in folders]
        path = next((place for place in places if place.is_file()), listed.get(file))
        if path is not None:
            version = re.search(r"\.so\.([\d.]+)$", path.resolve().name)
            yield CudaLibrary(names[file], file, version[1] if version else "", "", str(path))


def _searched(windows: bool) -> list[str]:
    """Return the folders in which the system looks first, those of conda included."""
    conda = Path(sys.prefix, "conda-meta").is_dir()
    if windows:
        return [*os.environ.get("PATH", "").split(os.pathsep), *([f"{sys.prefix}\\Library\\bin"] if conda else [])]
    return [*os.environ.get("LD_LIBRARY_PATH", "").split(":"), *([f"{sys.prefix}/lib"] if conda else [])]


def _listed() -> dict[str, Path]:
    """Return the libraries of this processor that the loader of Linux has in its cache, by name."""
    command = shutil.which("ldconfig") or "/sbin/ldconfig"
    if sys.platform != "linux" or not Path(command).exists():
        return {}
    done = subprocess.run(
        [command, "-p"], capture_output=True, encoding="utf-8", errors="replace", timeout=5, check=False
    )
    rows = re.findall(r"^\s+(\S+) \(.*(?:64|AArch64).*\) => (.+)$", done.stdout, re.MULTILINE)
    return {name: Path(path) for name, path in reversed(rows)}
