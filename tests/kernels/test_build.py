"""The ahead-of-time build: its command line, and whether what is committed is what is built."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zipfile

import pytest

from helpers.kernel_files import COMPILER, IMAGES, entry_of, write_some
from smalti_kernels.build import command as build
from smalti_kernels.build import compiler
from smalti_kernels.build.command import MAX_BYTES, MAX_SHARED_BYTES, Job
from smalti_kernels.build.elf import read_cubin
from smalti_kernels.errors import KernelError
from smalti_kernels.impl.abi import FLAG_TRUNCATED, KERNEL_NAME, VARIANTS, variant_for
from smalti_kernels.impl.cuda import launch, prebuilt
from smalti_kernels.impl.cuda.prebuilt import read_image, read_manifest
from smalti_kernels.impl.cuda.targets import TARGETS

ENTRIES = list(read_manifest().entries.values())
"""What is committed."""


@pytest.fixture
def folder(tmp_path):
    return write_some(tmp_path / "cubins")


def test_check_tells_every_difference(folder):
    built = [(entry_of(*image), image[2]) for image in IMAGES]
    manifest = read_manifest(folder)
    assert build.differences(COMPILER, built, manifest, folder) == []
    other = b"other" * 30
    changed = [(entry_of("sm_75", "a", other, registers=41), other), (entry_of("sm_75", "c", other), other)]
    first, second = build.differences(COMPILER, changed, manifest, folder)
    assert first.startswith("sm_75 a: sha256 ")
    assert first.endswith("registers 41 instead of 40")
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
    code = "import sys; sys.modules['triton'] = None; from smalti_kernels.build.command import main; sys.exit(main())"
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
