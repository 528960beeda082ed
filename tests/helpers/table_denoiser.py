"""SUNDAE and multinomial priors that are tables: graphs, the same answers from NumPy, and bundles around them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from smalti.bundle.manifest import (
    SCHEMA_VERSION,
    Component,
    FileRecord,
    Latent,
    Manifest,
    Measure,
    Noise,
    Provenance,
    Role,
    SamplerDefaults,
    TensorSpec,
    Variant,
    own_resolution,
)
from smalti.bundle.manifest_file import encode

FACTOR = 2
"""Pixels per token along each axis, where there is a decoder."""
LEVEL = 40
"""Red of token t is LEVEL * t there."""


class TableDenoiser:
    """Logits of a position: a row for the label, one for every token of the grid, and one for the token that is there.

    The last pulls towards that token, so that grids come to rest. The numbers are multiples of 1/8, so that sums are
    exact and do not depend on their order.
    """

    def __init__(self, grid: tuple[int, int], codes: int, labels: int) -> None:
        generator = np.random.default_rng(0)
        self.grid, self.length, self.codes = grid, grid[0] * grid[1], codes
        self.every = generator.integers(-4, 5, (self.length, codes, codes)).astype(np.float32) / 8
        self.own = generator.integers(-8, 9, (self.length, codes, codes)).astype(np.float32) / 8
        self.own += 7 * np.eye(codes, dtype=np.float32)
        self.labels = generator.integers(-16, 17, (labels + 1, codes)).astype(np.float32) / 8

    def __call__(self, tokens: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """From tokens int [N, L], labels int [N] and rows int [N, R] to logits float32 [N, R, codes]."""
        place = np.arange(self.length)
        everywhere = self.every[place, tokens].sum(axis=1) + self.labels[labels]
        here = np.take_along_axis(self.own[place, tokens], rows[..., None], axis=1)
        return everywhere[:, None] + here

    @property
    def noise(self) -> Noise | None:
        """What a bundle says of the times that the prior knows; None where it knows none."""
        return None

    def graph(self) -> onnx.ModelProto:
        """The graph, as bundles have it."""
        codes = self.codes
        constants = {
            "every": self.every.reshape(-1, codes),
            "own": self.own.reshape(-1, codes),
            "classes": self.labels,
            "offsets": np.arange(self.length) * codes,
            "one": np.array([1]),
            "last": np.array([2]),
        }
        steps = [
            ("Cast", ["tokens"], "ids", {"to": TensorProto.INT64}),
            ("Add", ["ids", "offsets"], "cells", {}),
            ("Gather", ["every", "cells"], "all", {"axis": 0}),
            ("ReduceSum", ["all", "one"], "summed", {"keepdims": 1}),
            ("Gather", ["own", "cells"], "stays", {"axis": 0}),
            ("Cast", ["rows"], "places", {"to": TensorProto.INT64}),
            ("Unsqueeze", ["places", "last"], "index", {}),
            ("GatherND", ["stays", "index"], "here", {"batch_dims": 1}),
            ("Gather", ["classes", "labels"], "class", {"axis": 0}),
            ("Unsqueeze", ["class", "one"], "under", {}),
            ("Add", ["summed", "under"], "everywhere", {}),
            ("Add", ["everywhere", "here"], "logits", {}),
        ]
        inputs = [("tokens", TensorProto.INT32, ["n", self.length]), ("labels", TensorProto.INT32, ["n"])]
        inputs.append(("rows", TensorProto.INT32, ["n", "r"]))
        return _model(steps, constants, inputs, ("logits", TensorProto.FLOAT, ["n", "r", codes]))

    def bundle(self, path: Path, *, grey: bool = False, classes: tuple[str, ...] = ("a", "b"), **sampler) -> Path:
        """Write a bundle of this prior: with a decoder and an encoder of FACTOR, or with tokens that are grey levels.

        ``sampler`` are its defaults.
        """
        path.mkdir(parents=True)
        graphs: dict[Role, onnx.ModelProto] = {"denoiser": self.graph()}
        if not grey:
            graphs |= {"decoder": self._decoder(), "encoder": self._encoder()}
        latent = Latent(
            grid=self.grid,
            codes=self.codes,
            factor=1 if grey else FACTOR,
            halo=0,
            pixels="grey" if grey else None,
        )
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            name="tiny-sundae" if self.noise is None else "tiny-multinomial",
            family="sundae" if self.noise is None else "multinomial",
            licence="Apache-2.0",
            data_licences=(),
            provenance=Provenance(data="random numbers"),
            latent=latent,
            resolutions=(own_resolution(latent),),
            classes=classes,
            sampler=SamplerDefaults(**{"steps": 24, "temperature": 1.0, "min_steps": 6, **sampler}),
            noise=self.noise,
            components={role: _component(path, role, graph) for role, graph in graphs.items()},
            weights=(),
            certificate=tuple(map(_exact, graphs)),
        )
        (path / "manifest.json").write_bytes(encode(manifest))
        return path

    def _decoder(self) -> onnx.ModelProto:
        """Flat patches: red is LEVEL * token, green and blue are their own for each token."""
        palette = np.random.default_rng(1).integers(0, 256, (self.codes, 3)).astype(np.uint8)
        palette[:, 0] = LEVEL * np.arange(self.codes)
        constants = {"palette": palette, "scales": np.array([1, FACTOR, FACTOR, 1], np.float32)}
        enlarge = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        steps = [
            ("Gather", ["palette", "tokens"], "small", {"axis": 0}),
            ("Resize", ["small", "", "scales"], "images", enlarge),
        ]
        tokens = [("tokens", TensorProto.INT32, ["n", "h", "w"])]
        return _model(steps, constants, tokens, ("images", TensorProto.UINT8, ["n", f"{FACTOR}*h", f"{FACTOR}*w", 3]))

    def _encoder(self) -> onnx.ModelProto:
        """The token whose red is nearest to that of the patch's first pixel."""
        constants = {
            "starts": np.array([0, 0, 0]),
            "ends": np.array([2**31, 2**31, 1]),
            "axes": np.array([1, 2, 3]),
            "strides": np.array([FACTOR, FACTOR, 1]),
            "last": np.array([3]),
            "half": np.array(LEVEL // 2, np.int32),
            "level": np.array(LEVEL, np.int32),
            "most": np.array(self.codes - 1, np.int32),
        }
        steps = [
            ("Slice", ["images", "starts", "ends", "axes", "strides"], "picked", {}),
            ("Squeeze", ["picked", "last"], "red", {}),
            ("Cast", ["red"], "value", {"to": TensorProto.INT32}),
            ("Add", ["value", "half"], "raised", {}),
            ("Div", ["raised", "level"], "nearest", {}),
            ("Min", ["nearest", "most"], "tokens", {}),
        ]
        images = [("images", TensorProto.UINT8, ["n", f"{FACTOR}*h", f"{FACTOR}*w", 3])]
        return _model(steps, constants, images, ("tokens", TensorProto.INT32, ["n", "h", "w"]))


def _exact(role: Role) -> Measure:
    figures = {"token_agreement": 1.0}
    return Measure(component=role, precision="fp32", provider="cpu", figures=figures, tolerances=figures)


class TimedTableDenoiser(TableDenoiser):
    """The same prior, pulled less towards the token that is there and more by a row for the time, 0 .. steps - 1."""

    def __init__(self, grid: tuple[int, int], codes: int, labels: int, steps: int) -> None:
        super().__init__(grid, codes, labels)
        self.own -= 6 * np.eye(codes, dtype=np.float32)
        self.times = np.random.default_rng(2).integers(-8, 9, (steps, codes)).astype(np.float32) / 8

    @property
    def noise(self) -> Noise:
        return Noise(steps=len(self.times), schedule="printed")

    def at(self, time: int):
        """The denoiser of a time."""
        return lambda tokens, labels, rows: self(tokens, labels, rows) + self.times[time]

    def graph(self) -> onnx.ModelProto:
        model = super().graph()
        graph = model.graph
        graph.node[-1].output[0] = "timeless"
        graph.initializer.append(numpy_helper.from_array(self.times, "moments"))
        graph.node.extend(
            [
                helper.make_node("Gather", ["moments", "times"], ["moment"], axis=0),
                helper.make_node("Unsqueeze", ["moment", "one"], ["now"]),
                helper.make_node("Add", ["timeless", "now"], ["logits"]),
            ]
        )
        graph.input.insert(2, helper.make_tensor_value_info("times", TensorProto.INT32, ["n"]))
        return model


def _model(steps, constants, inputs, output) -> onnx.ModelProto:
    nodes = [helper.make_node(kind, names, [result], **options) for kind, names, result, options in steps]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    information = [helper.make_tensor_value_info(*spec) for spec in (*inputs, output)]
    graph = helper.make_graph(nodes, "table", information[:-1], information[-1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _component(path: Path, role: Role, model: onnx.ModelProto) -> Component:
    content = model.SerializeToString()
    name = f"{role}.fp32.onnx"
    (path / name).write_bytes(content)
    file = FileRecord(file=name, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    inputs, outputs = (tuple(map(_spec, values)) for values in (model.graph.input, model.graph.output))
    return Component(inputs=inputs, outputs=outputs, variants=(Variant(precision="fp32", graph=file, opset=18),))


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kinds = {TensorProto.INT32: "int32", TensorProto.UINT8: "uint8", TensorProto.FLOAT: "float32"}
    shape = tuple(side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim)
    return TensorSpec(name=value.name, dtype=kinds[value.type.tensor_type.elem_type], shape=shape)
