"""The guard against skipped tests fails a session exactly when a test was skipped that its list does not allow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.skips import Allowed, read_allowed, unlisted

ROOT = Path(__file__).parents[1]

SESSION = """
import pytest

def test_runs(): pass

@pytest.mark.skip(reason="no such device")
def test_waits(): pass

@pytest.mark.xfail(reason="known")
def test_fails(): assert False
"""


def test_every_line_of_the_list_gives_a_reason() -> None:
    lines = read_allowed((ROOT / ".ci/skips").read_text())
    assert lines
    for line in lines:
        assert any(ROOT.glob(line.pattern.split("::")[0].rstrip("*"))), line
    with pytest.raises(ValueError, match="line 2 gives no reason"):
        read_allowed("# a comment\ntests/test_x.py\n")


def test_a_pattern_allows_what_it_matches() -> None:
    skipped = {"tests/a.py::test_x[1]": "x", "tests/a.py::test_y": "y", "tests/b.py": "b"}
    assert unlisted(skipped, [Allowed("tests/a.py*", "r")]) == {"tests/b.py": "b"}
    assert unlisted(skipped, [Allowed("tests/a.py::test_x*", "r")]) == {"tests/a.py::test_y": "y", "tests/b.py": "b"}


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize(("listed", "code"), [("test_some.py::test_waits: needs a device", 0), ("", 1)])
def test_a_session_fails_for_a_skip_that_is_not_listed(tmp_path: Path, listed: str, code: int, workers: str) -> None:
    (tmp_path / "test_some.py").write_text(SESSION)
    (tmp_path / "conftest.py").write_text(
        "import os, pathlib\nfrom helpers.skips import SkipGuard\n\ndef pytest_configure(config):\n"
        "    if not hasattr(config, 'workerinput'):\n"
        "        config.pluginmanager.register(SkipGuard(pathlib.Path(os.environ['SMALTI_SKIPS'])))\n"
    )
    (tmp_path / "skips").write_text(listed)
    command = [sys.executable, "-m", "pytest", "-q", "-n", workers, "-p", "no:cacheprovider", "test_some.py"]
    environment = os.environ | {"SMALTI_SKIPS": str(tmp_path / "skips"), "PYTHONPATH": str(ROOT / "tests")}
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    assert ("not listed in" in done.stdout) == bool(code)
