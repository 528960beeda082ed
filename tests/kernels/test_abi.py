"""The kernels' interfaces as data: they match the kernels' sources, and every vocabulary finds a form."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import smalti_kernels
from smalti_kernels.impl import abi, forms
from smalti_kernels.impl.forms import FORMS

FOLDER = Path(smalti_kernels.__file__).parent / "impl/triton"
SCALARS = {"i32", "i64", "fp32"}
POINTERS = {"*i8", "*i32", "*i64", "*fp32", "*fp16", "*u16"}


@cache
def functions_of(module: str) -> dict[str, ast.FunctionDef]:
    """The functions of a file, by name."""
    body = ast.parse((FOLDER / f"{module}.py").read_text()).body
    return {node.name: node for node in body if isinstance(node, ast.FunctionDef)}


def unspecialized(function: ast.FunctionDef) -> set[str]:
    """What a kernel's decorator keeps from being specialized."""
    (decorator,) = function.decorator_list
    if not isinstance(decorator, ast.Call):
        return set()
    return {name for option in decorator.keywords for name in ast.literal_eval(option.value)}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_kernel_takes_the_arguments_listed(form):
    function = functions_of(form.module)[form.kernel]
    compile_time = [a.arg for a in function.args.args if a.annotation and ast.unparse(a.annotation) == "tl.constexpr"]
    assert list(form.constants) == compile_time
    names = [argument.name for argument in form.arguments]
    assert [argument.arg for argument in function.args.args] == names + compile_time
    others = (function.args.defaults, function.args.vararg, function.args.kwonlyargs, function.args.kwarg)
    assert not any(others)
    assert unspecialized(function) <= set(names)


def test_every_entry_point_is_built():
    """Functions without an underscore in the files of kernels, `parts` aside, are all in some form."""
    for module in {form.module for form in FORMS.values()}:
        public = {name for name in functions_of(module) if not name.startswith("_")}
        assert public == {form.kernel for form in FORMS.values() if form.module == module}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_forms_are_written_as_the_compiler_takes_them(form):
    assert FORMS[form.name] is form
    assert form.name.isidentifier()
    assert {argument.type for argument in form.arguments} <= SCALARS | POINTERS
    assert all(argument.meaning for argument in form.arguments)
    assert len({argument.name for argument in form.arguments}) == len(form.arguments)
    powers = [form.num_warps, *(value or 1 for name, value in form.constants.items() if name != "LOGITS")]
    assert all(power & (power - 1) == 0 for power in powers)


def test_forms_of_one_kernel_differ_in_constants_and_types_alone():
    assert len(FORMS) == len(abi.VARIANTS) + 10
    for name in {form.kernel for form in FORMS.values()}:
        alike = [form for form in FORMS.values() if form.kernel == name]
        assert len({form.module for form in alike}) == 1
        assert len({tuple(argument.name for argument in form.arguments) for form in alike}) == 1
        assert len({(*form.constants.items(), *(a.type for a in form.arguments)) for form in alike}) == len(alike)


@pytest.mark.parametrize("variant", abi.VARIANTS, ids=lambda variant: variant.name)
def test_every_variant_of_the_draw_is_a_form(variant):
    form = FORMS[variant.name]
    assert (form.kernel, form.num_warps) == (abi.KERNEL_NAME, variant.num_warps)
    assert form.constants == variant.constants
    assert tuple(argument.type for argument in form.arguments) == variant.types
    assert [argument._replace(type="") for argument in form.arguments] == [
        argument._replace(type="") for argument in abi.ARGUMENTS
    ]
    assert tuple(variant.constants) == abi.CONSTANTS


@given(st.integers(1, abi.MAX_VOCABULARY), st.integers(0, 7))
def test_every_vocabulary_has_a_posterior_that_holds_it(vocabulary, flags):
    form = forms.posterior_for(vocabulary, flags)
    held = form.constants["HELD"]
    assert bool(held) == bool(flags & abi.FLAG_TRUNCATED)
    smaller = [other.constants["HELD"] for other in forms.POSTERIORS if 0 < other.constants["HELD"] < held]
    assert not held or max(smaller, default=0) < vocabulary <= held


@pytest.mark.parametrize("vocabulary", [0, -1, 16385])
@pytest.mark.parametrize("flags", [0, abi.FLAG_TRUNCATED])
def test_vocabularies_that_no_posterior_holds_are_refused(vocabulary, flags):
    with pytest.raises(ValueError, match=f"1 to 16384 tokens; got {vocabulary}"):
        forms.posterior_for(vocabulary, flags)


def test_variants_have_names_of_their_own_and_few_they_are():
    assert len({variant.name for variant in abi.VARIANTS}) == len(abi.VARIANTS) < 30
    for variant in abi.VARIANTS:
        assert variant.held in (0, variant.vocabulary)
        for size in (variant.rows, variant.chunk, variant.num_warps, variant.held or 1):
            assert size & (size - 1) == 0


@given(st.sampled_from(abi.LOGITS), st.integers(1, abi.MAX_VOCABULARY), st.integers(0, 7))
def test_every_vocabulary_runs_in_the_least_variant_that_holds_it(logits, vocabulary, flags):
    variant = abi.variant_for(logits, vocabulary, flags)
    assert variant in abi.VARIANTS
    assert variant.logits == logits
    assert variant.vocabulary >= vocabulary
    assert bool(variant.held) == bool(flags & abi.FLAG_TRUNCATED)
    smaller = [v for v in abi.VARIANTS if v.logits == logits and bool(v.held) == bool(variant.held)]
    assert all(v.vocabulary < vocabulary or v.vocabulary >= variant.vocabulary for v in smaller)


def test_what_no_variant_holds_is_refused():
    with pytest.raises(ValueError, match="1 to 16384 tokens; got 16385"):
        abi.variant_for("fp16", 16385, 0)
    with pytest.raises(ValueError, match="one of fp32, fp16, bf16; got 'int8'"):
        abi.variant_for("int8", 5, 0)


@given(st.integers(0, 10**6), st.sampled_from(abi.VARIANTS), st.integers(1, 200))
def test_there_is_a_program_for_every_row_until_the_device_is_full(rows, variant, multiprocessors):
    programs = abi.programs_for(rows, variant, multiprocessors)
    assert 1 <= programs <= max(1, rows)
    assert programs * variant.num_warps <= 32 * multiprocessors
