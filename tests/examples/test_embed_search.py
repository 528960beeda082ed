"""The example embed_search.py: DuckDB and Faiss find over the files of a batch what a product of all rows finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("duckdb", reason="duckdb is not installed")
pytest.importorskip("faiss", reason="faiss-cpu is not installed")
pytest.importorskip("pyarrow", reason="the extra batch is not installed")


@pytest.fixture
def pictures(gen, tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    for index, image in enumerate(gen.generate(24, 3).images):
        image.save(folder / ("inner" if index % 2 else ".") / f"{index:02}.png")
    (folder / "05.jpg").write_bytes(b"no picture")
    return folder


def test_both_find_the_nearest_pictures(example, gen, pictures: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    line = ("embed_search.py", pictures, tmp_path / "index", "--bundle", tiny_bundle, "--most", 4)
    code, out, err = example(*line, "--like", pictures / "inner/07.png")
    assert code == 0, err
    assert "1 picture could not be read" in err
    said = out.splitlines()
    assert (said[0], said[1], said[6]) == ("24 pictures", "DuckDB", "Faiss")
    paths = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png"))
    rows = gen.embed([Image.open(pictures / path) for path in paths])
    likeness = rows @ rows[paths.index("inner/07.png")]
    nearest = [paths[place] for place in np.argsort(-likeness)[:4]]
    for found in (said[2:6], said[7:11]):
        assert sorted(line.split("  ")[1] for line in found) == sorted(nearest)
        assert found[0].startswith("1.000  inner/07.png")
    code, out, err = example(*line)  # nothing is embedded anew
    assert code == 0, err
    assert out.splitlines()[0] == "24 pictures"
