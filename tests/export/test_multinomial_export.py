"""A prior of multinomial diffusion, from its training to pictures drawn without torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import smalti
from helpers.checkpoints import SMALL
from helpers.torch_draws import draw_multinomial
from smalti.backends.onnxruntime_cpu import OnnxRuntimeCpu
from smalti.bundle.reader import open_bundle
from smalti.cli.main import _run
from smalti.verification.golden import read_golden
from smalti.verification.remeasure import remeasure
from smalti_export.parity.measure import DRAWS
from smalti_train.models.multinomial_unet import MultinomialUNet
from smalti_train.models.vqgan import VQGAN
from smalti_train.presets.catalogue import PRIORS
from smalti_train.runs.bundle_weights import initial_weights
from smalti_train.runs.loading import load_prior
from smalti_train.runs.torch_sampling import torch_denoisers
from smalti_train.trainers.prior import train_prior

FIXTURES = Path(__file__).parents[1] / "training" / "fixtures"


def run(*arguments: object) -> int:
    return _run([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def exported(tiny_runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prior's ``run`` and its ``bundle``, which draws in six steps."""
    folder = tmp_path_factory.mktemp("multinomial")
    tiny = PRIORS["tiny-multinomial"]
    data = dataclasses.replace(tiny.data, train_count=64, validation_count=64)
    loop = dataclasses.replace(tiny.loop, steps=20, precision="fp32")
    train_prior(dataclasses.replace(tiny, data=data, loop=loop), folder / "run", tiny_runs[0])
    # After so short a training 8 bits may be too few; then the int8 variant is left out with a message.
    assert run("export", folder / "run", "-o", folder / "bundle", "--steps", 6, "--top-p", 0.95) in (0, 6)
    return folder


def test_the_bundle_draws_what_the_torch_model_draws_as_far_as_its_certificate_says(exported: Path) -> None:
    generator = smalti.load(exported / "bundle", precision="fp32")
    certified = {(one.component, one.precision): one.figures for one in generator.manifest.certificate}
    figures = certified["denoiser", "fp32"]
    model, _ = load_prior(exported / "run")
    assert isinstance(model, MultinomialUNet)
    seeds, labels = range(16), [i % 8 for i in range(16)]
    ours = draw_multinomial(torch_denoisers(model), model.config, seeds, labels, steps=6, top_p=0.95)
    agreement = (generator.generate(seeds=seeds, label=labels).tokens == ours).mean()
    assert agreement == pytest.approx(figures["grid_agreement"], abs=0.01)
    assert figures["grid_agreement"] > 0.9
    assert figures["draw_agreement"] > 0.995
    assert figures["draws"] >= DRAWS
    assert certified["denoiser", "fp16"]["draw_agreement"] > 0.99


def test_its_bundle_says_how_it_draws(exported: Path) -> None:
    manifest = open_bundle(exported / "bundle").manifest
    assert (manifest.family, manifest.name) == ("multinomial", "tiny-multinomial")
    assert manifest.noise is not None
    assert (manifest.noise.steps, manifest.noise.schedule) == (100, "released")
    assert [one.name for one in manifest.components["denoiser"].inputs] == ["tokens", "labels", "times", "rows"]
    assert (manifest.sampler.steps, manifest.sampler.top_p) == (6, 0.95)
    assert manifest.provenance.training["prior_objective"] == "vlb"


def test_its_certificate_is_measured_again_at_every_stored_time(exported: Path) -> None:
    bundle = open_bundle(exported / "bundle")
    golden = read_golden(bundle)
    assert golden is not None
    cases = golden.cases["denoiser"]
    assert all(set(case.inputs) == {"tokens", "labels", "times", "rows"} for case in cases)
    assert len({time for case in cases for time in case.inputs["times"]}) > 1
    measured = [one for one in remeasure(bundle, OnnxRuntimeCpu(1)) if one.component == "denoiser"]
    assert {one.precision for one in measured} >= {"fp32", "fp16"}
    assert [line for one in measured for line in one.missed] == []


def test_training_goes_on_from_its_bundle(exported: Path) -> None:
    model, config = load_prior(exported / "run")
    weights = initial_weights(exported / "bundle", config)
    assert all(torch.equal(weights[name], value.half().float()) for name, value in model.state_dict().items())


def test_it_draws_and_repaints_from_the_command_line(exported: Path, tmp_path: Path) -> None:
    bundle = ("--bundle", exported / "bundle")
    assert run("generate", *bundle, "--seed", 5, "--steps", 100, "-o", tmp_path / "one.png") == 0
    image = np.asarray(Image.open(tmp_path / "one.png").convert("RGB"))
    assert image.shape == (64, 64, 3)
    mask = np.zeros((64, 64), bool)
    mask[10:40, 30:] = True
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    files = (tmp_path / "one.png", tmp_path / "mask.png", "-o", tmp_path / "painted.png")
    assert run("inpaint", *bundle, *files, "--seed", 1) == 0
    painted = np.asarray(Image.open(tmp_path / "painted.png").convert("RGB"))
    assert np.array_equal(painted[~mask], image[~mask])


def test_what_its_prior_does_not_know_is_refused(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, words in (
        (("--order", "halton"), "order: this prior starts from noise and takes it away"),
        (("--steps", 101), "steps 101: allowed are 1 .. 100, the steps that this prior was trained with"),
    ):
        assert run("export", exported / "run", "-o", tmp_path / "out", *options) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_imported_prior_exports_like_any_other(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vqgan = VQGAN(dataclasses.replace(SMALL, codes=32))
    torch.save({"state_dict": vqgan.state_dict()}, tmp_path / "vqgan.ckpt")
    assert run("import", "--source", "taming-vqgan", tmp_path / "vqgan.ckpt", "-o", tmp_path / "codec") == 0
    options = ("--config", '{"grid": [16, 16]}', "--autoencoder", tmp_path / "codec", "--licence", "MIT")
    assert run("import", "--source", "vqddm", FIXTURES / "vqddm_small.ckpt", "-o", tmp_path / "run", *options) == 0
    assert run("export", tmp_path / "run", "-o", tmp_path / "bundle", "--steps", 4, "--precision", "fp32") == 0
    generator = smalti.load(tmp_path / "bundle", precision="fp32")
    manifest = generator.manifest
    assert (manifest.family, manifest.name, manifest.classes) == ("multinomial", "vqddm", ())
    assert manifest.noise is not None
    assert (manifest.noise.steps, manifest.latent.grid, manifest.latent.codes) == (4000, (16, 16), 32)
    assert manifest.provenance.training["prior_file"] == "vqddm_small.ckpt"
    model, _ = load_prior(tmp_path / "run")
    assert isinstance(model, MultinomialUNet)
    ours = draw_multinomial(torch_denoisers(model), model.config, range(4), [0] * 4, steps=4)
    assert (generator.generate(seeds=range(4)).tokens == ours).mean() > 0.99
    assert run("generate", "--bundle", tmp_path / "bundle", "-o", tmp_path / "one.png") == 0
    assert Image.open(tmp_path / "one.png").size == (32, 32)
