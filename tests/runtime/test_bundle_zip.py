"""Bundles in one uncompressed zip: the same as the folder, and never anything but a BundleError when damaged."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import smalti
from smalti import BundleError, open_bundle

SOME = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
COMPRESSIONS = pytest.mark.parametrize(
    "compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"]
)


def zipped(folder: Path, target: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(target, "w", compression) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    return target


def read_all(path: Path) -> dict[str, bytes] | str:
    """Every declared file of a bundle, or the message of the BundleError; any other error goes through."""
    try:
        bundle = open_bundle(path)
        return {record.file: bundle.read(record.file) for record in bundle.manifest.files()}
    except BundleError as error:
        return str(error)


def test_folder_and_zip_give_the_same_tokens(tiny_bundle, tmp_path):
    archive = zipped(tiny_bundle, tmp_path / "tiny.zip")
    for precision in ("fp32", "int8"):
        from_folder, from_zip = (smalti.load(path, precision=precision) for path in (tiny_bundle, archive))
        assert from_folder.bundle.digest == from_zip.bundle.digest
        assert np.array_equal(from_folder.generate(3, 5).tokens, from_zip.generate(3, 5).tokens)


def test_a_zip_without_manifest_is_no_bundle(tiny_bundle, tmp_path):
    with zipfile.ZipFile(tmp_path / "deep.zip", "w") as archive:
        archive.write(tiny_bundle / "manifest.json", "tiny/manifest.json")
    with pytest.raises(
        BundleError, match=r"it has no manifest\.json, but tiny/manifest\.json; zip the bundle's files themselves"
    ):
        open_bundle(tmp_path / "deep.zip")


def test_a_zip_without_one_of_its_files_names_it(tiny_bundle, tmp_path):
    with zipfile.ZipFile(tmp_path / "less.zip", "w") as archive:
        for file in tiny_bundle.iterdir():
            if file.name != "decoder.fp32.onnx":
                archive.write(file, file.name)
    with pytest.raises(BundleError, match=r"less\.zip: decoder\.fp32\.onnx is missing"):
        smalti.load(tmp_path / "less.zip", precision="fp32")


@COMPRESSIONS
@pytest.mark.parametrize("flip", [0x01, 0x08, 0x80])
def test_a_zip_with_any_byte_of_its_headers_changed_is_refused_or_unharmed(flip, compression, tiny_bundle, tmp_path):
    archive, broken = zipped(tiny_bundle, tmp_path / "tiny.zip", compression), tmp_path / "broken.zip"
    with zipfile.ZipFile(archive) as reader:
        directory, last = reader.start_dir, reader.infolist()[-1].header_offset
    content, expected = archive.read_bytes(), read_all(tiny_bundle)
    refused = set()
    harmless = 0
    for where in (
        *range(last, last + 48),
        *range(directory, directory + 64),
        *range(len(content) - 22, len(content)),
    ):
        broken.write_bytes(content[:where] + bytes([content[where] ^ flip]) + content[where + 1 :])
        read = read_all(broken)
        if isinstance(read, str):
            refused.add(read)
        else:
            assert read == expected
            harmless += 1
    assert refused
    assert all("broken.zip" in message and not message.endswith(": ") for message in refused)
    assert harmless  # Dates, for one, are read by nobody.


@SOME
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_zip_with_a_byte_changed_anywhere_is_refused_or_unharmed(where, flip, tiny_bundle, tmp_path):
    archive = tmp_path / "tiny.zip"
    if not archive.exists():
        zipped(tiny_bundle, archive)
    content = bytearray(archive.read_bytes())
    content[int(where * len(content))] ^= flip
    broken = tmp_path / "broken.zip"
    broken.write_bytes(content)
    read = read_all(broken)
    assert "broken.zip" in read if isinstance(read, str) else read == read_all(tiny_bundle)


@SOME
@given(length=st.floats(0, 1, exclude_max=True))
def test_a_zip_cut_short_is_refused(length, tiny_bundle, tmp_path):
    archive = tmp_path / "tiny.zip"
    if not archive.exists():
        zipped(tiny_bundle, archive)
    content = archive.read_bytes()
    broken = tmp_path / "broken.zip"
    broken.write_bytes(content[: int(length * len(content))])
    with pytest.raises(BundleError, match=r"broken\.zip cannot be read as a bundle"):
        open_bundle(broken)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "lzma"])
def test_a_zip_of_an_unusual_kind_is_refused_with_advice(compression, tiny_bundle, tmp_path):
    with pytest.raises(BundleError, match="zip the folder without compression"):
        open_bundle(zipped(tiny_bundle, tmp_path / "tiny.zip", compression))
