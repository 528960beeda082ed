"""``smalti serve``: pictures over HTTP, for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smalti.cli.completion import complete_bundle, complete_provider
from smalti.cli.options import PrecisionOption, ProviderOption, ThreadsOption
from smalti.cli.plain import App
from smalti.errors import UsageError

app = App()

BundlesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--bundle",
        metavar="[NAME=]BUNDLE",
        help="Path or name of a bundle, with a name for clients; give several. [default: the embedded one]",
        autocompletion=complete_bundle,
    ),
]
HostOption = Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen; others than loopback need a token.")]
AllowOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host",
        metavar="NAME",
        help="A name by which clients call this server; give several. [default: its own]",
    ),
]

MeanwhileOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Another provider, which draws until --provider is ready, as while its engines are built.",
        autocompletion=complete_provider,
    ),
]


@app.command()
def main(
    host: HostOption = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="NUMBER", help="0 takes any that is free.")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file with the token that clients have to show.")
    ] = None,
    bundles: BundlesOption = None,
    max_queue: Annotated[int, typer.Option(metavar="NUMBER", help="Requests accepted at a time; others get 429.")] = 16,
    max_batch: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", help="Images that requests may share a batch for. [default: 1; 8 on a GPU]"),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time of a request, its wait included; then it gets 503.")
    ] = 60.0,
    drain: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time for accepted requests after SIGTERM or Ctrl+C.")
    ] = 30.0,
    allow_hosts: AllowOption = None,
    provider: ProviderOption = "auto",
    meanwhile: MeanwhileOption = None,
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Answer requests for pictures: smalti's own calls, and those of clients of OpenAI's images API.

    The interface is shown at /docs. A token may also come as $SMALTI_TOKEN.
    """
    import os

    from smalti.web.running import listen
    from smalti.web.serving import Serving, read_token

    token = read_token(token_file) if token_file is not None else os.environ.get("SMALTI_TOKEN", "").strip() or None
    if not 0 < len(host) < 256:
        raise UsageError(f"host {host!r:.80}: an address of this machine is needed, such as 127.0.0.1")
    serving = Serving(
        host=host,
        port=port,
        token=token,
        allow_hosts=tuple(allow_hosts or ()),
        max_queue=max_queue,
        max_batch=max_batch,
        timeout=timeout,
        drain=drain,
    )
    listen(serving, bundles or (), provider, precision, threads, meanwhile=meanwhile, tell=typer.echo)
