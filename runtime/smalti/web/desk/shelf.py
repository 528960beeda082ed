"""The bundles of a server, by name: each is opened at once, and made ready to draw while the server listens already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from smalti.bundle.reader import Bundle, open_bundle
from smalti.drawing.generator import Generator
from smalti.errors import UsageError
from smalti.web.failures import Refused

ON_GPU = 8
"""Images of a batch where batches pay."""
LOADING_S = 2.0
"""When to come again while a bundle is made ready."""


@dataclass(eq=False)
class Entry:
    """A bundle by its name, and its generator once it is ready."""

    name: str
    bundle: Bundle
    generator: Generator | None = None

    @property
    def ready(self) -> Generator:
        """The generator. Raises Refused while it is not ready."""
        if self.generator is None:
            raise Refused(503, "loading", f"bundle {self.name} is being loaded; come again", retry_after=LOADING_S)
        return self.generator

    @property
    def batch(self) -> int:
        """Images that a batch of several requests may have."""
        return 1 if self.ready.report.actual in ("cpu", "null") else ON_GPU


class Shelf:
    """All bundles of a server. The first is taken where none is named."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        """Take bundles of different names, at least one. Raises UsageError."""
        names = [entry.name for entry in entries]
        if doubled := {name for name in names if names.count(name) > 1}:
            raise UsageError(
                f"bundle {sorted(doubled)[0]} is there twice; give them different names, such as --bundle one=PATH"
            )
        self.entries = tuple(entries)

    def find(self, name: str | None, param: str = "bundle") -> Entry:
        """Return a bundle by its name; None is the first. Raises Refused, which lists the names.

        ``param`` is the field that named it.
        """
        for entry in self.entries:
            if name is None or entry.name == name:
                return entry
        there = ", ".join(entry.name for entry in self.entries)
        raise Refused(404, "model_not_found", f"{param} {name!r:.80}: this server has {there}", param=param)

    @property
    def ready(self) -> bool:
        """Whether all are ready to draw."""
        return all(entry.generator is not None for entry in self.entries)

    def load(self, load: Callable[[Bundle], Generator]) -> None:
        """Make all ready, one after the other; those that are ready already change together, at the end.

        Raises what ``load`` raises; what was ready is then as it was.
        """
        better: dict[Entry, Generator] = {}
        for entry in self.entries:
            generator = load(entry.bundle)
            # Opened now: what is damaged shows before anybody asks, and the first who asks does not wait.
            for role in generator.manifest.components:
                generator.session(role)
            if generator.manifest.family != "autoregressive":  # which has no steps to leave out
                generator.warm_up(steps=1)
            if entry.generator is None:
                entry.generator = generator
            else:
                better[entry] = generator
        for entry, generator in better.items():
            entry.generator = generator


def opened(named: Sequence[str]) -> Shelf:
    """Open the bundles ``NAME=PATH`` or ``PATH`` of a command line; none is the embedded one.

    Raises BundleError and UsageError.
    """
    entries: list[Entry] = []
    for text in named or ("",):
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            name, path = "", text
        bundle = open_bundle(path or None)
        entries.append(Entry(name or bundle.manifest.name, bundle))
    return Shelf(entries)
