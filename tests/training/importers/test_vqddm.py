from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from helpers.checkpoints import Saved
from smalti.bundle.manifest import NoiseKind
from smalti.cli.main import _run
from smalti.errors import UsageError
from smalti_train.evaluation.subject import open_subject
from smalti_train.importers import import_checkpoint, recognised
from smalti_train.importers.fitting import Published
from smalti_train.importers.reading import read_checkpoint
from smalti_train.importers.vqddm import import_vqddm, recognised_schedule, vqddm_config
from smalti_train.models.multinomial_unet import MultinomialUNet, MultinomialUNetConfig
from smalti_train.models.vqgan import VQGAN, VQGANConfig
from smalti_train.objectives.multinomial import NoiseSchedule, cosine_schedule, schedule_of
from smalti_train.runs.config import VQGANRun
from smalti_train.runs.config_files import to_json
from smalti_train.runs.loading import load_autoencoder, load_prior

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


FILE = FIXTURES / "vqddm_small.ckpt"
CODEC = VQGANConfig(
    codes=32, code_dim=4, channels=32, multipliers=(1, 1), encoder_blocks=1, decoder_blocks=1, attention_levels=()
)


@pytest.fixture
def codec(tmp_path: Path) -> Path:
    """The run of an autoencoder of 32 codes, two pixels per token."""
    folder = tmp_path / "codec"
    folder.mkdir()
    (folder / "config.json").write_bytes(to_json(VQGANRun("some", model=CODEC)))
    save_file(VQGAN(CODEC).state_dict(), folder / "model.safetensors")
    return folder


def refused(*arguments: object) -> str:
    """What ``import_checkpoint`` says of what it does not take."""
    with pytest.raises(UsageError) as caught:
        import_checkpoint(*arguments)  # pyright: ignore[reportArgumentType]
    return str(caught.value)


def test_the_published_file_is_a_source(checkpoint: State) -> None:
    arrays = np.load(FIXTURES / "vqddm_small.npz")
    model = import_checkpoint(FILE, "vqddm", {"grid": [16, 16]})
    assert isinstance(model, MultinomialUNet)
    found = model.logits(torch.from_numpy(arrays["x0"]).flatten(1), t=torch.from_numpy(arrays["t"]))
    wanted = arrays["unet_logits_x0"].reshape(2, 32, 256).transpose(0, 2, 1)
    assert np.abs(found.numpy() - wanted).max() <= 1e-4
    assert recognised(checkpoint) == "vqddm"
    assert recognised({name: value for name, value in checkpoint.items() if name.startswith(NN)}) == "vqddm"


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_truncated_files(part: float, tmp_path: Path) -> None:
    whole = FILE.read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: int(part * len(whole))])
    assert "damaged" in refused(tmp_path / "cut.ckpt", "vqddm")


def test_files_of_other_systems_and_of_this_one_as_another(saved: Saved, checkpoint: State) -> None:
    assert refused(FILE, "unleashing-absorbing").endswith("try the source vqddm")
    assert refused(FILE, "taming-vqgan").endswith("try the source vqddm")
    assert refused(FIXTURES / "ut_absorbing_small.th", "vqddm").endswith("try the source unleashing-absorbing")
    assert refused(FIXTURES / "taming_vqmodel_small.ckpt", "vqddm").endswith("try the source taming-vqgan")
    lacking = saved(without(checkpoint, NN + "mid_attn.fn.g", DENOISE + "mid_attn.fn.g"))
    assert "mid_attn.fn.g" in refused(lacking, "vqddm")
    assert "could run code" in refused(saved({"state_dict": {**checkpoint, "more": Path}}), "vqddm")


def test_the_command_writes_a_run_that_loads(codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def command(*options: object) -> int:
        return _run(["import", "--source", "vqddm", str(FILE), *map(str, options)])

    assert command("-o", tmp_path / "alone") == 2
    assert "vqddm is a prior: name the run of its autoencoder" in capsys.readouterr().err
    assert command("-o", tmp_path / "prior", "--autoencoder", codec, "--labels", "a,b") == 2
    assert "2 labels: this prior can have 0 classes" in capsys.readouterr().err
    assert command("-o", tmp_path / "prior", "--autoencoder", codec) == 0, capsys.readouterr().err
    prior, run = load_prior(tmp_path / "prior")
    assert isinstance(prior, MultinomialUNet)
    assert (run.objective, run.preset, run.data.size) == ("vlb", "vqddm", 32)
    assert run.model == MultinomialUNetConfig(codes=32, width=8)
    tokens = torch.randint(32, (2, 256), generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 3999])
    again = import_checkpoint(FILE, "vqddm")
    assert isinstance(again, MultinomialUNet)
    assert torch.equal(prior.logits(tokens, t=t), again.logits(tokens, t=t))
    assert load_autoencoder(tmp_path / "prior/autoencoder")[0].config.codes == 32
    subject = open_subject(str(tmp_path / "prior"), steps=2)
    assert subject.draw is not None
    assert subject.draw([3], [None]).shape == (1, 16, 16)
