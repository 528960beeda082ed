"""Export every published recipe at its full size, with random weights, through its own certificate.

    python bench/speed/published.py sundae-ffhq256
    python bench/speed/published.py all --precision fp16 --precision int8
    python bench/speed/published.py table

Nothing may pass because it is near nothing: every parameter is moved away from where training starts, gates and norms
included, and the prior's last layer is scaled until its logits have a standard deviation of 3. Weights are rounded to
fp16 beforehand, as a bundle stores them, so that figures are of the graphs and not of the rounding. Recipes of the same
sizes are exported once. Writes a row for each to ``--results``, skips those that are there, and exits with 1 when an
fp32 graph misses its tolerance or errs by more than a thousandth of the logits' spread. ``table`` prints the rows.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch_way.most_memory import greatest

from smalti.bundle.reader import open_bundle
from smalti.errors import ParityError, UsageError
from smalti_export.builder import PRECISIONS
from smalti_export.export import export_bundle
from smalti_export.graphs.graph_modules import wrap
from smalti_export.graphs.weights import round_to_fp16
from smalti_export.parity.certificate import torch_graph
from smalti_train.data.config import DataConfig
from smalti_train.models.multinomial_unet import MultinomialUNetConfig
from smalti_train.models.vqgan import VQGAN
from smalti_train.presets.catalogue import AUTOENCODERS, PRIORS
from smalti_train.presets.sundae import SUNDAE_PRIORS
from smalti_train.presets.unleashing import RECIPE_PRIORS
from smalti_train.presets.vqddm import VQDDM_PRIORS
from smalti_train.runs.config import AutoregressiveConfig, Imported, PriorRun
from smalti_train.runs.folder import RunFolder
from smalti_train.runs.loading import Autoencoder, Prior, build_autoencoder, build_prior
from smalti_train.runs.token_cache import keep_autoencoder

RECIPES = (*RECIPE_PRIORS, *SUNDAE_PRIORS, *VQDDM_PRIORS)
SPREAD = 3.0
"""Standard deviation of the logits."""
ERROR = 1e-3
"""Of an fp32 graph's logits, in their spread."""
IMAGES = 48
STEPS = 2
"""Of the whole runs that are compared: with random weights, more say nothing else."""
GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=[*RECIPES, "all", "table"])
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="besides fp32")
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results/exports/published.json")
    options = parser.parse_args()
    precisions = [one for one in PRECISIONS if one == "fp32" or one in (options.precision or ())]
    rows: list[dict[str, Any]] = json.loads(options.results.read_text()) if options.results.exists() else []
    if options.recipe == "table":
        print(table(rows))
        return
    for recipe in RECIPES if options.recipe == "all" else [options.recipe]:
        if any(recipe in row["recipes"] and set(precisions) <= set(row["precisions"]) for row in rows):
            continue
        # In a process of its own, whose greatest memory is then that of the export.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            try:
                row = pool.submit(exported, recipe, precisions).result()
            except BrokenProcessPool:
                row = {"missed": "its process was killed, as a rule for want of memory"}
        rows = [other for other in rows if recipe not in other["recipes"]]
        rows.append({"recipes": same_sizes(recipe), "precisions": precisions, **row})
        print(json.dumps(rows[-1], indent=1), flush=True)
        options.results.write_text(json.dumps(rows, indent=1) + "\n")
    if wrong := [row["recipes"][0] for row in rows if not holds(row)]:
        sys.exit(f"not within tolerance: {', '.join(wrong)}")


def holds(row: dict[str, Any]) -> bool:
    """Whether an exported recipe's fp32 graphs are what the models are."""
    return not {"missed", "refused"} & set(row) and row["figures"]["prior fp32"]["logit_error"] <= ERROR


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, and below what their bundles go without."""
    heads = ["recipe", "parameters, millions, autoencoder + prior"]
    heads += [f"logits, {kind}" for kind in ("fp32", "fp16", "fp16 rounded", "int8")]
    heads += ["decoder, dB: fp32", "fp16", "fp16 rounded", "int8", "bundle", "memory"]
    lines = [heads, ["---"] * len(heads)]
    missing: list[str] = []
    for row in sorted(rows, key=lambda row: RECIPES.index(row["recipes"][0])):
        figures, sizes = row.get("figures", {}), row.get("parameters", {})
        fp32, fp16, int8 = (
            {part: figures.get(f"{part} {precision}", {}) for part in ("prior", "decoder")} for precision in PRECISIONS
        )
        lines.append(
            [
                ", ".join(row["recipes"]),
                " + ".join(f"{sizes[part] / 1e6:.1f}" for part in ("codec", "prior")) if sizes else "",
                _shown("{:.1e}, {:.2%} of {:.0f}", fp32["prior"], "logit_error", "draw_agreement", "draws"),
                _shown("{:.1e}, {:.2%}", fp16["prior"], "logit_error", "draw_agreement"),
                _shown("{:.1e}, {:.2%}", fp16["prior"], "rounded_logit_error", "rounded_draw_agreement"),
                _shown("{:.1e}, {:.2%}", int8["prior"], "logit_error", "draw_agreement"),
                _shown("{:.1f}", fp32["decoder"], "psnr"),
                _shown("{:.1f}", fp16["decoder"], "psnr"),
                _shown("{:.1f}", fp16["decoder"], "rounded_psnr"),
                _shown("{:.1f}", int8["decoder"], "psnr"),
                f"{row['bytes'] / 1e6:.0f} MB" if "bytes" in row else row.get("missed", row.get("refused", "")),
                f"{row['gib']} GiB" if "gib" in row else "",
            ]
        )
        missing += [f"* {row['recipes'][0]}: {why}" for why in row.get("left_out", ())]
    cells = [f"| {' | '.join(line)} |".replace("%", " %") for line in lines]
    return "\n".join([*cells, "", "Left out of their bundles:", "", *missing] if missing else cells)


def _shown(form: str, figures: dict[str, float], *names: str) -> str:
    """Figures in that form; nothing where they were not measured."""
    return form.format(*(figures[name] for name in names)) if set(names) <= set(figures) else ""


def same_sizes(recipe: str) -> list[str]:
    """This recipe and the others whose two models have its sizes."""
    sizes = {name: (AUTOENCODERS[name].model, PRIORS[name].model) for name in RECIPES}
    return [recipe, *(name for name in RECIPES if name != recipe and sizes[name] == sizes[recipe])]


def exported(recipe: str, precisions: list[str]) -> dict[str, Any]:
    """Figures of a recipe's bundle by component and precision, and what it took."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        parameters = write_run(recipe, Path(work))
        row: dict[str, Any] = {"parameters": parameters}
        try:
            failures = export_bundle(
                Path(work) / "run", Path(work) / "bundle", defaults=defaults(recipe), precisions=precisions, say=print
            )
        except (UsageError, ParityError) as error:
            how = "refused" if isinstance(error, UsageError) else "missed"
            return {**row, how: str(error), "seconds": round(time.perf_counter() - started)}
        bundle = open_bundle(Path(work) / "bundle")
        figures = {
            f"{'prior' if measure.component in ('denoiser', 'predictor') else measure.component} {measure.precision}": (
                measure.figures
            )
            for measure in bundle.manifest.certificate
        }
        size = sum(record.bytes for record in bundle.manifest.files())
    most = greatest() / GIB
    seconds = round(time.perf_counter() - started)
    return {**row, "figures": figures, "left_out": failures, "bytes": size, "seconds": seconds, "gib": round(most, 1)}


def defaults(recipe: str) -> dict[str, Any]:
    return {} if PRIORS[recipe].objective == "autoregressive" else {"steps": STEPS}


def write_run(recipe: str, work: Path, models: tuple[Autoencoder, Prior] | None = None) -> dict[str, int]:
    """A run of random weights, or of these models, in ``work/run``; parameters of its two models."""
    codec_run, run = AUTOENCODERS[recipe], PRIORS[recipe]
    data = DataConfig(name="folder", size=run.data.size, root=str(make_images(work / "images", run.data.size)))
    codec, prior = models or random_models(recipe)
    classes = tuple(map(str, range(run.model.classes)))
    origin = Imported("random weights", "none", "0" * 64, "none", classes)
    run = replace(run, data=data, imported=origin)
    folder = RunFolder(work / "run")
    folder.open(run)
    folder.keep_config(run)
    keep_autoencoder(folder.path, codec, replace(codec_run, data=data))
    folder.save(1, {"ema": prior.state_dict()}, {})
    folder.close()
    return {name: sum(p.numel() for p in model.parameters()) for name, model in (("codec", codec), ("prior", prior))}


def random_models(recipe: str) -> tuple[Autoencoder, Prior]:
    """A recipe's autoencoder and prior with random weights, the same in every call, rounded to fp16."""
    torch.manual_seed(0)
    run = PRIORS[recipe]
    codec, prior = build_autoencoder(AUTOENCODERS[recipe].model).eval(), build_prior(run.model).eval()
    for model in (codec, prior):
        move(model)
    even_out(codec)
    spread_out(prior, run)
    for model in (codec, prior):
        round_to_fp16(model)
    return codec, prior


def make_images(root: Path, size: int) -> Path:
    """A folder of smooth random pictures; some of them fall to the validation split."""
    generator = np.random.default_rng(0)
    root.mkdir()
    for index in range(IMAGES):
        small = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC).save(root / f"{index}.png")
    return root


@torch.no_grad()
def move(model: nn.Module) -> None:
    """Move every parameter, also those that start at nothing or at one."""
    for parameter in model.parameters():
        own = parameter.std().item() if parameter.numel() > 1 else 0.0
        parameter += torch.randn_like(parameter) * max(0.2 * own, 0.02)


@torch.no_grad()
def even_out(codec: Autoencoder) -> None:
    """Let pictures fill the range of pixels without leaving it, or errors beyond its ends would not be seen."""
    if not isinstance(codec, VQGAN):
        return
    black, white = codec.config.value_range
    last = codec.decoder.conv_out
    values = codec.decode(torch.randint(codec.config.codes, (1, 8, 8)))
    scale = (white - black) / 6 / values.std()
    last.weight.mul_(scale)
    assert last.bias is not None
    last.bias.copy_((last.bias - values.mean()) * scale + (white + black) / 2)


@torch.no_grad()
def spread_out(prior: nn.Module, run: PriorRun) -> None:
    """Scale the last linear layer, or 1x1 convolution, until the logits' standard deviation is ``SPREAD``."""
    model = run.model
    assert model.grid is not None
    length = model.grid[0] * model.grid[1]
    feed: dict[str, Any] = {"tokens": np.random.default_rng(0).integers(0, model.codes, (1, length)).astype(np.int32)}
    feed["labels"] = np.zeros(1, np.int32)
    if isinstance(model, AutoregressiveConfig):
        feed["past"] = np.zeros((2 * model.layers, 1, model.heads, 0, model.width // model.heads), np.float32)
        role = "predictor"
    else:
        if isinstance(model, MultinomialUNetConfig):
            feed["times"] = np.full(1, model.steps // 2, np.int32)
        feed["rows"] = np.arange(length, dtype=np.int32)[None]
        role = "denoiser"
    last = [one for one in prior.modules() if isinstance(one, nn.Linear | nn.Conv2d | nn.Conv1d)][-1]
    for _ in range(3):  # where the logits are more than that layer's products
        found = torch_graph(wrap(role, prior))(feed)[0]  # pyright: ignore[reportArgumentType]
        scale = SPREAD / float(found.std())
        last.weight.mul_(scale)
        if last.bias is not None:
            last.bias.mul_(scale)
    print(f"logits: standard deviation {float(found.std()):.2f}, scaled by {type(last).__name__}", flush=True)
    assert 0.5 * SPREAD < float(found.std()) < 2 * SPREAD


if __name__ == "__main__":
    main()
