"""``manifest.json``: what a bundle is, its files, and the figures measured at its export.

Records are typed and validated on reading; an error names the field that does not fit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Literal

import msgspec

from smalti.errors import BundleError

SCHEMA_VERSION = 1
"""Increased when a reader of the old layout would misread the new one."""

Precision = Literal["fp32", "fp16", "int8"]
Role = Literal["denoiser", "predictor", "decoder", "encoder", "preview"]
"""``preview`` roughly shows what the decoder would make, also of unfinished grids. Bundles may lack the last two."""
Family = Literal["absorbing", "autoregressive", "sundae", "multinomial"]
PRIOR_ROLES: dict[Family, Role] = {
    "absorbing": "denoiser",
    "autoregressive": "predictor",
    "sundae": "denoiser",
    "multinomial": "denoiser",
}
"""The component that draws the tokens of each family: many at a time, or one after the other."""
CODECS: set[Role] = {"encoder", "decoder", "preview"}
"""Components that are parts of an autoencoder."""
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

    def files(self) -> tuple[FileRecord, ...]:
        """All files of the bundle except the manifest."""
        graphs = (variant.graph for component in self.components.values() for variant in component.variants)
        return (*graphs, *self.weights, *((self.golden,) if self.golden else ()))


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


def encode(manifest: Manifest) -> bytes:
    """Encode as readable JSON; equal manifests give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=2) + b"\n"


def decode(raw: bytes, where: str) -> Manifest:
    """Read and check a manifest. Raises BundleError with the reason and ``where``."""
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
"""Advice for a bundle that was changed or damaged."""
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Errors of msgspec for bytes that are not the expected JSON, or are nested too deeply."""


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
        if record.file.casefold() in seen:  # some file systems ignore case
            raise BundleError(f"{where}: manifest.json names {record.file!r} twice; every file is listed once")
        seen.add(record.file.casefold())
    for role, component in manifest.components.items():
        for variant in component.variants:
            if missing := set(variant.weights) - names:
                raise BundleError(f"{where}: {role} {variant.precision} reads {sorted(missing)}, not among the weights")
        if "fp32" not in {variant.precision for variant in component.variants}:
            raise BundleError(f"{where}: {role} has no variant in fp32, which every component has. {AGAIN}")
    prior = PRIOR_ROLES[manifest.family]
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
    """Raise BundleError unless the autoencoder's components have ``latent.factor`` pixels per token."""
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
    """Raise BundleError for a variant without a measure that shows it to be within tolerance."""
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
    """Whether a bundle may declare this file name: it means the same on every system and in every shell.

    Parts between slashes consist of ASCII letters, digits and ``._-``, and begin with a letter, a digit or ``_``.
    """
    return (
        len(file) <= 200
        and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*", file) is not None
    )


def is_inside(file: str) -> bool:
    """Whether a name stays inside the bundle on every system: no ``..``, no drive, only printable characters."""
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
