"""The graph of a multinomial prior, compared with the model."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from smalti_export.graphs.graph_modules import wrap
from smalti_export.graphs.trace import OPSET, graph_specs, trace
from smalti_export.graphs.weights import name_by_content, round_to_fp16
from smalti_export.parity.certificate import torch_run
from smalti_train.models.multinomial_unet import MultinomialUNet, MultinomialUNetConfig
from smalti_train.runs.bundle_weights import TRANSPOSED

OURS = MultinomialUNetConfig(codes=24, grid=(4, 8), classes=3, width=16, multipliers=(1, 2), blocks=1, steps=100)
LENGTH = 32
VARIANTS = {
    "ours": OURS,
    "printed": dataclasses.replace(OURS, classes=0, attention="full", parameterisation="x0_residual"),
}


def scattered(config: MultinomialUNetConfig) -> MultinomialUNet:
    torch.manual_seed(0)
    model = MultinomialUNet(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.15)  # larger weights would overflow fp16 in attention
    return model.eval()


def feed(config: MultinomialUNetConfig, batch: int, rows: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(batch)
    tops = {"tokens": config.codes, "labels": config.classes + 1, "times": config.steps, "rows": LENGTH}
    shapes = {"tokens": (batch, LENGTH), "labels": (batch,), "times": (batch,), "rows": (batch, rows)}
    return {name: generator.integers(0, top, shapes[name]).astype(np.int32) for name, top in tops.items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_graph_computes_what_the_model_does(variant: str) -> None:
    config = VARIANTS[variant]
    model, spec = scattered(config), graph_specs(2, config)["denoiser"]
    round_to_fp16(model)  # tensors are matched by their content in fp16
    assert [one.name for one in spec.inputs] == ["tokens", "labels", "times", "rows"]
    proto = trace("denoiser", wrap("denoiser", model), spec)
    onnx.checker.check_model(proto, full_check=True)
    assert [(item.domain, item.version) for item in proto.opset_import] == [("", OPSET)]
    named = name_by_content(proto, dict(model.state_dict())).values()
    assert {name.removesuffix(TRANSPOSED) for name in named} == set(model.state_dict())
    found = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    taken = {value.name for value in found.get_inputs()}
    assert taken >= {"tokens", "times", "rows"}
    for batch, rows in ((1, 1), (3, LENGTH), (2, 5)):
        asked = feed(config, batch, rows)
        logits = np.asarray(found.run(None, {name: value for name, value in asked.items() if name in taken})[0])
        tokens, labels, times = (
            torch.from_numpy(asked[name].astype(np.int64)) for name in ("tokens", "labels", "times")
        )
        with torch.no_grad():
            whole = model(tokens, labels, times).numpy()
        expected = np.take_along_axis(whole, asked["rows"][..., None].astype(np.int64), 1)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected, atol=1e-3 * whole.std())


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_predicts_nearly_the_same(variant: str) -> None:
    config = VARIANTS[variant]
    model = scattered(config)
    round_to_fp16(model)
    asked = feed(config, 2, LENGTH)
    run, half = (torch_run(wrap("denoiser", one)) for one in (model, copy.deepcopy(model).half()))
    expected, found = run(asked), half(asked)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 0.1 * expected.std()
