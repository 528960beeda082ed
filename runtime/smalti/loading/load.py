"""``smalti.load``: open a bundle, and get it ready to run on a provider."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any, Final, get_args

from smalti.backends.base import Backend, RequestedPrecision
from smalti.backends.registry import AUTO, ON_NVIDIA, check_provider, open_backend
from smalti.backends.tensorrt.backend import TensorRt
from smalti.bundle.reader import Bundle, open_bundle
from smalti.drawing.generator import Generator
from smalti.errors import ProviderUnavailable, UsageError
from smalti.families.checks import shown
from smalti.families.limits import Limits
from smalti.loading.auto import load_best
from smalti.loading.building import OnProgress, build_missing
from smalti.verification.doctor.safe_driver import driver_crash

_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
"""How addresses begin; on Windows a drive is one letter."""


def load(
    bundle: str | Path | Bundle | None = None,
    provider: str = AUTO,
    precision: str = "auto",
    threads: int | None = None,
    *,
    backend: Backend | None = None,
    on_build: OnProgress | None = None,
    cancel: threading.Event | None = None,
    limits: Limits | None = None,
) -> Generator:
    """Open a bundle and get it ready to run.

    Args:
        bundle: a path (folder or ``.zip``), the name of an embedded bundle, or an open bundle. None takes the embedded
            default.
        provider: ``auto``, or one by name: ``cpu``, ``cuda``, ``rtx``, ``trt``, ``webgpu``. ``auto`` tries all that are
            installed, once for each machine and bundle, and takes the fastest of those that compute the bundle's golden
            inputs as certified; ``report.why`` says what it found.
        precision: ``auto``, ``fp32``, ``fp16`` or ``int8``. ``auto`` takes the precision that the provider prefers.
        threads: cores to use, at least 1; None takes those of ``$SMALTI_THREADS``, or all that affinity and quotas
            allow. More than four for each core are refused.
        backend: runs the graphs in place of a provider, such as :class:`smalti.NullBackend` in tests of your program.
        on_build: is told how far engines are that provider ``trt`` has to build first, which takes minutes.
        cancel: ends such a build when it is set.
        limits: the most that one call may ask for; by default what no machine of this size should be asked for.

    Raises:
        BundleError: the bundle is missing or damaged.
        ProviderUnavailable: the provider cannot run here.
        EngineError: engines could not be built, or building was cancelled.
        UsageError: an argument has another value.
    """
    limits = check_load(bundle, provider, precision, backend, on_build, cancel, limits)
    if backend is None:
        threads = limits.check_threads(threads)
    elif provider != AUTO or threads is not None:
        raise UsageError("a backend brings its own provider and threads: leave those out")
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    if backend is not None:
        return Generator(opened, backend, precision, limits=limits)
    if provider == AUTO:
        generator = load_best(opened, precision, threads)
        generator.limits = limits
        return generator
    if provider in ON_NVIDIA and (problem := driver_crash()):
        raise ProviderUnavailable(
            f"provider {provider} cannot run here: {problem}; use provider cpu, or see smalti doctor"
        )
    backend = open_backend(provider, threads)
    if isinstance(backend, TensorRt):
        build_missing(backend, opened, precision, on_build, cancel)
    return Generator(opened, backend, precision, requested=provider, why=f"{provider} was asked for", limits=limits)


def check_load(
    bundle: Any,
    provider: Any,
    precision: Any = "auto",
    backend: Any = None,
    on_build: Any = None,
    cancel: Any = None,
    limits: Any = None,
) -> Limits:
    """Check the types of arguments, and return the limits in use. Raises UsageError."""
    if not isinstance(bundle, str | Path | Bundle | None):
        raise UsageError(f"bundle {shown(bundle)}: a path or a name is needed")
    if isinstance(bundle, str) and _ADDRESS.match(bundle):
        raise UsageError(f"bundle {bundle!r}: a path or a name is needed, and not an address; download it first")
    if isinstance(bundle, str | Path) and "\0" in str(bundle):
        raise UsageError(f"bundle {shown(str(bundle))}: no path has a NUL character in it")
    if not isinstance(provider, str):
        raise UsageError(f"provider {shown(provider)}: a name is needed, such as {AUTO} or cpu")
    check_provider(provider)
    if not isinstance(precision, str) or precision not in get_args(RequestedPrecision):
        raise UsageError(f"precision {shown(precision)}: allowed are {', '.join(get_args(RequestedPrecision))}")
    if not isinstance(backend, Backend | None):
        raise UsageError(f"backend {shown(backend)}: a smalti.Backend is needed, such as smalti.NullBackend()")
    if on_build is not None and not callable(on_build):
        raise UsageError(f"on_build {shown(on_build)}: a function that takes a smalti.BuildProgress is needed")
    if cancel is not None and not callable(getattr(cancel, "is_set", None)):
        raise UsageError(f"cancel {shown(cancel)}: an event is needed, such as threading.Event()")
    if not isinstance(limits, Limits | None):
        raise UsageError(f"limits {shown(limits)}: smalti.Limits are needed, such as smalti.Limits(count=4)")
    return Limits() if limits is None else limits
