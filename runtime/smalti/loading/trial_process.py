"""Trials in a process of their own, since a driver that crashes would take the program with it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

import smalti.version
from smalti.bundle.reader import Bundle
from smalti.loading.trial import CRASHED, Trial, refused

LONGEST: Final = 300.0
"""Seconds that a trial may take."""


def in_own_process(bundle: Bundle, provider: str, precision: str) -> Trial:
    """Try a provider in a process of its own; a crash is a finding too."""
    asked = json.dumps({"bundle": str(bundle.path.absolute()), "provider": provider, "precision": precision})
    try:
        done = subprocess.run(
            [*python_module("smalti.loading.trial_child"), asked],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=LONGEST,
            env=environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return refused(provider, f"a trial took longer than {LONGEST:.0f} s", CRASHED)
    except OSError as error:
        return refused(provider, f"it cannot be tried: {error}")
    for line in reversed(done.stdout.splitlines()):
        with contextlib.suppress(msgspec.MsgspecError):
            return msgspec.json.decode(line, type=Trial)
    last = " ".join(done.stderr.split())[-300:]
    return refused(provider, f"the process that tried it ended with {done.returncode}: {last}", CRASHED)


def python_module(name: str) -> list[str]:
    """Return the words that run a module with this Python; the working directory is no place to import from."""
    return [sys.executable, "-P", "-m", name]


def environment() -> dict[str, str]:
    """Return this process's environment, in which smalti is found where this process has found it."""
    here = str(Path(smalti.version.__file__).parents[1])
    path = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (here, path)))}
