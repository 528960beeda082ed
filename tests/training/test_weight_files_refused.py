"""Weights that users bring and that are refused: other networks, damage, and files that would run code."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smalti.errors import UsageError
from smalti_train.importers.weight_files import open_weights

State = dict[str, Tensor]
Saved = Callable[..., Path]


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        open_weights(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 1200
    return message


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
