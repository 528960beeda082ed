"""A bundle exported again from its own weights keeps every one of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import smalti
from smalti.bundle.reader import open_bundle
from smalti.errors import UsageError
from smalti_export.export import export_again


def test_the_weights_and_graphs_of_a_bundle_stay_what_they_are(tiny_bundle: Path, tmp_path: Path) -> None:
    assert export_again(tiny_bundle, tmp_path / "again", defaults={"steps": 3}) == []
    before, after = open_bundle(tiny_bundle), open_bundle(tmp_path / "again")
    for record in before.manifest.weights:
        assert after.read(record.file) == before.read(record.file), record.file
    for role, component in before.manifest.components.items():
        for variant in component.variants:
            name = variant.graph.file
            # Scales of 8 bits come from tokens, of which the rounded encoder may tell another one.
            if variant.precision != "int8":
                assert after.read(name) == before.read(name), (role, name)
    assert after.manifest.provenance.training == before.manifest.provenance.training
    assert after.manifest.sampler.steps == 3
    assert after.manifest.name == before.manifest.name
    gens = [smalti.load(bundle, provider="cpu") for bundle in (before, after)]
    tokens = [gen.generate(2, 7, steps=4).tokens.tolist() for gen in gens]
    assert tokens[0] == tokens[1]


def test_a_bundle_of_no_preset_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for path in tiny_bundle.iterdir():
        (foreign / path.name).write_bytes(path.read_bytes())
    content = json.loads((foreign / "manifest.json").read_text("utf-8"))
    content["provenance"]["training"]["preset"] = "imported"
    (foreign / "manifest.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(UsageError, match="which is no preset"):
        export_again(foreign, tmp_path / "again")
    assert not (tmp_path / "again").exists()
