"""Default sampling settings of a bundle: each family's own, and those the user may change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from smalti.bundle.manifest import Family, SamplerDefaults
from smalti.errors import UsageError
from smalti.families.registry import FAMILIES, OWN_OPTIONS


def sampler_defaults(family: Family, asked: Mapping[str, Any]) -> SamplerDefaults:
    """The family's defaults, updated with ``asked``, whose keys are fields of ``SamplerDefaults``.

    Only the values for an absorbing prior are checked here; other values are checked when the bundle is made.

    Raises UsageError when a key is unknown or belongs to another family, or when the values for an absorbing prior do
    not fit together.
    """
    chosen_by = FAMILIES[family]
    chosen_by.refuse_foreign(asked, OWN_OPTIONS, "this prior")
    if unknown := [name for name in asked if name not in SamplerDefaults.__struct_fields__]:
        raise UsageError(f"default {unknown[0]!r}: allowed are {', '.join(SamplerDefaults.__struct_fields__)}")
    chosen = msgspec.structs.replace(chosen_by.defaults, **asked)
    chosen_by.check_defaults(chosen)
    return chosen
