"""Default sampling settings of a bundle: each family's own, and those the user may change."""

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
    "autoregressive": SamplerDefaults(steps=1, temperature=1.0),  # steps have no meaning here
    # McKinney and Willcocks 2022, for faces of 1024 x 1024 pixels: temperature 1 .. 0.7, half of the tokens per step.
    "sundae": SamplerDefaults(steps=50, temperature=1.0),
    "multinomial": SamplerDefaults(steps=50, temperature=1.0),
}
"""Each family's sampling settings where the user chose none."""


def sampler_defaults(family: Family, asked: Mapping[str, Any]) -> SamplerDefaults:
    """The family's defaults, updated with ``asked``, whose keys are fields of ``SamplerDefaults``.

    Only the values for an absorbing prior are checked here; other values are checked when the bundle is made.

    Raises UsageError when a key is unknown or belongs to another family, or when the values for an absorbing prior do
    not fit together.
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
