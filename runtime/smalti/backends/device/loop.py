"""The device loop: a program is followed step by step on one stream, and nothing is waited for that need not be.

Tokens and logits stay on the device. The tables of all steps are uploaded once. Between network and draw, small
kernels move tokens and mix answers (``smalti_kernels.impl.cuda.steps``). Errors of draws are noted on the device and
read at the end. Where the network's answers decide what comes next (order confidence, freezing), a step brings a few
bytes for each drawn row to the host.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalti.backends.device.arena import Arena, Device, Packed
from smalti.backends.device.asker import Asker
from smalti.backends.device.ladder import Ladder
from smalti.backends.device.plan import Program
from smalti.backends.device.tables import CallTables, Places, StepTables, packed_step
from smalti.backends.device.tensors import DeviceSession, Tensor
from smalti_kernels import SamplingError
from smalti_kernels.impl.abi import FLAG_GUIDED, FLAG_LOGPROB, FLAG_TRUNCATED, MAX_VOCABULARY, describe_error
from smalti_kernels.impl.cuda import steps as small
from smalti_kernels.impl.cuda.launch import Pointers, Shape

Int32 = NDArray[np.int32]


class DeviceRun:
    """A program on a device. It is a context: entering uploads the tables, leaving waits and frees all memory."""

    def __init__(self, device: Device, program: Program, network: DeviceSession, window: tuple[int, int]) -> None:
        """Lay out the run. ``window`` is the grid that the network reads, rows and columns.

        Raises SamplingError for more codes than the kernels draw from.
        """
        if program.codes > MAX_VOCABULARY:
            raise SamplingError(f"{program.codes} codes: a device draws from at most {MAX_VOCABULARY}; use the CPU")
        self.device, self.program = device, program
        self.count, self.length = program.start.shape
        self._asker = Asker(device, network, program, window[0] * window[1])
        self._uploaded: list[NDArray[Any]] = []  # host memory of queued copies
        self._numbered: list[CallTables] = []  # the call of each draw
        self._going = np.ones(self.count, np.bool_)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> DeviceRun:
        with contextlib.ExitStack() as stack:
            self._lay_out(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def _lay_out(self, stack: contextlib.ExitStack) -> None:
        """Allocate, and upload everything that is known ahead in one copy."""
        program, packed = self.program, Packed()
        ahead = program.steps
        self._later = iter(())
        if not isinstance(ahead, Sequence):
            self._later = iter(ahead)
            ahead = [*itertools.islice(self._later, 1)]
        self._ladder = Ladder(ahead, known=isinstance(program.steps, Sequence), window=self._asker.window)
        self._ahead = [packed_step(self._ladder.fitted(step), program, packed) for step in ahead]
        rows = max((sum(len(call.drawn) for call in step.calls) for step in self._ahead), default=0)
        puts = [put.count for step in self._ahead for put in (step.put, step.shown) if put]
        fixed = {
            "seeds": np.array([*program.seeds, 0], np.uint64).view(np.int32),
            "keep": np.full((self.count + 1, 2), program.keep, np.int32),
            "alive": np.arange(self.count + 1, dtype=np.int32),
            "tokens": np.concatenate([program.start, np.zeros((1, self.length), np.int32)]).astype(np.int32),
            "noted": np.zeros(3, np.int32),
            "places": np.arange(max([rows, *puts]), dtype=np.int32),
        }
        at = {name: packed.add(array, alone=True) for name, array in fixed.items()}
        buffer = packed.buffer()
        grids = (self.count + 1, self.length)
        shapes: dict[str, tuple[tuple[int, ...], str]] = {
            "before": (grids, "int32"),
            "drawn": (grids, "int32"),
            "sample": ((rows,), "int32"),
            "changed": ((rows,), "int8"),
            "errors": ((rows,), "int32"),
            "logprob": ((rows,), "int32"),
            **self._asker.shapes(self._ahead),
            "uploaded": (buffer.shape, "uint8"),  # last, since its size depends on what it holds
        }
        self._arena = stack.enter_context(Arena(self.device, shapes))
        stack.callback(self.device.settle)
        self._upload(self._arena["uploaded"], buffer)
        base = self._arena["uploaded"].address
        self._fixed = {name: Tensor(base + at[name], array.shape, "int32") for name, array in fixed.items()}

    @property
    def tokens(self) -> Tensor:
        """The grids, int32 [N + 1, L]; the last one is nobody's."""
        return self._fixed["tokens"]

    @property
    def cells(self) -> Int32:
        """Where the wanted tokens lie in ``tokens``: int32 [N, h, w]."""
        cells = np.arange(self.count * self.length, dtype=np.int32)
        return cells.reshape(self.count, *self.program.grid)[self.program.inside]

    def steps(self) -> Iterator[None]:
        """Queue step after step. Stop iterating to cancel: what is queued still ends, and nothing follows."""
        base = self._arena["uploaded"].address
        for tables in self._ahead:
            if not self._going.any():
                return
            self._follow(tables, base)
            yield
        for step in self._later:
            packed = Packed()
            tables = packed_step(self._ladder.fitted(step), self.program, packed)
            buffer = packed.buffer()
            with Arena(self.device, {"uploaded": (buffer.shape, "uint8")}) as arena:
                self._upload(arena["uploaded"], buffer)
                self._follow(tables, arena["uploaded"].address)
                self.device.wait()
            yield

    def result(self) -> Int32:
        """Wait for the run; return its grids, int32 [N, h, w] of the wanted part.

        Raises SamplingError for the first row of logits that leaves nothing to draw, and names its step.
        """
        noted, grids = self.device.download(self._fixed["noted"]), self.device.download(self.tokens)
        self.device.wait()
        if noted[0]:
            raise SamplingError(self._blame(*(int(word) for word in noted)))
        return grids[:-1].reshape(self.count, *self.program.grid)[self.program.inside]

    def _follow(self, tables: StepTables, base: int) -> None:
        """Queue one step; wait for it only where the host decides what comes next."""
        step, tokens, target = tables.step, self.tokens, self.tokens
        if tables.put:
            self._put(tables.put, tokens, base)
        seen = tokens
        if tables.shown or len(tables.calls) > 1:
            seen = self._copied(tokens, "before")
        if tables.shown:
            self._put(tables.shown, seen, base)
        if step.choose:
            target = self._copied(tokens, "drawn")
        first = 0
        for call in tables.calls:
            self._call(call, tables, seen, target, first, base)
            first += len(call.drawn)
        drawn = np.concatenate([call.drawn for call in tables.calls]) if tables.calls else np.zeros(0, np.bool_)
        if step.choose:
            logprob = self._fetched("logprob", first)[drawn]
            self._take(step.choose(logprob), target)
        if step.freeze:
            going = step.freeze(self._fetched("changed", first)[drawn].view(np.bool_))
            if not np.array_equal(going, self._going):
                self._going = going
                alive = np.full(self.count + 1, self.count, np.int32)
                alive[:-1][going] = np.flatnonzero(going)
                self._upload(self._fixed["alive"], alive)

    def _call(self, call: CallTables, tables: StepTables, seen: Tensor, target: Tensor, first: int, base: int) -> None:
        """Ask, and draw into ``target``; the rows of the step before this call are ``first``."""
        kernels, stream, program = self.device.kernels, self.device.stream, self.program
        logits, uncond = self._asker.ask(
            call, tables.step.noise, tables.step.temperature, seen, self.tokens, self._arena, base
        )
        rows, sample = len(call.drawn), base + call.sample
        if program.freezes:
            sample = self._arena.part("sample", (rows,)).address
            small.move(
                kernels,
                source=self._fixed["alive"].address,
                target=sample,
                take=base + call.sample,
                put=self._fixed["places"].address,
                count=rows,
                stream=stream,
            )
        flags = FLAG_LOGPROB if tables.step.choose else 0
        if tables.step.noise is None:
            flags |= (FLAG_GUIDED if uncond else 0) | (FLAG_TRUNCATED if program.truncated else 0)
        errors = self._arena.part("errors", (rows,)).address
        pointers = Pointers(
            logits=logits,
            uncond=uncond,
            tokens=target.address,
            sample=sample,
            position=base + call.position,
            step=base + call.steps,
            seeds=self._fixed["seeds"].address,
            scale=base + tables.scale,
            keep=self._fixed["keep"].address,
            changed=self._arena.part("changed", (first + rows,)).address + first,
            logprob=self._arena.part("logprob", (first + rows,)).address + 4 * first,
            errors=errors,
        )
        shape = Shape("fp32", rows, program.codes, self._asker.stride, self.length, program.grid[1])
        kernels.draw(pointers, shape, guidance=program.guidance, flags=flags, stream=stream)
        self._numbered.append(call)
        small.note(
            kernels,
            errors=errors,
            noted=self._fixed["noted"].address,
            rows=rows,
            call=len(self._numbered),
            stream=stream,
        )

    def _copied(self, grids: Tensor, name: str) -> Tensor:
        self.device.copy(self._arena[name], grids)
        return self._arena[name]

    def _put(self, places: Places, grids: Tensor, base: int) -> None:
        """Put a table's values at its cells."""
        small.move(
            self.device.kernels,
            source=base + places.values,
            target=grids.address,
            take=self._fixed["places"].address,
            put=base + places.cells,
            count=places.count,
            stream=self.device.stream,
        )

    def _take(self, cells: Int32, drawn: Tensor) -> None:
        """Take the tokens that were drawn at some cells."""
        with Arena(self.device, {"cells": (cells.shape, "int32")}) as arena:
            self._upload(arena["cells"], np.ascontiguousarray(cells, np.int32))
            at = arena["cells"].address
            small.move(
                self.device.kernels,
                source=drawn.address,
                target=self.tokens.address,
                take=at,
                put=at,
                count=len(cells),
                stream=self.device.stream,
            )
            self.device.wait()

    def _fetched(self, name: str, rows: int) -> NDArray[Any]:
        array = self.device.download(self._arena.part(name, (rows,)))
        self.device.wait()
        return array

    def _upload(self, tensor: Tensor, array: NDArray[Any]) -> None:
        self._uploaded.append(array)
        self.device.upload(tensor, array)

    def _blame(self, number: int, row: int, bits: int) -> str:
        call = self._numbered[number - 1].call
        line, column = divmod(row, call.rows.shape[1])
        where = f"sample {call.lines[line]}, position {call.rows[line, column]}, step {call.steps[line]}"
        return f"{where}: {describe_error(bits)}"
