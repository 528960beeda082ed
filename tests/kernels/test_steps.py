"""Launchers of the small kernels on a driver of host memory: arguments, grids, and what is refused."""

from __future__ import annotations

import struct
from functools import partial
from typing import Any

import numpy as np
import pytest

from helpers.kernel_files import image_of
from helpers.stub_device import StubDevice
from helpers.stub_kernel import memory
from smalti_kernels.errors import DriverError, NoMatchingKernel, SamplingError
from smalti_kernels.impl.abi import FLAG_GUIDED, FLAG_TRUNCATED
from smalti_kernels.impl.cuda import modules, steps
from smalti_kernels.impl.cuda.steps import Noise
from smalti_kernels.impl.forms import FORMS, MIX, MIXTURE, MOVE, NOTE, WIDEN, Form, posterior_for
from smalti_kernels.spec import mixtures, tables

STREAM = 0x5EED
NOISE = Noise(scale=81920.0, signal=1 << 31, noise=1 << 62, favour=-70000, top_k=9, top_p=60000, guidance=2.5)
ROWS: dict[str, Any] = {"rows": 6, "vocabulary": 1000, "stride": 1008}
A = 0x7FFF_0000_1230
"""An address; those of other arguments follow it."""
MOVED: dict[str, Any] = {"source": A, "target": A + 4, "take": A + 8, "put": A + 12, "count": 700, "filler": -3}
NOTED: dict[str, Any] = {"errors": A, "noted": A + 4, "rows": 2500, "call": 7}
WIDENED: dict[str, Any] = {"logits": A, "wide": A + 4, **ROWS}
MIXED: dict[str, Any] = {
    "logits": A,
    "begin": A + 4,
    "entry": A + 8,
    "importance": A + 16,
    "total": A + 24,
    "broken": A + 28,
    **ROWS,
}
MIXTURES: dict[str, Any] = {"total": A, "broken": A + 8, "logits": A + 12, **ROWS}
POSTERIOR: dict[str, Any] = {
    "logits": A,
    "uncond": A + 4,
    "tokens": A + 8,
    "sample": A + 12,
    "position": A + 16,
    "out": A + 20,
    "of": NOISE,
    "length": 256,
    **ROWS,
}


def unpacked(form: Form, arguments: bytes) -> dict[str, int | float]:
    """A kernel's view of its arguments: every one at the next multiple of its size, two NULL pointers at the end."""
    values: dict[str, int | float] = {}
    at = 0
    for name, kind in [*((a.name, a.type) for a in form.arguments), ("scratch", "*"), ("profile", "*")]:
        code, size = ("<Q", 8) if kind[0] == "*" else {"fp32": ("<f", 4), "i32": ("<i", 4), "i64": ("<q", 8)}[kind]
        at = -(-at // size) * size
        (values[name],) = struct.unpack_from(code, arguments, at)
        at += size
    assert at == len(arguments)
    assert values.pop("scratch") == values.pop("profile") == 0
    return values


def launched(stub, form: Form, grid: int) -> dict[str, int | float]:
    """The arguments of the only launch, which is of a form; the tables are looked at and left out."""
    (launch,) = stub.launches()
    assert launch["grid"] == f"{grid},1,1"
    assert launch["block"] == f"{32 * form.num_warps},1,1"
    assert launch["shared"] == str(16 * form.num_warps)
    assert launch["stream"] == f"{STREAM:#x}"
    assert stub.image == image_of("sm_80", form.name)
    assert stub.calls("cuModuleGetFunction") == [form.kernel]
    values = unpacked(form, bytes.fromhex(launch["arguments"]))
    if "tables" in values:
        words = memory(int(values.pop("tables")), (tables.TABLE_WORDS,), np.int32)
        assert np.array_equal(words, tables.packed_tables())
    return values


def expected(given: dict[str, Any], *left_out: str, **more: Any) -> dict[str, Any]:
    return {name: value for name, value in (given | more).items() if name not in left_out}


def test_moves(stub, kernels):
    steps.move(kernels, **MOVED, stream=STREAM)
    assert launched(stub, MOVE, 3) == MOVED


@pytest.mark.parametrize(("count", "grid"), [(1, 1), (256, 1), (257, 2)])
def test_a_program_moves_a_block(stub, kernels, count, grid):
    steps.move(kernels, **(MOVED | {"count": count}), stream=STREAM)
    assert launched(stub, MOVE, grid)["count"] == count


def test_widening(stub, kernels):
    steps.widen(kernels, **WIDENED, stream=STREAM)
    assert launched(stub, WIDEN, 6) == expected(WIDENED, "rows")


def test_notes_are_of_one_program(stub, kernels):
    steps.note(kernels, **NOTED, stream=STREAM)
    assert launched(stub, NOTE, 1) == NOTED


@pytest.mark.parametrize("fresh", [True, False])
def test_mixing(stub, kernels, fresh):
    steps.mix(kernels, **MIXED, fresh=fresh, stream=STREAM)
    assert launched(stub, MIX, 6) == expected(MIXED, "rows", fresh=int(fresh))


def test_mixtures(stub, kernels):
    steps.mixture(kernels, **MIXTURES, stream=STREAM)
    assert launched(stub, MIXTURE, 6) == expected(MIXTURES, "rows")


@pytest.mark.parametrize("flags", [0, FLAG_GUIDED, FLAG_TRUNCATED, FLAG_GUIDED | FLAG_TRUNCATED])
@pytest.mark.parametrize("vocabulary", [1, 1000, 1025, 8192, 16384])
def test_posteriors(stub, kernels, vocabulary, flags):
    given = POSTERIOR | {"vocabulary": vocabulary, "stride": -(-vocabulary // 16) * 16}
    steps.posterior(kernels, **given, flags=flags, stream=STREAM)
    # What is not read still is the address of something: a kernel may load before it selects.
    uncond = POSTERIOR["uncond"] if flags & FLAG_GUIDED else POSTERIOR["logits"]
    values = launched(stub, posterior_for(vocabulary, flags), 6)
    assert values == expected(given, "rows", "of", **NOISE._asdict(), uncond=uncond, flags=flags)


CALLS = {
    "move": (steps.move, MOVED, "count"),
    "widen": (steps.widen, WIDENED, "rows"),
    "note": (steps.note, NOTED, "rows"),
    "mix": (steps.mix, MIXED | {"fresh": True}, "rows"),
    "mixture": (steps.mixture, MIXTURES, "rows"),
    "posterior": (steps.posterior, POSTERIOR | {"flags": 0}, "rows"),
}


@pytest.mark.parametrize("name", CALLS)
def test_nothing_to_do_is_no_launch(stub, kernels, name):
    launch, given, count = CALLS[name]
    done = len(stub.log)
    launch(kernels, **(given | {count: 0}))
    assert len(stub.log) == done


@pytest.mark.parametrize("name", ["widen", "mix", "mixture", "posterior"])
@pytest.mark.parametrize("stride", [992, 1000, 1004, 1023, 0, -16])
def test_strides_that_are_too_short_or_no_multiple_are_refused(stub, kernels, name, stride):
    launch, given, _ = CALLS[name]
    with pytest.raises(SamplingError, match=f"multiple of 16 and at least 1000; got {stride}"):
        launch(kernels, **(given | {"stride": stride}))
    assert not stub.launches()


@pytest.mark.parametrize("flags", [0, FLAG_GUIDED | FLAG_TRUNCATED])
@pytest.mark.parametrize("vocabulary", [0, 16385])
def test_posteriors_that_no_form_holds_are_refused(stub, kernels, vocabulary, flags):
    given = POSTERIOR | {"vocabulary": vocabulary, "stride": 16400}
    with pytest.raises(NoMatchingKernel, match=f"1 to 16384 tokens; got {vocabulary}; draw on the CPU"):
        steps.posterior(kernels, **given, flags=flags)
    assert not stub.launches()


def test_other_kernels_take_larger_vocabularies(stub, kernels):
    given = WIDENED | {"vocabulary": 50000, "stride": 50000}
    steps.widen(kernels, **given, stream=STREAM)
    assert launched(stub, WIDEN, 6)["vocabulary"] == 50000


def test_a_form_is_loaded_once_and_the_tables_are_too(stub, kernels):
    for _ in range(3):
        steps.move(kernels, **MOVED)
        steps.mix(kernels, **MIXED, fresh=True)
    assert stub.calls("cuModuleGetFunction") == [MOVE.kernel, MIX.kernel]
    assert len(stub.calls("cuMemAlloc_v2")) == 1
    done = len(stub.log)
    steps.move(kernels, **MOVED)
    again = [line.partition(" ")[0] for line in stub.log[done:]]
    assert again == ["cuCtxPushCurrent_v2", "cuLaunchKernel", "cuCtxPopCurrent_v2"]


def test_a_launch_that_fails_leaves_the_context(stub, kernels):
    stub.make_current(0xAA)
    stub.fail("cuLaunchKernel", 700)
    with pytest.raises(DriverError, match=r"cuLaunchKernel failed with CUDA_ERROR_ILLEGAL_ADDRESS"):
        steps.note(kernels, **NOTED)
    assert kernels.driver.current_context() == 0xAA


def test_a_form_that_does_not_load_is_named(stub, kernels):
    stub.fail("cuModuleLoadData", 200)
    with pytest.raises(DriverError, match=r"the kernel note for sm_80 does not load on Stub 70.*update the NVIDIA"):
        steps.note(kernels, **NOTED)
    assert not stub.launches()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_arguments_are_packed_as_they_are_declared(form):
    """Great and negative numbers of every type, in the place of their name."""
    values: dict[str, int | float] = {}
    for index, argument in enumerate(form.arguments):
        values[argument.name] = {"fp32": index + 0.5, "i32": -index - 1, "i64": -(1 << 62) + index}.get(
            argument.type, (1 << 63) + index
        )
    shuffled = dict(reversed(values.items()))
    assert unpacked(form, modules.packed(form.arguments, shuffled)) == values
    with pytest.raises(KeyError):
        modules.packed(form.arguments, dict(list(values.items())[1:]))


def test_a_chain_of_steps_on_the_shipped_kernels(stub_library):
    """Network to draw: logits are widened and mixed, the sums become logits, and errors of a draw are noted."""
    kernels = StubDevice(stub_library).kernels()
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((4, 70), np.float32)
    given = {
        "logits": logits,
        "begin": np.array([0, 2, 4], np.int32),
        "entry": np.array([0, 1, 2, 3], np.int32),
        "importance": np.array([1, 5, 7, 1 << 20], np.int64),
        "wide": np.zeros((4, 80), np.float32),
        "total": np.zeros((2, 70), np.int64),
        "broken": np.zeros(2, np.int32),
        "out": np.zeros((2, 80), np.float32),
        "noted": np.zeros(3, np.int32),
    }
    at: dict[str, int] = {}
    with kernels.driver.entered(kernels.context):
        for name, array in given.items():
            at[name] = kernels.driver.allocate(array.nbytes)
            kernels.driver.upload(at[name], array.ctypes.data, array.nbytes, 0)
    wide: dict[str, int] = {"vocabulary": 70, "stride": 80}
    steps.widen(kernels, logits=at["logits"], wide=at["wide"], rows=4, **wide)
    address = partial(dict, total=at["total"], broken=at["broken"], rows=2, **wide)
    windows = {name: at[name] for name in ("begin", "entry", "importance")}
    steps.mix(kernels, logits=at["wide"], **windows, **address(), fresh=True)
    steps.mixture(kernels, logits=at["out"], **address())
    steps.note(kernels, errors=at["entry"], noted=at["noted"], rows=4, call=3)
    shares = mixtures.shares(logits) * given["importance"].astype(np.uint64)[:, None]
    found = memory(at["out"], (2, 80), np.float32)
    sums = np.stack([shares[0] + shares[1], shares[2] + shares[3]])
    assert np.array_equal(found[:, :70], mixtures.mixture(sums, np.zeros(2, np.bool_)))
    assert np.isneginf(found[:, 70:]).all()
    assert memory(at["noted"], (3,), np.int32).tolist() == [3, 1, 1]
