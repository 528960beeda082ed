"""What a family of priors is: one object that knows its options, checks them, and lays out runs.

Everything that draws (the runtime, training's sample sheets, evaluation, the parity of exports) asks these objects, and
:mod:`smalti.families.registry` is the one place that chooses among them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Protocol, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

import smalti_kernels
from smalti.bundle.manifest import Family as FamilyName
from smalti.bundle.manifest import Manifest, Role, SamplerDefaults
from smalti.errors import UsageError
from smalti.families.absorbing.sampler import Logits, Sample
from smalti.families.autoregressive.sampler import NextLogits

Int32 = NDArray[np.int32]
Asked: TypeAlias = Mapping[str, Any]
"""What a caller gave, by the names of options; without those that are None."""
Timed: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Wraps a network so that its calls are counted."""


class Prior(Protocol):
    """A model that families ask: a loaded bundle, a torch model, or a table in a test."""

    def logits(self, tokens: Int32, labels: Int32, rows: Int32, *, time: int | None = None) -> Logits:
        """Return logits [N, R, K] at raster positions ``rows`` int32 [N, R] of grids ``tokens`` int32 [N, h*w].

        ``labels`` int32 [N]; ``time`` is how noisy the grids are, for priors that take noise away. Asked by every
        family but the autoregressive one.
        """
        ...

    def next_logits(self) -> NextLogits:
        """Return a new reader of tokens that predicts the one that follows. Asked by the autoregressive family."""
        ...


COMMON_OPTIONS = ("temperature", "top_k", "top_p", "guidance", "size")
"""Options of every family that a picture's recipe repeats beside the family's own."""


@dataclass(frozen=True)
class Settings:
    """Everything besides the bundle that decides which tokens are drawn; each field holds what was really used."""

    seeds: tuple[int, ...]
    labels: tuple[str | None, ...]
    temperature: Annotated[float, msgspec.Meta(description="0.01 to 100; lower is tamer.")]
    """Of the first step, where it changes."""
    top_k: Annotated[int, msgspec.Meta(description="Draw from the k likeliest tokens; 0: from all.")]
    top_p: Annotated[float, msgspec.Meta(description="Draw from the likeliest tokens of this share; 1: from all.")]
    guidance: Annotated[float, msgspec.Meta(description="0 to 100, pull towards the label; 1: none.")]
    size: Annotated[tuple[int, int], msgspec.Meta(description="Pixels, such as 512x256; the bundle's own by default.")]
    """Width and height."""
    own: msgspec.Struct
    """The family's own settings, such as :class:`smalti.families.absorbing.family.AbsorbingSettings`."""

    @property
    def options(self) -> dict[str, Any]:
        """The options of a draw that ask for these settings again; seeds and labels are fields of their own."""
        common = {name: getattr(self, name) for name in COMMON_OPTIONS}
        return common | msgspec.structs.asdict(self.own)

    def value(self, name: str) -> Any:
        """Return the family's own setting ``name``; None where the family has none of that name."""
        return getattr(self.own, name, None)


@dataclass(frozen=True)
class Run:
    """A run that is laid out: nothing is drawn before a prior is put under it."""

    calls: int
    """How many grids :meth:`draw` gives, one for each call of the network or, in families that draw tokens again and
    again, for each step. SUNDAE's may be fewer, as a run ends when all its samples are frozen."""
    table: object
    """What happens in each call, computed ahead; None where the network's answers decide it."""
    begin: Callable[[Prior, Timed, Sample], Iterator[Int32]]

    def draw(
        self, prior: Prior, timed: Timed = lambda network: network, sample: Sample = smalti_kernels.sample
    ) -> Iterator[Int32]:
        """Draw with ``prior``: gives grids int32 [N, h, w] after each call, K where a token is still to be drawn.

        ``timed`` wraps the network, over windows where the canvas has several, so that its calls can be counted.
        ``sample`` draws tokens from logits.
        """
        return self.begin(prior, timed, sample)


class Family(ABC):
    """One way of drawing tokens."""

    name: ClassVar[FamilyName]
    role: ClassVar[Role]
    """The component of a bundle that is asked."""
    way: ClassVar[str]
    """How it draws, in words that follow "this prior"."""
    settings: ClassVar[type[msgspec.Struct]]
    """Its own settings: each field is an option of the API, a flag of the command line and an entry of the recipe in a
    PNG, and its description is their help."""
    defaults: ClassVar[SamplerDefaults]
    """How bundles draw for which nobody chose."""
    masks: ClassVar[bool] = False
    """Whether the prior knows a mask; else unknown tokens are random ones."""

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the family's own options."""
        return self.settings.__struct_fields__

    @abstractmethod
    def settle(self, asked: Asked, temperature: float, size: tuple[int, int], manifest: Manifest) -> msgspec.Struct:
        """Return the family's settings: what was ``asked``, checked, else the bundle's defaults.

        ``temperature`` is the one settled on, ``size`` the canvas in pixels. Raises UsageError, saying what is
        allowed.
        """

    @abstractmethod
    def lay_out(self, start: Int32, settings: Settings, manifest: Manifest) -> Run:
        """Lay out a run that draws what is masked in ``start`` (int32 [N, h, w]; K is the mask) and keeps the rest.

        ``settings`` were resolved for ``manifest``, of which the grid, the number of codes, the classes and the noise
        are read. Raises UsageError for settings of another family.
        """

    def check_defaults(self, chosen: SamplerDefaults) -> None:  # noqa: B027 - most families have nothing to check
        """Raise UsageError for defaults that do not go together."""

    def refuse_foreign(self, asked: Asked, known: tuple[str, ...], who: str) -> None:
        """Raise UsageError for options among ``asked`` that are ``known`` to other families alone.

        ``who`` draws, as the message has it, such as "this prior".
        """
        if foreign := [name for name in known if name in asked and name not in self.options]:
            raise UsageError(
                f"{', '.join(foreign)}: {who} {self.way}, and knows no such choice; leave it out"
                + (f" (it has {', '.join(self.options)})" if self.options else "")
            )

    def own(self, settings: Settings) -> Any:
        """Return the family's own settings; UsageError for those of another family."""
        if not isinstance(settings.own, self.settings):
            of = getattr(settings.own, "of", "another family")
            raise UsageError(f"these settings are of {of}; resolve them for this bundle")
        return settings.own


def common_arguments(settings: Settings, manifest: Manifest, width: int) -> dict[str, Any]:
    """Return what every family tells its sampler by keyword, for a grid of ``width`` columns; not the temperature.

    ``labels`` int32 [N] are those of the samples as a prior knows them: an index, or how many there are for none.
    """
    classes = manifest.classes
    labels = [len(classes) if name is None else classes.index(name) for name in settings.labels]
    return {
        "seeds": settings.seeds,
        "labels": np.asarray(labels, np.int32),
        "width": width,
        "top_k": settings.top_k,
        "top_p": settings.top_p,
        "guidance": settings.guidance,
        "no_label": len(classes),
    }


def part_of(run: Run, inside: tuple[slice, ...]) -> Run:
    """Cut the grids of a run to what lies ``inside`` of a larger canvas."""

    def begin(prior: Prior, timed: Timed, sample: Sample) -> Iterator[Int32]:
        return (grids[inside] for grids in run.draw(prior, timed, sample))

    return replace(run, begin=begin)
