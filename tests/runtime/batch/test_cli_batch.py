"""The command ``smalti batch``: what it takes, what it says, and what it needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from smalti.cli.main import _run


def test_help_prints_and_a_batch_is_asked_for_without_ray_and_without_pyarrow(python, fake: Path, tmp_path) -> None:
    code = """
from smalti.cli.main import _run
print(_run(["batch", "--help"]), _run(["batch", "generate", "--help"]), _run(["batch", "verify", "--help"]))
line = ["batch", "embed", "--bundle", sys.argv[1], "-o", sys.argv[2], sys.argv[2]]
print(_run([*line, "--address", "auto"]))
"""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.png").write_bytes(b"")
    done = python(code, fake, tmp_path / "pictures", blocked=("ray", "pyarrow", "onnxruntime"))
    assert done.returncode == 0, done.stderr
    assert "0 0 0" in done.stdout
    assert "Usage: smalti batch verify" in done.stdout


def test_without_pyarrow_or_ray_it_says_what_to_install(python, planned, tmp_path: Path) -> None:
    folder = planned(tmp_path / "batch", rows=3)
    code = "from smalti.cli.main import _run\nprint(_run(['batch', *sys.argv[1:]]))"
    done = python(code, "generate", "--resume", "-o", folder, "--address", "auto", blocked=("ray",))
    assert done.stdout.strip() == "1", done.stderr
    assert "smalti batch needs ray for this; pip install" in done.stderr
    assert "ray]" in done.stderr
    done = python(code, "embed", tmp_path, "-o", tmp_path / "other", blocked=("pyarrow",))
    assert done.stdout.strip() == "1"
    assert "batch]" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("generate", "-o", "OUT"), "Give --count"),
        (("generate", "--count", "0", "-o", "OUT"), "count 0"),
        (("generate", "--count", "3", "--label", "nobody", "-o", "OUT"), "label 'nobody'"),
        (("generate", "--count", "3", "--actors", "0", "-o", "OUT"), "actors 0"),
        (("generate", "--count", "3", "--address", "somewhere", "-o", "OUT"), "HOST:PORT"),
        (("generate", "--count", "3", "--steps", "0", "-o", "OUT"), "steps 0"),
        (("embed", "-o", "OUT"), "which pictures"),
        (("encode", "HERE", "--fit", "bend", "-o", "OUT"), "fit"),
        (("verify", "OUT"), "it is no batch"),
    ],
)
def test_what_is_wrong_is_told_before_the_work(words, told: str, fake: Path, tmp_path: Path, capsys) -> None:
    places = {"OUT": str(tmp_path / "out"), "HERE": str(tmp_path)}
    line = [places.get(word, word) for word in words]
    code = _run(["batch", *line, "--bundle", str(fake)])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert told in err


def test_a_batch_is_drawn_resumed_and_verified_by_the_command(alone: Path, loading, tmp_path: Path, capsys) -> None:
    """On a bundle without graphs only what is there can be resumed; test_processes.py draws with a real one."""
    folder = Path(shutil.copytree(alone, tmp_path / "batch"))
    assert _run(["batch", "generate", "--resume", "-o", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["rows"], report["made"], report["there"], report["kinds"]) == (60, 0, 60, ["null int8 on none"])
    assert _run(["batch", "verify", str(folder), "--sample", "0", "--actors", "1"]) == 0
    out, _ = capsys.readouterr()
    assert out.endswith("complete, each once, unchanged\n")
    (folder / "part-000001.parquet").unlink()
    assert _run(["batch", "verify", str(folder), "--sample", "0", "--actors", "1", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"] == ["part-000001.parquet is missing, with seeds 12 .. 18"]
