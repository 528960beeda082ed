"""The shipped kernels, as PTX text executed in NumPy with checked memory, draw what the reference draws.

One part is another one every day; its number stands in the tests' names, and SMALTI_PTX_SEED asks for that of another.
All of it is slow: `pytest -m slow tests/kernels/test_ptx.py`.
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

import ml_dtypes
import numpy as np
import pytest

from helpers.ptx import IllegalAddress, Misaligned, shipped
from smalti_kernels import sample
from smalti_kernels.checks import as_request
from smalti_kernels.impl import abi
from smalti_kernels.impl.abi import FLAG_GUIDED, FLAG_LOGPROB, VARIANTS, Variant
from smalti_kernels.impl.cuda.targets import TARGETS
from smalti_kernels.impl.reference import explain

SEED = int(os.environ.get("SMALTI_PTX_SEED", date.today().toordinal()))
DTYPES: dict[str, Any] = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}
DEFAULTS: dict[str, Any] = {"uncond": None, "guidance": 1.0, "top_k": 0, "top_p": 1.0, "logprob": False}
BY_NAME = {variant.name: variant for variant in VARIANTS}
FLAGS = (0, FLAG_GUIDED, FLAG_LOGPROB, FLAG_GUIDED | FLAG_LOGPROB)
ALL = [(variant, flags) for variant in VARIANTS for flags in FLAGS]
SMALL = [(BY_NAME[f"{kind}_v256"], flags) for kind in abi.LOGITS for flags in (0, FLAG_GUIDED | FLAG_LOGPROB)]
TODAY = [*SMALL, *(ALL[(8 * SEED + step) % len(ALL)] for step in range(8))]
ERRORS = (abi.ERROR_NAN, abi.ERROR_INFINITE, abi.ERROR_FORBIDDEN)
UNSOUND = [np.nan, np.inf, -np.inf]


def arguments(variant: Variant, flags: int, seed: int, rows: int = 0, vocabulary: int = 0) -> dict[str, Any]:
    """A random draw that the variant is chosen for, as arguments of `sample`."""
    rng = np.random.default_rng([seed, flags, VARIANTS.index(variant)])
    rows = rows or int(rng.integers(3, 24))
    vocabulary = vocabulary or int(rng.integers(variant.vocabulary * 3 // 4, variant.vocabulary + 1))
    grids, length = rows // 64 + 3, 64
    place = rng.permutation(grids * length)[:rows]
    logits = rng.standard_normal((2, rows, vocabulary), np.float32) * 3
    logits[0, :, 1:][rng.random((rows, vocabulary - 1)) < 0.02] = -np.inf
    given = {
        "logits": logits[0].astype(DTYPES[variant.logits]),
        "tokens": rng.integers(0, vocabulary, (grids, length)).astype(np.int32),
        "sample": place // length,
        "position": place % length,
        "seeds": rng.integers(0, 2**63, grids),
        "step": rng.integers(0, 2**32, rows),
        "width": 8,
        "temperature": rng.uniform(0.3, 2, grids),
        "logprob": bool(flags & FLAG_LOGPROB),
        "threads": 1,
    }
    if flags & FLAG_GUIDED:
        given |= {"uncond": logits[1].astype(DTYPES[variant.logits]), "guidance": 2.5}
    if variant.held:
        given |= {"top_k": rng.integers(1, 50, grids), "top_p": rng.uniform(0.2, 1, grids)}
    return DEFAULTS | given


def differing(given: dict[str, Any], text: str | None = None, **launch: Any) -> int:
    """Draw with a kernel's text and with the reference: how many of the results differ; a row's error is one."""
    found, expected = shipped.draw(as_request(**given), text, **launch), sample(**given)
    count = int((found.tokens != expected.tokens).sum() + (found.changed != expected.changed).sum())
    if expected.logprob is not None:
        assert found.logprob is not None
        count += int((found.logprob != expected.logprob).sum())
    return count + int((found.errors != 0).sum())


def named(cases: list[tuple[Variant, int]]) -> list[Any]:
    return [
        pytest.param(variant, flags, id=f"{variant.name}-{flags}-{SEED}") for variant, flags in dict.fromkeys(cases)
    ]


@pytest.mark.parametrize(("variant", "flags"), named(TODAY))
def test_a_part_of_the_variants_draws_what_the_reference_draws(variant, flags):
    given = arguments(variant, flags, SEED)
    assert shipped.variant_of(as_request(**given)) is variant
    assert differing(given) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "flags"), named(ALL))
def test_every_variant_draws_what_the_reference_draws(variant, flags):
    given = arguments(variant, flags, SEED)
    assert shipped.variant_of(as_request(**given)) is variant
    assert differing(given) == 0


@pytest.mark.parametrize("kind", abi.LOGITS)
@pytest.mark.parametrize("vocabulary", [1, 15, 16, 100, 784, 1000, 2032, 2047])
def test_vocabularies_that_do_not_fill_the_last_chunk(kind, vocabulary):
    variant = abi.variant_for(kind, vocabulary, 0)
    assert differing(arguments(variant, FLAG_LOGPROB, SEED, 12, vocabulary)) == 0


@pytest.mark.parametrize("vocabulary", [784, 1000])
def test_truncated_vocabularies_that_do_not_fill_the_last_chunk(vocabulary):
    assert differing(arguments(BY_NAME["bf16_v1024_truncated"], FLAG_LOGPROB, SEED, 8, vocabulary)) == 0


@pytest.mark.parametrize("multiprocessors", [1, 3])
def test_the_number_of_programs_does_not_matter(multiprocessors):
    given = arguments(BY_NAME["fp16_v256"], FLAG_LOGPROB, SEED, 300)
    assert differing(given, multiprocessors=multiprocessors) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", abi.LOGITS)
def test_a_hundred_thousand_draws(kind):
    draws = wrong = 0
    for turn in range(9):
        vocabulary = (256, 200, 1024, 64)[turn % 4]
        given = arguments(abi.variant_for(kind, vocabulary, 0), FLAGS[turn % 4], SEED + turn, 4000, vocabulary)
        wrong += differing(given, multiprocessors=1000)
        draws += 4000
    assert (draws, wrong) == (36000, 0)


def expected_bits(reason: str | None) -> int:
    """The error bits of a row that has no answer for a reason of the reference."""
    if reason is None:
        return 0
    what = reason.partition(": ")[2]
    errors = (*ERRORS, *(error | abi.ERROR_GUIDED for error in ERRORS), abi.ERROR_RANGE)
    (bits,) = [bits for bits in errors if what.startswith(abi.describe_error(bits).partition(";")[0])]
    return bits


@pytest.mark.parametrize("flags", [0, FLAG_GUIDED | FLAG_LOGPROB])
@pytest.mark.parametrize("name", ["fp32_v256", "fp16_v2048", "bf16_v2048", "fp32_v1024_truncated"])
def test_rows_without_an_answer_have_the_errors_of_the_reference(name, flags):
    variant = BY_NAME[name]
    given = arguments(variant, flags, SEED, 14, variant.vocabulary)
    given["temperature"][:] = 1.0
    places = [0, variant.vocabulary - 1, 5]
    for row, (value, place) in enumerate(zip(UNSOUND[:2] * 2, places * 2)):
        given["logits"][row, place] = value
    given["logits"][4] = -np.inf
    given["logits"][5, 7] = 30000.0  # over 16384, with 65536 of float32 and with the greatest float16
    given["logits"][6] = -30000.0
    given["logits"][7, [1, 2]] = [np.nan, np.inf]
    if flags & FLAG_GUIDED:
        for row, value in enumerate(UNSOUND, 8):
            given["uncond"][row, 3 if row < 10 else slice(None)] = value
    request = as_request(**given)
    found = shipped.draw(request)
    guided = request.uncond is not None
    reasons = [explain(request, row, request.logits[row], request.uncond[row] if guided else None) for row in range(14)]
    assert found.errors.tolist() == [expected_bits(reason) for reason in reasons]
    assert sum(map(bool, reasons)) >= (10 if guided else 8)
    good = np.flatnonzero(found.errors == 0)
    rows = {key: given[key][good] for key in ("logits", "sample", "position", "step")}
    expected = sample(**given | rows | ({"uncond": given["uncond"][good]} if guided else {}))
    # A row without an answer leaves its token, and says that nothing changed.
    assert np.array_equal(found.tokens, expected.tokens)
    assert np.array_equal(found.changed[good], expected.changed)
    assert not found.changed[found.errors != 0].any()


def replaced(text: str, pattern: str, by: str) -> str:
    text, count = re.subn(pattern, by, text)
    assert count
    return text


FILLERS = {
    # -inf twice in a word, and instead NaN in its lower half.
    "fp16_v2048": (r"-67044352\b", "-67043840"),
    # Beyond the vocabulary 0 is loaded and -inf chosen. It was once a filler, of which every second lane was NaN.
    "bf16_v2048": (r"(selp\.f32\s+%r\d+, %r\d+, )0fFF800000", r"\g<1>0fFFC00000"),
}


@pytest.mark.parametrize("name", FILLERS)
def test_a_wrong_filler_beyond_the_vocabulary_is_noticed(name):
    text = replaced(shipped.shipped_text(name), *FILLERS[name])
    given = arguments(BY_NAME[name], 0, SEED, 12, 1000)
    assert differing(given, text) >= 12
    assert (shipped.draw(as_request(**given), text).errors == abi.ERROR_NAN).all()


def shifted_texts(text: str) -> dict[str, str]:
    """The text with each of its accesses to global memory in turn one element too far, by the instruction."""
    found = {}
    for match in re.finditer(r"(?:ld|st)\.global\.(?:v(\d)\.)?b(\d+)[^;]*?\+ (0) \][^;]*", text):
        step = int(match[1] or 1) * int(match[2]) // 8
        found[match[0]] = text[: match.start(3)] + str(step) + text[match.end(3) :]
    return found


def is_noticed(given: dict[str, Any], text: str) -> bool:
    try:
        return differing(given, text) > 0
    except (IllegalAddress, Misaligned):
        return True


def everything() -> dict[str, Any]:
    """A draw that executes all of a small variant: half of its rows lie beside the scores' limit and are searched."""
    given = arguments(BY_NAME["fp32_v256"], FLAG_GUIDED | FLAG_LOGPROB, SEED, 60, 256)
    given["temperature"][:] = 1.0
    given["guidance"] = 1.0
    given["logits"][30:] += np.float32(16300)
    return given


def test_accesses_one_element_too_far_are_noticed():
    given, texts = everything(), shifted_texts(shipped.shipped_text("fp32_v256"))
    wide_or_written = {name: text for name, text in texts.items() if name.startswith(("st.", "ld.global.v"))}
    assert len(wide_or_written) >= 8
    assert [name for name, text in wide_or_written.items() if not is_noticed(given, text)] == []


@pytest.mark.slow
def test_almost_every_access_one_element_too_far_is_noticed():
    """What a table holds beside an entry is nearly the same, and some threads read what others of their row use."""
    given, texts = everything(), shifted_texts(shipped.shipped_text("fp32_v256"))
    missed = [name for name, text in texts.items() if not is_noticed(given, text)]
    assert len(missed) <= len(texts) // 6, missed


def test_an_access_beyond_an_array_is_named():
    text = shipped.shipped_text("fp32_v256")
    wide = next(shifted for name, shifted in shifted_texts(text).items() if name.startswith("ld.global.v4"))
    given = arguments(BY_NAME["fp32_v256"], FLAG_LOGPROB, SEED, 60, 256)
    with pytest.raises(IllegalAddress, match=r"read of 16 bytes at 0x[0-9a-f]+ by '.*ld\.global\.v4.*logits at"):
        shipped.draw(as_request(**given), wide)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory):
    """What finds the texts of a target: (variant, text, shared bytes) of a few variants, compiled here."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    script = Path(shipped.__file__).with_name("compile_targets.py")

    def texts(target: str, *variants: str) -> list[tuple[str, str, int]]:
        folder = tmp_path_factory.mktemp(target)
        command = [sys.executable, str(script), str(folder), target, ",".join(variants)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        made = json.loads(done.stdout)
        return [(name.partition(".")[0], (folder / name).read_text(), shared) for name, shared in made.items()]

    return texts


@pytest.mark.slow
@pytest.mark.parametrize("target", [target.name for target in TARGETS])
def test_the_text_of_every_target_draws_what_the_reference_draws(compiled, target):
    made = compiled(target, "fp32_v256", "bf16_v2048", "fp16_v1024_truncated")
    assert len(made) == 3
    for name, text, shared in made:
        for flags in FLAGS:
            given = arguments(BY_NAME[name], flags, SEED, 0, 1000 if name == "bf16_v2048" else 0)
            assert differing(given, text, shared_bytes=shared) == 0, (name, flags)
