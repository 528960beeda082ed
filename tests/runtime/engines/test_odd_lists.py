"""Lists of engines that say odd things, and things that are no files where files are looked for."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from helpers.fake_tensorrt import FakeTensorRT
from helpers.fixed_profiles import FixedProfiles
from helpers.kept_engines import keep
from smalti import BundleError, open_bundle
from smalti.bundle.engine_folder import read_folder
from smalti.cli.main import _run
from smalti.verification.verify import verify
from smalti_export.engines import job
from smalti_export.engines.build import build_engines
from smalti_export.engines.toolkit import PortableToolkit


def changed(folder: Path, **fields: object) -> None:
    """Change fields of the first engine of a list."""
    listed = json.loads((folder / "engines.json").read_text("utf-8"))
    listed["engines"][0] |= fields
    (folder / "engines.json").write_text(json.dumps(listed), "utf-8")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"version": "1.7.1.116; touch /tmp/owned"}, "version"),
        ({"version": "1.7.1 --index-url=http://elsewhere"}, "version"),
        ({"version": "$(touch owned)"}, "version"),
        ({"version": ""}, "version"),
        ({"targets": []}, "targets"),
        ({"targets": ["sm_86; ls"]}, "targets"),
        ({"profiles": []}, "profiles"),
        ({"component": "`ls`"}, "component"),
    ],
)
def test_what_would_be_told_in_a_line_to_copy_is_refused(fields, says, bundle, cache, capsys):
    own = bundle.path / "engines"
    keep(own, bundle)
    changed(own, **fields)
    found = verify(open_bundle(bundle.path)).problems
    assert len(found) == 1
    assert says in found[0]
    for words in (["engine", "list"], ["engine", "explain", "--for", "sm_86"], ["bundle", "inspect"]):
        verb, *rest = words[1:]
        assert _run([words[0], verb, str(bundle.path), *rest]) == 0
        told = capsys.readouterr().out
        assert "pip install" not in told or "tensorrt-rtx==" not in told
        assert "engines.json cannot be read" in told


def test_one_file_that_is_named_twice_is_refused(bundle, cache):
    keep(cache, bundle)
    listed = json.loads((cache / "engines.json").read_text("utf-8"))
    listed["engines"] *= 2
    (cache / "engines.json").write_text(json.dumps(listed), "utf-8")
    with pytest.raises(BundleError, match="twice"):
        read_folder(cache)


@pytest.fixture
def tools(monkeypatch) -> PortableToolkit:
    monkeypatch.setattr(job, "make_profiles", FixedProfiles())
    return PortableToolkit(["sm_86"], FakeTensorRT(portable=True))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
@pytest.mark.parametrize("name", ["an engine", "engines.json"])
def test_a_pipe_in_place_of_a_file_holds_nothing_up(name, bundle, cache, tools):
    built = build_engines(bundle, tools, precision="fp32", components=["denoiser"])
    path = cache / (built.engines[0].engine.file if name == "an engine" else name)
    path.unlink()
    os.mkfifo(path)
    done = threading.Event()

    def build() -> None:
        build_engines(bundle, tools, precision="fp32", components=["denoiser"])
        done.set()

    threading.Thread(target=build, daemon=True).start()
    assert done.wait(60)
    listed = read_folder(cache)
    assert listed is not None
    assert (cache / listed.engines[0].engine.file).is_file()
    assert (cache / "engines.json").is_file()
