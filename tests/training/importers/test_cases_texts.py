"""Files of labels and of configurations as editors and shells write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from smalti.errors import UsageError
from smalti_train.cli.importing import read_config, read_labels

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("names", [("cat", "dog"), ("été", "ガラス"), ("one",)])
def test_cases_of_label_files(names: tuple[str, ...], end: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "labels").write_bytes(end.join((*names, "")).encode(encoding))
    assert read_labels(str(tmp_path / "labels")) == names


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_cases_of_configuration_files(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes('{\r\n  "heads": 2, "grid": [8, 8]\r\n}\r\n'.encode(encoding))
    assert read_config(str(tmp_path / "config.json")) == {"heads": 2, "grid": [8, 8]}


def test_cases_of_marks_in_arguments() -> None:
    assert read_config('\ufeff{"heads": 2}') == {"heads": 2}
    assert read_labels("\ufeffcat,dog") == ("cat", "dog")


@pytest.mark.parametrize("raw", [b"\xff\xfe\x00", b"\xe9t\xe9\n", b"\xff\xfe\x00\xd8"])
def test_cases_of_texts_in_no_known_encoding_are_refused(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(raw)
    for read in (read_config, read_labels):
        with pytest.raises(UsageError, match=r"labels .* cannot be read|is not JSON"):
            read(str(tmp_path / "file"))
