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
from smalti_train.models.edge_autoencoder import EdgeAutoencoder
from smalti_train.models.pixels import PixelCodes
from smalti_train.models.preview_decoder import PreviewDecoder, PreviewDecoderConfig
from smalti_train.presets.catalogue import AUTOENCODERS
from smalti_train.runs.config import LoopConfig, PixelRun
from smalti_train.runs.loading import build_autoencoder, load_autoencoder, load_preview
from smalti_train.trainers.preview import (
    WIDTHS,
    cost,
    preview_run,
    start_from_codes,
    teacher_pixels,
    train_preview,
    unfinished,
)


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["train", "preview", *map(str, arguments)])
    return int(stop.value.code or 0)


def test_a_preview_comes_closer_to_the_decoder_and_costs_at_most_a_tenth(
    tiny_preview: Path, tiny_runs: tuple[Path, Path]
) -> None:
    teacher, trained = load_autoencoder(tiny_runs[0])
    model, config = load_preview(tiny_preview)
    assert cost(model, teacher) <= 0.1
    tokens = teacher.encode(to_images(open_split(trained.data, "validation").images[:16]))
    torch.manual_seed(config.loop.seed)
    fresh = PreviewDecoder(config.model)
    with torch.no_grad():
        expected = teacher_pixels(teacher, tokens)
        before, after = (psnr(to_pixels(one(tokens)), to_pixels(expected)).mean() for one in (fresh, model))
    assert after > before + 1.5
    assert expected.shape == model(tokens).shape


@pytest.mark.parametrize("preset", ["avatars-256", "avatars-64-vqgan", "tiny-vqgan"])
def test_the_widest_preview_that_costs_a_tenth_is_chosen(preset: str) -> None:
    run = AUTOENCODERS[preset]
    teacher = build_autoencoder(run.model)
    config = preview_run(teacher, run)
    assert cost(PreviewDecoder(config.model), teacher) <= 0.1
    assert (config.model.codes, config.model.factor) == (run.model.codes, run.model.factor)
    if config.model.width < WIDTHS[0]:
        width = WIDTHS[WIDTHS.index(config.model.width) - 1]
        wider = dataclasses.replace(config.model, width=width, fine=width // 3)
        assert cost(PreviewDecoder(wider), teacher) > 0.1


@pytest.mark.parametrize("preset", ["tiny", "tiny-vqgan"])
def test_tokens_whose_codes_are_alike_are_alike_from_the_start(preset: str) -> None:
    run = AUTOENCODERS[preset]
    teacher = build_autoencoder(run.model).eval()
    codes = teacher.quantizer.codebook if preset == "tiny" else teacher.quantize.embedding.weight
    with torch.no_grad():
        codes[1] = codes[0] + 1e-4
    model = PreviewDecoder(dataclasses.replace(preview_run(teacher, run).model, width=64))
    start_from_codes(model, teacher)
    vectors = model.embedding.weight.detach()
    apart = torch.cdist(vectors[:1], vectors[1:-1])[0]
    assert apart[0] < 0.05 * apart.median()
    assert vectors[:-1].std() == pytest.approx(1, abs=0.01)
    assert not vectors[-1].any()


def test_every_second_grid_is_whole_and_the_others_lack_some_tokens() -> None:
    tokens = torch.arange(64).reshape(1, 8, 8).expand(64, 8, 8)
    shown = unfinished(tokens, 64, torch.Generator().manual_seed(0))
    assert torch.equal(shown[::2], tokens[::2])
    lost = (shown == 64).float().mean((1, 2))[1::2]
    assert torch.equal(torch.where(shown == 64, tokens, shown), tokens)
    assert lost.min() < 0.1
    assert lost.max() > 0.9
    assert abs(lost.mean() - 0.5) < 0.2


@pytest.mark.parametrize("factor", [1, 2, 4, 8, 16, 32, 6])
def test_a_preview_has_the_size_of_the_image(factor: int) -> None:
    model = PreviewDecoder(PreviewDecoderConfig(codes=7, factor=factor, width=8, fine=4))
    tokens = torch.arange(24).reshape(1, 4, 6) % 8
    assert model(tokens).shape == (1, 3, 4 * factor, 6 * factor)


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(tiny_runs: tuple[Path, Path], tmp_path: Path) -> None:
    config = preview_run(*load_autoencoder(tiny_runs[0]))
    loop = LoopConfig(steps=6, batch=4, precision="fp32", checkpoint_every=3)
    config = dataclasses.replace(config, loop=loop)
    train_preview(config, tmp_path / "whole", tiny_runs[0])
    train_preview(config, tmp_path / "cut", tiny_runs[0])
    (tmp_path / "cut/checkpoint-00000006").rename(tmp_path / "gone")
    train_preview(config, tmp_path / "cut", None)
    states = [load_preview(tmp_path / name)[0].state_dict() for name in ("whole", "cut")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_new_run_may_start_from_another_ones_weights(
    tiny_runs: tuple[Path, Path], tiny_preview: Path, tmp_path: Path
) -> None:
    options = ("--steps", 1, "--batch", 4, "--precision", "fp32", "--lr", 1e-6)
    assert command("--run", tmp_path / "on", "--autoencoder", tiny_runs[0], "--init", tiny_preview, *options) == 0
    before, after = (load_preview(path)[0].state_dict() for path in (tiny_preview, tmp_path / "on"))
    assert all(torch.allclose(before[name], after[name], atol=1e-4) for name in before)


def test_what_cannot_be_previewed_is_refused(
    tiny_runs: tuple[Path, Path], tiny_preview: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = PixelRun(preset="grey")
    with pytest.raises(UsageError, match="no decoder"):
        preview_run(PixelCodes(pixels.model), pixels)
    small = dataclasses.replace(AUTOENCODERS["tiny"].model, channels=(8,), encoder_blocks=(0,), decoder_blocks=(0,))
    with pytest.raises(UsageError, match="so small"):
        preview_run(EdgeAutoencoder(small), AUTOENCODERS["tiny"])
    config = preview_run(*load_autoencoder(tiny_runs[0]))
    other = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, codes=65),
        loop=dataclasses.replace(config.loop, precision="fp32"),
    )
    with pytest.raises(UsageError, match="for 65 codes"):
        train_preview(other, tmp_path / "other", tiny_runs[0])
    assert command("--run", tmp_path / "none") == 2
    assert "--autoencoder" in capsys.readouterr().err
    assert command("--run", tiny_runs[1], "--autoencoder", tiny_runs[0]) == 2
    assert "another kind" in capsys.readouterr().err
    with pytest.raises(UsageError, match="preview decoder"):
        load_autoencoder(tiny_preview)
    with pytest.raises(UsageError, match="smalti train preview"):
        load_preview(tiny_runs[0])


def test_the_sheet_shows_decoder_preview_and_unfinished_grids(tiny_preview: Path) -> None:
    sheet = np.asarray(Image.open(tiny_preview / "sheets/00000040.png"))
    pitch = (len(sheet) + 4) // 3
    rows = [sheet[first : first + 64] for first in (0, pitch, 2 * pitch)]
    assert not np.array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[1], rows[2])
