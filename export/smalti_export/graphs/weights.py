"""Weights that several graphs share: a safetensors file that all of them read as external data.

The fp32 and the fp16 graph share fp16 weights. These are stored under their torch names, so that training can start
from the same file. Int8 graphs of decoders for several sizes share their 8-bit weights.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save
from torch import Tensor, nn

from smalti_export.graphs.trace import remade
from smalti_train.data.tensors import from_numpy
from smalti_train.runs.bundle_weights import TRANSPOSED

LARGE = 2**12
"""Fewest bytes of a tensor for which it is worth to be shared, or to be stored as fp16."""


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
            half = _exact_half(initializer)
            if half is not None and (key := _key(half)) in names:
                found[initializer.name] = names[key]
    return found


def _exact_half(tensor: TensorProto) -> NDArray[np.float16] | None:
    """A float tensor's values as fp16; None where that would round them."""
    value = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):  # a constant may be too large for fp16; weights are not
        half = value.astype(np.float16)
    return half if np.array_equal(half, value) else None


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
    return content, _places(content, used)


def _places(content: bytes, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Where a safetensors file has the data of its tensors: (offset, length)."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    ends = {name: header[name]["data_offsets"] for name in names}
    return {name: (8 + size + first, last - first) for name, (first, last) in ends.items()}


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
            casts.append(_widening(name, initializer.name))
        external.append(_outside(name, TensorProto.FLOAT16, initializer.dims, file, found[initializer.name]))
    # Build a new proto: deleting from the old one would not free its gigabytes of weights.
    return remade(proto, [*casts, *source.node], inline + external)


def place(proto: onnx.ModelProto, places: dict[str, tuple[int, int]]) -> None:
    """Set the offset and length of every external tensor from the ``places`` of :func:`pack`."""
    for tensor in proto.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            offset, length = places[tensor.external_data[1].value]
            tensor.external_data[1].value = str(offset)
            tensor.external_data.add(key="length", value=str(length))


def halved(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with large fp32 constants stored as fp16, where that holds them exactly; a Cast widens them.

    Runtimes fold the casts when they load the graph.
    """
    constants: list[TensorProto] = []
    casts: list[onnx.NodeProto] = []
    for initializer in proto.graph.initializer:
        constant = initializer
        if initializer.data_type == TensorProto.FLOAT and 4 * math.prod(initializer.dims) >= LARGE:
            half = _exact_half(initializer)
            if half is not None:
                constant = numpy_helper.from_array(half, f"{initializer.name}.fp16")
                casts.append(_widening(constant.name, initializer.name))
        constants.append(constant)
    return remade(proto, [*casts, *proto.graph.node], constants)


def share(graphs: dict[str, bytes], file: str) -> tuple[dict[str, bytes], bytes]:
    """Move the large 8-bit constants that several ``graphs`` have, by name, into one safetensors file.

    Returns the graphs, which read them from ``file``, and its bytes; these are empty when there is nothing to share.
    """
    protos = {name: onnx.ModelProto.FromString(graph) for name, graph in graphs.items()}
    keys = {name: [_content(tensor) for tensor in proto.graph.initializer] for name, proto in protos.items()}
    owners = Counter(key for found in keys.values() for key in {*found} - {""})
    stored: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for name, proto in protos.items():
        for key, tensor in zip(keys[name], proto.graph.initializer):
            if owners[key] > 1 and key not in names:
                names[key] = f"{tensor.name}.{len(stored)}"  # names alone may differ in their values
                stored[names[key]] = from_numpy(numpy_helper.to_array(tensor).copy())
    if not stored:
        return graphs, b""
    content = save(stored)
    places = _places(content, stored)
    found: dict[str, bytes] = {}
    for name, proto in protos.items():
        shared = [
            _outside(tensor.name, tensor.data_type, tensor.dims, file, names[key]) if key in names else tensor
            for key, tensor in zip(keys[name], proto.graph.initializer)
        ]
        made = remade(proto, proto.graph.node, shared)
        place(made, places)
        found[name] = made.SerializeToString(deterministic=True)
    return found, content


def _content(tensor: TensorProto) -> str:
    """What tells the values of a large 8-bit tensor from those of others; empty for tensors that are not shared."""
    if tensor.data_type != TensorProto.INT8 or math.prod(tensor.dims) < LARGE:
        return ""
    return f"{list(tensor.dims)}{hashlib.sha256(numpy_helper.to_array(tensor).tobytes()).hexdigest()}"


def _widening(half: str, name: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [half], [name], f"{half}.cast", to=TensorProto.FLOAT)


def _outside(name: str, kind: int, dims: Sequence[int], file: str, stored: str) -> TensorProto:
    """A tensor whose values lie in ``file`` under the name ``stored``; :func:`place` sets where."""
    tensor = TensorProto(name=name, data_type=kind, dims=dims)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=file)
    tensor.external_data.add(key="offset", value=stored)
    return tensor
