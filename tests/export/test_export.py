from __future__ import annotations

import dataclasses
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import smalti
from smalti.backends.onnxruntime_cpu import OnnxSession
from smalti.bundle.manifest import Manifest, Role, missed
from smalti.bundle.reader import open_bundle
from smalti.cli.main import main
from smalti.errors import UsageError
from smalti_export.export import _write, export_bundle
from smalti_export.graphs.graph_modules import wrap
from smalti_export.graphs.trace import graph_specs
from smalti_export.parity.certificate import TOLERANCES, torch_run
from smalti_export.parity.measure import DRAWS
from smalti_export.source import load_pair, provenance
from smalti_train.data.avatars import STYLES
from smalti_train.data.config import DataConfig, open_split
from smalti_train.data.pixels import to_images, to_pixels
from smalti_train.evaluation.metrics import psnr
from smalti_train.presets.catalogue import AUTOENCODERS, PRIORS
from smalti_train.runs.bundle_weights import folded
from smalti_train.runs.config_files import to_json
from smalti_train.runs.loading import load_preview, load_prior, trained_steps
from smalti_train.runs.token_cache import keep_autoencoder, load_autoencoder
from smalti_train.trainers.autoencoder import train_autoencoder
from smalti_train.trainers.prior import train_prior

PRECISIONS = {
    "encoder": ("fp32", "fp16"),
    "decoder": ("fp32", "fp16", "int8"),
    "preview": ("fp32", "fp16", "int8"),
    "denoiser": ("fp32", "fp16", "int8"),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def export(*arguments: str | Path) -> int:
    """Run ``smalti export`` in this process; return its exit code."""
    with pytest.raises(SystemExit) as caught:
        main(["export", *map(str, arguments)])
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture(scope="module")
def record(tiny_bundle: Path) -> Manifest:
    return open_bundle(tiny_bundle).manifest


def test_a_bundle_is_its_declared_files_and_nothing_else(tiny_bundle: Path, record: Manifest) -> None:
    bundle = open_bundle(tiny_bundle)
    names = {file.file for file in record.files()}
    assert {path.name for path in tiny_bundle.iterdir()} == {*names, "manifest.json"}
    assert all(len(bundle.read(name)) == (tiny_bundle / name).stat().st_size for name in names)
    assert {role: bundle.precisions(role) for role in record.components} == PRECISIONS


def test_every_variant_is_certified_within_its_tolerances(record: Manifest) -> None:
    certified = {(measure.component, measure.precision): measure for measure in record.certificate}
    assert sorted(certified) == sorted((role, name) for role, names in PRECISIONS.items() for name in names)
    assert len(certified) == len(record.certificate)
    for (role, precision), measure in certified.items():
        assert measure.tolerances == TOLERANCES[role][precision]
        assert measure.tolerances.keys() <= measure.figures.keys()
        assert missed(measure.figures, measure.tolerances) == []
        assert role != "denoiser" or measure.figures["draws"] >= DRAWS


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_certificate_tells_what_the_files_do(
    precision: smalti.bundle.manifest.Precision, tiny_bundle: Path, record: Manifest, tiny_runs: tuple[Path, Path]
) -> None:
    """Measure the decoder again on unseen images that were not used for calibration."""
    model = folded(load_autoencoder(tiny_runs[0])[0])[0]
    unseen = open_split(load_prior(tiny_runs[1])[1].data, "validation").images[32:64]
    tokens = torch_run(wrap("encoder", model))({"images": np.array(unseen)})
    expected = torch_run(wrap("decoder", model))({"tokens": tokens})
    (found,) = OnnxSession(open_bundle(tiny_bundle), "decoder", precision, threads=1)({"tokens": tokens})
    error = np.square(expected.astype(float) - found).mean()
    (measure,) = [one for one in record.certificate if (one.component, one.precision) == ("decoder", precision)]
    assert measure.figures["psnr"] == pytest.approx(10 * np.log10(255**2 / error), abs=0.2)
    assert measure.figures["greatest_difference"] == pytest.approx(np.abs(expected.astype(int) - found).max(), abs=1)


def test_the_manifest_describes_the_models(record: Manifest, tiny_runs: tuple[Path, Path]) -> None:
    autoencoder, config = load_autoencoder(tiny_runs[0])
    prior = load_prior(tiny_runs[1])[1]
    assert record.latent.grid == prior.model.grid == (4, 4)
    assert record.latent.codes == prior.model.codes == 64
    assert record.latent.factor == config.model.factor == 16
    assert record.latent.halo == autoencoder.config.halo
    assert record.name == "tiny"
    assert (record.sampler.steps, record.sampler.temperature, record.sampler.guidance) == (8, 1.0, 1.0)
    assert record.provenance.training["prior_steps"] == 20
    for role, spec in graph_specs(16, prior.model, 32).items():
        assert record.components[role].inputs == spec.inputs
        assert record.components[role].outputs == spec.outputs


def test_the_preview_shows_what_its_model_does_in_every_precision(tiny_bundle: Path, tiny_preview: Path) -> None:
    model, _ = load_preview(tiny_preview)
    tokens = np.random.default_rng(0).integers(0, 65, (3, 4, 7)).astype(np.int32)
    expected = torch_run(wrap("preview", model))({"tokens": tokens})
    for precision in PRECISIONS["preview"]:
        (found,) = OnnxSession(open_bundle(tiny_bundle), "preview", precision, threads=1)({"tokens": tokens})
        assert found.shape == (3, 64, 112, 3)
        assert np.abs(found.astype(int) - expected).mean() < 1


def test_the_certificate_says_what_a_preview_costs_and_how_close_it_is(
    record: Manifest, tiny_runs: tuple[Path, Path], tiny_preview: Path
) -> None:
    measured = {one.precision: one.figures for one in record.certificate if one.component == "preview"}
    assert set(measured) == {"fp32", "fp16", "int8"}
    teacher, _ = load_autoencoder(tiny_runs[0])
    model, _ = load_preview(tiny_preview)
    unseen = open_split(load_prior(tiny_runs[1])[1].data, "validation").images[32:64]
    tokens = teacher.encode(to_images(unseen))
    with torch.no_grad():
        expected, shown = (to_pixels(decode(tokens)) for decode in (teacher.decode, model))
    close = psnr(shown, expected)
    for figures in measured.values():
        assert 0 < figures["cost"] <= 0.1
        assert figures["decoder_psnr"] == pytest.approx(10 * np.log10(1 / np.mean(10 ** (-close / 10))), abs=0.3)
        assert figures["decoder_psnr"] < figures["psnr"]
    assert record.provenance.training["preview_steps"] == 40
    assert record.latent.preview_halo == model.config.halo


def test_a_preview_of_another_autoencoder_is_refused(
    tiny_runs: tuple[Path, Path], tiny_preview: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(tiny_preview, tmp_path / "other")
    weights = load_file(other / "autoencoder/model.safetensors")
    weights["decoder.0.0.weight"] += 1
    save_file(weights, other / "autoencoder/model.safetensors")
    with pytest.raises(UsageError, match=r"another decoder makes of tokens.*smalti train preview"):
        export_bundle(tiny_runs[1], tmp_path / "out", preview_from=other)
    assert not (tmp_path / "out").exists()


def test_the_licence_of_every_style_is_in_the_manifest(record: Manifest) -> None:
    assert record.classes == STYLES
    assert [licence.name for licence in record.data_licences] == list(STYLES)
    for licence in record.data_licences:
        assert licence.licence == "CC0 1.0"
        assert licence.creator
        assert licence.source


IMPOSSIBLE = """
import sys
from smalti.cli.main import main
from smalti_export.parity.certificate import TOLERANCES
TOLERANCES["decoder"]["int8"] = {"psnr": 1000.0}
main(["export", *sys.argv[1:]])
"""


def test_a_variant_that_misses_is_left_out_and_the_rest_is_byte_for_byte_what_any_export_writes(
    tiny_bundle: Path, tiny_runs: tuple[Path, Path], tiny_preview: Path, record: Manifest, tmp_path: Path
) -> None:
    place, output = tmp_path / "place", tmp_path / "bundle"
    shutil.copytree(tiny_bundle, place)
    output.symlink_to(place, target_is_directory=True)  # the link stays; its target is replaced
    options = [str(tiny_runs[1]), "--output", str(output), "--name", "tiny", "--steps", "8"]
    options += ["--schedule", "exact", "--order", "random", "--preview-from", str(tiny_preview)]
    finished = subprocess.run([sys.executable, "-c", IMPOSSIBLE, *options], capture_output=True, text=True)
    assert finished.returncode == 6, finished.stderr
    assert "decoder int8: psnr is" in finished.stderr.splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "place"}
    assert output.is_symlink()

    # The other bundle was made in this process: equal bytes show that hash seeds and time have no effect.
    before, after = contents(tiny_bundle), contents(output)
    assert before.keys() - after.keys() == {"decoder.int8.onnx"}
    assert after.keys() <= before.keys()
    assert [name for name in after if name != "manifest.json" and after[name] != before[name]] == []
    again = open_bundle(output)
    assert again.precisions("decoder") == ("fp32", "fp16")
    left = [one for one in record.certificate if (one.component, one.precision) != ("decoder", "int8")]
    assert list(again.manifest.certificate) == left
    result = smalti.load(output).generate(count=2, seed=3)
    assert [image.size for image in result.images] == [(64, 64)] * 2


def test_an_fp32_graph_that_misses_writes_nothing_and_keeps_what_was_there(
    tiny_bundle: Path,
    tiny_runs: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, output)
    monkeypatch.setitem(TOLERANCES["encoder"], "fp32", {"token_agreement": 1.5})
    assert export(tiny_runs[1], "--output", output) == 6
    assert "nothing was written" in capsys.readouterr().err
    assert contents(output) == contents(tiny_bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("there", ["file", "folder", "web page"])
def test_what_is_no_bundle_is_not_replaced(
    there: str, tiny_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "mine"
    precious = output if there == "file" else output / "thesis.txt"
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("years of work")
    if there == "web page":
        (output / "manifest.json").write_text('{"name": "my page", "icons": []}')
    assert export(tiny_runs[1], "--output", output) == 2
    assert "not a bundle" in capsys.readouterr().err
    assert precious.read_text() == "years of work"


def test_what_lies_in_a_bundle_besides_its_own_files_is_not_lost(
    tiny_bundle: Path, tiny_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, output)
    (output / "engines").mkdir()
    assert export(tiny_runs[1], "--output", output) == 2
    assert "would be replaced, and engines in it is not of the bundle; move it elsewhere" in capsys.readouterr().err
    assert (output / "engines").is_dir()


def test_what_came_into_the_folder_during_the_work_is_not_lost(tiny_bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, output)
    (output / "engines").mkdir()
    with pytest.raises(UsageError, match="engines in it is not of the bundle"):
        _write(output, {"manifest.json": b"{}"})
    assert (output / "engines").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_the_steps_that_are_told_are_those_that_were_made(tiny_runs: tuple[Path, Path], tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    shutil.copytree(tiny_runs[0], stopped)
    model, config = load_autoencoder(stopped)
    planned = dataclasses.replace(config, loop=dataclasses.replace(config.loop, steps=9999))
    (stopped / "config.json").write_bytes(to_json(planned))
    assert provenance(load_pair(tiny_runs[1], stopped)).training["autoencoder_steps"] == 20
    run = tmp_path / "run"
    shutil.copytree(tiny_runs[1], run, ignore=shutil.ignore_patterns("autoencoder"))
    keep_autoencoder(run, model, planned, trained_steps(stopped))
    assert provenance(load_pair(run)).training["autoencoder_steps"] == 20


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert export(tmp_path / "nothing", "--output", tmp_path / "file" / "bundle") == 1
    assert "cannot write" in capsys.readouterr().err


def test_runs_that_cannot_be_exported_are_told_apart(
    tiny_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = tmp_path / "started"
    shutil.copytree(tiny_runs[1], started, ignore=shutil.ignore_patterns("checkpoint-*"))
    cases = {
        tmp_path / "nothing": "is not a run",
        tiny_runs[1] / "config.json": "is not a run",
        tiny_runs[0]: "is the run of an autoencoder; a prior's run is needed",
        started: "has no checkpoint yet",
    }
    for run, words in cases.items():
        assert export(run, "--output", tmp_path / "out") == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_unseen_image_is_too_few(tiny_runs: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_runs[1], run)
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace('"validation_count": 64', '"validation_count": 1'))
    with pytest.raises(UsageError, match="needs 2; the validation split has 1"):
        export_bundle(run, tmp_path / "out")
    with pytest.raises(UsageError, match="precision 'fp8': allowed are fp32, fp16, int8"):
        export_bundle(run, tmp_path / "out", precisions=["fp8"])


def test_a_model_without_labels_of_a_few_pictures_can_be_exported(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    for index in range(30):
        Image.new("RGB", (64, 64), (index * 8, 255 - index * 8, 128)).save(root / f"{index}.png")
    data = DataConfig(name="folder", size=64, root=str(root))

    def short(config):
        loop = dataclasses.replace(config.loop, steps=3, batch=4, precision="fp32")
        return dataclasses.replace(config, data=data, loop=loop)

    prior = short(PRIORS["tiny"])
    prior = dataclasses.replace(prior, model=dataclasses.replace(prior.model, classes=0, layers_inner=0))
    train_autoencoder(short(AUTOENCODERS["tiny"]), tmp_path / "autoencoder")
    train_prior(prior, tmp_path / "prior", tmp_path / "autoencoder")
    assert len(open_split(data, "validation")) < 5
    failures = export_bundle(tmp_path / "prior", tmp_path / "bundle", precisions=["int8"])
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.manifest.classes == ()
    assert [(licence.name, licence.licence) for licence in bundle.manifest.data_licences] == [("pictures", "unknown")]
    role: Role = "denoiser"
    assert bundle.precisions("encoder") == ("fp32",)
    assert "fp16" not in bundle.precisions(role)
    assert ("int8" in bundle.precisions(role)) != any(line.startswith("denoiser int8") for line in failures)
    assert not any(path.name.endswith(".fp16.onnx") for path in (tmp_path / "bundle").iterdir())
    assert smalti.load(tmp_path / "bundle", precision="fp32").generate(seed=1).images[0].size == (64, 64)


WRITE = """
import sys
from pathlib import Path
from smalti_export.export import _write
_write(Path(sys.argv[1]), {"manifest.json": b"{}", "large.onnx": bytes(100_000)})
"""


def test_a_full_disk_keeps_the_bundle_that_was_there(tiny_bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, output)
    finished = subprocess.run(
        [sys.executable, "-c", WRITE, output],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 1
    assert f"OutputError: cannot write {output}" in finished.stderr
    assert contents(output) == contents(tiny_bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
