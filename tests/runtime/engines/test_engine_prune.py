"""``smalti engine prune``: what nothing can use goes, under the lock of its folder, and nothing else does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.kept_engines import INSTALLED, MADE, keep
from smalti.bundle.engine_folder import changing, read_folder
from smalti.system.files import remove_partial
from smalti.verification.engines.pruning import Rule, prune
from smalti.verification.engines.scratch import scratch_folder, scratches, sweep


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_prune_removes_what_nothing_can_use_and_says_how_much(bundle, cache, engine):
    good, trt = (
        keep(cache, bundle),
        keep(cache, bundle, runtime="trt", device="a GPU of another machine", system="plan9"),
    )
    old = keep(cache, bundle, "decoder", version="1.6.0")
    damaged, missing = keep(cache, bundle, "encoder"), keep(cache, bundle, "encoder", targets=("sm_89",))
    (cache / damaged.engine.file).write_bytes(b"?")
    (cache / missing.engine.file).unlink()
    (cache / ".denoiser.rtx.99.partial").write_bytes(bytes(1000))
    for name in ("broken", "list alone", "empty", "files alone"):
        cache.with_name(name).mkdir()
    (cache.with_name("broken") / "engines.json").write_text("{")
    (cache.with_name("broken") / "an.rtx").write_bytes(bytes(2000))
    (cache.with_name("files alone") / "an.rtx").write_bytes(bytes(3000))
    shutil.copy(cache / "engines.json", cache.with_name("list alone"))
    own = keep(bundle.path / "engines", bundle, version="1.6.0")
    before = {path: path.stat().st_mtime_ns for path in cache.parent.rglob("*")}
    code, said, _ = engine("prune", "--dry-run", "--json")
    assert code == 0
    planned = json.loads(said)
    assert planned["dry_run"]
    assert {path: path.stat().st_mtime_ns for path in cache.parent.rglob("*")} == before
    code, said, _ = engine("prune", "--json")
    assert code == 0
    content = json.loads(said)
    assert content["removed"] == planned["removed"]
    assert content["problems"] == []
    assert files(cache) == {"engines.json", good.engine.file, trt.engine.file}
    assert {path.name for path in cache.parent.iterdir()} == {cache.name}
    listed = read_folder(cache)
    assert listed is not None
    assert listed.engines == (trt, good)
    assert content["kept"] == good.engine.bytes + trt.engine.bytes
    assert content["bytes"] == sum(one["bytes"] for one in content["removed"]) > 6000
    reasons = {Path(one["path"]).name: one["why"] for one in content["removed"] if Path(one["path"]).parent == cache}
    assert reasons[old.engine.file] == "built with TensorRT-RTX 1.6.0, and 1.7.1 is installed"
    assert "is damaged" in reasons[damaged.engine.file]
    assert "is missing" in reasons[missing.engine.file]
    assert reasons[".denoiser.rtx.99.partial"] == "no list names it"
    assert (bundle.path / "engines" / own.engine.file).exists()
    code, said, _ = engine("prune")
    assert said == f"removed 0 files, 0.0 MB; engines of {content['kept'] / 1e6:.1f} MB stay in {cache.parent}\n"


def test_engines_of_a_runtime_that_is_not_installed_stay_without_an_option(bundle, cache):
    keep(cache, bundle)
    assert prune({"rtx": "", "trt": ""}, Rule()).removed == []
    assert len(prune({"rtx": "", "trt": ""}, Rule(everything=True)).removed) == 2
    assert not cache.exists()


def test_prune_by_age_and_by_size_removes_the_oldest(bundle, cache, engine):
    records = [keep(cache, bundle, role) for role in ("decoder", "denoiser", "encoder")]
    for days, record in zip((30, 20, 10), records):
        os.utime(cache / record.engine.file, (time.time() - days * 86400,) * 2)
    assert engine("prune", "--older-than", 25)[0] == 0
    assert files(cache) == {"engines.json", *(one.engine.file for one in records[1:])}
    megabytes = records[2].engine.bytes / 1e6
    assert engine("prune", "--keep-mb", megabytes)[0] == 0
    assert files(cache) == {"engines.json", records[2].engine.file}
    assert engine("prune", "--keep-mb", 0)[0] == 0
    assert not cache.exists()


@pytest.mark.parametrize(
    "line",
    [["--all", "--older-than", 1], ["--keep-mb", 1, "--older-than", 1], ["--keep-mb", -1], ["--older-than", -1]]
    + [[option, odd] for option in ("--keep-mb", "--older-than") for odd in ("nan", "inf", "-inf")],
)
def test_rules_of_pruning_that_make_no_sense_are_refused(line, bundle, cache, engine):
    keep(cache, bundle)
    code, _, error = engine("prune", *line)
    assert code == 2
    assert "--older-than" in error
    assert len(files(cache)) == 2


def test_a_list_of_a_later_smalti_stays_with_its_engines_unless_all_go(bundle, cache, engine):
    keep(cache, bundle)
    listed = json.loads((cache / "engines.json").read_text())
    (cache / "engines.json").write_text(json.dumps(listed | {"schema_version": 99, "new": "field"}))
    (cache / ".a.partial").touch()
    before = files(cache)
    code, said, _ = engine("prune")
    assert code == 0
    assert f"! what is in {cache} stays: " in said
    assert "Update smalti" in said
    assert files(cache) == before
    assert engine("prune", "--all")[0] == 0
    assert not cache.exists()


def test_one_broken_list_is_one_line_and_paths_are_told_once(bundle, cache, engine):
    records = [keep(cache, bundle, role) for role in ("decoder", "denoiser")]
    (cache / records[0].engine.file).write_bytes(b"?")
    said = engine("prune")[1].splitlines()
    assert [line.count(records[0].engine.file) for line in said] == [1, 0]
    assert said[1].startswith("removed 1 file, ")
    (cache / "engines.json").write_text("{")
    (cache / "another.rtx").touch()
    said = engine("prune")[1].splitlines()
    assert len(said) == 2
    assert said[0].startswith(f"{cache}: 3 files, ")
    assert said[0].count(str(cache)) == 1
    assert "engines.json cannot be read" in said[0]


WORK = """
import sys, time
from smalti.verification.engines.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "weights").write_bytes(bytes(1000))
    print(folder, flush=True)
    time.sleep(60)
"""


def test_what_a_killed_build_leaves_goes_and_what_one_works_in_stays(cache, engine):
    with subprocess.Popen([sys.executable, "-c", WORK], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        folder = Path(worker.stdout.readline().strip())
        assert folder.parent == scratches()
        assert json.loads(engine("prune", "--json")[1])["removed"] == []
        sweep()
        assert (folder / "weights").exists()
        worker.kill()
    assert [one["bytes"] for one in json.loads(engine("prune", "--dry-run", "--json")[1])["removed"]] == [1000]
    assert folder.exists()
    assert f"{folder}: 0.0 MB: a build that was killed left it" in engine("prune")[1]
    assert not folder.exists()
    assert list((cache.parents[1] / "locks").glob("scratch-*")) == []


def test_what_a_command_works_in_goes_where_it_is_ended_in_a_native_call(cache):
    with scratch_folder() as folder:
        (folder / "weights").touch()
        remove_partial()  # as the command line does, just before the process ends
        assert not folder.exists()
        assert list((cache.parents[1] / "locks").glob("scratch-*")) == []


def test_work_leaves_nothing_and_needs_no_cache(cache, tmp_path, monkeypatch):
    with scratch_folder() as folder:
        assert folder.parent == scratches()
    assert not folder.exists()
    assert list((cache.parents[1] / "locks").iterdir()) == []
    (tmp_path / "file").touch()
    monkeypatch.setenv("SMALTI_CACHE_DIR", str(tmp_path / "file"))
    with scratch_folder() as folder:
        (folder / "weights").touch()
    assert not folder.exists()


HOLD = """
import sys, time
from pathlib import Path
from smalti.bundle.engine_folder import changing
with changing(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(0.5)
    (Path(sys.argv[1]) / "engines.json").unlink()
"""


def test_prune_waits_for_the_lock_of_a_folder(bundle, cache):
    keep(cache, bundle)
    said = list[str]()
    line = [sys.executable, "-c", HOLD, str(cache)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        pruned = prune(INSTALLED, Rule(), say=said.append)
    assert said == [f"waiting for another process that builds into {cache}"]
    assert [one.why for one in pruned.removed] == ["no list names it"]  # what it saw is what the other one left
    with changing(cache):
        pass


def test_all_includes_what_is_made_again_where_it_is_missing(bundle, cache, engine, tmp_path):
    keep(cache, bundle)
    for name in ("compiled/a.cache", "trials/b.json", "datasets/faces.npy"):
        (tmp_path / "cache" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cache" / name).write_bytes(b"1234")
    (tmp_path / "cache/compiled/a.cache").write_bytes(MADE.line() + b"kernels")
    assert engine("prune")[0] == 0
    assert engine("prune", "--all", "--dry-run")[0] == 0
    assert (tmp_path / "cache/compiled/a.cache").exists()
    assert engine("prune", "--all")[0] == 0
    left = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert left == {"faces.npy"}
