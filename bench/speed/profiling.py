"""Seconds of every node of a graph, from ONNX Runtime's own profiler.

ONNX Runtime rewrites a graph before it runs it. So the rewritten graph is written to a file first, its nodes get names
of their own, and it is run as it is: what is timed is then what can be counted. Times of a node are the mean of the
fastest fifth of many runs, because other programs on the machine can only add to a time. The profiler cuts times to
whole microseconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from graph_shapes import Tensor
from numpy.typing import NDArray
from onnx import helper

from smalti.backends.onnxruntime_options import CPU, onnxruntime, open_session
from smalti.bundle.manifest import Precision, Role
from smalti.bundle.reader import Bundle
from smalti.errors import UsageError

FASTEST = 0.2
"""Share of the runs whose mean counts."""
SPINNING = "session.intra_op.allow_spinning"
Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Prepared:
    """A component as ONNX Runtime runs it."""

    path: Path
    """The rewritten graph, every node named."""
    model: onnx.ModelProto
    session: Any
    """The component's own session, with nothing profiled."""
    spinning: str
    """"1" where its workers spin."""


@dataclass(frozen=True)
class Profile:
    """What a profiled graph took."""

    seconds: dict[str, float]
    """Of each node by name: the mean of the fastest runs. A node that never ran is absent."""
    tensors: dict[str, Tensor]
    """Results of nodes, as they were."""
    whole: float = 0.0
    """Seconds of a run of the session beside it, likewise; 0 without one."""


def fastest(seconds: list[float]) -> float:
    """Mean of the fastest fifth, at least one."""
    kept = sorted(seconds)[: max(1, int(len(seconds) * FASTEST))]
    return sum(kept) / len(kept)


def prepared(
    bundle: Bundle, role: Role, precision: Precision, threads: int, sizes: Mapping[str, int], folder: Path
) -> Prepared:
    """Open a component as the runtime does, for inputs of fixed sizes, and keep the rewritten graph in ``folder``.

    Raises BundleError when ONNX Runtime refuses the graph.
    """
    path, told = folder / f"{role}.{precision}.{threads}.onnx", dict[str, str]()

    def prepare(options: Any) -> None:
        options.optimized_model_filepath = str(path)
        for name, size in sizes.items():
            options.add_free_dimension_override_by_name(name, size)
        told["spinning"] = options.get_session_config_entry(SPINNING)

    session = open_session(bundle, role, precision, threads, [CPU], prepare=prepare)
    model = onnx.load(str(path))
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}"
    path.write_bytes(model.SerializeToString())
    return Prepared(path, model, session, told["spinning"])


def profiled(
    path: Path, feed: Feed, threads: int, runs: int, spinning: str = "0", beside: Any | None = None
) -> Profile:
    """Run a graph as it is, and time its nodes, whose names must differ.

    A session ``beside`` takes turns with it, and is timed as a whole, without a profiler.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry(SPINNING, spinning)
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_suffix(""))
    session = ort.InferenceSession(str(path), options, providers=[CPU])
    session.run(None, dict(feed))
    whole: list[float] = []
    for turn in range(runs + 1):
        if beside is not None:
            started = time.perf_counter()
            beside.run(None, dict(feed))
            whole += [time.perf_counter() - started] if turn else []
        session.run(None, dict(feed))
    log = Path(session.end_profiling())
    events = json.loads(log.read_text())
    log.unlink()
    nodes = {node.name: node for node in onnx.load(str(path), load_external_data=False).graph.node}
    return replace(read_events(events, nodes), whole=fastest(whole) if whole else 0.0)


def read_events(events: list[dict[str, Any]], nodes: Mapping[str, onnx.NodeProto]) -> Profile:
    """Read a profile of ONNX Runtime; the first run of each node does not count."""
    seconds: dict[str, list[float]] = {}
    tensors: dict[str, Tensor] = {}
    for event in events:
        name = event.get("name", "").removesuffix("_kernel_time")
        if event.get("cat") != "Node" or name == event["name"] or name not in nodes:
            continue
        if name not in seconds:
            made = (one for one in nodes[name].output if one)
            tensors |= dict(zip(made, map(_tensor, event["args"].get("output_type_shape", []))))
        seconds.setdefault(name, []).append(event["dur"] / 1e6)
    return Profile({name: fastest(times[1:] or times) for name, times in seconds.items()}, tensors)


def _tensor(entry: dict[str, list[int]]) -> Tensor:
    """Read such as {"float": [1, 256, 512]}."""
    ((kind, shape),) = entry.items()
    numpy_kind = {"float": "float32", "double": "float64"}.get(kind, kind)
    return Tensor(tuple(shape), helper.np_dtype_to_tensor_dtype(np.dtype(numpy_kind)))


def free_sides(bundle: Bundle, role: Role, batch: int, rows: int, side: int = 0) -> dict[str, int]:
    """Lengths of the free sides of a component's inputs: ``n``, ``r``, and the grid's ``h`` and ``w``.

    ``side`` is the grid's, by default the bundle's own.
    """
    height, width = bundle.manifest.latent.grid
    return {"n": batch, "r": rows, "h": side or height, "w": side or width}


def random_feed(bundle: Bundle, role: Role, sizes: Mapping[str, int], seed: int = 0) -> dict[str, NDArray[Any]]:
    """Random inputs of a component: tokens of which half are masked (none for a decoder), labels, positions.

    Raises UsageError for a component with other inputs.
    """
    rng, latent = np.random.default_rng(seed), bundle.manifest.latent
    made: dict[str, NDArray[Any]] = {}
    for signature in bundle.manifest.components[role].inputs:
        shape = tuple(sizes[side] if isinstance(side, str) else side for side in signature.shape)
        if signature.name == "tokens":
            values = rng.integers(0, latent.codes, shape)
            if len(shape) == 2 and bundle.manifest.family == "absorbing":
                values[rng.random(shape) < 0.5] = latent.codes
        elif signature.name == "rows":
            length = latent.grid[0] * latent.grid[1]
            values = np.stack([np.resize(rng.permutation(length), shape[1]) for _ in range(shape[0])])
        elif signature.name in ("labels", "time"):
            values = np.zeros(shape)
        else:
            raise UsageError(f"{role} has an input {signature.name}: random ones are made for denoisers and decoders")
        made[signature.name] = values.astype(signature.dtype)
    return made
