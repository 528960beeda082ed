"""The graph of a SUNDAE prior, compared with the model."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from smalti.errors import UsageError
from smalti_export.graphs.graph_modules import wrap
from smalti_export.graphs.trace import OPSET, graph_specs, trace
from smalti_export.graphs.weights import name_by_content, round_to_fp16
from smalti_export.parity.certificate import torch_run
from smalti_train.models.pixels import PixelCodes, PixelCodesConfig
from smalti_train.models.sundae_transformer import SundaeTransformer, SundaeTransformerConfig
from smalti_train.runs.bundle_weights import TRANSPOSED

OURS = SundaeTransformerConfig(codes=24, grid=(4, 8), classes=3, width=20, heads=2, head_dim=8, depth=(1, 1, 0))
LENGTH = 32
VARIANTS = {
    "ours": OURS,
    "published": dataclasses.replace(OURS, depth=(0, 1, 1), classes=0, published=True),
    "nested, naive, raster": dataclasses.replace(
        OURS, depth=(0, (1, 1, 0), 0), shorten=(1, 2), resampling="naive", attention_resampling=False, rotary="1d"
    ),
}


def scattered(config: SundaeTransformerConfig) -> SundaeTransformer:
    torch.manual_seed(0)
    model = SundaeTransformer(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def noise(*shape: int, top: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, top, shape).astype(np.int32)


def feed(config: SundaeTransformerConfig, batch: int, rows: int) -> dict[str, np.ndarray]:
    return {
        "tokens": noise(batch, LENGTH, top=config.codes),
        "labels": noise(batch, top=config.classes + 1),
        "rows": noise(batch, rows, top=LENGTH),
    }


def session(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    onnx.checker.check_model(proto, full_check=True)
    assert {node.domain for node in proto.graph.node} == {""}
    assert [(item.domain, item.version) for item in proto.opset_import] == [("", OPSET)]
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("variant", ["ours", "published"])  # the third variant has the parts of the first
def test_the_graph_computes_what_the_model_does(variant: str) -> None:
    config = VARIANTS[variant]
    model, spec = scattered(config), graph_specs(2, config)["denoiser"]
    round_to_fp16(model)  # tensors are matched by their content in fp16
    proto = trace("denoiser", wrap("denoiser", model), spec)
    named = name_by_content(proto, dict(model.state_dict())).values()
    assert {name.removesuffix(TRANSPOSED) for name in named} == set(model.state_dict())
    found = session(proto)
    for values, tensors in ((found.get_inputs(), spec.inputs), (found.get_outputs(), spec.outputs)):
        assert [(value.name, tuple(value.shape)) for value in values] == [(one.name, one.shape) for one in tensors]
    for batch, rows in ((1, 1), (3, LENGTH), (2, 5)):
        asked = feed(config, batch, rows)
        (logits,) = found.run(None, asked)
        tokens, labels = (torch.from_numpy(asked[name].astype(np.int64)) for name in ("tokens", "labels"))
        with torch.no_grad():
            whole = model(tokens, labels).numpy()
        assert logits.dtype == np.float32
        expected = np.take_along_axis(whole, asked["rows"][..., None].astype(np.int64), 1)
        np.testing.assert_allclose(logits, expected, atol=1e-4)
        assert whole.std() > 0.1


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_predicts_nearly_the_same(variant: str) -> None:
    config = VARIANTS[variant]
    model = scattered(config)
    round_to_fp16(model)
    asked = feed(config, 2, LENGTH)
    run, half = (torch_run(wrap("denoiser", one)) for one in (model, copy.deepcopy(model).half()))
    expected, found = run(asked), half(asked)
    assert found.dtype == np.float32
    # Angles must stay in fp32, or they would lose as many digits as everything else.
    assert 0 < np.abs(found - expected).max() < 0.02 * expected.std()


def test_what_has_no_graph_is_said() -> None:
    with pytest.raises(UsageError, match='give it a "grid"'):
        graph_specs(2, dataclasses.replace(OURS, grid=None))
    with pytest.raises(UsageError, match="pixels are tokens already: there is no graph of their decoder"):
        wrap("decoder", PixelCodes(PixelCodesConfig()))
