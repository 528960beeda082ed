"""Sizes of the experiments on McKinney and Willcocks 2022, and the folders of their files.

They use the VQGAN and the absorbing prior of the earlier experiments on Bond-Taylor et al. 2021 (``unleashing.py``).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claims.common import FULL, TINY, Bench
from smalti_train.data.config import DataConfig
from smalti_train.models.sundae_transformer import SundaeTransformerConfig
from smalti_train.presets.catalogue import PRIORS
from smalti_train.runs.config import PixelRun, PriorConfig, PriorRun

VARIANTS: dict[str, dict[str, Any]] = {
    "2x2, 2D rotary": {},
    "raster, 2D rotary": {"shorten": (1, 4)},
    "2x2, 1D rotary": {"rotary": "1d"},
    "raster, 1D rotary": {"shorten": (1, 4), "rotary": "1d"},
}
"""The paper's hourglass (section 3.2), and what it has replaced: four tokens in a row become one, and positions are
those in raster order."""


@dataclass(frozen=True)
class Sizes:
    """How large everything is, besides what the earlier experiments' scale says."""

    pixels: PixelRun
    pixelwise: PriorRun
    """The prior over grey pixels, one label in ten."""
    best: PriorRun
    """The prior that samples are drawn from, over the tokens of the earlier experiments' VQGAN."""
    variant: PriorRun
    """A smaller one without a learnt sense of places, of which the variants differ in one thing each."""
    pixel_steps: int
    """Sampling steps of the pixel-wise prior."""
    per_class: int
    """Its samples of each label."""
    lessons: tuple[int, int]
    """Real images that the classifier learns from, and how often it sees each."""
    temperatures: tuple[tuple[float, float], ...]
    """Of the first step and the last."""
    steps: tuple[int, ...]
    """Sampling steps by which quality is told; the temperatures take the fifth."""
    equal_calls: tuple[int, ...]
    """Steps at which both families are compared; some of ``steps``."""
    freezing: tuple[int, ...]
    """Steps of the runs with and without freezing."""
    batch: int
    """Samples of those runs."""

    @property
    def heat_steps(self) -> int:
        """Sampling steps of the runs that differ in temperature, and of the variants' samples."""
        return self.steps[min(4, len(self.steps) - 1)]


def _sundae(base: PriorRun, model: PriorConfig, steps: int, **loop: Any) -> PriorRun:
    """A SUNDAE prior trained as the earlier experiments' absorbing one is, but for the steps."""
    loop = {"steps": steps, "sheet_every": steps, **loop}
    return dataclasses.replace(
        base, model=model, objective="sundae", loop=dataclasses.replace(base.loop, **loop), preset="avatars-64-sundae"
    )


AVATARS = SundaeTransformerConfig(codes=512, grid=(8, 8), classes=8, width=256, heads=4, depth=(1, 6, 1), places=True)
SMALL = dataclasses.replace(AVATARS, width=192, heads=3, depth=(1, 4, 1), places=False)
CLOTHES = DataConfig(name="fashion-mnist", size=28, validation_count=512)
PIXELWISE = PRIORS["fashion-mnist-sundae"]

LARGE = Sizes(
    pixels=PixelRun("fashion-mnist-sundae", data=CLOTHES),
    pixelwise=dataclasses.replace(
        PIXELWISE, data=CLOTHES, loop=dataclasses.replace(PIXELWISE.loop, steps=1200, evaluate_every=600)
    ),
    best=_sundae(FULL.absorbing, AVATARS, 450, evaluate_every=225),
    variant=_sundae(FULL.absorbing, SMALL, 300, evaluate_every=50),
    pixel_steps=40,
    per_class=15,
    lessons=(55_000, 2),
    temperatures=((1.0, 0.7), (1.0, 1.0), (0.85, 0.85), (0.7, 0.7)),
    steps=(2, 5, 10, 20, 30, 50),
    equal_calls=(5, 20, 50),
    freezing=(50, 100),
    batch=64,
)


def small(root: Path | None) -> Sizes:
    """Sees every line run; says nothing. ``root`` is Fashion-MNIST's folder."""
    data = DataConfig(
        name="fashion-mnist", size=28, train_count=16, validation_count=8, root=None if root is None else str(root)
    )
    tiny = PRIORS["tiny-sundae"]
    loop = dataclasses.replace(tiny.loop, steps=2, batch=4, precision="fp32", evaluate_every=1)
    model = dataclasses.replace(tiny.model, width=16, codes=256, grid=(28, 28), classes=10, depth=(0, (0, 1, 0), 0))
    return dataclasses.replace(
        LARGE,
        pixels=PixelRun("fashion-mnist-sundae", data=data),
        pixelwise=dataclasses.replace(tiny, model=model, data=data, loop=loop),
        best=_sundae(TINY.absorbing, tiny.model, 2),
        variant=_sundae(TINY.absorbing, tiny.model, 2),
        pixel_steps=2,
        per_class=1,
        lessons=(32, 1),
        temperatures=((1.0, 0.7), (1.0, 1.0)),
        steps=(2, 3),
        equal_calls=(3,),
        freezing=(24,),
        batch=8,
    )


def large(root: Path | None) -> Sizes:
    """What the results are of; ``root`` is Fashion-MNIST's folder where that is not where Debian puts it."""
    if root is None:
        return LARGE
    data = dataclasses.replace(CLOTHES, root=str(root))
    return dataclasses.replace(
        LARGE,
        pixels=dataclasses.replace(LARGE.pixels, data=data),
        pixelwise=dataclasses.replace(LARGE.pixelwise, data=data),
    )


@dataclass(frozen=True)
class SundaeBench(Bench):
    """Experiments on McKinney and Willcocks 2022. ``scale``: how many samples are compared, with which images."""

    sizes: Sizes
    earlier: Bench
    """The experiments on Bond-Taylor et al. 2021: their VQGAN gives the tokens, their prior is compared with."""

    @classmethod
    def of(cls, tiny: bool, work: Path, results: Path, earlier: Path, fashion_mnist: Path | None) -> SundaeBench:
        """The experiments at a scale, with the folders of their runs, of their results and of the earlier runs."""
        scale = TINY if tiny else FULL
        before = Bench(scale, earlier, results.with_name("unleashing"))
        return cls(scale, work, results, (small if tiny else large)(fashion_mnist), before)
