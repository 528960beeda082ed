"""The Python modules of TensorRT-RTX and TensorRT: found, loaded, and made to say why they refuse."""

from __future__ import annotations

import contextlib
import importlib
from collections import deque
from importlib import metadata, util
from typing import Any, Final

from smalti.backends.tensorrt.choice import NAMES, PACKAGES
from smalti.bundle.engines import Runtime
from smalti.errors import ProviderUnavailable
from smalti.system.platform import install_hint

MODULES: Final[dict[Runtime, str]] = {"rtx": "tensorrt_rtx", "trt": "tensorrt"}
OLDEST: Final[dict[Runtime, tuple[int, int]]] = {"rtx": (1, 4), "trt": (10, 0)}
"""Oldest versions that have every call that is made."""
SAID: Final = 8
"""Messages that are kept for the next error."""


def installed(runtime: Runtime) -> bool:
    """Return whether a runtime's module is there, without loading it."""
    return util.find_spec(MODULES[runtime]) is not None


def installed_version(runtime: Runtime) -> str:
    """Return the version of a runtime's package, without loading it; empty if it is not installed."""
    name = PACKAGES[runtime]
    for package in (name, f"{name}-cu13", f"{name}-cu12"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return ""


class Bindings:
    """A runtime's module, and an object of it that reads engines."""

    def __init__(self, runtime: Runtime, module: Any = None) -> None:
        """Load the module, or take a given one.

        Raises ProviderUnavailable when it is missing, cannot be loaded, or is too old.
        """
        self.runtime: Runtime = runtime
        self.trt: Any = module or _loaded(runtime)
        self.version = str(self.trt.__version__)
        self.name = f"{NAMES[runtime]} {self.version}"
        numbers = tuple(int(part) for part in self.version.split(".")[:2])
        if numbers < OLDEST[runtime]:
            needed = ".".join(map(str, OLDEST[runtime]))
            raise ProviderUnavailable(
                f"provider {runtime} needs {NAMES[runtime]} {needed}, and this is {self.version}; "
                f"{install_hint(runtime, '--upgrade')}, or use another provider"
            )
        self._said: deque[str] = deque(maxlen=SAID)
        self._log = _log_of(self.trt, self._said)
        try:
            self._reader = self.trt.Runtime(self._log)
        except TypeError as error:  # what the bindings raise when the library gives nothing
            raise ProviderUnavailable(
                f"provider {runtime} cannot run here: {self.name} does not start ({self.said() or error}); install the "
                "newest NVIDIA driver, or use another provider"
            ) from error

    def said(self) -> str:
        """Return what the library has said of errors since the last call, and forget it."""
        words = "; ".join(dict.fromkeys(self._said))
        self._said.clear()
        return words

    def read(self, plan: bytes, where: str) -> Any:
        """Return an engine object. Call it in the device's context.

        Raises ProviderUnavailable when the library refuses the engine, with what it says.
        """
        self._check(plan, where)
        engine = self._reader.deserialize_cuda_engine(plan)
        if engine is None:
            raise ProviderUnavailable(
                f"{where}: {self.name} cannot read it: {self.said() or 'no reason is given'}; build it again with "
                f"smalti engine build --runtime {self.runtime} --force, or use another provider"
            )
        return engine

    def _check(self, plan: bytes, where: str) -> None:
        """Ask TensorRT-RTX whether an engine runs here, which it can tell from the engine's first bytes."""
        ask = getattr(self._reader, "get_engine_validity", None)
        if ask is None:
            return
        validity, flags = ask(plan)
        if validity != self.trt.EngineValidity.INVALID:
            return
        kinds = self.trt.EngineInvalidityDiagnostics
        reasons = [name for name, kind in kinds.__members__.items() if int(flags) & int(kind)]
        raise ProviderUnavailable(
            f"{where}: {self.name} says that it does not run here "
            f"({', '.join(reasons) or self.said() or 'no reason'}); see smalti engine explain, or use another provider"
        )


def _loaded(runtime: Runtime) -> Any:
    install = install_hint(runtime)
    if not installed(runtime):
        raise ProviderUnavailable(
            f"provider {runtime} needs {NAMES[runtime]}, which is not installed; {install}, or use another provider"
        )
    try:
        return importlib.import_module(MODULES[runtime])
    except (ImportError, OSError) as error:
        raise ProviderUnavailable(
            f"provider {runtime}: {NAMES[runtime]} is installed and cannot be loaded ({error}); {install} again, or "
            "use another provider"
        ) from error


def _log_of(trt: Any, said: deque[str]) -> Any:
    """Return a logger that keeps errors; the bindings' own one prints them."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                said.append(message)

    return Log()
