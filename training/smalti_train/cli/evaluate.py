"""``smalti evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from smalti.cli.options import JsonOption, PrecisionOption, sampling_options, takes_sampling
from smalti.cli.plain import App
from smalti.errors import UsageError

app = App()


@app.command()
@takes_sampling("resolution", "size", "stride", before="precision")
def main(
    subject: Annotated[str, typer.Argument(metavar="BUNDLE|RUN", help="A bundle (path or name) or a run's folder.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Folder for figures, report and sheets."),
    ] = None,
    data: Annotated[str, typer.Option(metavar="NAME", help="Data set: avatars, folder or fashion-mnist.")] = "avatars",
    root: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the images, for data sets that need one.")
    ] = None,
    train_count: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Training images to look for copies of.")
    ] = None,
    per_label: Annotated[int, typer.Option(metavar="NUMBER", help="Unseen images, and samples, of every label.")] = 250,
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="Seed of the first sample.")] = 0,
    features: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Inception-v3 or VGG16 weights. [default: EffNet-Lite0]")
    ] = None,
    precision: PrecisionOption = "auto",
    blur: Annotated[
        float,
        typer.Option(metavar="PIXELS", help="Measure coverage also with all images blurred by so many pixels."),
    ] = 0.0,
    as_json: JsonOption = False,
    **sampling: Any,
) -> None:
    """Measure a bundle or a run on images it has never seen, and its samples against them.

    Where no sampler option is given, a bundle draws by its defaults, a run in 16 even steps at temperature 1.
    """
    if per_label < 10:
        raise UsageError(f"per-label {per_label}: at least 10 images of each label are needed to compare anything")
    if not 0 <= blur <= 16:
        raise UsageError(f"blur {blur}: 0 to 16 pixels")
    # All three need torch, which help does without.
    from smalti_train.evaluation.features import open_features
    from smalti_train.evaluation.report import evaluate, text, write
    from smalti_train.evaluation.subject import data_of, open_subject

    options = sampling_options(sampling)
    opened = open_subject(subject, precision=precision, **options)
    network = open_features(features)  # first, so that a wrong file wastes no work
    where = None if root is None else str(root)
    # Labels take turns in the avatars, so this many images hold enough of each. Other data sets may have fewer.
    labels = len(data_of(data, opened.size, 16, where).label_names)
    test = data_of(data, opened.size, 2 * per_label * labels, where)
    train = data_of(data, opened.size, train_count, where, "train") if opened.draw else None
    figures, sheets = evaluate(opened, network, test, train, per_label, seed, blur)
    if output is not None:
        for path in write(output, figures, sheets):
            typer.echo(path, err=True)
    typer.echo(json.dumps(figures, indent=2) if as_json else text(figures))
