"""The compiler: fused arithmetic is seen, what may not ship is refused, and bytes depend on the source alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from smalti_kernels.build import compiler


@pytest.mark.parametrize(
    ("line", "loose"),
    [
        ("\tmul.rn.f32 \t%r1, %r2, %r3;", False),
        ("\tadd.rn.f32 \t%r1, %r2, %r3;", False),
        ("\t@%p3 sub.rn.f32 \t%r1, %r2, %r3;", False),
        ("\tadd.s32 \t%r1, %r2, %r3;", False),
        ("\tmad.lo.s32 \t%r1, %r2, %r3, %r4;", False),
        ("\tmul.wide.u32 \t%rd1, %r2, 4;", False),
        ("\tmul.f32 \t%r1, %r2, %r3;", True),
        ("\t@!%p12 add.f32 \t%r1, %r2, %r3;", True),
        ("\tsub.f16x2 \t%r1, %r2, %r3;", True),
        ("\tadd.bf16 \t%r1, %r2, %r3;", True),
        ("\tmul.rn.ftz.f32 \t%r1, %r2, %r3;", True),
        ("\tfma.rn.f32 \t%r1, %r2, %r3, %r4;", True),
        ("\tmad.rn.f32 \t%r1, %r2, %r3, %r4;", True),
    ],
)
def test_arithmetic_that_may_be_fused_is_seen_in_ptx(line, loose):
    assert bool(compiler.loose_float_arithmetic(f".visible .entry k(\n{line}\n\tret;\n")) == loose


@pytest.mark.parametrize(
    ("line", "fused"),
    [
        ("FADD R1, R2, R3", False),
        ("IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28]", False),
        ("HFMA2.MMA R5, -RZ, RZ, 0, 5.9604644775390625e-08", False),
        ("HFMA2 R5, -RZ, RZ, 0, 0", False),
        ("FFMA R11, R11, R12, R13", True),
        ("FFMA.FTZ R11, R11, R12, R13", True),
        ("@!P0 FFMA R11, R11, R12, R13", True),
        ("FFMA2 R2, R4.F32x2, R6.F32x2, R8", True),
        ("HFMA2 R5, R2, R3, R4", True),
        ("HFMA2.BF16_V2 R5, R2, R3, R4", True),
        ("DFMA R2, R4, R6, R8", True),
    ],
)
def test_fused_arithmetic_is_seen_in_sass(line, fused):
    assert bool(compiler.fused_instructions(f"        /*0010*/                   {line} ;")) == fused


def test_a_kernel_that_fuses_or_spills_is_refused(toys):
    fused = toys.compile("fused", "sm_61", "sm_80", "ptx_80")
    assert "may be fused: fma.rn.f32" in fused["sm_61"]["error"]
    assert "may be fused: FFMA" in fused["sm_80"]["error"]
    assert "may be fused: fma.rn.f32" in fused["ptx_80"]["error"]
    assert not fused["torch"]
    spilled = toys.compile("plain", "sm_75", registers=24)
    assert "bytes of stack and 0 of scratch memory; hold less in registers" in spilled["sm_75"]["error"]


def test_the_same_source_gives_the_same_bytes(toys):
    first = toys.compile("plain", "sm_75", "ptx_80")
    # Another cache and another folder: nothing of either may end up in the file.
    toys.folder /= "elsewhere"
    toys.folder.mkdir()
    second = toys.compile("plain", "sm_75", "ptx_80")
    toys.folder = toys.folder.parent
    for target in ("sm_75", "ptx_80"):
        assert first[target]["sha256"] == second[target]["sha256"]
        assert first[target]["image"] != second[target]["image"]
    ptx = Path(first["ptx_80"]["image"]).read_text()
    assert ".version 7.1" in ptx
    assert ".target sm_80" in ptx
