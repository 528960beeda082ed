"""``smalti batch``: many pictures drawn or described, in whole files, over processes or on a cluster of Ray."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from smalti.backends.registry import PROVIDERS
from smalti.cli.completion import complete_bundle, complete_precision, complete_provider
from smalti.cli.escape import printable
from smalti.cli.options import (
    BundleOption,
    DrawnLabelsOption,
    FitOption,
    JsonOption,
    ResolutionOption,
    check_labels,
    sampling_options,
    takes_sampling,
)
from smalti.cli.plain import App
from smalti.system.platform import command_line

app = App(no_args_is_help=True, help="Many pictures, drawn or described, over processes or on a cluster of Ray.")

FolderOption = Annotated[
    Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where files are written; on a cluster, a shared one.")
]
SourceArgument = Annotated[
    Path | None,
    typer.Argument(metavar="PICTURES", help="A folder of pictures, with what is below it, or a text file of paths."),
]
ProviderOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        envvar="SMALTI_PROVIDER",
        help=f"auto, {', '.join(PROVIDERS)}. [default: auto]",
        autocompletion=complete_provider,
    ),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="auto, fp32, fp16 or int8. [default: auto]", autocompletion=complete_precision),
]
ThreadsOption = Annotated[int | None, typer.Option(metavar="NUMBER", help="Cores of each actor. [default: 1]")]
RowsOption = Annotated[
    int | None, typer.Option(metavar="NUMBER", help="Rows of a file, the most that is lost at a time. [default: 256]")
]
ActorsOption = Annotated[
    int | None, typer.Option(metavar="NUMBER", help="Workers. [default: as there are cores or GPUs]")
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        metavar="local|auto|HOST:PORT",
        help="Run on Ray: one of its own, the cluster that runs here, or that of an address. [default: processes]",
    ),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with what the folder holds; the rest may be left out.")
]


@app.command()
@takes_sampling(before="bundle")
def generate(
    output: FolderOption,
    count: Annotated[int | None, typer.Option(metavar="NUMBER", help="Pictures to draw.")] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Seed of picture 0; picture i has seed + i. [default: 0]")
    ] = None,
    label: DrawnLabelsOption = None,
    keep: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="png, pixels or none: what is kept beside the tokens. [default: png]"),
    ] = None,
    format: Annotated[
        str | None, typer.Option(metavar="NAME", help="parquet, webdataset or folder. [default: parquet]")
    ] = None,
    rows_per_file: RowsOption = None,
    actors: ActorsOption = None,
    address: AddressOption = None,
    resume: ResumeOption = False,
    bundle: BundleOption = None,
    provider: ProviderOption = None,
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    **sampling: Any,
) -> None:
    """Draw pictures: tokens, seed, label, PNG and digest of each, in files that appear whole.

    Killed at any time and resumed, it leaves the same pictures.
    """
    from smalti.batch.asking import Asked, plan_draw

    if count is not None:
        check_labels(label, count)
    fields = {"rows": count, "seed": seed, "keep": keep, "format": format, "rows_per_file": rows_per_file}
    fields |= {"provider": provider, "precision": precision}
    planned = plan_draw(Asked(output, resume, bundle, fields, label, sampling_options(sampling)))
    _run(output, planned, threads, address, actors, as_json)


@app.command()
def embed(
    pictures: SourceArgument = None,
    *,
    output: FolderOption,
    rows_per_file: RowsOption = None,
    actors: ActorsOption = None,
    address: AddressOption = None,
    resume: ResumeOption = False,
    bundle: BundleOption = None,
    provider: ProviderOption = None,
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn pictures into vectors of length 1, in Parquet, with the path and the sha256 of each.

    Pictures that cannot be read are named in failed.jsonl; the exit code is then 1.
    """
    from smalti.batch.asking import Asked, plan_description

    fields = {"rows_per_file": rows_per_file, "provider": provider, "precision": precision}
    planned = plan_description(Asked(output, resume, bundle, fields, source=pictures), "embed")
    _run(output, planned, threads, address, actors, as_json)


@app.command()
def encode(
    pictures: SourceArgument = None,
    *,
    output: FolderOption,
    resolution: ResolutionOption = None,
    fit: FitOption = None,
    rows_per_file: RowsOption = None,
    actors: ActorsOption = None,
    address: AddressOption = None,
    resume: ResumeOption = False,
    bundle: BundleOption = None,
    provider: ProviderOption = None,
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn pictures into tokens, in Parquet, with the path and the sha256 of each. Sizes may differ.

    Pictures that cannot be read, or do not fit, are named in failed.jsonl; the exit code is then 1.
    """
    from smalti.batch.asking import Asked, plan_description

    fields = {"rows_per_file": rows_per_file, "provider": provider, "precision": precision}
    options = {"resolution": resolution, "fit": fit}
    planned = plan_description(Asked(output, resume, bundle, fields, options=options, source=pictures), "encode")
    _run(output, planned, threads, address, actors, as_json)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What a batch wrote.")],
    sample: Annotated[
        int, typer.Option(metavar="NUMBER", help="Rows that are made again on this machine, and compared; 0 for none.")
    ] = 8,
    actors: ActorsOption = None,
    address: AddressOption = None,
    bundle: Annotated[
        str | None,
        typer.Option(
            metavar="BUNDLE", help="Where the bundle lies, if elsewhere than before.", autocompletion=complete_bundle
        ),
    ] = None,
    provider: ProviderOption = None,
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that a batch is complete, that each row is there once, and that none has changed.

    What is missing, doubled or changed is named; the exit code is then 1.
    """
    from dataclasses import replace

    from smalti.batch import job
    from smalti.batch.asking import loading_of
    from smalti.batch.plan import read_plan
    from smalti.errors import UsageError

    if sample < 0:
        raise UsageError(f"sample {sample}: 0 or more rows")
    loading = loading_of(read_plan(folder), threads)
    given = {"bundle": bundle, "provider": provider, "precision": precision}
    loading = replace(loading, **{name: value for name, value in given.items() if value is not None})
    found = job.verify(folder, loading, _running(address, actors), sample, follow=_follow())
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
    else:
        lines = [f"! {line}" for line in found.problems] + list(found.notes)
        wrong = len(found.problems)
        lines.append(
            f"{folder}: {_many(found.rows, 'row')} in {_many(found.files, 'file')}, {found.failed} failed, "
            f"{found.equal} of {found.sampled} made again are equal; "
            + (_many(wrong, "problem") if wrong else "complete, each once, unchanged")
        )
        typer.echo("\n".join(map(printable, lines)))
    if found.problems:
        raise typer.Exit(1)


def _run(
    folder: Path, planned: Any, threads: int | None, address: str | None, actors: int | None, as_json: bool
) -> None:
    """Do the work, and report it."""
    from smalti.batch import job
    from smalti.batch.asking import loading_of

    running = _running(address, actors)
    try:
        done = job.run(folder, loading_of(planned, threads), running, follow=_follow(), tell=_say)
    except (KeyboardInterrupt, SystemExit):
        _say(
            f"what is written stays whole; go on with '{command_line()} batch {planned.plan.work} --resume -o {folder}'"
        )
        raise
    if as_json:
        typer.echo(json.dumps(done.to_dict(), indent=2))
    else:
        rate = f", {done.per_second:.3g} per second" if done.per_second else ""
        there = f"; {done.there} were there" if done.there else ""
        what = f"{_many(done.rows, 'row')} in {_many(done.files, 'file')}"
        typer.echo(printable(f"{folder}: {what}, {done.seconds:.1f} s{rate}{there}"))
    if done.failed:
        _say(f"{_many(done.failed, 'picture')} could not be read: see {folder / job.FAILED}")
        raise typer.Exit(1)


def _running(address: str | None, actors: int | None) -> Any:
    """Return where the work is done. Without Ray, ``local`` is processes of this machine, which is said."""
    from smalti.batch.cluster import LOCAL, check_address
    from smalti.batch.job import Running
    from smalti.batch.libraries import has_ray
    from smalti.errors import UsageError

    if actors is not None and not 1 <= actors <= 2**16:
        raise UsageError(f"actors {actors}: at least 1 is needed, and at most {2**16} are taken")
    if address is not None:
        check_address(address)
        if address == LOCAL and not has_ray():
            _say("Ray is not installed; the work is done by processes of this machine, which write the same files")
            address = None
    return Running(address, actors)


def _follow() -> Any:
    from smalti.batch.progress import Follow

    return Follow(None, 0, stream=sys.stderr)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _say(line: str) -> None:
    typer.echo(printable(line), err=True)
