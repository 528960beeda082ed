from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from smalti.cli.main import _run
from smalti.codec import grey
from smalti.errors import UsageError
from smalti_train.data.pixels import to_images, to_pixels
from smalti_train.models.meta_init import unfilled
from smalti_train.models.pixels import PixelCodes, PixelCodesConfig
from smalti_train.runs.config import PixelRun
from smalti_train.runs.config_files import read_run
from smalti_train.runs.loading import build_autoencoder, load_autoencoder


@pytest.mark.parametrize("codes", [2, 7, 256])
def test_tokens_and_pixels_are_those_of_the_runtime(codes: int) -> None:
    model = PixelCodes(PixelCodesConfig(codes))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 30, 3)).astype(np.uint8)
    tokens = model.encode(to_images(pixels))
    assert tokens.dtype == torch.int64
    assert np.array_equal(tokens.numpy(), grey.to_tokens(pixels, codes))
    assert np.array_equal(to_pixels(model.decode(tokens)), grey.to_pixels(tokens.numpy().astype(np.int32), codes))
    assert len(tokens.unique()) > 0.8 * codes


def test_every_grey_level_comes_back() -> None:
    model = PixelCodes(PixelCodesConfig())
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    images = to_images(pixels)
    assert np.array_equal(model.encode(images).numpy()[0], np.arange(256).reshape(16, 16))
    torch.testing.assert_close(model.decode(model.encode(images)), images)
    with torch.autocast("cpu", torch.bfloat16):  # training encodes under the precision of its run
        assert torch.equal(model.encode(images), model.encode(images.double()))
    assert model.encode(images * 3).max() == 255
    assert model.encode(images * 3).min() == 0


def test_there_is_nothing_to_keep() -> None:
    with unfilled():
        model = build_autoencoder(PixelCodesConfig())
    assert model.state_dict() == {}
    assert model.decode(torch.tensor([[[0, 255]]])).flatten().tolist() == [-1, 1] * 3
    assert (model.config.factor, model.config.halo) == (1, 0)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("codes", [1, 257])
def test_other_numbers_of_levels_are_refused(codes: int) -> None:
    with pytest.raises(UsageError, match=r"pixels have 2 \.\. 256 grey levels"):
        PixelCodesConfig(codes)


def test_the_command_writes_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "autoencoder", "--preset", "fashion-mnist-sundae", "--run", str(tmp_path / "pixels")]
    for _ in range(2):  # a second time, as any run that goes on
        assert _run(command) == 0
        assert "nothing was trained; name it with --autoencoder" in capsys.readouterr().out
    model, run = load_autoencoder(tmp_path / "pixels")
    assert isinstance(model, PixelCodes)
    assert isinstance(run, PixelRun)
    assert read_run(tmp_path / "pixels/config.json") == run
    assert run.data.name == "fashion-mnist"
    assert _run([*command, "--steps", "9"]) == 2
    assert "nothing is trained: give --run alone" in capsys.readouterr().err
    assert _run([*command, "--data", "folder"]) == 2
    assert "data.name: 'fashion-mnist', not 'folder'" in capsys.readouterr().err
