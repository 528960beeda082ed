from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from smalti.errors import UsageError
from smalti_train.data.pixels import to_images, to_pixels
from smalti_train.models.absorbing_transformer import AbsorbingTransformerConfig
from smalti_train.models.autoregressive_transformer import AutoregressiveTransformerConfig, Net2NetTransformerConfig
from smalti_train.models.hourglass_prior import HourglassPriorConfig
from smalti_train.models.meta_init import unfilled
from smalti_train.presets.catalogue import AUTOENCODERS, PRIORS
from smalti_train.runs.config import (
    PRIOR_KINDS,
    LoopConfig,
    OptimizerConfig,
    PriorConfig,
    PriorRun,
    Run,
    VQGANLossConfig,
    VQGANRun,
    own_objective,
    prior_kind,
)
from smalti_train.runs.config_files import differences, read_run, to_json
from smalti_train.runs.folder import RunFolder
from smalti_train.runs.loading import build_autoencoder, build_prior
from smalti_train.trainers.loop import learning_rate

EVERY = [*AUTOENCODERS.values(), *PRIORS.values()]


def prior_run(model: PriorConfig, **changes: object) -> PriorRun:
    objective = own_objective(model) or "reweighted"
    return PriorRun("some", model, **{"objective": objective, **changes})


@pytest.mark.parametrize("config", EVERY, ids=lambda config: f"{type(config).__name__}-{config.preset}")
def test_every_preset_survives_its_file_and_bears_its_own_name(config: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(to_json(config))
    assert read_run(tmp_path / "config.json") == config
    assert (PRIORS if isinstance(config, PriorRun) else AUTOENCODERS)[config.preset] is config


@pytest.mark.parametrize("kind", PRIOR_KINDS)
def test_the_file_says_which_prior_it_is(kind: str, tmp_path: Path) -> None:
    config = prior_run(PRIOR_KINDS[kind]())
    assert prior_kind(config.model) == json.loads(to_json(config))["model"]["kind"] == kind
    (tmp_path / "config.json").write_bytes(to_json(config))
    assert type(read_run(tmp_path / "config.json").model) is PRIOR_KINDS[kind]


def older(config: PriorRun) -> dict:
    """The configuration as it was written before there were other priors than the hourglass."""
    content = json.loads(to_json(config))
    for name in ("masking", "times", "unrolls"):
        del content[name]
    del content["model"]["kind"]
    del content["optimizer"]["per_image"]
    return content


def test_a_run_from_before_there_was_a_choice_continues_as_what_it_is(tmp_path: Path) -> None:
    config = PRIORS["avatars-256"]
    (tmp_path / "config.json").write_text(json.dumps(older(config)))
    assert read_run(tmp_path / "config.json") == config
    folder = RunFolder(tmp_path)
    folder.open(config)
    folder.close()


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("model", "kind"), "gpt", "kind 'gpt'; there are hourglass, absorbing-transformer"),
        (("model", "width"), "wide", "Expected `int`, got `str`"),
        (("loop", "steps"), 1.5, "Expected `int`, got `float`"),
        (("masking",), "some", "Invalid enum value 'some'"),
        (("objective",), "autoregressive", "not for a prior of kind 'hourglass'"),
        (("model",), 3, "Expected `object`, got `int`"),
    ],
)
def test_what_a_file_says_wrongly_is_named(path: tuple[str, ...], value: object, words: str, tmp_path: Path) -> None:
    content = json.loads(to_json(PRIORS["tiny"]))
    place = content
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match="not a configuration of smalti") as caught:
        read_run(tmp_path / "config.json")
    assert words in str(caught.value)


@pytest.mark.parametrize("objective", ["reweighted", "elbo", "mlm"])
@pytest.mark.parametrize("model", [AutoregressiveTransformerConfig(), Net2NetTransformerConfig()], ids=prior_kind)
def test_an_autoregressive_prior_has_its_own_objective(model: PriorConfig, objective: str) -> None:
    with pytest.raises(UsageError, match=rf"objective '{objective}'.*{prior_kind(model)}.*is autoregressive alone"):
        prior_run(model, objective=objective)


@pytest.mark.parametrize("model", [HourglassPriorConfig(), AbsorbingTransformerConfig()], ids=prior_kind)
def test_absorbing_priors_do_not_take_the_autoregressive_objective(model: PriorConfig) -> None:
    for objective in ("reweighted", "elbo", "mlm"):
        for masking in ("random", "fixed"):
            prior_run(model, objective=objective, masking=masking, times="importance")
    with pytest.raises(UsageError, match="allowed are reweighted, elbo and mlm"):
        prior_run(model, objective="autoregressive")


@pytest.mark.parametrize("changes", [{"masking": "fixed"}, {"times": "importance"}])
def test_masking_and_times_mean_nothing_where_nothing_is_masked(changes: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="leave --masking and --times out"):
        prior_run(AutoregressiveTransformerConfig(), **changes)


@pytest.mark.parametrize("changes", [{"ema": 1.0}, {"ema_every": 0}, {"gumbel_steps": 0}, {"perceptual_heads": "x"}])
def test_a_vqgan_checks_its_numbers(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        VQGANRun("some", **changes)


def test_differences_name_fields_and_kinds() -> None:
    transformer = prior_run(AbsorbingTransformerConfig())
    assert differences(transformer, prior_run(AbsorbingTransformerConfig(codes=2))) == ["model.codes: 1024, not 2"]
    assert differences(transformer, prior_run(HourglassPriorConfig())) == [
        "model: AbsorbingTransformerConfig, not HourglassPriorConfig"
    ]
    loss = dataclasses.replace(VQGANRun("some"), loss=VQGANLossConfig(augment=False))
    assert differences(loss, VQGANRun("some")) == ["loss.augment: False, not True"]


@pytest.mark.parametrize("config", EVERY, ids=lambda config: f"{type(config).__name__}-{config.preset}")
def test_every_preset_builds_a_model_that_says_what_the_rest_asks(config: Run) -> None:
    if isinstance(config, PriorRun):
        with unfilled():
            prior = build_prior(config.model)
        assert prior.config == config.model
        assert prior.config.grid is not None
        assert min(prior.config.grid) > 1
        assert prior.config.classes >= 0
        assert prior.config.mask == prior.config.codes > 1
    else:
        with unfilled():
            autoencoder = build_autoencoder(config.model)
        assert autoencoder.config == config.model
        black, white = autoencoder.config.value_range
        assert black < white
        assert config.data.size % autoencoder.config.factor == 0
        assert autoencoder.config.codes > 1


def test_a_rate_per_image_grows_with_the_batch_and_stays() -> None:
    published = VQGANRun("some").optimizer
    loop = LoopConfig(steps=1000, batch=4)
    assert [learning_rate(step, loop, published) for step in (0, 500, 999)] == pytest.approx([1.8e-5] * 3)
    assert learning_rate(0, dataclasses.replace(loop, batch=8), published) == pytest.approx(3.6e-5)
    falling = OptimizerConfig(lr=1e-3, warmup=10, final_lr=0.1)
    assert learning_rate(0, loop, falling) == pytest.approx(1e-4)
    assert learning_rate(1000, loop, falling) == pytest.approx(1e-4)


@pytest.mark.parametrize("value_range", [(-1.0, 1.0), (0.0, 1.0), (2.0, 5.0)])
def test_pixels_go_into_any_range_and_come_back(value_range: tuple[float, float]) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(-1, -1, -1, 3).numpy()
    images = to_images(pixels, value_range=value_range)
    assert (images.min().item(), images.max().item()) == pytest.approx(value_range)
    assert (to_pixels(images, value_range) == pixels).all()
    beyond = torch.tensor(value_range).repeat(24).reshape(1, 3, 4, 4) * 2 - sum(value_range) / 2
    assert set(to_pixels(beyond, value_range).flatten().tolist()) == {0, 255}
