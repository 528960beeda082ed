"""The noise backwards: which tokens of a row have the least noise words, and so the greatest Gumbels.

A row's map from token to noise word is a bijection of 32-bit words (`noise.token_noise`), and each of its steps can be
undone. So the tokens below some noise word are found from those words, without the noise of all tokens.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from smalti_kernels.spec.noise import MIX_FIRST, MIX_SECOND, TOKEN_WEYL

UInt32 = NDArray[np.uint32]

_WORD: Final = 1 << 32
_FIRST: Final = np.uint32(pow(int(MIX_FIRST), -1, _WORD))
_SECOND: Final = np.uint32(pow(int(MIX_SECOND), -1, _WORD))
_TOKEN: Final = np.uint32(pow(int(TOKEN_WEYL), -1, _WORD))
_SHIFT_15: Final = np.uint32(15)
_SHIFT_16: Final = np.uint32(16)


def unmix(words: UInt32, scratch: UInt32) -> None:
    """Undo one round of the mixer, `noise.mix`, in place.

    Args:
        words: uint32 of any shape, overwritten.
        scratch: uint32 of the same shape, overwritten.
    """
    _unshift_15(words, scratch)
    np.multiply(words, _SECOND, out=words)
    _unshift_15(words, scratch)
    np.multiply(words, _FIRST, out=words)
    np.right_shift(words, _SHIFT_16, out=scratch)
    np.bitwise_xor(words, scratch, out=words)


def _unshift_15(words: UInt32, scratch: UInt32) -> None:
    # If y = x ^ x >> 15, then x = y ^ y >> 15 ^ y >> 30.
    np.right_shift(words, _SHIFT_15, out=scratch)
    np.bitwise_xor(words, scratch, out=words)
    np.right_shift(scratch, _SHIFT_15, out=scratch)
    np.bitwise_xor(words, scratch, out=words)


@lru_cache(maxsize=4)
def _half_way(count: int) -> UInt32:
    """Noise words 0 .. count - 1 with the last round undone, which is the same in every row: uint32 [count]."""
    words = np.arange(count, dtype=np.uint32)
    unmix(words, np.empty_like(words))
    words.flags.writeable = False
    return words


def tokens_below(
    keys: UInt32, count: int, vocabulary: int, *, out: UInt32, scratch: UInt32
) -> tuple[NDArray[np.intp], NDArray[np.intp], UInt32]:
    """All tokens whose noise word is below `count`.

    Args:
        keys: row keys, uint32 [rows, 4]; the first two words are used.
        count: 1 .. 2^32.
        vocabulary: tokens of a row, 1 .. 2^32.
        out: uint32 [rows, count], overwritten.
        scratch: uint32 [rows, count], overwritten.

    Returns:
        The row intp [n], the token intp [n] and the noise word uint32 [n] of each; about rows * count * vocabulary /
        2^32 of them.
    """
    np.bitwise_xor(_half_way(count), keys[:, 1:2], out=out)
    unmix(out, scratch)
    # (word - k0) / weyl, in one pass less.
    np.multiply(out, _TOKEN, out=out)
    np.subtract(out, keys[:, 0:1] * _TOKEN, out=out)
    if not out.size or int(out.min()) >= vocabulary:  # as almost always, where count is small
        nothing = np.empty(0, np.intp)
        return nothing, nothing, np.empty(0, np.uint32)
    row, noise = np.nonzero(out < vocabulary)
    return row, out[row, noise].astype(np.intp), noise.astype(np.uint32)
