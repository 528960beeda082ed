"""``smalti train refit``: write a run with a rebuilt codebook, ready for training its decoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from smalti.errors import UsageError
from smalti_train.data.config import DataConfig, open_split
from smalti_train.data.tensors import seed_torch
from smalti_train.models.discriminator import Discriminator
from smalti_train.models.edge_autoencoder import EdgeAutoencoder
from smalti_train.models.vqgan import VQGAN
from smalti_train.runs.config import AutoencoderRun, PixelRun, VQGANRun
from smalti_train.runs.folder import RunFolder
from smalti_train.runs.loading import load_autoencoder
from smalti_train.trainers.codebook_refit import POOL, feature_pool, refit_codebook, refittable, with_codebook
from smalti_train.trainers.reconstruction import evaluate

RATE = 0.1
"""New learning rate as a share of the run's: about the ratio in the paper's code (2e-6 after 1.8e-5)."""
LIMIT = 1024
"""Greatest number of unseen images on which codebooks are compared."""
Figures = dict[str, float]


def refit_run(
    run: Path,
    output: Path,
    *,
    codes: int | None = None,
    pool: int = POOL,
    seed: int = 0,
    steps: int | None = None,
    lr: float | None = None,
    data: Callable[[DataConfig], DataConfig] = lambda own: own,
    progress: bool = False,
) -> tuple[Figures, Figures]:
    """Rebuild the codebook of the autoencoder in ``run`` (Hu et al. 2022, section 3.2) and write the run ``output``.

    The new run is at step 0, with encoder and codebook frozen; ``smalti train autoencoder --run output`` then trains
    the decoder, for a VQGAN with the run's own discriminator from the first step on.

    Args:
        run: the folder of an edge autoencoder or of a VQGAN with a nearest quantiser, trained or imported.
        output: a folder that does not exist.
        codes: K' of the new codebook, the old one's by default.
        pool: features to cluster, from images of the training split.
        seed: for the choice of features and of the first centres.
        steps: of the decoder's training, the run's own number by default.
        lr: learning rate of that training, RATE times the run's own by default.
        data: changes which images are learnt from.
        progress: show a bar on stderr.

    Returns:
        Figures of the old and of the new codebook on unseen images, before the decoder has learnt the new one. They are
        ``psnr``, ``codes_used_percent``, ``code_perplexity``.

    Raises:
        UsageError: a folder that exists, a run without a checkpoint or of a kind that cannot be refitted, or a pool too
            small for the codes.
        OutputError: the folder cannot be written.
    """
    if output.exists():
        raise UsageError(f"{output} exists; name a folder that does not exist yet")
    model, config = load_autoencoder(run)
    model = refittable(model)
    assert not isinstance(config, PixelRun)
    config = dataclasses.replace(config, data=data(config.data))
    train, unseen = open_split(config.data, "train"), open_split(config.data, "validation")
    accelerator = Accelerator()
    model.to(accelerator.device)
    features = feature_pool(model, train.images, pool, seed, progress=progress)
    codebook = refit_codebook(model, features, model.config.codes if codes is None else codes, seed)
    rebuilt = with_codebook(model, codebook)
    before, after = (evaluate(one, unseen, accelerator, LIMIT) for one in (model, rebuilt))
    write_decoder_run(rebuilt.cpu(), config, run, output, steps=steps, lr=lr)
    return before, after


def write_decoder_run(
    model: EdgeAutoencoder | VQGAN,
    config: AutoencoderRun | VQGANRun,
    run: Path,
    output: Path,
    *,
    steps: int | None = None,
    lr: float | None = None,
) -> None:
    """Write ``output``, a run at step 0 that trains the decoder of ``model`` alone.

    ``model`` is that of the run ``run``, with its own codes or others; the run's discriminator is copied. ``config`` is
    the configuration of ``run``; ``steps`` and ``lr`` as in :func:`refit_run`. Raises OutputError when writing fails.
    """
    parts = _checkpoint(model, config, run)
    loop = dataclasses.replace(config.loop, steps=steps or config.loop.steps)
    optimizer = dataclasses.replace(config.optimizer, lr=RATE * config.optimizer.lr if lr is None else lr)
    config = dataclasses.replace(config, loop=loop, optimizer=optimizer, decoder_only=True)
    if isinstance(config, VQGANRun):
        sizes = dataclasses.replace(config.model, codes=model.config.codes)
        config = dataclasses.replace(config, model=sizes, loss=dataclasses.replace(config.loss, start=0))
    else:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, codes=model.config.codes))
    folder = RunFolder(output)
    try:
        folder.open(config)
        folder.save(0, parts, {})
        folder.keep_config(config)
    finally:
        folder.close()


def _checkpoint(model: torch.nn.Module, config: AutoencoderRun | VQGANRun, run: Path) -> dict[str, dict[str, Tensor]]:
    """A checkpoint of step 0: the model, no moments, and the run's discriminator."""
    weights = model.state_dict()
    if isinstance(model, EdgeAutoencoder):
        return {"model": weights, "optimizer": {}, "idle": {"idle": model.quantizer.idle}}
    assert isinstance(config, VQGANRun)
    saved = RunFolder(run).latest()
    judge = None if saved is None else saved[0].get("discriminator")
    if judge is None:  # an imported run, or a prior's copy, has none
        seed_torch(config.loop.seed)
        judge = Discriminator(config.discriminator).state_dict()
    return {
        "model": weights,
        "ema": weights,
        "optimizer": {},
        "discriminator": judge,
        "discriminator_optimizer": {},
    }
