"""A server that draws on one provider while another is made ready, and one that is ended while engines are built."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

import pytest

import smalti
from helpers.planted_gpu import planted_gpu
from helpers.served import command, hosted, ready, wait_until
from helpers.web_pictures import same
from smalti import EngineError
from smalti.cli.main import _run
from smalti.loading.building import EngineBuild
from smalti.web.desk.shelf import opened
from smalti.web.serving import Serving

STEPS = {"seed": 3, "steps": 2}


@pytest.fixture
def gpu(tmp_path, stub_library) -> dict[str, str]:
    return planted_gpu(tmp_path, stub_library) | {"FAKE_TENSORRT_PAUSE": "0.1"}


def pictures(client) -> list[str]:
    return [one["data"] for one in client.post("/api/generate", json=STEPS).json()["pictures"]]


def test_the_other_takes_over_once_it_is_ready(tiny_bundle, tiny):
    go, told = threading.Event(), list[str]()
    first = smalti.load(tiny_bundle, "cpu", "fp32", 1)

    def better(bundle: smalti.Bundle) -> smalti.Generator:
        assert go.wait(60)
        return smalti.load(bundle, "cpu", "int8", 1)

    with (
        hosted(
            Serving(), [str(tiny_bundle)], lambda _: first, better=better, on_stay=lambda error: told.append(str(error))
        ) as server,
        server.client() as client,
    ):
        assert server.app.state.desk.shelf.entries[0].ready is first
        assert same(pictures(client)[0], first.generate(**STEPS).images[0])
        go.set()
        wait_until(lambda: server.app.state.desk.shelf.entries[0].ready is not first)
        assert same(pictures(client)[0], tiny.generate(**STEPS).images[0])
    assert told == []


def test_where_the_other_cannot_all_stays_as_it_is(tiny_bundle, tiny):
    told: list[str] = []

    def better(bundle: smalti.Bundle) -> smalti.Generator:
        raise EngineError("no engine")

    with (
        hosted(Serving(), [str(tiny_bundle)], better=better, on_stay=lambda error: told.append(str(error))) as server,
        server.client() as client,
    ):
        wait_until(lambda: told == ["no engine"])
        assert same(pictures(client)[0], tiny.generate(**STEPS).images[0])


def test_several_bundles_change_together_or_not_at_all(tiny_bundle):
    shelf = opened([f"a={tiny_bundle}", f"b={tiny_bundle}"])
    shelf.load(lambda bundle: smalti.load(bundle, "cpu", "fp32", 1))
    before = [entry.generator for entry in shelf.entries]
    answers = iter([smalti.load(tiny_bundle, "cpu", "int8", 1)])
    with pytest.raises(StopIteration):  # the second one fails
        shelf.load(lambda bundle: next(answers))
    assert [entry.generator for entry in shelf.entries] == before
    shelf.load(lambda bundle: smalti.load(bundle, "cpu", "int8", 1))
    assert not {*before} & {entry.generator for entry in shelf.entries}


def test_the_command_draws_while_engines_are_built_and_says_what_became_of_them(starting, tiny_bundle, tiny, gpu):
    words = ("--bundle", tiny_bundle, "--provider", "trt", "--meanwhile", "cpu")
    server = starting(*words, **gpu | {"FAKE_TENSORRT_PAUSE": "0.3"})
    with server.client() as client:
        ready(client)
        assert client.get("/api/capabilities").json()["bundles"][0]["provider"]["actual"] == "cpu"
        assert same(pictures(client)[0], tiny.generate(**STEPS).images[0])
    assert server.end() == 0


def test_a_server_that_is_ended_while_engines_are_built_ends_at_once(starting, tiny_bundle, gpu, tmp_path):
    for meanwhile in ((), ("--meanwhile", "cpu")):
        slow = gpu | {"FAKE_TENSORRT_PAUSE": "0.4"}
        server = starting("--bundle", tiny_bundle, "--provider", "trt", *meanwhile, **slow)
        wait_until(lambda: list((tmp_path / "cache").rglob("*.onnx")) != [])  # the builder is at work
        started = time.monotonic()
        assert server.end() == 0
        assert time.monotonic() - started < 12
        wait_until(lambda: list((tmp_path / "cache").rglob("*.onnx")) == [])


def test_it_is_told_which_engines_are_built_and_why_the_other_does_not_take_over(tiny_bundle, gpu, monkeypatch, capfd):
    for name, value in gpu.items():
        monkeypatch.setenv(name, value)
    line = command("serve", "--port", 0, "--bundle", tiny_bundle, "--provider", "trt", "--meanwhile", "cpu")
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told: list[str] = []
        while not told or "does not take over" not in told[-1]:
            told.append(process.stdout.readline())
            assert told[-1], told
        process.terminate()
        process.communicate()
    assert process.returncode == 0
    assert any("tiny is ready on cpu" in line for line in told)
    assert any("building the engine of the denoiser of tiny" in line for line in told)
    assert "trt does not take over: " in told[-1]
    assert "cannot read it" in told[-1]


@pytest.mark.parametrize(
    ("words", "says"),
    [(("--meanwhile", "trt"), "another provider than trt"), (("--meanwhile", "gpu"), "allowed are auto, cpu")],
)
def test_what_cannot_draw_meanwhile_is_refused(words, says, capsys):
    assert _run(["serve", "--port", "0", "--provider", "trt", *words]) == 2
    assert says in capsys.readouterr().err


def test_a_build_says_its_lines_for_people_in_the_log(tiny_bundle: Path, gpu, monkeypatch, caplog):
    for name, value in gpu.items():
        monkeypatch.setenv(name, value)
    caplog.set_level("INFO", "smalti.loading")
    EngineBuild(tiny_bundle, "trt", components=["preview"]).wait()
    assert any("preview fp16: building for sm_80 with trt" in record.message for record in caplog.records)
