"""One set of fp16 weights for the fp32 and the fp16 graph: a safetensors file that both read as external data.

Tensors are stored under their torch names, so that training can start from the same file.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save
from torch import Tensor, nn

from smalti_export.graphs.trace import remade
from smalti_train.runs.bundle_weights import TRANSPOSED


def round_to_fp16(model: nn.Module) -> None:
    """Round every float of a model to fp16, in place, so that graphs compute with the stored weights."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(tensor.half().float())


def name_by_content(proto: onnx.ModelProto, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Map each initializer of a graph to the model tensor that it holds: graph name to torch name.

    Tracing renames tensors that it transposes, so they are matched by their content, which fp16 holds exactly. Names of
    transposed tensors end in ``^T``. Initializers that are no tensor of the model (axes, constants) are left out.
    """
    names: dict[str, str] = {}
    for name, tensor in tensors.items():
        value = tensor.half().numpy()
        names.setdefault(_key(value), name)
        if value.ndim == 2:
            names.setdefault(_key(np.ascontiguousarray(value.T)), name + TRANSPOSED)
    found: dict[str, str] = {}
    for initializer in proto.graph.initializer:
        if initializer.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16):
            value = numpy_helper.to_array(initializer)
            with np.errstate(over="ignore"):  # a constant may be too large for fp16; weights are not
                half = value.astype(np.float16)
            if (key := _key(half)) in names and np.array_equal(half, value):
                found[initializer.name] = names[key]
    return found


def _key(value: NDArray[np.float16]) -> str:
    shape = tuple(side for side in value.shape if side != 1)  # tracing may add axes of size 1 to norms
    return f"{shape}{hashlib.sha256(value.tobytes()).hexdigest()}"


def pack(
    tensors: dict[str, Tensor], used: set[str], kept: dict[str, Tensor]
) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Build a safetensors file with the ``used`` tensors as fp16 and the ``kept`` tensors unchanged.

    Returns its bytes and, for each used name, the place of its data: (offset, length).
    """
    stored: dict[str, Tensor] = dict(kept)
    for name in used:
        tensor = tensors[name.removesuffix(TRANSPOSED)].half()
        stored[name] = (tensor.T if name.endswith(TRANSPOSED) else tensor).contiguous()
    content = save(stored)
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    places = {name: header[name]["data_offsets"] for name in used}
    return content, {name: (8 + size + first, last - first) for name, (first, last) in places.items()}


def externalise(proto: onnx.ModelProto, found: dict[str, str], file: str) -> onnx.ModelProto:
    """The same graph with the initializers in ``found`` read from ``file``; a Cast widens those used as fp32.

    Runtimes fold the casts when they load the graph, so nothing is widened twice. Until :func:`place` sets the real
    offsets, each external tensor's offset holds its torch name.
    """
    source = proto.graph
    inline = [initializer for initializer in source.initializer if initializer.name not in found]
    external: list[TensorProto] = []
    casts: list[onnx.NodeProto] = []
    for initializer in source.initializer:
        if initializer.name not in found:
            continue
        name = initializer.name
        if initializer.data_type == TensorProto.FLOAT:
            name = f"{initializer.name}.fp16"
            casts.append(helper.make_node("Cast", [name], [initializer.name], f"{name}.cast", to=TensorProto.FLOAT))
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT16, dims=initializer.dims)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=file)
        tensor.external_data.add(key="offset", value=found[initializer.name])
        external.append(tensor)
    # Build a new proto: deleting from the old one would not free its gigabytes of weights.
    return remade(proto, [*casts, *source.node], inline + external)


def place(proto: onnx.ModelProto, places: dict[str, tuple[int, int]]) -> None:
    """Set the offset and length of every external tensor from the ``places`` of :func:`pack`."""
    for tensor in proto.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            offset, length = places[tensor.external_data[1].value]
            tensor.external_data[1].value = str(offset)
            tensor.external_data.add(key="length", value=str(length))
