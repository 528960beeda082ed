"""Open bundles, listen, and serve until told to end: what the commands serve and studio do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from smalti.bundle.reader import Bundle
from smalti.drawing.generator import Generator
from smalti.errors import UsageError, for_outsiders
from smalti.loading.building import BuildProgress
from smalti.loading.load import check_load, load
from smalti.web.app import create_app
from smalti.web.desk.shelf import opened as shelf_of
from smalti.web.server import address, bound, run
from smalti.web.serving import Serving
from smalti.web.studio.gallery import Gallery

EVERYWHERE: Final = ("0.0.0.0", "::")
"""Addresses that stand for all of a machine."""


def listen(
    serving: Serving,
    bundles: Sequence[str],
    provider: str,
    precision: str,
    threads: int | None,
    *,
    meanwhile: str | None = None,
    tell: Callable[[str], object],
    gallery: Gallery | None = None,
    opened: Callable[[str], object] | None = None,
) -> None:
    """Serve ``bundles`` (``NAME=PATH`` or ``PATH``; none is the embedded one) until SIGTERM or Ctrl+C.

    Args:
        serving: where to listen, who may ask, and how much.
        bundles: those to serve.
        provider: as in :func:`smalti.load`, and so are ``precision`` and ``threads``.
        precision: as there.
        threads: as there.
        meanwhile: another provider, which draws until ``provider`` is ready.
        tell: is given lines about what happens.
        gallery: where the studio keeps pictures; None serves no studio.
        opened: is given the address of the studio, with its token, once the server listens.

    Raises what :func:`smalti.load` raises for a bundle that cannot be made ready, and UsageError for an address that
    cannot be taken.
    """
    for asked in (provider, meanwhile):
        check_load(None, provider if asked is None else asked, precision)
    if meanwhile == provider:
        raise UsageError(f"meanwhile {meanwhile!r}: another provider than {provider} is needed; or leave it out")
    serving.limits.check_threads(threads)
    ending = threading.Event()
    shelf = shelf_of(bundles)
    listening, serving = bound(serving)
    where = address(serving)

    def loaded(by: str, bundle: Bundle) -> Generator:
        told = set[str]()

        def building(progress: BuildProgress) -> None:
            if progress.component not in told:
                told.add(progress.component)
                tell(f"building the engine of the {progress.component} of {bundle.manifest.name}")

        return load(bundle, by, precision, threads, limits=serving.limits, on_build=building, cancel=ending)

    def on_ready() -> None:
        for entry in shelf.entries:
            report = entry.ready.report
            tell(f"{entry.name} is ready on {report.actual} ({report.device})")

    def on_failure(error: BaseException) -> None:
        if not ending.is_set():  # else that is why
            app.state.failure = error
            app.state.end()

    def on_stay(error: BaseException) -> None:
        if not ending.is_set():
            tell(f"{provider} does not take over: {for_outsiders(str(error))}")

    def on_listening() -> None:
        if gallery is None:  # its token stays out of logs
            others = " and all other addresses of this machine" if serving.host in EVERYWHERE else ""
            tell(f"listening on {where}{others}" + (", for those who show the token" if serving.token else ""))
            return
        page = f"{where}?token={serving.token}"
        tell(f"studio: {page}")
        if opened is not None:
            opened(page)

    with listening:
        app = create_app(
            shelf,
            serving,
            partial(loaded, meanwhile or provider),
            better=partial(loaded, provider) if meanwhile else None,
            gallery=gallery,
            on_ready=on_ready,
            on_failure=on_failure,
            on_stay=on_stay,
            on_end=ending.set,
        )
        run(app, serving, listening, on_listening)
