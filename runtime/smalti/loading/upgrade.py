"""Draw on one provider while another one, whose engines have to be built first, is made ready."""

from __future__ import annotations

import threading
from pathlib import Path

from smalti.backends.registry import AUTO
from smalti.bundle.reader import Bundle, open_bundle
from smalti.drawing.generator import Generator
from smalti.errors import EngineError
from smalti.loading.building import BuildProgress, OnProgress
from smalti.loading.load import check_load, load


class Upgrade:
    """A generator that is there at once, and a better one that follows.

    ::

        upgrade = smalti.Upgrade("avatars", provider="trt", meanwhile="cuda")
        upgrade.generator.generate(seed=7)  # on cuda at first, on trt once its engines are built

    Ask for :attr:`generator` before each picture, and keep it as long as that takes: it never changes under way.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle | None = None,
        provider: str = "trt",
        meanwhile: str = AUTO,
        precision: str = "auto",
        threads: int | None = None,
        on_build: OnProgress | None = None,
    ) -> None:
        """Load a bundle on ``meanwhile``, and start to get ``provider`` ready in a thread of its own.

        ``on_build`` is told in another thread how far the engines are. All else is as in :func:`smalti.load`. Raises
        what that raises of the bundle and of ``meanwhile``; what is wrong with ``provider`` becomes :attr:`problem`.
        """
        check_load(bundle, provider, precision, on_build=on_build)
        opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        self._now, self._ready = load(opened, meanwhile, precision, threads), False
        self._told = on_build
        self._cancel = threading.Event()
        self.progress: BuildProgress | None = None
        """How far the engines are; None before the first word."""
        self.problem: Exception | None = None
        """Why the other provider will not come; None as long as it may."""
        self._thread = threading.Thread(
            target=self._prepare, args=(opened, provider, precision, threads), name="smalti-upgrade", daemon=True
        )
        self._thread.start()

    @property
    def generator(self) -> Generator:
        """The best one that is ready."""
        return self._now

    @property
    def ready(self) -> bool:
        """Whether the other provider has taken over."""
        return self._ready

    def cancel(self) -> None:
        """Give the other provider up, if it is not ready yet; engines that are finished are kept."""
        self._cancel.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the other provider is ready or has failed, at most ``timeout`` seconds; return :attr:`ready`."""
        self._thread.join(timeout)
        return self.ready

    def _prepare(self, bundle: Bundle, provider: str, precision: str, threads: int | None) -> None:
        try:
            found = load(bundle, provider, precision, threads, on_build=self._tell, cancel=self._cancel)
        except Exception as error:  # of on_build too: whoever waits must hear of it
            self.problem = error
            return
        if self._cancel.is_set():
            self.problem = EngineError("the upgrade was cancelled")
        else:
            self._now, self._ready = found, True

    def _tell(self, progress: BuildProgress) -> None:
        self.progress = progress
        if self._told:
            self._told(progress)
