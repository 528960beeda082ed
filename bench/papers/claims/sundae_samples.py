"""Samples of a SUNDAE prior: temperature, steps, absorbing diffusion at as many calls, and what freezing saves."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claims import priors
from claims.common import Row
from claims.samples import DISTANCES, LIKENESS, measured, part, strip
from claims.sundae_priors import best
from claims.sundae_sizes import SundaeBench
from smalti.families.absorbing.sampler import Denoiser, Logits
from smalti.families.registry import family_of
from smalti.families.settings import Options, resolve
from smalti_train.models.sundae_transformer import SundaeTransformer
from smalti_train.runs.loading import load_prior
from smalti_train.runs.torch_sampling import TorchPrior, described


def _options(steps: int, **more: float) -> dict[str, Any]:
    """A run in which no sample is frozen, so that every one takes as many calls."""
    return {"steps": steps, "min_steps": steps, **more}


def _measure(bench: SundaeBench, run: Path, options: dict[str, Any], *more: str) -> Row:
    return part(measured(bench, run, options), *DISTANCES, *LIKENESS, *more)


def temperature(bench: SundaeBench) -> None:
    """Temperatures that fall from step to step against those that stay (section 3.5)."""
    run, strips = best(bench), list[NDArray[np.uint8]]()
    for first, last in bench.sizes.temperatures:
        heat = {} if (first, last) == (1.0, 0.7) else {"temperature": first, "final_temperature": last}  # the default
        options = _options(bench.sizes.heat_steps, **heat)
        setting = {"first": first, "last": last, "steps": options["steps"]}
        bench.row("temperature", setting, lambda options=options: _measure(bench, run, options))
        strips.append(strip(bench, run, options))
    bench.save_sheet("temperature", np.concatenate(strips), 8)


def steps(bench: SundaeBench) -> None:
    """Quality by the number of steps. Under 20 of them all positions are drawn anew at each, else half."""
    run, strips = best(bench), list[NDArray[np.uint8]]()
    for count in bench.sizes.steps:
        options = _options(count)
        bench.row(
            "steps",
            {"steps": count},
            lambda options=options: _measure(bench, run, options, "kid_style", "seconds_per_image"),
        )
        strips.append(strip(bench, run, options))
    bench.save_sheet("steps", np.concatenate(strips), 8)


def versus(bench: SundaeBench) -> None:
    """SUNDAE and absorbing diffusion, each at as many calls of a network over the same tokens.

    Absorbing diffusion at its own temperature of 1 and, since SUNDAE's falls to 0.7, at a lower one.
    """
    strips: list[NDArray[np.uint8]] = []
    families: list[tuple[str, Path, dict[str, Any]]] = [
        ("SUNDAE, 1 to 0.7", best(bench), {}),
        ("absorbing, 1", priors.best(bench.earlier), {}),
        ("absorbing, 0.8", priors.best(bench.earlier), {"temperature": 0.8}),
    ]
    for name, run, heat in families:
        for count in bench.sizes.equal_calls:
            options = _options(count) if name.startswith("SUNDAE") else {"steps": count, **heat}
            bench.row(
                "versus",
                {"family": name, "steps": count},
                lambda run=run, options=options: _measure(bench, run, options, "seconds_per_image"),
            )
            strips.append(strip(bench, run, options))
    bench.save_sheet("versus", np.concatenate(strips), 8)


class Counted:
    """A denoiser that counts what it is asked."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.grids: list[int] = []
        """Grids in each call."""
        self.rows = 0
        """Positions whose logits were asked for, those that fill up the table among them."""

    def __call__(self, tokens: Any, labels: Any, rows: Any) -> Logits:
        """Answer, and count."""
        self.grids.append(len(tokens))
        self.rows += rows.size
        return self.denoiser(tokens, labels, rows)


def freezing(bench: SundaeBench) -> None:
    """What a batch costs when samples that no longer change are left alone, and when they are not (section 3.5)."""
    prior, _ = load_prior(best(bench))
    assert isinstance(prior, SundaeTransformer)
    count, config = bench.sizes.batch, prior.config
    manifest = described("freezing", config, 1, [str(index) for index in range(config.classes)])
    labels = [str(i % config.classes) for i in range(count)]
    # SUNDAE's default, and a colder end: the surer a prior is, the more samples come to rest.
    for length, last in itertools.product(bench.sizes.freezing, (0.7, 0.3)):

        def measure(length: int = length, last: float = last) -> Row:
            figures: Row = {}
            tokens: list[NDArray[np.int32]] = []
            for name, min_steps in (("frozen", 10), ("all", length)):
                asked: Options = {"steps": length, "min_steps": min_steps, "final_temperature": last}
                settings = resolve(manifest, count, 0, {"label": labels, **asked})
                start = np.full((count, *manifest.latent.grid), config.codes, np.int32)
                counted: list[Counted] = []

                def watch(network: Denoiser, counted: list[Counted] = counted) -> Counted:
                    counted.append(Counted(network))
                    return counted[0]

                started = time.perf_counter()
                *_, drawn = family_of(manifest).lay_out(start, settings, manifest).draw(TorchPrior(prior), watch)
                tokens.append(drawn)
                (denoiser,) = counted
                figures[name] = {
                    "drawing_seconds": time.perf_counter() - started,
                    "calls": len(denoiser.grids),
                    "network_grids": sum(denoiser.grids),
                    "network_rows": denoiser.rows,
                }
                figures.setdefault("curve", denoiser.grids)  # of the run that freezes
            return {**figures, "tokens_equal": float((tokens[0] == tokens[1]).mean())}

        bench.row("freezing", {"batch": count, "steps": length, "last": last}, measure)
