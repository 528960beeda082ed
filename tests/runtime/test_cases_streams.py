"""A command whose stdout or stderr is closed or full, or that is interrupted at its start: a message and its code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import smalti
import smalti.errors

pytestmark = pytest.mark.cases
FULL = Path("/dev/full")
"""Only ever opened to write, as a command's own stdout or stderr."""
posix = pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX closes the streams")
INTERRUPT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from smalti.cli.main import main
main(["labels"])
"""


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "smalti.cli", *map(str, words)]


def run(line: list[str], shell: str = "", **streams: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a command; ``shell`` is what a shell does to its streams, such as ``>&-``."""
    line = ["sh", "-c", f'exec "$@" {shell}', "sh", *line] if shell else line
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run(line, timeout=120, check=False, stdin=subprocess.DEVNULL, **streams)


@posix
@pytest.mark.parametrize("words", [("labels",), ("bundles", "--json"), ("--help",), ("--version",)], ids=str)
def test_cases_of_a_closed_stdout_are_no_success(words: tuple[str, ...]) -> None:
    done = run(command(*words), ">&-")
    assert done.returncode == 1
    assert done.stderr == b"smalti: cannot write to stdout: it is closed\n"


@posix
def test_cases_of_a_closed_stdout_are_told_before_a_draw(tiny_bundle: Path, tmp_path: Path) -> None:
    done = run(command("generate", "-o", "-", "--bundle", tiny_bundle), ">&-")
    assert done.returncode == 2
    assert b"smalti: output -: stdout is closed" in done.stderr
    done = run(command("generate", "-o", tmp_path / "a.png", "--steps", 2, "--bundle", tiny_bundle), ">&-")
    assert done.returncode == 1
    assert done.stderr == b"smalti: cannot write to stdout: it is closed\n"
    assert smalti.read_recipe(tmp_path / "a.png").seeds == (0,)


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [("labels",), ("generate", "-o", "-", "--steps", "2")], ids=str)
def test_cases_of_a_full_stdout_are_named(words: tuple[str, ...], unbuffered: str, tiny_bundle: Path) -> None:
    with FULL.open("wb") as full:
        line = command(*words, "--bundle", tiny_bundle)
        done = run(line, stdout=full, env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
    assert done.returncode == 1
    assert done.stderr == b"smalti: cannot write to stdout: No space left on device\n"


@posix
@pytest.mark.parametrize("words", [("labels", "--what"), ("generate", "-o", "a.gif"), ("labels", "")], ids=str)
@pytest.mark.parametrize("closed", [True, False])
def test_cases_of_wrong_words_end_with_2_whatever_stderr_is(words: tuple[str, ...], closed: bool) -> None:
    if closed:
        assert run(command(*words), "2>&-").returncode == 2
    elif FULL.exists():
        with FULL.open("wb") as full:
            assert run(command(*words), stderr=full).returncode == 2


@posix
def test_cases_of_errors_are_not_printed_among_results() -> None:
    assert run(command("labels", "--what"), "2>&-").stdout == b""
    assert run(command("labels", "no-such-bundle"), "2>&-").stdout == b""


@posix
def test_cases_of_a_reader_that_went_stay_quiet() -> None:
    near, far = os.pipe()
    os.close(near)
    try:
        done = run(command("labels"), stdout=far)
    finally:
        os.close(far)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr


@posix
@pytest.mark.parametrize(
    "module", ["smalti.cli.ending", "smalti_kernels", "numpy", "smalti.cli.commands", "typer", "PIL"], ids=str
)
def test_cases_of_an_interrupt_while_the_command_starts(module: str) -> None:
    done = run([sys.executable, "-c", INTERRUPT.format(module=module)])
    assert (done.returncode, done.stderr) == (130, b"smalti: interrupted\n")


def test_cases_of_the_entry_point_import_next_to_nothing() -> None:
    code = "import sys; before = set(sys.modules); import smalti.cli.main; print(*sorted(set(sys.modules) - before))"
    done = run([sys.executable, "-X", "importtime", "-c", code])
    loaded = done.stdout.decode().split()
    assert {name for name in loaded if name.startswith("smalti")} == {
        "smalti",
        "smalti.cli",
        "smalti.cli.main",
        "smalti.version",
    }
    assert not {"numpy", "PIL", "typer", "onnxruntime"} & set(loaded)


def test_names_of_the_package_are_those_of_their_modules() -> None:
    assert all(getattr(smalti, name) is not None for name in smalti.__all__)
    assert set(smalti.__all__) <= set(dir(smalti))
    errors = set(smalti.errors.__all__) - {"exit_code"}
    assert set(smalti._MODULES) | errors | {"aio", "__version__"} == set(smalti.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        getattr(smalti, "no" + "thing")


def test_cases_of_long_names_on_the_command_line(tiny_bundle: Path, tmp_path: Path) -> None:
    for place in (f"{'a' * 300}.png", f"{'a' * 300}/", f"{tmp_path}/{'b' * 300}.png"):
        done = run(command("generate", "-o", place, "--bundle", tiny_bundle), cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith(b"smalti: cannot write ")
        assert b"Errno" not in done.stderr
    done = run(command("encode", f"{'a' * 300}.png", "-o", "a.npy", "--bundle", tiny_bundle), cwd=tmp_path)
    assert done.returncode == 2
    assert b"cannot be read as an image: File name too long" in done.stderr
