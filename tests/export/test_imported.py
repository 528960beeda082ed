"""Published models, from their checkpoints to pictures, with the user's commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import smalti
from helpers.checkpoints import SMALL
from helpers.torch_draws import draw_in_turn
from smalti.bundle.reader import open_bundle
from smalti.cli.main import _run
from smalti.errors import UsageError
from smalti_export.parity.measure import DRAWS
from smalti_train.data.pixels import to_pixels
from smalti_train.models.autoregressive_transformer import Net2NetTransformer, Net2NetTransformerConfig
from smalti_train.models.vqgan import VQGAN
from smalti_train.runs.bundle_weights import initial_weights
from smalti_train.runs.loading import load_autoencoder, load_prior
from smalti_train.runs.torch_sampling import next_logits

FIXTURES = Path(__file__).parents[1] / "training" / "fixtures"


def run(*words: object) -> int:
    return _run([str(word) for word in words])


@pytest.fixture(scope="module")
def absorbing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a VQGAN and prior of Bond-Taylor et al. 2021: ``codec``, ``prior``, ``bundle``."""
    folder = tmp_path_factory.mktemp("absorbing")
    codec, prior, bundle = (folder / name for name in ("codec", "prior", "bundle"))
    vqgan, transformer = FIXTURES / "ut_vqgan_nearest_small.th", FIXTURES / "ut_absorbing_small.th"
    assert run("import", "--source", "unleashing-vqgan", vqgan, "-o", codec) == 0
    options = ("--config", '{"heads": 4}', "--autoencoder", codec, "--licence", "MIT")
    assert run("import", "--source", "unleashing-absorbing", transformer, "-o", prior, *options) == 0
    assert run("export", prior, "-o", bundle, "--steps", 8, "--name", "published", "--precision", "fp16") == 0
    return folder


@pytest.fixture(scope="module")
def autoregressive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a taming pair: ``both.ckpt``, ``run``, ``bundle``; 8x8 tokens, 16x16 pixels, two labels."""
    folder = tmp_path_factory.mktemp("autoregressive")
    torch.manual_seed(0)
    sizes = Net2NetTransformerConfig(vocabulary=8, positions=64, grid=(8, 8), width=16, layers=2, heads=2)
    models = {"first_stage_model": VQGAN(SMALL), "transformer": Net2NetTransformer(sizes)}
    for model in models.values():
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
    state = {f"{part}.{name}": value for part, model in models.items() for name, value in model.state_dict().items()}
    torch.save({"state_dict": state}, folder / "both.ckpt")
    options = ("--config", '{"heads": 2}', "--labels", "cat,dog", "--source", "taming-net2net")
    assert run("import", folder / "both.ckpt", "-o", folder / "run", *options) == 0
    # Random weights may not fit 8 bits; then the int8 variant is left out with a message.
    assert run("export", folder / "run", "-o", folder / "bundle", "--top-k", 5) in (0, 6)
    return folder


def test_an_absorbing_pair_generates(absorbing: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    assert run("generate", "--bundle", absorbing / "bundle", "--count", 2, "--seed", 5, "-o", f"{pictures}/") == 0
    files = sorted(pictures.glob("*.png"))
    assert len(files) == 2
    result = smalti.load(absorbing / "bundle").generate(count=2, seed=5)
    for file, image in zip(files, result.images):
        assert image.size == (32, 32)
        assert np.array_equal(np.asarray(Image.open(file)), np.asarray(image))


def test_its_bundle_says_where_it_comes_from(absorbing: Path) -> None:
    bundle = open_bundle(absorbing / "bundle")
    manifest = bundle.manifest
    assert (manifest.family, manifest.name, manifest.classes) == ("absorbing", "published", ())
    assert (manifest.latent.grid, manifest.latent.codes, manifest.latent.factor) == ((8, 8), 64, 4)
    assert manifest.latent.halo is None
    assert manifest.licence == "MIT; unknown, see the source of the checkpoint"
    assert manifest.data_licences == ()
    assert manifest.provenance.training["prior_source"] == "unleashing-absorbing"
    assert manifest.provenance.training["autoencoder_file"] == "ut_vqgan_nearest_small.th"
    for role in ("encoder", "decoder", "denoiser"):
        assert bundle.precisions(role) == ("fp32", "fp16")


@pytest.mark.parametrize("role", ["encoder", "decoder", "denoiser"])
def test_its_weights_stand_once_in_the_file_that_both_precisions_read(role: str, absorbing: Path) -> None:
    named = load_file(absorbing / "bundle" / f"{role}.safetensors")
    stored = sum(value.numel() for value in named.values())
    for precision in ("fp32", "fp16"):
        graph = onnx.load(absorbing / "bundle" / f"{role}.{precision}.onnx", load_external_data=False).graph
        outside = [tensor for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
        inside = [tensor for tensor in graph.initializer if tensor.data_location != onnx.TensorProto.EXTERNAL]
        assert sum(np.prod(tensor.dims) for tensor in outside) > 0.9 * stored
        assert max(np.prod(tensor.dims, initial=1) for tensor in inside) <= 64  # the squared length of every code


def test_training_can_start_from_its_bundle(absorbing: Path) -> None:
    bundle = absorbing / "bundle"
    for model, config in (load_prior(absorbing / "prior"), load_autoencoder(absorbing / "prior" / "autoencoder")):
        weights = initial_weights(bundle, config)
        for name, value in model.state_dict().items():
            assert torch.equal(weights[name], value.half().float()), name


def test_its_tokens_and_pixels_are_those_of_the_models(absorbing: Path) -> None:
    model, _ = load_autoencoder(absorbing / "codec")
    generator = smalti.load(absorbing / "bundle", precision="fp32")
    tokens = np.random.default_rng(0).integers(0, 64, (2, 8, 8))
    with torch.no_grad():
        expected = to_pixels(model.decode(torch.from_numpy(tokens)), (0.0, 1.0))
    found = np.stack([np.asarray(image) for image in generator.decode(tokens)]).astype(int)
    assert np.abs(found - expected).max() <= 3  # the bundle stores the weights as fp16
    with pytest.raises(UsageError, match="this bundle knows no labels"):
        generator.generate(label="cat")


def test_a_canvas_is_decoded_whole_where_pixels_depend_on_all_of_it(absorbing: Path) -> None:
    model, _ = load_autoencoder(absorbing / "codec")
    generator = smalti.load(absorbing / "bundle", precision="fp32")
    tokens = np.random.default_rng(1).integers(0, 64, (1, 40, 70))  # more than a tile along both axes
    with torch.no_grad():
        expected = to_pixels(model.decode(torch.from_numpy(tokens)), (0.0, 1.0))[0]
    (image,) = generator.decode(tokens)
    assert image.size == (280, 160)
    assert np.abs(np.asarray(image).astype(int) - expected).max() <= 3


def test_an_autoregressive_pair_generates_as_the_models_do(autoregressive: Path, tmp_path: Path) -> None:
    assert run("generate", "--bundle", autoregressive / "bundle", "--label", "dog", "-o", tmp_path / "dog.png") == 0
    assert Image.open(tmp_path / "dog.png").size == (16, 16)
    prior, config = load_prior(autoregressive / "run")
    generator = smalti.load(autoregressive / "bundle", precision="fp32")
    found = generator.generate(seeds=[3, 4, 5], label=["cat", "dog", "dog"], top_k=0).tokens
    expected = draw_in_turn(next_logits(prior), config.model, [3, 4, 5], [0, 1, 1])  # pyright: ignore[reportArgumentType]
    assert (found == expected).mean() > 0.95  # one different draw changes all later ones
    assert len(np.unique(found)) > 3


def test_its_bundle_holds_a_predictor(autoregressive: Path) -> None:
    bundle = open_bundle(autoregressive / "bundle")
    manifest = bundle.manifest
    assert (manifest.family, manifest.classes) == ("autoregressive", ("cat", "dog"))
    assert set(manifest.components) == {"encoder", "decoder", "predictor"}
    assert {"fp32", "fp16"} <= set(bundle.precisions("predictor"))
    assert manifest.sampler.top_k == 5
    (measure,) = [one for one in manifest.certificate if (one.component, one.precision) == ("predictor", "fp32")]
    assert measure.figures["draws"] >= DRAWS
    assert measure.figures["grid_agreement"] > 0.9


def test_labels_outside_those_it_knows_are_refused(autoregressive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "--bundle", autoregressive / "bundle", "--label", "fox", "-o", "fox.png") == 2
    assert "this bundle knows cat, dog" in capsys.readouterr().err
    with pytest.raises(UsageError, match="label 2"):
        smalti.load(autoregressive / "bundle").generate(label=2)
