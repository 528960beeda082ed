"""``bench/speed/against_torch.py`` and ``published_speed.py``: torch has the bundle's weights, and figures add up."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import smalti
from smalti.bundle.reader import open_bundle
from smalti.drawing.result import Timings
from smalti.errors import UsageError
from smalti_train.objectives.multinomial import cosine_schedule
from smalti_train.presets.catalogue import AUTOENCODERS, PRIORS
from smalti_train.runs.loading import build_autoencoder, build_prior

HOUSE = Path(__file__).parents[2]
sys.path.insert(0, str(HOUSE / "bench/speed"))
try:
    models, samplers, rounds, one_call, published_bundles, plans = (
        importlib.import_module(f"torch_way.{name}")
        for name in (
            "models",
            "samplers",
            "rounds",
            "one_call",
            "published_bundles",
            "published_plans",
        )
    )
    most_memory = importlib.import_module("torch_way.most_memory")
    published_speed = importlib.import_module("published_speed")
finally:
    sys.path.pop(0)

LENGTH, CODES = 16, 5


class Asked:
    """Random logits; remembers what it was asked."""

    def __init__(self) -> None:
        self.generator, self.tokens = torch.Generator().manual_seed(1), list[torch.Tensor]()

    def __call__(self, tokens: torch.Tensor, *times: torch.Tensor) -> torch.Tensor:
        self.tokens.append(tokens.clone())
        return torch.randn(*tokens.shape, CODES, generator=self.generator, dtype=torch.bfloat16)


def sizes(count: int = 3) -> dict[str, int]:
    return {"count": count, "length": LENGTH, "codes": CODES}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


PLANS = {
    "absorbing": (partial(samplers.absorbing, **sizes(), steps=6, temperature=0.8), 6),
    "one by one": (partial(samplers.one_by_one, **sizes(), temperature=0.8), LENGTH),
    "sundae": (partial(samplers.sundae, **sizes(), steps=7, temperature=0.8), 7),
    "multinomial": (partial(samplers.multinomial, **sizes(), steps=4, schedule=cosine_schedule(20, "released")), 4),
}


@pytest.mark.parametrize("name", PLANS)
def test_plain_samplers_draw_codes_in_as_many_calls_as_steps(name: str) -> None:
    plan, steps = PLANS[name]
    ask = Asked()
    tokens = plan(ask, generator())
    assert tokens.shape == (3, LENGTH)
    assert tokens.dtype == torch.int64
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < CODES
    assert len(ask.tokens) == steps
    assert torch.equal(tokens, plan(Asked(), generator()))


def test_absorbing_samplers_keep_what_they_drew() -> None:
    for name in ("absorbing", "one by one"):
        ask = Asked()
        last = PLANS[name][0](ask, generator())
        grids = [*ask.tokens, last]
        assert (grids[0] == CODES).all()
        for before, after in pairwise(grids):
            assert torch.equal(before[before != CODES], after[before != CODES])


def test_one_by_one_draws_one_position_per_step() -> None:
    ask = Asked()
    PLANS["one by one"][0](ask, generator())
    masked = [(tokens == CODES).sum(1).tolist() for tokens in ask.tokens]
    assert masked == [[LENGTH - step] * 3 for step in range(LENGTH)]


def test_drawn_follows_the_softmax_of_the_tempered_logits() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(1, 20_000, 3)
    found = torch.bincount(samplers.drawn(logits, 0.5, generator()).flatten(), minlength=3) / 20_000
    assert torch.allclose(found, torch.softmax(logits[0, 0] / 0.5, -1), atol=0.015)


def check_same(source: str | Path | None) -> None:
    bundle = open_bundle(source)
    found = models.bundle_models(bundle)
    way = models.torch_way(found, "fp32")
    gen, random = smalti.load(bundle, "cpu", "fp32", threads=1), np.random.default_rng(0)
    length = found.grid[0] * found.grid[1]
    tokens = random.integers(found.codes + 1, size=(1, length)).astype(np.int32)
    rows, labels = np.arange(length, dtype=np.int32)[None], np.full(1, len(gen.labels), np.int32)
    wanted = gen.logits(tokens, labels, rows)
    np.testing.assert_allclose(way.ask(torch.from_numpy(tokens).long()).numpy(), wanted, rtol=1e-3, atol=2e-3)
    grid = random.integers(found.codes, size=(1, *found.grid)).astype(np.int32)
    pixels = np.asarray(gen.decode(grid)[0]).astype(int)
    decoded = way.decode(torch.from_numpy(grid).long()).numpy()[0]
    error = np.square(decoded - pixels).mean()
    assert 10 * np.log10(255**2 / max(error, 1e-9)) > 50  # the bound of a certificate; random tokens have hard edges


def test_torch_computes_what_the_embedded_bundle_does() -> None:
    check_same(None)


def test_torch_computes_what_a_bundle_without_heads_does(tiny_bundle: Path) -> None:
    check_same(tiny_bundle)


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(UsageError, match=r"preset 'other': say with --preset .* known are avatars"):
        models.bundle_models(open_bundle(None), "other")


def tiny_models() -> Any:
    torch.manual_seed(0)
    return models.Models(build_prior(PRIORS["tiny"].model).eval(), build_autoencoder(AUTOENCODERS["tiny"].model).eval())


@pytest.mark.parametrize("mode", ["fp32", "bf16"])
def test_a_picture_has_the_timings_of_its_stages(mode: str) -> None:
    tiny = tiny_models()
    plan = samplers.absorbing_plan(3, count=2, length=16, codes=64, temperature=1.0)
    tokens, images, timings = samplers.picture(models.torch_way(tiny, mode), plan, tiny.grid, 0)
    assert tokens.shape == (2, 4, 4)
    assert [image.size for image in images] == [(64, 64)] * 2
    assert timings.calls == 3
    assert min(timings.network, timings.draw, timings.decoder, timings.host) > 0


def test_torch_that_cannot_compile_is_left_out_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object) -> object:
        raise RuntimeError("InvalidCxxCompiler: none\nand more")

    monkeypatch.setattr(torch, "compile", lambda forward: refused)
    lines: list[str] = []
    assert models.torch_way(tiny_models(), "compiled", lines.append) is None
    assert lines == ["torch compiled is left out: torch.compile does not work here (InvalidCxxCompiler: none)"]
    with pytest.raises(UsageError, match="torch mode 'half': allowed are fp32, bf16"):
        models.torch_way(tiny_models(), "half")


def test_rounds_call_every_way_once_and_begin_with_another_each_time() -> None:
    called: list[tuple[str, int]] = []

    def way(name: str) -> Any:
        return lambda seed: called.append((name, seed)) or Timings(host=seed)

    taken = rounds.in_turn({"a": way("a"), "b": way("b")}, 3, rest=0)
    assert called == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("b", 2), ("a", 2), ("a", 3), ("b", 3)]
    assert [one.host for one in taken["b"]] == [1, 2, 3]


TAKEN = {
    "smalti int8": [Timings(0.2, 0.1, 0.1, 0.0, calls=4), Timings(0.4, 0.2, 0.2, 0.0, calls=4)],
    "torch fp32": [Timings(0.9, 0.6, 0.1, 0.0, calls=8), Timings(1.5, 0.6, 0.3, 0.0, calls=8)],
}


def test_ratios_are_medians_of_the_ratios_of_a_round() -> None:
    assert rounds.ratio([4.0, 9.0, 10.0], [1.0, 3.0, 1.0]) == 4.0
    assert rounds.quantiles([0.0, 1.0, 2.0, 3.0, 4.0]) == pytest.approx((0.8, 2.0, 3.2))
    base, row = rounds.rows_of(TAKEN, "smalti int8", count=2, megapixels=0.1)
    assert base["ratio"] == base["ratio_per_step"] == 1
    assert row["ratio"] == pytest.approx((1.6 / 0.4 + 2.4 / 0.8) / 2)
    assert row["ratio_per_step"] == pytest.approx((1.5 / 8 / (0.3 / 4) + 2.1 / 8 / (0.6 / 4)) / 2)
    assert row["seconds"]["network"]["p50"] == pytest.approx(0.6)  # of two pictures at once
    assert row["seconds_per_megapixel"] == pytest.approx(1.0 / 0.1)


def test_the_table_says_seconds_and_ratios() -> None:
    lines = rounds.table(rounds.rows_of(TAKEN, "smalti int8", count=2, megapixels=0.1), "smalti").splitlines()
    assert lines[0].endswith("| s/Mpx | / smalti | per step |")
    cells = [cell.strip() for cell in lines[3].strip("|").split("|")]
    assert cells[:7] == ["torch fp32", "8", "0.6000", "0.3000", "0.1000", "0.0000", "1.0000"]
    assert cells[-3:] == ["10.000", "3.50", "2.12"]


def test_decoders_alone_have_no_ratio_of_steps() -> None:
    taken = {name: [Timings(decoder=seconds)] for name, seconds in (("smalti int8", 0.5), ("torch fp32", 1.5))}
    rows = rounds.rows_of(taken, "smalti int8", count=1, megapixels=1.0)
    assert [(row["ratio"], row["ratio_per_step"]) for row in rows] == [(1.0, None), (3.0, None)]
    assert rounds.table(rows, "smalti").endswith("| 1.500 | 3.00 |  |")


def test_a_call_is_timed_on_random_tokens_with_the_rows_of_a_step() -> None:
    bundle = open_bundle(None)
    graph = bundle.path / bundle.variant("denoiser", "int8").graph.file
    feed = one_call.typical_feed(None, 12, 2)
    rows = feed["rows"].shape[1]
    assert 256 // 12 <= rows < 128
    assert all(len(set(row)) == rows for row in feed["rows"].tolist())
    now, before = one_call.opened(None, graph, 1)(feed)[0], one_call.opened_as_before(graph, 1)(feed)[0]
    assert now.shape == (2, rows, bundle.manifest.latent.codes)
    np.testing.assert_array_equal(now, before)
    (row,) = one_call.compared(None, graph, graph, feed, (1,), 1)
    assert row["milliseconds"].keys() == {"before", "old", "new"}
    assert len(one_call.call_table([row]).splitlines()) == 3


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as of a published recipe, of tiny sizes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(AUTOENCODERS, "tiny-transformer", AUTOENCODERS["tiny-vqgan"])
        return published_bundles.build("tiny-transformer", tmp_path_factory.mktemp("published"), lambda line: None)


def test_published_graphs_compute_what_the_torch_models_do(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AUTOENCODERS, "tiny-transformer", AUTOENCODERS["tiny-vqgan"])
    made = (published / "manifest.json").stat().st_mtime_ns
    assert published_bundles.build("tiny-transformer", published.parent, pytest.fail) == published  # kept
    assert (published / "manifest.json").stat().st_mtime_ns == made
    assert published_bundles.int8_certificate(published).keys() <= {"decoder", "denoiser"}
    gen, found = smalti.load(published, "cpu", "fp32", 1), published_bundles.torch_models(published)
    tokens, rows = np.arange(16, dtype=np.int32)[None] * 4, np.arange(16, dtype=np.int32)[None]
    wanted = gen.logits(tokens, np.full(1, len(gen.labels), np.int32), rows)
    logits = models.torch_way(found, "fp32").ask(torch.from_numpy(tokens).long())
    np.testing.assert_allclose(logits.numpy(), wanted, rtol=1e-3, atol=2e-3)
    ways = published_speed.whole(published, 3, ["int8"], ["fp32"], 1)
    assert {name: way(0).calls for name, way in ways.items()} == {"smalti int8": 3, "torch fp32": 3}
    decoders = published_speed.decoders(published, 64, ["int8"], ["bf16"], 1)
    assert list(decoders) == ["smalti int8", "torch bf16"]
    assert all(one.total == one.decoder > 0 for one in (way(0) for way in decoders.values()))


@pytest.mark.skipif(sys.platform == "win32", reason="the greatest memory is read by a module that Windows lacks")
def test_the_greatest_memory_is_of_a_child(published: Path) -> None:
    most = most_memory.most_memory(published, "int8", "64", 1)
    assert most is not None
    assert 0.02 < most < 2
    assert most_memory.most_memory(published / "absent", "int8", "64", 1) is None
    rows = [{"way": "smalti int8", "memory_gb": most}, {"way": "torch fp32", "memory_gb": None}]
    assert published_speed.memory_told(rows) == f"smalti int8 {most:.2f}, torch fp32 killed"


def test_plans_are_of_the_priors_kind() -> None:
    for preset, plan in (("tiny", "absorbing"), ("tiny-sundae", "sundae"), ("tiny-multinomial", "multinomial")):
        prior = build_prior(PRIORS[preset].model).eval()
        laid_out = plans.plan_of(models.Models(prior, build_autoencoder(AUTOENCODERS["tiny"].model)), 2, 1)
        assert laid_out.func.__wrapped__.__name__ == plan
        way = models.torch_way(models.Models(prior, build_autoencoder(AUTOENCODERS["tiny"].model)), "fp32")
        tokens = laid_out(way.ask, generator())
        assert 0 <= int(tokens.min()) <= int(tokens.max()) < 64
    prior = build_prior(PRIORS["tiny-autoregressive"].model)
    with pytest.raises(TypeError, match="one token after the other"):
        plans.plan_of(models.Models(prior, build_autoencoder(AUTOENCODERS["tiny"].model)), 2, 1)
