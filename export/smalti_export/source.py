"""The models to export: an autoencoder, the prior over its tokens, and the origin of both."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from smalti.backends.onnxruntime_cpu import runtime_version
from smalti.bundle import manifest
from smalti.bundle.manifest import Family, Resolution, decoder_role
from smalti.errors import UsageError
from smalti_export.embedding import Embedding, SeeingEncoder, fitted
from smalti_train.data import ImageSet
from smalti_train.models.autoregressive_transformer import Net2NetTransformerConfig
from smalti_train.models.edge_autoencoder import EdgeAutoencoder, EdgeAutoencoderConfig
from smalti_train.models.pixels import PixelCodes, PixelCodesConfig
from smalti_train.models.preview_decoder import PreviewDecoder
from smalti_train.models.size_heads import SCALES, SizedAutoencoder
from smalti_train.models.vqgan import VQGANConfig
from smalti_train.runs.bundle_weights import folded
from smalti_train.runs.config import (
    AutoencoderRun,
    CodecRun,
    HeadsRun,
    Imported,
    PixelRun,
    PriorRun,
    family_name,
)
from smalti_train.runs.config_files import read_run
from smalti_train.runs.loading import (
    Autoencoder,
    Prior,
    load_autoencoder,
    load_heads,
    load_preview,
    load_prior,
    trained_steps,
)

OWN_LICENCE = "Apache-2.0"
"""Licence of weights that were trained here."""


@dataclass(frozen=True)
class Pair:
    """A trained or imported autoencoder and the prior over its tokens."""

    autoencoder: Autoencoder
    autoencoder_run: CodecRun
    prior: Prior
    prior_run: PriorRun
    steps: tuple[int, int]
    """Training steps of the autoencoder and the prior. Pixels as tokens have none."""
    heads: SizedAutoencoder | None = None
    """The autoencoder with heads for larger pictures, if there are such."""
    embedding: Embedding | None = None
    """What the encoder's features say of a picture, once it is fitted; None: their plain mean."""
    preview: PreviewDecoder | None = None
    """Preview decoder distilled from the autoencoder's decoder, if there is one."""
    preview_steps: int = 0
    """Training steps of the preview decoder."""
    codebook: Tensor | None = None
    """Codes float [K, D] as a bundle holds them, whose weights are exported again; None: those of the autoencoder."""

    @property
    def family(self) -> Family:
        """How the prior draws."""
        return family_name(self.prior_run.model)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens of an image. Raises UsageError when the prior does not say."""
        grid = self.prior_run.model.grid
        if grid is None:
            raise UsageError(
                "this prior does not say how many rows and columns of tokens an image has: import it again with "
                '"grid": [rows, columns] in its configuration'
            )
        return grid

    @property
    def halo(self) -> int | None:
        """How many tokens away a pixel's value can come from; None when it depends on all tokens."""
        return self.autoencoder.config.halo if isinstance(self.autoencoder, EdgeAutoencoder | PixelCodes) else None

    @property
    def encoder_halo(self) -> int | None:
        """How many tokens away a pixel can be that a token depends on; None when it depends on all pixels."""
        if isinstance(self.autoencoder, EdgeAutoencoder | PixelCodes):
            return self.autoencoder.config.encoder_halo
        return None

    @property
    def resolutions(self) -> tuple[Resolution, ...]:
        """Sizes of pictures that the tokens decode to, rising."""
        factor, longer = self.autoencoder.config.factor, max(self.grid)
        found = [Resolution(pixels=longer * factor, factor=factor, decoder="decoder", halo=self.halo)]
        for scale in SCALES[1:] if self.heads is not None else ():
            assert self.heads is not None
            pixels, halo = longer * factor * scale, self.heads.config.halo(scale)
            role = decoder_role(pixels)
            found.append(Resolution(pixels=pixels, factor=factor * scale, decoder=role, halo=halo))
        return tuple(found)

    @property
    def features(self) -> int:
        """Dimensions of an embedding; of a plain mean, the channels of the encoder's last features."""
        if self.embedding is not None:
            return self.embedding.projection.shape[0]
        match self.autoencoder.config:
            case EdgeAutoencoderConfig() as config:
                return config.channels[-1]
            case VQGANConfig() as config:
                return config.z_channels or config.code_dim
            case PixelCodesConfig():
                raise UsageError("pixels are tokens already: nothing sees them, and there are no features")

    @property
    def licence(self) -> str:
        """Licences of the weights; each imported part has its own."""
        origins = [_origin(run) for run in (self.prior_run, self.autoencoder_run)]
        return "; ".join(dict.fromkeys(origin.licence if origin else OWN_LICENCE for origin in origins))


def load_pair(run: Path, decoder_from: Path | None = None, preview_from: Path | None = None) -> Pair:
    """Load a prior's run with its copy of the autoencoder, or with the autoencoder of ``decoder_from``.

    ``decoder_from`` is a run that trained the decoder further and left the tokens as they were, or one of heads for
    larger pictures. ``preview_from`` is the run of a preview decoder.

    Raises UsageError when a run is missing, when the runs do not fit each other, when ``decoder_from`` or
    ``preview_from`` has other tokens than the prior, or when a bundle cannot hold the prior.
    """
    prior, prior_run = load_prior(run)
    heads: SizedAutoencoder | None = None
    autoencoder, autoencoder_run = load_autoencoder(run / "autoencoder")
    if decoder_from is not None:
        other, autoencoder_run = load_autoencoder(decoder_from)
        if part := _differs(autoencoder, other, ("encoder", "quantizer", "quantize", "quant_conv")):
            raise UsageError(
                f"{decoder_from} has another {part} than the prior of {run} was trained with, so its tokens mean "
                "something else. Train the decoder alone: smalti train autoencoder --decoder-only --init "
                f"{run / 'autoencoder'}"
            )
        autoencoder = other
        if isinstance(read_run(decoder_from / "config.json"), HeadsRun):
            heads, _ = load_heads(decoder_from)
            autoencoder = heads.autoencoder
    preview, preview_steps = None, 0
    if preview_from is not None:
        preview, preview_steps = load_preview(preview_from)[0], trained_steps(preview_from) or 0
        if part := _differs(autoencoder, load_autoencoder(preview_from / "autoencoder")[0]):
            raise UsageError(
                f"{preview_from} shows what an autoencoder with another {part} makes of tokens. Distil one from that "
                f"which is exported: smalti train preview --autoencoder {decoder_from or run / 'autoencoder'}"
            )
    codes = autoencoder.config.codes
    if prior_run.model.codes != codes:
        raise UsageError(
            f"the prior of {run} predicts {prior_run.model.codes} codes and its autoencoder has {codes}: "
            "they were not made for each other"
        )
    if isinstance(prior_run.model, Net2NetTransformerConfig) and prior_run.model.unmasked > 1:
        raise UsageError(
            f"the prior of {run} starts from the {prior_run.model.unmasked} tokens of another image; a bundle's start "
            "from a class or from nothing"
        )
    planned = 0 if isinstance(autoencoder_run, PixelRun) else autoencoder_run.loop.steps  # in a copy: steps made
    steps = (trained_steps(decoder_from or run / "autoencoder") or planned, trained_steps(run) or 0)
    return Pair(autoencoder, autoencoder_run, prior, prior_run, steps, heads, None, preview, preview_steps)


def _differs(ours: Autoencoder, theirs: Autoencoder, parts: tuple[str, ...] = ("",)) -> str:
    """Name of the first differing part of two autoencoders; empty when they agree.

    Only tensors whose names begin with one of ``parts`` are compared. Raises UsageError when ``ours`` are pixels.
    """
    if isinstance(ours, PixelCodes):
        raise UsageError("this prior draws pixels, which need no decoder; leave --decoder-from and --preview-from out")
    states = (model.state_dict() for model in (ours, theirs))
    mine, other = ({name: state[name] for name in state if name.startswith(parts)} for state in states)
    wrong = [name for name in mine.keys() | other.keys() if name not in mine or name not in other]
    wrong = wrong or [name for name in mine if not torch.equal(mine[name], other[name])]
    return min(wrong).split(".")[0] if wrong else ""


def released(pair: Pair) -> tuple[Autoencoder | SizedAutoencoder, dict[str, Tensor]]:
    """Copy a pair's autoencoder, with its heads if it has some, for export.

    Returns it and, by name, the tensors that training needs and graphs do not. An edge autoencoder's norms are folded
    into its convolutions. A VQGAN's norms depend on the image and stay.
    """
    if pair.heads is not None:
        sized, hidden = folded(pair.heads)
        _keep_codes(sized.autoencoder, pair)
        return sized, hidden
    if isinstance(pair.autoencoder, EdgeAutoencoder):
        own, hidden = folded(pair.autoencoder)
        _keep_codes(own, pair)
        return own, hidden
    model = copy.deepcopy(pair.autoencoder).eval()
    head = {name: value.half() for name, value in model.state_dict().items() if name.startswith("decoder.logsigma.")}
    return model, head


def _keep_codes(model: EdgeAutoencoder, pair: Pair) -> None:
    """Let the codes be those of the bundle: rounded, they have not quite one length; scaled, they would be others."""
    if pair.codebook is not None:
        with torch.no_grad():
            model.quantizer.codebook.copy_(pair.codebook)


def with_embedding(pair: Pair, images: ImageSet) -> Pair:
    """A pair whose encoder's embedding is fitted to ``images``; a pair of other than our own autoencoders is kept."""
    if not isinstance(pair.autoencoder, EdgeAutoencoder):
        return pair
    height, width = (side * pair.autoencoder.config.factor for side in pair.grid)
    return dataclasses.replace(pair, embedding=fitted(pair.autoencoder, images.images[:, :height, :width]))


def seeing(pair: Pair, codec: Autoencoder | SizedAutoencoder) -> Autoencoder | SizedAutoencoder | SeeingEncoder:
    """What a pair's encoder is traced from: its released autoencoder ``codec``, with the embedding if it is fitted."""
    inner = codec.autoencoder if isinstance(codec, SizedAutoencoder) else codec
    if pair.embedding is None or not isinstance(inner, EdgeAutoencoder):
        return codec
    return SeeingEncoder(inner, copy.deepcopy(pair.embedding))


def data_licences(pair: Pair, images: ImageSet) -> tuple[manifest.LicenceRecord, ...]:
    """Licences of the training images; empty when the prior was imported."""
    if pair.prior_run.imported is not None:
        return ()
    fields = manifest.LicenceRecord.__struct_fields__
    return tuple(
        manifest.LicenceRecord(**{name: getattr(licence, name) for name in fields}) for licence in images.licences
    )


def class_names(pair: Pair, images: ImageSet) -> tuple[str, ...]:
    """Names of the prior's classes; empty when it has none."""
    if not pair.prior_run.model.classes:
        return ()
    return images.label_names if pair.prior_run.imported is None else pair.prior_run.imported.classes


def canvases(pair: Pair, images: ImageSet) -> dict[str, manifest.Canvases]:
    """Which canvases suit the pictures of each class, as far as the images tell."""
    names = class_names(pair, images)
    return {name: images.canvases[name] for name in names if name in images.canvases}


def provenance(pair: Pair) -> manifest.Provenance:
    """Data, training steps and source files of the weights, and the versions of the packages that exported them."""
    data, imported = pair.prior_run.data, pair.prior_run.imported
    packages = ("smalti", "torch", "onnx", "onnxscript")
    runtime, version = runtime_version().split(" ", 1)
    return manifest.Provenance(
        data=f"{data.name}, {data.size}x{data.size} pixels, train split, seed {data.seed}"
        if imported is None
        else f"that of {imported.source}; figures were measured on {data.name}, {data.size}x{data.size} pixels",
        training={
            "preset": pair.prior_run.preset,
            **_history(pair.autoencoder_run, "autoencoder", pair.steps[0]),
            **_history(pair.prior_run, "prior", pair.steps[1]),
            **({"preview_steps": pair.preview_steps} if pair.preview is not None else {}),
        },
        versions={package: metadata.version(package) for package in packages} | {runtime: version},
    )


def _history(run: CodecRun | PriorRun, part: str, steps: int) -> dict[str, str | int]:
    if (origin := _origin(run)) is not None:
        return {f"{part}_source": origin.source, f"{part}_file": origin.file, f"{part}_sha256": origin.sha256}
    if isinstance(run, PixelRun):
        return {}
    figures: dict[str, str | int] = {f"{part}_steps": steps, f"{part}_batch": run.loop.batch}
    return {**figures, "prior_objective": run.objective} if isinstance(run, PriorRun) else figures


def _origin(run: CodecRun | PriorRun) -> Imported | None:
    return None if isinstance(run, AutoencoderRun | PixelRun) else run.imported
