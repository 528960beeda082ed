from __future__ import annotations

import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from helpers.checkpoints import SMALL, Saved, State
from smalti.errors import MissingExtra, UsageError
from smalti_train.importers import import_checkpoint
from smalti_train.models.vqgan import VQGAN


def small(seed: int) -> State:
    """A state dict in taming's layout."""
    torch.manual_seed(seed)
    return VQGAN(SMALL).state_dict()


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        import_checkpoint(path, "taming-vqgan")
    message = str(caught.value)
    assert message.startswith((f"{path}", "cannot read"))
    assert "\n" not in message
    assert len(message) < 1200
    return message


def holds(path: Path, state: State) -> None:
    """The file imports as exactly ``state``."""
    loaded = import_checkpoint(path, "taming-vqgan").state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


@pytest.mark.parametrize("wrapper", [None, "state_dict", "net", "model", "module"])
@pytest.mark.parametrize("zipped", [True, False])
def test_wrapped_and_old_files(wrapper: str | None, zipped: bool, saved: Saved) -> None:
    state = small(0)
    held: object = state if wrapper is None else {"epoch": 3, "hyper": {"lr": 1.0}, "optim": [], wrapper: state}
    holds(saved(held, _use_new_zipfile_serialization=zipped), state)


def test_safetensors(tmp_path: Path) -> None:
    state = small(0)
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "m.safetensors")
    holds(tmp_path / "m.safetensors", state)


def test_other_precisions_and_parameters(saved: Saved) -> None:
    state = small(0)
    halves = {name: nn.Parameter(value.half()) for name, value in state.items()}
    holds(saved(halves), {name: value.half().float() for name, value in state.items()})


@pytest.mark.parametrize("copies", ["ema", "state_dict_ema", "ema_model", "model_ema", "EMA"])
def test_an_averaged_dictionary_is_preferred(copies: str, saved: Saved) -> None:
    holds(saved({"state_dict": small(0), copies: small(1), "step": 7}), small(1))
    holds(saved({"model": small(0), copies: {"state_dict": small(1)}}), small(1))
    holds(saved({copies: small(1)}), small(1))


def test_an_average_of_some_parameters_leaves_the_others(saved: Saved) -> None:
    state, copy = small(0), small(1)
    part = {name: value for name, value in copy.items() if name.startswith("decoder.")}
    holds(saved({"state_dict": state, "ema": part}), {**state, **part})


@pytest.mark.parametrize("prefix", ["ema.", "ema_model.", "model_ema.", "_ema."])
def test_averaged_copies_by_prefix(prefix: str, saved: Saved) -> None:
    copies = {f"{prefix}{name}": value for name, value in small(1).items()}
    counters = {f"{prefix}num_updates": torch.tensor(5)}
    holds(saved({"state_dict": {**small(0), **copies, **counters}}), small(1))
    holds(saved(copies), small(1))


def test_averaged_copies_of_lightning_have_no_dots(saved: Saved) -> None:
    copies = {f"model_ema.{name.replace('.', '')}": value for name, value in small(1).items()}
    counters = {"model_ema.decay": torch.tensor(0.99), "model_ema.num_updates": torch.tensor(5)}
    holds(saved({"state_dict": {**small(0), **copies, **counters}}), small(1))


def test_averaged_copies_beside_an_online_model(saved: Saved) -> None:
    online = {f"online_model.{name}": value for name, value in small(0).items()}
    copies = {f"ema_model.{name}": value for name, value in small(1).items()}
    holds(saved({**online, **copies, "initted": torch.tensor(True), "step": torch.tensor(9)}), small(1))


def test_names_of_parallel_compiled_and_averaged_modules(saved: Saved) -> None:
    model = VQGAN(SMALL)
    state = model.state_dict()
    holds(saved({f"module.{name}": value for name, value in state.items()}), state)
    holds(saved({f"_orig_mod.{name}": value for name, value in state.items()}), state)
    holds(saved(AveragedModel(model).state_dict()), state)


def test_files_that_are_no_files(tmp_path: Path) -> None:
    assert "is not a file" in refusal(tmp_path)
    assert "does not exist" in refusal(tmp_path / "none.th")


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files(part: float, zipped: bool, saved: Saved) -> None:
    path = saved(small(0), _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    assert "damaged" in refusal(path)


def test_files_that_are_something_else(tmp_path: Path, saved: Saved) -> None:
    for name, content in (("a.th", b"hello"), ("b.safetensors", b"hello"), ("c.ckpt", bytes(1000))):
        (tmp_path / name).write_bytes(content)
        assert "damaged" in refusal(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "d.pt", "w") as archive:
        archive.writestr("model/constants.pkl", b"")
    assert "TorchScript" in refusal(tmp_path / "d.pt")
    assert "holds a list" in refusal(saved([torch.zeros(1)]))
    assert "holds no weights" in refusal(saved({}))
    assert "not plain tensors: epoch, lr" in refusal(saved({"epoch": 1, "lr": 2.0}))
    assert "several dictionaries of weights (vqgan, prior)" in refusal(saved({"vqgan": small(0), "prior": small(1)}))
    knot: dict[str, Any] = {"x": torch.zeros(1)}
    knot["ema"] = knot
    assert "more than 4 dictionaries" in refusal(saved(knot))
    assert "not plain tensors: encoder.x" in refusal(saved({**small(0), "encoder.x": torch.zeros(2, 2).to_sparse()}))


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("torch_file", [True, False])
def test_code_in_a_pickle_does_not_run(torch_file: bool, tmp_path: Path, saved: Saved) -> None:
    held = {"state_dict": small(0), "callbacks": Payload(tmp_path / "made")}
    path = saved(held)
    if not torch_file:
        path.write_bytes(pickle.dumps(held["callbacks"]))
    message = refusal(path)
    assert "could run code" in message
    assert not (tmp_path / "made").exists()
    if torch_file:
        assert "mkdir" in message


def test_a_whole_module_is_refused(saved: Saved) -> None:
    assert "smalti_train.models.vqgan.VQGAN" in refusal(saved(VQGAN(SMALL)))


def test_safetensors_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(MissingExtra, match=r"pip install .*\[train\]"):
        import_checkpoint(tmp_path / "m.safetensors", "taming-vqgan")
