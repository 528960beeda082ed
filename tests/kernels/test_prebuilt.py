"""Prebuilt kernels as files: which GPU runs which, what is written is read, and damage is told."""

from __future__ import annotations

import pytest

from helpers.kernel_files import COMPILER, IMAGES, entry_of, write_some
from smalti_kernels.errors import DamagedKernel, NoMatchingKernel
from smalti_kernels.impl.cuda.prebuilt import find_entry, read_image, read_manifest, write_kernels
from smalti_kernels.impl.cuda.targets import target_for


@pytest.fixture
def folder(tmp_path):
    return write_some(tmp_path / "cubins")


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
