"""A stand-in for TensorRT-RTX's runtime cache, for tests of the files that keep it."""

from __future__ import annotations

from pathlib import Path

from smalti.backends.tensorrt.compiled import CompiledKernels, MadeFor


class Cache:
    """A runtime cache that takes what it once gave."""

    def __init__(self, content: bytes = b"{kernels}\nof a GPU") -> None:
        self.content = content
        self.taken: list[bytes] = []

    def serialize(self) -> bytes:
        return self.content

    def deserialize(self, blob: bytes) -> bool:
        self.taken.append(blob)
        return True


class Config:
    def __init__(self, cache: Cache) -> None:
        self.cache = cache

    def create_runtime_cache(self) -> Cache:
        return self.cache

    def set_runtime_cache(self, cache: Cache) -> bool:
        return cache is self.cache


def used(made: MadeFor, content: bytes = b"{kernels}\nof a GPU") -> tuple[Path, list[bytes]]:
    """Run once as a process does; the file, and what was read of it. ``content`` is what was compiled then."""
    cache, kernels = Cache(content), CompiledKernels(made)
    kernels.attach(Config(cache))
    kernels.worked()
    return kernels.file, cache.taken
