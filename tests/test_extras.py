"""The extras for GPUs name every CUDA library that ONNX Runtime needs, and what they name exists."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from smalti.backends.tensorrt.bindings import OLDEST

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, dict[str, Requirement]] = {
    extra: {Requirement(one).name: Requirement(one) for one in PROJECT["optional-dependencies"][extra]}
    for extra in ("cu12", "cu13")
}
LIBRARIES = {
    "libcublas, libcublasLt": ("nvidia-cublas", "linked by the CUDA provider: every matrix product"),
    "libcudart": ("nvidia-cuda-runtime", "linked by the CUDA provider"),
    "libcurand": ("nvidia-curand", "linked by the CUDA provider"),
    "libcudnn": ("nvidia-cudnn", "loaded when the provider is made: every convolution"),
    "libcufft": ("nvidia-cufft", "linked by some versions, and loaded by others when a graph has a Fourier transform"),
    "libnvrtc": ("nvidia-cuda-nvrtc", "loaded by cuDNN and cuBLAS, which compile some kernels when they are needed"),
    "libnvJitLink": ("nvidia-nvjitlink", "loaded by cuFFT, which links its kernels when they are needed"),
}
"""What provides each library, and why it is needed; in CUDA 12, and for cuDNN, names end with the version of CUDA."""
MAJOR = {
    "nvidia-cublas": ("12", "13"),
    "nvidia-cuda-runtime": ("12", "13"),
    "nvidia-curand": ("10", "10"),
    "nvidia-cudnn": ("9", "9"),
    "nvidia-cufft": ("11", "12"),
    "nvidia-cuda-nvrtc": ("12", "13"),
    "nvidia-nvjitlink": ("12", "13"),
}
"""The major version in CUDA 12 and in CUDA 13: the one in the library's file name, which ONNX Runtime asks for."""
PLATFORMS = {
    "Windows": ("win_amd64",),
    "Linux": ("manylinux2014_x86_64", "manylinux_2_27_x86_64", "manylinux_2_28_x86_64"),
}


def package_of(base: str, extra: str) -> str:
    return f"{base}-{extra}" if extra == "cu12" or base == "nvidia-cudnn" else base


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_every_library_is_named_and_of_the_right_cuda(library: str, extra: str) -> None:
    base, reason = LIBRARIES[library]
    package = package_of(base, extra)
    assert package in EXTRAS[extra], f"{library} is {reason}; {package} brings it"
    wanted = int(MAJOR[base][extra == "cu13"])
    bounds = EXTRAS[extra][package].specifier
    assert not bounds.contains(f"{wanted - 1}.99"), f"{package} must be {wanted}.*"
    assert not bounds.contains(f"{wanted + 1}.0"), f"{package} must be {wanted}.*"


@pytest.mark.parametrize("extra", EXTRAS)
def test_nothing_is_named_without_a_reason(extra: str) -> None:
    needed = {package_of(base, extra) for base, _ in LIBRARIES.values()}
    assert EXTRAS[extra].keys() == {"onnxruntime-gpu", *needed}


def test_cuda_12_comes_with_the_last_libraries_for_pascal() -> None:
    runtime, cudnn = EXTRAS["cu12"]["onnxruntime-gpu"].specifier, EXTRAS["cu12"]["nvidia-cudnn-cu12"].specifier
    assert runtime.contains("1.26.0")
    assert not runtime.contains("1.27.0"), "1.27 is for CUDA 13, which has no Pascal"
    assert cudnn.contains("9.10.2.21")
    assert not cudnn.contains("9.11.0.98"), "cuDNN 9.11 has no code for sm_61"
    assert not EXTRAS["cu13"]["onnxruntime-gpu"].specifier.contains("1.26.0")


def test_no_extra_brings_two_packages_of_onnx_runtime() -> None:
    for extra, lines in PROJECT["optional-dependencies"].items():
        names = {Requirement(line).name for line in lines}
        assert len(names & {"onnxruntime", "onnxruntime-gpu"}) <= 1, extra


def test_running_engines_needs_no_onnx_and_building_them_does() -> None:
    brings = {
        extra: {Requirement(line).name: Requirement(line) for line in PROJECT["optional-dependencies"][extra]}
        for extra in ("cli", "rtx", "engines", "trt")
    }
    assert brings["rtx"].keys() == {"filelock", "tensorrt-rtx"}
    assert brings["engines"].keys() == {"smalti", "tensorrt-rtx", "onnx"}
    assert brings["engines"]["smalti"].extras == {"cli", "rtx"}
    assert brings["trt"].keys() == {"smalti", "filelock", "onnx", "tensorrt"}
    assert "filelock" in brings["cli"], "smalti engine prune locks the folders of engines"


def test_an_engine_finds_the_version_that_built_it() -> None:
    """The lines that install it name smalti's extra and one version, and pip refuses what does not go together."""
    (running,) = (one for one in PROJECT["optional-dependencies"]["rtx"] if one.startswith("tensorrt-rtx"))
    for version in ("1.4.0.76", "1.5.0.114", "1.6.1.120", "1.7.1.116", "1.9.0.1"):
        assert Requirement(running).specifier.contains(version)
    oldest = ".".join(map(str, OLDEST["rtx"]))
    assert Requirement(running).specifier.contains(oldest)
    assert not Requirement(running).specifier.contains("1.3")


def versions(package: str, platform: str) -> list[Version]:
    """Versions that have a wheel, newest first. ``pip install --dry-run`` would download all of them: gigabytes."""
    tags = [word for tag in PLATFORMS[platform] for word in ("--platform", tag)]
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    command = [sys.executable, "-m", "pip", "index", "versions", package, *tags, "--only-binary=:all:"]
    done = subprocess.run([*command, "--python-version", python], capture_output=True, text=True, timeout=120)
    listed = re.search(r"^Available versions: (.*)$", done.stdout, re.MULTILINE)
    return [Version(one) for one in listed[1].split(", ")] if listed else []


@pytest.mark.slow
@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("extra", EXTRAS)
def test_wheels_within_the_bounds_exist(extra: str, platform: str) -> None:
    if not versions("numpy", platform):
        pytest.skip("needs a package index")
    for package, requirement in EXTRAS[extra].items():
        there = versions(package, platform)
        assert any(map(requirement.specifier.contains, there)), f"{requirement} for {platform}: there is {there[:5]}"
