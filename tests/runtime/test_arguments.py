"""Every public call with every wrong value raises a SmaltiError that names the argument. The calls are enumerated."""

from __future__ import annotations

import dataclasses
import inspect
import io
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import smalti
from smalti.families.registry import FAMILIES, OWN_OPTIONS
from smalti.families.settings import Options

NAN, HUGE = float("nan"), 10**30
ODD = (object(), {}, {1}, 1j, b"1", NAN, np.array([1.0, 2.0]), np.array(1.5), lambda: 1)
"""What no argument takes."""
WHOLE = (*ODD, True, np.True_, 1.5, "3", "", (1,), [], float("inf"))
COUNTED = (*WHOLE, 0, -1, -HUGE)
NUMBER = (*ODD, True, "1", "", (), [], -1, -1e9, float("inf"), HUGE, 10**400)
NAMED = (*ODD, True, 5, -1, 1.5, "", "nothing", "FP32", "a\0b", [], ("auto",))
PATH = (object(), {}, 5, True, 1.5, bytearray(b"a.png"), [], NAN, "a\0.png", np.zeros(2), None)
EVENT = (5, True, "set", object(), [], 1.5)
CALLED = (5, True, "print", object(), [], 1.5)
PICTURE = (*ODD, None, 5, "a.png", [], np.zeros(3, np.uint8), np.zeros((2, 2, 2, 2), np.uint8))
TOKENS = (*ODD, None, "1", [[1], [1, 2]], [], np.zeros((1, 2, 2)), np.full((2, 2), -1), np.full((2, 2), 10**6), 5)
ARRAY = (*ODD, None, 5, "1", [1], np.zeros((1, 256)), np.zeros((1, 256), np.int64), np.zeros(0, np.int32))

WRONG: dict[str, tuple[Any, ...]] = {
    "count": (*COUNTED, 10**8, HUGE),
    "seed": (*WHOLE, None, -1, 2**64, HUGE),
    "seeds": (
        *ODD,
        5,
        True,
        "12",
        [],
        (),
        [-1],
        [2**64],
        [1.5],
        ["1"],
        [True],
        [None],
        [[1]],
        {1: 2},
        range(10**8),
        iter([1]),
        range(10**30),
        (i for i in range(3)),
    ),
    "label": (
        *ODD,
        True,
        np.True_,
        1.0,
        -1,
        10**6,
        HUGE,
        "",
        "cat",
        b"lorelei",
        [],
        ["lorelei"] * 3,
        [True],
        [1.5],
        [b"lorelei"],
        [["lorelei"]],
        {"lorelei": 1},
        np.array(2),
        iter(["lorelei"]),
    ),
    "steps": (*COUNTED, 5000, 1_000_000, HUGE),
    "temperature": (*NUMBER, 0, 1e-9, 101),
    "top_k": (*WHOLE, -1, -HUGE),
    "top_p": (*NUMBER, 0, 1.01),
    "guidance": (*NUMBER, 100.5),
    "schedule": NAMED,
    "order": NAMED,
    "choice_temperature": (*NUMBER, 1.1e6),
    "remask": (*NUMBER, "all", 1.5),
    "final_temperature": (*NUMBER, 0, 101),
    "proportion": (*NUMBER, 0, 1.5, (0.5,), (0.5, 0.5, 0.5), (0, 1), ("1", "1"), (True, True), (0.5, None)),
    "min_steps": (*WHOLE, -1),
    "resolution": (*WHOLE, 0, -1, 255, HUGE),
    "size": (
        *ODD,
        True,
        256,
        "256",
        (256,),
        (256, 256, 256),
        (256.0, 256.0),
        ("256", "256"),
        (0, 0),
        (-256, 256),
        (250, 256),
        (True, 256),
        (16 * 10**9, 16),
        (HUGE * 16, 16),
    ),
    "stride": (*COUNTED, 17, HUGE),
    "cancel": EVENT,
    "on_step": CALLED,
    "on_build": CALLED,
    "budget_ms": (*NUMBER, 0, 1e10),
    "strength": (*NUMBER, 0, 1.5),
    "image": PICTURE,
    "mask": (*PICTURE, np.zeros((256, 256), np.uint8), np.ones((3, 3), np.bool_), np.zeros((256, 256), np.bool_)),
    "images": (*ODD, None, 5, "a.png", [], [5], ["a.png"], [None], [np.zeros(3)], [np.zeros((2, 2, 9), np.uint8)]),
    "feather": (*WHOLE, None, -1, HUGE),
    "left": (*WHOLE, None, -1, -HUGE, 10**9, HUGE),
    "top": (*WHOLE, None, -1, 10**9),
    "right": (*WHOLE, None, -1, 10**9),
    "bottom": (*WHOLE, None, -1, 10**9),
    "fit": NAMED,
    "grey": NAMED,
    "tokens": TOKENS,
    "labels": ARRAY,
    "rows": (*ARRAY, np.full((1, 1), 256, np.int32), np.full((1, 1), -1, np.int32)),
    "time": (*WHOLE, 0, -1, HUGE),
    "role": (*ODD, None, 5, "", "nothing", []),
    "bundle": (*ODD, 5, True, "https://example.org/a.zip", "s3://a/b", "", "no such bundle", "a\0b", [], Image),
    "provider": NAMED,
    "precision": NAMED,
    "threads": (*COUNTED, 10**6, HUGE),
    "backend": (*ODD, 5, "cpu", smalti.NullBackend),
    "limits": (*ODD, 5, "many", {"count": 3}, smalti.Limits),
    "pixels": (*COUNTED, None),
    "all_pixels": (*COUNTED, None),
    "memory": (*COUNTED, None),
    "target": (*PATH, "a.gif", "a", "", io.BytesIO(), io.BytesIO, io.StringIO()),
    "which": (*WHOLE, -1, 1, HUGE),
    "format": NAMED,
    "quality": (*WHOLE, 0, 50, 101, -HUGE),
    "folder": (*PATH, ""),
    "overwrite": (*ODD, None, 0, 1, "yes", []),
    "on_picture": CALLED,
    "source": (*PATH, "missing.png", "", io.StringIO(), io.BytesIO(), io.BytesIO(b"no picture"), io.BytesIO),
    "runtime": NAMED,
    "components": (*ODD, None, 5, "denoiser", ["nothing"], [None], [["denoiser"]], ["denoiser", 5], {"denoiser": 1}),
    "on_progress": CALLED,
    "meanwhile": NAMED,
    "box": (
        *ODD,
        True,
        5,
        "1",
        (0, 0, 16),
        (0, 0, 0, 16),
        (-1, 0, 16, 16),
        (0, 0, 33, 16),
        (0.0, 0, 16, 16),
        ("0", 0, 1, 1),
    ),
    "columns": COUNTED,
}
"""Wrong values of each parameter, by its name. A parameter that is new needs an entry here."""
OVERRIDES: dict[str, tuple[Any, ...]] = {
    "logits.tokens": (*ARRAY, np.full((1, 256), 10**6, np.int32), np.full((1, 256), -1, np.int32)),
    "Limits.count": (*COUNTED, None),
    "Limits.steps": (*COUNTED, None),
    "Limits.threads": (*COUNTED, None),
    "replay.image": (*PICTURE, Image.new("RGB", (8, 8))),
    "open_bundle.source": (*ODD, 5, True, "https://example.org/a.zip", "", "no such bundle", "a\0b", [], Image),
    "EngineBuild.targets": (*ODD, True, 5, "", "sm_86", ["nothing"], [5], [None], ["sm_86", ""]),
    "EngineBuild.precision": (*ODD, True, 5, "", "nothing", "int8", "auto", []),
    "Bundle.read.name": ("", "nothing", "../manifest.json", 5, None, (1,)),
    "Bundle.variant.role": ("", "nothing", 5, None),
    "Bundle.variant.precision": ("", "nothing", 5, None, (1,)),
}
"""Of those that mean something else in one call."""
WORDS = {
    "images": "image",
    "seeds": "seed",
    "labels": "label",
    "name": "",
    "target": "target|format",
    "source": "source|bundle|.png",
    "meanwhile": "provider",
    "role": "the bundle has no|role",
    "precision": "precision|variant",
}
"""What a message has to say where it is not the name of the parameter."""
PICTURE_256 = Image.new("RGB", (256, 256))
HALF = np.arange(256)[:, None].repeat(256, axis=1) < 128
CANVAS = np.zeros((1, 256), np.int32)


def made(family: str) -> smalti.Generator:
    """The embedded bundle as one of a family, without a network."""
    bundle = smalti.open_bundle()
    manifest = msgspec.structs.replace(bundle.manifest, family=family, sampler=FAMILIES[family].defaults)
    return smalti.load(dataclasses.replace(bundle, manifest=manifest), backend=smalti.NullBackend())


GEN = smalti.load(backend=smalti.NullBackend())
SUNDAE = made("sundae")
RESULT = GEN.generate(steps=1)
RECIPE = GEN.inpaint(PICTURE_256, HALF, steps=1).recipe()
LEFT = {"Bundle.precisions": "answers () for what is not there"}
"""Calls without wrong values, and why."""

BASE: dict[str, dict[str, Any]] = {
    "inpaint": {"image": PICTURE_256, "mask": HALF},
    "stream_inpaint": {"image": PICTURE_256, "mask": HALF},
    "outpaint": {"image": PICTURE_256, "left": 16},
    "stream_outpaint": {"image": PICTURE_256, "left": 16},
    "vary": {"image": PICTURE_256},
    "encode": {"images": [PICTURE_256]},
    "embed": {"images": [PICTURE_256]},
    "decode": {"tokens": np.zeros((1, 2, 2), np.int32)},
    "logits": {"tokens": CANVAS, "labels": np.zeros(1, np.int32), "rows": np.zeros((1, 1), np.int32)},
    "session": {"role": "decoder"},
    "Bundle.read": {"name": "manifest.json"},
    "Bundle.variant": {"role": "decoder", "precision": "fp32"},
    "Result.save": {"target": "never.png"},
    "generate_into": {"folder": "never"},
    "replay": {"source": RECIPE, "image": PICTURE_256, "mask": HALF},
    "load": {},
}
"""Arguments with which a call is right."""


def methods(kind: type) -> Iterator[str]:
    """Public methods."""
    yield from (name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name)))


def calls() -> dict[str, Callable[..., Any]]:
    """Every public call by its name."""
    found: dict[str, Callable[..., Any]] = {name: getattr(GEN, name) for name in methods(smalti.Generator)}
    found |= {f"Result.{name}": getattr(RESULT, name) for name in methods(smalti.Result)}
    found |= {f"Bundle.{name}": getattr(GEN.bundle, name) for name in methods(smalti.Bundle)}
    found |= {name: getattr(smalti, name) for name in ("load", "open_bundle", "embedded_bundles")}
    found |= {name: getattr(smalti, name) for name in ("read_recipe", "replay", "EngineBuild", "Upgrade")}
    return {**found, "Limits": smalti.Limits}


def parameters(call: Callable[..., Any]) -> Iterator[str]:
    """Names of a call's parameters, each option of a draw among them."""
    for one in inspect.signature(call).parameters.values():
        yield from Options.__annotations__ if one.kind is inspect.Parameter.VAR_KEYWORD else (one.name,)


CALLS = calls()
PAIRS = [(name, one) for name, call in CALLS.items() if name not in LEFT for one in parameters(call)]


def wrong_values(call: str, parameter: str) -> tuple[Any, ...]:
    return OVERRIDES.get(f"{call}.{parameter}") or WRONG[parameter]


def refusal(name: str, parameter: str, value: Any) -> str:
    """What is wrong with the answer of a call to a wrong value; empty if it is refused as it should be."""
    call = CALLS[name]
    if parameter in OWN_OPTIONS and parameter not in FAMILIES["absorbing"].options:
        call = getattr(SUNDAE, name)
    base = dict(BASE.get(name, {}))
    if name == "outpaint" and parameter != "left":
        base["left"] = 16
    try:
        answer = call(**{**base, parameter: value})
        if inspect.isgenerator(answer):
            next(answer)
    except smalti.SmaltiError as error:
        words = WORDS.get(parameter, parameter).split("|")
        return "" if any(word in str(error) for word in words) else f"{value!r}: not named: {error}"
    except BaseException as error:
        return f"{value!r}: {type(error).__name__}: {error}"
    return f"{value!r}: taken"


def test_every_parameter_of_every_public_call_is_in_the_table_of_cases() -> None:
    assert not {one for call, one in PAIRS if f"{call}.{one}" not in OVERRIDES and one not in WRONG}
    assert sum(len(wrong_values(*pair)) for pair in PAIRS) >= 300


@pytest.mark.parametrize(("call", "parameter"), PAIRS, ids=lambda value: str(value))
def test_cases_of_wrong_arguments_are_refused_by_name(call: str, parameter: str, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    found = [refusal(call, parameter, value) for value in wrong_values(call, parameter)]
    assert not [told for told in found if told]
    assert not list(tmp_path.iterdir())


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2) | st.tuples(inner),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(Options.__annotations__)), anything)
def test_cases_of_any_value_of_any_option_are_drawn_or_refused(name: str, value: Any) -> None:
    gen = SUNDAE if name in ("final_temperature", "proportion", "min_steps") else GEN
    options = {"steps": 1, **({"seeds": [1]} if name != "seeds" else {}), name: value}
    try:
        next(iter(gen.stream(**options)))
    except smalti.SmaltiError as error:
        told = str(error)
    else:
        told = name
    assert WORDS.get(name, name) in told


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["bundle", "provider", "precision", "threads", "backend", "limits", "cancel", "on_build"]), anything
)
def test_cases_of_any_value_of_load_are_refused(name: str, value: Any) -> None:
    if value is None or (name == "threads" and value in (1, 2)) or value == "auto":
        return
    with pytest.raises(smalti.SmaltiError, match=name):
        smalti.load(**{name: value})


RIGHT_CASES = [
    {"count": np.int64(2)},
    {"seed": np.uint64(2**63)},
    {"label": np.int8(3)},
    {"label": np.array(["lorelei", "planets"]), "count": 2},
    {"label": ("lorelei", None, np.int64(2)), "count": 3},
    {"seeds": range(3)},
    {"seeds": np.arange(3)},
    {"seeds": (1, 2), "count": 2},
    {"temperature": np.float32(0.5)},
    {"temperature": 1},
    {"size": [256, 512]},
    {"resolution": np.int64(512)},
    {"top_p": np.float64(0.5)},
]


@pytest.mark.parametrize("options", RIGHT_CASES, ids=str)
def test_cases_of_right_arguments_of_other_types_are_still_taken(options: dict[str, Any]) -> None:
    assert GEN.generate(**{"steps": 1, **options}).images


def test_cases_of_seeds_beside_a_seed_ask_which_one_is_meant() -> None:
    for seeds, seed in itertools.product(([1], [1, 2], range(2)), (1, 5)):
        with pytest.raises(smalti.UsageError, match="which one"):
            GEN.generate(seed=seed, seeds=seeds)
    assert GEN.generate(seed=0, seeds=[4], steps=1).settings.seeds == (4,)


def test_cases_of_wrong_inputs_of_the_prior_print_nothing(capfd) -> None:
    gen = smalti.load(provider="cpu", threads=1)
    good = BASE["logits"]
    assert gen.logits(**good).shape == (1, 1, gen.manifest.latent.codes)
    for name, value in {"tokens": CANVAS[:, :4], "labels": CANVAS[0, :2], "rows": CANVAS[0]}.items():
        with pytest.raises(smalti.UsageError, match=name):
            gen.logits(**{**good, name: value})
    assert capfd.readouterr() == ("", "")


def test_an_event_of_another_kind_is_taken() -> None:
    assert GEN.generate(steps=1, cancel=threading.Event()).images
