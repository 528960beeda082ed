"""Configuration of a run: plain dataclasses.

A preset is such a configuration (``smalti_train.presets``). The resolved configuration is written beside every run
(``config_files.py``), and a run continues only under the configuration it was started with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeVar

from smalti.bundle.manifest import Family as FamilyName
from smalti.bundle.manifest import Noise
from smalti.errors import UsageError
from smalti_train.data.config import DataConfig
from smalti_train.models.absorbing_transformer import AbsorbingTransformerConfig
from smalti_train.models.autoregressive_transformer import AutoregressiveTransformerConfig, Net2NetTransformerConfig
from smalti_train.models.discriminator import DiscriminatorConfig
from smalti_train.models.edge_autoencoder import EdgeAutoencoderConfig
from smalti_train.models.hourglass_prior import HourglassPriorConfig
from smalti_train.models.multinomial_unet import MultinomialUNetConfig
from smalti_train.models.pixels import PixelCodesConfig
from smalti_train.models.preview_decoder import PreviewDecoderConfig
from smalti_train.models.quantizer_gumbel import STEPS as GUMBEL_STEPS
from smalti_train.models.size_heads import SizedAutoencoderConfig
from smalti_train.models.sundae_transformer import SundaeTransformerConfig
from smalti_train.models.vqgan import VQGANConfig

Precision = Literal["fp32", "bf16", "fp16"]
Objective = Literal["reweighted", "elbo", "mlm", "autoregressive", "sundae", "vlb"]
Masking = Literal["random", "fixed"]
Times = Literal["uniform", "importance"]
AbsorbingConfig = HourglassPriorConfig | AbsorbingTransformerConfig
"""Priors that fill a masked grid in any order."""
AutoregressiveConfig = AutoregressiveTransformerConfig | Net2NetTransformerConfig
"""Priors that draw one token after the other."""
PriorConfig = AbsorbingConfig | AutoregressiveConfig | SundaeTransformerConfig | MultinomialUNetConfig
"""All priors. SUNDAE priors correct complete grids (McKinney and Willcocks 2022), multinomial ones remove noise from
them (Hu et al. 2022)."""
UNROLLS = 2
"""Corrections per training step of a SUNDAE prior, by default."""
EFFNET_LITE0 = "effnet-lite0"
"""The perceptual network that needs no file."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and a cosine fall to ``final_lr`` times the peak (1: the rate stays)."""

    lr: float = 1e-3
    per_image: bool = False
    """Multiply ``lr`` by the batch (taming's base rate)."""
    warmup: int = 200
    """Steps of the linear warm-up."""
    final_lr: float = 0.02
    """Fraction of ``lr`` left at the last step."""
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    """Largest norm of the whole gradient; longer gradients are scaled down to it. 0: no clipping."""


@dataclass(frozen=True)
class LoopConfig:
    """Steps, batch, precision and intervals of any training."""

    steps: int = 3000
    batch: int = 16
    """Images per step over all processes together."""
    precision: Precision = "bf16"
    compile: bool = False
    """Let torch compile the model: costs tens of seconds at the start, then steps are faster."""
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
    """L1 of the differences between neighbouring pixels; it keeps the edges of flat shapes."""
    perceptual: float = 0.0
    """Distance of EffNet-Lite0 features (``smalti_train.objectives.losses.PerceptualLoss``); 0: no such term."""
    perceptual_crop: int = 128
    """Pixels per side of the random crop that the perceptual term sees; its cost grows with the area."""
    codebook: float = 1.0
    beta: float = 0.25
    """Weight of the commitment term (Bond-Taylor et al. 2021, eq. 5)."""
    even: float = 0.0
    """Weight of the term for an even use of the codes (``smalti_train.models.quantizer.crowding``)."""


@dataclass(frozen=True)
class AutoencoderRun:
    """Configuration of an edge autoencoder's training."""

    preset: str
    model: EdgeAutoencoderConfig = field(default_factory=EdgeAutoencoderConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    loss: AutoencoderLossConfig = field(default_factory=AutoencoderLossConfig)
    decoder_only: bool = False
    """Freeze encoder and codebook: tokens keep their meaning, so priors over them stay valid."""
    crop: int | None = None
    """Train on random crops with this many tokens per side, aligned to the token grid; None: whole images."""
    reseed_until: float = 0.6
    """Fraction of the run in which idle codes are moved onto current features."""
    reseed_patience: int = 30
    """Steps a code may stay unused before it is moved."""


@dataclass(frozen=True)
class VQGANLossConfig:
    """Weights of a VQGAN's losses; defaults of Bond-Taylor et al. 2021, with beta on the term where eq. 5 has it."""

    l1: float = 1.0
    perceptual: float = 1.0
    """Weight of LPIPS; see ``smalti_train.trainers.perceptual``."""
    codebook: float = 1.0
    """Weight of the nearest quantiser's whole loss."""
    beta: float = 0.25
    """Weight of the commitment term (eq. 5)."""
    legacy_beta: bool = False
    """Put ``beta`` on the codebook term instead, as the released code of taming and of unleashing does."""
    kl: float = 1e-8
    """Weight of the Gumbel quantiser's KL; taming has 5e-4."""
    adversarial: float = 1.0
    """Factor of lambda; 0 leaves the discriminator out. Taming has 0.8."""
    lambda_max: float = 1.0
    """Upper limit of lambda (eq. 9c); taming's 1e4 amounts to none."""
    start: int = 30_001
    """First step, counted from 0, at which the discriminator learns and enters the loss."""
    augment: bool = True
    """Whether the discriminator sees its images through ``smalti_train.objectives.diff_augment``."""

    def __post_init__(self) -> None:
        """Check the weights. Raises UsageError for a negative one."""
        weights = {name: value for name, value in vars(self).items() if not isinstance(value, bool)}
        if negative := [name for name, value in weights.items() if value < 0]:
            raise UsageError(f"the weight {negative[0]} of a VQGAN's losses is at least 0, not {weights[negative[0]]}")

    def judged(self, step: int) -> bool:
        """Whether the discriminator learns and enters the loss at ``step`` (counted from 0)."""
        return self.adversarial > 0 and step >= self.start


PUBLISHED_VQGAN_OPTIMIZER = OptimizerConfig(
    lr=4.5e-6, per_image=True, warmup=0, final_lr=1.0, betas=(0.5, 0.9), clip=0.0
)
"""Adam at a constant rate, for autoencoder and discriminator (Esser et al. 2021, Bond-Taylor et al. 2021)."""


@dataclass(frozen=True)
class Imported:
    """Origin of a run's weights where they were imported (``smalti import``)."""

    source: str
    """The published system and part, as ``smalti_train.importers.SOURCES`` calls it."""
    file: str
    """Name of the checkpoint, without its folder."""
    sha256: str
    """SHA-256 of the checkpoint file."""
    licence: str
    """Licence of the weights."""
    classes: tuple[str, ...] = ()
    """Names of a prior's classes, in order."""


@dataclass(frozen=True)
class VQGANRun:
    """Configuration of a VQGAN's training."""

    preset: str
    model: VQGANConfig = field(default_factory=VQGANConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = PUBLISHED_VQGAN_OPTIMIZER
    """For the autoencoder and for the discriminator; each has its own optimiser."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    loss: VQGANLossConfig = field(default_factory=VQGANLossConfig)
    perceptual: str = EFFNET_LITE0
    """Network of the perceptual term: ``effnet-lite0``, or the user's file of torchvision's VGG16."""
    perceptual_heads: str | None = None
    """The user's file of LPIPS's linear heads over VGG16; None: every channel counts alike."""
    ema: float = 0.995
    """Decay of the averaged weights, lower at first. The averages are evaluated and exported."""
    ema_every: int = 10
    """Steps from one average to the next."""
    gumbel_steps: int = GUMBEL_STEPS
    """A Gumbel quantiser's temperature is max(1/16, 1 - step / ``gumbel_steps``)."""
    flip: bool = True
    """Mirror each image with probability 1/2."""
    decoder_only: bool = False
    """Freeze encoder and codebook: tokens keep their meaning, so priors over them stay valid."""
    pixel_bits: int | None = None
    """Train the probabilistic head alone, on images of so many bits (``train_log_sigma``); None: train the VQGAN."""
    imported: Imported | None = None
    """Set for imported weights; the other fields then only describe the model and the images to measure on."""

    def __post_init__(self) -> None:
        """Check single values. Raises UsageError for one that is not allowed."""
        if not 0 <= self.ema < 1 or self.ema_every < 1 or self.gumbel_steps < 1:
            raise UsageError(
                f"ema {self.ema} must lie in 0 .. 1 and ema_every {self.ema_every} and gumbel_steps "
                f"{self.gumbel_steps} be at least 1"
            )
        if self.perceptual == EFFNET_LITE0 and self.perceptual_heads is not None:
            raise UsageError("LPIPS's heads belong to VGG16: name its file as the perceptual network too")


@dataclass(frozen=True)
class PixelRun:
    """Grey pixels in place of an autoencoder's tokens: a run's folder without a training."""

    preset: str
    model: PixelCodesConfig = field(default_factory=PixelCodesConfig)
    data: DataConfig = field(default_factory=DataConfig)


@dataclass(frozen=True)
class PreviewRun:
    """Configuration of a preview decoder's training."""

    preset: str
    """The autoencoder's preset."""
    model: PreviewDecoderConfig = field(default_factory=PreviewDecoderConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


@dataclass(frozen=True)
class HeadsRun:
    """Configuration of a training of size heads, which decode an autoencoder's tokens to larger pictures."""

    preset: str
    model: SizedAutoencoderConfig = field(default_factory=SizedAutoencoderConfig)
    data: DataConfig = field(default_factory=DataConfig)
    """Images at the decoder's own size; each head learns from the same images at its size."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    loss: AutoencoderLossConfig = field(default_factory=AutoencoderLossConfig)
    """Of each size; only the weights of its pixel terms count."""


@dataclass(frozen=True)
class PriorRun:
    """Configuration of a prior's training."""

    preset: str
    model: PriorConfig
    """Sizes of the prior. In the file, ``kind`` names one of ``PRIOR_KINDS``; without it, it is an hourglass."""
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    objective: Objective = "reweighted"
    """``reweighted``, ``elbo`` or ``mlm`` for absorbing priors, ``autoregressive`` for autoregressive ones, ``sundae``
    for SUNDAE priors, ``vlb`` for multinomial priors; see the modules of ``smalti_train.objectives``."""
    unrolls: int = UNROLLS
    """Corrections per step under ``sundae``, each of the grid drawn before; 3 gives more diverse samples."""
    masking: Masking = "random"
    """``random``: mask each token with chance t / T. ``fixed``: mask round(t / T * tokens) of them."""
    times: Times = "uniform"
    """``uniform``, or ``importance``: by the losses seen at each time (``smalti_train.objectives.time_sampling``)."""
    rows: int = 0
    """Positions of each sample that output layer and loss are computed on, drawn among those that are to be predicted;
    0: all. Many codes make a step cheaper by few positions; SUNDAE priors save in the last unroll alone."""
    label_dropout: float = 0.1
    """Chance that a sample is trained without its label; guidance needs the unconditional prediction."""
    ema: float = 0.999
    """Decay of the averaged weights per step, lower at first. The averages are evaluated, sampled and exported."""
    flip: bool = False
    """Also learn from mirrored images (mirrored before they are encoded)."""
    imported: Imported | None = None
    """Set for imported weights; the other fields then only describe the model and the images to measure on."""

    def __post_init__(self) -> None:
        """Check that objective, masking, times and unrolls suit the model. Raises UsageError where they do not."""
        own = own_objective(self.model)
        if own != (self.objective if self.objective in ("autoregressive", "sundae", "vlb") else None):
            allowed = "are reweighted, elbo and mlm" if own is None else f"is {own} alone"
            raise UsageError(
                f"objective {self.objective!r} is not for a prior of kind {prior_kind(self.model)!r}: allowed {allowed}"
            )
        if own is not None and (self.masking != "random" or (own != "vlb" and self.times != "uniform")):
            timeless = "" if own == "vlb" else " and knows no such times"
            raise UsageError(
                f"masking {self.masking!r} and times {self.times!r}: a prior of kind {prior_kind(self.model)!r} masks "
                f"nothing{timeless}; leave --masking{' and --times' if timeless else ''} out"
            )
        if self.rows < 0 or (self.rows and own in ("autoregressive", "vlb")):
            raise UsageError(
                f"rows {self.rows}: 0 computes the loss on all positions, and only priors that fill masks and SUNDAE "
                "priors can do with fewer"
            )
        if self.unrolls < 1 or (self.unrolls != UNROLLS and own != "sundae"):
            allowed = (
                "at least 1 is needed" if own == "sundae" else "only objective sundae unrolls; leave --unrolls out"
            )
            raise UsageError(f"unrolls {self.unrolls}: {allowed}")


TrainedRun = AutoencoderRun | VQGANRun | PriorRun
CodecRun = AutoencoderRun | VQGANRun | PixelRun
"""Runs of autoencoders, and of grey pixels in place of one."""
Run = TrainedRun | PixelRun | PreviewRun | HeadsRun
AnyRun = TypeVar("AnyRun", bound=TrainedRun | PreviewRun | HeadsRun)

PRIOR_KINDS: dict[str, type[PriorConfig]] = {
    "hourglass": HourglassPriorConfig,
    "absorbing-transformer": AbsorbingTransformerConfig,
    "autoregressive-transformer": AutoregressiveTransformerConfig,
    "net2net": Net2NetTransformerConfig,
    "sundae": SundaeTransformerConfig,
    "multinomial-unet": MultinomialUNetConfig,
}
"""Configurations of priors by their ``kind`` in a run's file."""


def prior_kind(model: PriorConfig) -> str:
    """The ``kind`` of a prior in a run's file."""
    return next(name for name, kind in PRIOR_KINDS.items() if type(model) is kind)


def family_name(model: PriorConfig) -> FamilyName:
    """Return the name of the family that a prior of these sizes belongs to (:mod:`smalti.families.registry`)."""
    match model:
        case SundaeTransformerConfig():
            return "sundae"
        case MultinomialUNetConfig():
            return "multinomial"
        case AutoregressiveTransformerConfig() | Net2NetTransformerConfig():
            return "autoregressive"
        case HourglassPriorConfig() | AbsorbingTransformerConfig():
            return "absorbing"


def noise_of(model: PriorConfig) -> Noise | None:
    """Return what the times of a prior of these sizes mean; None where it knows none."""
    return Noise(steps=model.steps, schedule=model.schedule) if isinstance(model, MultinomialUNetConfig) else None


def own_objective(model: PriorConfig) -> Literal["autoregressive", "sundae", "vlb"] | None:
    """The only objective of a prior that masks nothing; None for absorbing priors, which have a choice."""
    if isinstance(model, SundaeTransformerConfig):
        return "sundae"
    if isinstance(model, MultinomialUNetConfig):
        return "vlb"
    return "autoregressive" if isinstance(model, AutoregressiveConfig) else None
