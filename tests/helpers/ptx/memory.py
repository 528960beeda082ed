"""Host memory that plays a device's: the regions that a launch may touch, and every access checked against them."""

from __future__ import annotations

import bisect
import ctypes
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from helpers.ptx.values import Values

Lanes = NDArray[np.bool_] | None
"""Of an access, the threads that take part; None for all."""


class IllegalAddress(MemoryError):
    """An access outside of what a launch may touch."""


class Misaligned(MemoryError):
    """An access at an address that its size does not divide."""


class Region(NamedTuple):
    """Bytes that a launch may touch."""

    address: int
    size: int
    name: str = ""
    writable: bool = True

    def words(self, width: int) -> tuple[NDArray[Any], int]:
        """The region as unsigned integers of `width` bytes, and the address of the first one that is aligned."""
        start = -(-self.address // width) * width
        count = max(0, self.address + self.size - start) // width
        if not count:
            return np.zeros(0, f"u{width}"), start
        buffer = (ctypes.c_uint8 * (count * width)).from_address(start)
        return np.frombuffer(buffer, f"u{width}"), start

    def __str__(self) -> str:
        return f"{self.name or 'the region'} at {self.address:#x} of {self.size} bytes"


class Access(NamedTuple):
    """One instruction's way to reach memory."""

    kind: str
    """``read`` or ``write``."""
    width: int
    """Bytes of an element."""
    count: int
    """Elements of a vector."""
    text: str
    """The instruction."""

    @property
    def size(self) -> int:
        """Bytes that a thread reads or writes; its address is a multiple of them."""
        return self.width * self.count


class Memory:
    """What a launch may touch; the owner of the regions keeps them alive."""

    def __init__(self, regions: Iterable[tuple[int, int] | Region]) -> None:
        """Take the (address, bytes) of regions, which may not overlap."""
        found = [Region(*given) for given in regions]
        self.regions = sorted(region for region in found if region.size)
        for one, other in zip(self.regions, self.regions[1:]):
            if one.address + one.size > other.address:
                raise ValueError(f"{one} and {other} overlap")
        self._starts = [region.address for region in self.regions]
        self._words: dict[tuple[Region, int], tuple[NDArray[Any], int]] = {}

    def load(self, addresses: NDArray[np.uint64], access: Access, lanes: Lanes) -> list[Values]:
        """The elements of the vectors at addresses, as unsigned integers.

        Where a thread takes no part, it gets what some other one reads. Raises IllegalAddress and Misaligned.
        """
        if lanes is not None:
            addresses = np.where(lanes, addresses, first_of(addresses, lanes))
        parts = list(self._parts(addresses, access))
        if len(parts) == 1:
            words, index, _ = parts[0]
            return [words.take(index + element if element else index) for element in range(access.count)]
        values: list[Values] = [np.empty(addresses.shape, f"u{access.width}") for _ in range(access.count)]
        for words, index, where in parts:
            for element, value in enumerate(values):
                value[where] = words.take(index + element)
        return values

    def store(self, addresses: NDArray[np.uint64], values: Sequence[Values], access: Access, lanes: Lanes) -> None:
        """Write the elements of vectors, unsigned integers; of several threads at one address, any may win.

        Raises IllegalAddress and Misaligned.
        """
        given = np.broadcast_arrays(addresses, *values, *([] if lanes is None else [lanes]))
        addresses, *elements = given if lanes is None else [array[given[-1]] for array in given[:-1]]
        for words, index, where in self._parts(addresses, access):
            for element, value in enumerate(elements):
                words[index + element] = value if where is None else value[where]

    def _parts(
        self, addresses: NDArray[np.uint64], access: Access
    ) -> Iterator[tuple[NDArray[Any], NDArray[np.int64], Any]]:
        """For every region that is accessed: its words, the indices of the first elements, and which threads' they are.

        Those are None where all threads access one region.
        """
        region = self._region_of(int(addresses.flat[0]))
        if region is not None:
            words, start = self._words_of(region, access)
            offsets = addresses - np.uint64(start)
            aligned = addresses if start % access.size else offsets
            # What lies below the region wraps to something great.
            inside = int(offsets.max()) <= (words.size - access.count) * access.width
            if inside and not (access.size > 1 and (aligned & np.uint64(access.size - 1)).any()):
                yield words, (offsets >> np.uint64(access.width.bit_length() - 1)).view(np.int64), None
                return
        self._refuse(addresses, access)
        which = np.searchsorted(np.array(self._starts, np.uint64), addresses, "right") - 1
        for number in np.unique(which).tolist():
            where = which == number
            words, start = self._words_of(self.regions[number], access)
            yield words, ((addresses[where] - np.uint64(start)) // np.uint64(access.width)).view(np.int64), where

    def _words_of(self, region: Region, access: Access) -> tuple[NDArray[Any], int]:
        if access.kind == "write" and not region.writable:
            raise IllegalAddress(f"write to {region}, which is only to be read, by {access.text!r}")
        found = self._words.get((region, access.width))
        if found is None:
            found = self._words[region, access.width] = region.words(access.width)
        return found

    def _region_of(self, address: int) -> Region | None:
        """The last region that does not begin after an address."""
        number = bisect.bisect_right(self._starts, address) - 1
        return self.regions[number] if number >= 0 else None

    def _refuse(self, addresses: NDArray[np.uint64], access: Access) -> None:
        """Raise the error of the first address that cannot be accessed, if there is one."""
        for address in np.unique(addresses).tolist():
            region = self._region_of(address)
            if region is None or address + access.size > region.address + region.size:
                raise IllegalAddress(
                    f"{access.kind} of {access.size} bytes at {address:#x} by {access.text!r}; {self._near(address)}"
                )
            if address % access.size:
                raise Misaligned(
                    f"{access.kind} of {access.size} bytes at {address:#x} by {access.text!r}, in {region}"
                )

    def _near(self, address: int) -> str:
        """Where the region lies that is nearest to an address."""
        if not self.regions:
            return "there are no regions"

        def distance(region: Region) -> int:
            return max(region.address - address, address - region.address - region.size + 1)

        region = min(self.regions, key=distance)
        offset = address - region.address
        return f"nearest is {region}, where that is offset {offset}"


def first_of(addresses: Values, lanes: NDArray[np.bool_]) -> Any:
    """The address of some thread that takes part."""
    shape = np.broadcast_shapes(addresses.shape, lanes.shape)
    at = np.unravel_index(int(np.broadcast_to(lanes, shape).argmax()), shape)
    return np.broadcast_to(addresses, shape)[at]


def aligned_copy(array: NDArray[Any], boundary: int = 256, room: int = 256) -> NDArray[Any]:
    """A copy at a multiple of `boundary`, with `room` bytes on either side that belong to no other copy."""
    raw = np.zeros(array.nbytes + boundary + 2 * room, np.uint8)
    start = -(-(raw.ctypes.data + room) // boundary) * boundary - raw.ctypes.data
    copy = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
