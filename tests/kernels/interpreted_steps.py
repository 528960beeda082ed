"""The small Triton kernels, interpreted, against NumPy. `test_triton.py` runs this file with TRITON_INTERPRET=1.

Triton reads that variable when it is first imported, so these tests need a process of their own.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from helpers import step_cases as cases
from helpers.step_cases import OPTIONS, SORTS, Arrays, Case
from smalti_kernels.impl.abi import FLAG_TRUNCATED
from smalti_kernels.impl.triton.launch import _host_pointer

VOCABULARIES = [6, 100, 513, 1000]


def interpreted(case: Case) -> Arrays:
    """What the kernel writes."""
    held = {name: array.copy() for name, array in case.arrays.items()}
    values: dict[str, Any] = dict(case.numbers)
    for argument in case.form.arguments:
        if argument.type.startswith("*"):
            # Arguments that the flags leave unread can have any address.
            values[argument.name] = _host_pointer(held.get(argument.name, held.get("logits")), argument.type)
    module = importlib.import_module(f"smalti_kernels.impl.triton.{case.form.module}")
    with np.errstate(all="ignore"):
        getattr(module, case.form.kernel)[(case.grid,)](**values, **case.form.constants)
    changed = {name for name, array in held.items() if array.tobytes() != case.arrays[name].tobytes()}
    assert changed <= set(case.expected)
    return {name: held[name] for name in case.expected}


def check(case: Case) -> None:
    assert case.differing(interpreted(case)) == {}


@pytest.mark.parametrize("count", [1, 255, 256, 700])
def test_elements_are_moved(count):
    check(cases.moved(np.random.default_rng(count), count))


def test_nothing_but_fillers_is_taken_and_nothing_is_put():
    for name in ("take", "put"):
        case = cases.moved(np.random.default_rng(1), 300, filler=-5)
        case.arrays[name][:] = -1
        target = case.arrays["target"].copy()
        if name == "take":
            target[case.arrays["put"][case.arrays["put"] >= 0]] = -5
        check(case._replace(expected={"target": target}))


@pytest.mark.parametrize("vocabulary", [1, 6, 16, 255, 256, 257, 1000])
@pytest.mark.parametrize("more", [0, 17])
def test_rows_are_widened(vocabulary, more):
    check(cases.widened(np.random.default_rng([vocabulary, more]), 5, vocabulary, more))


@pytest.mark.parametrize(
    ("rows", "errors"),
    [
        (1, {0: 4}),
        (1, {}),
        (1023, {1022: 1}),
        (1024, {}),
        (3000, {2500: 5, 1400: 3}),
        (3000, {2999: 7, 2047: 16, 2048: 2}),
        (5000, {4100: 1, 1500: 2}),
    ],
)
def test_the_first_error_is_noted_and_kept(rows, errors):
    reported = np.zeros(rows, np.int32)
    reported[list(errors)] = list(errors.values())
    for before in ((0, 0, 0), (3, 17, 4)):
        check(cases.noted(reported, before, call=9))


@pytest.mark.parametrize("vocabulary", [*VOCABULARIES, 8192])
@pytest.mark.parametrize("fresh", [True, False])
def test_windows_are_mixed(vocabulary, fresh):
    rows, most = (2, 2) if vocabulary == 8192 else (8, 4)
    rng = np.random.default_rng([vocabulary, fresh])
    check(cases.mixed(rng, rows, vocabulary, fresh=fresh, more=int(fresh), most=most))


@pytest.mark.parametrize("vocabulary", [1, *VOCABULARIES, 8192])
def test_sums_become_logits(vocabulary):
    check(cases.mixture_of(np.random.default_rng(vocabulary), 8, vocabulary, more=vocabulary % 2))


POSTERIORS = [(VOCABULARIES[number % 4], name) for number, name in enumerate(OPTIONS)]
POSTERIORS += [(vocabulary, name) for vocabulary in (1, *VOCABULARIES) for name in ("all",)]


@pytest.mark.parametrize(("vocabulary", "name"), dict.fromkeys(POSTERIORS))
def test_posteriors_of_rows_of_all_sorts(vocabulary, name):
    rng = np.random.default_rng([vocabulary, list(OPTIONS).index(name)])
    # Bisections take long to interpret.
    rows = 4 if OPTIONS[name].flags & FLAG_TRUNCATED else SORTS
    check(cases.posterior_of(rng, rows, vocabulary, OPTIONS[name], more=vocabulary % 2))


@pytest.mark.parametrize("name", ["guided", "all", "top-p"])
def test_posteriors_of_a_large_vocabulary(name):
    check(cases.posterior_of(np.random.default_rng(8192), 3, 8192, OPTIONS[name]))
