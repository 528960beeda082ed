"""``manifest.json``: what a bundle is, which files it has, and what was measured when it was made.

Typed, validated where it is read, and refused with the field's name when it does not fit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Literal

import msgspec

from smalti.errors import BundleError

SCHEMA_VERSION = 1
"""Raised when a reader of the old layout would misread the new one."""

Precision = Literal["fp32", "fp16", "int8"]
Role = Literal["denoiser", "predictor", "decoder", "encoder", "preview"]
"""``preview`` shows roughly what the decoder would make, of unfinished grids too. Bundles may lack the last two."""
Family = Literal["absorbing", "autoregressive", "sundae", "multinomial"]
PRIORS: dict[Family, Role] = {
    "absorbing": "denoiser",
    "autoregressive": "predictor",
    "sundae": "denoiser",
    "multinomial": "denoiser",
}
"""The component that draws the tokens, by how they are drawn: many at a time, or one after the other."""
CODECS: set[Role] = {"encoder", "decoder", "preview"}
"""Components that are made of an autoencoder."""
NoiseKind = Literal["released", "printed"]
"""Cosine schedules of multinomial diffusion: see :func:`smalti.families.multinomial.sampler.cosine_alphas`."""
LARGEST_FILE = 2**34
"""Bytes. A graph has at most 2^31, and weights are not much more than one graph's."""
Count = Annotated[int, msgspec.Meta(ge=1, le=2**20)]
Side = Annotated[int, msgspec.Meta(ge=1, le=2**12)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Temperature = Annotated[float, msgspec.Meta(ge=0.01, le=100)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$", max_length=64)]


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records: read-only, named fields only, and nothing unknown."""


class FileRecord(_Record, frozen=True, kw_only=True):
    """A file of the bundle and what its bytes must be."""

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
    """A part of the model: same inputs and outputs in every precision."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    variants: tuple[Variant, ...]


class Latent(_Record, frozen=True, kw_only=True):
    """The token grid between autoencoder and prior."""

    grid: tuple[Side, Side]
    """Rows and columns the prior was trained on."""
    codes: Count
    """K: tokens are 0 .. K - 1; K itself is the mask, or what a predictor reads before the first token. A prior of the
    families sundae and multinomial knows no other token."""
    factor: Side
    """Pixels per token along each axis."""
    halo: Annotated[int, msgspec.Meta(ge=0, le=2**12)] | None
    """Tokens around a tile that its decoded pixels can depend on; None: on the whole canvas (norms or attention that
    span the image), which is then decoded in one piece."""
    pixels: Literal["grey"] | None = None
    """"grey": a token is the grey level of one pixel (:mod:`smalti.codec.grey`), and the bundle has neither decoder nor
    encoder; None: those two components stand between tokens and pixels."""
    preview_halo: Annotated[int, msgspec.Meta(ge=0, le=2**12)] | None = None
    """The halo of the component ``preview``; None where there is none."""


class Noise(_Record, frozen=True, kw_only=True):
    """What a prior of the family multinomial takes away, by which its graph's input ``times`` counts."""

    steps: Count
    """T: times are 0 (the least noise) .. T - 1; no run has more steps."""
    schedule: NoiseKind


class SamplerDefaults(_Record, frozen=True, kw_only=True):
    """How samples are drawn unless the caller says otherwise."""

    steps: Annotated[int, msgspec.Meta(ge=1, le=10**6)]
    """Of bundles that draw many tokens at a time; schedule, order, choice_temperature and remask are of absorbing ones
    only, and final_temperature, proportion and min_steps of those of the family sundae."""
    temperature: Temperature
    """Of the first step, where it changes."""
    guidance: Annotated[float, msgspec.Meta(ge=0, le=100)] = 1.0
    schedule: Literal["exact", "cosine", "binomial"] = "exact"
    order: Literal["random", "halton", "confidence"] = "random"
    choice_temperature: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 4.5
    """Read with order "confidence"; 4.5 as published."""
    remask: Annotated[float, msgspec.Meta(ge=0, le=1)] | Literal["mlm"] = 0.0
    """0: nothing that was drawn is masked again."""
    top_k: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    """0: from all tokens."""
    top_p: Share = 1.0
    """1: from all tokens."""
    final_temperature: Temperature = 0.7
    """Of the last step."""
    proportion: tuple[Share, Share] = (0.5, 0.5)
    """Chance of each token to be drawn anew, at the first step and at the last."""
    min_steps: Annotated[int, msgspec.Meta(ge=0, le=2**20)] = 10
    """Steps before the first at which an unchanged sample is frozen."""


class LicenceRecord(_Record, frozen=True, kw_only=True):
    """Terms of a part of the training data."""

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
    """What one variant was measured to be, against the torch model in fp32."""

    component: Role
    precision: Precision
    provider: str
    figures: dict[str, float]
    """Such as ``logit_error``, ``draw_agreement``, ``grid_agreement``, ``psnr`` (dB), ``token_agreement``; of an fp16
    graph also ``rounded_psnr`` and the like, of when every tensor is rounded to fp16, as a GPU does."""
    tolerances: dict[str, float]
    """The bound of each gated figure: an upper one for errors, a lower one for agreements and PSNR."""


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
    """Of bundles of the family multinomial, and of no others."""
    golden: FileRecord | None = None
    """Inputs, and what the torch model made of them (:mod:`smalti.verification.golden`); a bundle may have none."""

    def files(self) -> tuple[FileRecord, ...]:
        """Every file the bundle has besides the manifest."""
        graphs = (variant.graph for component in self.components.values() for variant in component.variants)
        return (*graphs, *self.weights, *((self.golden,) if self.golden else ()))


ROUNDED = "rounded_"
"""Begins the names of figures of an fp16 graph as a GPU computes it; a CPU keeps most of its tensors in fp32."""


def allowed(name: str, bound: float) -> str:
    """The bound of a figure in words: an upper one for ``*_error``, a lower one for the others."""
    return f"at {'most' if name.endswith('_error') else 'least'} {bound:g}"


def missed(figures: Mapping[str, float], tolerances: Mapping[str, float]) -> list[str]:
    """List the figures out of tolerance, as text; one that is not a number always is, one that is not there never.

    Bounds are upper ones for ``*_error``, lower ones for the others.
    """
    lines: list[str] = []
    for name, bound in tolerances.items():
        value = figures.get(name)
        if value is None:
            continue
        if not (value <= bound if name.endswith("_error") else value >= bound):
            lines.append(f"{name} is {value:.4g}, allowed is {allowed(name, bound)}")
    return lines


def encode(manifest: Manifest) -> bytes:
    """Readable JSON, the same bytes for the same manifest."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=2) + b"\n"


def decode(raw: bytes, where: str) -> Manifest:
    """Read and check a manifest; BundleError says what is wrong with it and ``where``."""
    try:
        version = msgspec.json.decode(raw, type=_Version).schema_version
    except _UNREADABLE as error:
        raise BundleError(f"{where}: manifest.json cannot be read: {error}. {AGAIN}") from None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{where}: manifest.json has schema version {version}, and this smalti reads {SCHEMA_VERSION}. "
            + ("Update smalti." if version > SCHEMA_VERSION else "Export the bundle again.")
        )
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except _UNREADABLE as error:
        raise BundleError(f"{where}: manifest.json does not fit: {error}. {AGAIN}") from None
    _check(manifest, where)
    return manifest


AGAIN = "Get the bundle again, or export it again"
"""What to do about a bundle that is not what it was."""
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not the JSON expected, or are nested without end."""


class _Version(msgspec.Struct):
    schema_version: int


def _check(manifest: Manifest, where: str) -> None:
    names = {record.file for record in manifest.weights}
    seen = {"manifest.json"}
    for record in manifest.files():
        if not is_plain(record.file):
            raise BundleError(
                f"{where}: manifest.json names {record.file!r}, which is not a file inside the bundle, of letters, "
                "digits and ._-"
            )
        if record.file.casefold() in seen:  # which some file systems take for the same
            raise BundleError(f"{where}: manifest.json names {record.file!r} twice; every file is listed once")
        seen.add(record.file.casefold())
    for role, component in manifest.components.items():
        for variant in component.variants:
            if missing := set(variant.weights) - names:
                raise BundleError(f"{where}: {role} {variant.precision} reads {sorted(missing)}, not among the weights")
        if "fp32" not in {variant.precision for variant in component.variants}:
            raise BundleError(f"{where}: {role} has no variant in fp32, which every component has. {AGAIN}")
    prior = PRIORS[manifest.family]
    needed: list[Role] = [prior] if manifest.latent.pixels else [prior, "decoder"]
    if missing := set(needed) - set(manifest.components):
        raise BundleError(
            f"{where}: the bundle has no {' and no '.join(sorted(missing))}; one of the family {manifest.family} has "
            f"a {' and a '.join(needed)}"
        )
    if (manifest.noise is None) == (manifest.family == "multinomial"):
        raise BundleError(
            f"{where}: noise says how much there is at each time in bundles of the family multinomial, which must have "
            f"it, and in no others; this one's family is {manifest.family}"
        )
    if manifest.latent.pixels:
        _check_grey(manifest, where)
    _check_sizes(manifest, where)
    _check_certificate(manifest, where)


def _check_sizes(manifest: Manifest, where: str) -> None:
    """Raise BundleError unless an autoencoder's parts are for as many pixels per token as ``latent`` says."""
    factor = manifest.latent.factor
    shapes = {"tokens": ("n", "h", "w"), "images": ("n", f"{factor}*h", f"{factor}*w", 3)}
    for role, component in manifest.components.items():
        for spec in (*component.inputs, *component.outputs) if role in CODECS else ():
            if (shape := shapes.get(spec.name, spec.shape)) != spec.shape:
                raise BundleError(
                    f"{where}: {spec.name} of the {role} are {list(spec.shape)}, and with latent.factor {factor} they "
                    f"would be {list(shape)}. {AGAIN}"
                )


def _check_certificate(manifest: Manifest, where: str) -> None:
    """Raise BundleError for a variant that no measure says to be within tolerance."""
    good = {
        (measure.component, measure.precision)
        for measure in manifest.certificate
        if measure.tolerances
        and measure.tolerances.keys() <= measure.figures.keys()
        and not missed(measure.figures, measure.tolerances)
    }
    for role, component in manifest.components.items():
        for variant in component.variants:
            if (role, variant.precision) not in good:
                raise BundleError(
                    f"{where}: the certificate does not say that {role} {variant.precision} is within tolerance. "
                    + AGAIN
                )


def is_plain(file: str) -> bool:
    """Whether a name is one that a bundle may declare: it means the same on every system and in every shell.

    Parts between slashes are of ASCII letters, digits and ``._-``, and begin with a letter, a digit or ``_``.
    """
    return (
        len(file) <= 200
        and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*", file) is not None
    )


def is_inside(file: str) -> bool:
    """Whether a name is that of a file inside the bundle, on every system: no ``..``, no drive, nothing unprintable."""
    path = PurePosixPath(file)
    odd = any(char in file for char in "\\:") or not file.isprintable()
    return bool(path.parts) and not (path.is_absolute() or ".." in path.parts or odd or len(file) > 200)


def _check_grey(manifest: Manifest, where: str) -> None:
    """Raise BundleError unless tokens can be the grey levels of pixels."""
    latent = manifest.latent
    if latent.factor != 1 or latent.halo != 0:
        raise BundleError(
            f"{where}: with latent.pixels grey a token is one pixel, so that latent.factor is 1 and latent.halo is 0; "
            f"here they are {latent.factor} and {latent.halo}"
        )
    if not 2 <= latent.codes <= 256:
        raise BundleError(f"{where}: latent.codes is {latent.codes}; with latent.pixels grey there are 2 .. 256 levels")
    if surplus := sorted({"decoder", "encoder", "preview"} & set(manifest.components)):
        raise BundleError(
            f"{where}: components has {' and '.join(surplus)}; with latent.pixels grey tokens are pixels already, and "
            "nothing stands in between"
        )
