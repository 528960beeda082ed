"""Golden inputs as stored by an export: the certificate is measured again with them, and changes are noticed."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, load_file, save

import smalti
from helpers.golden_bundle import add_file
from helpers.table_predictor import autoregressive_bundle
from smalti import open_bundle
from smalti.backends.onnxruntime_cpu import OnnxRuntimeCpu
from smalti.bundle.safetensors_reader import read_tensors
from smalti.cli.main import _run
from smalti.verification.comparison import Case
from smalti.verification.golden import read_golden
from smalti.verification.remeasure import remeasure
from smalti.verification.verify import verify
from smalti_export.parity.denoisers import DenoiserReference, Drawing
from smalti_export.parity.golden import BATCHES, golden_file
from smalti_export.parity.measure import Figures
from smalti_export.parity.predictors import PredictorReference, prefix_feeds


def test_every_exported_bundle_is_sound_and_has_golden_inputs(tiny_bundle: Path) -> None:
    found = verify(open_bundle(tiny_bundle))
    assert found.golden
    assert found.problems == found.undeclared == ()
    assert found.graphs == 11


def test_the_certificate_is_measured_again_within_its_tolerances(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    measured = {(one.component, one.precision): one for one in remeasure(bundle, OnnxRuntimeCpu(1))}
    assert set(measured) == {(one.component, one.precision) for one in bundle.manifest.certificate}
    for one in measured.values():
        assert one.missed == ()
        # A preview's cost and its PSNR against the decoder need the torch models.
        once = {name for name in one.certified if name.startswith("rounded_")} | {"cost", "decoder_psnr"}
        assert set(one.figures) == set(one.certified) - once
    exact = measured["denoiser", "fp32"].figures
    assert exact["draw_agreement"] > 0.99
    assert exact["grid_agreement"] > 0.99
    assert exact["draws"] > 100


def test_the_stored_cases_are_whole_and_of_the_right_kinds(tiny_bundle: Path) -> None:
    golden = read_golden(open_bundle(tiny_bundle))
    assert golden is not None
    assert golden.runs is not None
    assert golden.runs.shape == (16, 4, 4)
    assert {role: len(cases) for role, cases in golden.cases.items()} == {
        "encoder": 1,
        "decoder": 1,
        "preview": 1,
        "denoiser": BATCHES,
    }
    for case in golden.cases["denoiser"]:
        draws, logits = case.outputs["draws"], case.outputs["logits"]
        assert draws.shape == case.inputs["rows"].shape == (16, 16)
        assert logits.shape == (16, 16, 64)
        masked = np.take_along_axis(case.inputs["tokens"], case.inputs["rows"], axis=1) == 64
        assert np.array_equal(draws >= 0, masked)
    assert golden.cases["decoder"][0].outputs["images"].shape == (4, 64, 64, 3)


def test_a_bundle_with_another_models_weights_does_not_pass(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Simulates mixing the files of two exports and fixing their hashes."""
    path = Path(shutil.copytree(tiny_bundle, tmp_path / "mixed"))
    content = bytearray((path / "denoiser.safetensors").read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    weights = np.frombuffer(bytes(content[start:]), np.float16)
    content[start:] = weights[::-1].tobytes()
    (path / "denoiser.safetensors").write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    for record in manifest["weights"]:
        if record["file"] == "denoiser.safetensors":
            record["sha256"] = hashlib.sha256(content).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert _run(["bundle", "verify", str(path)]) == 0
    assert _run(["bundle", "verify", str(path), "--run", "--threads", "1"]) == 6
    assert "logit_error is" in capsys.readouterr().err


def test_a_long_grid_stores_the_logits_of_a_few_rows_and_draws_of_all(tiny_bundle: Path) -> None:
    record = open_bundle(tiny_bundle).manifest
    rng = np.random.default_rng(0)
    count, length, codes = 4, 16, 2**14

    def run(feed):
        return rng.normal(size=(len(feed["tokens"]), length, codes)).astype(np.float32)

    feed = {
        "tokens": np.full((count, length), record.latent.codes, np.int32),
        "labels": np.zeros(count, np.int32),
        "rows": np.tile(np.arange(length, dtype=np.int32), (count, 1)),
    }
    logits, drawing = run(feed), Drawing(record)
    case = Case(feed, {"logits": logits})
    case.outputs["draws"] = drawing.draws(logits, case, 0)
    reference = DenoiserReference.__new__(DenoiserReference)
    reference.cases, reference.runs = [case], np.zeros((2, 4, 4), np.int32)
    figures = Figures(pair=None, feeds={}, drawing=drawing, references={"denoiser": reference})  # type: ignore[arg-type]
    tensors = read_tensors(golden_file(figures, record), "here")
    rows, stored = tensors["denoiser.0.in.rows"], tensors["denoiser.0.out.logits"]
    assert stored.shape == (count, 1, codes)
    assert sorted(rows[0]) == list(range(length))
    assert np.array_equal(stored[1], logits[1, rows[1, :1]])
    assert (tensors["denoiser.0.out.draws"] >= 0).all()


def test_a_predictors_cases_are_prefixes_of_many_lengths(tiny_bundle: Path, tmp_path: Path) -> None:
    table = autoregressive_bundle(tiny_bundle, tmp_path / "ar")
    record = open_bundle(tmp_path / "ar").manifest
    rng = np.random.default_rng(0)
    past = (2, 1, table.codes)
    feeds = prefix_feeds(rng.integers(0, table.codes, (12, 16)), np.zeros(12, np.int32), table.codes, past, 6, 3)
    reference = PredictorReference.__new__(PredictorReference)
    reference.cases = [Case(feed, {"logits": table(feed["tokens"][:, 1:], feed["labels"])}) for feed in feeds]
    reference.runs = smalti.load(tmp_path / "ar").generate(seeds=range(3), label=list(record.classes[:3])).tokens
    figures = Figures(pair=None, feeds={}, drawing=None, references={"predictor": reference})  # type: ignore[arg-type]
    stored = load_file(tiny_bundle / "golden.safetensors")
    stored = {name: value for name, value in stored.items() if name.startswith(("decoder", "encoder", "preview"))}
    add_file(tmp_path / "ar", "golden", "golden.safetensors", save(stored | load(golden_file(figures, record))))
    content = json.loads((tmp_path / "ar" / "manifest.json").read_text())
    bounds = {"logit_error": 1e-3, "draw_agreement": 0.99}
    for measure in content["certificate"]:
        if measure["component"] == "predictor":
            measure.update(tolerances=bounds, figures=bounds)
    (tmp_path / "ar" / "manifest.json").write_text(json.dumps(content))
    bundle = open_bundle(tmp_path / "ar")
    assert verify(bundle).problems == ()
    one = next(one for one in remeasure(bundle, OnnxRuntimeCpu(1)) if one.component == "predictor")
    assert one.missed == ()
    assert one.figures["draws"] == 12 * 3 * 16
    assert one.figures["grid_agreement"] == 1


def test_an_embedding_that_is_another_one_fails_the_certificate(tiny_bundle: Path, tmp_path: Path) -> None:
    path = shutil.copytree(tiny_bundle, tmp_path / "other")
    tensors = load(bytes((path / "golden.safetensors").read_bytes()))
    tensors["encoder.0.out.embedding"] = np.ascontiguousarray(np.roll(tensors["encoder.0.out.embedding"], 1, axis=1))
    add_file(path, "golden", "golden.safetensors", save(tensors))
    wrong = [one for one in remeasure(open_bundle(path), OnnxRuntimeCpu(1)) if one.missed]
    assert {one.component for one in wrong} == {"encoder"}
    assert all(line.startswith("cosine is") for one in wrong for line in one.missed)
