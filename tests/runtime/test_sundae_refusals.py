"""What bundles of the family sundae refuse, and what other families refuse of theirs: by name, with what is allowed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import smalti
from helpers.table_denoiser import TableDenoiser
from smalti import BundleError, UsageError
from smalti.bundle.reader import EMBEDDED, open_bundle
from smalti.cli.main import _run
from smalti.families.registry import FAMILIES
from smalti.families.settings import resolve

GRID, CODES, LABELS = (3, 4), 6, ("a", "b")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return TableDenoiser(GRID, CODES, len(LABELS)).bundle(tmp_path_factory.mktemp("sundae") / "tiny", classes=LABELS)


@pytest.fixture(scope="module")
def gen(bundle) -> smalti.Generator:
    return smalti.load(bundle)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (
            {"schedule": "exact"},
            r"schedule: bundle tiny-sundae starts from random tokens .*out \(it has steps, ",
        ),
        ({"order": "random", "remask": 0.5}, "order, remask: .*final_temperature, proportion, min_steps, stride"),
        ({"choice_temperature": 1.0}, "choice_temperature: bundle tiny-sundae"),
        ({"steps": 0}, "steps 0: allowed are 1"),
        ({"steps": 1.5}, "steps 1.5: a whole number is needed"),
        ({"temperature": 0}, r"temperature 0: allowed are 0.01 \.\. 100"),
        ({"final_temperature": 0.001}, r"final_temperature 0.001: allowed are 0.01 \.\. 100"),
        ({"final_temperature": "cold"}, "final_temperature 'cold': allowed are"),
        ({"proportion": 0}, "proportion 0: a number above 0 and at most 1 is needed, or two"),
        ({"proportion": (0.5, 1.5)}, r"proportion \(0.5, 1.5\): a number above 0"),
        ({"proportion": (0.5, 0.5, 0.5)}, "proportion"),
        ({"proportion": "11"}, "proportion '11'"),
        ({"proportion": float("nan")}, "proportion nan"),
        ({"proportion": 0.5, "steps": 10}, "proportion 0.5:0.5: a run of fewer than 20 steps draws every token"),
        ({"min_steps": -1}, "min_steps -1: allowed are 0 and more"),
        ({"min_steps": 0.5}, "min_steps 0.5: a whole number is needed"),
        ({"stride": 9}, r"stride 9: allowed are 1 \.\. 3"),
        ({"size": (9, 6)}, "size 9x6: sides must be multiples of 2"),
        ({"freeze": True}, "freeze: no such option; there are .*min_steps"),
    ],
)
@pytest.mark.parametrize("method", ["generate", "stream"])
def test_what_such_a_bundle_cannot_do_is_refused_with_what_it_can(gen, method, option, says):
    with pytest.raises(UsageError, match=says):
        getattr(gen, method)(**option)


@pytest.mark.parametrize("name", ["final_temperature", "proportion", "min_steps"])
def test_an_absorbing_bundle_refuses_what_is_not_its_own(name):
    manifest = open_bundle(EMBEDDED).manifest
    with pytest.raises(UsageError, match=rf"{name}: bundle {EMBEDDED} unmasks .*\(it has steps, schedule, order, "):
        resolve(manifest, 1, 0, {name: 1})


def test_settings_of_one_family_do_not_lay_out_a_run_of_the_other(gen):
    start = np.full((1, *GRID), CODES, np.int32)
    with pytest.raises(UsageError, match="settings are of a SUNDAE run"):
        FAMILIES["absorbing"].lay_out(start, gen.generate().settings, gen.manifest)
    absorbing = resolve(open_bundle(EMBEDDED).manifest, 1, 0, {})
    with pytest.raises(UsageError, match="settings are of an absorbing run"):
        FAMILIES["sundae"].lay_out(start, absorbing, gen.manifest)


def test_logits_that_are_nan_are_told_with_their_place(tmp_path):
    broken = TableDenoiser(GRID, CODES, len(LABELS))
    broken.own[:] = np.nan
    generator = smalti.load(broken.bundle(tmp_path / "broken"), "cpu")
    with pytest.raises(smalti.SamplingError, match=r"sample 0, position \d+, step 0.*NaN"):
        generator.generate()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"proportion": [0.5]}, r"\$\.sampler\.proportion"),
        ({"proportion": [0.0, 1.0]}, r"\$\.sampler\.proportion"),
        ({"min_steps": -1}, r"\$\.sampler\.min_steps"),
        ({"final_temperature": 0}, r"\$\.sampler\.final_temperature"),
    ],
)
def test_defaults_that_make_no_sense_are_a_bad_bundle(bundle, tmp_path, change, says):
    content = json.loads((bundle / "manifest.json").read_text())
    content["sampler"].update(change)
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match=says):
        open_bundle(tmp_path)


def test_a_manifest_that_knows_nothing_of_annealing_takes_the_published_one(bundle, tmp_path):
    content = json.loads((bundle / "manifest.json").read_text())
    for name in ("final_temperature", "proportion", "min_steps"):
        del content["sampler"][name]
    del content["latent"]["pixels"]
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    used = resolve(open_bundle(tmp_path).manifest, 1, 0, {"steps": 50})
    published = {"temperature": 1.0, "final_temperature": 0.7, "proportion": (0.5, 0.5), "min_steps": 10}
    assert used.options.items() >= published.items()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--proportion", "half"],
            "proportion 'half': a number above 0 and at most 1 is needed, or two such as",
        ),
        (["--proportion", "0.5:"], "proportion '0.5:'"),
        (["--proportion", "2"], "proportion (2.0, 2.0): a number above 0"),
        (["--order", "halton"], "order: bundle tiny-sundae starts from random tokens"),
        (["--final-temperature", "0"], "final_temperature 0.0: allowed are 0.01 .. 100"),
        (["--min-steps", "-3"], "min_steps -3: allowed are 0 and more"),
    ],
)
def test_a_refusal_of_the_command_line_says_what_is_allowed(bundle, capsys, out, arguments, says):
    code = _run(["generate", "-o", str(out / "a.png"), "--bundle", str(bundle), *arguments])
    said, error = capsys.readouterr()
    assert (code, said) == (2, "")
    assert says in error
    assert not list(out.iterdir())
