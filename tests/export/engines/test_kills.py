"""Killed at any moment, a folder of engines stays usable; and two processes build one engine once."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import kill_engines
from helpers.compiled import used
from helpers.fixed_profiles import FixedProfiles
from helpers.golden_bundle import plain_bundle
from helpers.kept_engines import MADE
from smalti import open_bundle
from smalti.bundle.engine_folder import KeptEngine, cached_folders, engine_cache, read_folder, strays
from smalti.bundle.reader import Bundle
from smalti.cli.main import _run
from smalti.verification.engines.pruning import Rule, prune
from smalti.verification.verify import verify
from smalti_export.engines import job
from smalti_export.engines.build import build_engines
from smalti_export.engines.shipping import build_zip
from smalti_export.engines.toolkit import PORTABLE, PortableToolkit

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="fork and SIGKILL are POSIX")
HELPERS = Path(kill_engines.__file__).parent
COMPONENTS = kill_engines.COMPONENTS


@pytest.fixture
def bundle(tmp_path, monkeypatch) -> Bundle:
    monkeypatch.setattr(job, "make_profiles", FixedProfiles())
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # what killed processes leave of their work
    return open_bundle(plain_bundle(tmp_path / "bundle"))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("SMALTI_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def older(targets=("sm_86",)) -> PortableToolkit:
    return PortableToolkit(targets, kill_engines.FakeTensorRT(portable=True))


def killed(mode: str, bundle: Bundle, cache: Path) -> list[Path]:
    """The caches of the processes that were killed, and of the last one, which was not."""
    command = [sys.executable, HELPERS / "kill_engines.py", mode, bundle.path, cache]
    subprocess.run(command, check=True, timeout=200)
    return sorted(cache.parent.glob(f"{mode}-*"))


def assert_usable(bundle: Bundle) -> list[str]:
    """All lists of the cache are readable, what they name is there and whole; return the files of the bundle's."""
    for folder in cached_folders():
        listed = read_folder(folder)
        for record in listed.engines if listed else ():
            KeptEngine(record, folder, "").check()
    listed = read_folder(engine_cache(bundle))
    return [record.engine.file for record in listed.engines] if listed else []


def assert_mends(bundle: Bundle) -> None:
    """A new build succeeds and, with prune, leaves nothing but what it lists."""
    engines = build_engines(bundle, kill_engines.tools(), precision="fp32", components=COMPONENTS)
    built = [(one.component, one.targets) for one in engines.engines if one.component in COMPONENTS]
    assert built == [("decoder", ("sm_86", "sm_120")), ("denoiser", ("sm_86", "sm_120"))]
    assert prune(kill_engines.INSTALLED, Rule()).problems == []
    assert sorted(assert_usable(bundle)) == sorted(record.engine.file for record in engines.engines)
    for folder in cached_folders():
        assert strays(folder, read_folder(folder)) == []


def test_a_build_killed_at_any_moment_leaves_a_usable_cache(bundle, cache, monkeypatch):
    old = build_engines(bundle, older(), precision="fp32", components=COMPONENTS)
    before = {record.engine.file for record in old.engines}
    copies = killed("build", bundle, cache)
    replaced: list[int] = []
    for copy in copies:
        monkeypatch.setenv("SMALTI_CACHE_DIR", str(copy))
        replaced.append(len(set(assert_usable(bundle)) - before))
        assert_mends(bundle)
    print(f"{len(copies) - 1} kills")
    assert len(copies) > 20
    assert replaced == sorted(replaced)  # each engine is kept as soon as it is built
    assert set(replaced) == {0, 1, 2}


def test_a_prune_killed_at_any_moment_leaves_a_usable_cache(bundle, cache, monkeypatch):
    build_engines(bundle, older(), precision="fp32")
    folder = engine_cache(bundle)
    listed = read_folder(folder)
    assert listed is not None
    (folder / listed.engines[0].engine.file).write_bytes(b"damaged")
    (folder / ".denoiser.rtx.1.partial").write_bytes(b"left by a killed process")
    for name in ("of another version", "with a broken list"):
        shutil.copytree(folder, folder.with_name(name))
    gone = folder.with_name("of another version") / "engines.json"
    gone.write_text(gone.read_text().replace('"10.13.0"', '"9.0"'))
    (folder.with_name("with a broken list") / "engines.json").write_text("{")
    copies = killed("prune", bundle, cache)
    for copy in copies:
        monkeypatch.setenv("SMALTI_CACHE_DIR", str(copy))
        names = [one.name for one in cached_folders()]
        for name in set(names) - {"with a broken list"}:
            listed = read_folder(engine_cache(bundle).with_name(name))
            for record in listed.engines if listed else ():
                assert (engine_cache(bundle).with_name(name) / record.engine.file).exists()
        prune(kill_engines.INSTALLED, Rule())
        assert len(assert_usable(bundle)) == 2
        assert [one.name for one in cached_folders()] == [folder.name]
        assert_mends(bundle)
    print(f"{len(copies) - 1} kills")
    assert len(copies) > 12


def test_a_write_of_compiled_kernels_killed_at_any_moment_leaves_them_whole(bundle, cache, monkeypatch):
    file, _ = used(MADE, b"old kernels")
    copies = killed("compiled", bundle, cache)
    states: list[bytes] = []
    for copy in copies:
        monkeypatch.setenv("SMALTI_CACHE_DIR", str(copy))
        there = copy / "compiled" / file.name
        states.append(there.read_bytes().removeprefix(MADE.line()))
        left = there.with_suffix(".trying").exists()  # by a process that died before it had used them well
        assert used(MADE, b"third kernels") == (there, [] if left else [states[-1]])
        assert used(MADE, b"third kernels") == (there, [b"third kernels"])
        assert not there.with_suffix(".trying").exists()
    print(f"{len(copies) - 1} kills")
    assert len(copies) > 6
    assert states == [b"old kernels"] * states.count(b"old kernels") + [b"new kernels"] * states.count(b"new kernels")
    assert min(states.count(b"old kernels"), states.count(b"new kernels")) > 0


def test_a_zip_killed_at_any_moment_is_the_old_one_or_the_new(bundle, cache, monkeypatch):
    build_zip(bundle, older(), cache / "out.zip", precision="fp32", components=COMPONENTS)
    old = (cache / "out.zip").read_bytes()
    copies = killed("zip", bundle, cache)
    new = (copies[-1] / "out.zip").read_bytes()
    states = [(copy / "out.zip").read_bytes() for copy in copies]
    assert len(copies) > 25
    assert states == [old] * states.count(old) + [new] * states.count(new)
    assert min(states.count(old), states.count(new)) > 0
    print(f"{len(copies) - 1} kills")
    for copy in (copies[5], copies[-5]):  # what was left there goes with the next build
        monkeypatch.setenv("SMALTI_CACHE_DIR", str(copy))
        build_zip(bundle, kill_engines.tools(), copy / "out.zip", precision="fp32", components=COMPONENTS)
        assert {path.name for path in copy.iterdir()} == {"engines", "locks", "out.zip", "scratch"}
        assert list((copy / "scratch").iterdir()) == []
        found = verify(open_bundle(copy / "out.zip"))
        assert (found.engines, found.problems, found.undeclared) == (2, (), ())


def real_build(*options: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "smalti.cli", "engine", "build", "--component", "preview", *options]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def first_step(process: subprocess.Popen[str]) -> str:
    """Wait until TensorRT-RTX itself is at work; return the line that says so."""
    assert process.stderr is not None
    return next(line for line in process.stderr if '"number"' in line)


def test_real_builds_killed_while_tensorrt_works_leave_a_usable_cache(cache):
    pytest.importorskip("tensorrt_rtx", reason='needs TensorRT-RTX: pip install "smalti[engines]"')
    bundle, moments = open_bundle(), random.Random(25)
    for _ in range(5):
        with real_build("--force", "--progress", "json") as process:
            first_step(process)
            time.sleep(moments.uniform(0, 0.4))
            process.kill()
        assert process.returncode in (-signal.SIGKILL, 0)
        assert_usable(bundle)
    build_engines(bundle, PortableToolkit(PORTABLE), components=["preview"])
    prune({"rtx": "", "trt": ""}, Rule())
    folder = engine_cache(bundle)
    assert len(assert_usable(bundle)) == 1
    assert strays(folder, read_folder(folder)) == []


def test_a_build_that_is_asked_to_end_unwinds(cache, tmp_path, monkeypatch):
    pytest.importorskip("tensorrt_rtx", reason='needs TensorRT-RTX: pip install "smalti[engines]"')
    monkeypatch.setenv("TMPDIR", str(tmp_path / "work"))
    (tmp_path / "work").mkdir()
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        # A shell that starts jobs in the background has them ignore SIGINT, and so would this process.
        start = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        start += "from smalti.cli.main import main\nmain()\n"
        line = [sys.executable, "-c", start, "engine", "build", "--component", "denoiser", "--progress", "json"]
        with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
            first_step(process)
            process.send_signal(number)
            assert process.stderr is not None
            said = process.stderr.read()
        assert process.returncode == code, said
        assert "Traceback" not in said
        assert said.count("smalti: terminated") == (number == signal.SIGTERM)
        assert [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
        assert os.listdir(tmp_path / "work") == []


TWICE = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from helpers.fake_tensorrt import FakeTensorRT
from helpers.fixed_profiles import FixedProfiles
from smalti import open_bundle
from smalti_export.engines import job
from smalti_export.engines.build import build_engines
from smalti_export.engines.toolkit import PortableToolkit

job.make_profiles = FixedProfiles()
tools = PortableToolkit(["sm_86"], FakeTensorRT(portable=True, pause=0.05))
say = lambda line: print(line, flush=True)
say("ready")
sys.stdin.readline()
build_engines(open_bundle(sys.argv[2]), tools, precision="fp32", components=["denoiser"], say=say)
"""


def test_two_processes_build_one_engine_once(bundle, cache):
    line = [sys.executable, "-c", TWICE, HELPERS.parent, bundle.path]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, **pipes) as first, subprocess.Popen(line, **pipes) as second:
        for process in (first, second):
            assert process.stdout.readline() == "ready\n"
        said = []
        for process in (first, second):
            process.stdin.write("\n")
            process.stdin.flush()
        for process in (first, second):
            said.append(process.communicate(timeout=60)[0])
    assert (first.returncode, second.returncode) == (0, 0)
    assert sum("building for" in text for text in said) == 1
    (waited,) = (text for text in said if "building for" not in text)
    assert "waiting for another process that builds into" in waited
    assert "denoiser fp32: is there already" in waited
    assert len(assert_usable(bundle)) == 1


def test_two_real_commands_build_one_engine_once(cache):
    pytest.importorskip("tensorrt_rtx", reason='needs TensorRT-RTX: pip install "smalti[engines]"')
    with real_build() as first, real_build() as second:
        said = [process.communicate(timeout=120)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert sum("building for" in text for text in said) == 1
    assert sum("is there already" in text for text in said) == 1


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "list cut", "list of other hashes"])
def test_a_damaged_entry_is_built_again(damage, bundle, cache, capsys):
    record = build_engines(bundle, older(), precision="fp32", components=["denoiser"]).engines[0]
    folder, said = engine_cache(bundle), list[str]()
    file, listed = folder / record.engine.file, folder / "engines.json"
    plan = file.read_bytes()
    if damage == "flipped":
        file.write_bytes(plan[:-1] + bytes([plan[-1] ^ 1]))
    elif damage == "cut":
        file.write_bytes(plan[:-1])
    elif damage == "missing":
        file.unlink()
    elif damage == "list cut":
        listed.write_bytes(listed.read_bytes()[:-40])
    else:
        listed.write_text(listed.read_text().replace(record.engine.sha256, "0" * 64))
    assert _run(["engine", "list", str(bundle.path)]) == 0
    told = capsys.readouterr().out
    assert "cannot be read" in told if damage == "list cut" else "  damaged  " in told
    build_engines(bundle, older(), precision="fp32", components=["denoiser"], say=said.append)
    assert any("building for sm_86" in line for line in said)
    assert any("is damaged" in line or "is missing" in line or "cannot be read" in line for line in said)
    assert len(assert_usable(bundle)) == 1
    build_engines(bundle, older(), precision="fp32", components=["denoiser"], say=said.append)
    assert "is there already" in said[-1]
