"""``smalti bench``: stages, sweeps, the first picture, memory, versions, the plot, and what is refused."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

import smalti
from smalti.cli.main import _run
from smalti.errors import UsageError
from smalti.families.settings import Options
from smalti.verification.speed.measure import STAGES, Kind, measure, measure_each
from smalti.verification.speed.memory import device_memory, memory
from smalti.verification.speed.plot import apart, ticks
from smalti.verification.speed.sweeps import read_sweeps, sweep, usual

SVG = "{http://www.w3.org/2000/svg}"


def test_the_report_has_percentiles_the_first_picture_memory_and_versions(run):
    code, said, _ = run("bench", "--json", "--repeats", 3, "--count", 2, "--steps", 3, "--threads", 1)
    assert code == 0
    report = json.loads(said)
    for stage in STAGES:
        each, rate = report["per_picture"][stage], report["per_megapixel"][stage]
        assert 0 < each["p20"] <= each["p50"] <= each["p80"]
        assert each["p50"] == pytest.approx(report["seconds"][stage] / 2)
        assert rate["p80"] == pytest.approx(each["p80"] / (64 * 64 / 1e6))
    first = report["first_picture"]
    assert first["total"] == pytest.approx(first["load"] + first["draw"])
    assert report["images_per_second"] == pytest.approx(2 / report["seconds"]["total"])
    assert report["memory"]["host_bytes"] > 2**24
    assert report["memory"]["device_bytes"] is None
    assert report["versions"]["smalti"] == smalti.__version__
    assert report["processor"]["cores"] >= 1
    assert (report["threads"], report["precision"], report["sweeps"]) == (1, "int8", {})
    assert report["score"] is report["baseline"] is None


def test_the_table_begins_with_what_matters_most(run):
    code, said, _ = run("bench", "--repeats", 1, "--steps", 2)
    assert code == 0
    rows = said.splitlines()
    assert "1 picture of 64x64, 2 steps, 2 network calls, int8 on cpu" in rows[0]
    begins = ("seconds per megapixel", "images per second", "first picture", "peak memory")
    assert all(row.startswith(begin) for row, begin in zip(rows[2:6], begins))
    assert f"smalti {smalti.__version__}, onnxruntime" in said


def test_the_bundle_is_an_argument_as_well(tiny_bundle, capsys):
    assert _run(["bench", str(tiny_bundle), "--repeats", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bundle"] == smalti.open_bundle(tiny_bundle).manifest.name
    assert _run(["bench", str(tiny_bundle), "--bundle", "avatars"]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_sweeps_are_measured_and_drawn(run, out):
    words = ["--sweep", "batch=1,3", "--sweep", "steps=2,4", "--sweep", "canvas", "--sweep", "threads=1"]
    code, said, _ = run("bench", "--json", "--repeats", 1, *words, "--plot", out / "a.svg")
    assert code == 0
    sweeps = json.loads(said)["sweeps"]
    assert {name: list(points) for name, points in sweeps.items()} == {
        "batch": ["1", "3"],
        "steps": ["2", "4"],
        "canvas": ["64", "128", "192"],
        "threads": ["1"],
    }
    assert sweeps["batch"]["3"]["count"] == 3
    assert [sweeps["steps"][steps]["network_calls"] for steps in ("2", "4")] == [2, 4]
    assert (sweeps["canvas"]["192"]["width"], sweeps["canvas"]["192"]["height"]) == (192, 192)
    picture = ElementTree.parse(out / "a.svg").getroot()
    texts = {text.text for text in picture.iter(f"{SVG}text")}
    assert {*STAGES, "seconds per megapixel", "images per batch", "threads", "192"} <= texts
    assert len(list(picture.iter(f"{SVG}polyline"))) == 4 * len(STAGES)


def test_the_table_has_a_row_for_each_value_of_a_sweep(run):
    code, said, _ = run("bench", "--repeats", 1, "--steps", 2, "--sweep", "batch=1,2")
    assert code == 0
    rows = [row.split() for row in said.partition("\nimages    s/picture")[2].splitlines()[1:3]]
    assert [row[0] for row in rows] == ["1", "2"]
    assert all(len(row) == 8 and float(row[2]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--sweep", "colour"], "allowed are batch, steps, canvas, threads and all"),
        (["--sweep", "all=1"], "sweep 'all=1'"),
        (["--sweep", "batch=1,x"], "whole numbers above 0 are needed, as in batch=1,2,4"),
        (["--sweep", "steps=0"], "whole numbers above 0"),
        (["--plot", "a.jpg"], "ends in .svg"),
        (["--repeats", "0"], "repeats 0"),
        (["--sweep", "canvas=65"], "multiples of"),
    ],
)
def test_what_is_refused(words, says, run, out, monkeypatch):
    monkeypatch.chdir(out)
    code, said, error = run("bench", "--steps", "1", *words)
    assert (code, said) == (2, "")
    assert says in error
    assert not list(out.iterdir())


def test_sweeps_are_read():
    assert read_sweeps(["steps=24,6,6", "batch"]) == {"steps": (6, 24), "batch": None}
    assert read_sweeps(["steps=5", "all"]) == {"batch": None, "steps": (5,), "canvas": None, "threads": None}


def test_every_run_draws_other_seeds_and_kinds_take_turns(gen, monkeypatch):
    drawn = []
    real = type(gen).generate

    def generate(self, count=None, seed=0, **options):
        drawn.append((count, seed))
        return real(self, count, seed, **options)

    monkeypatch.setattr(type(gen), "generate", generate)
    kinds = [Kind(gen, count, Options(steps=1)) for count in (1, 2)]
    found = measure_each(kinds, 3, lambda: 0.5)
    assert [count for count, _ in drawn] == [1, 2] * 4
    seeds = [seed + image for count, seed in drawn[2:] for image in range(count)]
    assert len(set(seeds)) == len(seeds)
    assert [(one.count, one.repeats, one.units) for one in found] == [(1, 3, (0.5,) * 4), (2, 3, (0.5,) * 4)]


def test_usual_values_surround_those_of_the_draw(gen):
    base = measure(gen, steps=8, repeats=1)
    assert usual("steps", base, gen) == (2, 4, 8, 16)
    assert usual("threads", base, gen)[0] == 1
    assert usual("canvas", base, gen) == (64, 128, 192)


def test_a_sweep_over_threads_needs_a_provider_that_has_some(tiny_bundle):
    null = smalti.load(tiny_bundle, backend=smalti.NullBackend())
    base = measure(null, repeats=1)
    with pytest.raises(UsageError, match="threads hardly matter to provider null"):
        sweep("threads", None, Kind(null), base, lambda threads: null, 1)


def test_memory_is_told_where_somebody_tells_it(gen):
    found = memory(gen.backend)
    assert found.host is not None
    assert found.host > 2**24
    assert found.device is device_memory(gen.backend) is None


@pytest.mark.parametrize(("most", "last", "step"), [(3.45, 4, 1), (0.07, 0.08, 0.02), (120, 150, 50), (4, 4, 1)])
def test_axes_have_round_numbers(most, last, step):
    found = ticks(most)
    assert found[0] == 0
    assert found[-1] == pytest.approx(last)
    assert found[1] == pytest.approx(step)


def test_names_of_curves_do_not_overlap():
    found = apart({"a": 100.0, "b": 98.0, "c": 20.0}, lowest=105)
    assert found == {"a": 98.0, "b": 84.0, "c": 20.0}
