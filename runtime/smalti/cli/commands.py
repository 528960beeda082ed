"""The runtime's verbs, all in one app."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from smalti import __version__
from smalti.cli.bundle import app as bundle_app
from smalti.cli.coding import decode, embed, encode
from smalti.cli.completion import completion
from smalti.cli.doctor import doctor
from smalti.cli.engine import app as engine_app
from smalti.cli.generate import generate
from smalti.cli.listing import bundles, labels
from smalti.cli.options import (
    BundleOption,
    JsonOption,
    PrecisionOption,
    ProviderOption,
    ResolutionOption,
    ThreadsOption,
)
from smalti.cli.plain import App
from smalti.cli.repaint import inpaint, outpaint, vary
from smalti.cli.verbs import LAZY
from smalti.loading.load import load
from smalti.verification.benchmark import measure

app = App(
    no_args_is_help=True,
    help="Vector-quantised image models, run without torch.",
    epilog="Exit codes: 0 ok, 1 error, 2 usage, 3 bad bundle, 4 no such provider, 5 engine not built, 6 parity failed, "
    "130 interrupted.",
)

GROUPS = {"": app, "engine": engine_app}
"""What verbs that are loaded when they are called are listed in, by the words before the last."""


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"smalti {__version__}")
        raise typer.Exit


for _verb in (generate, inpaint, outpaint, vary, encode, decode, embed):
    app.command()(_verb)
app.command()(labels)
app.command()(bundles)
app.add_typer(bundle_app, name="bundle")
app.add_typer(engine_app, name="engine")
app.command()(doctor)
app.command()(completion)


@app.command()
def bench(
    bundle: BundleOption = None,
    provider: ProviderOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    count: Annotated[int, typer.Option(metavar="NUMBER", help="Images per batch.")] = 1,
    steps: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Diffusion steps; the bundle's own by default.")
    ] = None,
    repeats: Annotated[int, typer.Option(metavar="NUMBER", help="Timed runs; the median is reported.")] = 5,
    resolution: ResolutionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure seconds per megapixel, split into network, draw, decoder and host."""
    loaded = load(bundle, provider, precision, threads)
    report = measure(loaded, count=count, steps=steps, repeats=repeats, resolution=resolution)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    typer.echo(
        f"{report['bundle']}: {report['count']} x {report['width']}x{report['height']}, {report['steps']} steps "
        f"({report['network_calls']} network calls), {report['provider']['runtime']}, "
        f"{report['precision']}, {report['provider']['threads']} threads"
    )
    typer.echo(f"{'stage':<10}{'seconds':>10}{'s/megapixel':>14}{'share':>9}")
    for stage, seconds in report["seconds"].items():
        share = seconds / report["seconds"]["total"]
        typer.echo(f"{stage:<10}{seconds:>10.4f}{report['seconds_per_megapixel'][stage]:>14.3f}{share:>9.1%}")


def _placeholder(verb: str, help_line: str) -> None:
    """List a verb in the help that is loaded when it is called; calls never come this far (see smalti.cli.main)."""
    group, name = verb.rpartition(" ")[::2]

    @GROUPS[group].command(name, help=help_line, own_help=False)
    def _(arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:  # pyright: ignore[reportUnusedFunction]
        del arguments


for _verb, (_, _help) in LAZY.items():
    _placeholder(_verb, _help)
