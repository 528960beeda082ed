"""All families. Only this module chooses among them."""

from __future__ import annotations

from smalti.bundle.manifest import Family as FamilyName
from smalti.bundle.manifest import Manifest
from smalti.families.absorbing.family import Absorbing
from smalti.families.autoregressive.family import Autoregressive
from smalti.families.base import Family
from smalti.families.multinomial.family import Multinomial
from smalti.families.sundae.family import Sundae

FAMILIES: dict[FamilyName, Family] = {
    family.name: family for family in (Absorbing(), Autoregressive(), Sundae(), Multinomial())
}
"""Families by their names in a manifest."""

OWN_OPTIONS = tuple(dict.fromkeys(name for family in FAMILIES.values() for name in family.options))
"""Own options of all families, in the order in which help lists them."""


def family_of(manifest: Manifest) -> Family:
    """Return the family of a bundle."""
    return FAMILIES[manifest.family]
