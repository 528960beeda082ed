"""An app made by PyInstaller, from smalti as it is installed: it draws with the embedded bundle, without any option."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

import smalti
from smalti.cli.freezing import hook_dirs

HOUSE = Path(__file__).parents[1]
APP = """
import sys

import smalti

gen = smalti.load(provider="cpu")
gen.generate(1, seed=3, label="lorelei", steps=4).save(sys.argv[1])
print(gen.report.actual)
"""


def test_cases_of_hooks_are_found_and_name_what_is_there() -> None:
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pyinstaller40"] == {"hook-dirs": "smalti.cli.freezing:hook_dirs"}
    (folder,) = map(Path, hook_dirs())
    assert {path.name for path in folder.glob("hook-*.py")} == {"hook-smalti.py", "hook-smalti_kernels.py"}
    at_start = ast.literal_eval((folder / "rthooks.dat").read_text())
    assert all((folder / "rthooks" / name).is_file() for name in at_start["smalti"])


@pytest.mark.slow
def test_cases_of_an_app_in_one_folder_draws_as_the_package_does(tmp_path: Path) -> None:
    def done(*command: object, **more: str) -> str:
        words = [str(word) for word in command]
        left = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        run = subprocess.run(words, cwd=tmp_path, env={**left, **more}, capture_output=True, text=True, timeout=900)
        assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
        return run.stdout

    done(sys.executable, "-m", "venv", "env")
    programs = tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin")
    done(programs / "python", "-m", "pip", "install", "-q", "pyinstaller", f"{HOUSE}[cpu]")
    (tmp_path / "app.py").write_text(APP)
    done(programs / "pyinstaller", "--onedir", "--noconfirm", "app.py")
    app = tmp_path / "dist" / "app" / ("app.exe" if sys.platform == "win32" else "app")
    assert done(app, "out.png").split() == ["cpu"]
    smalti.load(provider="cpu").generate(1, seed=3, label="lorelei", steps=4).save(tmp_path / "here.png")
    with Image.open(tmp_path / "out.png") as found, Image.open(tmp_path / "here.png") as wanted:
        assert found.size == wanted.size
        assert found.info["smalti"]
    assert [*app.parent.rglob("cubins/*.zip")]
    # A process of smalti's own, which `auto` starts where there is a GPU, is not the app once more.
    bundle = next(app.parent.rglob("embedded")) / "avatars"
    asked = json.dumps({"bundle": str(bundle), "provider": "cpu", "precision": "auto"})
    assert json.loads(done(app, "-P", "-m", "smalti.loading.trial_child", asked))["problem"] == ""
