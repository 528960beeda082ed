"""The runtime's verbs, all in one app."""

from __future__ import annotations

from typing import Annotated

import typer

from smalti import __version__
from smalti.cli.bench import bench
from smalti.cli.bundle import app as bundle_app
from smalti.cli.coding import decode, embed, encode
from smalti.cli.completion import completion
from smalti.cli.doctor import doctor
from smalti.cli.engine import app as engine_app
from smalti.cli.generate import generate
from smalti.cli.listing import bundles, labels
from smalti.cli.plain import App
from smalti.cli.repaint import inpaint, outpaint, vary
from smalti.cli.verbs import LAZY

app = App(
    no_args_is_help=True,
    help="Vector-quantised image models, run without torch.",
    epilog="Exit codes: 0 ok, 1 error, 2 usage, 3 bad bundle, 4 no such provider, 5 engine not built, 6 parity failed, "
    "7 slower than a baseline, 130 interrupted.",
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
app.command()(bench)


def _placeholder(verb: str, help_line: str) -> None:
    """List a verb in the help that is loaded when it is called; calls never come this far (see smalti.cli.main)."""
    group, name = verb.rpartition(" ")[::2]

    @GROUPS[group].command(name, help=help_line, own_help=False)
    def _(arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:  # pyright: ignore[reportUnusedFunction]
        del arguments


for _verb, (_, _help) in LAZY.items():
    _placeholder(_verb, _help)
