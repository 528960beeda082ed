"""Training heads by the real commands: all else stays, sizes are learnt, a stopped run ends as an uninterrupted one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from smalti.cli.main import main
from smalti.errors import UsageError
from smalti_train.data.config import open_split
from smalti_train.data.pixels import to_images, to_pixels
from smalti_train.evaluation.metrics import psnr
from smalti_train.models.size_heads import SCALES, SizedAutoencoder
from smalti_train.runs.config import LoopConfig
from smalti_train.runs.loading import load_autoencoder, load_heads
from smalti_train.trainers.heads import decibels_by_size, enlarged, train_heads

FP32 = ("--precision", "fp32")


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["train", "heads", *map(str, arguments)])
    return int(stop.value.code or 0)


def test_tokens_and_decoder_stay_and_larger_sizes_are_learnt(tiny_heads: Path, tiny_runs: tuple[Path, Path]) -> None:
    before, _ = load_autoencoder(tiny_runs[0])
    model, config = load_heads(tiny_heads)
    for name, value in model.autoencoder.state_dict().items():
        assert torch.equal(value, before.state_dict()[name]), name
    torch.manual_seed(0)
    fresh = SizedAutoencoder(config.model).eval()
    fresh.autoencoder.load_state_dict(before.state_dict())
    pixels = open_split(config.data, "train").images[:8]
    with torch.no_grad():
        ids = model.encode(to_images(pixels))
        for scale in SCALES[1:]:
            real = open_split(dataclasses.replace(config.data, size=64 * scale), "train").images[:8]
            after, before_it = (psnr(to_pixels(one.decode(ids, scale)), real).mean() for one in (model, fresh))
            assert after - before_it > 0.1, scale


def test_a_run_of_heads_is_its_autoencoders_too(tiny_heads: Path) -> None:
    heads, _ = load_heads(tiny_heads)
    codec, trained = load_autoencoder(tiny_heads)
    ids = torch.randint(64, (1, 4, 4))
    with torch.no_grad():
        assert torch.equal(codec.decode(ids), heads.decode(ids))
    assert trained.model == heads.config.autoencoder


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(tiny_heads: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(load_heads(tiny_heads)[1], loop=LoopConfig(steps=4, batch=2, precision="fp32"))
    config = dataclasses.replace(config, loop=dataclasses.replace(config.loop, checkpoint_every=2))
    for name in ("whole", "cut"):
        train_heads(config, tmp_path / name, None, tiny_heads)
    (tmp_path / "cut/checkpoint-00000004").rename(tmp_path / "gone")
    train_heads(config, tmp_path / "cut", None)
    states = [load_heads(tmp_path / name)[0].state_dict() for name in ("whole", "cut")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_what_cannot_have_heads_is_refused(
    tiny_heads: Path, tiny_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--run", tmp_path / "none", "--preset", "tiny", *FP32) == 2
    assert "--autoencoder" in capsys.readouterr().err
    assert command("--run", tmp_path / "prior", "--preset", "tiny", "--autoencoder", tiny_runs[1], *FP32) == 2
    assert "run of a prior" in capsys.readouterr().err
    assert command("--run", tiny_runs[1]) == 2
    assert "another kind" in capsys.readouterr().err
    assert not (tmp_path / "none/config.json").exists()
    tiny = load_heads(tiny_heads)[1]
    wider = dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, width=24))
    with pytest.raises(UsageError, match="width: 16, not 24"):
        train_heads(wider, tmp_path / "wider", None, tiny_heads)
    with pytest.raises(UsageError, match="not the run of heads"):
        load_heads(tiny_runs[0])


def test_the_sheet_shows_real_drawn_and_enlarged_pictures_one_to_one(tiny_heads: Path) -> None:
    with Image.open(tiny_heads / "sheets/00000030.png") as image:
        sheet = np.asarray(image)
    pitch = (len(sheet) + 4) // 3
    rows = [sheet[first : first + 192] for first in (0, pitch, 2 * pitch)]
    config = load_heads(tiny_heads)[1]
    real = open_split(dataclasses.replace(config.data, size=256), "validation").images[0]
    assert np.array_equal(rows[0][:192, :192], real[32:224, 32:224])
    assert not np.array_equal(rows[1], rows[2])


def test_the_lanczos_enlargement_keeps_flat_pictures() -> None:
    pixels = np.full((2, 8, 8, 3), (10, 200, 90), np.uint8)
    assert np.array_equal(enlarged(pixels, 4), np.full((2, 32, 32, 3), (10, 200, 90), np.uint8))


def test_sizes_that_nobody_drew_are_measured_on_the_smallest_enlarged() -> None:
    generator = np.random.default_rng(0)
    real = [generator.integers(0, 256, (2, 8 * scale, 8 * scale, 3)).astype(np.uint8) for scale in SCALES]
    small = real[0] // 2
    given = decibels_by_size({scale: enlarged(small, scale) if scale > 1 else small for scale in SCALES}, real)
    found = decibels_by_size({1: small}, real)
    assert set(found) == {(scale, kind) for scale in SCALES for kind in ("psnr", "edge psnr")}
    assert all(np.array_equal(found[key], given[key]) for key in given)
    exact = decibels_by_size(dict(zip(SCALES, real)), real)
    assert all((values > 140).all() for values in exact.values())
