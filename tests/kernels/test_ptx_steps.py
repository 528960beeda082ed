"""The small kernels as they are shipped, as PTX text executed in NumPy with checked memory, write what NumPy does.

The random part is another one every day; its number stands in the tests' names, and SMALTI_PTX_SEED asks for that of
another. The text of each target is slow: `pytest -m slow tests/kernels/test_ptx_steps.py`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import step_cases as cases
from helpers.ptx import IllegalAddress, Misaligned, shipped, steps
from helpers.step_cases import OPTIONS, SORTS, Case
from smalti_kernels.impl.abi import FLAG_TRUNCATED
from smalti_kernels.impl.cuda.targets import TARGETS
from smalti_kernels.impl.forms import FORMS, MIX, MIXTURE, MOVE, NOTE, POSTERIORS, WIDEN, Form

SEED = int(os.environ.get("SMALTI_PTX_SEED", date.today().toordinal()))
SMALL = [form for form in FORMS.values() if form.module != "kernel"]
CUT = [name for name, options in OPTIONS.items() if options.flags & FLAG_TRUNCATED]
UNCUT = [name for name in OPTIONS if name not in CUT]


def generator(*more: int) -> np.random.Generator:
    return np.random.default_rng([SEED, *more])


def check(case: Case, text: str | None = None, **launch: Any) -> None:
    assert case.differing(steps.launch(case, text, **launch)) == {}


def cases_of(form: Form, turn: int = 0) -> list[Case]:
    """A few random launches of a form, together all that it does."""
    rng = generator(SMALL.index(form), turn)
    match form.kernel:
        case "smalti_move":
            return [cases.moved(rng, count) for count in (1, 300, 512)]
        case "smalti_widen":
            return [cases.widened(rng, 4, vocabulary, more) for vocabulary, more in ((6, 0), (256, 1), (700, 17))]
        case "smalti_note":
            errors = np.where(rng.random(2500) < 0.002, rng.integers(1, 32, 2500), 0).astype(np.int32)
            errors[2499] = 5
            befores = ((0, 0, 0), (2, 1, 4))
            return [cases.noted(some, before, 7) for some in (errors, errors * 0, errors[2499:]) for before in befores]
        case "smalti_mix":
            return [
                cases.mixed(rng, 8, 6, fresh=True),
                cases.mixed(rng, 6, 513, fresh=False, more=1),
                cases.mixed(rng, 4, 1000, fresh=True, most=3),
            ]
        case "smalti_mixture":
            return [cases.mixture_of(rng, 8, vocabulary, vocabulary % 2) for vocabulary in (1, 100, 513, 1000)]
    held = form.constants["HELD"]
    if not held:
        sizes = (6, 100, 513, 1000)
        return [
            cases.posterior_of(rng, SORTS, sizes[number % 4], OPTIONS[name], number % 2)
            for number, name in enumerate(UNCUT)
        ]
    least = max(other.constants["HELD"] for other in POSTERIORS if other.constants["HELD"] < held)
    sizes = [int(rng.integers(least + 1, held)), held, least + 1]
    rows, names = (SORTS, CUT) if held == 1024 else (3, ["all", "top-p"])
    return [
        cases.posterior_of(rng, rows, sizes[number % 3], OPTIONS[name], number % 2) for number, name in enumerate(names)
    ]


@pytest.mark.parametrize("form", [pytest.param(form, id=f"{form.name}-{SEED}") for form in SMALL])
def test_every_form_writes_what_numpy_does(form):
    for case in cases_of(form):
        assert case.form is form
        check(case)


def test_the_sorts_of_rows_are_all_there():
    """About half of them are no distribution, or lie beyond the limit."""
    case = cases.posterior_of(generator(99), SORTS, 100, OPTIONS["plain"])
    broken = np.isnan(case.expected["out"][:, 0])
    assert SORTS // 3 <= int(broken.sum()) <= SORTS * 2 // 3
    assert np.isneginf(case.arrays["logits"][:, :100]).any()
    assert (case.arrays["logits"] == 16384).any()


def test_what_flags_leave_unread_is_not_read():
    """Without FLAG_GUIDED `uncond` lies nowhere."""
    case = cases.posterior_of(generator(98), 5, 513, OPTIONS["plain"])
    assert "uncond" not in case.arrays
    check(case)
    guided = case._replace(numbers={**case.numbers, "flags": OPTIONS["guided"].flags})
    with pytest.raises(IllegalAddress, match="read of 4 bytes"):
        steps.launch(guided)


def test_the_number_of_rows_does_not_matter():
    """More programs than are executed side by side."""
    check(cases.posterior_of(generator(97), 300, 70, OPTIONS["guided"]))
    check(cases.posterior_of(generator(96), 300, 70, OPTIONS["all"]))
    check(cases.mixed(generator(95), 300, 70, fresh=True))


def shifted_texts(text: str) -> dict[str, str]:
    """The text with each of its accesses to global memory in turn one element too far, by the instruction."""
    found: dict[str, str] = {}
    for match in re.finditer(r"(?:ld|st)\.global\.(?:v(\d)\.)?b(\d+)[^;]*?\+ (0) \][^;]*", text):
        step = int(match[1] or 1) * int(match[2]) // 8
        found[match[0]] = text[: match.start(3)] + str(step) + text[match.end(3) :]
    return found


def unmasked_texts(text: str) -> dict[str, str]:
    """The text with each of its accesses to global memory in turn without its mask, by the instruction."""
    found = re.finditer(r"(@!?%p\d+ )((?:ld|st)\.global[^;]*)", text)
    return {f"without mask: {match[2]}": text[: match.start(1)] + text[match.end(1) :] for match in found}


def faulty_texts(form: Form) -> dict[str, str]:
    text = shipped.shipped_text(form.name)
    return {**shifted_texts(text), **unmasked_texts(text)}


def missed(form: Form, texts: dict[str, str]) -> list[str]:
    """The faults that a form's cases do not notice."""
    given = cases_of(form)

    def is_noticed(text: str) -> bool:
        try:
            return any(case.differing(steps.launch(case, text)) for case in given)
        except (IllegalAddress, Misaligned):
            return True

    return [name for name, text in texts.items() if not is_noticed(text)]


@pytest.mark.parametrize("form", [MOVE, WIDEN], ids=lambda form: form.name)
def test_every_access_one_element_too_far_or_without_its_mask_is_noticed(form):
    texts = faulty_texts(form)
    assert len(texts) >= 8
    assert missed(form, texts) == []


@pytest.mark.parametrize("form", [NOTE, MIX, MIXTURE, POSTERIORS[0]], ids=lambda form: form.name)
def test_results_one_element_too_far_are_noticed(form):
    texts = {name: text for name, text in faulty_texts(form).items() if name.startswith("st.")}
    assert len(texts) >= 2
    assert missed(form, texts) == []


@pytest.mark.slow
@pytest.mark.parametrize("form", [MIX, MIXTURE, POSTERIORS[0]], ids=lambda form: form.name)
def test_almost_every_fault_is_noticed(form):
    """What a table holds beside an entry is nearly the same, and any thread may store what all threads have."""
    texts = faulty_texts(form)
    assert len(texts) >= 30
    left = missed(form, texts)
    assert len(left) <= len(texts) // 6, left


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(1, 21))
@pytest.mark.parametrize("form", [pytest.param(form, id=f"{form.name}-{SEED}") for form in SMALL])
def test_more_cases_of_every_form(form, turn):
    for case in cases_of(form, turn):
        check(case)


@pytest.mark.slow
@pytest.mark.parametrize("target", [target.name for target in TARGETS])
def test_the_text_of_every_target_writes_what_numpy_does(target, tmp_path):
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    script = Path(shipped.__file__).with_name("compile_targets.py")
    names = ",".join(form.name for form in SMALL)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), target, names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert len(made) == len(SMALL)
    for name, shared in made.items():
        text = (tmp_path / name).read_text()
        for case in cases_of(FORMS[name.partition(".")[0]]):
            check(case, text, shared_bytes=shared)
