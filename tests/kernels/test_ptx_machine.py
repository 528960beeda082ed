"""The PTX interpreter: memory that is checked, threads that part and meet, warps, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.ptx import Divergence, IllegalAddress, Kernel, Memory, Misaligned, Region, aligned_copy
from helpers.ptx.flow import weak_order
from helpers.ptx.small import compiled, run, written

OWN_WORD = "mad.wide.u32 %d1, %r97, 4, %d90;\n"
WORDS = np.arange(32, dtype=np.uint32)


def stored(body: str, *, threads: int = 32, grid: int = 1, **options) -> np.ndarray:
    """Run a body that leaves a value in %r1, for each thread; the values."""
    place = np.zeros(threads * grid, np.uint32)
    tail = f"\n{OWN_WORD} st.global.b32 [%d1], %r1;"
    return run(body + tail, place, grid=grid, threads=threads, **options)[0].reshape(grid, threads)


def test_what_the_text_declares():
    kernel = Kernel(written("bar.sync 0;", ["u64", "f32", "s32"], threads=96))
    assert (kernel.name, kernel.threads) == ("small", 96)
    assert [tuple(parameter) for parameter in kernel.parameters] == [("a0", "u64"), ("a1", "f32"), ("a2", "s32")]
    assert {"bar.sync", "ret", "mov.u32"} <= kernel.opcodes


def test_parameters_of_every_type():
    place = aligned_copy(np.zeros(4, np.int64))
    body = """
    ld.param.b32 %r1, [a1]; st.global.b32 [%d90], %r1;
    ld.param.s32 %d1, [a2]; st.global.b64 [%d90+8], %d1;
    ld.param.u64 %d2, [a3]; st.global.v2.b64 [%d90 + 16], {%d2, %d1};
    """
    kernel = Kernel(written(body, ["u64", "f32", "u32", "s64"]))
    kernel.run(1, [place.ctypes.data, 1.5, -7, -(2**40)], Memory([(place.ctypes.data, place.nbytes)]))
    assert place[:1].view(np.float32)[0] == 1.5
    assert place[1:].tolist() == [-7, -(2**40), -7]
    with pytest.raises(ValueError, match="argument"):
        kernel.run(1, [0, 1.0], Memory([]))


def test_special_registers():
    found = stored(
        "mov.u32 %r2, %nctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %laneid;\n"
        "mad.lo.u32 %r1, %r98, %r3, %r4; mad.lo.u32 %r1, %r2, 1000, %r1;",
        threads=64,
        grid=3,
    )
    assert np.array_equal(found, 3000 + 64 * np.arange(3)[:, None] + np.arange(64) % 32)


def test_registers_taken_apart_and_put_together():
    found = stored(
        "mov.b32 {%h1, %h2}, 0x12345678; mov.b32 %r1, {%h2, %h1};\n"
        "mov.b64 %d2, {%r1, %r99}; mov.b64 {_, %r3}, %d2; xor.b32 %r1, %r1, %r3;"
    )
    assert np.array_equal(found[0], 0x56781234 ^ WORDS)


def test_what_was_never_written_is_no_number_and_no_address():
    assert np.isnan(stored("mov.b32 %r1, %r2;").view(np.float32)).all()
    assert np.isnan(stored("div.u32 %r1, %r99, 0;").view(np.float32)).all()
    with pytest.raises(IllegalAddress):
        stored("ld.global.b32 %r1, [%d7];")
    found = stored("ld.shared.b32 %r1, [4];".replace("[4]", "[buffer+4]"), shared=".shared .b8 buffer[8];")
    assert np.isnan(found.view(np.float32)).all()


# Memory


@pytest.mark.parametrize(
    ("access", "error", "says"),
    [
        ("ld.global.b32 %r1, [%d90+-4];", IllegalAddress, "read of 4 bytes .* offset -4"),
        ("ld.global.b32 %r1, [%d90+12];", IllegalAddress, "read of 4 bytes .* at 0x.* of 12 bytes.* offset 12"),
        ("st.global.b64 [%d90+8], %d90;", IllegalAddress, "write of 8 bytes .* offset 8"),
        ("st.global.b8 [%d90+12], %h1;", IllegalAddress, "write of 1 bytes .* offset 12"),
        ("ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%d90];", IllegalAddress, "read of 16 bytes .*'ld.global.v4.b32"),
        ("ld.global.b32 %r1, [%d90+2];", Misaligned, "read of 4 bytes"),
        ("st.global.v2.b32 [%d90+4], {%r1, %r2};", Misaligned, "write of 8 bytes .*'st.global.v2.b32"),
    ],
)
def test_addresses_are_checked_for_bounds_and_alignment(access, error, says):
    with pytest.raises(error, match=says):
        run(access, np.zeros(3, np.uint32))


def test_only_threads_that_take_part_are_checked():
    body = OWN_WORD + "mov.b32 %r1, 7; setp.lt.u32 %p1, %r99, 5;"
    given = np.arange(100, 105, dtype=np.uint32)
    loaded = "@%p1 ld.global.b32 %r1, [%d1]; mad.wide.u32 %d2, %r97, 4, %d91; st.global.b32 [%d2], %r1;"
    assert run(body + loaded, given, WORDS)[1].tolist() == [*given, *[7] * 27]
    assert run(body + "@%p1 st.global.b32 [%d1], %r1;", given)[0].tolist() == [7] * 5
    assert run(body + "@!%p1 bra END; st.global.b32 [%d1], %r99; END:", given)[0].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(IllegalAddress):
        run(body + "@!%p1 st.global.b32 [%d1], %r1;", given)


def test_one_instruction_may_reach_several_regions():
    body = """
    and.b32 %r1, %r99, 1; setp.eq.u32 %p1, %r1, 0; selp.b64 %d1, %d90, %d91, %p1;
    mad.wide.u32 %d1, %r99, 4, %d1; ld.global.b32 %r2, [%d1]; add.u32 %r2, %r2, 5; st.global.b32 [%d1], %r2;
    """
    first, second = run(body, WORDS, WORDS + np.uint32(100))
    even = WORDS % 2 == 0
    assert np.array_equal(first, np.where(even, WORDS + 5, WORDS))
    assert np.array_equal(second, np.where(even, WORDS + 100, WORDS + 105))


def test_elements_narrower_than_their_register_are_widened():
    place = np.array([0x80, 0x7F, 0xFF, 1], np.uint8)
    copy = aligned_copy(np.zeros(4, np.int64))
    given = aligned_copy(place)
    body = """
    ld.global.s8 %r1, [%d90]; cvt.s64.s32 %d1, %r1; st.global.b64 [%d91], %d1;
    ld.global.u8 %h1, [%d90]; cvt.u64.u16 %d1, %h1; st.global.b64 [%d91+8], %d1;
    ld.global.s16 %d1, [%d90+2]; st.global.b64 [%d91+16], %d1;
    ld.global.b16 %r2, [%d90+2]; cvt.s64.s32 %d1, %r2; st.global.b64 [%d91+24], %d1;
    """
    memory = Memory([Region(given.ctypes.data, 4, "given", writable=False), (copy.ctypes.data, copy.nbytes)])
    Kernel(written(body)).run(1, [given.ctypes.data, copy.ctypes.data], memory)
    assert copy.tolist() == [-128, 128, 0x1FF, 0x1FF]
    with pytest.raises(IllegalAddress, match=r"given at 0x.* of 4 bytes, which is only to be read"):
        Kernel(written("st.global.b8 [%d90], %h1;")).run(1, [given.ctypes.data, copy.ctypes.data], memory)


def test_regions_may_lie_anywhere_but_not_overlap():
    raw = aligned_copy(np.arange(64, dtype=np.uint8)).ctypes.data
    with pytest.raises(ValueError, match="overlap"):
        Memory([(raw, 8), (raw + 4, 8)])
    # Words in a region that begins and ends within one.
    memory, kernel = Memory([(raw + 2, 11)]), Kernel(written("ld.global.b32 %r1, [%d90];"))
    for offset, error in ((0, IllegalAddress), (4, None), (8, None), (12, IllegalAddress), (6, Misaligned)):
        if error is None:
            kernel.run(1, [raw + offset, 0], memory)
        else:
            with pytest.raises(error):
                kernel.run(1, [raw + offset, 0], memory)
    with pytest.raises(IllegalAddress, match="there are no regions"):
        kernel.run(1, [raw, 0], Memory([]))


EXTERN = ".extern .shared .align 16 .b8 buffer[];"


@pytest.mark.parametrize(
    ("offset", "error"),
    [(60, None), (64, IllegalAddress), (58, Misaligned), (66, IllegalAddress), (-4, IllegalAddress)],
)
@pytest.mark.parametrize("access", ["st.shared.b32 [%r2], %r99;", "ld.shared.b32 %r1, [%r2];"])
def test_shared_memory_is_checked(access, offset, error):
    body = f"mov.b32 %r2, buffer; setp.eq.u32 %p1, %r99, 3; selp.b32 %r2, {offset}, %r2, %p1; {access}"
    if error is None:
        run(body, shared=EXTERN, shared_bytes=64)
        return
    with pytest.raises(error, match=r"of shared memory by '(ld|st)\.shared"):
        run(body, shared=EXTERN, shared_bytes=64)


def test_every_program_has_its_own_shared_memory():
    body = """
    mad.wide.u32 %d1, %r99, 8, buffer; cvt.u64.u32 %d2, %r97; st.shared.b64 [%d1], %d2;
    bar.sync 0; xor.b32 %r2, %r99, 63; shl.b32 %r2, %r2, 3; mov.b32 %r3, buffer; add.u32 %r2, %r2, %r3;
    ld.shared.v2.b32 {%r1, %r4}, [%r2];
    """
    shared = f".shared .align 4 .b32 other[3]; {EXTERN}"
    found = stored(body, threads=64, grid=600, shared=shared, shared_bytes=512)
    assert np.array_equal(found, 64 * np.arange(600)[:, None] + (np.arange(64) ^ 63))


# Threads that take different ways


def test_programs_loop_as_often_as_they_like():
    body = "mov.b32 %r1, 0; mov.b32 %r2, 0;\nLOOP: add.u32 %r1, %r1, %r2; add.u32 %r2, %r2, 1;"
    body += "setp.le.u32 %p1, %r2, %r98; @%p1 bra LOOP;"
    count = np.arange(70)[:, None]
    assert np.array_equal(stored(body, grid=70), np.repeat(count * (count + 1) // 2, 32, 1))


def test_threads_of_a_program_may_part_and_meet():
    body = """
    and.b32 %r2, %r97, 3; mov.b32 %r1, 1000; mov.b32 %r5, 0;
    bra.uni HEAD;
    LATCH: add.u32 %r5, %r5, 1; setp.ge.u32 %p3, %r5, %r99; @%p3 bra DONE;
    HEAD: setp.eq.u32 %p1, %r2, 0; @%p1 bra FIRST;
    setp.eq.u32 %p2, %r2, 1; @!%p2 bra LATCH;
    add.u32 %r1, %r1, 10; bra LATCH;
    FIRST: add.u32 %r1, %r1, 1; bra.uni LATCH;
    DONE: shfl.sync.bfly.b32 %r1, %r1, 1, 31, -1; bar.sync 0;
    """
    turns = np.maximum(WORDS, 1).astype(np.int64)
    alone = 1000 + turns * np.array([1, 10, 0, 0])[WORDS % 4]
    assert np.array_equal(stored(body, grid=3), np.repeat(alone[None, WORDS ^ 1], 3, 0))


def test_threads_may_end_early():
    body = OWN_WORD + "setp.lt.u32 %p1, %r99, %r98; @%p1 ret; st.global.b32 [%d1], 1;"
    found = run(
        body.replace("], 1", "], %r3").replace("setp", "mov.b32 %r3, 1; setp"), np.zeros(32 * 40, np.uint32), grid=40
    )
    assert np.array_equal(found[0].reshape(40, 32), WORDS[None] >= np.arange(40)[:, None])


def test_those_who_need_each_other_must_be_together():
    part = "setp.lt.u32 %p1, %r99, {}; @%p1 bra SKIP; {} SKIP:"
    with pytest.raises(Divergence, match=r"'bar\.sync 0'"):
        stored(part.format(32, "bar.sync 0;"), threads=64)
    with pytest.raises(Divergence, match=r"'shfl\.sync"):
        stored(part.format(5, "shfl.sync.bfly.b32 %r1, %r99, 1, 31, -1;"))
    with pytest.raises(Divergence, match=r"'@%p1 shfl\.sync"):
        stored("setp.lt.u32 %p1, %r99, 5; @%p1 shfl.sync.bfly.b32 %r1, %r99, 1, 31, -1;")
    # Whole warps may go where they like, but for barriers.
    whole = "mov.b32 %r1, 5;" + part.format(32, "redux.sync.add.u32 %r1, %r99, -1;")
    assert stored(whole, threads=64).tolist() == [[5] * 32 + [sum(range(32, 64))] * 32]


def test_guarded_instructions_leave_the_rest():
    body = "setp.lt.u32 %p1, %r99, 9; mov.b32 %r1, 5; @%p1 add.u32 %r1, %r99, 100; @!%p1 mov.b32 %r1, %r99;"
    assert np.array_equal(stored(body)[0], np.where(WORDS < 9, WORDS + 100, WORDS))


def test_two_predicates_at_once():
    body = "setp.lt.u32 %p3, %r99, 20; setp.gt.and.u32 %p1|%p2, %r99, 9, %p3; selp.b32 %r2, 1, 0, %p1;"
    found = stored(body + "selp.b32 %r3, 2, 0, %p2; or.b32 %r1, %r2, %r3;")[0]
    assert np.array_equal(found, np.where(WORDS < 20, np.where(WORDS > 9, 1, 2), 0))


@pytest.mark.parametrize(
    ("graph", "order"),
    [
        ({0: [1, 2], 1: [3], 2: [3], 3: []}, {(1, 3), (2, 3)}),
        # A loop whose exit is found first, and one within another.
        ({0: [4, 1], 1: [2], 2: [1, 4], 3: [], 4: [3]}, {(2, 4), (1, 4), (4, 3)}),
        ({0: [1], 1: [5, 2], 2: [3], 3: [2, 4], 4: [1], 5: []}, {(3, 4), (4, 5), (1, 2)}),
    ],
)
def test_loops_come_before_what_follows_them(graph, order):
    found = weak_order(graph, 0)
    assert sorted(found) == sorted(graph)
    assert all(found.index(first) < found.index(second) for first, second in order)


# Warps


def partner(mode: str, lane: int, by: int, bounds: int) -> tuple[int, bool]:
    """NVIDIA's pseudocode of ``shfl``: the lane read, and whether it is in range."""
    segment, clamp = bounds >> 8 & 31, bounds & 31
    last = lane & segment | clamp & ~segment
    if mode == "up":
        other, inside = lane - by, lane - by >= last
    else:
        other = {"down": lane + by, "bfly": lane ^ by, "idx": lane & segment | by & ~segment}[mode]
        inside = other <= last
    return (other if inside else lane), inside


@pytest.mark.parametrize("bounds", [0, 31, 0x1000, 0x101F, 0x181F, 0x1C03])
@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
def test_shuffles(mode, bounds):
    for by in (0, 1, 5, 16, 31):
        for operand in (str(by), "%r3"):
            body = f"mov.b32 %r3, {by}; mul.lo.u32 %r2, %r97, 3;"
            body += f"shfl.sync.{mode}.b32 %r1|%p1, %r2, {operand}, {bounds}, -1; @!%p1 add.u32 %r1, %r1, 1000000;"
            found = stored(body, threads=64, grid=2)
            ways = [partner(mode, lane, by, bounds) for lane in range(32)]
            index = np.array([way[0] for way in ways])
            expected = 3 * (32 * np.arange(4)[:, None] + index) + np.where([way[1] for way in ways], 0, 1000000)
            assert np.array_equal(found.reshape(4, 32), expected)


def test_shuffles_by_what_differs_between_threads():
    found = stored(
        "sub.u32 %r2, 31, %r99; and.b32 %r2, %r2, 31; add.u32 %r3, %r97, 1;\nshfl.sync.idx.b32 %r1, %r3, %r2, 31, -1;",
        grid=3,
    )
    assert np.array_equal(found, 32 * np.arange(3)[:, None] + 32 - WORDS)


@pytest.mark.parametrize("kind", ["s32", "u32"])
@pytest.mark.parametrize("how", ["add", "min", "max"])
def test_reductions(how, kind):
    found = stored(
        f"mul.lo.u32 %r2, %r97, 0x9E3779B9; mov.b32 %r3, -1; redux.sync.{how}.{kind} %r1, %r2, %r3;", threads=96
    )
    values = (
        (np.arange(96, dtype=np.uint32) * np.uint32(0x9E3779B9))
        .view(kind.replace("s", "i").replace("32", "4"))
        .reshape(3, 32)
    )
    expected = {"add": values.sum(1, dtype=values.dtype), "min": values.min(1), "max": values.max(1)}[how]
    assert np.array_equal(found.view(values.dtype).reshape(3, 32), np.repeat(expected[:, None], 32, 1))


def test_votes():
    body = "setp.ge.u32 %p1, %r99, 40; vote.sync.{}.pred %p2, %p1, -1; selp.b32 %r1, 1, 0, %p2;"
    per_warp = {how: stored(body.format(how), threads=96)[0, ::32].tolist() for how in ("any", "all", "uni")}
    assert per_warp == {"any": [0, 1, 1], "all": [0, 0, 1], "uni": [1, 0, 1]}
    found = stored("setp.ge.u32 %p1, %r99, 40; vote.sync.ballot.b32 %r1, %p1, -1;", threads=96)
    assert found[0, ::32].tolist() == [0, 0xFFFFFF00, 0xFFFFFFFF]


# What it refuses


@pytest.mark.parametrize(
    "instruction",
    [
        "atom.global.add.u32 %r1, [%d90], 1",
        "ex2.approx.f32 %f1, %f2",
        "add.f32 %f1, %f2, %f3",
        "add.rn.ftz.f32 %f1, %f2, %f3",
        "fma.rn.f32 %f1, %f2, %f3, %f4",
        "mul24.lo.u32 %r1, %r2, %r3",
        "add.cc.u32 %r1, %r2, %r3",
        "add.u32 %r1, %r2, %r3, %r4",
        "add.rn.f32 %f1, %f2, 1.5",
        "cvt.rz.f32.s32 %f1, %r1",
        "cvt.rn.ftz.f16.f32 %h1, %f1",
        "setp.lt.ftz.f32 %p1, %f1, %f2",
        "setp.lt.b32 %p1, %r1, %r2",
        "max.ftz.f32 %f1, %f2, %f3",
        "ld.b32 %r1, [%d90]",
        "ld.local.b32 %r1, [%d90]",
        "ld.global.L2::cache_hint.b32 %r1, [%d90], %d1",
        "st.param.b32 [a0], %r1",
        "bar.sync 1",
        "bar.red.popc.u32 %r1, 0, %p1",
        "shfl.sync.bfly.b32 %r1, %r2, 1, 31, 15",
        "shfl.bfly.b32 %r1, %r2, 1, 31",
        "redux.sync.max.f32 %f1, %f2, -1",
        "match.any.sync.b32 %r1, %r2, -1",
        "mov.f64 %d1, %d2",
        "cvt.rn.f16.f32 %r1, %f1",
        "mov.b32 %r1, %d1",
        "mov.u32 %r1, %clock",
        "mov.b32 %r1, unknown",
        "selp.b32 %r1, %r2, %r3, !%p1",
        "call.uni function, (%r1)",
        "bra.uni NOWHERE",
    ],
)
def test_what_is_not_supported_is_refused_by_name(instruction):
    with pytest.raises(NotImplementedError) as error:
        Kernel(written(f"{instruction};"))
    assert instruction in str(error.value)


def test_partial_masks_in_registers_are_refused():
    with pytest.raises(NotImplementedError, match="leaves out threads of the warp"):
        stored("mov.b32 %r3, 15; redux.sync.add.s32 %r1, %r99, %r3;")


def test_modules_that_are_not_supported_are_refused():
    text = written("")
    with pytest.raises(NotImplementedError, match="2 kernels"):
        Kernel(text + text)
    with pytest.raises(NotImplementedError, match=r"without \.reqntid"):
        Kernel(text.replace(".reqntid 32", ""))
    with pytest.raises(NotImplementedError, match="whole warps"):
        Kernel(text.replace(".reqntid 32", ".reqntid 8, 4"))
    with pytest.raises(NotImplementedError, match=r"registers of type \.b128"):
        Kernel(text.replace(".reg .b16", ".reg .b128"))
    with pytest.raises(NotImplementedError, match="%q1, which is not declared"):
        compiled(written("mov.b32 %r1, %q1;"))
