"""A manifest that says how a prior is sampled, and nothing else."""

from __future__ import annotations

from typing import Any

from smalti.bundle import manifest
from smalti.bundle.manifest import Family, Latent, Manifest, Noise, Provenance, SamplerDefaults


def plain_manifest(
    family: Family, grid: tuple[int, int], codes: int, noise: Noise | None = None, **sampler: Any
) -> Manifest:
    """Of a bundle with two classes, without components; ``sampler`` are its defaults."""
    return Manifest(
        schema_version=manifest.SCHEMA_VERSION,
        name="some",
        family=family,
        licence="",
        data_licences=(),
        provenance=Provenance(data=""),
        latent=Latent(grid=grid, codes=codes, factor=1, halo=0),
        classes=("a", "b"),
        sampler=SamplerDefaults(**sampler),
        components={},
        weights=(),
        certificate=(),
        noise=noise,
    )
