"""Checkpoints as training programs write them: other objects beside the weights, and wrappers' names inside."""

from __future__ import annotations

import argparse
import collections
import enum
import functools
import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from helpers.checkpoints import SMALL, Saved, State
from smalti.errors import UsageError
from smalti_train.importers import import_checkpoint
from smalti_train.importers.reading import read_checkpoint
from smalti_train.models.vqgan import VQGAN


class Mode(enum.Enum):
    LOWEST = "min"


class Settings(dict[str, Any]):
    """As Lightning's AttributeDict: a dictionary with attributes."""


class Score:
    def __init__(self) -> None:
        self.best = torch.ones(3)


class Queue(list[int]):
    pass


class Attack:
    """Runs a program when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def small() -> State:
    torch.manual_seed(0)
    return VQGAN(SMALL).state_dict()


def holds(path: Path, state: State) -> None:
    loaded = import_checkpoint(path, "taming-vqgan").state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


settings = Settings(lr=1e-4, path=Path("/data"))
settings.owner = Score()  # pyright: ignore[reportAttributeAccessIssue]
EXTRAS: dict[str, Any] = {
    "a class as key": {"callbacks": {Score: {"best_model_score": torch.tensor(0.5), "dirpath": Path("/runs")}}},
    "an object": {"callbacks": [Score(), Queue([1, 2])], "epoch": 3},
    "a name space": {"hyper_parameters": argparse.Namespace(lr=1.0, root=Path("/data"))},
    "a dictionary of its own": {"hyper_parameters": settings},
    "of numpy": {"lr": np.float64(1e-4), "seen": np.arange(5), "rng": np.random.RandomState(0).get_state()},
    "of the standard library": {
        "a": collections.deque([1, 2], 5),
        "b": collections.defaultdict(list, {"x": [1]}),
        "c": functools.partial(torch.optim.Adam, lr=1e-3),
        "d": Mode.LOWEST,
        "e": {1, 2},
    },
}


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize("extra", EXTRAS)
def test_cases_of_harmless_objects_beside_the_weights(extra: str, zipped: bool, protocol: int, saved: Saved) -> None:
    state = small()
    held = {"pytorch-lightning_version": "1.4.2", **EXTRAS[extra], "state_dict": state, "loops": {"fit": Score()}}
    options: Any = {"_use_new_zipfile_serialization": zipped, "pickle_protocol": protocol}
    holds(saved(held, **options), state)


def test_cases_of_harmless_things_among_the_weights(saved: Saved) -> None:
    state = small()
    holds(saved({"state_dict": {**state, "decoder._extra_state": Score(), "_extra_state": None}}), state)
    parameters = {name: nn.Parameter(value) for name, value in state.items()}
    next(iter(parameters.values())).note = Score()  # pyright: ignore[reportAttributeAccessIssue]
    holds(saved({"state_dict": parameters, "more": Score()}), state)


@pytest.mark.parametrize(
    "held",
    [
        lambda: {"state_dict": {**small(), "encoder.x": Score()}},
        lambda: {"state_dict": Score(), "more": torch.ones(2)},
        lambda: {"state_dict": Settings(small())},
        lambda: {"state_dict": {**small(), "x": np.ones(3)}},
        lambda: Score(),
        lambda: VQGAN(SMALL),
    ],
)
def test_cases_where_the_weights_themselves_need_a_class_are_refused(held: Any, saved: Saved) -> None:
    with pytest.raises(UsageError):
        import_checkpoint(saved(held()), "taming-vqgan")


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("place", ["beside", "among", "alone"])
@pytest.mark.parametrize("kind", [subprocess.check_call, exec, getattr, Path.touch, eval])
def test_cases_of_attacks_run_nothing(kind: Any, place: str, protocol: int, tmp_path: Path, saved: Saved) -> None:
    target = tmp_path / "made"
    what = {
        exec: (exec, f"open({str(target)!r}, 'w')"),
        eval: (eval, f"open({str(target)!r}, 'w')"),
        subprocess.check_call: (subprocess.check_call, ["touch", str(target)]),
        getattr: (getattr(Path, "touch"), target),  # noqa: B009 - pickled as a look-up of an attribute
        Path.touch: (Path.touch, target),
    }[kind]
    attack = Attack(*what)
    state = small()
    held: Any = {"beside": {"state_dict": state, "x": attack}, "among": {**state, "x": attack}, "alone": attack}[place]
    path = saved(held, pickle_protocol=protocol)  # pyright: ignore[reportArgumentType]
    if place == "beside" and kind in (getattr, Path.touch):  # harmless where nobody calls it
        assert read_checkpoint(path).keys() == state.keys()
    else:
        with pytest.raises(UsageError, match="could run code"):
            read_checkpoint(path)
    path.write_bytes(pickle.dumps(held["x"] if isinstance(held, dict) else held, protocol))
    with pytest.raises(UsageError, match="could run code"):
        read_checkpoint(path)
    assert not target.exists()


@pytest.mark.parametrize(
    "renamed",
    [
        lambda name: name.replace("encoder.", "encoder.module.", 1),
        lambda name: name.replace("decoder.", "decoder.module.module.", 1),
        lambda name: "module." + name.replace("encoder.", "encoder.module.", 1).replace("decoder.", "decoder.module."),
        lambda name: name.replace("encoder.mid.", "encoder.mid.module."),
        lambda name: name.replace("encoder.", "encoder._fsdp_wrapped_module.", 1),
        lambda name: "_forward_module." + name.replace("decoder.", "decoder._orig_mod.module.", 1),
    ],
)
def test_cases_of_wrapped_parts(renamed: Any, saved: Saved) -> None:
    state = small()
    wrapped = {renamed(name): value for name, value in state.items()}
    assert wrapped.keys() != state.keys()
    holds(saved({"state_dict": wrapped}), state)
    copies = {f"model_ema.{name.replace('.', '')}": value for name, value in wrapped.items()}
    raw = {name: torch.zeros_like(value) for name, value in wrapped.items()}
    holds(saved({"state_dict": {**raw, **copies, "model_ema.decay": torch.tensor(0.9)}}), state)


def test_cases_of_a_module_among_others_keep_their_names(saved: Saved) -> None:
    state = {"encoder.module.a": torch.ones(1), "encoder.other": torch.ones(1), "x.module": torch.ones(1)}
    assert read_checkpoint(saved(state)).keys() == state.keys()
