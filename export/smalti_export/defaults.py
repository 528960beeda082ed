"""How a bundle draws unless it is told otherwise: each family's defaults, and what a user may change of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from smalti.bundle.manifest import Family, SamplerDefaults
from smalti.errors import UsageError
from smalti.families.registry import FAMILIES, OWN_OPTIONS


def sampler_defaults(family: Family, asked: Mapping[str, Any]) -> SamplerDefaults:
    """The family's defaults with what was ``asked``, by the names of :class:`smalti.bundle.manifest.SamplerDefaults`.

    Raises UsageError for one that there is not or that belongs to another family, or for values of an absorbing
    prior's that do not go together; the others are checked where the bundle is made.
    """
    chosen_by = FAMILIES[family]
    if foreign := chosen_by.foreign(asked, OWN_OPTIONS):
        raise UsageError(
            f"{', '.join(foreign)}: this prior {chosen_by.way}, and knows no such choice; leave it out"
            + (f" (it has {', '.join(chosen_by.options)})" if chosen_by.options else "")
        )
    if unknown := [name for name in asked if name not in SamplerDefaults.__struct_fields__]:
        raise UsageError(f"default {unknown[0]!r}: allowed are {', '.join(SamplerDefaults.__struct_fields__)}")
    chosen = msgspec.structs.replace(chosen_by.defaults, **asked)
    chosen_by.check_defaults(chosen)
    return chosen
