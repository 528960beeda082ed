"""Records of ``manifest.json``: what a bundle is, its files, and the figures measured at its export.

:mod:`smalti.bundle.manifest_file` reads and writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Annotated, Literal

import msgspec

from smalti.errors import UsageError

SCHEMA_VERSION = 2
"""Increased when a reader of the old layout would misread the new one."""
Precision = Literal["fp32", "fp16", "int8"]
Role = Annotated[str, msgspec.Meta(pattern="^(denoiser|predictor|encoder|preview|decoder(_[1-9][0-9]{0,4})?)$")]
"""``decoder`` makes pictures of the first resolution, ``decoder_512`` those of 512 pixels, and so on. ``preview``
roughly shows what the decoder would make, also of unfinished grids. Bundles may lack encoder and preview."""
Family = Literal["absorbing", "autoregressive", "sundae", "multinomial"]
PRIOR_ROLES: dict[Family, Role] = {
    "absorbing": "denoiser",
    "autoregressive": "predictor",
    "sundae": "denoiser",
    "multinomial": "denoiser",
}
"""The component that draws the tokens of each family: many at a time, or one after the other."""
Canvases = Literal["own", "wide", "any"]
"""Canvases that suit a kind of picture: its own size alone, wider ones too, or any."""
AGAIN = "Get the bundle again, or export it again"
"""Advice for a bundle that was changed or damaged."""
NoiseKind = Literal["released", "printed"]
"""Cosine schedules of multinomial diffusion: see :func:`smalti.families.multinomial.sampler.cosine_alphas`."""
LARGEST_FILE = 2**34
"""Most bytes of a file. A graph has at most 2^31 bytes, and weights are not much larger."""
Count = Annotated[int, msgspec.Meta(ge=1, le=2**20)]
Side = Annotated[int, msgspec.Meta(ge=1, le=2**12)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Temperature = Annotated[float, msgspec.Meta(ge=0.01, le=100)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$", max_length=64)]


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records: read-only, named fields only, no unknown fields."""


class FileRecord(_Record, frozen=True, kw_only=True):
    """A file of the bundle: its name, size and hash."""

    file: str
    """Name relative to the bundle, with forward slashes, without ``..``."""
    sha256: Sha256
    bytes: Annotated[int, msgspec.Meta(ge=0, le=LARGEST_FILE)]


class Variant(_Record, frozen=True, kw_only=True):
    """One component in one precision: a graph and the weight files it refers to."""

    precision: Precision
    graph: FileRecord
    weights: tuple[str, ...] = ()
    """Names of the ``weights`` records that the graph reads as external data."""
    opset: Count


class TensorSpec(_Record, frozen=True, kw_only=True):
    """An input or output of a graph."""

    name: str
    dtype: Literal["uint8", "int32", "float32"]
    shape: tuple[str | Annotated[int, msgspec.Meta(ge=1, le=2**31)], ...]
    """Fixed sizes as numbers, free ones by name."""


class Component(_Record, frozen=True, kw_only=True):
    """A part of the model, with the same inputs and outputs in every precision."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    variants: tuple[Variant, ...]


class Latent(_Record, frozen=True, kw_only=True):
    """The token grid between autoencoder and prior."""

    grid: tuple[Side, Side]
    """Rows and columns that the prior was trained on."""
    codes: Count
    """K: tokens are 0 .. K - 1. K itself is the mask, or a predictor's input before the first token; the families
    sundae and multinomial do not use it."""
    factor: Side
    """Pixels per token along each axis."""
    halo: Annotated[int, msgspec.Meta(ge=0, le=2**12)] | None
    """How many tokens away a pixel's value can come from. None: from the whole canvas, because norms or attention span
    the image; such a canvas is decoded in one piece."""
    pixels: Literal["grey"] | None = None
    """"grey": a token is the grey level of one pixel (:mod:`smalti.codec.grey`), and the bundle has no decoder or
    encoder. None: those two components convert between tokens and pixels."""
    preview_halo: Annotated[int, msgspec.Meta(ge=0, le=2**12)] | None = None
    """The halo of the component ``preview``; None where there is none."""
    encoder_halo: Annotated[int, msgspec.Meta(ge=0, le=2**12)] | None = None
    """How many tokens away a pixel can be that a token depends on. None: anywhere in the image; such an image is
    encoded in one piece."""


class Resolution(_Record, frozen=True, kw_only=True):
    """One size of the pictures that the bundle's tokens decode to."""

    pixels: Annotated[int, msgspec.Meta(ge=1, le=2**16)]
    """Pixels along the longer side of a picture of ``latent.grid``; its name in calls."""
    factor: Annotated[int, msgspec.Meta(ge=1, le=2**12)]
    """Pixels per token along each axis."""
    decoder: Role
    """The component that makes these pictures."""
    halo: Annotated[int, msgspec.Meta(ge=0, le=2**12)] | None
    """As ``latent.halo``, of this decoder."""


class Noise(_Record, frozen=True, kw_only=True):
    """Noise of a prior of the family multinomial; the graph's input ``times`` counts its steps."""

    steps: Count
    """T: times are 0 (the least noise) .. T - 1; no run has more steps."""
    schedule: NoiseKind


class SamplerDefaults(_Record, frozen=True, kw_only=True):
    """Options of a draw that the caller leaves out."""

    steps: Annotated[int, msgspec.Meta(ge=1, le=10**6)]
    """Number of steps, in families that draw many tokens at a time. Only absorbing bundles read schedule, order,
    choice_temperature and remask. Only sundae bundles read final_temperature, proportion and min_steps."""
    temperature: Temperature
    """Temperature; where it changes from step to step, the first step's."""
    guidance: Annotated[float, msgspec.Meta(ge=0, le=100)] = 1.0
    schedule: Literal["exact", "cosine", "binomial"] = "exact"
    order: Literal["random", "halton", "confidence"] = "random"
    choice_temperature: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 4.5
    """Read with order "confidence"; 4.5 as published."""
    remask: Annotated[float, msgspec.Meta(ge=0, le=1)] | Literal["mlm"] = 0.0
    """0: drawn tokens are never masked again."""
    top_k: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    """0: draw from all tokens."""
    top_p: Share = 1.0
    """1: draw from all tokens."""
    final_temperature: Temperature = 0.7
    """Temperature of the last step."""
    proportion: tuple[Share, Share] = (0.5, 0.5)
    """Probability of each token to be redrawn, at the first step and at the last."""
    min_steps: Annotated[int, msgspec.Meta(ge=0, le=2**20)] = 10
    """Steps before an unchanged sample may be frozen."""


class LicenceRecord(_Record, frozen=True, kw_only=True):
    """Licence of a part of the training data."""

    name: str
    licence: str
    url: str
    creator: str = ""
    source: str = ""
    note: str = ""


class Provenance(_Record, frozen=True, kw_only=True):
    """Where the weights come from."""

    data: str
    """The data set, its size and split, in words."""
    training: dict[str, msgspec.Raw | str | int | float] = {}
    versions: dict[str, str] = {}


class Measure(_Record, frozen=True, kw_only=True):
    """Measurements of one variant, compared with the torch model in fp32."""

    component: Role
    precision: Precision
    provider: str
    figures: dict[str, float]
    """Such as ``logit_error``, ``draw_agreement``, ``grid_agreement``, ``psnr`` (dB), ``token_agreement``. An fp16
    graph also has ``rounded_psnr`` and the like, measured with every tensor rounded to fp16, as on a GPU."""
    tolerances: dict[str, float]
    """The bound of each gated figure: an upper bound for errors, a lower bound for agreements and PSNR."""


class Manifest(_Record, frozen=True, kw_only=True):
    """The whole of ``manifest.json``."""

    schema_version: int
    name: str
    family: Family
    licence: str
    """Licence of the weights."""
    data_licences: tuple[LicenceRecord, ...]
    provenance: Provenance
    latent: Latent
    classes: tuple[str, ...]
    """Label names; a sample may also have none."""
    sampler: SamplerDefaults
    components: dict[Role, Component]
    weights: tuple[FileRecord, ...]
    certificate: tuple[Measure, ...]
    noise: Noise | None = None
    """Noise of the family multinomial; None for other families."""
    golden: FileRecord | None = None
    """Inputs with the torch model's answers (:mod:`smalti.verification.golden`); a bundle may have none."""
    resolutions: tuple[Resolution, ...] = ()
    """Sizes of pictures, rising; empty in version 1. See :attr:`all_resolutions`."""
    canvases: dict[str, Canvases] = {}
    """Canvases that suit the pictures of each label, and of none under the name "". Those not named: any."""

    def files(self) -> tuple[FileRecord, ...]:
        """All files of the bundle except the manifest."""
        graphs = (variant.graph for component in self.components.values() for variant in component.variants)
        return (*graphs, *self.weights, *((self.golden,) if self.golden else ()))

    @property
    def all_resolutions(self) -> tuple[Resolution, ...]:
        """Sizes of pictures, rising. The first is the default, and the one that the encoder reads."""
        return self.resolutions or (own_resolution(self.latent),)

    def resolution(self, pixels: object = None) -> Resolution:
        """Return the resolution of so many ``pixels``; None gives the first. Raises UsageError where there is none."""
        wanted = int(pixels) if not isinstance(pixels, bool) and isinstance(pixels, Integral) else -1
        for found in self.all_resolutions:
            if pixels is None or found.pixels == wanted:
                return found
        there = ", ".join(str(found.pixels) for found in self.all_resolutions)
        raise UsageError(f"resolution {pixels!r:.80}: the pictures of bundle {self.name} have {there} pixels")

    def resolution_of(self, role: Role) -> Resolution:
        """Return the resolution of a decoder's pictures; the first for other components."""
        every = self.all_resolutions
        return next((found for found in every if found.decoder == role), every[0])


def own_resolution(latent: Latent) -> Resolution:
    """Return the size of pictures that ``latent`` tells: the first of a bundle's, or its only one."""
    return Resolution(
        pixels=max(latent.grid) * latent.factor, factor=latent.factor, decoder="decoder", halo=latent.halo
    )


def kind_of(role: Role) -> Role:
    """Return the kind of a component: a decoder of any size is a ``decoder``."""
    return role.split("_")[0]


def decoder_role(pixels: int) -> Role:
    """Return the component that makes pictures of a resolution which is not the first."""
    return f"decoder_{pixels}"


ROUNDED = "rounded_"
"""Prefix of figures of an fp16 graph as a GPU computes it; a CPU keeps most of its tensors in fp32."""


def allowed(name: str, bound: float) -> str:
    """Return the bound of a figure as text: an upper bound for ``*_error``, a lower bound for the others."""
    return f"at {'most' if name.endswith('_error') else 'least'} {bound:g}"


def missed(figures: Mapping[str, float], tolerances: Mapping[str, float]) -> list[str]:
    """Return the figures that are out of tolerance, as text. NaN always is; missing figures are skipped.

    Bounds are upper bounds for ``*_error`` and lower bounds for the others.
    """
    lines: list[str] = []
    for name, bound in tolerances.items():
        value = figures.get(name)
        if value is None:
            continue
        if not (value <= bound if name.endswith("_error") else value >= bound):
            lines.append(f"{name} is {value:.4g}, allowed is {allowed(name, bound)}")
    return lines
