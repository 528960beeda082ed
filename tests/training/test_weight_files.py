"""Weights that users bring, as published: which network they are, and that it is loaded as it stands."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from smalti.errors import MissingExtra
from smalti_train.importers.weight_files import open_weights
from smalti_train.models.inception_v3 import InceptionV3, averaged, greatest
from smalti_train.models.vgg16 import VGG16

State = dict[str, Tensor]
Saved = Callable[..., Path]


def is_ready(network: nn.Module, state: State) -> bool:
    loaded = network.state_dict()
    same = all(torch.equal(value, state[key].float()) for key, value in loaded.items() if key in state)
    frozen = not any(parameter.requires_grad for parameter in network.parameters())
    return same and frozen and not network.training and all(value.device.type == "cpu" for value in loaded.values())


def test_network_of_pytorch_fid(fid: State, saved: Saved) -> None:
    path = saved(fid, "any name.pth")
    name, side, network, identity = open_weights(path)
    assert (name, side) == ("Inception-v3 (file any name.pth)", 299)
    assert identity == hashlib.sha256(path.read_bytes()).hexdigest()
    assert isinstance(network, InceptionV3)
    assert network.Mixed_7c.pool is greatest
    assert is_ready(network, fid)
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 75, 75)).shape == (2, 2048)


def test_inception_of_torchvision(google: State, saved: Saved) -> None:
    name, side, network, _ = open_weights(saved(google))
    assert (name, side) == ("Inception-v3 (file weights.pth)", 299)
    assert isinstance(network, InceptionV3)
    assert network.Mixed_7c.pool is averaged
    assert is_ready(network, google)


def test_inception_with_auxiliary_alone_is_torchvisions(google: State, saved: Saved) -> None:
    del google["fc.weight"], google["fc.bias"]
    network = open_weights(saved(google))[2]
    assert isinstance(network, InceptionV3)
    assert network.Mixed_7c.pool is averaged


def test_counts_of_batches_are_ignored(fid: State, saved: Saved) -> None:
    counted = {**fid, "Mixed_5b.branch1x1.bn.num_batches_tracked": torch.tensor(5)}
    assert is_ready(open_weights(saved(counted))[2], fid)


def test_vgg16_of_torchvision(vgg: State, saved: Saved) -> None:
    name, side, network, _ = open_weights(saved(vgg, "vgg16.PT"))
    assert (name, side) == ("VGG16 (file vgg16.PT)", 224)
    assert isinstance(network, VGG16)
    assert is_ready(network, vgg)


@pytest.mark.parametrize("zipped", [True, False])
def test_wrapped_and_old_files(vgg: State, saved: Saved, zipped: bool) -> None:
    held = {"epoch": 3, "state_dict": vgg}
    assert is_ready(open_weights(saved(held, _use_new_zipfile_serialization=zipped))[2], vgg)


def test_parameters_and_other_precisions(vgg: State, saved: Saved) -> None:
    vgg["features.0.weight"] = nn.Parameter(torch.randn(64, 3, 3, 3))
    vgg["features.2.bias"] = torch.randn(64).half()
    vgg["features.5.bias"] = torch.randn(128).double()
    network = open_weights(saved(vgg))[2]
    assert is_ready(network, vgg)
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}


def test_safetensors(vgg: State, tmp_path: Path) -> None:
    path = tmp_path / "vgg.safetensors"
    state = {key: value.half().contiguous() for key, value in vgg.items() if key.startswith("features.")}
    save_file(state, path)
    name, _, network, identity = open_weights(path)
    assert name == "VGG16 (file vgg.safetensors)"
    assert identity == hashlib.sha256(path.read_bytes()).hexdigest()
    assert is_ready(network, state)
    os.remove(path)  # 30 MB that pytest would keep


def test_safetensors_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vgg.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(MissingExtra, match=r"pip install .*\[train\]"):
        open_weights(tmp_path / "vgg.safetensors")


def test_random_numbers_are_left_alone(fid: State, saved: Saved) -> None:
    path = saved(fid)
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    open_weights(path)
    assert torch.equal(torch.rand(1), wanted)
