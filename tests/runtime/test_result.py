"""What a program embeds: results that save themselves, and a process that leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import smalti

Run = Callable[..., tuple[int, str, str]]


def test_a_saved_result_can_be_replayed(tiny_bundle: Path, run: Run, out: Path) -> None:
    smalti.load(tiny_bundle).generate(3, seed=11, label="planets", steps=5).save(out / "sheet.png", columns=2)
    code, _, stderr = run("generate", "--replay", out / "sheet.png", "-o", out / "again.png")
    assert code == 0, stderr
    with Image.open(out / "sheet.png") as sheet, Image.open(out / "again.png") as again:
        assert np.array_equal(np.asarray(sheet), np.asarray(again))


@pytest.mark.parametrize(("path", "columns"), [("sheet.gif", 2), ("sheet.png", 0)])
def test_a_result_refuses_other_files_and_no_columns(tiny_bundle: Path, out: Path, path: str, columns: int) -> None:
    result = smalti.load(tiny_bundle).generate(1, steps=1)
    with pytest.raises(smalti.UsageError, match=r"\.png|columns 0"):
        result.save(out / path, columns)
    assert not list(out.iterdir())


def test_generating_and_exporting_leave_no_file_but_a_verdict_in_the_users_cache(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    drawing = "import sys, smalti; smalti.load(sys.argv[1]).generate(1, steps=1)"
    exporting = "from smalti.cli.main import main; main(['export', '--help'])"
    left_out = ("ORT_DISABLE_TELEMETRY", "SMALTI_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    folders = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "LOCALAPPDATA": str(home)}
    for program in (drawing, exporting):
        command = [sys.executable, "-c", program, str(tiny_bundle)]
        subprocess.run(command, env={**environment, **folders}, check=True, timeout=120, stdout=subprocess.DEVNULL)
    left = {path.relative_to(home).parts[:-1] for path in home.rglob("*") if path.is_file()}
    # Whether golden inputs passed, so that it is known next time.
    assert left == {("cache", "smalti", "trials"), ("cache", "smalti", "locks")}


@pytest.mark.parametrize("arguments", [{"threads": "a"}, {"threads": 0}, {"threads": 1.5}])
def test_threads_must_be_a_whole_number(tiny_bundle: Path, arguments: dict[str, object]) -> None:
    with pytest.raises(smalti.UsageError, match="threads"):
        smalti.load(tiny_bundle, **arguments)  # pyright: ignore[reportArgumentType]


def test_values_of_a_wrong_type_are_refused_kindly(tiny_bundle: Path) -> None:
    gen = smalti.load(tiny_bundle)
    with pytest.raises(smalti.UsageError, match="temperature"):
        gen.generate(temperature="hot")  # pyright: ignore[reportArgumentType]
    with pytest.raises(smalti.UsageError, match="image"):
        gen.encode(["picture.png"])  # pyright: ignore[reportArgumentType]
    with pytest.raises(smalti.UsageError, match="bundle"):
        smalti.load(5)  # pyright: ignore[reportArgumentType]
