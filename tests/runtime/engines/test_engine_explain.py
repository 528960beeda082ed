"""``smalti engine explain``: one command is recommended, for all GPUs that an engine had, where it was."""

from __future__ import annotations

import shutil

from helpers.kept_engines import INSTALLED, keep
from smalti import open_bundle
from smalti.bundle.engine_folder import engine_cache, read_folder
from smalti.cli.main import _run
from smalti.verification.engines.explaining import Explanation, Gpu, explain, find_gpu

RTX_3060 = Gpu("sm_86", "NVIDIA GeForce RTX 3060", here=True, cuda=(13, 0))


def test_long_names_of_components_keep_their_column(capsys):
    assert _run(["bundle", "inspect"]) == 0
    said = capsys.readouterr().out
    assert all(f"{role} " in said for role in open_bundle().manifest.components)


def commands(found: Explanation) -> list[tuple[bool, str, str]]:
    return [(one.optional, one.line.removeprefix("smalti engine build "), one.where) for one in found.remedies]


def test_one_command_is_recommended_and_none_where_all_is_there(cache, engine):
    embedded = open_bundle()
    gpu = find_gpu("sm_86")
    there = "on the machine with the sm_86"
    assert commands(explain(embedded, gpu, INSTALLED)) == [
        (False, "--runtime rtx --target sm_86", ""),
        (True, "--runtime rtx --target sm_86 --precision fp32", ""),
        (True, "--runtime trt", there),
        (True, "--runtime trt --precision fp32", there),
    ]
    assert commands(explain(embedded, find_gpu("H100"), INSTALLED))[0][:2] == (False, "--runtime trt")
    for role in embedded.manifest.components:
        keep(engine_cache(embedded), embedded, role, "fp16")
    found = explain(embedded, gpu, INSTALLED)
    assert all(one.optional for one in found.remedies)
    assert found.tries == ("cuda", "rtx", "webgpu", "cpu")
    said = engine("explain", "--for", "RTX 3060")[1]
    assert "what is missing" not in said
    assert "optional, and not needed to draw" in said
    assert f"({there})" in said
    assert "would run " in said
    assert "(never tried on a GPU: see docs/coverage.md)" in said
    assert "provider auto would try cuda, rtx, webgpu, cpu" in said
    assert "lists of hardware for TensorRT-RTX do not name A100" in engine("explain", "--for", "A100")[1]


def test_what_was_damaged_is_built_for_all_its_gpus_and_where_it_was(bundle, cache, tmp_path):
    targets = ("sm_75", "sm_86", "sm_120")
    for root in (cache, bundle.path / "engines"):
        for role in bundle.manifest.components:
            record = keep(root, bundle, role, targets=targets)
            if role == "decoder":
                (root / record.engine.file).write_bytes(b"")
        found = explain(bundle, RTX_3060, INSTALLED, "my bundle")
        (line,) = [one.line for one in found.remedies if one.runtime == "rtx"]
        assert "--target sm_75 --target sm_86 --target sm_120 --precision fp32 --component decoder" in line
        assert ("-o" in line.split()) == (root != cache)
        shutil.rmtree(cache, ignore_errors=True)
    keep(bundle.path / "engines", bundle, "decoder")
    listed = read_folder(bundle.path / "engines")
    assert listed is not None
    (bundle.path / "engines" / listed.engines[0].engine.file).write_bytes(b"")
    shutil.make_archive(str(tmp_path / "X"), "zip", bundle.path)
    (line, *_) = [one.line for one in explain(open_bundle(tmp_path / "X.zip"), RTX_3060, INSTALLED, "X.zip").remedies]
    assert line.startswith("smalti engine build X.zip ")
    assert line.endswith(" -o X.zip")
