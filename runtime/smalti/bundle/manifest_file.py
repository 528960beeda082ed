"""``manifest.json`` read and written, and the checks that its records fit each other.

Records are typed and validated on reading; an error names the field that does not fit.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import PurePosixPath

import msgspec

from smalti.bundle.manifest import (
    AGAIN,
    PRIOR_ROLES,
    SCHEMA_VERSION,
    Manifest,
    Role,
    decoder_role,
    kind_of,
    missed,
    own_resolution,
)
from smalti.errors import BundleError
from smalti.system.platform import is_portable

READABLE = (1, 2)
"""Versions that are read. Version 1 knew one size of pictures, and nothing of canvases or an encoder's halo."""


def encode(manifest: Manifest) -> bytes:
    """Encode as readable JSON; equal manifests give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=2) + b"\n"


def decode(raw: bytes, where: str) -> Manifest:
    """Read and check a manifest. Raises BundleError with the reason and ``where``."""
    try:
        version = msgspec.json.decode(raw, type=_Version).schema_version
    except _UNREADABLE as error:
        raise BundleError(f"{where}: manifest.json cannot be read: {error}. {AGAIN}") from None
    if version not in READABLE:
        raise BundleError(
            f"{where}: manifest.json has schema version {version}, and this smalti reads up to {SCHEMA_VERSION}. "
            + ("Update smalti." if version > SCHEMA_VERSION else "Export the bundle again.")
        )
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except _UNREADABLE as error:
        raise BundleError(f"{where}: manifest.json does not fit: {error}. {AGAIN}") from None
    _check(manifest, where)
    return manifest


_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Errors of msgspec for bytes that are not the expected JSON, or are nested too deeply."""


class _Version(msgspec.Struct):
    schema_version: int


def _check(manifest: Manifest, where: str) -> None:
    names = {record.file for record in manifest.weights}
    seen = {"manifest.json"}
    for record in manifest.files():
        if not is_plain(record.file):
            raise BundleError(
                f"{where}: manifest.json names {record.file!r}, which is not a file inside the bundle, of letters, "
                "digits and ._-, with a name that every system takes"
            )
        if record.file.casefold() in seen:  # some file systems ignore case
            raise BundleError(f"{where}: manifest.json names {record.file!r} twice; every file is listed once")
        seen.add(record.file.casefold())
    for role, component in manifest.components.items():
        for variant in component.variants:
            if missing := set(variant.weights) - names:
                raise BundleError(f"{where}: {role} {variant.precision} reads {sorted(missing)}, not among the weights")
        if "fp32" not in {variant.precision for variant in component.variants}:
            raise BundleError(f"{where}: {role} has no variant in fp32, which every component has. {AGAIN}")
    prior = PRIOR_ROLES[manifest.family]
    needed: list[Role] = [prior] if manifest.latent.pixels else [prior, "decoder"]
    if missing := set(needed) - set(manifest.components):
        raise BundleError(
            f"{where}: the bundle has no {' and no '.join(sorted(missing))}; one of the family {manifest.family} has "
            f"a {' and a '.join(needed)}"
        )
    if (manifest.noise is None) == (manifest.family == "multinomial"):
        raise BundleError(
            f"{where}: noise says how much there is at each time in bundles of the family multinomial, which must have "
            f"it, and in no others; this one's family is {manifest.family}"
        )
    if manifest.latent.pixels:
        _check_grey(manifest, where)
    _check_resolutions(manifest, where)
    _check_sizes(manifest, where)
    _check_certificate(manifest, where)


def _check_resolutions(manifest: Manifest, where: str) -> None:
    """Raise BundleError unless the sizes of pictures fit ``latent``, each other and the components."""
    latent, listed = manifest.latent, manifest.resolutions
    if manifest.schema_version == 1:
        if listed or manifest.canvases or latent.encoder_halo is not None:
            raise BundleError(f"{where}: manifest.json of version 1 has fields of version {SCHEMA_VERSION}. {AGAIN}")
        listed = manifest.all_resolutions
    own = own_resolution(latent)
    if not listed or listed[0] != own:
        raise BundleError(f"{where}: resolutions must begin with that of latent, {msgspec.to_builtins(own)}. {AGAIN}")
    for before, found in pairwise(listed):
        enlarged = found.pixels % own.pixels == 0 and found.factor * own.pixels == own.factor * found.pixels
        if found.pixels <= before.pixels or not enlarged or found.decoder != decoder_role(found.pixels):
            raise BundleError(
                f"{where}: the resolution of {found.pixels} pixels, {found.factor} per token, by {found.decoder} does "
                f"not fit those before it: each is larger, a multiple of {own.pixels} pixels, {own.factor} per token, "
                f"and made by {decoder_role(found.pixels)}. {AGAIN}"
            )
    decoders = {role for role in manifest.components if kind_of(role) == "decoder"}
    wanted: set[Role] = set() if latent.pixels else {found.decoder for found in listed}
    if wrong := sorted(decoders ^ wanted):
        raise BundleError(f"{where}: resolutions and components disagree about {', '.join(wrong)}. {AGAIN}")
    if unknown := sorted(set(manifest.canvases) - {"", *manifest.classes}):
        raise BundleError(f"{where}: canvases name {unknown[0]!r}, which is no label of the bundle. {AGAIN}")


def _check_sizes(manifest: Manifest, where: str) -> None:
    """Raise BundleError unless the autoencoder's components have as many pixels per token as their resolution."""
    for role, component in manifest.components.items():
        if role in PRIOR_ROLES.values():
            continue
        factor = manifest.resolution_of(role).factor
        shapes = {"tokens": ("n", "h", "w"), "images": ("n", f"{factor}*h", f"{factor}*w", 3)}
        for spec in (*component.inputs, *component.outputs):
            if (shape := shapes.get(spec.name, spec.shape)) != spec.shape:
                raise BundleError(
                    f"{where}: {spec.name} of the {role} are {list(spec.shape)}, and with {factor} pixels per token "
                    f"they would be {list(shape)}. {AGAIN}"
                )


def _check_certificate(manifest: Manifest, where: str) -> None:
    """Raise BundleError for a variant without a measure that shows it to be within tolerance."""
    good = {
        (measure.component, measure.precision)
        for measure in manifest.certificate
        if measure.tolerances
        and measure.tolerances.keys() <= measure.figures.keys()
        and not missed(measure.figures, measure.tolerances)
    }
    for role, component in manifest.components.items():
        for variant in component.variants:
            if (role, variant.precision) not in good:
                raise BundleError(
                    f"{where}: the certificate does not say that {role} {variant.precision} is within tolerance. "
                    + AGAIN
                )


def is_plain(file: str) -> bool:
    """Whether a bundle may declare this file name: it means the same on every system and in every shell.

    Parts between slashes consist of ASCII letters, digits and ``._-``, begin with a letter, a digit or ``_``, and do
    not end with a dot. Windows has devices called ``nul`` and the like, so no part is called that.
    """
    return (
        len(file) <= 200
        and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*", file) is not None
        and all(map(is_portable, file.split("/")))
    )


def is_inside(file: str) -> bool:
    """Whether a name stays inside the bundle on every system: no ``..``, no drive, only printable characters."""
    path = PurePosixPath(file)
    odd = any(char in file for char in "\\:") or not file.isprintable()
    return bool(path.parts) and not (path.is_absolute() or ".." in path.parts or odd or len(file) > 200)


def _check_grey(manifest: Manifest, where: str) -> None:
    """Raise BundleError unless tokens can be the grey levels of pixels."""
    latent = manifest.latent
    if latent.factor != 1 or latent.halo != 0:
        raise BundleError(
            f"{where}: with latent.pixels grey a token is one pixel, so that latent.factor is 1 and latent.halo is 0; "
            f"here they are {latent.factor} and {latent.halo}"
        )
    if not 2 <= latent.codes <= 256:
        raise BundleError(f"{where}: latent.codes is {latent.codes}; with latent.pixels grey there are 2 .. 256 levels")
    if surplus := sorted({"decoder", "encoder", "preview"} & set(manifest.components)):
        raise BundleError(
            f"{where}: components has {' and '.join(surplus)}; with latent.pixels grey tokens are pixels already, and "
            "nothing stands in between"
        )
