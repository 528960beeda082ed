"""A build that is watched: shares from nested phases, cancelling, and what is shown of it."""

from __future__ import annotations

import io
import json
import threading
import time
from functools import partial

import pytest

from helpers.fake_tensorrt import FakeTensorRT
from smalti import EngineError, UsageError, open_bundle
from smalti_export.engines.build import Progress
from smalti_export.engines.job import prepare
from smalti_export.engines.progress import PAUSE, Shown
from smalti_export.engines.toolkit import PortableToolkit
from smalti_export.engines.watching import Monitor, Watch, watched


@pytest.fixture
def graph(tmp_path):
    (tmp_path / "denoiser.onnx").write_bytes(b"a graph")
    return tmp_path / "denoiser.onnx"


def fake() -> PortableToolkit:
    return PortableToolkit(["sm_86"], FakeTensorRT(portable=True))


def test_phases_within_each_other_become_one_share_that_never_falls(graph):
    told = list[tuple[str, float]]()
    fake().build(graph, [], Watch(lambda phase, share: told.append((phase, share))))
    assert told == [
        ("Building", 0.0),
        ("Building", 0.5),
        ("Timing", 0.5),
        *(("Timing", 0.5 + step / 8) for step in (1, 2, 3, 4)),
        ("Building", 1.0),
    ]


def test_a_phase_that_nobody_began_or_that_has_no_steps_changes_nothing():
    told = list[float]()
    monitor = Monitor(Watch(lambda phase, share: told.append(share)))
    assert monitor.step("unknown", 3)
    monitor.start("empty", 0)
    monitor.step("empty", 7)
    monitor.finish("unknown")
    monitor.finish("empty")
    assert told == [0, 0, 1]


@pytest.mark.parametrize("after", [0, 3])
def test_a_build_whose_watch_says_no_is_cancelled(after, graph):
    steps = list[float]()
    watch = Watch(lambda phase, share: steps.append(share), lambda: len(steps) <= after)
    with pytest.raises(EngineError, match=r"the build of denoiser\.onnx was cancelled; nothing of it is kept"):
        fake().build(graph, [], watch)
    assert len(steps) <= after + 2


def test_what_a_watch_raises_ends_the_build_and_is_raised(graph):
    def tell(phase: str, share: float) -> None:
        raise BrokenPipeError("nobody reads this")

    with pytest.raises(BrokenPipeError, match="nobody reads this"):
        fake().build(graph, [], Watch(tell))


def test_a_module_without_monitors_builds_too(graph):
    trt = FakeTensorRT(portable=True)
    del trt.IProgressMonitor
    assert PortableToolkit(["sm_86"], trt).build(graph, []).startswith(b"vtrt")


def test_what_the_work_raises_is_raised_and_its_result_is_returned():
    assert watched(Watch(), lambda monitor: threading.current_thread().name) == "smalti-builder"
    with pytest.raises(ZeroDivisionError):
        watched(Watch(), lambda monitor: 1 // 0)


def heard(seen: list[float], phase: str, share: float) -> None:
    seen.append(share)


def at_most(seen: list[float], share: float) -> bool:
    return seen[-1] <= share


def test_tensorrt_rtx_tells_how_far_it_is_and_can_be_cancelled_while_other_threads_run(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason='needs TensorRT-RTX: pip install "smalti[engines]"')
    job = prepare(open_bundle(), PortableToolkit(["sm_75"]), "preview", "fp16")
    told, beats = list[tuple[str, float]](), list[float]()
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.01):
            beats.append(time.monotonic())

    other = threading.Thread(target=beat)
    other.start()
    _, plan = job.build(Watch(lambda phase, share: told.append((phase, share))))
    ended.set()
    other.join()
    assert plan.startswith(b"vtrt")
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] > 0.8
    assert len({phase for phase, _ in told}) > 3
    assert len(beats) > 3  # the builder does not keep Python from running
    for after in (0.0, 0.5):
        seen = list[float]()
        watch = Watch(partial(heard, seen), partial(at_most, seen, after))
        with pytest.raises(EngineError, match=r"the build of preview\.fp16\.onnx was cancelled"):
            job.build(watch)
        assert seen[-1] < 1


PROGRESS = Progress("denoiser", "fp16", 2, 6, "Timing\x1b[2J graph nodes", 0.25)


class Terminal(io.StringIO):
    """A terminal that keeps what is written."""

    def isatty(self) -> bool:
        return True


def test_json_is_an_object_per_line_with_component_phase_and_share():
    stream = io.StringIO()
    shown = Shown("json", stream)
    shown.say("denoiser fp16: building")
    shown.progress(PROGRESS)
    shown.end()
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first == {"event": "say", "component": "", "phase": "denoiser fp16: building", "share": 0.0}
    assert second == {
        "event": "progress",
        "component": "denoiser",
        "precision": "fp16",
        "number": 2,
        "of": 6,
        "phase": "Timing\x1b[2J graph nodes",
        "share": 0.25,
    }


def test_of_what_comes_at_once_the_last_is_shown():
    stream = io.StringIO()
    shown = Shown("json", stream)
    for share in (0.0, 0.1, 0.2, 0.3):
        shown.progress(Progress("denoiser", "fp16", 1, 1, "a phase", share))
    deadline = time.monotonic() + 100 * PAUSE
    while stream.getvalue().count("\n") < 2 and time.monotonic() < deadline:
        time.sleep(PAUSE / 10)
    assert [json.loads(line)["share"] for line in stream.getvalue().splitlines()] == [0.0, 0.3]


def test_a_terminal_has_one_line_that_is_cleared_before_the_next():
    stream = Terminal()
    shown = Shown("auto", stream)
    shown.progress(PROGRESS)
    line = "denoiser fp16 (2 of 6): 25% Timing\\x1b[2J graph nodes"
    assert stream.getvalue() == line
    shown.say("done")
    shown.end()
    assert stream.getvalue() == f"{line}\r{' ' * len(line)}\rdone\n"


def test_elsewhere_there_are_lines_of_text_and_off_says_nothing():
    for kind, expected in (("auto", "done\n"), ("off", "")):
        stream = io.StringIO()
        shown = Shown(kind, stream)
        shown.progress(PROGRESS)
        shown.say("done")
        assert stream.getvalue() == expected
    with pytest.raises(UsageError, match="progress 'xml': allowed are auto, json, off"):
        Shown("xml")
