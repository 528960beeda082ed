"""An autoregressive prior that is a table: its graph, and the same answers from NumPy."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class TablePredictor:
    """Logits of the next token: a row for the label, and one for every token before it and the start of the sequence.

    The numbers are multiples of 1/8, so that sums are exact and do not depend on their order.
    """

    def __init__(self, length: int, codes: int, labels: int) -> None:
        generator = np.random.default_rng(0)
        self.length, self.codes = length, codes
        self.rows = generator.integers(-8, 9, (length + 1, codes + 1, codes)).astype(np.float32) / 8
        self.labels = generator.integers(-16, 17, (labels + 1, codes)).astype(np.float32) / 8

    def __call__(self, tokens: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """From tokens int [N, n] and labels int [N] to logits float32 [N, codes], without keeping anything."""
        told = np.concatenate([np.full((len(tokens), 1), self.codes), tokens], axis=1)
        return self.labels[labels] + self.rows[np.arange(told.shape[1]), told].sum(axis=1)

    def graph(self) -> onnx.ModelProto:
        """The graph, as bundles have it: its past is the rows of the tokens read, and their negatives as values."""
        codes = self.codes
        constants = {
            "rows": self.rows.reshape(-1, codes),
            "classes": self.labels,
            "first": np.array(0),
            "one": np.array(1),
            "axis_p": np.array(3),
            "stride": np.array(codes + 1),
            "outer": np.array([0, 2]),
            "sums": np.array([1, 2]),
        }
        steps = [
            ("Shape", ["past"], "past_shape", {}),
            ("Gather", ["past_shape", "axis_p"], "read", {}),
            ("Shape", ["tokens"], "tokens_shape", {}),
            ("Gather", ["tokens_shape", "one"], "new", {}),
            ("Add", ["read", "new"], "total", {}),
            ("Range", ["read", "total", "one"], "places", {}),
            ("Mul", ["places", "stride"], "offsets", {}),
            ("Cast", ["tokens"], "ids", {"to": TensorProto.INT64}),
            ("Add", ["ids", "offsets"], "cells", {}),
            ("Gather", ["rows", "cells"], "found", {"axis": 0}),
            ("Unsqueeze", ["found", "outer"], "keys", {}),
            ("Neg", ["keys"], "values", {}),
            ("Concat", ["keys", "values"], "fresh", {"axis": 0}),
            ("Concat", ["past", "fresh"], "present", {"axis": 3}),
            ("Gather", ["present", "first"], "known", {"axis": 0}),
            ("ReduceSum", ["known", "sums"], "summed", {"keepdims": 0}),
            ("Gather", ["classes", "labels"], "class", {"axis": 0}),
            ("Add", ["summed", "class"], "logits", {}),
        ]
        nodes = [helper.make_node(kind, inputs, [output], **options) for kind, inputs, output, options in steps]
        inputs = [
            helper.make_tensor_value_info("tokens", TensorProto.INT32, ["n", "k"]),
            helper.make_tensor_value_info("labels", TensorProto.INT32, ["n"]),
            helper.make_tensor_value_info("past", TensorProto.FLOAT, [2, "n", 1, "p", codes]),
        ]
        outputs = [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", codes]),
            helper.make_tensor_value_info("present", TensorProto.FLOAT, [2, "n", 1, "t", codes]),
        ]
        stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
        graph = helper.make_graph(nodes, "predictor", inputs, outputs, stored)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def autoregressive_bundle(absorbing: Path, path: Path) -> TablePredictor:
    """Write to ``path`` the bundle in ``absorbing`` with a table that draws one token after the other as its prior."""
    shutil.copytree(absorbing, path)
    manifest = json.loads((path / "manifest.json").read_text())
    latent = manifest["latent"]
    table = TablePredictor(latent["grid"][0] * latent["grid"][1], latent["codes"], len(manifest["classes"]))
    content = table.graph().SerializeToString()
    (path / "predictor.fp32.onnx").write_bytes(content)
    file = {"file": "predictor.fp32.onnx", "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    past = {"dtype": "float32", "shape": [2, "n", 1, "p", latent["codes"]]}
    manifest["components"]["predictor"] = {
        "inputs": [
            {"name": "tokens", "dtype": "int32", "shape": ["n", "k"]},
            {"name": "labels", "dtype": "int32", "shape": ["n"]},
            {"name": "past", **past},
        ],
        "outputs": [
            {"name": "logits", "dtype": "float32", "shape": ["n", latent["codes"]]},
            {"name": "present", **past, "shape": [2, "n", 1, "p+k", latent["codes"]]},
        ],
        "variants": [{"precision": "fp32", "graph": file, "opset": 18}],
    }
    del manifest["components"]["denoiser"]
    exact = {"logit_error": 0.0}
    for precision in ("fp32", "fp16"):  # of which a test adds the second
        measure = {"component": "predictor", "precision": precision, "provider": "cpu"}
        manifest["certificate"].append({**measure, "figures": exact, "tolerances": exact})
    manifest.update(family="autoregressive", name="tiny-ar")
    (path / "manifest.json").write_text(json.dumps(manifest))
    return table
