"""Build the engines of a bundle for several sets of targets, and write down seconds, sizes and hashes.

    python bench/speed/engines.py [BUNDLE] -o FOLDER

Needs ``pip install ".[bench,rtx]"`` and no GPU.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from smalti import open_bundle
from smalti_export.engines.build import build_engines
from smalti_export.engines.toolkit import PORTABLE, PortableToolkit

TARGETS = (("sm_75",), PORTABLE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    bundle, rows = open_bundle(arguments.bundle), []
    for targets in TARGETS:
        folder = arguments.output / "-".join(targets)
        for role in bundle.manifest.components:
            started, used = time.perf_counter(), time.process_time()
            engines = build_engines(bundle, PortableToolkit(targets), folder, components=[role], force=True, say=print)
            (record,) = (record for record in engines.engines if record.component == role)
            rows.append(
                {
                    "component": role,
                    "targets": list(targets),
                    "version": record.version,
                    "seconds": round(time.perf_counter() - started, 1),
                    "processor_seconds": round(time.process_time() - used, 1),
                    "bytes": record.engine.bytes,
                    "magic": (folder / record.engine.file).read_bytes()[:4].decode("ascii"),
                    "sha256": record.engine.sha256,
                    "source_sha256": record.source_sha256,
                }
            )
            print(rows[-1], flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "engines.json").write_text(json.dumps({"bundle": bundle.digest, "engines": rows}, indent=2))


if __name__ == "__main__":
    main()
