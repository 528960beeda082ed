"""A bundle on one page: what it draws, its licences, its sizes and its certificate."""

from __future__ import annotations

from typing import Any

from smalti.bundle.manifest import Manifest, SamplerDefaults, Variant
from smalti.bundle.reader import Bundle, read_engines
from smalti.errors import BundleError
from smalti.families.registry import FAMILIES, family_of
from smalti.verification.engines.listing import installs

ALWAYS = ("temperature", "guidance", "top_k", "top_p")
"""Defaults that every family has."""
PERCENT = "_agreement"
"""End of the names of figures that are shares."""


def card(bundle: Bundle) -> dict[str, Any]:
    """Describe a bundle as plain values, for JSON. A damaged list of engines is told as ``engines_problem``."""
    manifest, engines, problem = bundle.manifest, None, ""
    try:
        engines = read_engines(bundle.path)
    except BundleError as error:  # the bundle draws all the same
        problem = str(error)
    latent, sizes = manifest.latent, {record.file: record.bytes for record in manifest.files()}
    figures = {(measure.component, measure.precision): measure for measure in manifest.certificate}
    return {
        "name": manifest.name,
        "path": str(bundle.path),
        "digest": bundle.digest,
        "schema_version": manifest.schema_version,
        "family": manifest.family,
        "pixels": [latent.grid[1] * latent.factor, latent.grid[0] * latent.factor],
        "resolutions": [found.pixels for found in manifest.all_resolutions],
        "canvases": manifest.canvases,
        "grid": list(latent.grid),
        "codes": latent.codes,
        "factor": latent.factor,
        "halo": latent.halo,
        "classes": list(manifest.classes),
        "licence": manifest.licence,
        "data": manifest.provenance.data,
        "data_licences": {record.name: record.licence for record in manifest.data_licences},
        "sampler": _sampler(manifest),
        "bytes": sum(sizes.values()),
        "files": len(sizes),
        "golden": manifest.golden is not None,
        "variants": [
            {
                "component": role,
                "precision": variant.precision,
                "bytes": _bytes(variant, sizes),
                "opset": variant.opset,
                "certificate": dict(found.figures) if (found := figures.get((role, variant.precision))) else {},
            }
            for role, component in manifest.components.items()
            for variant in component.variants
        ],
        "engines": [
            {
                "component": record.component,
                "precision": record.precision,
                "runtime": record.runtime,
                "version": record.version,
                "targets": list(record.targets),
                "bytes": record.engine.bytes,
            }
            for record in (engines.engines if engines else ())
        ],
        "engines_problem": problem,
        "install": installs(engines.engines if engines else ()),
    }


def _bytes(variant: Variant, sizes: dict[str, int]) -> int:
    """Return the bytes of the graph and of the weights it reads, which another variant may read too."""
    return sum(sizes[file] for file in (variant.graph.file, *variant.weights))


def _sampler(manifest: Manifest) -> dict[str, Any]:
    """Return the defaults that the bundle's family reads."""
    defaults = manifest.sampler
    names = [name for name in SamplerDefaults.__struct_fields__ if name in (*ALWAYS, *family_of(manifest).options)]
    return {name: getattr(defaults, name) for name in names}


def card_lines(content: dict[str, Any]) -> list[str]:
    """Return the card as lines of text; ``content`` is the result of :func:`card`."""
    width, height = content["pixels"]
    rows, columns = content["grid"]
    halo = "the whole canvas" if content["halo"] is None else f"{content['halo']} tokens around"
    licences = sorted(set(content["data_licences"].values()))
    facts = {
        "bundle": f"{content['name']}: images of {width}x{height} pixels",
        "path": content["path"],
        "digest": content["digest"],
        "family": f"{content['family']}: {FAMILIES[content['family']].way}",
        "grid": f"{columns}x{rows} tokens of {content['factor']}x{content['factor']} pixels, decoded from {halo}",
        "sizes": " and ".join(f"{pixels}" for pixels in content["resolutions"]) + " pixels per side",
        "canvases": _canvases(content["canvases"]),
        "codebook": f"{content['codes']} codes",
        "labels": f"{len(content['classes'])}: {', '.join(content['classes'])}" if content["classes"] else "none",
        "defaults": ", ".join(f"{name} {_plain(value)}" for name, value in content["sampler"].items()),
        "licence": content["licence"],
        "data": content["data"] + (f" ({', '.join(licences)})" if licences else ""),
        "size": f"{size_told(content['bytes'])} in {content['files']} files",
        "golden": "inputs are stored: verify --run measures the certificate again" if content["golden"] else "none",
    }
    lines = [f"{name:<10}{value}" for name, value in facts.items()]
    # Names such as decoder_1024 are as wide as the column is for others.
    wide = max(12, *(len(one["component"]) + 2 for one in (*content["variants"], *content["engines"])))
    lines += ["", f"{'component':<{wide}}{'precision':<11}{'size':>9}  {'opset':<7}certificate"]
    for variant in content["variants"]:
        figures = ", ".join(figure(name, value) for name, value in variant["certificate"].items())
        lines.append(
            f"{variant['component']:<{wide}}{variant['precision']:<11}{size_told(variant['bytes']):>9}  "
            f"{variant['opset']:<7}{figures or 'not measured'}"
        )
    lines += [
        "",
        f"engines   {content['engines_problem'] or 'none'}"
        if not content["engines"]
        else f"{'engine':<{wide}}{'precision':<11}{'size':>9}  runtime",
    ]
    lines += [
        f"{engine['component']:<{wide}}{engine['precision']:<11}{size_told(engine['bytes']):>9}  {engine['runtime']} "
        f"{engine['version']} on {', '.join(engine['targets'])}"
        for engine in content["engines"]
    ]
    lines += [f"they run with: {line}" for line in content["install"]]
    return lines


def _canvases(suited: dict[str, str]) -> str:
    """Return in words which canvases suit which labels."""
    words = {"own": "its own size", "wide": "wider ones too", "any": "any"}
    told = [f"{label or 'no label'}: {words[kind]}" for label, kind in suited.items()]
    return ", ".join(told) or "any"


def figure(name: str, value: float) -> str:
    """Return one figure of a certificate as text for people."""
    words = name.replace("_", " ").replace("psnr", "PSNR")
    if name.endswith(PERCENT):
        return f"{words} {value:.2%}"
    if name.endswith("psnr"):
        return f"{words} {value:.1f} dB"
    return f"{words} {value:.0f}" if value.is_integer() else f"{words} {value:.2g}"


def _plain(value: Any) -> str:
    return " .. ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)  # pyright: ignore[reportUnknownArgumentType]


def size_told(count: int) -> str:
    """Return a number of bytes as text for people."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
