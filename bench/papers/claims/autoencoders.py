"""VQGANs: the warm start, table 5's ablation of it, and bits per dimension of pixels."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from claims.common import Bench, Row, curve, features
from smalti_train.data.config import open_split
from smalti_train.evaluation.metrics import code_use, edge_psnr, frechet_distance, psnr
from smalti_train.evaluation.subject import open_subject
from smalti_train.models.vqgan import VQGAN
from smalti_train.runs.bundle_weights import initial_weights
from smalti_train.runs.config import VQGANRun
from smalti_train.runs.loading import load_autoencoder
from smalti_train.trainers.codebook_refit import feature_pool, refit_codebook, with_codebook
from smalti_train.trainers.log_sigma import BITS, head_run, image_bits, pixel_nats, train_log_sigma
from smalti_train.trainers.vqgan import train_vqgan

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {"lambda_max": 1e4, "augment": False},
    "lambda_max = 1": {"lambda_max": 1.0, "augment": False},
    "DiffAug": {"lambda_max": 1e4, "augment": True},
    "both": {"lambda_max": 1.0, "augment": True},
}
"""Table 5's rows; "both" is the VQGAN of Bond-Taylor et al. 2021, "default" taming's."""


def warm_start(bench: Bench) -> Path:
    """A VQGAN trained without its discriminator, which every variant goes on from.

    Halfway its codebook is replaced by k-means of the encoder's features (as in VQ-DDM, Hu et al. 2022), since in so
    short a training most codes would never be used.
    """
    first, second = bench.work / "warm-1", bench.work / "warm-2"
    for run, steps in zip((first, second), bench.scale.warm_steps):
        config = _changed(bench.scale.vqgan, steps, {"adversarial": 0.0})

        def training(run: Path = run, config: VQGANRun = config) -> None:
            init = None
            if run == second and not any(run.glob("checkpoint-*")):
                init = refitted(first, open_split(config.data, "train").images[:2000])
            train_vqgan(config, run, init)

        bench.train(run, steps, training)
    return second


def _changed(config: VQGANRun, steps: int, loss: dict[str, Any], **changes: Any) -> VQGANRun:
    loop = dataclasses.replace(config.loop, steps=steps, evaluate_every=100, sheet_every=steps)
    return dataclasses.replace(config, loop=loop, loss=dataclasses.replace(config.loss, **loss), **changes)


def refitted(run: Path, images: NDArray[np.uint8], vectors: int = 20_000) -> dict[str, Tensor]:
    """Weights of the VQGAN in ``run``, its codes moved to the k-means centres of what it makes of ``images``.

    Rows measured earlier come from another k-means: it began with random features, drawn without replacement, and left
    codes without features where they were. This one picks its seeds by k-MC2 and leaves no code without features, so a
    new warm start, and all that is trained from it, differs from theirs by that much.
    """
    model, _ = load_autoencoder(run)
    codebook = refit_codebook(model, feature_pool(model, images, vectors, 0), model.config.codes, 0)
    return with_codebook(model, codebook).state_dict()


def variant(bench: Bench, name: str) -> Path:
    """The run of one of ``VARIANTS``, trained unless it is there; "both" is what all priors here are trained on."""
    run = bench.work / f"vqgan-{name.replace(' ', '').replace('=', '-')}"
    steps = bench.scale.judged_steps

    def training() -> None:
        base = bench.scale.vqgan
        data = dataclasses.replace(base.data, train_count=bench.scale.judged_images)
        optimizer = dataclasses.replace(base.optimizer, lr=2e-4, warmup=20)
        config = _changed(base, steps, {"start": 0, **VARIANTS[name]}, data=data, optimizer=optimizer)
        train_vqgan(config, run, None if any(run.glob("checkpoint-*")) else initial_weights(warm, config))

    warm = warm_start(bench)
    bench.train(run, steps, training)
    return run


def table5(bench: Bench) -> None:
    """Reconstructions of unseen images by every variant and by the warm start."""
    sheet = [bench.real()[0][:: bench.scale.per_label]]
    for name in ("warm start", *VARIANTS):
        run = warm_start(bench) if name == "warm start" else variant(bench, name)
        bench.row("table5", {"variant": name}, lambda run=run: reconstruction(bench, run))
        subject = open_subject(str(run))
        sheet.append(subject.decode(subject.encode(sheet[0])))
    bench.save_sheet("table5", np.concatenate(sheet), 8)


def reconstruction(bench: Bench, run: Path) -> Row:
    images, _, _ = bench.real()
    subject = open_subject(str(run))
    tokens = subject.encode(images)
    decoded = subject.decode(tokens)
    used = code_use(np.bincount(tokens.reshape(-1), minlength=subject.codes))
    return {
        "images": len(images),
        "psnr_db": float(psnr(decoded, images).mean()),
        "edge_psnr_db": float(edge_psnr(decoded, images).mean()),
        "fid_style": frechet_distance(bench.real_features[0], features(decoded)),
        "codes_used_percent": used.percent,
        "code_perplexity": used.perplexity,
        "lambda": curve(run, "train/lambda"),
        "discriminator": curve(run, "train/discriminator"),
    }


def bits(bench: Bench, prior: Path) -> None:
    """Bound on the bits per dimension of unseen images: ``prior``'s on their tokens, the head's on their pixels."""
    source = variant(bench, "both")
    run, steps = bench.work / "log-sigma", bench.scale.head_steps

    def training() -> None:
        _, trained = load_autoencoder(source)
        assert isinstance(trained, VQGANRun)
        config = head_run(dataclasses.replace(trained, data=bench.scale.vqgan.data))
        loop = dataclasses.replace(
            config.loop, steps=steps, batch=trained.loop.batch, precision=trained.loop.precision, evaluate_every=100
        )
        train_log_sigma(dataclasses.replace(config, loop=loop), run, source)

    bench.train(run, steps, training)

    def measure() -> Row:
        unseen = bench.unseen()
        count = len(unseen) // 2
        model, _ = load_autoencoder(run)
        assert isinstance(model, VQGAN)
        subject = open_subject(str(prior))
        assert subject.bits is not None
        tokens = subject.encode(unseen.images[:count]).reshape(count, -1)
        token_bits = subject.bits(tokens, unseen.labels[:count])
        pixel = pixel_nats(model, unseen, BITS, count).double().mean().item()
        black, white = model.config.value_range
        sizes = tokens.shape[1], 3 * unseen.size**2, BITS, white - black
        return {
            "images": count,
            "bits_per_token": token_bits,
            "bits_per_dim": image_bits(pixel, token_bits, *sizes),
            "bits_per_dim_of_pixels": image_bits(pixel, 0.0, *sizes),
            "bits_per_dim_of_tokens": token_bits * sizes[0] / sizes[1],
            "curve": curve(run, "validation/pixel_bits_per_dim"),
        }

    bench.row("bits", {"vqgan": "both", "prior": prior.name, "bits": BITS}, measure)
