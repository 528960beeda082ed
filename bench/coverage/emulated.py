"""Find out what can be found out without a GPU, and write it down as evidence: ``python bench/coverage/emulated.py``.

Needs ``pip install ".[dev]"``, a C compiler, and SwiftShader (``.ci/swiftshader build/swiftshader``); what is missing
costs only its own checks. It takes three to six minutes on 2 cores. Some checks alone are printed and not written:

    python bench/coverage/emulated.py --only kernels-built cpu-ran

The exit code is 0 where something passed and nothing failed. Then ``python bench/coverage/table.py --write``.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import platform
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATHS = [str(ROOT / name) for name in ("bench", "kernels", "runtime", "training", "export", "tests")]
sys.path[:0] = [path for path in PATHS if path not in sys.path]

from checks import CHECKS  # noqa: E402
from evidence import FOLDER, Claim, Evidence, Machine, write  # noqa: E402
from tried import Lacking  # noqa: E402

import smalti  # noqa: E402
from smalti.verification.doctor.hardware import find_processor  # noqa: E402
from smalti_kernels.platform import usable_cores  # noqa: E402

COMMAND = "python bench/coverage/emulated.py"
OUT = FOLDER / "emulated.json"
PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxruntime-ep-webgpu", "tensorrt-rtx", "torch", "triton")


def versions() -> dict[str, str]:
    """Versions of what the checks run with."""
    there = {str(one.metadata["Name"]).lower().replace("_", "-"): one for one in importlib.metadata.distributions()}
    found = {name: there[name].version for name in PACKAGES if name in there}
    return {"python": platform.python_version(), platform.system(): platform.machine(), **found}


def here() -> Machine:
    """This machine's kind."""
    cores = usable_cores()
    return Machine("cpu", f"{cores} CPU cores, {find_processor(cores).name or platform.machine()}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), metavar="CHECK", help=f"of {', '.join(CHECKS)}")
    options = parser.parse_args()
    claims: list[Claim] = []
    started = time.perf_counter()
    for name in options.only or CHECKS:
        print(f"+ {name}", flush=True)
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            try:
                claims += CHECKS[name](Path(folder))
            except Lacking as error:
                print(f"  not run: {error}", flush=True)
        print(f"{name}: {time.perf_counter() - begun:.1f} s", flush=True)
    seconds = round(time.perf_counter() - started, 1)
    date = datetime.date.today().isoformat()
    found = Evidence(1, COMMAND, date, smalti.__version__, versions(), here(), seconds, tuple(claims))
    failed = [claim for claim in claims if not claim.passed]
    print(f"{len(claims)} claims, of which {len(failed)} failed, in {seconds} s")
    if not options.only:
        write(OUT, found)
        print(f"written to {OUT.relative_to(ROOT)}; now python bench/coverage/table.py --write")
    return 1 if failed or not claims else 0


if __name__ == "__main__":
    sys.exit(main())
