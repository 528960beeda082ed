"""``smalti.load``: open a bundle, and get it ready to run on a provider."""

from __future__ import annotations

import threading
from pathlib import Path

from smalti.backends.base import Backend
from smalti.backends.registry import AUTO, check_provider, open_backend
from smalti.backends.tensorrt.backend import TensorRt
from smalti.bundle.reader import Bundle, open_bundle
from smalti.errors import UsageError
from smalti.generator import Generator
from smalti.loading.auto import load_best
from smalti.loading.building import OnProgress, build_missing


def load(
    bundle: str | Path | Bundle | None = None,
    provider: str = AUTO,
    precision: str = "auto",
    threads: int | None = None,
    *,
    backend: Backend | None = None,
    on_build: OnProgress | None = None,
    cancel: threading.Event | None = None,
) -> Generator:
    """Open a bundle and get it ready to run.

    Args:
        bundle: a path (folder or ``.zip``), the name of an embedded bundle, or an open bundle. None takes the embedded
            default.
        provider: ``auto``, or one by name: ``cpu``, ``cuda``, ``rtx``, ``trt``, ``webgpu``. ``auto`` tries all that are
            installed, once for each machine and bundle, and takes the fastest of those that compute the bundle's golden
            inputs as certified; ``report.why`` says what it found.
        precision: ``auto``, ``fp32``, ``fp16`` or ``int8``. ``auto`` takes the precision that the provider prefers.
        threads: cores to use, at least 1; None uses all.
        backend: runs the graphs in place of a provider, such as :class:`smalti.NullBackend` in tests of your program.
        on_build: is told how far engines are that provider ``trt`` has to build first, which takes minutes.
        cancel: ends such a build when it is set.

    Raises:
        BundleError: the bundle is missing or damaged.
        ProviderUnavailable: the provider cannot run here.
        EngineError: engines could not be built, or building was cancelled.
        UsageError: an argument has another value.
    """
    if not isinstance(bundle, str | Path | Bundle | None):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"bundle {bundle!r}: a path or a name is needed")
    if threads is not None and not (isinstance(threads, int) and threads >= 1):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"threads {threads!r}: a whole number, at least 1, is needed")
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    if backend is not None:
        if provider != AUTO or threads is not None:
            raise UsageError("a backend brings its own provider and threads: leave those out")
        return Generator(opened, backend, precision)
    check_provider(provider)
    if provider == AUTO:
        return load_best(opened, precision, threads)
    backend = open_backend(provider, threads)
    if isinstance(backend, TensorRt):
        build_missing(backend, opened, precision, on_build, cancel)
    return Generator(opened, backend, precision, requested=provider, why=f"{provider} was asked for")
