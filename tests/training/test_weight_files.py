from __future__ import annotations

import hashlib
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from smalti.errors import MissingExtra, UsageError
from smalti_train.evaluation.weight_files import open_weights
from smalti_train.models.inception_v3 import InceptionV3, averaged, greatest
from smalti_train.models.vgg16 import VGG16

State = dict[str, Tensor]


def light(network: Callable[[], nn.Module]) -> State:
    """Weights of the right shapes, each tensor one number repeated, so that a file of them is small."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in network().state_dict().items()}
    return {key: torch.tensor((1 + index) / 1024).expand(shape) for index, (key, shape) in enumerate(shapes.items())}


@pytest.fixture
def vgg() -> State:
    """As torchvision publishes it."""
    classifier = {"classifier.0.weight": torch.zeros(1).expand(4096, 25088), "classifier.6.bias": torch.zeros(1000)}
    return {**light(VGG16), **classifier}


@pytest.fixture
def inception() -> State:
    """What Inception-v3 files have in common; counts of batches left out, as in files of old."""
    state = light(lambda: InceptionV3(fid=True))
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


@pytest.fixture
def fid(inception: State) -> State:
    """As pytorch-fid publishes it."""
    return {**inception, "fc.weight": torch.zeros(1).expand(1008, 2048), "fc.bias": torch.zeros(1008)}


@pytest.fixture
def google(inception: State) -> State:
    """As torchvision publishes it."""
    auxiliary = {
        "AuxLogits.conv0.conv.weight": torch.zeros(1).expand(128, 768, 1, 1),
        "AuxLogits.conv0.bn.num_batches_tracked": torch.tensor(0),
        "AuxLogits.fc.weight": torch.zeros(1).expand(1000, 768),
    }
    return {**inception, **auxiliary, "fc.weight": torch.zeros(1).expand(1000, 2048), "fc.bias": torch.zeros(1000)}


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    def save(held: object, name: str = "weights.pth", **options: bool) -> Path:
        torch.save(held, tmp_path / name, **options)
        return tmp_path / name

    return save


Saved = Callable[..., Path]


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        open_weights(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 1200
    return message


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
    with pytest.raises(MissingExtra, match=r"smalti\[train\]"):
        open_weights(tmp_path / "vgg.safetensors")


def test_random_numbers_are_left_alone(fid: State, saved: Saved) -> None:
    path = saved(fid)
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    open_weights(path)
    assert torch.equal(torch.rand(1), wanted)


# What is refused


def test_missing_keys(vgg: State, saved: Saved) -> None:
    for index in (7, 10, 12):
        del vgg[f"features.{index}.weight"], vgg[f"features.{index}.bias"]
    message = refusal(saved(vgg))
    assert "VGG16 but lacks features.7.weight, features.7.bias, features.10.weight and 3 more" in message
    assert "vgg16-*.pth" in message


def test_foreign_keys(fid: State, saved: Saved) -> None:
    fid["Mixed_8a.conv.weight"] = torch.zeros(3)
    assert "Inception-v3 but has Mixed_8a.conv.weight. Understood" in refusal(saved(fid))


def test_misshaped_keys(vgg: State, saved: Saved) -> None:
    vgg["features.28.weight"] = torch.zeros(1).expand(512, 512, 1, 1)
    assert "features.28.weight [512, 512, 1, 1] where [512, 512, 3, 3] belongs" in refusal(saved(vgg))


def test_one_message_tells_all(google: State, saved: Saved) -> None:
    for key in [key for key in google if key.startswith("Mixed_6")]:
        google[key.replace("Mixed", "Renamed")] = google.pop(key)
    for key in [key for key in google if key.startswith("Mixed_7c") and key.endswith("conv.weight")]:
        google[key] = google[key].expand(3, 3, *google[key].shape)
    message = refusal(saved(google))
    assert "lacks Mixed_6a.branch3x3.conv.weight, " in message
    assert "has Renamed_6a.branch3x3.conv.weight, " in message
    assert "where [320, 2048, 1, 1] belongs, " in message


def test_another_network(saved: Saved) -> None:
    state = {f"layer{index}.conv1.weight": torch.zeros(3) for index in range(9)}
    message = refusal(saved(state))
    assert "neither Inception-v3 nor VGG16 but layer0.conv1.weight, layer1.conv1.weight, " in message
    assert "and 6 more" in message
    assert "pytorch-fid" in message


def test_keys_cannot_garble_the_message(saved: Saved) -> None:
    assert r"a\nb\x1b[2J" in refusal(saved({"a\nb\x1b[2J" + "x" * 5000: torch.zeros(1)}))


def test_inception_that_could_be_either(inception: State, fid: State, google: State, saved: Saved) -> None:
    assert "no fc.weight and no AuxLogits" in refusal(saved(inception))
    fid["fc.weight"] = torch.zeros(1).expand(10, 2048)
    assert "for 10 classes and no AuxLogits" in refusal(saved(fid))
    google["fc.weight"] = torch.zeros(1).expand(1008, 2048)
    assert "for 1008 classes and AuxLogits" in refusal(saved(google))


def test_vgg16_from_caffe(vgg: State, saved: Saved) -> None:
    vgg["classifier.6.bias"] = torch.full((1000,), torch.nan)
    assert "vgg16-397923af.pth" in refusal(saved(vgg))


def test_values_that_are_no_numbers(fid: State, saved: Saved) -> None:
    fid["Mixed_6a.branch3x3.bn.running_var"] = torch.full((384,), torch.nan)
    assert "finite number in Mixed_6a.branch3x3.bn.running_var" in refusal(saved(fid))


@pytest.mark.parametrize(
    "held",
    [
        [torch.zeros(3)],
        torch.zeros(3),
        3,
        {},
        {"state_dict": {}},
        {0: torch.zeros(3)},
        {"features.0.weight": 3},
        {"features.0.weight": torch.zeros(64, 3, 3, 3, dtype=torch.int8)},
        {"features.0.weight": torch.zeros(64, 3, 3, 3, dtype=torch.complex64)},
        {"features.0.bias": torch.zeros(64).to_sparse()},
        {"features.0.bias": torch.zeros(64, device="meta")},
        {"features.0.bias": torch.zeros(64, dtype=torch.float8_e4m3fn)},
    ],
)
def test_other_things(held: object, saved: Saved) -> None:
    assert "Understood are" in refusal(saved(held))


def test_missing_file_directory_and_pipe(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.pth")
    assert "does not exist" in refusal(tmp_path / "none.onnx")
    assert "not a file" in refusal(tmp_path)
    assert "cannot read" in refusal(tmp_path / ("x" * 300 + ".pth"))
    assert "does not exist" in refusal(tmp_path / "nul\0.pth")
    os.mkfifo(tmp_path / "pipe.pth")
    assert "not a file" in refusal(tmp_path / "pipe.pth")


def test_other_endings(tmp_path: Path) -> None:
    (tmp_path / "weights.onnx").write_bytes(b"onnx")
    assert "does not end in .pth, .pt or .safetensors" in refusal(tmp_path / "weights.onnx")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"\x80\x02",
        b"PK\x03\x04" + b"\0" * 100,
        b"<!DOCTYPE html><title>404</title>",
        b"\xff" * 1000,
        np.random.default_rng(0).bytes(5000),
        b"\x08\0\0\0\0\0\0\0" + b'{"a": 1}',
    ],
)
def test_damage(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    assert "is damaged" in refusal(path)


def test_every_kind_of_damage_to_a_real_file(saved: Saved) -> None:
    for zipped in (True, False):
        path = saved({"features.0.bias": torch.zeros(64)}, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        generator = np.random.default_rng(0)
        for _ in range(200):
            content = bytearray(whole)
            for place in generator.integers(0, len(content), 3):
                content[place] = generator.integers(256)
            path.write_bytes(content[: generator.integers(len(content) // 2, len(content) + 1)])
            refusal(path)


class Trap:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, ("trapped",)


def test_code_is_not_run(tmp_path: Path, saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(Trap()))
    for path in (
        saved({"features.0.weight": Trap()}),
        saved(Trap(), "old.pt", _use_new_zipfile_serialization=False),
        plain,
    ):
        message = refusal(path)
        assert "state_dict()" in message
        assert "weights_only" not in message
    assert not (tmp_path / "trapped").exists()


def test_whole_model(saved: Saved) -> None:
    assert "save its state_dict() alone" in refusal(saved(nn.Conv2d(3, 3, 1)))


def test_torchscript(tmp_path: Path) -> None:
    path = tmp_path / "inception-2015-12-05.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inception/constants.pkl", b"")
        archive.writestr("inception/data.pkl", b"")
    message = refusal(path)
    assert "TorchScript" in message
    assert "pt_inception-2015-12-05-6726825d.pth" in message
