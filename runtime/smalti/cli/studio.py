"""``smalti studio``: a page to paint on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smalti.cli.options import PrecisionOption, ProviderOption, ThreadsOption
from smalti.cli.plain import App
from smalti.cli.serve import BundlesOption, MeanwhileOption

app = App()


@app.command()
def main(
    bundles: BundlesOption = None,
    port: Annotated[int, typer.Option(metavar="NUMBER", help="0 takes any that is free.")] = 0,
    gallery: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where pictures are kept. [default: smalti in your pictures]"),
    ] = None,
    opens: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    provider: ProviderOption = "auto",
    meanwhile: MeanwhileOption = None,
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Open a page to generate, paint and repaint pictures. It runs on this machine, and only you can open it."""
    import secrets
    import webbrowser

    from smalti.web.running import listen
    from smalti.web.serving import Serving
    from smalti.web.studio.gallery import Gallery, default_folder

    kept = Gallery(default_folder() if gallery is None else gallery)
    serving = Serving(port=port, token=secrets.token_urlsafe(24), timeout=600.0, drain=5.0)
    opened = webbrowser.open if opens else None
    listen(
        serving,
        bundles or (),
        provider,
        precision,
        threads,
        meanwhile=meanwhile,
        tell=typer.echo,
        gallery=kept,
        opened=opened,
    )
