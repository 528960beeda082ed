"""``smalti bundle verify``: what is sound is told so, and whatever is not is named."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from helpers.golden_bundle import golden_bundle, plain_bundle
from smalti import BundleError, UsageError, load, open_bundle
from smalti.backends.onnxruntime_cpu import OnnxRuntimeCpu, OnnxSession
from smalti.bundle.manifest import FileRecord
from smalti.bundle.reader import check_file
from smalti.cli.main import _run
from smalti.verification.comparison import likeness
from smalti.verification.remeasure import remeasure
from smalti.verification.verify import verify


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return golden_bundle(tmp_path_factory.mktemp("golden") / "table")


@pytest.fixture
def bundle(made, tmp_path) -> Path:
    """A copy that may be broken."""
    return Path(shutil.copytree(made, tmp_path / "table"))


def test_golden_inputs_of_some_components_are_not_enough(tmp_path):
    def spoil(tensors):
        for name in [name for name in tensors if name.startswith("decoder")]:
            del tensors[name]

    bundle = open_bundle(golden_bundle(tmp_path / "table", spoil))
    with pytest.raises(BundleError, match=r"the golden inputs have none of the decoder\. Get the bundle again"):
        remeasure(bundle, OnnxRuntimeCpu(2))


def edit(path: Path, change) -> None:
    content = json.loads((path / "manifest.json").read_text())
    change(content)
    (path / "manifest.json").write_text(json.dumps(content))


def redeclare(path: Path, content, name: str) -> None:
    """Let the manifest's records of a file say what the file is now."""
    data = (path / name).read_bytes()
    graphs = [variant["graph"] for part in content["components"].values() for variant in part["variants"]]
    for record in (*graphs, *content["weights"], content["golden"]):
        if record["file"] == name:
            record.update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def test_a_sound_bundle_has_no_problems(bundle):
    found = verify(open_bundle(bundle))
    assert found.problems == found.undeclared == ()
    assert (found.files, found.graphs, found.golden, found.engines) == (4, 3, True, 0)
    assert found.bytes == sum(file.stat().st_size for file in bundle.iterdir() if file.name != "manifest.json")


def test_verifying_changes_nothing_and_says_what_it_looks_at(bundle):
    before = {file.name: file.read_bytes() for file in bundle.iterdir()}
    said: list[str] = []
    verify(open_bundle(bundle), said.append)
    assert {file.name: file.read_bytes() for file in bundle.iterdir()} == before
    assert set(before) - {"manifest.json"} <= set(said)


def test_every_damaged_file_is_named_not_only_the_first(bundle):
    (bundle / "decoder.fp32.onnx").unlink()
    content = bytearray((bundle / "golden.safetensors").read_bytes())
    content[-1] ^= 1
    (bundle / "golden.safetensors").write_bytes(content)
    first, second = verify(open_bundle(bundle)).problems
    assert "decoder.fp32.onnx is missing" in first
    assert "golden.safetensors is damaged" in second


def swap(path: Path, ours: str, theirs: str) -> None:
    """Exchange two files, and their records as well, so that every hash is right."""
    (path / ours).rename(path / "other")
    (path / theirs).rename(path / ours)
    (path / "other").rename(path / theirs)
    edit(path, lambda content: [redeclare(path, content, name) for name in (ours, theirs)])


def test_a_graph_that_is_another_component_is_told_by_its_signature(bundle):
    swap(bundle, "decoder.fp32.onnx", "encoder.fp32.onnx")
    problems = verify(open_bundle(bundle)).problems
    assert problems
    assert all("is not the graph that the manifest describes" in line for line in problems)
    assert any("decoder.fp32.onnx" in line and "it has an input images" in line for line in problems)
    assert any("encoder.fp32.onnx" in line and "it has no output tokens" in line for line in problems)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["latent"].update(codes=5), "it predicts 6 codes and latent.codes is 5"),
        (lambda c: c["latent"].update(grid=[4, 4]), r"it reads 12 tokens and latent.grid is \[4, 4\]"),
        (lambda c: c["components"]["denoiser"]["inputs"][0].update(shape=["n", "l"]), "input tokens is int32"),
        (lambda c: c["components"]["denoiser"]["outputs"][0].update(dtype="int32"), "output logits is float32"),
    ],
)
def test_a_manifest_that_describes_another_graph_is_found_out(change, says, bundle):
    edit(bundle, change)
    assert re.search(says, " ".join(verify(open_bundle(bundle)).problems))
    with pytest.raises(BundleError, match=says):  # nor is anything drawn by it
        load(bundle, precision="fp32")


def test_a_graph_that_is_none_is_named(bundle):
    (bundle / "decoder.fp32.onnx").write_bytes(b"not a graph")
    edit(bundle, lambda content: redeclare(bundle, content, "decoder.fp32.onnx"))
    (problem,) = verify(open_bundle(bundle)).problems
    assert "ONNX Runtime refuses decoder.fp32.onnx" in problem


def test_files_that_belong_to_nothing_are_told_and_do_no_harm(bundle):
    (bundle / "notes").mkdir()
    (bundle / "notes" / "todo.txt").write_text("x")
    found = verify(open_bundle(bundle))
    assert found.undeclared == ("notes/todo.txt",)
    assert not found.problems


def test_the_figures_are_measured_again(bundle):
    measured = {one.component: one for one in remeasure(open_bundle(bundle), OnnxRuntimeCpu(2))}
    assert set(measured) == {"denoiser", "decoder", "encoder"}
    assert all(one.missed == () and one.provider == "cpu" for one in measured.values())
    figures = measured["denoiser"].figures
    assert figures == {
        "logit_error": pytest.approx(0, abs=1e-6),
        "draw_agreement": 1.0,
        "draws": 2 * 8 * 11,
        "grid_agreement": 1.0,
        "grids": 5,
    }
    assert measured["decoder"].figures == {"psnr": pytest.approx(108.13, abs=0.01), "greatest_difference": 0}
    assert measured["encoder"].figures == {"token_agreement": 1.0}


def other_answers(tensors) -> None:
    tensors["denoiser.1.out.logits"] = tensors["denoiser.1.out.logits"] + np.float32(0.5)
    tensors["denoiser.0.out.draws"] = np.where(tensors["denoiser.0.out.draws"] == 0, 1, tensors["denoiser.0.out.draws"])
    tensors["decoder.0.out.images"] = 255 - tensors["decoder.0.out.images"]
    tensors["runs"] = (tensors["runs"] + 1) % 6


def test_a_machine_that_computes_otherwise_misses_its_tolerances(tmp_path, capsys):
    path = golden_bundle(tmp_path / "table", other_answers)
    assert verify(open_bundle(path)).problems == ()
    measured = {one.component: one for one in remeasure(open_bundle(path), OnnxRuntimeCpu(2))}
    error, agreement = measured["denoiser"].missed
    assert error.startswith("logit_error is 0.")
    assert agreement.startswith("draw_agreement is 0.")
    assert measured["denoiser"].figures["grid_agreement"] == 0
    assert measured["decoder"].missed[0].startswith("psnr is")
    assert measured["encoder"].missed == ()
    assert _run(["bundle", "verify", str(path), "--run"]) == 6
    said = capsys.readouterr()
    assert "denoiser fp32: logit_error is" in said.err
    assert "encoder fp32 on cpu: ok" in said.out


def test_golden_answers_that_no_graph_gives_are_misses_and_no_crash(tmp_path, monkeypatch):
    """As fp16 overflows on some GPUs: logits that are not numbers."""
    path = golden_bundle(tmp_path / "table")
    call = OnnxSession.__call__

    def overflow(self, inputs):
        outputs = call(self, inputs)
        return [np.full_like(value, np.nan) if value.dtype == np.float32 else value for value in outputs]

    monkeypatch.setattr(OnnxSession, "__call__", overflow)
    (one,) = (one for one in remeasure(open_bundle(path), OnnxRuntimeCpu(2)) if one.component == "denoiser")
    assert len(one.missed) == 2
    assert one.figures["draw_agreement"] == one.figures["grid_agreement"] == 0
    assert np.isfinite(list(one.figures.values())).all()  # as JSON knows no others


def drop(*names):
    return lambda tensors: [tensors.pop(name) for name in names]


def draw_nothing(tensors):
    for case in (0, 1):
        tensors[f"denoiser.{case}.out.draws"] = np.full((8, 12), -1, np.int32)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors: tensors.update(nonsense=np.zeros(1, np.int32)), "'nonsense' is neither an input nor an"),
        (lambda tensors: tensors.update({"upscaler.0.in.x": np.zeros(1, np.int32)}), "it has cases of upscaler"),
        (lambda tensors: tensors.update(runs=np.zeros((2, 2, 2), np.int32)), r"runs must be int32 \[N, 3, 4\]"),
        (lambda tensors: tensors.update(runs=np.zeros((2, 3, 4), np.float32)), r"runs must be int32 \[N, 3, 4\]"),
        (lambda tensors: tensors.update({"a.0.in.x": np.zeros(1, np.int64)}), "a.0.in.x is of type 'I64'"),
        (drop("denoiser.0.in.labels"), "a case of the denoiser lacks labels"),
        (drop("denoiser.0.in.rows"), "lacks rows"),
        (drop("decoder.0.out.images"), "a case of the decoder lacks its answer, images"),
        (lambda t: t.update({"denoiser.0.out.draws": np.zeros((3, 3), np.int32)}), r"stored is \[3, 3\]"),
        (lambda t: t.update({"denoiser.0.in.tokens": np.zeros((8, 5), np.int32)}), "do not fit its graph"),
        (lambda t: t.update({"denoiser.0.in.tokens": np.full((8, 12), 99, np.int32)}), "do not fit its graph"),
        (lambda t: t.update({"decoder.0.in.tokens": np.zeros((2, 3, 4), np.float32)}), "which its graph does not have"),
        (lambda t: t.update({"decoder.0.out.tokens": t["decoder.0.in.tokens"]}), "which its graph does not have"),
        (lambda t: t.update({"denoiser.0.out.logits": np.full((8, 3, 6), np.nan, np.float32)}), "what is no number"),
        (lambda t: t.update({"decoder.0.out.images": np.zeros((0, 12, 16, 3), np.uint8)}), "holds nothing"),
        (drop("denoiser.0.out.logits", "denoiser.1.out.logits"), "do not tell its logit_error, for which there is a"),
        (draw_nothing, "have nothing that is to be drawn"),
    ],
)
def test_golden_inputs_that_do_not_fit_are_refused_by_the_files_name(change, says, tmp_path, capsys):
    path = golden_bundle(tmp_path / "table", change)
    assert _run(["bundle", "verify", str(path), "--run"]) == 3
    error = capsys.readouterr().err
    assert "golden" in error
    assert re.search(says, error)


@pytest.mark.parametrize("cut", [0, 7, 8, 40, -1])
def test_golden_inputs_cut_short_are_no_safetensors_file(cut, bundle, capsys):
    file = bundle / "golden.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    edit(bundle, lambda content: redeclare(bundle, content, "golden.safetensors"))
    assert _run(["bundle", "verify", str(bundle)]) == 3
    assert "golden.safetensors" in capsys.readouterr().err


def test_a_bundle_without_golden_inputs_is_verified_and_says_so(tmp_path, capsys):
    path = plain_bundle(tmp_path / "old")
    assert _run(["bundle", "verify", str(path)]) == 0
    assert "it has no golden inputs: its certificate cannot be measured again" in capsys.readouterr().out
    with pytest.raises(UsageError, match="has no golden inputs to measure with"):
        remeasure(open_bundle(path), OnnxRuntimeCpu(2))
    assert _run(["bundle", "verify", str(path), "--run"]) == 2


def test_the_commands_say_it_in_words_and_in_json(bundle, capsys):
    assert _run(["bundle", "verify", str(bundle), "--run", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["problems"] == []
    assert [one["component"] for one in report["remeasured"]] == ["denoiser", "decoder", "encoder"]
    assert _run(["bundle", "verify", str(bundle)]) == 0
    assert "tiny-sundae: 4 files" in capsys.readouterr().out
    assert _run(["bundle", "inspect", str(bundle)]) == 0
    text = capsys.readouterr().out
    for words in ("sundae", "4x3 tokens of 2x2 pixels", "6 codes", "2: a, b", "Apache-2.0", "verify --run measures"):
        assert words in text
    assert _run(["bundle", "inspect", str(bundle), "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert (card["family"], card["golden"], len(card["variants"])) == ("sundae", True, 3)


def test_whole_runs_under_a_label_that_the_graph_does_not_know_are_refused(bundle, capsys):
    edit(bundle, lambda content: content.update(classes=list("abcdefgh")))
    assert _run(["bundle", "verify", str(bundle), "--run"]) == 3
    assert "ONNX Runtime cannot run it on these inputs" in capsys.readouterr().err
    assert _run(["generate", "--bundle", str(bundle), "--label", "h", "-o", str(bundle.parent / "a.png")]) == 3
    assert "denoiser.fp32.onnx" in capsys.readouterr().err


def test_an_embedding_of_another_length_is_not_alike():
    known = np.array([[1, 0, 0], [0.6, 0.8, 0]], np.float32)
    assert likeness(known, known) == pytest.approx(1)
    turned = np.array([[0.6, 0.8, 0], [0.6, 0.8, 0]], np.float32)
    assert likeness(turned, known) == pytest.approx(0.6)
    for wrong in (2 * known, known + 9 * (known == 0), 0 * known, np.nan * known):
        assert not likeness(wrong, known) > 0.9


def test_a_provider_that_there_is_not_is_refused_though_nothing_is_run(bundle, capsys):
    assert _run(["bundle", "verify", str(bundle), "--provider", "nonsense"]) == 2
    assert "provider 'nonsense'" in capsys.readouterr().err


def test_a_large_file_is_not_kept_while_it_is_checked(bundle):
    size = 2**28
    with (bundle / "large.bin").open("wb") as handle:
        handle.truncate(size)  # takes no place on the disk
    record = FileRecord(file="large.bin", sha256="0" * 64, bytes=size)
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match=r"large\.bin is damaged: its sha256"):
            check_file(bundle, record)
        assert tracemalloc.get_traced_memory()[1] < size / 4
    finally:
        tracemalloc.stop()


def test_without_onnx_runtime_all_but_the_graphs_is_checked(bundle, python):
    code = """
from smalti.cli.main import _run
for line in ([], ["--json"], ["--run"]):
    print("exit", _run(["bundle", "verify", *sys.argv[1:], *line]), flush=True)
"""
    done = python(code, bundle, blocked=("onnxruntime",))
    assert done.stdout.splitlines()[1] == "graphs were not read: ONNX Runtime is not installed", done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("exit")] == ["exit 0", "exit 0", "exit 4"]
    assert '"graphs": 0' in done.stdout
    name = open_bundle(bundle).manifest.files()[0].file
    (bundle / name).write_bytes(b"?")
    done = python(code, bundle, blocked=("onnxruntime",))
    assert "exit 3" in done.stdout
    assert f"{name} is damaged" in done.stderr
