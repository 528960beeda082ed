"""Certified bundles of published recipes at full size with random weights, and torch models of the same.

A bundle is exported as any other, so an int8 variant is there only if it is within its tolerances.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from published import defaults, random_models, write_run
from safetensors.torch import load_file, save_file
from torch import nn

from smalti.bundle.manifest import Precision
from smalti.bundle.reader import MANIFEST, Bundle, open_bundle
from smalti_export.export import export_bundle
from smalti_train.models.meta_init import unfilled
from smalti_train.presets.catalogue import AUTOENCODERS, PRIORS
from smalti_train.runs.loading import build_autoencoder, build_prior
from torch_way.models import Models

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


def build(recipe: str, work: Path, say: Callable[[str], None] = print) -> Path:
    """Make a recipe's bundle in ``work`` unless it is there, with torch's weights beside it; return its folder.

    ``say`` gets the export's progress, and why a variant was left out.
    """
    folder = work / recipe
    if (folder / MANIFEST).exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(_beside(folder), ignore_errors=True)
    _beside(folder).mkdir(parents=True)
    codec, prior = random_models(recipe)
    for name, model in (("codec", codec), ("prior", prior)):
        state = {key: value.contiguous() for key, value in model.state_dict().items()}
        save_file(
            state, _beside(folder) / f"{name}.safetensors"
        )  # fp32, so that torch maps it and needs no second copy
    with tempfile.TemporaryDirectory(dir=work) as run:
        write_run(recipe, Path(run), (codec, prior))
        del codec, prior
        for line in export_bundle(Path(run) / "run", folder, defaults=defaults(recipe), precisions=PRECISIONS, say=say):
            say(f"left out: {line}")
    return folder


def shipped(bundle: Bundle, roles: tuple[str, ...]) -> list[Precision]:
    """Return the precisions that all of these components have."""
    have = [bundle.manifest.components[role].variants for role in bundle.manifest.components if role in roles]
    return [one for one in PRECISIONS if all(one in {variant.precision for variant in each} for each in have)]


def int8_certificate(folder: Path) -> dict[str, dict[str, float]]:
    """Figures of a bundle's int8 variants by component, as its export measured them."""
    measures = open_bundle(folder).manifest.certificate
    return {measure.component: measure.figures for measure in measures if measure.precision == "int8"}


def torch_models(folder: Path, *, prior: bool = True) -> Models:
    """The torch models, fp32, of a bundle that :func:`build` made; without ``prior`` that one stays empty."""
    recipe = folder.name
    with unfilled():
        models = build_prior(PRIORS[recipe].model), build_autoencoder(AUTOENCODERS[recipe].model)
    for name, model in zip(("prior", "codec"), models):
        if prior or name == "codec":
            _filled(model, _beside(folder) / f"{name}.safetensors")
    return Models(*models)


def _beside(folder: Path) -> Path:
    """Where torch's weights are: a bundle's folder holds nothing else."""
    return folder.with_name(f"{folder.name}.torch")


def _filled(model: nn.Module, file: Path) -> None:
    model.load_state_dict(load_file(file), assign=True)
    model.eval()
