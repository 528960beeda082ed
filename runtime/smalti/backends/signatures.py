"""Inputs and outputs of graphs, and their differences from the manifest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from smalti.bundle.manifest import PRIOR_ROLES, Precision, Role, TensorSpec
from smalti.bundle.reader import Bundle


class Signature(NamedTuple):
    """One input or output, as the graph declares it."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    """Size of each side; None where it is free."""


def mismatches(
    bundle: Bundle, role: Role, precision: Precision, inputs: Sequence[Signature], outputs: Sequence[Signature]
) -> list[str]:
    """Return the differences between a graph's signature and the manifest, one line each; none when all fits.

    Names, dtypes and fixed sides must equal those in the manifest. A prior must predict ``latent.codes`` codes, and a
    denoiser must read as many tokens as ``latent.grid`` has.
    """
    component, latent = bundle.manifest.components[role], bundle.manifest.latent
    lines = [
        *_differences("input", component.inputs, inputs),
        *_differences("output", component.outputs, outputs),
    ]
    declared = {spec.name for spec in component.outputs}
    lines += [f"it has no output {name}" for name in sorted(declared - {found.name for found in outputs})]
    if role in PRIOR_ROLES.values():
        sides = {found.name: found.shape for found in (*inputs, *outputs)}
        if (codes := sides.get("logits", (None,))[-1]) not in (None, latent.codes):
            lines.append(f"it predicts {codes} codes and latent.codes is {latent.codes}")
        length = sides.get("tokens", (None,))[-1]
        if role == "denoiser" and length not in (None, latent.grid[0] * latent.grid[1]):
            lines.append(f"it reads {length} tokens and latent.grid is {list(latent.grid)}")
    file = bundle.variant(role, precision).graph.file
    return [f"{bundle.path}: {file} is not the graph that the manifest describes: {line}" for line in lines]


def _differences(kind: str, declared: Sequence[TensorSpec], found: Sequence[Signature]) -> Iterator[str]:
    """Yield how a graph's inputs or outputs differ from the manifest's, which may list more of them."""
    specs = {spec.name: spec for spec in declared}
    for name, dtype, shape in found:
        spec = specs.get(name)
        if spec is None:
            yield f"it has an {kind} {name} that is not in the manifest ({', '.join(specs)})"
            continue
        fits = len(shape) == len(spec.shape) and all(
            side is None if isinstance(said, str) else side in (None, said) for side, said in zip(shape, spec.shape)
        )
        if dtype != spec.dtype or not fits:
            sides = ["free" if side is None else side for side in shape]
            yield f"{kind} {name} is {dtype} {sides}, in the manifest {spec.dtype} {list(spec.shape)}"
