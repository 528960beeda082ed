"""The published models at their published sizes, by name and shape; and trained, cut down, from a folder of images."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from smalti_train.importers.taming_layout import taming_layout
from smalti_train.importers.unleashing_layout import unleashing_layout
from smalti_train.models.absorbing_transformer import AbsorbingTransformerConfig
from smalti_train.models.autoregressive_transformer import Net2NetTransformerConfig
from smalti_train.models.discriminator import Discriminator
from smalti_train.models.meta_init import unfilled
from smalti_train.objectives.prior_batches import check_fit
from smalti_train.presets.catalogue import AUTOENCODERS, PRIORS
from smalti_train.presets.unleashing import RECIPE_AUTOENCODERS, RECIPE_PRIORS
from smalti_train.runs.config import PriorRun, VQGANRun
from smalti_train.runs.loading import build_autoencoder, build_prior, load_autoencoder, load_prior
from smalti_train.trainers.prior import train_prior
from smalti_train.trainers.vqgan import train_vqgan

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = ["unleashing-ffhq256", "unleashing-churches", "unleashing-bedrooms", "taming-imagenet-f16"]
PUBLISHED = {name: ("ut_vqgan_full", "disc.") for name in NAMES[:3]}
PUBLISHED |= {"taming-imagenet-f16": ("taming_vqmodel_f16_1024", "loss.discriminator.")}

Shapes = dict[str, tuple[int, ...]]


def listed(file: str, prefix: str = "") -> Shapes:
    lines = (line.split("\t") for line in (FIXTURES / f"{file}.txt").read_text().splitlines())
    shapes = ((name, tuple(int(side) for side in shape.strip("(),").split(",") if side)) for name, shape, _ in lines)
    return {name.removeprefix(prefix): shape for name, shape in shapes if name.startswith(prefix)}


def shapes_of(model: torch.nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def parameters(model: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


def test_every_recipe_is_a_preset_for_both_stages() -> None:
    assert list(RECIPE_AUTOENCODERS) == list(RECIPE_PRIORS) == NAMES
    for name in NAMES:
        autoencoder, prior = AUTOENCODERS[name], PRIORS[name]
        assert isinstance(autoencoder, VQGANRun)
        assert autoencoder.preset == prior.preset == name
        assert autoencoder.data == prior.data
        assert autoencoder.data.name == "folder"
        assert autoencoder.model.grid == (16, 16)
        check_fit(prior.model, autoencoder.model.codes, autoencoder.data.size // autoencoder.model.factor)


@pytest.mark.parametrize("name", NAMES)
def test_an_autoencoder_has_the_published_names_and_shapes(name: str) -> None:
    config = RECIPE_AUTOENCODERS[name]
    file, discriminator = PUBLISHED[name]
    with unfilled():
        ours, judge = shapes_of(build_autoencoder(config.model)), shapes_of(Discriminator(config.discriminator))
    layout = unleashing_layout(config.model, "ae.") if name in NAMES[:3] else taming_layout(config.model)
    assert sorted(slot.name for slot in layout.values() if slot.name) == sorted(ours)
    assert all(ours[slot.name] == slot.shape for slot in layout.values() if slot.name)
    published = {key: shape for key, shape in listed(file).items() if key in layout or key.startswith("ae.")}
    if name == "taming-imagenet-f16":  # the list is of the smaller of two published codebooks
        assert published.pop("quantize.embedding.weight") == (1024, 256)
        assert layout.pop("quantize.embedding.weight").shape == (16384, 256)
    assert len(published) > 150
    assert {key: slot.shape for key, slot in layout.items()} == published
    assert judge == listed(file, discriminator)


@pytest.mark.parametrize("name", NAMES[:3])
def test_an_absorbing_prior_has_the_published_names_and_shapes(name: str) -> None:
    with unfilled():
        model = build_prior(RECIPE_PRIORS[name].model)
    published = listed("ut_absorbing_full", "_denoise_fn.")
    del published["start_tok"]  # the autoregressive twin's
    assert shapes_of(model) == {key: shape for key, shape in published.items() if not key.startswith(("Lt_", "loss_"))}
    assert parameters(model) == pytest.approx(76.8, abs=0.1)


def test_tamings_prior_has_the_published_size() -> None:
    with unfilled():
        model = build_prior(RECIPE_PRIORS["taming-imagenet-f16"].model)
    assert parameters(model) == pytest.approx(1411, abs=2)
    assert shapes_of(model)["tok_emb.weight"] == (16384, 1536)
    assert shapes_of(model)["pos_emb"] == (1, 256, 1536)


def test_the_numbers_are_the_published_ones() -> None:
    for name, steps in zip(NAMES[:3], (1_400_000, 2_200_000, 2_200_000)):
        config = RECIPE_AUTOENCODERS[name]
        assert (config.loop.steps, config.loop.batch) == (steps, 4)
        assert config.optimizer.per_image
        assert config.optimizer.lr * config.loop.batch == pytest.approx(1.8e-5)
        assert (config.loss.start, config.loss.lambda_max, config.loss.augment) == (30_001, 1.0, True)
    rates = [(RECIPE_PRIORS[name].optimizer.lr, RECIPE_PRIORS[name].optimizer.warmup) for name in NAMES[:3]]
    assert rates == [(1e-4, 30_000), (2e-4, 10_000), (2e-4, 10_000)]
    taming = RECIPE_AUTOENCODERS["taming-imagenet-f16"].loss
    assert (taming.adversarial, taming.start, taming.augment) == (0.8, 250_001, False)
    assert RECIPE_PRIORS["taming-imagenet-f16"].model.classes == 1000


def cut(name: str, root: Path) -> tuple[VQGANRun, PriorRun]:
    """Both stages of a recipe for one step on a folder's images of 32 pixels, as few layers and channels as there are.

    Everything else is the recipe's, but that the discriminator does not wait.
    """
    autoencoder, prior = RECIPE_AUTOENCODERS[name], RECIPE_PRIORS[name]
    data = dataclasses.replace(autoencoder.data, size=32, root=str(root))
    loop = {"steps": 1, "batch": 2, "precision": "fp32"}
    small = dataclasses.replace(autoencoder.model, channels=32, encoder_blocks=1, decoder_blocks=1, size=(32, 32))
    if small.z_channels is not None:
        small = dataclasses.replace(small, z_channels=32)
    autoencoder = dataclasses.replace(
        autoencoder,
        model=small,
        discriminator=dataclasses.replace(autoencoder.discriminator, filters=8),
        data=data,
        loop=dataclasses.replace(autoencoder.loop, **loop),
        loss=dataclasses.replace(autoencoder.loss, start=0),
    )
    sizes = {"grid": small.grid, "width": 32, "layers": 1, "heads": 2}
    if isinstance(prior.model, Net2NetTransformerConfig):
        sizes |= {"positions": math.prod(small.grid), "classes": 2}
    assert isinstance(prior.model, AbsorbingTransformerConfig | Net2NetTransformerConfig)
    prior = dataclasses.replace(
        prior,
        model=dataclasses.replace(prior.model, **sizes),
        data=data,
        loop=dataclasses.replace(prior.loop, **loop),
    )
    return autoencoder, prior


@pytest.mark.parametrize("name", [NAMES[0], NAMES[3]])
def test_cut_down_it_trains_a_step_from_a_folder_of_images(name: str, pictures: Path, tmp_path: Path) -> None:
    autoencoder, prior = cut(name, pictures)
    train_vqgan(autoencoder, tmp_path / "autoencoder")
    train_prior(prior, tmp_path / "prior", tmp_path / "autoencoder")
    codec, _ = load_autoencoder(tmp_path / "prior/autoencoder")
    model, config = load_prior(tmp_path / "prior")
    assert config == prior
    assert codec.config.codes == model.config.codes == (16384 if name == NAMES[3] else 1024)
    assert (tmp_path / "prior/sheets/00000001.png").exists()
