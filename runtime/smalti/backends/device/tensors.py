"""Arrays in a device's memory, and the sessions that read and write them there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from smalti.backends.signatures import Signature


class Tensor(NamedTuple):
    """An array in a device's memory, contiguous."""

    address: int
    shape: tuple[int, ...]
    dtype: str
    """NumPy's name, such as ``int32``."""

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class DeviceSession(Protocol):
    """One graph of a bundle on a device."""

    @property
    def inputs(self) -> tuple[Signature, ...]:
        """The graph's own inputs."""
        ...

    @property
    def outputs(self) -> tuple[Signature, ...]:
        """The graph's own outputs."""
        ...

    def queue(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Queue the graph on the backend's stream, and return without waiting for it.

        ``outputs`` say where results go; their shapes follow from those of the inputs. Inputs that the graph does not
        have are ignored, and outputs that are not named are not computed for the caller. Raises BundleError when the
        graph cannot run, ProviderUnavailable when the device cannot run all of it.
        """
        ...
