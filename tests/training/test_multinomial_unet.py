from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smalti.errors import UsageError
from smalti_train.models.meta_init import unfilled
from smalti_train.models.multinomial_unet import MultinomialUNet, MultinomialUNetConfig
from smalti_train.models.multinomial_unet_blocks import (
    HEAD_DIM,
    HEADS,
    Attention,
    FullAttention,
    LinearAttention,
    time_embedding,
    time_rates,
)

FIXTURES = Path(__file__).parent / "fixtures"
CONFIG = MultinomialUNetConfig(codes=5, grid=(4, 6), classes=2, width=8, multipliers=(1, 2), blocks=1, steps=50)
TOLERANCE = 1e-4


def perturbed(config: MultinomialUNetConfig) -> MultinomialUNet:
    """A model in eval mode whose weights are far from their start, so that whatever can matter does."""
    torch.manual_seed(0)
    model = MultinomialUNet(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def prior() -> MultinomialUNet:
    return perturbed(CONFIG)


def grids(count: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(CONFIG.codes, (count, 24), generator=torch.Generator().manual_seed(seed))


def times(*values: int) -> Tensor:
    return torch.tensor(values)


def test_logits_are_those_of_the_published_code() -> None:
    arrays = np.load(FIXTURES / "vqddm_small.npz")
    state = torch.load(FIXTURES / "vqddm_small.ckpt", weights_only=True)["state_dict"]
    model = MultinomialUNet(MultinomialUNetConfig(codes=32, width=8))
    model.load_state_dict({name[4:]: value for name, value in state.items() if name.startswith("_nn.")})
    found = model.eval().logits(torch.from_numpy(arrays["x0"]).flatten(1), t=torch.from_numpy(arrays["t"]))
    wanted = arrays["unet_logits_x0"].reshape(2, 32, 256).transpose(0, 2, 1)
    assert found.dtype == torch.float32
    assert np.abs(found.numpy() - wanted).max() <= TOLERANCE


def test_full_size_names_and_shapes_are_the_published_ones() -> None:
    lines = (line.split("\t") for line in (FIXTURES / "vqddm_unet_1024.txt").read_text().splitlines())
    published = {name: (ast.literal_eval(shape), dtype) for name, shape, dtype in lines}
    with unfilled():
        model = MultinomialUNet(MultinomialUNetConfig())
    assert {name: (tuple(value.shape), str(value.dtype)) for name, value in model.state_dict().items()} == published
    assert round(sum(value.numel() for value in model.parameters()) / 1e6) == 118  # the paper says 117M


@torch.no_grad()
def test_rows_ask_for_parts_of_the_full_answer_in_any_order(prior: MultinomialUNet) -> None:
    tokens, labels, t = grids(), torch.tensor([0, 1, 2]), times(0, 20, 49)
    full = prior(tokens, labels, t)
    assert full.shape == (3, 24, CONFIG.codes)
    rows = torch.tensor([[5, 0, 23, 5], [1, 2, 3, 4], [22, 9, 9, 0]])
    expected = torch.stack([full[sample, rows[sample]] for sample in range(3)])
    torch.testing.assert_close(prior(tokens, labels, t, rows), expected)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["linear", "full"])
def test_eq_23_adds_one_for_the_token_that_is_seen(attention: str) -> None:
    config = dataclasses.replace(CONFIG, attention=attention)
    plain, residual = perturbed(config), perturbed(dataclasses.replace(config, parameterisation="x0_residual"))
    tokens, t, rows = grids(), times(3, 30, 49), torch.tensor([[7, 0], [3, 3], [23, 1]])
    added = residual(tokens, None, t) - plain(tokens, None, t)
    torch.testing.assert_close(added, torch.eye(CONFIG.codes)[tokens], atol=1e-5, rtol=0)
    added = residual(tokens, None, t, rows) - plain(tokens, None, t, rows)
    torch.testing.assert_close(added, torch.eye(CONFIG.codes)[tokens.gather(1, rows)], atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("changed", "watched"), [(23, 0), (0, 23), (7, 16)])
def test_every_position_sees_every_other(prior: MultinomialUNet, changed: int, watched: int) -> None:
    tokens = torch.zeros(1, 24, dtype=torch.int64)
    other = tokens.clone()
    other[0, changed] = 4
    difference = prior(tokens, None, times(7))[0, watched] - prior(other, None, times(7))[0, watched]
    assert difference.abs().max() > 1e-3


@torch.no_grad()
def test_labels_change_the_logits_and_the_last_stands_for_none(prior: MultinomialUNet) -> None:
    tokens, t = grids(1).expand(3, -1), times(9, 9, 9)
    logits = prior(tokens, torch.arange(3), t)
    assert torch.pdist(logits.flatten(1)).min() > 0.03
    torch.testing.assert_close(prior(tokens[:1], None, t[:1]), logits[2:])


@torch.no_grad()
def test_times_change_the_logits_and_are_stretched_over_one_range(prior: MultinomialUNet) -> None:
    tokens, t = grids(1).expand(3, -1), times(0, 25, 49)
    logits = prior(tokens, None, t)
    assert torch.pdist(logits.flatten(1)).min() > 0.1
    longer = perturbed(dataclasses.replace(CONFIG, steps=100))
    torch.testing.assert_close(longer(tokens, None, 2 * t), logits)


def test_the_time_embedding_is_the_published_one() -> None:
    found = time_embedding(times(0, 1, 3999), 4000, time_rates(8)).double().numpy()
    rates = 10_000.0 ** (-np.arange(4) / 3)
    angles = np.array([0, 1, 3999])[:, None] * rates
    np.testing.assert_allclose(found, np.concatenate((np.sin(angles), np.cos(angles)), 1), atol=5e-4)


@torch.no_grad()
def test_a_sample_does_not_see_its_batch(prior: MultinomialUNet) -> None:
    tokens, t = grids(5), times(0, 11, 22, 33, 44)
    alone = prior(tokens[2:3], None, t[2:3])
    torch.testing.assert_close(prior(tokens, None, t)[2:3], alone, atol=1e-5, rtol=1e-5)


def test_a_model_without_classes_has_no_table_of_labels_and_reads_none() -> None:
    model = perturbed(dataclasses.replace(CONFIG, classes=0))
    assert not [name for name in model.state_dict() if "label" in name]
    assert torch.equal(
        model.logits(grids(), torch.zeros(3).long(), times(1, 2, 3)), model.logits(grids(), t=times(1, 2, 3))
    )
    with pytest.raises(UsageError, match="this prior knows none"):
        model.logits(grids(), times(0, 1, 0), times(1, 2, 3))


def naive(q: np.ndarray, k: np.ndarray, v: np.ndarray, linear: bool) -> np.ndarray:
    """Attention of one head, float64 [HEAD_DIM, n] each, position by position."""
    out = np.zeros_like(q)
    for position in range(q.shape[1]):
        if linear:
            shares = np.exp(k) / np.exp(k).sum(1, keepdims=True)
            weights = (q[:, position, None] * shares).sum(0)
        else:
            scores = np.exp(q[:, position] @ k / np.sqrt(len(q)))
            weights = scores / scores.sum()
        out[:, position] = v @ weights
    return out


@torch.no_grad()
@pytest.mark.parametrize("kind", [LinearAttention, FullAttention])
def test_attention_is_what_its_formula_says(kind: type[Attention]) -> None:
    torch.manual_seed(0)
    module, x = kind(8).double(), torch.randn(2, 8, 3, 4, dtype=torch.float64)
    weight = module.to_qkv.weight[:, :, 0, 0].numpy()
    out, bias = (module.get_parameter(f"to_out.{name}").numpy() for name in ("weight", "bias"))
    out = out[:, :, 0, 0]
    for sample, found in zip(x.flatten(2).numpy(), module(x).flatten(2).numpy()):
        q, k, v = (weight @ sample).reshape(3, HEADS, HEAD_DIM, 12)
        heads = [naive(q[head], k[head], v[head], kind is LinearAttention) for head in range(HEADS)]
        np.testing.assert_allclose(found, out @ np.concatenate(heads) + bias[:, None], atol=1e-10)


@pytest.mark.parametrize(
    ("attention", "grid", "sides"),
    [
        ("linear", (16, 16), {16: 1, 8: 2, 4: 2, 2: 3}),  # down and up, and once more in the middle
        ("full", (16, 16), {16: 1, 8: 2, 4: 2}),
        ("full", (32, 32), {16: 2, 8: 2, 4: 3}),
    ],
)
def test_attention_stands_where_it_is_printed_or_released(
    attention: str, grid: tuple[int, int], sides: dict[int, int]
) -> None:
    config = MultinomialUNetConfig(codes=4, grid=grid, width=8, attention=attention)  # pyright: ignore
    model = MultinomialUNet(config)
    seen: list[int] = []
    kind = LinearAttention if attention == "linear" else FullAttention
    for module in model.modules():
        if isinstance(module, Attention):
            assert type(module) is kind
            module.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[-1]))
    model(torch.zeros(1, grid[0] * grid[1], dtype=torch.int64), None, times(0))
    assert {side: seen.count(side) for side in set(seen)} == sides


def test_logits_carry_no_gradients_and_training_does(prior: MultinomialUNet) -> None:
    assert not prior.logits(grids(), t=times(1, 2, 3)).requires_grad
    model = MultinomialUNet(CONFIG)
    model(grids(), times(0, 1, 2), times(1, 2, 3)).square().sum().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without
    gates = [parameter for name, parameter in model.named_parameters() if name.endswith(".g")]
    assert not any(bool(gate) for gate in gates)  # attention starts as nothing, and can become something
    assert torch.cat([gate.grad for gate in gates if gate.grad is not None]).all()


@pytest.mark.parametrize(
    ("tokens", "labels", "t", "message"),
    [
        (grids(), None, None, r"give the time t, integers \[3\] in 0 .. 49"),
        (grids() + 1, None, times(0, 0, 0), "tokens must be 0 .. 4 .*; got 1 .. 5"),
        (grids()[:, 1:], None, times(0, 0, 0), r"tokens must be integers \[B, 24\]; got torch.int64 \[3, 23\]"),
        (grids().float(), None, times(0, 0, 0), "tokens must be integers"),
        (grids(), None, times(0, 50, 0), "t must be 0 .. 49 .*; got 0 .. 50"),
        (grids(), None, times(-1, 0, 0), "t must be 0 .. 49 .*; got -1 .. 0"),
        (grids(), None, times(0), r"t must be integers \[3\], one for each grid"),
        (grids(), None, torch.zeros(3), r"t must be integers \[3\]"),
        (grids(), times(0, 3, 0), times(0, 0, 0), "labels must be 0 .. 2 .the last for no label.; got 0 .. 3"),
        (grids(), times(0), times(0, 0, 0), r"labels must be integers \[3\]"),
    ],
)
def test_what_is_out_of_range_is_named(
    prior: MultinomialUNet, tokens: Tensor, labels: Tensor | None, t: Tensor | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        prior.logits(tokens, labels, t)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"grid": (4, 5)}, r"grid \[4, 5\]: 2 levels need sides that are multiples of 2"),
        ({"width": 12}, "multiple of 8"),
        ({"codes": 0}, "at least 1"),
        ({"multipliers": ()}, "at least 1"),
        ({"steps": 0}, "at least 1"),
        ({"attention": "none"}, "attention 'none': allowed are linear and full"),
        ({"parameterisation": "eps"}, "parameterisation 'eps': allowed are x0 and x0_residual"),
        ({"schedule": "linear"}, "schedule 'linear': allowed are released and printed"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(CONFIG, **sizes)  # pyright: ignore


@torch.no_grad()
def test_graphs_have_a_free_batch_and_free_rows() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    linear = perturbed(dataclasses.replace(CONFIG, parameterisation="x0_residual"))
    full = perturbed(dataclasses.replace(CONFIG, attention="full"))
    example = grids(2), times(0, 1), times(0, 30), torch.tensor([[0, 5, 1], [2, 3, 4]])
    batch = torch.export.Dim("n", min=1)
    free = ({0: batch}, {0: batch}, {0: batch}, {0: batch, 1: torch.export.Dim("r", min=1)})
    names = ["tokens", "labels", "times", "rows"]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            linear, example, dynamo=True, dynamic_shapes=free, opset_version=20, input_names=names, verbose=False
        )
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = grids(3, seed=5), times(2, 0, 1), times(49, 0, 7), torch.tensor([[0, 23], [9, 9], [4, 1]])
    (found,) = session.run(None, {name: value.numpy() for name, value in zip(names, inputs)})
    np.testing.assert_allclose(found, linear(*inputs).numpy(), atol=TOLERANCE)
    graph = torch.export.export(full, example, dynamic_shapes=free).module()  # the longer half is the same
    torch.testing.assert_close(graph(*inputs), full(*inputs))
