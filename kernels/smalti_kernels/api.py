"""The public draw, `sample`: it checks its arguments and calls the chosen implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from smalti_kernels.checks import Array, Draw, Request, as_request
from smalti_kernels.errors import SamplingError
from smalti_kernels.spec.noise import Seeds


def _numpy(request: Request) -> Draw:
    from smalti_kernels.impl.reference import draw

    for name in ("logits", "uncond", "tokens"):
        given = getattr(request, name)
        if given is not None and not isinstance(given, np.ndarray):
            raise SamplingError(f'{name} must be a NumPy array for impl="numpy"; got {type(given).__name__}')
    return draw(request)


def _triton(request: Request) -> Draw:
    from smalti_kernels.impl.triton.launch import draw

    return draw(request)


def _cuda(request: Request) -> Draw:
    from smalti_kernels.impl.cuda.draw import draw

    return draw(request)


IMPLEMENTATIONS: Final[dict[str, Callable[[Request], Draw]]] = {"numpy": _numpy, "triton": _triton, "cuda": _cuda}
"""Values of `impl`. Each function imports its dependencies on its first call and gets checked arguments."""


def sample(
    logits: Array,
    tokens: Array,
    *,
    sample: ArrayLike,
    position: ArrayLike,
    seeds: Seeds,
    step: ArrayLike,
    width: int,
    temperature: ArrayLike,
    uncond: Array | None = None,
    guidance: float = 1.0,
    top_k: ArrayLike = 0,
    top_p: ArrayLike = 1.0,
    logprob: bool = False,
    impl: str = "numpy",
    threads: int | None = None,
) -> Draw:
    """Draw one token per row of logits from softmax(logits / temperature) and put it into its grid.

    The draw is fixed-point Gumbel-max (see `smalti_kernels.impl.reference`): a pure function of the row's logits and of
    (seed, step, y, x). The same row gives the same token alone, in any batch, in any order, in any implementation.

    Args:
        logits: float32, float16 or bfloat16 [R, V], V >= 1, R may be 0. -inf forbids a token; NaN, +inf and a row that
            is all -inf are errors. NumPy has no bfloat16: pass arrays of ml_dtypes.bfloat16, made from raw bits by
            `bits.view(ml_dtypes.bfloat16)`. "cuda" also takes `DeviceLogits`, "triton" tensors.
        tokens: int32 [N, L], the grids in raster order; not modified.
        sample: integers [R], the grid each row belongs to, 0 .. N - 1.
        position: integers [R], the raster index in that grid, 0 .. L - 1; y, x = divmod(position, width).
        seeds: integers [N] from 0 to 2^64 - 1, the seed of each grid.
        step: integer or integers [R], the index of the step in its run, 0 .. 2^32 - 1.
        width: columns of the grid; L is a multiple of it.
        temperature: float or floats [N], finite, > 0, rounded to float32. A row's greatest logit / temperature must
            lie within +-16384 nats; values below -16384 count as -16384.
        uncond: unconditional logits, same shape and dtype as `logits`, or None for no guidance. A token that is -inf in
            `logits` stays forbidden whatever it is here.
        guidance: weight of classifier-free guidance, finite: uncond + guidance * (logits - uncond). Read only with
            `uncond`.
        top_k: integer or integers [N]: draw from the k best tokens only; 0 keeps every token. Tokens that tie with the
            last one kept are kept too.
        top_p: float or floats [N], 0 < p <= 1, rounded to 2^-16: of the tokens that top-k kept, draw from the fewest
            best ones that hold at least p of the probability, ties included; 1 keeps every token.
        logprob: whether to compute the log-probabilities of the drawn tokens too.
        impl: the implementation that draws; there is no automatic fallback. "numpy" runs on the CPU, for any V.
            "triton" compiles its kernel on first use; it takes torch tensors on a CUDA device, and NumPy arrays under
            TRITON_INTERPRET=1. "cuda" launches a prebuilt kernel through the NVIDIA driver and needs nothing else; it
            takes NumPy arrays, which it copies to the GPU and back, or `DeviceLogits`. Both draw from V <= 16384.
        threads: threads of "numpy", at least 1; None for all cores this process may use. Small draws use fewer. The
            result does not depend on it.

    Returns:
        `Draw(tokens, changed, logprob)`: a new int32 [N, L] that contains the R drawn tokens, each in 0 .. V - 1; bool
        [R], whether each differs from the token it replaces; and int32 [R] in units of 2^-16 nats, the log-softmax of
        guided logits / temperature at the drawn token before truncation, within 1e-3 nats of the exact one and equal in
        every implementation (None without `logprob`).

    Raises SamplingError when an argument has the wrong dtype, shape or range, a (sample, position) appears twice, or a
    row has no answer; the message then names the row's index, sample, position and step. Raises KernelError when the
    implementation cannot run here, and says what is missing and what to do; "cuda" raises its subclasses
    DriverUnavailable, NoMatchingKernel, DamagedKernel and DriverError.
    """
    if impl not in IMPLEMENTATIONS:
        raise SamplingError(f"impl must be one of {', '.join(IMPLEMENTATIONS)}; got {impl!r}")
    request = as_request(
        logits,
        tokens,
        sample=sample,
        position=position,
        seeds=seeds,
        step=step,
        width=width,
        temperature=temperature,
        uncond=uncond,
        guidance=guidance,
        top_k=top_k,
        top_p=top_p,
        logprob=logprob,
        threads=threads,
    )
    return IMPLEMENTATIONS[impl](request)
