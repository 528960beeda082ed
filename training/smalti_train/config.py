"""Configuration of a run: plain dataclasses, read from and written to JSON.

A preset is data (see ``presets.py``). The resolved configuration is written beside every run, and a run continues only
under the configuration it was started with.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from smalti.errors import UsageError
from smalti_train.models.edge_autoencoder import EdgeAutoencoderConfig
from smalti_train.models.hourglass_prior import HourglassPriorConfig

Precision = Literal["fp32", "bf16", "fp16"]
Objective = Literal["reweighted", "elbo", "mlm"]


@dataclass(frozen=True)
class DataConfig:
    """Which images a run learns from; see ``smalti_train.data.open_dataset``."""

    name: str = "avatars"
    size: int = 256
    """Pixels per side."""
    train_count: int | None = None
    """Images to learn from; None leaves it to the data set."""
    validation_count: int | None = None
    root: str | None = None
    """Folder of the images, where the data set needs one."""
    seed: int = 0


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and a cosine fall to ``final_lr`` times the peak."""

    lr: float = 1e-3
    warmup: int = 200
    """Steps."""
    final_lr: float = 0.02
    """Fraction of ``lr`` left at the last step."""
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    """Largest norm of the whole gradient; longer ones are scaled down to it."""


@dataclass(frozen=True)
class LoopConfig:
    """What both trainings share."""

    steps: int = 3000
    batch: int = 16
    """Images per step over all processes together."""
    precision: Precision = "bf16"
    compile: bool = False
    """Let torch compile the model: tens of seconds at the start, for faster steps after."""
    seed: int = 0
    checkpoint_every: int = 200
    evaluate_every: int = 200
    sheet_every: int = 400


@dataclass(frozen=True)
class AutoencoderLossConfig:
    """Weights of the terms of the autoencoder's loss."""

    l1: float = 1.0
    mse: float = 2.0
    gradient: float = 0.5
    """L1 of the differences between neighbouring pixels: what makes flat shapes keep their edges."""
    perceptual: float = 0.0
    """Distance of EffNet-Lite0 features, see ``smalti_train.losses.PerceptualLoss``; 0 leaves the network out."""
    perceptual_crop: int = 128
    """Pixels per side of the random crop that the perceptual term sees: a quarter of the area costs a quarter."""
    codebook: float = 1.0
    beta: float = 0.25
    """Weight of the commitment term (paper 000 eq. 5)."""


@dataclass(frozen=True)
class AutoencoderRun:
    """Everything that decides an autoencoder's training."""

    preset: str
    model: EdgeAutoencoderConfig = field(default_factory=EdgeAutoencoderConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    loss: AutoencoderLossConfig = field(default_factory=AutoencoderLossConfig)
    decoder_only: bool = False
    """Leave encoder and codebook as they start: tokens keep their meaning, so priors over them stay good."""
    reseed_until: float = 0.6
    """Fraction of the run in which idle codes are moved onto current features."""
    reseed_patience: int = 30
    """Steps a code may stay unused before it is moved."""


@dataclass(frozen=True)
class PriorRun:
    """Everything that decides a prior's training."""

    preset: str
    model: HourglassPriorConfig
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    objective: Objective = "reweighted"
    label_dropout: float = 0.1
    """Chance that a sample is trained without its label, so that guidance has an unconditional side."""
    ema: float = 0.999
    """Decay of the averaged weights per step, lower at first; they are what is evaluated, drawn from and exported."""
    flip: bool = False
    """Also learn from mirrored images (encoded once more, not mirrored in token space)."""


Run = AutoencoderRun | PriorRun
AnyRun = TypeVar("AnyRun", AutoencoderRun, PriorRun)


def to_json(run: Run) -> bytes:
    """Readable JSON of a configuration, ``kind`` first."""
    kind = "autoencoder" if isinstance(run, AutoencoderRun) else "prior"
    return msgspec.json.format(msgspec.json.encode({"kind": kind, **msgspec.to_builtins(run)}), indent=2) + b"\n"


def read_run(path: Path) -> Run:
    """Read the configuration beside a run; UsageError when it is missing or not one of ours."""
    try:
        raw = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        kind = {"autoencoder": AutoencoderRun, "prior": PriorRun}[raw.pop("kind")]
        return msgspec.convert(raw, kind)
    except FileNotFoundError:
        raise UsageError(
            f"{path.parent} is not a run: it has no {path.name}. Name a folder made by 'smalti train'."
        ) from None
    except (KeyError, msgspec.MsgspecError) as error:
        raise UsageError(f"{path} is not a configuration of smalti: {error}") from None


def differences(a: Any, b: Any, prefix: str = "") -> list[str]:
    """List fields in which two configurations differ, as ``model.codes: 1024, not 512`` lines (a's value, not b's)."""
    lines: list[str] = []
    for item in dataclasses.fields(a):
        ours, theirs = getattr(a, item.name), getattr(b, item.name)
        if dataclasses.is_dataclass(ours):
            lines += differences(ours, theirs, f"{prefix}{item.name}.")
        elif ours != theirs:
            lines.append(f"{prefix}{item.name}: {ours!r}, not {theirs!r}")
    return lines
