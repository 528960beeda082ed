"""The kernel's interface as data: it matches the kernel's source, and every vocabulary finds a variant."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import smalti_kernels
from smalti_kernels.impl import abi


def test_the_kernel_takes_the_arguments_listed():
    source = (Path(smalti_kernels.__file__).parent / "impl/triton/kernel.py").read_text()
    kernel = next(
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == abi.KERNEL_NAME
    )
    names = [argument.arg for argument in kernel.args.args]
    assert names == [argument.name for argument in abi.ARGUMENTS] + list(abi.CONSTANTS)


def test_variants_have_names_of_their_own_and_few_they_are():
    assert len({variant.name for variant in abi.VARIANTS}) == len(abi.VARIANTS) < 30
    for variant in abi.VARIANTS:
        assert tuple(variant.constants) == abi.CONSTANTS
        assert len(variant.types) == len(abi.ARGUMENTS)
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
