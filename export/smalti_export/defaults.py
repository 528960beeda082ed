"""How a bundle draws unless it is told otherwise: each family's defaults, and what a user may change of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from smalti.bundle.manifest import Family, SamplerDefaults
from smalti.errors import UsageError
from smalti.families.absorbing import schedule
from smalti.families.plans import PLAN, PLANS, WAYS

DEFAULTS: dict[Family, SamplerDefaults] = {
    "absorbing": SamplerDefaults(steps=16, temperature=1.0, schedule="cosine", order="halton"),
    "autoregressive": SamplerDefaults(steps=1, temperature=1.0),  # steps mean nothing there
    # Paper 003's own for faces of 1024 x 1024 pixels: temperature 1 .. 0.7, half of the tokens at a time.
    "sundae": SamplerDefaults(steps=50, temperature=1.0),
    "multinomial": SamplerDefaults(steps=50, temperature=1.0),
}
"""Of bundles for which nobody chose."""


def sampler_defaults(family: Family, asked: Mapping[str, Any]) -> SamplerDefaults:
    """The family's defaults with what was ``asked``, by the names of :class:`smalti.bundle.manifest.SamplerDefaults`.

    Raises UsageError for one that there is not or that belongs to another family, or for values of an absorbing
    prior's that do not go together; the others are checked where the bundle is made.
    """
    if foreign := [name for name in PLAN if name in asked and name not in PLANS[family]]:
        raise UsageError(
            f"{', '.join(foreign)}: this prior {WAYS[family]}, and knows no such choice; leave it out"
            + (f" (it has {', '.join(PLANS[family])})" if PLANS[family] else "")
        )
    if unknown := [name for name in asked if name not in SamplerDefaults.__struct_fields__]:
        raise UsageError(f"default {unknown[0]!r}: allowed are {', '.join(SamplerDefaults.__struct_fields__)}")
    chosen = msgspec.structs.replace(DEFAULTS[family], **asked)
    if family == "absorbing":
        schedule.check(chosen.steps, chosen.schedule, chosen.order, chosen.remask)
    return chosen
