"""Names that help shows without torch are those of what they stand for."""

from __future__ import annotations

from smalti_train.cli import names
from smalti_train.importers import SOURCES
from smalti_train.importers.folders import UNKNOWN_LICENCE
from smalti_train.presets.catalogue import AUTOENCODERS, HEADS, PRIORS
from smalti_train.trainers.codebook_refit import POOL
from smalti_train.trainers.log_sigma import BITS


def test_help_names_what_there_is() -> None:
    assert tuple(AUTOENCODERS) == names.AUTOENCODERS
    assert tuple(PRIORS) == names.PRIORS
    assert tuple(HEADS) == names.HEADS
    assert tuple(SOURCES) == names.SOURCES
    assert (names.POOL, names.BITS, names.UNKNOWN_LICENCE) == (POOL, BITS, UNKNOWN_LICENCE)
