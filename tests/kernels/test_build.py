"""The ahead-of-time build: which GPU runs what, what is refused, and whether what is committed is what is built."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from smalti_kernels import build, compiler, launch, prebuilt
from smalti_kernels.abi import FLAG_TRUNCATED, KERNEL_NAME, VARIANTS, variant_for
from smalti_kernels.build import MAX_BYTES, MAX_SHARED_BYTES, Job
from smalti_kernels.elf import read_cubin
from smalti_kernels.errors import DamagedKernel, KernelError, NoMatchingKernel
from smalti_kernels.prebuilt import Entry, find_entry, read_image, read_manifest, write_kernels
from smalti_kernels.targets import TARGETS, target_for


@pytest.mark.parametrize(
    ("capability", "cuda", "runs"),
    [
        (61, (12, 0), "sm_61"),
        (75, (12, 0), "sm_75"),
        (80, (13, 0), "sm_80"),
        (86, (12, 0), "sm_86"),
        (89, (12, 4), "sm_89"),
        (88, (12, 4), "sm_86"),  # the nearest lower minor
        (87, (12, 4), "ptx_80"),  # Orin runs no cubin of a graphics card
        (90, (12, 0), "sm_90"),
        (100, (13, 0), "ptx_80"),  # sm_90a is for 9.0 alone
        (120, (13, 0), "sm_120"),
        (120, (12, 8), "ptx_80"),  # a driver that cannot load CUDA 13's cubin
        (121, (13, 0), "ptx_80"),  # sm_120a is for 12.0 alone
        (130, (14, 0), "ptx_80"),
        (60, (12, 0), None),
        (62, (12, 0), None),
        (70, (12, 0), None),
        (50, (12, 0), None),
    ],
)
def test_every_gpu_has_its_file(capability, cuda, runs):
    target = target_for(capability, cuda)
    assert (None if target is None else target.name) == runs


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


def entry_of(target: str, variant: str, image: bytes, **changes: object) -> Entry:
    fields = {
        "target": target,
        "variant": variant,
        "sha256": hashlib.sha256(image).hexdigest(),
        "bytes": len(image),
        "kernel": KERNEL_NAME,
        "num_warps": 4,
        "shared_bytes": 16,
        "registers": 40,
        "stack_bytes": 0,
        "scratch_bytes": 0,
        "cuda": (12, 8),
    }
    return Entry(**(fields | changes))


IMAGES = [("sm_75", "a", b"one" * 50), ("sm_75", "b", b"two" * 50), ("ptx_80", "a", b"three" * 50)]
COMPILER = {"triton": "3.7.1"}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "cubins"
    write_kernels(path, COMPILER, [(entry_of(*image), image[2]) for image in IMAGES])
    return path


def test_files_written_are_files_read_and_always_the_same_bytes(folder, tmp_path):
    manifest = read_manifest(folder)
    assert manifest.compiler == COMPILER
    assert set(manifest.entries) == {(target, variant) for target, variant, _ in IMAGES}
    for target, variant, image in IMAGES:
        entry = find_entry(target, variant, folder)
        assert entry == entry_of(target, variant, image)
        assert read_image(entry, folder) == image
    again = tmp_path / "again"
    again.mkdir()
    (again / "sm_20.zip").write_bytes(b"of a target that is no longer built")
    write_kernels(again, COMPILER, [(entry_of(*image), image[2]) for image in reversed(IMAGES)])
    assert sorted(path.name for path in again.iterdir()) == ["manifest.json", "ptx_80.zip", "sm_75.zip"]
    for path in again.iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes()


def test_a_kernel_that_was_not_built(folder):
    with pytest.raises(NoMatchingKernel, match="c was not built for sm_75"):
        find_entry("sm_75", "c", folder)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "missing"),
        ("", "not a manifest"),
        ("[]", "not a manifest"),
        ("{}", "not a manifest"),
        ('{"schema": 2, "compiler": {}, "kernels": []}', "has schema 2; this smalti reads 1"),
        ('{"schema": 1, "compiler": {}, "kernels": [{"target": "sm_75"}]}', "not a manifest"),
        ('{"schema": 1, "compiler": {}, "kernels": [5]}', "not a manifest"),
    ],
)
def test_a_manifest_that_is_none(tmp_path, text, says):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DamagedKernel, match=rf"{says}.*install smalti again"):
        read_manifest(tmp_path)


def test_damaged_archives(folder):
    entry = find_entry("sm_75", "a", folder)
    with pytest.raises(DamagedKernel, match=r"is damaged: sha256 [0-9a-f]{12} instead of 000000"):
        read_image(entry._replace(sha256="0" * 64), folder)
    with pytest.raises(DamagedKernel, match=r"does not yield c\.cubin"):
        read_image(entry._replace(variant="c"), folder)
    path = folder / "sm_75.zip"
    whole = path.read_bytes()
    for damaged in (whole[:60], b"", whole[:50] + b"\xff" * 4 + whole[54:]):
        path.write_bytes(damaged)
        with pytest.raises(DamagedKernel, match=r"sm_75\.zip does not yield a\.cubin"):
            read_image(entry, folder)
    path.unlink()
    with pytest.raises(DamagedKernel, match="No such file"):
        read_image(entry, folder)


def test_check_tells_every_difference(folder):
    built = [(entry_of(*image), image[2]) for image in IMAGES]
    manifest = read_manifest(folder)
    assert build.differences(COMPILER, built, manifest, folder) == []
    other = b"other" * 30
    changed = [(entry_of("sm_75", "a", other, registers=41), other), (entry_of("sm_75", "c", other), other)]
    first, second = build.differences(COMPILER, changed, manifest, folder)
    assert first.startswith("sm_75 a: sha256 ")
    assert (
        first.endswith("bytes 150 instead of 150, registers 41 instead of 40") or "registers 41 instead of 40" in first
    )
    assert second == "sm_75 c: not in the manifest"
    with pytest.raises(KernelError, match=r"'3\.7\.1'}, and here is {'triton': '9'}; install the same compiler"):
        build.differences({"triton": "9"}, built, manifest, folder)


def test_the_command_line(folder, monkeypatch, capsys):
    built = [(entry_of(*image), image[2]) for image in IMAGES]
    monkeypatch.setattr(build, "build_all", lambda jobs, processes: (COMPILER, built))
    assert build.main(["--check", "-o", str(folder)]) == 0
    assert "all as committed" in capsys.readouterr().out
    written = folder.parent / "new"
    assert build.main(["-o", str(written)]) == 0
    assert "3 files in" in capsys.readouterr().out
    assert read_manifest(written).entries == read_manifest(folder).entries
    built.pop()
    assert build.main(["--check", "-o", str(written)]) == 1
    assert "ptx_80 a: in the manifest, and no longer built" in capsys.readouterr().err
    assert build.main(["--check", "--variant", VARIANTS[0].name, "-o", str(written)]) == 0
    assert build.main(["--check", "-o", str(folder / "nowhere")]) == 1
    assert "missing" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        build.main(["--target", "sm_75"])


def test_without_triton_the_build_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['triton'] = None; from smalti_kernels.build import main; sys.exit(main(sys.argv[1:]))"
    )
    spawned = "import sys; sys.modules['triton'] = None"
    (tmp_path / "sitecustomize.py").write_text(spawned)
    done = subprocess.run(
        [sys.executable, "-c", code, "-o", tmp_path / "out"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1
    assert done.stderr.strip() == 'building the kernels needs Triton; install it: pip install "smalti[dev]"'


# What is committed.

ENTRIES = list(read_manifest().entries.values()) if (prebuilt.FOLDER / prebuilt.MANIFEST).exists() else []


def test_everything_is_there_and_small():
    assert {(entry.target, entry.variant) for entry in ENTRIES} == {(t.name, v.name) for t in TARGETS for v in VARIANTS}
    archives = list(prebuilt.FOLDER.glob("*.zip"))
    assert sorted(path.stem for path in archives) == sorted(target.name for target in TARGETS)
    for path in archives:
        with zipfile.ZipFile(path) as archive:
            assert len(archive.namelist()) == len(VARIANTS)
    assert sum(path.stat().st_size for path in prebuilt.FOLDER.iterdir()) < 6 * 2**20


def test_the_manifest_says_what_the_files_say():
    """Architecture, name, threads, registers, stack and arguments of every committed cubin, read from its ELF."""
    warps = {variant.name: variant.num_warps for variant in VARIANTS}
    targets = {target.name: target for target in TARGETS}
    sizes = [len(launch._LAYOUT.pack(*[0] * (len(launch.ARGUMENTS) + 2)))]
    for entry in ENTRIES:
        target = targets[entry.target]
        image = read_image(entry)
        assert len(image) == entry.bytes
        assert (entry.kernel, entry.num_warps) == (KERNEL_NAME, warps[entry.variant])
        assert (entry.stack_bytes, entry.scratch_bytes) == (0, 0)
        assert entry.shared_bytes <= MAX_SHARED_BYTES
        if target.ptx:
            assert f".target sm_{target.capability}\n" in image.decode()
            assert not compiler.loose_float_arithmetic(image.decode())
            continue
        assert len(image) <= MAX_BYTES
        cubin = read_cubin(image)
        assert (cubin.arch, cubin.specific, cubin.toolkit) == (target.capability, target.exact, entry.cuda)
        (kernel,) = cubin.kernels
        assert (kernel.name, kernel.threads) == (entry.kernel, 32 * entry.num_warps)
        assert (kernel.registers, kernel.stack_bytes) == (entry.registers, 0)
        assert kernel.threads * kernel.registers <= 65536
        end, size = kernel.parameters[-1]
        assert [end + size] == sizes
        at = 0
        for argument, (offset, size) in zip(
            (*(a.type for a in launch.ARGUMENTS), "*", "*"), kernel.parameters, strict=True
        ):
            assert size == (8 if argument.startswith("*") else 4)
            assert offset == -(-at // size) * size
            at = offset + size


def test_some_files_are_built_again():
    """Two variants for all targets; `python -m smalti_kernels.build --check` builds them all."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    manifest = read_manifest()
    chosen = [variant_for("fp16", 1024, 0), variant_for("fp32", 1024, FLAG_TRUNCATED)]
    versions, built = build.build_all([Job(variant, target) for variant in chosen for target in TARGETS], 2)
    if versions != manifest.compiler:
        pytest.skip(f"the committed files are of {dict(manifest.compiler)}; here is {versions}")
    assert build.differences(versions, built, manifest, prebuilt.FOLDER) == []


def test_the_manifest_reads_as_lines():
    """One line for each file, so that a change of one is a change of one line."""
    lines = (prebuilt.FOLDER / prebuilt.MANIFEST).read_text().splitlines()
    assert sum('"sha256"' in line for line in lines) == len(ENTRIES)
    assert json.loads("\n".join(lines))["schema"] == prebuilt.SCHEMA
