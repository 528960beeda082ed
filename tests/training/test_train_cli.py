from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from smalti.cli.main import main


def run(*arguments: str | Path, capture: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code of a command and what it said on stderr."""
    with pytest.raises(SystemExit) as caught:
        main(["train", *map(str, arguments)])
    assert isinstance(caught.value.code, int)
    return caught.value.code, capture.readouterr().err


@pytest.mark.parametrize("verb", ["autoencoder", "prior"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--preset", "huge"], "'huge': there are avatars-256, "),
        (["--steps", "0"], "steps 0: at least 1"),
        (["--batch", "-3"], "batch -3: at least 1"),
        (["--lr", "7"], "lr 7.0: must lie between 0 and 1"),
        (["--precision", "fp8"], "'fp8': allowed are fp32, bf16, fp16"),
        (["--data", "cats"], "'cats': allowed are avatars, folder, fashion-mnist"),
        (["--data", "folder"], "needs root"),
        (["--speed", "9"], "No such option"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_is_not_allowed_is_named(
    verb: str, options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = [] if "--preset" in options else ["--preset", "tiny"]
    precision = [] if "--precision" in options else ["--precision", "fp32"]
    target = tmp_path / "run"
    code, said = run(verb, "--run", target, *preset, *precision, *options, capture=capsys)
    assert code == 2
    assert words in said
    assert not (target / "config.json").exists()


def test_an_unknown_objective_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run("prior", "--run", tmp_path, "--preset", "tiny", "--objective", "best", capture=capsys)
    assert code == 2
    assert "'best': allowed are reweighted, elbo, mlm, autoregressive" in said


def test_a_prior_without_an_autoencoder_says_how_to_name_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = run("prior", "--run", tmp_path / "run", "--preset", "tiny", "--precision", "fp32", capture=capsys)
    assert code == 2
    assert "--autoencoder" in said


def test_an_autoencoder_of_another_preset_is_refused_before_any_image_is_made(
    tiny_runs: tuple[Path, Path], cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--preset", "avatars-256", "--precision", "fp32", "--autoencoder", tiny_runs[0]]
    before = {*cache_dir.glob("datasets/*")}
    code, said = run("prior", "--run", tmp_path / "run", *options, capture=capsys)
    assert code == 2
    assert "predicts 1024 codes on 16x16 tokens" in said
    assert "makes 64 codes on 16x16" in said
    assert {*cache_dir.glob("datasets/*")} == before


@pytest.mark.parametrize("verb", ["autoencoder", "prior"])
def test_weights_of_another_preset_are_refused(
    verb: str, tiny_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tiny_runs[verb == "prior"]
    options = ["--preset", "avatars-256", "--precision", "fp32", "--init", source]
    code, said = run(verb, "--run", tmp_path / "run", *options, capture=capsys)
    assert code == 2
    assert "model.codes: 64, not 1024" in said


def test_weights_that_are_not_there_are_a_bad_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--preset", "tiny", "--precision", "fp32", "--init", tmp_path / "nothing"]
    code, said = run("autoencoder", "--run", tmp_path / "run", *options, capture=capsys)
    assert code == 3
    assert f"no bundle at {tmp_path / 'nothing'}" in said


def test_other_options_for_a_run_that_exists_are_named(
    tiny_runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = run("autoencoder", "--run", tiny_runs[0], "--preset", "tiny", "--precision", "fp32", capture=capsys)
    assert code == 2
    assert "loop.steps: 20, not 200" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 trains on a GPU")
def test_fp16_on_a_cpu_is_refused_with_the_remedy(tmp_path: Path) -> None:
    target = tmp_path / "run"
    options = ["--run", str(target), "--preset", "tiny", "--precision", "fp16"]
    finished = subprocess.run(
        [sys.executable, "-m", "smalti.cli", "train", "autoencoder", *options], capture_output=True, text=True
    )
    assert finished.returncode == 2, finished.stderr
    assert "--precision" in finished.stderr
    assert "fp32" in finished.stderr
    assert not target.exists()
