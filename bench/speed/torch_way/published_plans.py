"""How plain torch draws with each published kind of prior."""

from __future__ import annotations

from functools import partial

from smalti.families.sundae.sampler import SUBSET_STEPS
from smalti_train.models.absorbing_transformer import AbsorbingTransformer
from smalti_train.models.hourglass_prior import HourglassPrior
from smalti_train.models.multinomial_unet import MultinomialUNet
from smalti_train.models.sundae_transformer import SundaeTransformer
from smalti_train.objectives.multinomial import cosine_schedule
from torch_way.models import Models
from torch_way.samplers import Plan, absorbing, multinomial, sundae

TEMPERATURE = 1.0


def plan_of(models: Models, steps: int, count: int) -> Plan:
    """Lay out a draw of ``count`` grids in so many steps. Raises TypeError for an autoregressive prior."""
    length = models.grid[0] * models.grid[1]
    sizes = {"count": count, "length": length, "codes": models.codes, "steps": steps}
    match models.prior:
        case AbsorbingTransformer() | HourglassPrior():
            return partial(absorbing, **sizes, temperature=TEMPERATURE)
        case SundaeTransformer():
            # As smalti does, a short run draws every position at every step.
            proportion = 1.0 if steps < SUBSET_STEPS else 0.5
            return partial(sundae, **sizes, temperature=TEMPERATURE, proportion=proportion)
        case MultinomialUNet():
            config = models.prior.config
            return partial(multinomial, **sizes, schedule=cosine_schedule(config.steps, config.schedule))
        case other:
            raise TypeError(f"{type(other).__name__} draws one token after the other: there is no such plan")
