"""The GPUs that kernels are built for, and the built file that a given GPU runs.

A cubin runs on its own compute capability and on later minor ones of the same major, with two exceptions: code for a
chip's own features (`sm_90a`) runs on that capability only, and Tegra chips and graphics cards do not run each other's
cubins. PTX runs on its capability and all later ones; the driver compiles it on first use.

Source: NVIDIA, "CUDA C++ Programming Guide", sections on binary and PTX compatibility.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Target(NamedTuple):
    """One architecture that every variant is compiled for."""

    capability: int
    """Compute capability as one number: 75 is 7.5."""
    ptx: bool = False
    """PTX text that the driver compiles, instead of a cubin."""

    @property
    def name(self) -> str:
        """Unique, and a valid file name: ``sm_75``, ``ptx_80``."""
        return f"{'ptx' if self.ptx else 'sm'}_{self.capability}"

    @property
    def exact(self) -> bool:
        """Whether the cubin runs on no other capability: from 9.0 on, Triton assembles for `sm_90a` and the like."""
        return not self.ptx and self.capability >= 90

    @property
    def cuda(self) -> tuple[int, int]:
        """Oldest CUDA version of a driver that can load the file.

        Cubins load into any driver of the toolkit's major version. Triton 3.7 assembles for Blackwell with a toolkit of
        CUDA 13, for all others with one of CUDA 12.
        """
        return (13, 0) if not self.ptx and self.capability >= 100 else (12, 0)


TARGETS: Final = (*(Target(capability) for capability in (61, 75, 80, 86, 89, 90, 120)), Target(80, ptx=True))
"""GTX 10, RTX 20, A100, RTX 30, RTX 40, H100, RTX 50, and PTX for any other GPU of capability 8.0 or later."""

PTX_VERSION: Final = 71
"""PTX language version of the fall-back, that of CUDA 11.1; every supported driver reads it."""

TEGRA: Final = frozenset({53, 62, 72, 87, 101, 110})
"""Capabilities of NVIDIA's systems on chip, which run no cubin of a graphics card."""


def target_for(capability: int, cuda: tuple[int, int]) -> Target | None:
    """The file that a GPU runs: its own cubin, else that of the nearest lower minor, else PTX, else None.

    Args:
        capability: the GPU's compute capability as one number.
        cuda: newest CUDA version its driver supports.
    """
    fitting = [t for t in TARGETS if t.cuda <= cuda and t.capability <= capability]
    cubins = [
        t
        for t in fitting
        if not t.ptx
        and (t.capability == capability or not t.exact)
        and t.capability // 10 == capability // 10
        and capability not in TEGRA
    ]
    later = [t for t in fitting if t.ptx]
    return max(cubins or later, default=None)
