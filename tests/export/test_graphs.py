from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import smalti_export
from smalti.bundle.manifest import Role
from smalti_export.graphs.graph_modules import wrap
from smalti_export.graphs.trace import OPSET, GraphSpec, graph_specs, trace
from smalti_export.graphs.weights import round_to_fp16
from smalti_export.parity.certificate import torch_graph, torch_run
from smalti_train.data.pixels import to_images
from smalti_train.models.edge_autoencoder import EdgeAutoencoder, EdgeAutoencoderConfig
from smalti_train.models.hourglass_prior import HourglassPrior, HourglassPriorConfig
from smalti_train.runs.bundle_weights import folded

FACTOR, CODES, GRID = 8, 24, (4, 6)
SIZES = HourglassPriorConfig(
    codes=CODES,
    grid=GRID,
    classes=3,
    width=16,
    inner_width=32,
    layers_in=1,
    layers_inner=1,
    layers_out=1,
    head_dim=8,
)
SPECS = graph_specs(FACTOR, SIZES, 12)
ROLES: tuple[Role, ...] = ("encoder", "decoder", "denoiser")
Arrays = dict[str, np.ndarray]


def autoencoder() -> EdgeAutoencoder:
    torch.manual_seed(0)
    model = EdgeAutoencoder(
        EdgeAutoencoderConfig(codes=CODES, code_dim=6, channels=(8, 12), encoder_blocks=(1, 1), decoder_blocks=(1, 1))
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return folded(model)[0]


def prior() -> HourglassPrior:
    torch.manual_seed(0)
    model = HourglassPrior(SIZES)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture(scope="module")
def models() -> dict[Role, nn.Module]:
    """The wrapped models, with weights far from their initial values."""
    pair, denoiser = autoencoder(), prior()
    return {"encoder": wrap("encoder", pair), "decoder": wrap("decoder", pair), "denoiser": wrap("denoiser", denoiser)}


@pytest.fixture(scope="module")
def graphs(models: dict[Role, nn.Module]) -> dict[Role, onnx.ModelProto]:
    return {role: trace(role, model, SPECS[role]) for role, model in models.items()}


def outputs(proto: onnx.ModelProto, feed: Arrays) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)


def run(proto: onnx.ModelProto, feed: Arrays) -> np.ndarray:
    (output,) = outputs(proto, feed)
    return output


def noise(*shape: int, top: int, dtype: type = np.int32) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, top, shape).astype(dtype)


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 4, 6), (3, 9, 2), (2, 5, 7)])
def test_the_encoder_computes_what_the_model_does(
    size: tuple[int, int, int], models: dict[Role, nn.Module], graphs: dict[Role, onnx.ModelProto]
) -> None:
    n, h, w = size
    patches = noise(n, h, w, 3, top=200, dtype=np.uint8).repeat(FACTOR, axis=1).repeat(FACTOR, axis=2)
    feed = {"images": patches + noise(*patches.shape, top=56, dtype=np.uint8)}
    (expected, vectors), (found, embedded) = torch_graph(models["encoder"])(feed), outputs(graphs["encoder"], feed)
    np.testing.assert_allclose(embedded, vectors, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), np.ones(n), rtol=1e-5)
    assert embedded.shape == (n, 12)
    assert found.shape == expected.shape == size
    assert found.dtype == expected.dtype == np.int32
    assert np.array_equal(found, expected)
    assert len(np.unique(found)) >= min(3, found.size)


def test_codes_that_lie_close_together_stay_apart_when_weights_are_stored_as_fp16() -> None:
    model = autoencoder()
    patches = noise(4, 9, 9, 3, top=256, dtype=np.uint8).repeat(FACTOR, axis=1).repeat(FACTOR, axis=2)
    codes = model.quantizer.codebook.data
    with torch.no_grad():
        features = nn.functional.normalize(model.encoder(to_images(patches)), dim=1)
        codes.copy_(features.mean((0, 2, 3)) + 0.01 * torch.randn(codes.shape))
    codes.copy_(nn.functional.normalize(codes, dim=1))
    round_to_fp16(model)
    assert (codes.norm(dim=1) - 1).abs().max() > 1e-5, "rounding changed their lengths"
    found = torch_run(wrap("encoder", model))({"images": patches})
    with torch.no_grad():
        nearest = model.encode(to_images(patches)).numpy()
    assert (found == nearest).mean() > 0.99
    assert len(np.unique(found)) > CODES // 4


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 4, 6), (3, 9, 2), (2, 5, 7)])
def test_the_decoder_computes_what_the_model_does(
    size: tuple[int, int, int], models: dict[Role, nn.Module], graphs: dict[Role, onnx.ModelProto]
) -> None:
    feed = {"tokens": noise(*size, top=CODES)}
    expected, found = torch_run(models["decoder"])(feed), run(graphs["decoder"], feed)
    assert found.shape == expected.shape == (size[0], size[1] * FACTOR, size[2] * FACTOR, 3)
    assert found.dtype == expected.dtype == np.uint8
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1  # a value halfway between two pixel values may be rounded either way
    assert (difference > 0).mean() < 1e-3
    assert found.std() > 20


@pytest.mark.parametrize(("batch", "rows"), [(1, 1), (1, 24), (5, 7), (2, 3)])
def test_the_denoiser_computes_what_the_model_does(
    batch: int, rows: int, models: dict[Role, nn.Module], graphs: dict[Role, onnx.ModelProto]
) -> None:
    feed = {
        "tokens": noise(batch, 24, top=CODES + 1),
        "labels": noise(batch, top=4),
        "rows": noise(batch, rows, top=24),
    }
    expected, found = torch_run(models["denoiser"])(feed), run(graphs["denoiser"], feed)
    assert found.shape == expected.shape == (batch, rows, CODES)
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert expected.std() > 0.1


@pytest.mark.parametrize("role", ROLES)
def test_names_types_and_free_sizes_are_those_of_the_table(role: Role, graphs: dict[Role, onnx.ModelProto]) -> None:
    def described(values: list[onnx.ValueInfoProto]) -> list[tuple[str, str, tuple[str | int, ...]]]:
        found = []
        for value in values:
            tensor = value.type.tensor_type
            sizes = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
            found.append((value.name, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, sizes))
        return found

    spec: GraphSpec = SPECS[role]
    graph = graphs[role].graph
    assert described(list(graph.input)) == [(tensor.name, tensor.dtype, tensor.shape) for tensor in spec.inputs]
    assert described(list(graph.output)) == [(tensor.name, tensor.dtype, tensor.shape) for tensor in spec.outputs]


@pytest.mark.parametrize("role", ROLES)
def test_graphs_are_valid_and_use_standard_operators_only(role: Role, graphs: dict[Role, onnx.ModelProto]) -> None:
    onnx.checker.check_model(graphs[role], full_check=True)
    assert {node.domain for node in graphs[role].graph.node} == {""}
    assert [(item.domain, item.version) for item in graphs[role].opset_import] == [("", OPSET)]


def assert_nothing_about_the_machine(content: bytes, *folders: Path) -> None:
    roots = [Path(smalti_export.__file__).parents[2], Path(torch.__file__).parents[1], Path.home(), *folders]
    for word in (
        b".py",
        b"site-packages",
        b"Traceback",
        *(str(root).encode() for root in roots if len(root.parts) > 1),
    ):
        assert word not in content, word


@pytest.mark.parametrize("role", ROLES)
def test_a_graph_says_nothing_about_the_machine_it_was_made_on(role: Role, graphs: dict[Role, onnx.ModelProto]) -> None:
    assert_nothing_about_the_machine(graphs[role].SerializeToString())
    assert not graphs[role].metadata_props


def test_a_bundle_says_nothing_about_the_machine_it_was_made_on(
    tiny_bundle: Path, tiny_runs: tuple[Path, Path]
) -> None:
    files = [path for path in tiny_bundle.iterdir() if path.suffix in (".onnx", ".json")]
    assert len(files) == 12
    for path in files:
        assert_nothing_about_the_machine(path.read_bytes(), tiny_runs[0].parent, tiny_bundle.parent)
