"""The interface of a family of priors: it knows its options, checks them, and lays out runs.

Everything that draws asks a family: the runtime, the sample sheets of training, evaluation, the parity of exports. Only
:mod:`smalti.families.registry` chooses among families.
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
from smalti.backends.device.plan import Program
from smalti.bundle.manifest import Family as FamilyName
from smalti.bundle.manifest import Manifest, Role, SamplerDefaults
from smalti.errors import UsageError
from smalti.families.absorbing.sampler import Logits, Sample
from smalti.families.autoregressive.sampler import NextLogits

Int32 = NDArray[np.int32]
Asked: TypeAlias = Mapping[str, Any]
"""Options that a caller gave, by name. None is left out."""
Timed: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]
"""A function that wraps a network so that its calls are counted."""


class Prior(Protocol):
    """A model that families ask: a loaded bundle, a torch model, or a table in a test."""

    def logits(self, tokens: Int32, labels: Int32, rows: Int32, *, time: int | None = None) -> Logits:
        """Return logits [N, R, K] at raster positions ``rows`` int32 [N, R] of grids ``tokens`` int32 [N, h*w].

        ``labels`` is int32 [N]. ``time`` says how noisy the grids are, for priors that take noise away. Every family
        but the autoregressive one calls this.
        """
        ...

    def next_logits(self) -> NextLogits:
        """Return a new function that reads tokens and predicts the next one. The autoregressive family calls this."""
        ...


COMMON_OPTIONS = ("temperature", "top_k", "top_p", "guidance", "resolution", "size")
"""Options that every family has. A recipe holds them beside the family's own."""


@dataclass(frozen=True)
class Settings:
    """Everything besides the bundle that decides which tokens are drawn. Each field holds the value in use."""

    seeds: tuple[int, ...]
    labels: tuple[str | None, ...]
    temperature: Annotated[float, msgspec.Meta(description="0.01 to 100; lower is tamer.")]
    """Where it changes from step to step, the first step's."""
    top_k: Annotated[int, msgspec.Meta(description="Draw from the k likeliest tokens; 0: from all.")]
    top_p: Annotated[float, msgspec.Meta(description="Draw from the likeliest tokens of this share; 1: from all.")]
    guidance: Annotated[float, msgspec.Meta(description="0 to 100, pull towards the label; 1: none.")]
    resolution: Annotated[int, msgspec.Meta(description="Pixels per side of the bundle's own grid, such as 1024.")]
    """One of :attr:`smalti.Manifest.all_resolutions`."""
    size: Annotated[tuple[int, int], msgspec.Meta(description="Pixels, such as 512x256; the bundle's own by default.")]
    """Width and height, at that resolution."""
    own: msgspec.Struct
    """The family's own settings, such as :class:`smalti.families.absorbing.family.AbsorbingSettings`."""

    @property
    def options(self) -> dict[str, Any]:
        """The options that ask for these settings again, without seeds and labels."""
        common = {name: getattr(self, name) for name in COMMON_OPTIONS}
        return common | msgspec.structs.asdict(self.own)

    def value(self, name: str) -> Any:
        """Return the family's own setting ``name``; None when the family has no such setting."""
        return getattr(self.own, name, None)


@dataclass(frozen=True)
class Run:
    """A run that is laid out. It draws nothing until :meth:`draw` gives it a prior."""

    calls: int
    """Number of grids that :meth:`draw` yields: one per network call, or one per step in families that draw tokens
    again and again. A SUNDAE run may yield fewer, because it ends when all its samples are frozen."""
    table: object
    """Plan of every call, computed ahead; None where the network's answers decide."""
    begin: Callable[[Prior, Timed, Sample], Iterator[Int32]]
    program: Callable[[], Program] | None = None
    """Lays out the run for a device, which follows it once; None where only the host can draw."""

    def draw(
        self, prior: Prior, timed: Timed = lambda network: network, sample: Sample = smalti_kernels.sample
    ) -> Iterator[Int32]:
        """Draw with ``prior``, and yield grids int32 [N, h, w] after each call; K stands where a token is to be drawn.

        ``timed`` wraps the network, so that its calls can be counted; a call on a canvas covers all its windows.
        ``sample`` draws tokens from logits.
        """
        return self.begin(prior, timed, sample)


class Family(ABC):
    """One way of drawing tokens."""

    name: ClassVar[FamilyName]
    role: ClassVar[Role]
    """The component of a bundle that this family asks."""
    way: ClassVar[str]
    """How it draws, in words that continue a sentence which begins with "this prior"."""
    settings: ClassVar[type[msgspec.Struct]]
    """The family's own settings. Each field is an option of the API, a flag of the command line and an entry of the
    recipe in a PNG. The field's description is the help of that flag."""
    defaults: ClassVar[SamplerDefaults]
    """Defaults of a bundle for which nobody chose others."""
    masks: ClassVar[bool] = False
    """Whether the prior knows a mask. Without one, unknown tokens start as random tokens."""

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the family's own options."""
        return self.settings.__struct_fields__

    @abstractmethod
    def settle(self, asked: Asked, temperature: float, canvas: tuple[int, int], manifest: Manifest) -> msgspec.Struct:
        """Check the options in ``asked``, fill in the bundle's defaults, and return the family's settings.

        ``temperature`` is already settled; ``canvas`` is its rows and columns of tokens. Raises UsageError, which says
        what is allowed.
        """

    @abstractmethod
    def lay_out(self, start: Int32, settings: Settings, manifest: Manifest) -> Run:
        """Lay out a run that draws the masked tokens of ``start`` (int32 [N, h, w]; K is the mask) and keeps the rest.

        ``settings`` were resolved for ``manifest``. The run reads the manifest's grid, number of codes, classes and
        noise. Raises UsageError for settings of another family.
        """

    def check_defaults(self, chosen: SamplerDefaults) -> None:  # noqa: B027 - most families have nothing to check
        """Raise UsageError for defaults that do not go together."""

    def refuse_foreign(self, asked: Asked, known: tuple[str, ...], who: str) -> None:
        """Raise UsageError when ``asked`` holds an option that only other families have, of all ``known`` options.

        ``who`` is the subject of the message, such as "this prior".
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
    """Return ``run`` with its grids cut to the slices ``inside``, for a run on a canvas larger than wanted."""

    def begin(prior: Prior, timed: Timed, sample: Sample) -> Iterator[Int32]:
        return (grids[inside] for grids in run.draw(prior, timed, sample))

    def program() -> Program:
        assert run.program is not None
        return replace(run.program(), inside=inside)

    return replace(run, begin=begin, program=program if run.program else None)
