"""Completion: a real shell asks the real command, and verbs of all floors, options and names come back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from smalti.cli.completion import SHELLS

BASH = shutil.which("bash")
ASK = """
eval "$(smalti completion bash)"
while read -r line; do
    read -ra COMP_WORDS <<< "$line"
    [[ $line == *" " || $line == *_ ]] && COMP_WORDS[-1]=""
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    COMPREPLY=()
    _smalti_completion smalti
    echo "${COMPREPLY[@]}"
done
"""
"""Reads lines to complete; an underscore alone at the end stands for a word that is not begun."""
CASES = {
    "smalti ge": "generate",
    "smalti bu": "bundles bundle",
    "smalti train _": "autoencoder prior refit log-sigma preview heads",
    "smalti train prior --obj": "--objective",
    "smalti engine build --fo": "--force",
    "smalti generate --label cr": "critters",
    "smalti inpaint --label pix": "pixel-art",
    "smalti generate --provider _": "auto cpu cuda rtx trt webgpu",
    "smalti generate --precision fp": "fp32 fp16",
    "smalti generate --bundle av": "avatars",
    "smalti generate --bundle nonesuch --label _": "",
    "smalti encode --fit c": "crop",
    "smalti completion z": "zsh",
}


@pytest.mark.cases
@pytest.mark.skipif(BASH is None, reason="bash is not installed")
@pytest.mark.skipif(sys.platform == "win32", reason="a script that stands for the command needs POSIX")
def test_bash_completes_verbs_options_and_names(tmp_path: Path) -> None:
    script = tmp_path / "smalti"
    code = "from smalti.cli.main import main; main()"
    script.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n", encoding="utf-8")
    script.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [str(BASH), "--norc", "-c", ASK],
        input="".join(f"{line}\n" for line in CASES),
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert dict(zip(CASES, done.stdout.splitlines(), strict=True)) == CASES


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_a_script_that_asks_smalti(shell: str, command) -> None:
    done = command("completion", shell)
    assert done.returncode == 0, done.stderr
    assert "_SMALTI_COMPLETE" in done.stdout
    assert "complete" in done.stdout


def test_another_shell_is_refused(command) -> None:
    done = command("completion", "dos")
    assert (done.returncode, done.stdout) == (2, "")
    assert "shell 'dos': allowed are bash, zsh, fish, powershell" in done.stderr


def test_without_typer_a_shell_gets_no_answer_and_no_error(python) -> None:
    code = "import os\nos.environ['_SMALTI_COMPLETE'] = 'complete_bash'\nfrom smalti.cli.main import main\nmain([])"
    done = python(code, blocked=("typer",))
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
