"""The models of McKinney and Willcocks 2022 at their published sizes, by name and shape."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from smalti_train.importers.sundae import sundae_layout
from smalti_train.importers.taming_layout import taming_layout
from smalti_train.models.meta_init import unfilled
from smalti_train.models.sundae_transformer import SundaeTransformerConfig
from smalti_train.models.vqgan import VQGAN
from smalti_train.objectives.prior_batches import check_fit
from smalti_train.presets.catalogue import AUTOENCODERS, PRIORS
from smalti_train.presets.sundae import SUNDAE_AUTOENCODERS, SUNDAE_PRIORS
from smalti_train.runs.config import PixelRun, VQGANRun
from smalti_train.runs.loading import build_prior

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = [
    "sundae-ffhq1024",
    "sundae-ffhq1024-d2048",
    "sundae-ffhq256",
    "sundae-celeba",
    "sundae-churches",
    "sundae-bedrooms",
    "sundae-imagenet256",
    "sundae-mnist",
    "sundae-fashion-mnist",
]
PUBLISHED = {
    "sundae-ffhq1024": ("sundae_ffhq1024_2122_d1024", 214.1),
    "sundae-ffhq1024-d2048": ("sundae_ffhq1024_2102_d2048", 671.4),
    "sundae-ffhq256": ("sundae_ffhq256_2102_d1024", 178.4),
}

Shapes = dict[str, tuple[int, ...]]


def listed(file: str) -> Shapes:
    lines = (line.split("\t") for line in (FIXTURES / f"{file}.txt").read_text().splitlines())
    return {name: tuple(int(side) for side in shape.strip("(),").split(",") if side) for name, shape, _ in lines}


def shapes_of(model: torch.nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", [*NAMES, "fashion-mnist-sundae"])
def test_both_stages_fit_each_other(name: str) -> None:
    assert list(SUNDAE_AUTOENCODERS) == list(SUNDAE_PRIORS) == NAMES
    autoencoder, prior = AUTOENCODERS[name], PRIORS[name]
    assert autoencoder.preset == prior.preset == name
    assert autoencoder.data == prior.data
    assert prior.objective == "sundae"
    assert isinstance(prior.model, SundaeTransformerConfig)
    assert not prior.model.published
    check_fit(prior.model, autoencoder.model.codes, autoencoder.data.size // autoencoder.model.factor)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_prior_has_the_published_names_and_shapes(name: str) -> None:
    config = SUNDAE_PRIORS[name].model
    assert isinstance(config, SundaeTransformerConfig)
    file, millions = PUBLISHED[name]
    with unfilled():
        model = build_prior(config)
    published = {key: shape for key, shape in listed(file).items() if not key.endswith("rotary_pos_emb.freqs")}
    assert shapes_of(model) == published
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
    assert {key: slot.shape for key, slot in sundae_layout(config).items()} == listed(file)


def test_the_megapixel_autoencoder_has_the_published_names_and_shapes() -> None:
    run = SUNDAE_AUTOENCODERS["sundae-ffhq1024"]
    assert isinstance(run, VQGANRun)
    shapes = {key: shape for key, shape in listed("sundae_ffhq1024_vqmodel_f32_8192").items() if key[:5] != "loss."}
    assert {key: slot.shape for key, slot in taming_layout(run.model).items()} == shapes
    with unfilled():
        assert shapes_of(VQGAN(run.model)) == shapes
    assert run.model.grid == (32, 32)
    # Attention at the only level of 64 cells a side.
    assert [1024 // 2**level for level in run.model.attention_levels] == [64]


def test_the_numbers_are_the_published_ones() -> None:
    faces = SUNDAE_AUTOENCODERS["sundae-ffhq1024"]
    assert isinstance(faces, VQGANRun)
    assert (faces.loss.start, faces.loss.adversarial, faces.optimizer.lr, faces.loop.batch) == (15_000, 0.5, 5e-6, 4)
    found = {
        name: (run.optimizer.lr, run.loop.batch, run.unrolls, run.flip, run.model.classes)
        for name, run in SUNDAE_PRIORS.items()
    }
    assert found["sundae-ffhq1024"] == (5e-6, 10, 3, True, 0)
    assert found["sundae-ffhq1024-d2048"] == (3e-5, 8, 2, True, 0)
    assert found["sundae-ffhq256"] == (3e-5, 64, 2, True, 0)
    assert found["sundae-celeba"] == (3e-5, 48, 3, True, 0)
    assert found["sundae-imagenet256"] == (3e-5, 128, 3, False, 1000)
    for name in NAMES[-2:]:
        assert found[name] == (3e-5, 8, 2, False, 10)
        assert isinstance(SUNDAE_AUTOENCODERS[name], PixelRun)
        assert SUNDAE_PRIORS[name].model == dataclasses.replace(
            SundaeTransformerConfig(), codes=256, grid=(28, 28), classes=10, depth=(2, 8, 2)
        )
    for run in SUNDAE_PRIORS.values():
        assert (run.optimizer.warmup, run.optimizer.final_lr, run.ema) == (0, 1.0, 0.0)
