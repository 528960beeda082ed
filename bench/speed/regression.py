"""Does ``smalti bench --baseline`` tell a regression, and only that? ``python bench/speed/regression.py [--clean 10]``.

A baseline is saved. Clean calls of the command must exit with 0. Then a delay is planted, in the prior's network and in
the decoder in turns, that makes a whole draw slower by ``--plant`` (a share, 0.2 is 20 %); those exit with 7. Every
call measures as the command does, in this process and on a bundle loaded anew. Printed are the exit codes and the
changes; the script itself exits with 1 where one is not as it must be.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import smalti
from smalti.backends.base import Arrays, Session
from smalti.backends.onnxruntime_cpu import OnnxRuntimeCpu
from smalti.bundle.manifest import PRIOR_ROLES, Precision, Role
from smalti.bundle.reader import Bundle
from smalti.cli.main import _run
from smalti.verification.speed.measure import Measured, measure

REGRESSION = 7


class Slower:
    """A session whose calls take longer by a share of what they take."""

    def __init__(self, session: Session, share: float) -> None:
        self.session, self.share = session, share
        self.inputs, self.outputs = session.inputs, session.outputs

    def __call__(self, inputs: Arrays) -> list[Any]:
        started = time.perf_counter()
        outputs = self.session(inputs)
        time.sleep(self.share * (time.perf_counter() - started))
        return outputs


@contextlib.contextmanager
def planted(role: str, share: float) -> Iterator[None]:
    """Make one component of every bundle slower by a share of its own time."""
    real = OnnxRuntimeCpu.open

    def opened(self: OnnxRuntimeCpu, bundle: Bundle, asked: Role, precision: Precision) -> Any:
        session = real(self, bundle, asked, precision)
        return Slower(session, share) if asked == role else session

    OnnxRuntimeCpu.open = opened  # type: ignore[method-assign]
    try:
        yield
    finally:
        OnnxRuntimeCpu.open = real  # type: ignore[method-assign]


def share_of(measured: Measured, stage: str, plant: float) -> float:
    """By what share a stage has to become slower, so that all becomes slower by ``plant``."""
    return plant * measured.at("total") / measured.at(stage)


def call(*words: object) -> tuple[int, dict[str, Any]]:
    """Run the command; return its exit code and its report."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = _run(["bench", "--json", *map(str, words)])
    return code, json.loads(said.getvalue() or "{}")


def told(what: str, code: int, wanted: int, report: dict[str, Any]) -> bool:
    """Print what came of a call; return whether it is as it must be."""
    found = report.get("baseline") or {}
    change, spread = found.get("change", float("nan")), found.get("spread", float("nan"))
    judged = "as it must be" if code == wanted else f"WRONG, {wanted} was due"
    print(f"{what:<22} exit {code}  change {change:+7.1%}  spread {spread:6.1%}  {judged}", flush=True)
    return code == wanted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default=None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clean", type=int, default=10, help="clean calls")
    parser.add_argument("--planted", type=int, default=3, help="calls with a delay, for each stage")
    parser.add_argument("--plant", type=float, default=0.2, help="how much slower a draw becomes, as a share")
    parser.add_argument("--repeats", type=int, default=25, help="timed runs of each call")
    asked = parser.parse_args()
    common = ["--provider", "cpu", "--threads", asked.threads, "--repeats", asked.repeats]
    common += ["--bundle", asked.bundle] if asked.bundle else []
    generator = smalti.load(asked.bundle, "cpu", threads=asked.threads)
    usual = measure(generator)
    prior, decoder = PRIOR_ROLES[generator.manifest.family], generator.manifest.resolution().decoder
    right: list[bool] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "baseline.json"
        code, report = call(*common, "--save-baseline", file)
        score = report["score"]
        print(f"{usual.bundle}, {asked.threads} threads, {asked.repeats} runs a call, exit {code}")
        print(f"baseline: score {score['median']:.3f}, spread {score['spread'] / score['median']:.1%}")
        for number in range(asked.clean):
            right.append(told(f"clean {number + 1}", *_with(0, call(*common, "--baseline", file))))
        for stage, role in (("network", prior), ("decoder", decoder)):
            share = share_of(usual, stage, asked.plant)
            for number in range(asked.planted):
                with planted(role, share):
                    outcome = call(*common, "--baseline", file)
                right.append(told(f"{asked.plant:.0%} in {stage} {number + 1}", *_with(REGRESSION, outcome)))
    print(f"{sum(right)} of {len(right)} calls are as they must be")
    return 0 if all(right) else 1


def _with(wanted: int, outcome: tuple[int, dict[str, Any]]) -> tuple[int, int, dict[str, Any]]:
    code, report = outcome
    return code, wanted, report


if __name__ == "__main__":
    sys.exit(main())
