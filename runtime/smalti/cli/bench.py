"""``smalti bench``: seconds per megapixel of a bundle on this machine, and whether they became more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Final

import typer

from smalti.cli.completion import complete_bundle
from smalti.cli.escape import printable
from smalti.cli.loading import loaded
from smalti.cli.options import (
    BundleArgument,
    JsonOption,
    PrecisionOption,
    ProviderOption,
    ResolutionOption,
    ThreadsOption,
)
from smalti.errors import SpeedRegression, UsageError
from smalti.system.files import check_writable, write_whole
from smalti.verification.speed.baseline import ALLOWED, Compared, read_baseline, write_baseline
from smalti.verification.speed.plot import plot as drawn
from smalti.verification.speed.report import report_lines, report_values
from smalti.verification.speed.run import Asked, run
from smalti.verification.speed.sweeps import ALL, SWEEPS, read_sweeps

REPEATS, REPEATS_SCORED = 5, 15
"""Timed runs by default, and those for a score."""
AUTO: Final = "auto"


def bench(
    bundle: BundleArgument = None,
    named: Annotated[
        str | None,
        typer.Option(
            "--bundle", metavar="BUNDLE", help="The same, as other commands take it.", autocompletion=complete_bundle
        ),
    ] = None,
    provider: ProviderOption = AUTO,
    precision: PrecisionOption = AUTO,
    threads: ThreadsOption = None,
    count: Annotated[int | None, typer.Option(metavar="NUMBER", help="Images per batch. [default: 1]")] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Diffusion steps; the bundle's own by default.")
    ] = None,
    resolution: ResolutionOption = None,
    repeats: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Timed runs of each kind. [default: 5; 15 for a baseline]")
    ] = None,
    sweeps: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            metavar="NAME[=NUMBERS]",
            help="Measure also against batch, steps, canvas, threads or all; give several. NUMBERS are such as 1,2,4.",
            autocompletion=lambda: [*SWEEPS, ALL],
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Draw stages and sweeps.")] = None,
    save_baseline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the score, for --baseline on this machine.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Measure as this file was, and exit with 7 where it is slower.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure seconds per megapixel, split into network, draw, decoder and host.

    With --baseline, or to save one, draws are timed in turns with a fixed product on as many threads, and compared by
    how many products they take. More than 10 % worse, and more than chance explains, in two measurements, is a
    regression.
    """
    if bundle is not None and named is not None:
        raise UsageError(f"bundle {bundle!r} and --bundle {named!r}: give one of them")
    bundle = named if bundle is None else bundle
    if plot is not None and plot.suffix.lower() != ".svg":
        raise UsageError(f"plot {plot}: name a file that ends in .svg")
    for path in (plot, save_baseline):
        if path is not None:
            check_writable(path)
    asked = read_sweeps(sweeps or ())
    before = None if baseline is None else read_baseline(baseline)
    if before is not None:  # what is not given is as it was
        provider = before.provider if provider == AUTO else provider
        precision = before.asked_precision if precision == AUTO else precision
        threads = before.threads if threads is None else threads
        count = before.count if count is None else count
        steps = before.steps if steps is None else steps
        resolution = before.resolution if resolution is None else resolution
        repeats = before.repeats if repeats is None else repeats
    scored = before is not None or save_baseline is not None
    report = run(
        Asked(
            count=1 if count is None else count,
            steps=steps,
            resolution=resolution,
            repeats=(REPEATS_SCORED if scored else REPEATS) if repeats is None else repeats,
            scored=scored,
            sweeps=asked,
            leaves_out=ALL in (sweeps or ()),
        ),
        lambda other: loaded(bundle, provider, precision, threads if other is None else other),
        before,
    )
    if plot is not None:
        write_whole(plot, drawn(report).encode())
    if save_baseline is not None and report.scored is not None:
        write_baseline(save_baseline, report.scored)
    if as_json:
        typer.echo(json.dumps(report_values(report), indent=2))
    else:
        typer.echo("\n".join(map(printable, report_lines(report))))
    if report.compared is not None and report.compared.verdict.regression:
        raise SpeedRegression(told(report.compared))


def told(compared: Compared) -> str:
    """Say how much slower draws became."""
    verdict = compared.verdict
    return (
        f"draws of {compared.baseline.bundle} are {verdict.change:.1%} slower than the baseline, in two measurements; "
        f"{ALLOWED:.0%} is allowed, and chance explains {verdict.spread:.1%}"
    )
