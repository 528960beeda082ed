"""Polygraphy runs the graphs on the golden inputs and agrees with the stored outputs, or notices a difference."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.golden_bundle import golden_bundle, plain_bundle
from smalti import open_bundle
from smalti.cli.main import _run
from smalti.verification.polygraphy import write_polygraphy

pytest.importorskip("polygraphy", reason="needs polygraphy, of the extra dev")


def commands_of(bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    assert _run(["bundle", "verify", str(bundle), "--polygraphy", str(folder), "--json"]) == 0
    return [shlex.split(line) for line in json.loads(capsys.readouterr().out)["polygraphy"]]


def polygraphy(command: list[str], folder: Path) -> tuple[int, str]:
    """Exit code and output of a command that was told."""
    assert command[0] == "polygraphy"
    line = [sys.executable, "-c", "import sys; from polygraphy.tools import main; sys.exit(main())", *command[1:]]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_the_graphs_of_an_exported_bundle_agree_with_the_stored_outputs(tiny_bundle, tmp_path, capsys):
    commands = commands_of(tiny_bundle, tmp_path / "compare", capsys)
    assert [command[2] for command in commands] == [
        f"{role}.{precision}.onnx"
        for role in ("decoder", "denoiser", "encoder", "preview")
        for precision in ("fp32", "fp16")
    ]
    for command in commands:
        code, said = polygraphy(command, tmp_path / "compare")
        assert code == 0, said
        assert "Accuracy Summary" in said


def spoil(tensors: dict[str, np.ndarray]) -> None:
    tensors["denoiser.1.out.logits"] = tensors["denoiser.1.out.logits"] + np.float32(1)
    tensors["decoder.0.out.images"] = 255 - tensors["decoder.0.out.images"]
    tensors["encoder.0.out.tokens"] = (tensors["encoder.0.out.tokens"] + 1) % 6


def test_outputs_that_differ_are_noticed_by_it(tmp_path, capsys):
    for name, change, agrees in (("same", lambda tensors: None, True), ("other", spoil, False)):
        commands = commands_of(golden_bundle(tmp_path / name, change), tmp_path / f"compare-{name}", capsys)
        assert len(commands) == 3
        for command in commands:
            code, said = polygraphy(command, tmp_path / f"compare-{name}")
            assert (code == 0) == agrees, said
            assert ("FAILED" in said) != agrees, said


def test_without_golden_inputs_or_into_a_folder_that_is_there_nothing_is_written(tmp_path, capsys):
    plain = plain_bundle(tmp_path / "plain")
    assert _run(["bundle", "verify", str(plain), "--polygraphy", str(tmp_path / "new")]) == 2
    assert "has no golden inputs" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    golden = golden_bundle(tmp_path / "golden")
    assert _run(["bundle", "verify", str(golden), "--polygraphy", str(plain)]) == 2
    assert "exists; name a folder" in capsys.readouterr().err


def test_tokens_of_which_some_are_wrong_are_noticed(tmp_path, capsys):
    def change(tensors):
        tokens = tensors["encoder.0.out.tokens"].copy()
        tokens.reshape(-1)[:3] = (tokens.reshape(-1)[:3] + 1) % 6  # of 36
        tensors["encoder.0.out.tokens"] = tokens

    commands = commands_of(golden_bundle(tmp_path / "bundle", change), tmp_path / "compare", capsys)
    (command,) = [command for command in commands if command[2].startswith("encoder")]
    code, said = polygraphy(command, tmp_path / "compare")
    assert code, said


def test_an_interrupt_leaves_no_folder(tmp_path, monkeypatch):
    bundle = open_bundle(golden_bundle(tmp_path / "bundle"))

    def interrupted(self, content):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_polygraphy(bundle, tmp_path / "compare")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
