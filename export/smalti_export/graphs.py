"""Models as ONNX graphs. Wrappers own every change tracing needs; one table gives names, types and free sizes.

Images enter and leave as uint8 NHWC and tokens as int32, so that a runtime needs no knowledge of ranges and layouts.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn

from smalti.manifest import Role, TensorSpec
from smalti_train.models.edge_autoencoder import EdgeAutoencoder
from smalti_train.models.hourglass_prior import HourglassPrior

OPSET = 20
"""Taken by every runtime we target: attention is spelt out, and decoders of TensorRT-RTX need no more."""


@dataclass(frozen=True)
class GraphSpec:
    """Inputs and outputs of a component, the same in every precision."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def graph_specs(factor: int, codes: int, length: int) -> dict[Role, GraphSpec]:
    """Give the signature of every component; sizes given by name are free."""

    def spec(name: str, dtype: str, *shape: str | int) -> TensorSpec:
        return TensorSpec(name=name, dtype=dtype, shape=shape)  # pyright: ignore[reportArgumentType]

    images = spec("images", "uint8", "n", f"{factor}*h", f"{factor}*w", 3)
    tokens = spec("tokens", "int32", "n", "h", "w")
    grids = spec("tokens", "int32", "n", length)
    denoiser = (grids, spec("labels", "int32", "n"), spec("rows", "int32", "n", "r"))
    return {
        "encoder": GraphSpec((images,), (tokens,)),
        "decoder": GraphSpec((tokens,), (images,)),
        "denoiser": GraphSpec(denoiser, (spec("logits", "float32", "n", "r", codes),)),
    }


class EncoderGraph(nn.Module):
    """uint8 images [N, H, W, 3] to int32 tokens [N, h, w]."""

    def __init__(self, model: EdgeAutoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Encode."""
        x = images.to(self.model.quantizer.codebook.dtype).permute(0, 3, 1, 2) / 127.5 - 1
        features = self.model.encoder(x).permute(0, 2, 3, 1)
        # The released codes already have unit length (see smalti_train.released).
        return (features @ self.model.quantizer.codebook.T).argmax(-1).to(torch.int32)


class DecoderGraph(nn.Module):
    """int32 tokens [N, h, w] to uint8 images [N, H, W, 3]."""

    def __init__(self, model: EdgeAutoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """Decode."""
        z = nn.functional.embedding(tokens, self.model.quantizer.codebook).permute(0, 3, 1, 2)
        x = self.model.decoder(z).float().clamp(-1, 1)  # pixels are made in fp32: fp16 has too few digits near 255
        return ((x + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


class DenoiserGraph(nn.Module):
    """int32 tokens [N, L], labels [N] and rows [N, R] to fp32 logits [N, R, K]."""

    def __init__(self, model: HourglassPrior) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        """Predict."""
        return self.model(tokens, labels, rows.long()).float()


def wrap(role: Role, model: EdgeAutoencoder | HourglassPrior) -> nn.Module:
    """Give the module whose forward is the component's graph."""
    if isinstance(model, HourglassPrior):
        return DenoiserGraph(model).eval()
    return (EncoderGraph(model) if role == "encoder" else DecoderGraph(model)).eval()


def trace(role: Role, graph: nn.Module, spec: GraphSpec, grid: tuple[int, int]) -> onnx.ModelProto:
    """Export a wrapped model to ONNX with free sizes as the spec names them; weights stay inside the proto."""
    dim = torch.export.Dim
    height, width = grid
    n = dim("n", min=1)
    if role == "denoiser":
        tokens = torch.zeros(2, height * width, dtype=torch.int32)
        inputs = (tokens, torch.zeros(2, dtype=torch.int32), torch.zeros(2, 3, dtype=torch.int32))
        free = {"tokens": {0: n}, "labels": {0: n}, "rows": {0: n, 1: dim("r", min=1)}}
    elif role == "decoder":
        # Unequal sizes that are no divisors of each other, so that no axis is mistaken for another.
        inputs = (torch.zeros(2, 5, 7, dtype=torch.int32),)
        free = {"tokens": {0: n, 1: dim("h", min=1), 2: dim("w", min=1)}}
    else:
        images = next(tensor for tensor in spec.inputs if tensor.name == "images")
        factor = int(str(images.shape[1]).split("*")[0])
        inputs = (torch.zeros(2, 5 * factor, 7 * factor, 3, dtype=torch.uint8),)
        free = {"images": {0: n, 1: factor * dim("h", min=1), 2: factor * dim("w", min=1)}}
    with _quiet():
        program = torch.onnx.export(
            graph,
            inputs,
            dynamo=True,
            dynamic_shapes=free,
            opset_version=OPSET,
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    strip_traces(proto)
    name_sizes(proto, spec)
    return proto


def name_sizes(proto: onnx.ModelProto, spec: GraphSpec) -> None:
    """Give free sizes the names of the spec; the tracer makes up its own for those it had to work out."""
    for value, tensor in zip((*proto.graph.input, *proto.graph.output), (*spec.inputs, *spec.outputs), strict=True):
        for dim, size in zip(value.type.tensor_type.shape.dim, tensor.shape, strict=True):
            if isinstance(size, str):
                dim.dim_param = size


def strip_traces(proto: onnx.ModelProto) -> None:
    """Remove what the tracer noted about source files: it names the machine and doubles the size of the graph."""
    del proto.metadata_props[:]
    proto.doc_string = ""
    proto.graph.doc_string = ""
    del proto.graph.metadata_props[:]
    del proto.graph.value_info[:]
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for tensor in (*proto.graph.initializer, *proto.graph.input, *proto.graph.output):
        del tensor.metadata_props[:]
        tensor.doc_string = ""


@contextlib.contextmanager
def _quiet():
    """Keep the tracer's notes on packages that smalti does not use off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
