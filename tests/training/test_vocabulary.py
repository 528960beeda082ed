from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from smalti.errors import UsageError
from smalti_train.data.config import open_split
from smalti_train.models.hourglass_prior import HourglassPrior, HourglassPriorConfig
from smalti_train.models.multinomial_unet import MultinomialUNetConfig
from smalti_train.models.sundae_transformer import SundaeTransformer, SundaeTransformerConfig
from smalti_train.models.vocabulary import common_patches, translated
from smalti_train.objectives.prior_batches import evaluate
from smalti_train.presets.catalogue import AUTOENCODERS, PRIORS
from smalti_train.runs.bundle_weights import initial_weights
from smalti_train.runs.config import LoopConfig, PriorConfig
from smalti_train.runs.folder import RunFolder
from smalti_train.runs.loading import load_prior
from smalti_train.runs.translation import initial_prior
from smalti_train.trainers.autoencoder import train_autoencoder
from smalti_train.trainers.loop import start
from smalti_train.trainers.prior import train_prior

OLD, SPLIT = 6, 3  # each old code becomes three new ones: old code j the new 3 j, 3 j + 1, 3 j + 2

PRIORS_OF_KINDS = [
    (HourglassPrior, HourglassPriorConfig(codes=OLD, grid=(4, 4), classes=2, width=16, inner_width=16, head_dim=8)),
    (SundaeTransformer, SundaeTransformerConfig(codes=OLD, grid=(4, 4), classes=2, width=16, heads=2, depth=(1, 1, 1))),
]


@pytest.mark.parametrize(("build", "config"), PRIORS_OF_KINDS)
@torch.no_grad()
def test_where_codes_were_split_the_prior_predicts_as_before(build: Callable, config: PriorConfig) -> None:
    torch.manual_seed(0)
    prior = build(config).eval()
    for parameter in prior.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.2)
    weights = torch.rand(OLD * SPLIT) + 0.1
    new = torch.multinomial(weights, 60_000, replacement=True)
    counts = common_patches(new // SPLIT, new, OLD, OLD * SPLIT)
    finer = build(dataclasses.replace(config, codes=OLD * SPLIT)).eval()
    finer.load_state_dict(translated(prior.state_dict(), counts, type(config)), strict=True)

    grids = torch.randint(OLD * SPLIT, (5, 16))
    old_grids = grids // SPLIT
    if not isinstance(config, SundaeTransformerConfig):
        hidden = torch.rand(5, 16) < 0.5
        grids[hidden], old_grids[hidden] = OLD * SPLIT, OLD
    labels = torch.tensor([0, 1, 2, 0, 1])
    expected = prior(old_grids, labels).softmax(-1)
    found = finer(grids, labels).softmax(-1).unflatten(-1, (OLD, SPLIT))
    torch.testing.assert_close(found.sum(-1), expected, atol=2e-3, rtol=0)
    shares = weights.view(OLD, SPLIT) / weights.view(OLD, SPLIT).sum(1, keepdim=True)
    torch.testing.assert_close(found / found.sum(-1, keepdim=True), shares.expand_as(found), atol=0.02, rtol=0)
    assert expected.std() > 0.02


def test_codes_that_no_patch_has_are_finite_and_unlikely() -> None:
    _, config = PRIORS_OF_KINDS[0]
    prior = HourglassPrior(config)
    counts = common_patches(torch.arange(600) % OLD, torch.arange(600) % OLD, OLD, OLD + 2)
    state = translated(prior.state_dict(), counts, HourglassPriorConfig)
    assert all(value.isfinite().all() for value in state.values())
    assert state["head.bias"][OLD:].max() < state["head.bias"][:OLD].min() - 3


def test_kinds_without_tables_are_refused() -> None:
    with pytest.raises(UsageError, match="leave --init out"):
        translated({}, torch.ones(2, 2), MultinomialUNetConfig)


def test_a_prior_starts_from_one_over_another_autoencoders_tokens(
    tiny_runs: tuple[Path, Path], tiny_bundle: Path, brief: Callable, tmp_path: Path
) -> None:
    more = brief(AUTOENCODERS["tiny"], steps=20)
    more = dataclasses.replace(more, model=dataclasses.replace(more.model, codes=96))
    train_autoencoder(more, tmp_path / "codec", initial_weights(tiny_runs[0], more))
    config = brief(PRIORS["tiny"], steps=1)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, codes=96))

    bits = {}
    for name, source in {"nothing": None, "run": tiny_runs[1], "bundle": tiny_bundle}.items():
        init = None if source is None else initial_prior(source, config, tmp_path / "codec")
        train_prior(config, tmp_path / name, tmp_path / "codec", init)
        bits[name] = _bits(tmp_path / name)
    assert bits["run"] < bits["nothing"] - 1
    assert bits["bundle"] == pytest.approx(bits["run"], abs=0.05)

    other = dataclasses.replace(config, model=dataclasses.replace(config.model, layers_inner=2))
    with pytest.raises(UsageError, match="layers_inner"):
        initial_prior(tiny_runs[1], other, tmp_path / "codec")


def _bits(run: Path) -> float:
    model, config = load_prior(run)
    tokens = np.load(run / "tokens/validation.npy")
    labels = open_split(config.data, "validation").labels
    return evaluate(model, tokens, labels, start(LoopConfig(precision="fp32"), RunFolder(run)))
