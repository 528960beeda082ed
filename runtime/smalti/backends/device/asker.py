"""Ask the network about one call, and make of its answers the logits that are drawn from; all on the device."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from smalti.backends.device.arena import Arena, Device
from smalti.backends.device.plan import Noise, Program
from smalti.backends.device.tables import CallTables, StepTables, WindowTables
from smalti.backends.device.tensors import DeviceSession, Tensor
from smalti.errors import BundleError
from smalti_kernels.impl.abi import ALIGNMENT, FLAG_GUIDED, FLAG_TRUNCATED
from smalti_kernels.impl.cuda import steps as small


class Asker:
    """A network on a device, for one program."""

    def __init__(self, device: Device, network: DeviceSession, program: Program, window: int) -> None:
        """``window`` is the number of tokens that the network reads. Raises BundleError for logits of another type."""
        kinds = {output.name: output.dtype for output in network.outputs}
        if kinds.get("logits") != "float32":
            raise BundleError(f"a device draws from float32 logits, and this network gives {kinds}")
        self._device, self._network, self._program = device, network, program
        self.window = window
        self._codes, self._takes = program.codes, {one.name for one in network.inputs}
        self.stride = -(-program.codes // ALIGNMENT) * ALIGNMENT

    def shapes(self, steps: Iterable[StepTables]) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return the arrays that these steps need, by name."""
        calls = [(step.step, call) for step in steps for call in step.calls]
        windows = [one for _, call in calls for one in call.windows]
        lines = max((call.lines for _, call in calls), default=0)
        rows = max((call.lines * call.each for _, call in calls), default=0)
        answers = max([one.count * one.asked for one in windows] or [rows], default=0)
        shapes: dict[str, tuple[tuple[int, ...], str]] = {
            "seen": ((max([one.count for one in windows] or [lines]), self.window), "int32"),
            "labels": ((max([one.count for one in windows] or [lines]),), "int32"),
            "times": ((max([one.count for one in windows] or [lines]),), "int32"),
            "rows": ((answers,), "int32"),
            "answer": ((answers, self._codes), "float32"),
        }
        if self.stride != self._codes:
            shapes["wide"] = ((answers, self.stride), "float32")
        if windows:
            shapes["total"] = ((rows, self._codes), "int64")
            shapes["broken"] = ((rows,), "int32")
            shapes["mixed"] = ((rows, self.stride), "float32")
        if any(step.noise for step, _ in calls):
            shapes["posterior"] = ((rows, self.stride), "float32")
        return shapes

    def ask(
        self,
        call: CallTables,
        noise: Noise | None,
        temperature: float,
        seen: Tensor,
        tokens: Tensor,
        arena: Arena,
        base: int,
    ) -> tuple[int, int]:
        """Queue a call. Return the addresses of its logits [n * R, stride], and of those of no label or 0.

        ``seen`` are the grids that the network is shown, ``tokens`` those as they are, ``base`` where tables begin.
        """
        twice = 2 if self._program.guidance != 1.0 else 1
        rows = call.lines // twice * call.each
        if call.windows:
            logits = self._mixed(call, rows, seen, arena, base)
        else:
            logits = self._answer(call, call.lines, call.each, call.labels, seen, arena, base)
        uncond = logits + rows * self.stride * 4 if twice == 2 else 0
        if noise is None:
            return logits, uncond
        program = self._program
        out = arena.part("posterior", (rows, self.stride)).address
        small.posterior(
            self._device.kernels,
            logits=logits,
            uncond=uncond,
            tokens=tokens.address,
            sample=base + call.sample,
            position=base + call.position,
            out=out,
            of=small.Noise(
                scale=float(np.float32(65536) / np.float32(temperature)),
                signal=noise.signal,
                noise=noise.noise,
                favour=noise.favour,
                top_k=program.keep[0],
                top_p=program.keep[1],
                guidance=program.guidance,
            ),
            rows=rows,
            vocabulary=self._codes,
            stride=self.stride,
            length=program.start.shape[1],
            flags=(FLAG_GUIDED if uncond else 0) | (FLAG_TRUNCATED if program.truncated else 0),
            stream=self._device.stream,
        )
        return out, 0

    def _answer(
        self, of: CallTables | WindowTables, lines: int, each: int, labels: int, grids: Tensor, arena: Arena, base: int
    ) -> int:
        """Queue the network on ``lines`` grids gathered from cells; return the address of its logits, filled up."""
        kernels, stream = self._device.kernels, self._device.stream
        seen = arena.part("seen", (lines, self.window))
        small.move(
            kernels,
            source=grids.address,
            target=seen.address,
            take=base + of.cells,
            put=base + of.order,
            count=lines * self.window,
            filler=self._program.mask or 0,
            stream=stream,
        )
        answer = arena.part("answer", (lines, each, self._codes))
        inputs = {"tokens": seen}
        tables = {"labels": (labels, (lines,)), "rows": (of.rows, (lines, each)), "times": (of.times, (lines,))}
        for name in tables.keys() & self._takes:
            offset, shape = tables[name]
            # Copied, so that all calls of a shape have the same addresses: a CUDA graph is replayed at its own.
            inputs[name] = arena.part(name, shape)
            self._device.copy(inputs[name], Tensor(base + offset, shape, "int32"))
        self._network.queue(inputs, {"logits": answer})
        if self.stride == self._codes:
            return answer.address
        wide = arena.part("wide", (lines * each, self.stride)).address
        small.widen(
            kernels,
            logits=answer.address,
            wide=wide,
            rows=lines * each,
            vocabulary=self._codes,
            stride=self.stride,
            stream=stream,
        )
        return wide

    def _mixed(self, call: CallTables, rows: int, grids: Tensor, arena: Arena, base: int) -> int:
        """Queue all windows of a call, under each label in turn; return the address of the mixtures."""
        labels = len(call.windows[0].labels)
        total = arena.part("total", (labels * rows, self._codes)).address
        broken = arena.part("broken", (labels * rows,)).address
        mixed = arena.part("mixed", (labels * rows, self.stride)).address
        for index in range(labels):
            for number, one in enumerate(call.windows):
                logits = self._answer(one, one.count, one.asked, one.labels[index], grids, arena, base)
                small.mix(
                    self._device.kernels,
                    logits=logits,
                    begin=base + one.begin,
                    entry=base + one.entry,
                    importance=base + one.importance,
                    total=total + index * rows * self._codes * 8,
                    broken=broken + index * rows * 4,
                    rows=rows,
                    vocabulary=self._codes,
                    stride=self.stride,
                    fresh=number == 0,
                    stream=self._device.stream,
                )
        small.mixture(
            self._device.kernels,
            total=total,
            broken=broken,
            logits=mixed,
            rows=labels * rows,
            vocabulary=self._codes,
            stride=self.stride,
            stream=self._device.stream,
        )
        return mixed
