"""How well ``budget_ms`` is kept: python bench/speed/budget.py [BUNDLE] [--runs 100]

For each budget the bundle is drawn many times with other seeds. Printed are the steps; how many runs took at most 15 %
longer than asked; how many used 70 % of the time or more; how many did not although one more step would have fitted
("idle"); and the shares of the time that were used. "kept" says whether at least 90 of 100 runs were in time, and at
most 10 idle. A machine that does other work at the same time keeps less.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import NamedTuple

import smalti

OVER, USED = 1.15, 0.70
KEPT = 0.90
"""Share of the runs that are to be in time, and of those that are not to be idle."""
BUDGETS = (60, 100, 200, 400)


class Run(NamedTuple):
    """One picture."""

    steps: int
    share: float
    """Of the time that was asked for."""
    more: bool
    """Whether one step more would have fitted."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS, metavar="MILLISECONDS")
    options = parser.parse_args()
    gen = smalti.load(options.bundle, options.provider)
    gen.warm_up()
    print(f"{gen.manifest.name} on {gen.report.actual}, {gen.report.device}, {gen.report.threads} threads")
    names = ("within +15 %", "used 70 % or more", "idle", "median", "least tenth", "most tenth", "kept")
    print(f"{'budget':>8}{'steps':>12}" + "".join(f"{name:>{len(name) + 3}}" for name in names))
    for budget in options.budgets:
        gen.generate(budget_ms=budget)
        told = summary([measured(gen, seed, budget) for seed in range(options.runs)])
        print(
            f"{budget:>5g} ms{told[0]:>12}" + "".join(f"{one:>{len(name) + 3}}" for name, one in zip(names, told[1:]))
        )


def measured(gen: smalti.Generator, seed: int, budget: float) -> Run:
    """Draw one picture within a time in milliseconds."""
    started = time.perf_counter()
    result = gen.generate(seed=seed, budget_ms=budget)
    share = (time.perf_counter() - started) * 1000 / budget
    steps = result.settings.value("steps")
    most = gen.manifest.noise.steps if gen.manifest.noise else result.tokens[0].size
    each = (result.timings.network + result.timings.draw) * 1000 / steps / budget
    return Run(steps, share, more=steps < most and share + each <= 1)


def summary(runs: list[Run]) -> tuple[str, ...]:
    """What is printed of the runs of one budget."""
    shares, steps = sorted(run.share for run in runs), [run.steps for run in runs]
    within = sum(share <= OVER for share in shares)
    used = sum(share >= USED for share in shares)
    idle = sum(run.share < USED and run.more for run in runs)
    kept = within >= KEPT * len(runs) and len(runs) - idle >= KEPT * len(runs)
    tenth = len(shares) // 10
    spread = [f"{share:.0%}" for share in (statistics.median(shares), shares[tenth], shares[-1 - tenth])]
    counts = [f"{count} of {len(runs)}" for count in (within, used)]
    return f"{min(steps)} .. {max(steps)}", *counts, str(idle), *spread, "yes" if kept else "no"


if __name__ == "__main__":
    main()
