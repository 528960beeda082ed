"""The other end of :mod:`smalti.loading.trial_process`: ``python -m smalti.loading.trial_child QUESTION``.

It prints one line of JSON, whatever libraries print besides. Nothing imports it, since Python warns of a module that is
run and imported.
"""

from __future__ import annotations

import json
import os
import sys

import msgspec

from smalti.bundle.reader import open_bundle
from smalti.errors import SmaltiError
from smalti.loading.trial import refused, try_provider


def answer(asked: str) -> None:
    """Try what is asked for, and print the trial."""
    out = os.dup(1)  # what libraries print goes to stderr, also what they print when the process ends
    os.dup2(2, 1)
    told = json.loads(asked)
    try:
        trial = try_provider(open_bundle(told["bundle"]), told["provider"], told["precision"])
    except SmaltiError as error:
        trial = refused(told["provider"], str(error))
    os.write(out, msgspec.json.encode(trial) + b"\n")


if __name__ == "__main__":
    answer(sys.argv[1])
