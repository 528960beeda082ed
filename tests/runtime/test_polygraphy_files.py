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
from smalti.cli import _run

pytest.importorskip("polygraphy", reason="needs polygraphy, of the extra dev")


def commands_of(bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    assert _run(["bundle", "verify", str(bundle), "--polygraphy", str(folder), "--json"]) == 0
    return [shlex.split(line) for line in json.loads(capsys.readouterr().out)["polygraphy"]]


def polygraphy(command: list[str], folder: Path) -> int:
    assert command[0] == "polygraphy"
    line = [sys.executable, "-m", "polygraphy", *command[1:]]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=300).returncode


def test_the_graphs_of_an_exported_bundle_agree_with_the_stored_outputs(tiny_bundle, tmp_path, capsys):
    commands = commands_of(tiny_bundle, tmp_path / "compare", capsys)
    assert [command[2] for command in commands] == [
        f"{role}.{precision}.onnx" for role in ("decoder", "denoiser", "encoder") for precision in ("fp32", "fp16")
    ]
    assert [command[2] for command in commands if polygraphy(command, tmp_path / "compare")] == []


def spoil(tensors: dict[str, np.ndarray]) -> None:
    tensors["denoiser.1.out.logits"] = tensors["denoiser.1.out.logits"] + np.float32(1)
    tensors["decoder.0.out.images"] = 255 - tensors["decoder.0.out.images"]
    tensors["encoder.0.out.tokens"] = (tensors["encoder.0.out.tokens"] + 1) % 6


def test_outputs_that_differ_are_noticed_by_it(tmp_path, capsys):
    commands = commands_of(golden_bundle(tmp_path / "table", spoil), tmp_path / "compare", capsys)
    assert len(commands) == 3
    assert all(polygraphy(command, tmp_path / "compare") for command in commands)


def test_without_golden_inputs_or_into_a_folder_that_is_there_nothing_is_written(tmp_path, capsys):
    plain = plain_bundle(tmp_path / "plain")
    assert _run(["bundle", "verify", str(plain), "--polygraphy", str(tmp_path / "new")]) == 2
    assert "has no golden inputs" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    golden = golden_bundle(tmp_path / "golden")
    assert _run(["bundle", "verify", str(golden), "--polygraphy", str(plain)]) == 2
    assert "exists; name a folder" in capsys.readouterr().err
