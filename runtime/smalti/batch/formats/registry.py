"""All formats, by name."""

from __future__ import annotations

from typing import Final

from smalti.batch.formats.folder import Folder
from smalti.batch.formats.format import Format
from smalti.batch.formats.parquet import Parquet
from smalti.batch.formats.webdataset import WebDataset
from smalti.batch.plan import FORMATS, Plan
from smalti.errors import UsageError

_ALL: Final[dict[str, Format]] = dict(zip(FORMATS, (Parquet(), WebDataset(), Folder())))


def format_of(plan: Plan) -> Format:
    """Return the format of a batch's files. Raises UsageError for a name that is none's."""
    if plan.format not in _ALL:
        raise UsageError(f"format {plan.format!r}: allowed are {', '.join(_ALL)}")
    return _ALL[plan.format]
