"""SUNDAE priors, from their runs to pictures, with the user's commands: on tokens, on grey pixels, imported."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import smalti
from helpers.torch_draws import draw_sundae
from smalti.backends.onnxruntime_cpu import OnnxRuntimeCpu
from smalti.bundle.reader import open_bundle
from smalti.cli.main import _run
from smalti.verification.remeasure import remeasure
from smalti_export.parity.measure import DRAWS
from smalti_train.data.config import DataConfig
from smalti_train.models.pixels import PixelCodesConfig
from smalti_train.models.sundae_transformer import SundaeTransformer
from smalti_train.presets.catalogue import PRIORS
from smalti_train.runs.bundle_weights import initial_weights
from smalti_train.runs.config import PixelRun
from smalti_train.runs.config_files import to_json
from smalti_train.runs.loading import load_autoencoder, load_prior
from smalti_train.runs.torch_sampling import torch_denoiser
from smalti_train.trainers.prior import train_prior

FIXTURES = Path(__file__).parents[1] / "training" / "fixtures"
PLAN = {"steps": 24, "temperature": (1.0, 0.8), "proportion": (0.8, 0.4), "min_steps": 6}
"""The bundles' defaults, as arguments of the plain sampler."""
OPTIONS = ("--steps", 24, "--final-temperature", 0.8, "--proportion", "0.8:0.4", "--min-steps", 6)
SIDE, LEVELS = 16, 32
"""Pixels per side of the small grey pictures, and the prior's number of grey levels."""


def run(*words: object) -> int:
    return _run([str(word) for word in words])


@pytest.fixture(scope="module")
def tokenwise(tiny_runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prior's ``run`` on 4x4 tokens of the tiny autoencoder, and its ``bundle``."""
    folder = tmp_path_factory.mktemp("tokenwise")
    tiny = PRIORS["tiny-sundae"]
    data = dataclasses.replace(tiny.data, train_count=64, validation_count=64)
    loop = dataclasses.replace(tiny.loop, steps=20, precision="fp32")
    train_prior(dataclasses.replace(tiny, data=data, loop=loop), folder / "run", tiny_runs[0])
    assert run("export", folder / "run", "-o", folder / "bundle", *OPTIONS, "--precision", "fp32") == 0
    return folder


@pytest.fixture(scope="module")
def pixelwise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prior's ``run`` on grey pixels, two labels, and its ``bundle``."""
    folder = tmp_path_factory.mktemp("pixelwise")
    generator = np.random.default_rng(0)
    for index in range(120):
        path = folder / "pictures" / ("dark", "light")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shade = generator.integers(0, 64, (SIDE, SIDE)) + 160 * (index % 2)
        Image.fromarray(shade.astype(np.uint8)).save(path)
    data = DataConfig(name="folder", size=SIDE, root=str(folder / "pictures"))
    pixels = PixelRun("some", model=PixelCodesConfig(LEVELS), data=data)
    (folder / "pixels").mkdir()
    (folder / "pixels/config.json").write_bytes(to_json(pixels))
    tiny = PRIORS["tiny-sundae"]
    model = dataclasses.replace(tiny.model, codes=LEVELS, grid=(SIDE, SIDE), classes=2, depth=(1, (0, 1, 0), 1))
    loop = dataclasses.replace(tiny.loop, steps=3, batch=4, precision="fp32")
    train_prior(dataclasses.replace(tiny, model=model, data=data, loop=loop), folder / "run", folder / "pixels")
    options = (*OPTIONS, "--name", "grey", "--precision", "fp16")
    assert run("export", folder / "run", "-o", folder / "bundle", *options) == 0
    return folder


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``run`` and ``bundle`` of an imported hourglass prior on 8x8 tokens of a published VQGAN.

    The prior is that of McKinney and Willcocks 2022.
    """
    folder = tmp_path_factory.mktemp("imported")
    vqgan, hourglass = FIXTURES / "ut_vqgan_nearest_small.th", FIXTURES / "sundae_hourglass_small.pt"
    assert run("import", "--source", "unleashing-vqgan", vqgan, "-o", folder / "codec") == 0
    options = ("--config", '{"grid": [8, 8]}', "--autoencoder", folder / "codec", "--licence", "MIT")
    assert run("import", "--source", "sundae-hourglass", hourglass, "-o", folder / "run", *options) == 0
    assert run("export", folder / "run", "-o", folder / "bundle", "--steps", 8, "--precision", "fp32") == 0
    return folder


def by_torch(folder: Path, seeds: Sequence[int], labels: Sequence[int]) -> np.ndarray:
    """Tokens drawn by the torch model in fp32."""
    model, _ = load_prior(folder / "run")
    assert isinstance(model, SundaeTransformer)
    return draw_sundae(torch_denoiser(model), model.config, seeds, labels, **PLAN)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", ["tokenwise", "pixelwise"])
def test_a_bundle_draws_what_the_torch_model_draws_as_far_as_its_certificate_says(
    kind: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(kind)
    generator = smalti.load(folder / "bundle", precision="fp32")
    manifest = generator.manifest
    (figures,) = [one.figures for one in manifest.certificate if (one.component, one.precision) == ("denoiser", "fp32")]
    seeds, labels = range(16), [i % len(generator.labels) for i in range(16)]
    agreement = (generator.generate(seeds=seeds, label=labels).tokens == by_torch(folder, seeds, labels)).mean()
    assert agreement == pytest.approx(figures["grid_agreement"], abs=0.01)
    assert figures["grid_agreement"] > 0.9
    assert figures["draw_agreement"] > 0.995
    assert figures["draws"] % np.prod(manifest.latent.grid) == 0  # at every position
    assert figures["draws"] >= DRAWS
    for one in manifest.certificate:
        assert one.component != "denoiser" or one.precision == "int8" or one.figures["draw_agreement"] > 0.99


def test_its_bundle_says_how_it_draws(tokenwise: Path) -> None:
    manifest = open_bundle(tokenwise / "bundle").manifest
    assert (manifest.family, manifest.name) == ("sundae", "tiny-sundae")
    assert set(manifest.components) == {"encoder", "decoder", "denoiser"}
    assert (manifest.latent.grid, manifest.latent.factor, manifest.latent.pixels) == ((4, 4), 16, None)
    sampler = manifest.sampler
    assert (sampler.steps, sampler.temperature, sampler.final_temperature) == (24, 1.0, 0.8)
    assert (sampler.proportion, sampler.min_steps) == ((0.8, 0.4), 6)
    assert manifest.provenance.training["prior_objective"] == "sundae"


@pytest.mark.parametrize("kind", ["tokenwise", "pixelwise"])
def test_its_certificate_is_measured_again(kind: str, request: pytest.FixtureRequest) -> None:
    bundle = open_bundle(request.getfixturevalue(kind) / "bundle")
    measured = [one for one in remeasure(bundle, OnnxRuntimeCpu(1)) if one.component == "denoiser"]
    assert {one.precision for one in measured} == set(bundle.precisions("denoiser"))
    assert [line for one in measured for line in one.missed] == []


def test_training_goes_on_from_its_bundle(tokenwise: Path) -> None:
    model, config = load_prior(tokenwise / "run")
    weights = initial_weights(tokenwise / "bundle", config)
    assert all(torch.equal(weights[name], value.half().float()) for name, value in model.state_dict().items())


def test_a_bundle_of_grey_pixels_is_its_denoiser_alone(pixelwise: Path) -> None:
    bundle = open_bundle(pixelwise / "bundle")
    manifest = bundle.manifest
    assert (manifest.latent.pixels, manifest.latent.factor, manifest.latent.halo) == ("grey", 1, 0)
    assert (manifest.latent.grid, manifest.latent.codes) == ((SIDE, SIDE), LEVELS)
    assert manifest.classes == ("dark", "light")
    assert set(manifest.components) == {"denoiser"}
    assert bundle.precisions("denoiser") == ("fp32", "fp16")
    assert {one.component for one in manifest.certificate} == {"denoiser"}
    files = {path.name for path in (pixelwise / "bundle").iterdir()}
    assert files == {"manifest.json", *(file.file for file in manifest.files())}
    assert not [name for name in files if name.startswith(("decoder", "encoder"))]


def test_it_draws_grey_pictures_from_the_command_line(pixelwise: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    command = ("generate", "--bundle", pixelwise / "bundle", "--label", "light", "--seed", 3, "--count", 2)
    assert run(*command, "-o", f"{pictures}/") == 0
    result = smalti.load(pixelwise / "bundle").generate(2, 3, label="light")
    for file, image in zip(sorted(pictures.glob("*.png")), result.images, strict=True):
        pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
        assert pixels.shape == (SIDE, SIDE, 3)
        assert (np.ptp(pixels, axis=2) == 0).all()
        assert len(np.unique(pixels)) > 8
        assert np.array_equal(pixels, np.asarray(image))
    wide = tmp_path / "wide.png"
    assert run(*command, "--size", "20x24", "--steps", 3, "-o", wide) == 0
    assert Image.open(wide).size[1] == 24


def test_any_of_its_pixels_are_repainted(pixelwise: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    image = generator.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    mask = generator.random((SIDE, SIDE)) < 0.3
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    files = (tmp_path / "image.png", tmp_path / "mask.png", "-o", tmp_path / "painted.png")
    assert run("inpaint", "--bundle", pixelwise / "bundle", *files, "--label", "dark") == 0
    painted = np.asarray(Image.open(tmp_path / "painted.png").convert("RGB"))
    assert np.array_equal(painted[~mask], image[~mask])
    assert (np.ptp(painted[mask].astype(int), axis=1) == 0).all()  # repainted pixels are grey


def test_a_bundle_of_tokens_draws_and_repaints_from_the_command_line(tokenwise: Path, tmp_path: Path) -> None:
    bundle = ("--bundle", tokenwise / "bundle")
    assert run("generate", *bundle, "--seed", 5, "--proportion", "0.9", "-o", tmp_path / "one.png") == 0
    image = np.asarray(Image.open(tmp_path / "one.png").convert("RGB"))
    assert image.shape == (64, 64, 3)
    y, x = np.mgrid[:64, :64]
    mask = (y - 20) ** 2 + (x - 40) ** 2 < 150
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    files = (tmp_path / "one.png", tmp_path / "mask.png", "-o", tmp_path / "painted.png")
    assert run("inpaint", *bundle, *files, "--seed", 1) == 0
    painted = np.asarray(Image.open(tmp_path / "painted.png").convert("RGB"))
    assert np.array_equal(painted[~mask], image[~mask])


def test_choices_of_another_family_are_refused(
    tokenwise: Path, pixelwise: Path, tiny_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases: list[tuple[Path, tuple[object, ...], str]] = [
        (tokenwise / "run", ("--order", "halton"), "order: this prior starts from random tokens"),
        (tiny_runs[1], ("--proportion", 0.5, "--min-steps", 3), "proportion, min_steps: this prior unmasks its tokens"),
        (tokenwise / "run", ("--proportion", "0:1"), "proportion"),
        (tokenwise / "run", ("--steps", 0), "steps 0: allowed are 1"),
        (tokenwise / "run", ("--final-temperature", 500), "no bundle can hold this"),
        (tokenwise / "run", ("--min-steps", 2**21), "no bundle can hold this"),
        (tokenwise / "run", ("--steps", 10, "--proportion", "5:7"), "no bundle can hold this"),
        (tiny_runs[1], ("--top-k", 2**31), "no bundle can hold this"),
        (pixelwise / "run", ("--decoder-from", tiny_runs[0]), "draws pixels, which need no decoder"),
    ]
    for path, options, words in cases:
        assert run("export", path, "-o", tmp_path / "out", *options) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_imported_prior_exports_like_any_other(imported: Path, tmp_path: Path) -> None:
    bundle = open_bundle(imported / "bundle")
    manifest = bundle.manifest
    assert (manifest.family, manifest.name, manifest.classes) == ("sundae", "sundae-hourglass", ())
    assert (manifest.latent.grid, manifest.latent.codes, manifest.latent.factor) == ((8, 8), 64, 4)
    assert manifest.licence.startswith("MIT")
    assert manifest.provenance.training["prior_file"] == "sundae_hourglass_small.pt"
    for role in ("encoder", "decoder", "denoiser"):
        assert bundle.precisions(role) == ("fp32",)
    assert run("generate", "--bundle", imported / "bundle", "--seed", 2, "-o", tmp_path / "one.png") == 0
    assert Image.open(tmp_path / "one.png").size == (32, 32)
    model, config = load_prior(imported / "run")
    generator = smalti.load(bundle, precision="fp32")
    tokens = np.random.default_rng(0).integers(0, 64, (2, 64)).astype(np.int32)
    rows = np.tile(np.arange(64, dtype=np.int32), (2, 1))
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens.astype(np.int64))).numpy()
    found = generator.logits(tokens, np.zeros(2, np.int32), rows)
    assert np.abs(found - expected).max() < 0.01 * expected.std()  # the bundle stores the weights as fp16
    weights = initial_weights(imported / "bundle", config)
    assert all(torch.equal(weights[name], value.half().float()) for name, value in model.state_dict().items())
    codec, _ = load_autoencoder(imported / "run/autoencoder")
    assert codec.config.codes == 64
