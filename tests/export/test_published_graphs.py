"""The graphs of published models, compared with the models."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from smalti.bundle.engines import Profile
from smalti_export.engines.graphs import for_tensorrt
from smalti_export.engines.toolkit import PortableToolkit
from smalti_export.graphs.graph_modules import wrap
from smalti_export.graphs.trace import OPSET, graph_specs, trace
from smalti_train.data.pixels import to_images, to_pixels
from smalti_train.models.absorbing_transformer import AbsorbingTransformerConfig
from smalti_train.models.autoregressive_transformer import AutoregressiveTransformerConfig, Net2NetTransformerConfig
from smalti_train.models.vqgan import VQGAN, VQGANConfig
from smalti_train.runs.config import PriorConfig
from smalti_train.runs.loading import build_prior

CODES, GRID = 24, (4, 6)
LENGTH = GRID[0] * GRID[1]
SMALL = VQGANConfig(
    codes=CODES,
    code_dim=6,
    channels=32,
    multipliers=(1, 2),
    encoder_blocks=1,
    decoder_blocks=1,
    attention_levels=(1,),
)
UNLEASHING = dataclasses.replace(SMALL, probabilistic=True)
TAMING = dataclasses.replace(
    SMALL,
    attention_levels=(0, 1),
    decoder_blocks=2,
    z_channels=5,
    last_activation=True,
    value_range=(-1.0, 1.0),
)
DIALECTS = {
    "unleashing": UNLEASHING,
    "taming-gumbel": dataclasses.replace(TAMING, quantizer="gumbel"),
    "another-range": dataclasses.replace(TAMING, value_range=(-0.5, 2.0)),
}
TWIN = AutoregressiveTransformerConfig(codes=CODES, grid=GRID, classes=3, width=16, layers=2, heads=2)
NET2NET = Net2NetTransformerConfig(CODES, LENGTH, GRID, width=16, layers=2, heads=2, classes=3)
PREDICTORS = {
    "twin": TWIN,
    "twin-without-classes": dataclasses.replace(TWIN, classes=0),
    "net2net": NET2NET,
    "net2net-without-classes": dataclasses.replace(NET2NET, classes=0),
}
ABSORBING = AbsorbingTransformerConfig(codes=CODES, grid=GRID, width=16, layers=2, heads=2)


def scattered(model: nn.Module, deviation: float) -> nn.Module:
    """Set random weights, far from the initial values."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=deviation)
    return model.eval()


def session(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    onnx.checker.check_model(proto, full_check=True)
    assert {node.domain for node in proto.graph.node} == {""}
    assert [(item.domain, item.version) for item in proto.opset_import] == [("", OPSET)]
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def noise(*shape: int, top: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, top, shape)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_vqgans_compute_what_the_models_do(dialect: str) -> None:
    model = VQGAN(DIALECTS[dialect])
    scattered(model, 0.1)
    specs = graph_specs(2, ABSORBING)
    encoder, decoder = (session(trace(role, wrap(role, model), specs[role])) for role in ("encoder", "decoder"))
    for size in ((2, 12, 8), (1, 6, 10)):
        pixels = noise(*size, 3, top=256).astype(np.uint8)
        tokens, embedded = encoder.run(None, {"images": pixels})
        np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), np.ones(size[0]), rtol=1e-5)
        images = to_images(pixels, value_range=model.config.value_range)
        assert tokens.dtype == np.int32
        assert np.array_equal(tokens, model.encode(images).numpy())
        assert len(np.unique(tokens)) > 1
        (found,) = decoder.run(None, {"tokens": tokens})
        with torch.no_grad():
            expected = to_pixels(model.decode(torch.from_numpy(tokens)), model.config.value_range)
        assert found.dtype == np.uint8
        assert found.shape == pixels.shape
        assert np.abs(found.astype(int) - expected).max() <= 1
        assert found.std() > 5


def test_the_encoder_of_nearest_codes_is_built_for_turing(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason='needs TensorRT-RTX: pip install "smalti[engines]"')
    specs = graph_specs(2, ABSORBING)
    model = VQGAN(dataclasses.replace(SMALL, attention_levels=()))
    proto = trace("encoder", wrap("encoder", scattered(model, 0.1).half()), specs["encoder"])
    assert "float32" in {str(numpy_helper.to_array(one).dtype) for one in proto.graph.initializer}  # that of the codes
    (tmp_path / "encoder.onnx").write_bytes(for_tensorrt(proto).SerializeToString())
    profile = {"images": Profile(least=(1, 12, 12, 3), best=(1, 12, 12, 3), most=(1, 12, 12, 3))}
    assert PortableToolkit(("sm_75",)).build(tmp_path / "encoder.onnx", (profile,)).startswith(b"vtrt")


def test_the_absorbing_transformer_answers_for_the_rows_that_are_asked() -> None:
    for classes in (0, 3):
        model = scattered(build_prior(dataclasses.replace(ABSORBING, classes=classes)), 0.3)
        found = session(trace("denoiser", wrap("denoiser", model), graph_specs(2, ABSORBING)["denoiser"]))
        for batch, rows in ((1, 1), (3, 24), (2, 5)):
            tokens, labels = noise(batch, LENGTH, top=CODES + 1), noise(batch, top=classes + 1)
            asked = noise(batch, rows, top=LENGTH)
            feed = {"tokens": tokens, "labels": labels, "rows": asked}
            (logits,) = found.run(None, {name: value.astype(np.int32) for name, value in feed.items()})
            with torch.no_grad():
                whole = model(torch.from_numpy(tokens), torch.from_numpy(labels)).numpy()
            np.testing.assert_allclose(logits, np.take_along_axis(whole, asked[..., None], 1), atol=1e-4)
            assert whole.std() > 0.1


@pytest.fixture(scope="module", params=PREDICTORS)
def predictor(request: pytest.FixtureRequest) -> tuple[onnxruntime.InferenceSession, PriorConfig, np.ndarray]:
    """A predictor's graph, its configuration, and the model's logits [3, L, K] for the grids of ``sequence()``."""
    config = PREDICTORS[request.param]
    model = scattered(build_prior(config), 0.3)
    found = session(trace("predictor", wrap("predictor", model), graph_specs(2, config)["predictor"]))
    tokens = torch.from_numpy(sequence()[:, 1:].astype(np.int64))
    # Without classes, the published start is a separate vector or token 0.
    labels = torch.arange(3) if config.classes else torch.zeros(3, dtype=torch.int64)
    with torch.no_grad():
        expected = model(tokens, labels).numpy()
    assert expected.std() > 0.1
    return found, config, expected


def sequence() -> np.ndarray:
    """int32 [3, L]: the start, then all tokens of a grid except the last."""
    tokens = noise(3, LENGTH, top=CODES).astype(np.int32)
    tokens[:, 0] = CODES
    return tokens


def past(config: PriorConfig) -> np.ndarray:
    assert not isinstance(config, AbsorbingTransformerConfig)
    return np.zeros((4, 3, 2, 0, 8), np.float32)


@pytest.mark.parametrize("length", [1, 2, 9, LENGTH])
def test_a_beginning_is_read_at_once(length: int, predictor) -> None:
    found, config, expected = predictor
    feed = {"tokens": sequence()[:, :length], "labels": np.arange(3, dtype=np.int32), "past": past(config)}
    logits, present = found.run(None, feed)
    np.testing.assert_allclose(logits, expected[:, length - 1], atol=1e-4)
    assert present.shape == (4, 3, 2, length, 8)
    assert logits.dtype == present.dtype == np.float32


@pytest.mark.parametrize("each", [1, 5])
def test_what_was_read_is_not_read_again(each: int, predictor) -> None:
    found, config, expected = predictor
    kept, tokens = past(config), sequence()
    for first in range(0, LENGTH, each):
        new = tokens[:, first : first + each]
        logits, kept = found.run(None, {"tokens": new, "labels": np.arange(3, dtype=np.int32), "past": kept})
        np.testing.assert_allclose(logits, expected[:, first + new.shape[1] - 1], atol=1e-4)
    assert kept.shape[3] == LENGTH


def test_the_predictors_sizes_are_those_of_the_table(predictor) -> None:
    found, config, _ = predictor
    spec = graph_specs(2, config)["predictor"]
    for values, tensors in ((found.get_inputs(), spec.inputs), (found.get_outputs(), spec.outputs)):
        assert [(value.name, tuple(value.shape)) for value in values] == [(one.name, one.shape) for one in tensors]
    assert spec.inputs[2].shape == (4, "n", 2, "p", 8)


def test_half_precision_predicts_nearly_the_same() -> None:
    model = scattered(build_prior(TWIN), 0.3)
    spec = graph_specs(2, TWIN)["predictor"]
    feed = {"tokens": sequence()[:, :7], "labels": np.arange(3, dtype=np.int32), "past": past(TWIN)}
    logits, kept = session(trace("predictor", wrap("predictor", copy.deepcopy(model).half()), spec)).run(None, feed)
    expected = model(torch.from_numpy(feed["tokens"][:, 1:]).long(), torch.arange(3)).detach().numpy()[:, -1]
    assert logits.dtype == kept.dtype == np.float32
    assert 0 < np.abs(logits - expected).max() < 0.02 * expected.std()
