"""ReFiT (section 3.2): autoencoders left with few codes, their codebooks rebuilt, and their decoders trained."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from claims.autoencoders import reconstruction, warm_start
from claims.common import Bench, Row
from claims.multinomial_sizes import MultinomialBench
from claims.samples import part
from smalti_train.data.config import open_split
from smalti_train.evaluation.subject import open_subject
from smalti_train.runs.bundle_weights import initial_weights
from smalti_train.runs.config import AutoencoderRun, VQGANRun
from smalti_train.runs.config_files import read_run
from smalti_train.runs.loading import build_autoencoder, load_autoencoder
from smalti_train.trainers.autoencoder import train_autoencoder
from smalti_train.trainers.codebook_refit import feature_pool, refit_codebook, refittable, with_codebook
from smalti_train.trainers.refit import refit_run, write_decoder_run
from smalti_train.trainers.vqgan import train_vqgan

FIGURES = ("images", "psnr_db", "edge_psnr_db", "fid_style", "codes_used_percent", "code_perplexity")


@dataclass(frozen=True)
class Source:
    """An autoencoder to be starved of codes, and how its decoder is trained."""

    name: str
    config: AutoencoderRun | VQGANRun
    weights: Callable[[], dict[str, Tensor]]
    rate: float
    """Learning rate of the trainings that are compared."""
    images: Bench
    """Whose images of the same size it is measured with."""


def sources(bench: MultinomialBench) -> Iterator[Source]:
    """The VQGAN that ``unleashing.py``'s experiments start with, and the embedded bundle's autoencoder."""
    base, sizes = bench.scale.vqgan, bench.sizes
    data = dataclasses.replace(base.data, train_count=bench.scale.judged_images)
    config = dataclasses.replace(
        base,
        data=data,
        optimizer=dataclasses.replace(base.optimizer, lr=2e-4, warmup=20),
        loss=dataclasses.replace(base.loss, start=0),
    )
    # The published fine-tuning goes at about a tenth of the rate of the training before it, and so do both here.
    yield Source("vqgan", config, lambda: initial_weights(warm_start(bench.earlier), config), 2e-5, bench)
    edge = dataclasses.replace(sizes.edge, data=dataclasses.replace(sizes.edge.data, train_count=data.train_count))
    larger = Bench(
        dataclasses.replace(bench.scale, vqgan=dataclasses.replace(base, data=edge.data)), bench.work, bench.results
    )
    weights = sizes.edge_weights
    yield Source("edge", edge, lambda: weights(edge), edge.optimizer.lr / 10, larger)


def starved(bench: MultinomialBench, source: Source) -> Path:
    """A run whose codebook is used for a small part, as large codebooks are after long trainings.

    A share of the codes is at what the encoder makes of images; all others equal the first of those, and of equal codes
    the first is picked. The decoder learns to live with them.
    """
    run, steps = bench.work / f"starved-{source.name}", bench.sizes.starved_steps
    loop = dataclasses.replace(source.config.loop, steps=steps, evaluate_every=100, sheet_every=steps)
    config = dataclasses.replace(source.config, loop=loop, decoder_only=True)

    def training() -> None:
        init = None if any(run.glob("checkpoint-*")) else few_codes(bench, source)
        _train(config, run, init)

    bench.train(run, steps, training)
    return run


def few_codes(bench: MultinomialBench, source: Source) -> dict[str, Tensor]:
    """Weights of the source with a share of its codes."""
    model = refittable(build_autoencoder(source.config.model))
    model.load_state_dict(source.weights())
    codes = model.config.codes
    pool = feature_pool(model, open_split(source.config.data, "train").images, bench.sizes.pool, 0)
    near = refit_codebook(model, pool, max(2, round(bench.sizes.starved * codes)), 0)
    return with_codebook(model, torch.cat((near, near[:1].expand(codes - len(near), -1)))).state_dict()


def refit(bench: MultinomialBench) -> None:
    """Reconstructions of unseen images before ReFiT, right after it, and after the decoder's training."""
    for source in sources(bench):
        _refit(bench, source)


def _refit(bench: MultinomialBench, source: Source) -> None:
    old, codes = starved(bench, source), source.config.model.codes
    further = bench.work / f"starved-{source.name}-further"
    plan = {"steps": bench.sizes.decoder_steps, "lr": source.rate}

    def measured(run: Path, codes: int, codebook: str, decoder: str) -> None:
        setting = {"autoencoder": source.name, "codebook": codebook, "codes": codes, "decoder": decoder}
        bench.row("refit", setting, lambda: _figures(source, run))

    def trained(run: Path) -> None:
        bench.train(run, bench.sizes.decoder_steps, lambda: _train(_config(run), run))

    measured(old, codes, "starved", "as trained")
    # The same training of the decoder, with the same discriminator, on the codes that there were.
    if not any(further.glob("checkpoint-*")):
        shutil.rmtree(further, ignore_errors=True)
        model, _ = load_autoencoder(old)
        write_decoder_run(refittable(model), _config(old), old, further, **plan)
    trained(further)
    measured(further, codes, "starved", "trained further")
    runs = [old, further]
    for count in (codes, codes // 2):
        run = bench.work / f"refit-{source.name}-{count}"
        if not any(run.glob("checkpoint-*")):
            shutil.rmtree(run, ignore_errors=True)
            refit_run(old, run, codes=count, pool=bench.sizes.pool, **plan)
        # Before any step of its decoder: from then on the newest checkpoint is another.
        measured(run, count, "rebuilt", "as trained")
        trained(run)
        measured(run, count, "rebuilt", "trained further")
        runs.append(run)
    sheet = [source.images.real()[0][:: bench.scale.per_label]]
    for run in runs:
        subject = open_subject(str(run))
        sheet.append(subject.decode(subject.encode(sheet[0])))
    bench.save_sheet(f"refit-{source.name}", np.concatenate(sheet), 8)


def _train(config: AutoencoderRun | VQGANRun, run: Path, init: dict[str, Tensor] | None = None) -> None:
    if isinstance(config, VQGANRun):
        train_vqgan(config, run, init)
    else:
        train_autoencoder(config, run, init)


def _config(run: Path) -> AutoencoderRun | VQGANRun:
    config = read_run(run / "config.json")
    assert isinstance(config, AutoencoderRun | VQGANRun)
    return config


def _figures(source: Source, run: Path) -> Row:
    return part(reconstruction(source.images, run), *FIGURES)
