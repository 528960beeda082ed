"""The noise backwards: every step is undone, and the tokens below a noise word are exactly those."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti_kernels.spec import inverse
from smalti_kernels.spec import noise as n


def test_unmix_undoes_mix():
    words = np.random.default_rng(0).integers(0, 2**32, 1 << 16).astype(np.uint32)
    words[:4] = 0, 1, 2**31, 2**32 - 1
    found = words.copy()
    n.mix(found, np.empty_like(found))
    inverse.unmix(found, np.empty_like(found))
    assert np.array_equal(found, words)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 1 << 14), st.sampled_from([1, 100, 8192, 1 << 20]))
def test_the_tokens_below_a_word_are_those_whose_noise_is(seed, count, vocabulary):
    keys = np.random.default_rng(seed).integers(0, 2**32, (3, 4)).astype(np.uint32)
    noise = np.empty((3, vocabulary), np.uint32)
    n.token_noise(keys, n.token_words(vocabulary), out=noise, scratch=np.empty_like(noise))
    out = np.empty((3, count), np.uint32)
    row, token, word = inverse.tokens_below(keys, count, vocabulary, out=out, scratch=np.empty_like(out))
    assert np.array_equal(noise[row, token], word)
    assert set(zip(row.tolist(), token.tolist())) == set(zip(*(side.tolist() for side in np.nonzero(noise < count))))


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows(rows):
    out = np.empty((rows, 4), np.uint32)
    found = inverse.tokens_below(np.zeros((rows, 4), np.uint32), 4, 2**20, out=out, scratch=np.empty_like(out))
    assert all(len(part) <= 4 * rows for part in found)
