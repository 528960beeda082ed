"""Writing imported models as runs, like those of training; the folder appears only when it is complete."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from smalti.errors import UsageError
from smalti.system.files import move_folder, whole_folder
from smalti_train.data.config import DataConfig
from smalti_train.importers import import_checkpoint
from smalti_train.importers.combined import ImportedModels
from smalti_train.models.autoregressive_transformer import Net2NetTransformer
from smalti_train.models.sundae_transformer import SundaeTransformer
from smalti_train.models.vqgan import VQGAN
from smalti_train.runs.config import (
    CodecRun,
    Imported,
    PriorConfig,
    PriorRun,
    VQGANRun,
    own_objective,
)
from smalti_train.runs.config_files import to_json
from smalti_train.runs.folder import RunFolder
from smalti_train.runs.loading import Autoencoder, load_autoencoder

UNKNOWN_LICENCE = "unknown, see the source of the checkpoint"
MEASURED = 256
"""Number of unseen images on which an export of the run is measured."""


@dataclass(frozen=True)
class _Codec:
    """An autoencoder and its run's configuration."""

    model: Autoencoder
    run: CodecRun


def import_run(
    file: Path,
    source: str,
    output: Path,
    *,
    config: Mapping[str, Any] | None = None,
    autoencoder: Path | None = None,
    classes: Sequence[str] = (),
    licence: str = UNKNOWN_LICENCE,
    data: DataConfig | None = None,
) -> str:
    """Write the model in ``file`` as a run to the folder ``output``; returns a description of what was written.

    ``source`` and ``config`` are those of :func:`smalti_train.importers.import_checkpoint`. A prior needs the run of
    its ``autoencoder``, which is copied into its own, and may have ``classes``, named in order. ``licence`` is that of
    the weights; ``data`` (its name and root) selects the images that exports are measured on.

    Raises UsageError for a folder that exists, a file that does not fit (see ``import_checkpoint``), an autoencoder or
    classes that do not fit the prior; OutputError when writing fails. Errors leave nothing behind.
    """
    if output.exists():
        raise UsageError(f"{output} exists; name a folder that does not exist yet")
    model = import_checkpoint(file, source, config)
    origin = Imported(source, file.name, _sha256(file), licence, tuple(classes))
    data = dataclasses.replace(data or DataConfig(), validation_count=MEASURED)
    if isinstance(model, VQGAN):
        if autoencoder is not None or classes:
            raise UsageError(f"{source} is an autoencoder: --autoencoder and --labels are for priors")
        codec = _Codec(model, _vqgan_run(model, origin, data))
        _write(output, codec, None)
        return f"autoencoder of {_sizes(codec)}"
    if isinstance(model, ImportedModels):
        if autoencoder is not None:
            raise UsageError(f"{source} brings its own autoencoder; leave --autoencoder out")
        prior = model.prior
        codec = _Codec(model.autoencoder, _vqgan_run(model.autoencoder, dataclasses.replace(origin, classes=()), data))
    elif autoencoder is None:
        raise UsageError(f"{source} is a prior: name the run of its autoencoder with --autoencoder (import that first)")
    else:
        prior, codec = model, _Codec(*load_autoencoder(autoencoder))
    run, codec = _fitted(prior, codec, origin, data)
    _write(output, codec, (prior, run))
    rows, columns = run.model.grid or (0, 0)
    return f"prior over {rows}x{columns} tokens, with its autoencoder of {_sizes(codec)}"


def _vqgan_run(model: VQGAN, origin: Imported, data: DataConfig) -> VQGANRun:
    data = dataclasses.replace(data, size=max(model.config.size))
    return VQGANRun(preset=origin.source, model=model.config, data=data, imported=origin)


def _fitted(prior: nn.Module, codec: _Codec, origin: Imported, data: DataConfig) -> tuple[PriorRun, _Codec]:
    """The prior's run, and the autoencoder for images of the prior's grid. Raises UsageError if they do not fit."""
    sizes: PriorConfig = prior.config  # pyright: ignore[reportAssignmentType] - a module's attribute
    if sizes.grid is None:
        raise UsageError(
            f"{origin.source}: its weights do not tell how many rows and columns of tokens an image has; give "
            '"grid": [rows, columns] in the configuration'
        )
    codes, factor = codec.run.model.codes, codec.run.model.factor
    if sizes.codes != codes:
        raise UsageError(
            f"the prior knows {sizes.codes} codes and the autoencoder {codes}: they are of different pairs"
        )
    if isinstance(prior, SundaeTransformer):
        origin = _numbered(prior, origin)
    elif origin.classes:
        if not isinstance(prior, Net2NetTransformer) or len(origin.classes) >= sizes.codes:
            most = sizes.codes - 1 if isinstance(prior, Net2NetTransformer) else 0
            raise UsageError(
                f"{len(origin.classes)} labels: this prior can have {most} classes"
                + (
                    ""
                    if most
                    else " (of those that can be imported, taming's and SUNDAE's alone have any); leave --labels out"
                )
            )
        sizes = dataclasses.replace(sizes, classes=len(origin.classes))
    assert sizes.grid is not None
    pixels = sizes.grid[0] * factor, sizes.grid[1] * factor
    data = dataclasses.replace(data, size=max(pixels))
    run = codec.run
    if isinstance(run, VQGANRun):
        run = dataclasses.replace(run, model=dataclasses.replace(run.model, size=pixels), data=data)
    objective = own_objective(sizes) or "reweighted"
    return (
        PriorRun(preset=origin.source, model=sizes, data=data, objective=objective, imported=origin),
        _Codec(codec.model, run),
    )


def _numbered(prior: SundaeTransformer, origin: Imported) -> Imported:
    """The origin with a name for each class of the weights; without given names, their numbers.

    Raises UsageError for another number of names.
    """
    known = prior.config.classes
    if origin.classes and len(origin.classes) != known:
        raise UsageError(
            f"{len(origin.classes)} labels: this prior has {known} classes"
            + ("; name every one of them, in order" if known else "; leave --labels out")
        )
    return dataclasses.replace(origin, classes=origin.classes or tuple(map(str, range(known))))


def _sizes(codec: _Codec) -> str:
    model = codec.run.model
    return f"{model.codes} codes, {model.factor} pixels per token"


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _write(output: Path, codec: _Codec, prior: tuple[nn.Module, PriorRun] | None) -> None:
    """Write the folder beside its place, then rename it into place."""
    with whole_folder(output) as partial:
        if prior is None:
            (partial / "config.json").write_bytes(to_json(codec.run))
            RunFolder(partial).save(0, {"model": codec.model.state_dict()}, {})
        else:
            network, run = prior
            (partial / "config.json").write_bytes(to_json(run))
            RunFolder(partial).save(0, {"ema": network.state_dict()}, {})
            below = partial / "autoencoder"
            below.mkdir()
            (below / "config.json").write_bytes(to_json(codec.run))
            tensors = {name: value.contiguous() for name, value in codec.model.state_dict().items()}
            save_file(tensors, below / "model.safetensors")
        move_folder(partial, output)
