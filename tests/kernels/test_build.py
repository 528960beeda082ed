"""The ahead-of-time build: its command line, and whether what is committed is what is built."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zipfile

import pytest

from helpers.kernel_files import COMPILER, IMAGES, entry_of, write_some
from helpers.ptx.parse import parse
from helpers.ptx.values import bits_of
from smalti_kernels.build import command as build
from smalti_kernels.build import compiler
from smalti_kernels.build.command import MAX_BYTES, MAX_SHARED_BYTES, Job
from smalti_kernels.build.elf import read_cubin
from smalti_kernels.errors import KernelError
from smalti_kernels.impl.abi import FLAG_TRUNCATED, variant_for
from smalti_kernels.impl.cuda import prebuilt
from smalti_kernels.impl.cuda.modules import layout_of
from smalti_kernels.impl.cuda.prebuilt import read_image, read_manifest
from smalti_kernels.impl.cuda.targets import TARGETS
from smalti_kernels.impl.forms import FORMS, MIXTURE, MOVE, Form

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
    assert build.main(["--check", "--variant", next(iter(FORMS)), "-o", str(written)]) == 0
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
    assert len(ENTRIES) == len(TARGETS) * len(FORMS)
    assert {(entry.target, entry.variant) for entry in ENTRIES} == {(t.name, name) for t in TARGETS for name in FORMS}
    archives = list(prebuilt.FOLDER.glob("*.zip"))
    assert sorted(path.stem for path in archives) == sorted(target.name for target in TARGETS)
    for path in archives:
        with zipfile.ZipFile(path) as archive:
            ending = ".ptx" if path.stem.startswith("ptx") else ".cubin"
            assert sorted(archive.namelist()) == sorted(name + ending for name in FORMS)
    assert sum(path.stat().st_size for path in prebuilt.FOLDER.iterdir()) < 6 * 2**20


def parameter_types(form: Form) -> list[str]:
    """Types of all parameters of a kernel; two pointers to scratch memory come last."""
    return [*(argument.type for argument in form.arguments), "*", "*"]


def size_of(kind: str) -> int:
    """Bytes of a parameter."""
    return 8 if kind.startswith("*") or kind.endswith("64") else 4


def test_the_manifest_says_what_the_files_say():
    """Architecture, name, threads, registers, stack and arguments of every committed cubin, read from its ELF."""
    targets = {target.name: target for target in TARGETS}
    for entry in ENTRIES:
        target, form = targets[entry.target], FORMS[entry.variant]
        image = read_image(entry)
        assert len(image) == entry.bytes
        assert (entry.kernel, entry.num_warps) == (form.kernel, form.num_warps)
        assert (entry.stack_bytes, entry.scratch_bytes) == (0, 0)
        assert entry.shared_bytes <= MAX_SHARED_BYTES
        if target.ptx:
            text = image.decode()
            assert f".target sm_{target.capability}\n" in text
            assert not compiler.loose_float_arithmetic(text)
            kernel = parse(text)
            assert (kernel.name, kernel.threads) == (form.kernel, 32 * form.num_warps)
            sizes = [bits_of(parameter.kind) // 8 for parameter in kernel.parameters]
            assert sizes == [size_of(kind) for kind in parameter_types(form)]
            continue
        assert len(image) <= MAX_BYTES
        cubin = read_cubin(image)
        assert (cubin.arch, cubin.specific, cubin.toolkit) == (target.capability, target.exact, entry.cuda)
        (kernel,) = cubin.kernels
        assert (kernel.name, kernel.threads) == (entry.kernel, 32 * entry.num_warps)
        assert (kernel.registers, kernel.stack_bytes) == (entry.registers, 0)
        assert kernel.threads * kernel.registers <= 65536
        at = 0
        for kind, (offset, size) in zip(parameter_types(form), kernel.parameters, strict=True):
            assert size == size_of(kind)
            assert offset == -(-at // size) * size
            at = offset + size
        assert at == layout_of(form.arguments).size


def test_some_files_are_built_again():
    """A few forms for all targets; `python -m smalti_kernels.build --check` builds them all."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    manifest = read_manifest()
    variants = [variant_for("fp16", 1024, 0), variant_for("fp32", 1024, FLAG_TRUNCATED)]
    chosen = [*(FORMS[variant.name] for variant in variants), MOVE, MIXTURE]
    versions, built = build.build_all([Job(form, target) for form in chosen for target in TARGETS], 2)
    if versions != manifest.compiler:
        pytest.skip(f"the committed files are of {dict(manifest.compiler)}; here is {versions}")
    assert build.differences(versions, built, manifest, prebuilt.FOLDER) == []


def test_the_manifest_reads_as_lines():
    """One line for each file, so that a change of one is a change of one line."""
    lines = (prebuilt.FOLDER / prebuilt.MANIFEST).read_text().splitlines()
    assert sum('"sha256"' in line for line in lines) == len(ENTRIES)
    assert json.loads("\n".join(lines))["schema"] == prebuilt.SCHEMA
