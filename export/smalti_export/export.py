"""Export a prior's run as a bundle: trace, pack, quantise and measure first, write last."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from smalti.bundle import manifest, manifest_file
from smalti.bundle.manifest import Manifest, Precision, SamplerDefaults
from smalti.bundle.reader import MANIFEST, open_bundle
from smalti.errors import BundleError, UsageError
from smalti.families.settings import resolve
from smalti.system.files import check_folder, flush, replace_folder, whole_folder
from smalti.system.platform import reachable
from smalti_export.again import pair_of
from smalti_export.builder import PRECISIONS, make_draft
from smalti_export.defaults import sampler_defaults
from smalti_export.source import Pair, canvases, class_names, data_licences, load_pair, provenance, with_embedding
from smalti_train.data import ImageSet
from smalti_train.data.config import open_split
from smalti_train.models.pixels import PixelCodes
from smalti_train.runs.config import noise_of


def export_bundle(
    run: Path,
    output: Path,
    *,
    name: str | None = None,
    defaults: SamplerDefaults | Mapping[str, Any] | None = None,
    decoder_from: Path | None = None,
    preview_from: Path | None = None,
    precisions: Collection[str] = PRECISIONS,
    say: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Write the bundle of a prior's run to the folder ``output``; return the variants that missed their tolerance.

    The runtime runs every variant, and its results are compared with the torch model's. A variant that misses its
    tolerance is left out and named in the returned list, which is empty when all is well. If an fp32 graph misses,
    nothing is written.

    ``defaults`` are the bundle's sampling settings: all of them, or only those that differ from the family's (see
    :func:`smalti_export.defaults.sampler_defaults`). ``decoder_from`` is the run of an autoencoder whose decoder was
    trained further, or of heads for larger pictures; ``preview_from`` is the run of a preview decoder distilled from it
    (see ``smalti_export.source.load_pair``). ``precisions`` are some of fp32, fp16 and int8; fp32 is always written,
    because the others are made from it. ``output`` must not exist, or be a bundle and hold nothing else; that bundle is
    replaced whole.

    Raises UsageError when the run cannot be exported, its prior does not allow the defaults, or ``output`` holds
    something else; ParityError when an fp32 graph misses its tolerance; OutputError when writing fails.
    """
    output, wanted = _checked(output, precisions)
    pair = load_pair(run, decoder_from, preview_from)
    if not isinstance(defaults, SamplerDefaults):
        defaults = sampler_defaults(pair.family, defaults or {})
    return _export(pair, output, name or pair.prior_run.preset, defaults, wanted, say)


def export_again(
    source: str | Path | None,
    output: Path,
    *,
    defaults: Mapping[str, Any] | None = None,
    precisions: Collection[str] = PRECISIONS,
    say: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Write the bundle of another bundle's weights, as :func:`export_bundle` does from a run.

    ``source`` is a bundle's path or name; it must be one of a preset of smalti. Weights, name and sampling settings
    stay, but for the ``defaults`` that are given. Raises UsageError for another bundle.
    """
    output, wanted = _checked(output, precisions)
    bundle = open_bundle(source)
    pair, before = pair_of(bundle), bundle.manifest
    settings = msgspec.structs.replace(before.sampler, **(defaults or {}))
    return _export(pair, output, before.name, settings, wanted, say)


def _checked(output: Path, precisions: Collection[str]) -> tuple[Path, list[Precision]]:
    """Return where to write and what, once it is known that it can be."""
    output = reachable(output.resolve())  # replace the folder that a link leads to, not the link
    _check_output(output)
    if unknown := [one for one in precisions if one not in PRECISIONS]:
        raise UsageError(f"precision {unknown[0]!r}: allowed are {', '.join(PRECISIONS)}")
    return output, [one for one in PRECISIONS if one == "fp32" or one in precisions]


def _export(
    pair: Pair,
    output: Path,
    name: str,
    defaults: SamplerDefaults,
    wanted: Sequence[Precision],
    say: Callable[[str], None],
) -> list[str]:
    validation = open_split(pair.prior_run.data, "validation")
    record = describe(pair, validation, name, defaults)
    resolve(record, 1, 0, {})  # refuses settings that the family does not allow, before any work
    _check_holds(record)
    if pair.embedding is None:
        say("encoder: fitting the embedding")
        pair = with_embedding(pair, validation)
    draft = make_draft(pair, validation, record, say, wanted)
    record = msgspec.structs.replace(
        record,
        components=draft.components,
        weights=tuple(draft.weights),
        certificate=tuple(draft.measures),
        golden=draft.golden,
    )
    listed = manifest_file.encode(record)
    manifest_file.decode(listed, str(output))  # never replace a bundle by one that cannot be opened
    _write(output, {**draft.files, MANIFEST: listed})
    return draft.failures


def describe(pair: Pair, images: ImageSet, name: str, defaults: SamplerDefaults) -> Manifest:
    """The manifest before it has components. ``images`` resemble the prior's training images."""
    return Manifest(
        schema_version=manifest.SCHEMA_VERSION,
        name=name,
        family=pair.family,
        licence=pair.licence,
        data_licences=data_licences(pair, images),
        provenance=provenance(pair),
        latent=manifest.Latent(
            grid=pair.grid,
            codes=pair.prior_run.model.codes,
            factor=pair.autoencoder.config.factor,
            halo=pair.halo,
            pixels="grey" if isinstance(pair.autoencoder, PixelCodes) else None,
            preview_halo=None if pair.preview is None else pair.preview.config.halo,
            encoder_halo=pair.encoder_halo,
        ),
        resolutions=pair.resolutions,
        canvases=canvases(pair, images),
        classes=class_names(pair, images),
        sampler=defaults,
        components={},
        weights=(),
        certificate=(),
        noise=noise_of(pair.prior_run.model),
    )


def _check_holds(record: Manifest) -> None:
    """Refuse, before any work, values that a manifest cannot hold: sizes, defaults, or a name that is not text."""
    try:
        msgspec.json.decode(manifest_file.encode(record), type=Manifest)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise UsageError(f"no bundle can hold this: {error}") from None


def _check_output(output: Path) -> None:
    """Refuse, before any work, a folder that cannot be written or that holds something other than a bundle."""
    check_folder(output.parent)
    if not output.exists():
        return
    try:
        known = {
            MANIFEST,
            *(record.file for record in manifest_file.decode((output / MANIFEST).read_bytes(), "it").files()),
        }
    except (OSError, BundleError):
        raise UsageError(
            f"{output} exists and is not a bundle of this version of smalti; name a folder that does not exist yet"
        ) from None
    if others := sorted({path.name for path in output.iterdir()} - known):
        raise UsageError(f"{output} would be replaced, and {others[0]} in it is not of the bundle; move it elsewhere")


def _write(output: Path, files: dict[str, bytes]) -> None:
    """Write a folder beside its final place, then move it there whole."""
    with whole_folder(output) as partial:
        for file, content in files.items():
            (partial / file).write_bytes(content)
            flush(partial / file)
        _check_output(output)  # again: the folder may have changed during the work
        replace_folder(partial, output)
