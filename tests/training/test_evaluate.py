"""``smalti evaluate`` from end to end, on a tiny bundle and tiny runs: real features, real samples, real figures."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from helpers.table_predictor import autoregressive_bundle
from smalti.cli.main import main
from smalti.errors import UsageError
from smalti_train.evaluation.evaluate import blurred, by_label, per_label
from smalti_train.evaluation.features import open_features, resized
from smalti_train.evaluation.subject import data_of, open_subject
from smalti_train.models.effnet_lite import EffNetLite0


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", *map(str, arguments)])
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


FEW = ("--per-label", 10, "--train-count", 160)


@pytest.fixture(scope="module")
def network():
    return open_features()


def test_a_bundle_is_measured_and_the_same_figures_come_again(tiny_bundle, tmp_path, capsys):
    code, out, _ = run(capsys, tiny_bundle, *FEW, "-o", tmp_path / "report", "--steps", 4, "--order", "halton")
    assert code == 0
    figures = json.loads((tmp_path / "report/figures.json").read_bytes())
    assert (tmp_path / "report/report.md").read_text() in out
    assert figures["features"] == "EffNet-Lite0"
    assert "FID-style (EffNet-Lite0)" in out
    assert not re.search(r"\bFID\b(?!-style)(?! or KID)", out), "figures with our features are never called FID"
    settings = figures["subject"]["settings"]
    assert (settings["steps"], settings["order"]) == (4, "halton")
    reconstruction, samples = figures["reconstruction"], figures["samples"]
    names = figures["data"]["labels"]
    assert len(names) == 8
    assert reconstruction["images"] == samples["images"] == 80
    assert set(reconstruction["psnr_db"]) == {*names, "mean"}
    assert 5 < reconstruction["psnr_db"]["mean"] < 40
    assert 0 < reconstruction["codebook_usage_percent"] <= 100
    # Barely trained: far from real images, farther than these are from each other, and easily told apart.
    assert reconstruction["fid_style"] > 2 * reconstruction["fid_style_real_against_real"]
    assert samples["fid_style"] > 2 * samples["fid_style_real_against_real"]
    assert samples["told_from_real_percent"] > 90
    assert samples["told_from_real_percent_real_against_real"] < 75
    assert samples["labels"]["accuracy_on_real_percent"] > 95
    assert samples["coverage"]["planets"]["coverage"] < samples["coverage"]["planets"]["coverage_real_against_real"]
    assert samples["coverage"]["per_label"] == 10
    assert 0 < figures["likelihood"]["bits_per_token"] < 8
    for name in ("reconstructions", "samples", "neighbours"):
        with Image.open(tmp_path / f"report/{name}.png") as sheet:
            assert sheet.width > 64 * 7

    code, out, _ = run(capsys, tiny_bundle, *FEW, "--json", "--steps", 4, "--order", "halton")
    assert code == 0
    assert json.loads(out) == figures


def test_coverage_is_measured_without_what_eyes_do_not_see(tiny_bundle, capsys):
    code, out, _ = run(capsys, tiny_bundle, *FEW, "--json", "--steps", 2, "--blur", 8)
    assert code == 0
    figures = json.loads(out)
    blurred, names = figures["blurred"], figures["data"]["labels"]
    assert blurred["pixels"] == 8
    for part, sharp in (
        ("reconstruction", figures["reconstruction"]["coverage"]),
        ("samples", figures["samples"]["coverage"]),
    ):
        assert blurred[part]["per_label"] == sharp["per_label"] == 10
        assert all(0 <= blurred[part][name]["coverage"] <= 1 for name in names)
        assert blurred[part] != sharp
    # Under so much blur reconstructions of barely trained weights are as good as others are without.
    covered = [
        sum(one[name]["coverage"] for name in names)
        for one in (blurred["reconstruction"], figures["reconstruction"]["coverage"])
    ]
    assert covered[0] > covered[1]


def test_a_blur_keeps_means_and_removes_noise():
    noise = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    dim = blurred(noise, 2)
    assert dim.shape == noise.shape
    assert abs(dim.mean() - noise.mean()) < 3
    assert dim.std() < 0.3 * noise.std()


def test_runs_are_measured_too(tiny_runs, capsys):
    code, out, _ = run(capsys, tiny_runs[0], *FEW, "--json")
    assert code == 0
    autoencoder = json.loads(out)
    assert "samples" not in autoencoder
    options = ("--steps", 2, "--order", "confidence", "--choice-temperature", 1.5, "--top-p", 0.9)
    code, out, _ = run(capsys, tiny_runs[1], *FEW, "--json", *options)
    assert code == 0
    prior = json.loads(out)
    asked = {"steps": 2, "order": "confidence", "choice_temperature": 1.5, "top_p": 0.9}
    assert prior["subject"]["settings"].items() >= asked.items()
    assert prior["reconstruction"] == autoencoder["reconstruction"], "the prior's run keeps the same autoencoder"
    assert prior["samples"]["images"] == 80


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"order": "confidence", "schedule": "cosine"},
        {"remask": 0.5},
        {"remask": "mlm"},
        {"top_k": 3},
        {"top_p": 0.5},
    ],
    ids=str,
)
def test_a_run_and_its_bundle_agree(tiny_runs, tiny_bundle, options):
    options = {"steps": 8, **options}
    run_, bundle = (
        open_subject(str(tiny_runs[1]), **options),
        open_subject(str(tiny_bundle), precision="fp32", **options),
    )
    images = data_of("avatars", 64, 160, None).images[:16]
    assert (run_.encode(images) == bundle.encode(images)).mean() > 0.98
    seeds, labels = range(8), list(bundle.classes)
    assert run_.draw is not None
    assert bundle.draw is not None
    drawn = run_.draw(seeds, labels)
    assert (drawn == bundle.draw(seeds, labels)).mean() > 0.9
    plain = open_subject(str(tiny_runs[1]), steps=8).draw
    assert plain is not None
    assert np.array_equal(drawn, plain(seeds, labels)) == (options == {"steps": 8}), "every option says something"


def test_a_bundle_that_draws_in_turn_is_measured_exactly(tiny_bundle, tmp_path):
    table = autoregressive_bundle(tiny_bundle, tmp_path / "tiny-ar")
    subject = open_subject(str(tmp_path / "tiny-ar"), top_k=5)
    assert subject.settings["top_k"] == 5
    assert not {"steps", "order", "remask"} & subject.settings.keys(), "they mean nothing here"
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, table.codes, (19, table.length)).astype(np.int32)
    labels = np.arange(19, dtype=np.int32) % 8
    nats = 0.0
    for position in range(table.length):
        logits = table(tokens[:, :position], labels).astype(np.float64)
        chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        nats -= np.log(chances[np.arange(19), tokens[:, position]]).sum()
    assert subject.bits is not None
    assert subject.bits(tokens, labels) == pytest.approx(nats / tokens.size / np.log(2), rel=1e-5)
    assert subject.draw is not None
    assert subject.draw([3, 4], ["planets", "lorelei"]).shape == (2, 4, 4)
    with pytest.raises(UsageError, match="steps"):
        open_subject(str(tmp_path / "tiny-ar"), steps=4)


def test_an_option_that_does_not_exist_is_named(tiny_runs):
    with pytest.raises(UsageError, match="stride: no such option"):
        open_subject(str(tiny_runs[1]), stride=2)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 3, "nowhere"),
        (["avatars", "--per-label", 5], 2, "at least 10"),
        (["avatars", "--blur", -1], 2, "blur -1.0: 0 to 16 pixels"),
        (["avatars", "--order", "raster"], 2, "allowed are random, halton and confidence"),
        (["avatars", "--remask", "often"], 2, "allowed are 0 .. 1 and mlm"),
        (["avatars", "--top-p", 0], 2, "top_p 0"),
        (["avatars", "--data", "faces"], 2, "allowed are avatars"),
        (["avatars", "--features", "missing.pth"], 2, "missing.pth"),
    ],
)
def test_bad_input_is_refused_before_any_work(arguments, code, message, capsys):
    found, _, err = run(capsys, *arguments)
    assert found == code
    assert message in err


def test_features_are_those_of_the_torch_network_and_do_not_depend_on_the_batch(network):
    import torch

    images = data_of("avatars", 64, 160, None).images[:5]
    features = network(images)
    small = torch.from_numpy(resized(images, network.side)).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        expected = EffNetLite0()(small).numpy()
    assert features.shape == (5, 1280)
    assert np.abs(features - expected).max() < 1e-3 * expected.std()
    assert np.allclose(network(images[2:3]), features[2:3], atol=1e-4)


def test_per_label_takes_as_many_of_each_and_says_when_there_are_not_enough():
    data = data_of("avatars", 64, 160, None)
    first, second = per_label(data, 10), per_label(data, 10, 10)
    assert not set(first) & set(second)
    assert np.array_equal(data.labels[first], np.repeat(np.arange(8), 10))
    with pytest.raises(UsageError, match="--per-label"):
        per_label(data, 15, 10)


def test_means_by_label():
    labels = np.array([0, 0, 1], np.int32)
    assert by_label(np.array([1.0, 3.0, 10.0]), labels, ("a", "b")) == {"a": 2.0, "b": 10.0, "mean": 6.0}
