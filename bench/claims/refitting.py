"""ReFiT (section 3.2): an autoencoder that is left with few codes, its codebook rebuilt, and its decoder trained."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from claims.autoencoders import reconstruction, warm_start
from claims.common import Row
from claims.multinomial_sizes import MultinomialBench
from smalti_train.config import VQGANRun
from smalti_train.config_files import read_run
from smalti_train.evaluation.subject import open_subject
from smalti_train.loading import load_autoencoder
from smalti_train.loop import open_split
from smalti_train.refit import feature_pool, refit_codebook
from smalti_train.refit_run import refit_run
from smalti_train.released import initial_weights
from smalti_train.train_vqgan import train_vqgan

FIGURES = ("images", "psnr_db", "edge_psnr_db", "fid_style", "codes_used_percent", "code_perplexity")


def starved(bench: MultinomialBench) -> Path:
    """A VQGAN of which most codes are never used, as happens to large codebooks in long trainings.

    Paper 000's warm start goes on with a discriminator, but of its codes only a share is near any feature: the others
    lie so far away that none is ever picked, and what is not picked does not learn.
    """
    run, warm, steps = bench.work / "starved", warm_start(bench.earlier), bench.sizes.starved_steps

    def training() -> None:
        base = bench.scale.vqgan
        config = dataclasses.replace(
            base,
            data=dataclasses.replace(base.data, train_count=bench.scale.judged_images),
            optimizer=dataclasses.replace(base.optimizer, lr=2e-4, warmup=20),
            loop=dataclasses.replace(base.loop, steps=steps, evaluate_every=100, sheet_every=steps),
            loss=dataclasses.replace(base.loss, start=0),
        )
        init = None if any(run.glob("checkpoint-*")) else few_codes(bench, warm, config)
        train_vqgan(config, run, init)

    bench.train(run, steps, training)
    return run


def few_codes(bench: MultinomialBench, warm: Path, config: VQGANRun) -> dict[str, Tensor]:
    """Weights of the warm start with a share of its codes at what it makes of images, and the others far away."""
    model, _ = load_autoencoder(warm)
    codes = config.model.codes
    pool = feature_pool(model, open_split(config.data, "train").images, bench.sizes.pool, 0)
    near = refit_codebook(model, pool, max(2, round(bench.sizes.starved * codes)), 0)
    far = torch.arange(1, codes - len(near) + 1)[:, None] * 100 * near.abs().max()
    codebook = torch.cat((near, far.expand(-1, near.shape[1])))
    return {**model.state_dict(), "quantize.embedding.weight": codebook}


def refit(bench: MultinomialBench) -> None:
    """Reconstructions of unseen images before ReFiT, right after it, and after the decoder's training."""
    source, codes = starved(bench), bench.scale.vqgan.model.codes
    sheet = [bench.real()[0][:: bench.scale.per_label]]

    def measured(run: Path, codes: int, codebook: str, decoder: str) -> None:
        setting = {"codebook": codebook, "codes": codes, "decoder": decoder}
        bench.row("refit", setting, lambda: _part(reconstruction(bench, run)))

    measured(source, codes, "starved", "as trained")
    further = _trained_further(bench, source)
    measured(further, codes, "starved", "trained further")
    runs = [source, further]
    for count in (codes, codes // 2):
        run = bench.work / f"refit-{count}"
        if not any(run.glob("checkpoint-*")):
            shutil.rmtree(run, ignore_errors=True)
            refit_run(
                source, run, codes=count, pool=bench.sizes.pool, steps=bench.sizes.decoder_steps, lr=_rate(source)
            )
        # Before any step of its decoder: from then on the newest checkpoint is another.
        measured(run, count, "rebuilt", "as trained")
        bench.train(run, bench.sizes.decoder_steps, _training(run))
        measured(run, count, "rebuilt", "trained further")
        runs.append(run)
    for run in runs:
        subject = open_subject(str(run))
        sheet.append(subject.decode(subject.encode(sheet[0])))
    bench.save_sheet("refit", np.concatenate(sheet), 8)


def _trained_further(bench: MultinomialBench, source: Path) -> Path:
    """The same training of the decoder on the codes that there were: what ReFiT has to be better than."""
    run, steps = bench.work / "starved-further", bench.sizes.decoder_steps

    def training() -> None:
        base = _config(source)
        config = dataclasses.replace(base, decoder_only=True, loop=dataclasses.replace(base.loop, steps=steps))
        train_vqgan(config, run, None if any(run.glob("checkpoint-*")) else initial_weights(source, config))

    bench.train(run, steps, training)
    return run


def _training(run: Path) -> Callable[[], None]:
    return lambda: train_vqgan(_config(run), run)


def _config(run: Path) -> VQGANRun:
    config = read_run(run / "config.json")
    assert isinstance(config, VQGANRun)
    return config


def _rate(run: Path) -> float:
    return _config(run).optimizer.lr


def _part(row: Row) -> Row:
    return {name: row[name] for name in FIGURES}
