"""Configuration of a run: plain dataclasses.

A preset is data (see ``presets.py``). The resolved configuration is written beside every run (``config_files.py``), and
a run continues only under the configuration it was started with.
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
"""The last two correct grids whose tokens are all drawn already (paper 003), or take noise from them (paper 004)."""
UNROLLS = 2
"""How often SUNDAE's training lets a prior correct what it drew itself, unless told otherwise."""
EFFNET_LITE0 = "effnet-lite0"
"""The perceptual network that needs no file."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and a cosine fall to ``final_lr`` times the peak (1: the rate stays)."""

    lr: float = 1e-3
    per_image: bool = False
    """Whether ``lr`` is meant for a batch of one image: the rate is ``lr`` times the batch (taming's base rate)."""
    warmup: int = 200
    """Steps."""
    final_lr: float = 0.02
    """Fraction of ``lr`` left at the last step."""
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    """Largest norm of the whole gradient; longer ones are scaled down to it, and 0 leaves them as they are."""


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
    """Distance of EffNet-Lite0 features, see ``objectives.losses.PerceptualLoss``; 0 leaves the network out."""
    perceptual_crop: int = 128
    """Pixels per side of the random crop that the perceptual term sees: a quarter of the area costs a quarter."""
    codebook: float = 1.0
    beta: float = 0.25
    """Weight of the commitment term (paper 000 eq. 5)."""
    even: float = 0.0
    """Weight of the term that asks for codes to be used evenly (``smalti_train.models.quantizer.crowding``)."""


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
    crop: int | None = None
    """Tokens per side of the random crops that it learns from, on the grid of the tokens; None: whole images."""
    reseed_until: float = 0.6
    """Fraction of the run in which idle codes are moved onto current features."""
    reseed_patience: int = 30
    """Steps a code may stay unused before it is moved."""


@dataclass(frozen=True)
class VQGANLossConfig:
    """Weights of a VQGAN's losses; the defaults are paper 000's, but for beta, which stands where eq. 5 has it."""

    l1: float = 1.0
    perceptual: float = 1.0
    """Weight of LPIPS; see ``smalti_train.trainers.perceptual``."""
    codebook: float = 1.0
    """Weight of the quantiser's loss as a whole (the nearest one's)."""
    beta: float = 0.25
    """Weight of the commitment term (eq. 5)."""
    legacy_beta: bool = False
    """Put ``beta`` on the codebook term instead, as the released code of taming and of paper 000 does."""
    kl: float = 1e-8
    """Weight of the Gumbel quantiser's KL; taming has 5e-4."""
    adversarial: float = 1.0
    """Times lambda; 0 leaves the discriminator out. Taming has 0.8."""
    lambda_max: float = 1.0
    """Clamp of lambda (eq. 9c); taming has 1e4, which is none."""
    start: int = 30_001
    """First step, counted from 0, at which the discriminator learns and counts."""
    augment: bool = True
    """Whether the discriminator sees its images through ``smalti_train.objectives.diff_augment``."""

    def __post_init__(self) -> None:
        """Check the weights; UsageError names one that is negative."""
        weights = {name: value for name, value in vars(self).items() if not isinstance(value, bool)}
        if negative := [name for name, value in weights.items() if value < 0]:
            raise UsageError(f"the weight {negative[0]} of a VQGAN's losses is at least 0, not {weights[negative[0]]}")

    def judged(self, step: int) -> bool:
        """Whether the discriminator learns and counts at ``step`` (counted from 0)."""
        return self.adversarial > 0 and step >= self.start


PUBLISHED_VQGAN_OPTIMIZER = OptimizerConfig(
    lr=4.5e-6, per_image=True, warmup=0, final_lr=1.0, betas=(0.5, 0.9), clip=0.0
)
"""Of both networks, in taming and paper 000 alike: Adam at a constant rate."""


@dataclass(frozen=True)
class Imported:
    """Where the weights of a run come from that was imported and not trained here (``smalti import``)."""

    source: str
    """The published system and part, as ``smalti_train.importers.SOURCES`` calls it."""
    file: str
    """Name of the checkpoint, without its folder."""
    sha256: str
    """Of the checkpoint's bytes."""
    licence: str
    """Of the weights."""
    classes: tuple[str, ...] = ()
    """Names of a prior's classes, in order."""


@dataclass(frozen=True)
class VQGANRun:
    """Everything that decides a VQGAN's training."""

    preset: str
    model: VQGANConfig = field(default_factory=VQGANConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = PUBLISHED_VQGAN_OPTIMIZER
    """Of the autoencoder and of the discriminator, which have one optimiser each."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    loss: VQGANLossConfig = field(default_factory=VQGANLossConfig)
    perceptual: str = EFFNET_LITE0
    """Network of the perceptual term: ``effnet-lite0``, or the user's file of torchvision's VGG16."""
    perceptual_heads: str | None = None
    """The user's file of LPIPS's linear heads over VGG16; None: every channel counts alike."""
    ema: float = 0.995
    """Decay of the averaged weights, lower at first; they are what is evaluated and exported."""
    ema_every: int = 10
    """Steps from one average to the next."""
    gumbel_steps: int = GUMBEL_STEPS
    """A Gumbel quantiser's temperature is max(1/16, 1 - step / ``gumbel_steps``)."""
    flip: bool = True
    """Mirror each image half of the times it is seen."""
    decoder_only: bool = False
    """Leave encoder and codebook as they start: tokens keep their meaning, so priors over them stay good."""
    pixel_bits: int | None = None
    """Set where the probabilistic head alone is trained, on images of so many bits (``train_log_sigma``)."""
    imported: Imported | None = None
    """Set where the weights were imported; the other fields then only say what the model is and what to measure on."""

    def __post_init__(self) -> None:
        """Check what a value alone can tell; UsageError says what is not allowed."""
        if not 0 <= self.ema < 1 or self.ema_every < 1 or self.gumbel_steps < 1:
            raise UsageError(
                f"ema {self.ema} must lie in 0 .. 1 and ema_every {self.ema_every} and gumbel_steps "
                f"{self.gumbel_steps} be at least 1"
            )
        if self.perceptual == EFFNET_LITE0 and self.perceptual_heads is not None:
            raise UsageError("LPIPS's heads belong to VGG16: name its file as the perceptual network too")


@dataclass(frozen=True)
class PixelRun:
    """Grey pixels in place of an autoencoder's tokens: a folder like that of a run, though nothing was trained."""

    preset: str
    model: PixelCodesConfig = field(default_factory=PixelCodesConfig)
    data: DataConfig = field(default_factory=DataConfig)


@dataclass(frozen=True)
class PreviewRun:
    """Everything that decides a preview decoder's training."""

    preset: str
    """The autoencoder's."""
    model: PreviewDecoderConfig = field(default_factory=PreviewDecoderConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


@dataclass(frozen=True)
class HeadsRun:
    """Everything that decides a training of heads that draw an autoencoder's tokens larger."""

    preset: str
    model: SizedAutoencoderConfig = field(default_factory=SizedAutoencoderConfig)
    data: DataConfig = field(default_factory=DataConfig)
    """Of the decoder's own size; the heads learn from the same images at theirs."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    loss: AutoencoderLossConfig = field(default_factory=AutoencoderLossConfig)
    """Of each size; its perceptual term is of the decoder's own alone."""
    decoder_rate: float = 0.2
    """Learning rate of the decoder, which is trained already, as a share of the heads'."""


@dataclass(frozen=True)
class PriorRun:
    """Everything that decides a prior's training."""

    preset: str
    model: PriorConfig
    """In the file, ``kind`` says which of ``PRIOR_KINDS`` it is; without one it is an hourglass."""
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    objective: Objective = "reweighted"
    """``reweighted``, ``elbo`` and ``mlm`` train absorbing priors (``objectives.absorbing``); ``autoregressive``,
    ``sundae`` and ``vlb`` (multinomial) are the one objective of their families."""
    unrolls: int = UNROLLS
    """How often ``sundae`` corrects a grid in one step, each time what it drew before; 3 for more diversity."""
    masking: Masking = "random"
    """Mask each token with chance t / T, or a ``fixed`` number of them, round(t / T * tokens)."""
    times: Times = "uniform"
    """Draw times alike, or by ``importance``: by the losses seen at them (``objectives.time_sampling``)."""
    label_dropout: float = 0.1
    """Chance that a sample is trained without its label, so that guidance has an unconditional side."""
    ema: float = 0.999
    """Decay of the averaged weights per step, lower at first; they are what is evaluated, drawn from and exported."""
    flip: bool = False
    """Also learn from mirrored images (encoded once more, not mirrored in token space)."""
    imported: Imported | None = None
    """Set where the weights were imported; the other fields then only say what the model is and what to measure on."""

    def __post_init__(self) -> None:
        """Check that the objective is one for the model; UsageError says which are."""
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
        if self.unrolls < 1 or (self.unrolls != UNROLLS and own != "sundae"):
            allowed = (
                "at least 1 is needed" if own == "sundae" else "only objective sundae unrolls; leave --unrolls out"
            )
            raise UsageError(f"unrolls {self.unrolls}: {allowed}")


TrainedRun = AutoencoderRun | VQGANRun | PriorRun
CodecRun = AutoencoderRun | VQGANRun | PixelRun
"""Runs of what turns images into tokens and back."""
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
"""Sizes of priors by what a run's file calls them."""


def prior_kind(model: PriorConfig) -> str:
    """What a run's file calls a prior of these sizes."""
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
    """The one objective of priors that mask nothing; None for those that have a choice."""
    if isinstance(model, SundaeTransformerConfig):
        return "sundae"
    if isinstance(model, MultinomialUNetConfig):
        return "vlb"
    return "autoregressive" if isinstance(model, AutoregressiveConfig) else None
