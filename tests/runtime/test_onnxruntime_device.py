"""Graphs that read and write addresses. Here the addresses are the host's, and the provider is the CPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import smalti
from smalti import BundleError, ProviderUnavailable, UsageError
from smalti.backends import onnxruntime_device, onnxruntime_places
from smalti.backends.device.tensors import Tensor
from smalti.backends.onnxruntime_cpu import OnnxSession
from smalti.backends.onnxruntime_device import BoundGraph
from smalti.backends.onnxruntime_options import CPU, open_session
from smalti.backends.onnxruntime_places import CUDA, Place, on_cpu, on_cuda, preload_cuda, require_first

BUNDLE = smalti.open_bundle()
ROLES = tuple(BUNDLE.manifest.components)
LENGTH = BUNDLE.manifest.latent.grid[0] * BUNDLE.manifest.latent.grid[1]
CODES = BUNDLE.manifest.latent.codes
IDLE = "AzureExecutionProvider"
"""A provider that every wheel for CPUs has, and that runs no node of ours."""


def feed(role: str, batch: int = 1, size: int = 3) -> dict[str, np.ndarray]:
    """Random inputs: so many rows or, on each side, tokens. Labels are there even where a graph has none."""
    generator = np.random.default_rng((batch, size))
    if role == "encoder":
        return {"images": generator.integers(0, 256, (batch, 16 * size, 16 * size, 3), dtype=np.uint8)}
    shape = (batch, LENGTH) if role == "denoiser" else (batch, size, size + 1)
    return {
        "tokens": generator.integers(0, CODES, shape, dtype=np.int32),
        "labels": generator.integers(0, 3, batch, dtype=np.int32),
        "rows": generator.integers(0, LENGTH, (batch, size), dtype=np.int32),
    }


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: Tensor(one.ctypes.data, one.shape, str(one.dtype)) for name, one in arrays.items()}


def asked(role: str, arrays: dict[str, np.ndarray], precision: Any = "fp32") -> dict[str, np.ndarray]:
    """What the session that takes arrays answers, by name."""
    session = OnnxSession(BUNDLE, role, precision, 1)
    return {found.name: answer for found, answer in zip(session.outputs, session(arrays))}


def blank(answers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.full_like(one, 77) for name, one in answers.items()}


def preview(place: Place | None = None) -> BoundGraph:
    """The smallest graph."""
    return BoundGraph(BUNDLE, "preview", "fp32", place or on_cpu())


def run(graph: BoundGraph, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Run a graph that draws pictures on new addresses."""
    batch, height, width = arrays["tokens"].shape
    images = np.zeros((batch, 16 * height, 16 * width, 3), np.uint8)
    graph.queue(tensors(arrays), tensors({"images": images}))
    return images


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("role", ROLES)
def test_bound_graphs_answer_what_sessions_answer_and_have_no_shape_nodes(role: str, precision: Any) -> None:
    graph = BoundGraph(BUNDLE, role, precision, on_cpu())
    session = OnnxSession(BUNDLE, role, precision, 1)
    assert (graph.inputs, graph.outputs) == (session.inputs, session.outputs)
    assert graph.nodes() == ()
    for batch, size in ((1, 2), (2, 3)):
        arrays = feed(role, batch, size)
        expected = {found.name: answer for found, answer in zip(session.outputs, session(arrays))}
        found = blank(expected)
        graph.queue(tensors(arrays), tensors(found))
        for name, answer in expected.items():
            # Embeddings are means, over a number of pixels that is a constant here. Few rows of the prior's last layer
            # are products of other shapes, which a session that knows their number adds up in another order.
            allowed = {"embedding": 1e-6, "logits": 1e-5}.get(name, 0)
            assert np.allclose(found[name], answer, rtol=0, atol=allowed), name
        nodes = graph.nodes()
        assert {node.provider for node in nodes} == {CPU}
        assert "Shape" not in {node.operator for node in nodes}


@pytest.mark.parametrize("role", sorted(set(ROLES) - {"preview"}))
def test_with_free_sizes_the_graphs_have_shape_nodes(role: str) -> None:
    def prepare(options: Any) -> None:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")

    session = open_session(BUNDLE, role, "fp32", 1, [CPU], prepare=prepare)
    assert "Shape" in {node.operator for node in onnxruntime_device._nodes(session)}


def test_what_is_not_named_is_left_out() -> None:
    arrays = feed("encoder")
    expected = asked("encoder", arrays)
    graph = BoundGraph(BUNDLE, "encoder", "fp32", on_cpu())
    for names in (["tokens"], ["tokens", "embedding"], ["embedding"], ["tokens"]):
        found = blank(expected)
        graph.queue(tensors(arrays), tensors({name: found[name] for name in names}))
        for name, answer in expected.items():
            assert np.allclose(found[name], answer, atol=1e-6) == (name in names), names
            assert (name in names) or (found[name] == 77).all()


def test_only_addresses_that_change_are_bound_again(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, arrays = preview(), feed("preview")
    images = run(graph, arrays)
    (sized,) = graph._sized.values()
    bound: list[str] = []
    for call in ("bind_input", "bind_output"):
        real = getattr(sized._loose.io, call)
        monkeypatch.setattr(
            sized._loose.io, call, lambda name, *rest, real=real: bound.append(name) or real(name, *rest)
        )
    graph.queue(tensors(arrays), tensors({"images": images}))
    assert not bound
    arrays["tokens"][:] = arrays["tokens"][:, ::-1].copy()
    graph.queue(tensors(arrays), tensors({"images": images}))
    assert not bound
    assert np.array_equal(images, asked("preview", arrays)["images"])
    moved = {"tokens": arrays["tokens"].copy()}
    graph.queue(tensors(moved), tensors({"images": images}))
    assert bound == ["tokens"]


def test_each_set_of_shapes_has_a_session_and_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = preview(on_cpu(kept=2))
    made: list[dict[str, int]] = []
    waited: list[object] = []
    real, wait = graph._open, onnxruntime_device._Sized.wait
    monkeypatch.setattr(graph, "_open", lambda sizes: made.append(sizes) or real(sizes))
    monkeypatch.setattr(onnxruntime_device._Sized, "wait", lambda sized: waited.append(sized) or wait(sized))
    for size in (1, 2, 1, 3, 1, 2):
        arrays = feed("preview", 1, size)
        assert np.array_equal(run(graph, arrays), asked("preview", arrays)["images"])
    assert made == [{"n": 1, "h": size, "w": size + 1} for size in (1, 2, 3, 2)]
    assert len(graph._sized) == len(waited) == 2


def test_a_provider_that_the_installed_library_lacks_is_refused() -> None:
    with pytest.raises(ProviderUnavailable, match=rf"has no {CUDA}.*smalti\[cu13\].*or use provider cpu"):
        preview(on_cuda(0, 1234))


def test_a_provider_that_is_left_out_is_noticed() -> None:
    session = SimpleNamespace(get_providers=lambda: [CPU])
    with pytest.raises(ProviderUnavailable, match=f"{CUDA} cannot be loaded.*silently use {CPU}"):
        require_first(session, CUDA)
    require_first(SimpleNamespace(get_providers=lambda: [CUDA, CPU]), CUDA)


def test_nodes_elsewhere_are_refused_by_name() -> None:
    place = Place(IDLE, "cpu")
    with pytest.raises(ProviderUnavailable) as caught:
        run(preview(place), feed("preview"))
    message = str(caught.value)
    nodes = preview()
    run(nodes, feed("preview"))
    assert f"{IDLE} cannot run {len(nodes.nodes())} of {len(nodes.nodes())} nodes (" in message
    assert f"would run on {CPU}" in message
    assert nodes.nodes()[0].operator in message
    assert message.endswith("or provider cpu")


def test_nodes_elsewhere_are_allowed_on_demand() -> None:
    graph, arrays = preview(Place(IDLE, "cpu", strict=False)), feed("preview")
    assert np.array_equal(run(graph, arrays), asked("preview", arrays)["images"])
    assert {node.provider for node in graph.nodes()} == {CPU}


def test_without_a_report_of_nodes_the_library_itself_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_device, "_nodes", lambda session: ())
    with pytest.raises(ProviderUnavailable, match=f"{IDLE} cannot run it: .*explicitly disabled"):
        run(preview(Place(IDLE, "cpu")), feed("preview"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: given.pop("tokens"), "it needs tokens, and was given labels, rows"),
        (
            lambda given: given.update(tokens=Tensor(1, (1, 3), "int32")),
            r"tokens is \['n', 256\], and \[1, 3\] was given",
        ),
        (lambda given: given.update(tokens=Tensor(1, (256,), "int32")), r"tokens is \['n', 256\], and \[256\] was"),
        (
            lambda given: given.update(rows=Tensor(1, (2, 3), "int32")),
            r"rows is \['n', 'r'\], and \[2, 3\].*with n = 1",
        ),
        (lambda given: given.update(rows=given["rows"]._replace(dtype="float32")), "cannot run it on these inputs"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change: Any, message: str) -> None:
    arrays, logits = feed("denoiser"), np.zeros((1, 3, CODES), np.float32)
    change(given := tensors(arrays))
    graph = BoundGraph(BUNDLE, "denoiser", "fp32", on_cpu())
    with pytest.raises(BundleError, match=message):
        graph.queue(given, tensors({"logits": logits}))
    assert not logits.any()


def test_outputs_that_do_not_fit_are_refused() -> None:
    graph, arrays = preview(), feed("preview")
    for wrong in (
        {"images": np.zeros((1, 48, 48, 3), np.uint8)},
        {"images": np.zeros((1, 48, 64, 3), np.float32)},
        {"pictures": np.zeros((1, 48, 64, 3), np.uint8)},
    ):
        with pytest.raises(BundleError, match="cannot run it on these inputs"):
            graph.queue(tensors(arrays), tensors(wrong))
    assert np.array_equal(run(graph, arrays), asked("preview", arrays)["images"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CUDA failure 2: out of memory ; GPU=0", "too little memory: .*draw fewer or smaller images"),
        ("BFCArena: Failed to allocate memory for requested buffer of size 9", "too little memory"),
        ("CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED", "the device failed: .*load the bundle again"),
    ],
)
@pytest.mark.parametrize("stage", ["making a session", "running it"])
def test_a_device_that_fails_is_not_taken_for_a_broken_bundle(
    stage: str, text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise (BundleError if stage == "making a session" else RuntimeError)(text)

    graph = preview(Place(IDLE, "cpu", strict=stage == "making a session"))
    if stage == "making a session":
        monkeypatch.setattr(graph, "_make", fail)
    else:
        monkeypatch.setattr(onnxruntime_device._Sized, "run", fail)
    with pytest.raises(ProviderUnavailable, match=message):
        run(graph, feed("preview"))


def test_threads_share_a_graph() -> None:
    graph = preview(on_cpu(kept=1))
    feeds = [feed("preview", batch, size) for batch in (1, 2) for size in (2, 3)] * 3
    expected = [asked("preview", arrays)["images"] for arrays in feeds[:4]] * 3
    with ThreadPoolExecutor(4) as pool:
        for found, answer in zip(pool.map(lambda arrays: run(graph, arrays), feeds), expected):
            assert np.array_equal(found, answer)


def test_each_captured_graph_keeps_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_device, "MOST_GRAPHS", 2)
    graph = preview(on_cpu(graphs=True, kept=1))
    ran: list[str] = []
    real = onnxruntime_device._Binding.bind

    def bind(binding: Any, *rest: Any) -> None:
        ran.append(binding.options.get_run_config_entry("gpu_graph_id"))
        real(binding, *rest)

    monkeypatch.setattr(onnxruntime_device._Binding, "bind", bind)
    places = [(feed("preview", 1, 2), np.zeros((1, 32, 48, 3), np.uint8)) for _ in range(4)]
    for turn in (0, 1, 0, 2, 3, 1):
        arrays, images = places[turn]
        arrays["tokens"][:] = turn
        images[:] = 0
        graph.queue(tensors(arrays), tensors({"images": images}))
        assert np.array_equal(images, asked("preview", arrays)["images"])
    assert ran == ["1", "2", "1", "-1", "-1", "2"]
    for size in (2, 3, 4):
        run(graph, feed("preview", 1, size))
    assert len(graph._sized) == 3, "a captured graph outlives its turn"


def test_a_gpu_is_told_its_stream_and_to_compute_fp32_in_fp32() -> None:
    place = on_cuda(1, 4096, graphs=True)
    assert (place.provider, place.memory, place.ordinal, place.strict) == (CUDA, "cuda", 1, True)
    expected = {"device_id": "1", "user_compute_stream": "4096", "use_tf32": "0", "enable_cuda_graph": "1"}
    assert expected.items() <= place.options.items()
    assert on_cuda(0, 1).options["enable_cuda_graph"] == "0"
    with pytest.raises(UsageError, match="stream 0"):
        on_cuda(0, 0)


def test_cuda_libraries_are_loaded_once_and_say_nothing_on_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loads: list[int] = []

    def preload_dlls() -> None:
        loads.append(1)
        print("Failed to load libcufft.so.12:\n no such file")

    monkeypatch.setattr(onnxruntime_places, "onnxruntime", lambda: SimpleNamespace(preload_dlls=preload_dlls))
    preload_cuda.cache_clear()
    try:
        assert preload_cuda() == preload_cuda() == "Failed to load libcufft.so.12: no such file"
        assert len(loads) == 1
        with pytest.raises(ProviderUnavailable, match=r"cannot be loaded \(Failed to load libcufft"):
            require_first(SimpleNamespace(get_providers=lambda: [CPU]), CUDA)
        preload_cuda.cache_clear()
        monkeypatch.setattr(onnxruntime_places, "onnxruntime", SimpleNamespace)  # an old version
        assert preload_cuda() == ""
    finally:
        preload_cuda.cache_clear()
    assert capsys.readouterr().out == ""
