"""The libraries of batches, imported when they are first needed: pyarrow for files, Ray for clusters."""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any, Final

from smalti.errors import MissingExtra
from smalti.system.platform import install_hint

NO_REPORTS: Final = "RAY_USAGE_STATS_ENABLED"
"""The variable by which Ray is told whether it may report its use."""


def pyarrow(part: str = "") -> Any:
    """Return pyarrow, or a ``part`` of it such as ``parquet``. Raises MissingExtra."""
    return _imported(f"pyarrow.{part}".rstrip("."), "batch")


def ray() -> Any:
    """Return Ray, which sends no reports of its use. Raises MissingExtra."""
    os.environ[NO_REPORTS] = "0"
    return _imported("ray", "ray")


def has_ray() -> bool:
    """Whether Ray is installed."""
    return importlib.util.find_spec("ray") is not None


def _imported(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(f"smalti batch needs {name.partition('.')[0]} for this; {install_hint(extra)}") from error
