"""Bundles: complete and undamaged, or a refusal that names the file or the field."""

from __future__ import annotations

import contextlib
import hashlib
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import smalti
from smalti import BundleError, open_bundle
from smalti.bundle import manifest_file
from smalti.bundle.reader import embedded_bundles


def variant_of(content, role="denoiser", precision="fp32"):
    """The JSON of one variant in a manifest's JSON."""
    (found,) = (v for v in content["components"][role]["variants"] if v["precision"] == precision)
    return found


def flip_bit(file, where):
    content = bytearray(file.read_bytes())
    content[where] ^= 1
    file.write_bytes(content)


def test_a_path_may_be_a_string_a_path_or_an_open_bundle(tiny_bundle):
    digests = {
        smalti.load(source).bundle.digest for source in (str(tiny_bundle), tiny_bundle, open_bundle(tiny_bundle))
    }
    assert digests == {hashlib.sha256((tiny_bundle / "manifest.json").read_bytes()).hexdigest()}


def test_every_declared_file_is_read_and_is_what_is_on_disk(tiny_bundle):
    bundle = open_bundle(tiny_bundle)
    names = {record.file for record in bundle.manifest.files()}
    assert names == {file.name for file in tiny_bundle.iterdir()} - {"manifest.json"}
    for name in names:
        assert bundle.read(name) == (tiny_bundle / name).read_bytes()


def test_encoding_a_manifest_again_changes_no_byte(tiny_bundle):
    raw = (tiny_bundle / "manifest.json").read_bytes()
    assert manifest_file.encode(manifest_file.decode(raw, "here")) == raw


def test_a_name_that_is_no_bundle_lists_those_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="no bundle at nonesuch, and none of that name is embedded") as caught:
        smalti.load("nonesuch")
    assert all(name in str(caught.value) for name in embedded_bundles())


def test_a_folder_without_manifest_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match=r"is not a bundle: it has no manifest\.json") as caught:
        open_bundle(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_file_that_is_no_zip_is_no_bundle(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(BundleError, match=r"notes\.txt cannot be read as a bundle: .*Get the bundle again"):
        open_bundle(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema_version": "one"}', b'{"schema_version": 1, "name": "\xff"}'],
)
def test_a_broken_manifest_is_refused(raw, copied):
    (copied / "manifest.json").write_bytes(raw)
    with pytest.raises(BundleError, match=r"manifest\.json (cannot be read|does not fit): ") as caught:
        open_bundle(copied)
    assert str(copied) in str(caught.value)


def measure_of(content):
    return next(m for m in content["certificate"] if (m["component"], m["precision"]) == ("decoder", "int8"))


def set_grid(content):
    content["latent"]["grid"] = [4, 4, 4]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(flavour=1), "unknown field `flavour`"),
        (lambda c: c["latent"].update(depth=3), r"unknown field `depth` - at `\$\.latent`"),
        (lambda c: c.pop("latent"), "missing required field `latent`"),
        (lambda c: c["latent"].update(codes="many"), r"\$\.latent\.codes"),
        (set_grid, r"\$\.latent\.grid"),
        (lambda c: c.update(family="recurrent"), r"\$\.family"),
        (lambda c: c.update(family="autoregressive"), "the bundle has no predictor; one of the family autoregressive"),
        (lambda c: c["sampler"].update(order="raster"), r"\$\.sampler\.order"),
        (lambda c: c["sampler"].update(remask="some"), r"\$\.sampler\.remask"),
        (lambda c: c["sampler"].update(schedule="linear"), r"\$\.sampler\.schedule"),
        (lambda c: variant_of(c).update(precision="fp4"), r"precision"),
        (lambda c: c["components"].update(upscaler=c["components"]["decoder"]), "components"),
        (lambda c: c["components"].pop("decoder"), "the bundle has no decoder"),
        (
            lambda c: (c["latent"].update(factor=8), c["resolutions"][0].update(factor=8, pixels=32)),
            r"images of the \w+ are .*'16\*h'.* with 8 pixels per token they would",
        ),
        (
            lambda c: c["components"]["decoder"]["variants"].pop(0),
            "decoder has no variant in fp32, which every component",
        ),
        (lambda c: c["components"]["preview"].update(variants=[]), "preview has no variant in fp32"),
        (lambda c: c.update(certificate=[]), "the certificate does not say that .* fp32 is within tolerance"),
        (lambda c: measure_of(c).update(tolerances={}), "the certificate does not say that decoder int8 is within"),
        (lambda c: measure_of(c).update(figures={}), "the certificate does not say that decoder int8 is within"),
        (
            lambda c: measure_of(c)["figures"].update(psnr=20),
            "the certificate does not say that decoder int8 is within",
        ),
        (
            lambda c: variant_of(c).update(weights=["other.safetensors"]),
            r"denoiser fp32 reads \['other\.safetensors'\]",
        ),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_by_the_fields_name(change, says, copied, edit):
    edit(copied, change)
    with pytest.raises(BundleError, match=says):
        open_bundle(copied)


@pytest.mark.parametrize(
    ("version", "advice"), [(3, "Update smalti"), (99, "Update smalti"), (0, "Export the bundle again")]
)
def test_another_schema_version_is_refused_with_advice(version, advice, copied, edit):
    # Whatever else a later layout holds, its version is read first.
    edit(copied, lambda content: content.update(schema_version=version, unheard_of=True))
    with pytest.raises(BundleError, match=rf"schema version {version}, and this smalti reads up to 2\. {advice}"):
        open_bundle(copied)


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a\\b", "C:x", "", ".", "a/../../x", "a/..", "\\\\server\\x", "nul\0byte", ".."]
)
@pytest.mark.parametrize("kind", ["graph", "weights"])
def test_names_that_lead_out_of_the_bundle_are_refused(name, kind, copied, edit):
    def change(content):
        record = variant_of(content)["graph"] if kind == "graph" else content["weights"][0]
        old, record["file"] = record["file"], name
        for component in content["components"].values():
            for variant in component["variants"]:
                variant["weights"] = [name if file == old else file for file in variant["weights"]]

    edit(copied, change)
    with pytest.raises(BundleError, match="not a file inside the bundle") as caught:
        open_bundle(copied)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["denoiser.fp32.onnx", "denoiser.safetensors", "decoder.fp32.onnx"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda file: file.unlink(), "is missing"),
        (lambda file: (file.unlink(), file.mkdir()), "cannot be read"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "is damaged: .* bytes instead of"),
        (lambda file: file.write_bytes(file.read_bytes() + b"\0"), "is damaged: .* bytes instead of"),
        (lambda file: file.write_bytes(b""), "is damaged: 0 bytes instead of"),
        (lambda file: flip_bit(file, 99), "is damaged: its sha256 is not that in manifest.json"),
    ],
)
def test_a_missing_or_damaged_file_is_named(name, damage, says, copied):
    damage(copied / name)
    with pytest.raises(BundleError, match=says) as caught:
        smalti.load(copied, precision="fp32")
    assert name in str(caught.value)
    assert str(copied) in str(caught.value)


def test_damage_to_a_component_that_is_not_used_does_no_harm_until_it_is(copied, edit):
    (copied / "encoder.fp32.onnx").unlink()
    generator = smalti.load(copied, precision="fp32")
    generator.generate()
    with pytest.raises(BundleError, match=r"encoder\.fp32\.onnx is missing"):
        generator.encode([np.zeros((64, 64, 3), np.uint8)])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_manifest_with_any_byte_changed_is_refused_or_another_bundle(where, flip, tiny_bundle):
    raw = (tiny_bundle / "manifest.json").read_bytes()
    content = bytearray(raw)
    content[int(where * len(content))] ^= flip
    # Nothing but a BundleError may come of it; a changed name or number makes another manifest.
    with contextlib.suppress(BundleError):
        assert manifest_file.decode(bytes(content), "here") is not None


def test_a_file_that_is_not_declared_cannot_be_read(copied):
    (copied / "extra.bin").write_bytes(b"x")
    bundle = open_bundle(copied)
    for name in ("extra.bin", "manifest.json", "../copied/denoiser.safetensors", "./denoiser.safetensors"):
        with pytest.raises(BundleError, match="is not among the bundle's files"):
            bundle.read(name)


def test_a_graph_cannot_read_weights_that_its_variant_does_not_declare(copied, edit, monkeypatch):
    # Not even when they lie in the folder where the process runs.
    edit(copied, lambda content: variant_of(content).update(weights=[]))
    monkeypatch.chdir(copied)
    with pytest.raises(BundleError, match=r"denoiser\.fp32\.onnx"):
        smalti.load(copied, precision="fp32")


def test_a_graph_that_is_no_graph_is_refused_by_name(copied, edit):
    def change(content):
        nonsense = b"not a graph"
        (copied / "denoiser.int8.onnx").write_bytes(nonsense)
        digest = hashlib.sha256(nonsense).hexdigest()
        variant_of(content, precision="int8")["graph"].update(sha256=digest, bytes=len(nonsense))

    edit(copied, change)
    with pytest.raises(BundleError, match=r"ONNX Runtime refuses denoiser\.int8\.onnx"):
        smalti.load(copied)


def test_a_variant_or_component_that_is_not_there_is_named(tiny_bundle):
    bundle = open_bundle(tiny_bundle)
    with pytest.raises(BundleError, match="the encoder has no int8 variant; it comes in fp32, fp16"):
        bundle.variant("encoder", "int8")
    assert set(bundle.precisions("denoiser")) == {"fp32", "fp16", "int8"}
    assert bundle.precisions("upscaler") == ()  # type: ignore[arg-type]


def test_the_default_bundle_is_opened_by_no_name_or_says_that_it_is_missing():
    if embedded_bundles():
        assert open_bundle().path in embedded_bundles().values()
        assert all(open_bundle(name).path == path for name, path in embedded_bundles().items())
    else:
        with pytest.raises(BundleError, match="the embedded bundle is missing from this installation"):
            open_bundle()


def test_the_manifest_is_plain_json_that_names_every_files_hash(tiny_bundle):
    content = json.loads((tiny_bundle / "manifest.json").read_text())
    records = [variant["graph"] for part in content["components"].values() for variant in part["variants"]]
    for record in records + content["weights"]:
        file = (tiny_bundle / record["file"]).read_bytes()
        assert (record["bytes"], record["sha256"]) == (len(file), hashlib.sha256(file).hexdigest())
