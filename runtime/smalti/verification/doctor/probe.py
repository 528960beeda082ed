"""Ask libraries that may be broken: run as a script in a process of its own, so that a crash there is only a fact.

    python probe.py driver libcuda.so.1 libcuda.so

prints one line of JSON, behind whatever the library prints. It starts no work on a GPU. At its top it imports the
standard library alone, so that it starts quickly.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import sys
from collections.abc import Callable
from ctypes import byref, c_char_p, c_int, c_size_t
from typing import Any, Final

CAPABILITY: Final = (75, 76)
"""Device attributes of CUDA: major and minor number of the compute capability."""


def driver(*names: str) -> dict[str, Any]:
    """Describe NVIDIA's driver and its GPUs, even where it is too old to be used."""
    library, name, problem = _load(names)
    found: dict[str, Any] = {"library": name, "problem": problem}
    if library is None:
        return found
    number, count = c_int(), c_int()
    started = library.cuInit(0)
    if library.cuDriverGetVersion(byref(number)) == 0 and number.value:
        found["cuda"] = (number.value // 1000, number.value % 1000 // 10)
    with contextlib.suppress(ImportError):  # where smalti is not to be found, it is the GPUs that matter
        from smalti.backends.driver_version import driver_version

        found["version"] = driver_version()
    failed = started or library.cuDeviceGetCount(byref(count))
    if failed:
        return found | {"problem": _error(library, failed)}
    return found | {"gpus": [_gpu(library, ordinal) for ordinal in range(count.value)]}


def _gpu(library: Any, ordinal: int) -> dict[str, Any]:
    handle, memory, name = c_int(), c_size_t(), ctypes.create_string_buffer(256)
    numbers = [c_int() for _ in CAPABILITY]
    codes = [library.cuDeviceGet(byref(handle), ordinal), library.cuDeviceGetName(name, len(name), handle)]
    codes += [library.cuDeviceGetAttribute(byref(to), which, handle) for to, which in zip(numbers, CAPABILITY)]
    if any(codes):
        raise OSError(f"GPU {ordinal}: {_error(library, next(filter(None, codes)))}")
    total = getattr(library, "cuDeviceTotalMem_v2", None)
    known = total is not None and total(byref(memory), handle) == 0
    return {
        "name": name.value.decode(errors="replace"),
        "capability": numbers[0].value * 10 + numbers[1].value,
        "memory": memory.value if known else None,
    }


def _error(library: Any, code: int) -> str:
    text = c_char_p()
    known = library.cuGetErrorName(code, byref(text)) == 0 and text.value
    return f"{text.value.decode() if known and text.value else 'an unknown error'} ({code})"


def inference(name: str) -> dict[str, Any]:
    """Import ONNX Runtime and list what it was built with. ``name`` is that of its module."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    module = importlib.import_module(name)
    found = {"version": module.__version__, "providers": module.get_available_providers()}
    return found | {"cuda": str(getattr(module, "cuda_version", "") or "")}


def vulkan(*names: str) -> dict[str, Any]:
    """List the devices of Vulkan's loader."""
    library, name, problem = _load(names)
    if library is None:
        return {"problem": problem}
    from smalti.backends.vulkan import vulkan_devices

    devices = [{"name": one.name, "kind": one.kind} for one in vulkan_devices(name)]
    return {"library": name, "devices": devices}


def _load(names: tuple[str, ...]) -> tuple[Any, str, str]:
    """Return the first library that can be loaded, its name, and why one that is there could not be."""
    problem = ""
    for name in names:
        try:
            return ctypes.CDLL(name), name, ""
        except OSError as error:
            said = str(error)
            absent = isinstance(error, FileNotFoundError) or (said.startswith(name) and "No such file" in said)
            problem = problem or ("" if absent else said)
    return None, "", problem


PROBES: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    "driver": driver,
    "inference": inference,
    "vulkan": vulkan,
}


def answer(name: str, *arguments: str) -> dict[str, Any]:
    """Run a probe; whatever goes wrong is its answer's ``problem``."""
    try:
        return PROBES[name](*arguments)
    except Exception as error:
        return {"problem": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    print("\n" + json.dumps(answer(*sys.argv[1:])), flush=True)
    os._exit(0)  # some libraries crash while a process ends
