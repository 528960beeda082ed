"""Runs a planned batch on a NullBackend, in a process that tests may kill: FOLDER BUNDLE SECONDS ADDRESS|- ACTORS."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from helpers.fake_bundle import SlowBackend
from smalti.batch import job
from smalti.batch.loading import Loading
from smalti.errors import SmaltiError


def main() -> None:
    folder, bundle, seconds, address, actors = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    loading = Loading(bundle, backend=SlowBackend(float(seconds)))
    running = job.Running(None if address == "-" else address, int(actors))
    try:
        report = job.run(Path(folder), loading, running, tell=lambda line: print(line, file=sys.stderr))
    except SmaltiError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(json.dumps(report.to_dict()))


if __name__ == "__main__":
    main()
