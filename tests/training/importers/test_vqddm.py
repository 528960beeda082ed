from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from smalti.errors import UsageError
from smalti_train.importers.fitting import Published
from smalti_train.importers.reading import read_checkpoint
from smalti_train.importers.vqddm import import_vqddm, recognised_schedule, vqddm_config
from smalti_train.models.multinomial_unet import MultinomialUNet, MultinomialUNetConfig, NoiseKind
from smalti_train.multinomial import NoiseSchedule, cosine_schedule, schedule_of

FIXTURES = Path(__file__).parents[1] / "fixtures"
NN, DENOISE, BUFFER = "_nn.", "_denoising._denoise_fn.", "_denoising."
SMALL = MultinomialUNetConfig(codes=6, grid=(4, 2), width=8, multipliers=(1, 3), blocks=1, steps=40)
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def checkpoint() -> State:
    return read_checkpoint(FIXTURES / "vqddm_small.ckpt")


def buffers(schedule: NoiseSchedule) -> State:
    return {BUFFER + field.name: getattr(schedule, field.name).float() for field in dataclasses.fields(schedule)}


def lightning(config: MultinomialUNetConfig = SMALL) -> State:
    """A file as the published code would write it, with perturbed weights."""
    torch.manual_seed(0)
    weights = {name: torch.randn_like(value) / 4 for name, value in MultinomialUNet(config).state_dict().items()}
    copies = {prefix + name: value for prefix in (NN, DENOISE) for name, value in weights.items()}
    histories = {BUFFER + name: torch.ones(config.steps) for name in ("Lt_history", "Lt_count")}
    return copies | buffers(cosine_schedule(config.steps, config.schedule)) | histories


def listed(name: str) -> dict[str, tuple[int, ...]]:
    lines = (line.split("\t") for line in (FIXTURES / f"{name}.txt").read_text().splitlines())
    return {key: ast.literal_eval(shape) for key, shape, _ in lines}


def test_full_size_names_and_shapes_are_the_published_ones() -> None:
    config = vqddm_config(Published(listed("vqddm_unet_1024")), (16, 16))
    assert config == MultinomialUNetConfig()
    names = {BUFFER + name: shape for name, shape in listed("vqddm_diffusion_buffers").items()}
    assert {name: (4000,) for name in lightning() if name.startswith(BUFFER) and DENOISE not in name} == names


def test_the_published_file_imports_with_its_logits(checkpoint: State) -> None:
    arrays = np.load(FIXTURES / "vqddm_small.npz")
    model = import_vqddm(checkpoint)
    assert model.config == MultinomialUNetConfig(codes=32, width=8)
    assert not model.training
    found = model.logits(torch.from_numpy(arrays["x0"]).flatten(1), t=torch.from_numpy(arrays["t"]))
    wanted = arrays["unet_logits_x0"].reshape(2, 32, 256).transpose(0, 2, 1)
    assert np.abs(found.numpy() - wanted).max() <= 1e-4


@pytest.mark.parametrize(
    "part",
    [
        lambda name: name.startswith(NN),
        lambda name: name.startswith(DENOISE),
        lambda name: name.startswith(BUFFER),
        lambda name: "Lt_" not in name,
    ],
    ids=["one copy", "the other copy", "the diffusion", "no losses by time"],
)
def test_parts_of_the_file_are_enough(part: Callable[[str], bool]) -> None:
    config = dataclasses.replace(SMALL, schedule="printed")
    whole = lightning(config)
    state = {name: value for name, value in whole.items() if part(name)}
    model = import_vqddm(state, {"grid": [4, 2]})
    told = BUFFER + "log_alpha" in state
    assert model.config == (config if told else dataclasses.replace(config, steps=4000, schedule="released"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, whole[NN + name])


def test_bare_weights_are_a_network_of_the_published_diffusion() -> None:
    state = {name.removeprefix(NN): value for name, value in lightning().items() if name.startswith(NN)}
    assert import_vqddm(state, {"grid": [4, 2]}).config == dataclasses.replace(SMALL, steps=4000)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["released", "printed"])
def test_either_schedule_is_recognised_in_any_precision(kind: NoiseKind, dtype: torch.dtype) -> None:
    state = {name: value.to(dtype) for name, value in lightning(dataclasses.replace(SMALL, schedule=kind)).items()}
    model = import_vqddm(state, {"grid": [4, 2]})
    assert (model.config.schedule, model.config.steps) == (kind, 40)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


def test_other_schedules_are_refused() -> None:
    linear = buffers(schedule_of(1 - torch.linspace(1e-4, 0.02, 40, dtype=torch.float64)))
    with pytest.raises(UsageError, match=r"neither the released nor the printed cosine schedule of 40 steps"):
        import_vqddm(lightning() | linear, {"grid": [4, 2]})
    off = buffers(cosine_schedule(40, "printed"))
    off[BUFFER + "log_cumprod_alpha"][30] *= 1.01
    with pytest.raises(UsageError, match="neither"):
        recognised_schedule(off, BUFFER)
    off[BUFFER + "log_cumprod_alpha"][30] = float("nan")
    with pytest.raises(UsageError, match="neither"):
        recognised_schedule(off, BUFFER)
    mixed = buffers(cosine_schedule(40, "released"))
    mixed[BUFFER + "log_alpha"] = off[BUFFER + "log_alpha"]
    with pytest.raises(UsageError, match=r"_denoising.log_alpha is -\d.* at t = 0 where -\d.* belongs"):
        recognised_schedule(mixed, BUFFER)


def test_copies_that_differ_are_refused() -> None:
    state = lightning()
    state[DENOISE + "mid_attn.fn.g"] = torch.ones(1)
    with pytest.raises(UsageError, match=r"two different networks, below _nn. and _denoising._denoise_fn. \(mid_attn"):
        import_vqddm(state, {"grid": [4, 2]})


def without(state: State, *names: str) -> State:
    return {key: value for key, value in state.items() if key not in names}


CONV = NN + "downs.1.0.block1.block.0.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, CONV), f"lacks {CONV}"),
        (lambda s: without(s, NN + "embedding.weight"), "lacks _nn.embedding.weight"),
        (lambda s: without(s, DENOISE + "mid_attn.fn.g"), "lacks _denoising._denoise_fn.mid_attn.fn.g"),
        (lambda s: without(s, BUFFER + "log_1_min_alpha"), "lacks _denoising.log_1_min_alpha"),
        (lambda s: s | {NN + "extra": torch.zeros(2)}, "has the unknown _nn.extra"),
        (lambda s: s | {BUFFER + "extra": torch.zeros(2)}, "has the unknown _denoising.extra"),
        (lambda s: s | {"other": torch.zeros(2)}, "has the unknown other"),
        (lambda s: s | {CONV: torch.zeros(23)}, rf"has {CONV} \[23\] where \[24\] belongs"),
        (
            lambda s: s | {NN + "embedding.weight": torch.zeros(5, 8)},
            r"embedding.weight \[5, 8\] where \[6, 8\] belongs",
        ),
        (lambda s: s | {BUFFER + "log_alpha": torch.zeros(39)}, r"_denoising.log_alpha \[39\] where \[40\] belongs"),
        (lambda s: s | {BUFFER + "Lt_count": torch.zeros(41)}, r"_denoising.Lt_count \[41\] where \[40\] belongs"),
        (lambda s: s | {CONV: torch.full((24,), float("inf"))}, "not every value is a finite number"),
        (lambda s: {k: v for k, v in s.items() if "downs." not in k}, "has no residual blocks"),
        (lambda s: {}, "has no residual blocks"),
    ],
)
def test_what_does_not_fit_is_named(change: Callable[[State], State], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        import_vqddm(change(lightning()), {"grid": [4, 2]})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"heads": 4}, "unknown key heads in the configuration; allowed are: grid"),
        ({"grid": [4, 3]}, r"grid \[4, 3\]: 2 levels need sides that are multiples of 2"),
        ({"grid": 8}, "grid is two whole numbers"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        import_vqddm(lightning(), config)
