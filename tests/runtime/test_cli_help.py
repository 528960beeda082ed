"""Help of every verb: it prints without the packages of the work, in words that people read; --json is everywhere."""

from __future__ import annotations

import json
import re

import pytest

from smalti.cli.plain import plain_name
from smalti.cli.tree import verbs
from smalti.cli.verbs import LAZY

HEAVY = (
    "torch",
    "triton",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "tensorrt",
    "tensorrt_rtx",
    "accelerate",
    "safetensors",
)
WITHOUT_JSON = {
    "completion": "prints a script",
    "serve": "runs until it is told to end",
    "studio": "as serve",
    "train autoencoder": "says its losses on stderr and keeps them in the run",
    "train prior": "as train autoencoder",
    "train log-sigma": "as train autoencoder",
    "train preview": "as train autoencoder",
    "train heads": "as train autoencoder",
}
"""Verbs that have nothing to report, and why."""
RAW = re.compile(r"list\[|<\w+>|\b(PATH|INTEGER|FLOAT|TEXT|STR|BOOLEAN)\b(?! *or)|\w+Path\b| range>")
"""Types of Python and of the parser, as they would stand behind an option."""
EVERY = [" ".join(words) for words, _ in verbs()]
SINGLE = [" ".join(words) for words, command in verbs() if not hasattr(command, "commands")]


def test_all_verbs_are_walked() -> None:
    assert {"generate", "vary", "labels", "bundles", "completion", "bundle verify", "engine build"} <= set(SINGLE)
    assert {"train prior", "train refit", "import", "evaluate", "export"} <= set(SINGLE)
    assert {"", "train", "bundle", "engine"} <= set(EVERY)


def test_cases_of_help_print_without_extras(python) -> None:
    code = """
import contextlib, io, json
from smalti.cli.main import _run
answers = {}
for verb in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = _run([*verb.split(), "--help"])
    answers[verb] = [code, said.getvalue()]
loaded = sorted({name.partition(".")[0] for name in sys.modules} & set(json.loads(sys.argv[2])))
print(json.dumps({"answers": answers, "loaded": loaded}))
"""
    done = python(code, json.dumps(EVERY), json.dumps(HEAVY), blocked=HEAVY)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["loaded"] == []
    assert set(report["answers"]) == set(EVERY)
    for verb, (code, said) in report["answers"].items():
        assert code == 0, verb
        assert said.startswith(f"Usage: smalti {verb}".rstrip()), verb
        assert not RAW.search(said), (verb, RAW.search(said))


@pytest.mark.parametrize("raw", ["--count <int>", "IMAGE <list[Path]>", "--columns <int range>", "--run PATH", "<str>"])
def test_a_raw_type_is_seen(raw: str) -> None:
    assert RAW.search(raw)


@pytest.mark.cases
def test_every_option_says_what_is_typed() -> None:
    for words, command in verbs():
        for one in command.params:
            flag = getattr(one, "is_flag", False)
            assert flag or one.metavar, (words, one.name)
    assert plain_name("IMAGE <list[Path]>") == "IMAGE"
    assert plain_name("-o, --output FILE|FOLDER/|-") == "-o, --output FILE|FOLDER/|-"


def test_cases_of_json_on_every_verb_that_reports() -> None:
    lacking = {
        " ".join(words)
        for words, command in verbs()
        if not hasattr(command, "commands") and not any("--json" in one.opts for one in command.params)
    }
    assert lacking == set(WITHOUT_JSON)


def test_every_lazy_verb_is_in_the_tree_with_its_options() -> None:
    found = {" ".join(words): command for words, command in verbs()}
    for verb in LAZY:
        assert len(found[verb].params) > 2 or found[verb].commands, verb
