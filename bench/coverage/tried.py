"""How a check says what it found: a claim that passed or did not, or that the machine lacks something."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from evidence import Backend, Claim, How

ROOT: Final = Path(__file__).parents[2]
Figures = dict[str, int | float | str]


class Lacking(Exception):
    """A check cannot run here; the message says what is missing."""


def tried(backend: Backend, target: str, how: How, what: str, check: Callable[[], tuple[bool, Figures]]) -> Claim:
    """Run a check of one target: whether it passed, and its figures. What it raises is a claim that did not pass."""
    try:
        passed, figures = check()
    except Lacking:
        raise
    except Exception as error:  # whatever it is, the other targets are to be tried
        text = str(error).replace(f"{ROOT}/", "").replace(tempfile.gettempdir(), "")  # no place on this machine
        passed, figures = False, {"error": f"{type(error).__name__}: {text[:200]}"}
    print(f"  {backend} {target} {how}: {'passed' if passed else 'FAILED'} {figures}", flush=True)
    return Claim(backend, target, how, what, passed, figures)
