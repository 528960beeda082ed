"""A driver of NVIDIA that crashes or hangs when it is started ends a process beside, and never the one that asks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.golden_bundle import golden_bundle

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the driver is found by LD_LIBRARY_PATH")
STARTS = {"crashes": "abort();", "hangs": "for (;;) sleep(1);"}
ASK = """
import json, sys
from smalti.verification.doctor import children
children.SECONDS = 1.5
from smalti.verification.doctor import safe_driver
safe_driver.LONGEST = 1.5
import smalti
from smalti.cli.main import _run
if sys.argv[1] == "auto":
    print(json.dumps(smalti.load(sys.argv[2], threads=1).report.to_dict()))
else:
    sys.exit(_run(sys.argv[1:]))
"""
ASKED = """
import json
from smalti.verification.doctor import safe_driver
asked = []
honest = safe_driver.Child
safe_driver.LONGEST = 1.5
safe_driver.Child = lambda *words, **more: (asked.append(words), honest(*words, **more))[1]
driver, problem = safe_driver.safe_driver()
print(json.dumps([driver and driver.device_count, problem, len(asked)]))
"""


def made(folder: Path, code: str) -> Path:
    """A folder with a driver of this code."""
    source, library = folder / "driver.c", folder / "driver/libcuda.so.1"
    source.write_text(f"#include <stdlib.h>\n#include <unistd.h>\n{code}\n")
    library.parent.mkdir()
    subprocess.run([shutil.which("cc") or "gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    return library.parent


def python(code: str, driver: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run code where the driver in a folder is this machine's; the cache is beside that folder."""
    variables = {"LD_LIBRARY_PATH": str(driver), "SMALTI_CACHE_DIR": str(driver.parent / "cache")}
    line = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, env=os.environ | variables, check=False)


def asked(driver: Path) -> Any:
    """Devices of the driver, why it cannot be used, and the number of processes that were started to find out."""
    done = python(ASKED, driver)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(params=STARTS)
def driver(request, tmp_path) -> Path:
    """A folder with a driver that does this when it is started."""
    return made(tmp_path, f"int cuInit(int flags) {{ {STARTS[request.param]} return 0; }}")


def seen(driver: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in (driver.parent / "cache/trials").glob("driver-*")]


def test_auto_takes_the_cpu_and_says_why(driver, tmp_path):
    bundle = golden_bundle(tmp_path / "bundle")
    for _ in range(2):  # by a process beside, then by what it saw
        done = python(ASK, driver, "auto", bundle)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout.splitlines()[-1])
        assert report["actual"] == "cpu"
        assert "cuda and rtx and trt: the NVIDIA driver cannot be used: it " in report["why"]
    (kept,) = seen(driver)
    assert kept["problem"].startswith("the NVIDIA driver cannot be used: it ")
    there, problem, processes = asked(driver)
    assert (there, processes) == (None, 0)
    assert problem.startswith(f"{kept['problem']} (seen 0 minutes ago; it is asked again after 10")
    changed = time.time() - 5
    os.utime(driver / "libcuda.so.1", (changed, changed))  # another driver
    assert asked(driver)[2] == 1
    assert len(seen(driver)) == 2


@pytest.mark.parametrize("provider", ["cuda", "rtx", "trt"])
def test_what_is_asked_for_is_refused_with_the_reason(provider, driver, tmp_path):
    done = python(ASK, driver, "generate", "--provider", provider, "-o", tmp_path / "a.png")
    assert done.returncode == 4, done.stderr
    assert f"provider {provider} cannot run here: the NVIDIA driver cannot be used: it " in done.stderr
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("verb", ["explain", "prune"])
def test_commands_about_engines_go_on(verb, driver):
    done = python(ASK, driver, "engine", verb)
    assert done.returncode == 0, done.stderr
    if verb == "explain":
        assert "GPU    none here: the NVIDIA driver cannot be used: it " in done.stdout


def test_a_driver_that_starts_is_asked_of_once(stub_library, tmp_path):
    (tmp_path / "driver").mkdir()
    shutil.copy(stub_library.path, tmp_path / "driver/libcuda.so.1")
    assert [asked(tmp_path / "driver") for _ in range(2)] == [[1, "", 1], [1, "", 0]]
    assert [one["problem"] for one in seen(tmp_path / "driver")] == [""]


def test_a_frozen_program_does_not_start_itself(driver):
    code = """
import subprocess, sys
sys.frozen = True
def started(*words, **more): raise AssertionError("started")
subprocess.Popen = started
from smalti.verification.doctor.children import Child
from smalti.verification.doctor.safe_driver import driver_crash
print(repr(driver_crash()), Child("vulkan", "libnone.so").answer())
"""
    done = python(code, driver)
    assert done.stdout.strip() == "'' {'problem': ''}", done.stderr


def test_a_reason_is_not_cut_in_the_middle(tmp_path):
    """That of a driver which lacks a function has the library's name in the middle, and not at its end."""
    old = made(tmp_path, "int cuInit(int f) { return 0; } int cuDriverGetVersion(int *v) { *v = 11040; return 0; }")
    assert asked(old)[1].startswith("the NVIDIA driver (libcuda.so.1) has no cu")
