"""The models of Hu et al. 2022 (VQ-DDM) at their published sizes, by name and shape."""

from __future__ import annotations

from pathlib import Path

import pytest

from smalti_train.models.meta_init import unfilled
from smalti_train.models.multinomial_unet import MultinomialUNetConfig
from smalti_train.objectives.prior_batches import check_fit
from smalti_train.presets.catalogue import AUTOENCODERS, PRIORS
from smalti_train.presets.vqddm import VQDDM_AUTOENCODERS, VQDDM_PRIORS
from smalti_train.runs.config import VQGANRun
from smalti_train.runs.loading import build_prior

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = ["vqddm-celebahq256", "vqddm-celebahq256-k512", "vqddm-churches256"]
OURS = ["avatars-64-multinomial", "avatars-256-multinomial", "tiny-multinomial"]


@pytest.mark.parametrize("name", NAMES)
def test_both_stages_fit_each_other_and_train_as_published(name: str) -> None:
    assert list(VQDDM_AUTOENCODERS) == list(VQDDM_PRIORS) == NAMES
    autoencoder, prior = AUTOENCODERS[name], PRIORS[name]
    assert isinstance(autoencoder, VQGANRun)
    assert autoencoder.preset == prior.preset == name
    assert autoencoder.data == prior.data
    check_fit(prior.model, autoencoder.model.codes, autoencoder.data.size // autoencoder.model.factor)
    assert (prior.objective, prior.times, prior.loop.batch) == ("vlb", "importance", 180)
    assert (prior.optimizer.lr, prior.optimizer.warmup, prior.optimizer.final_lr) == (1e-4, 0, 0.0)


def test_a_prior_has_the_published_names_and_shapes() -> None:
    with unfilled():
        models = {name: build_prior(VQDDM_PRIORS[name].model) for name in NAMES}
    lines = (line.split("\t") for line in (FIXTURES / "vqddm_unet_1024.txt").read_text().splitlines())
    published = {key: shape for key, shape, _ in lines}
    for name in ("vqddm-celebahq256", "vqddm-churches256"):
        assert {key: str(tuple(value.shape)) for key, value in models[name].state_dict().items()} == published
    millions = sum(parameter.numel() for parameter in models[NAMES[0]].parameters()) / 1e6
    assert millions == pytest.approx(117.6, abs=0.1)
    smaller = VQDDM_PRIORS["vqddm-celebahq256-k512"].model
    assert smaller == MultinomialUNetConfig(codes=512)


@pytest.mark.parametrize("name", OURS)
def test_our_own_fit_the_autoencoders_of_their_size(name: str) -> None:
    prior = PRIORS[name]
    codec = AUTOENCODERS[{"avatars-64": "avatars-64-vqgan"}.get(stem := name.removesuffix("-multinomial"), stem)]
    check_fit(prior.model, codec.model.codes, codec.data.size // codec.model.factor)
    assert (prior.objective, prior.data) == ("vlb", codec.data)
