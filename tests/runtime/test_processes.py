"""Forked and spawned processes, pickles and copies: a loaded bundle opens again, or says why it cannot."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import pickle
import shutil
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import smalti
from smalti.backends.onnxruntime_cpu import OnnxRuntimeCpu

CPU = "import os, smalti\ngen = smalti.load(provider='cpu', threads={threads})\nfirst = gen.generate(steps=1).tokens\n"
CHILD = """
child = os.fork()
if not child:
    {work}
    sys.exit(0)
for _ in range(600):
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        break
    time.sleep(0.1)
else:
    os.kill(child, 9)
    os.waitpid(child, 0)
    sys.exit("the child did not end")
print(status)
"""
DRAWN = "assert (gen.generate(steps=1).tokens == first).all()"
WORKS = {
    "draws": DRAWN,
    "frees it": "del gen",
    "ends": "pass",
    "streams": "assert [step.images() for step in gen.stream(steps=1)]",
    "encodes": "gen.encode(gen.generate(steps=1).images)",
    "copies it": "import copy; gen = copy.deepcopy(gen); " + DRAWN,
    "loads anew": "gen = smalti.load(provider='cpu', threads=2); " + DRAWN,
    "forks": "inner = os.fork(); " + DRAWN + "; inner and sys.exit(os.waitpid(inner, 0)[1])",
}
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks nothing")


@forks
@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("work", WORKS)
def test_cases_of_a_forked_child_neither_hang_nor_crash(work: str, threads: int, python) -> None:
    done = python("import time\n" + CPU.format(threads=threads) + CHILD.format(work=WORKS[work]))
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr


BUSY = {
    "draws": "lambda: gen.generate(4, steps=12)",
    "holds the lock": "lambda: (gen._lock.acquire(), time.sleep(3))",
    "opens sessions": "lambda: smalti.load(provider='cpu', threads=2)",
}


@forks
@pytest.mark.parametrize("busy", BUSY)
def test_cases_of_a_fork_while_another_thread_is_busy(busy: str, python) -> None:
    code = (
        f"import threading, time\n{CPU.format(threads=2)}threading.Thread(target={BUSY[busy]}, daemon=True).start()\n"
    )
    done = python(code + "time.sleep(0.1)" + CHILD.format(work=f"{DRAWN}; gen.encode(gen.generate(steps=1).images)"))
    assert done.stdout.strip() == "0", done.stderr


POOL = """
import multiprocessing, os, smalti

def draw(gen, seed):
    return gen.generate(seed=seed, steps=1).tokens.tolist()

if __name__ == "__main__":
    gen = smalti.load(provider="cpu", threads=2)
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        drawn = pool.starmap_async(draw, [(gen, seed) for seed in range(3)]).get(90)
    assert drawn == [draw(gen, seed) for seed in range(3)]
    print("same")
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_cases_of_pools_draw_the_same_pictures(method: str, python, tmp_path: Path) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("this system has no such pools")
    (tmp_path / "pooled.py").write_text(POOL.format(method=method), encoding="utf-8")
    done = python("import subprocess; sys.exit(subprocess.call([sys.executable, 'pooled.py']))")
    assert done.stdout.strip().endswith("same"), done.stderr


@pytest.fixture(scope="module")
def loaded() -> smalti.Generator:
    return smalti.load(provider="cpu", precision="fp32", threads=2, limits=smalti.Limits(count=3))


WAYS = {
    "pickle": lambda gen: pickle.loads(pickle.dumps(gen)),
    "old pickle": lambda gen: pickle.loads(pickle.dumps(gen, 2)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("way", WAYS)
def test_cases_of_copies_draw_the_same_and_keep_how_they_were_loaded(way: str, loaded: smalti.Generator) -> None:
    again = WAYS[way](loaded)
    assert again is not loaded
    assert again.session("decoder") is not loaded.session("decoder")
    assert (again.report, again.limits, again.bundle.digest) == (loaded.report, loaded.limits, loaded.bundle.digest)
    assert np.array_equal(again.generate(steps=1).tokens, loaded.generate(steps=1).tokens)
    with pytest.raises(smalti.UsageError, match="count 4"):
        again.generate(4)


@pytest.mark.parametrize("arguments", [{}, {"precision": "fp16", "provider": "cpu"}, {"backend": smalti.NullBackend()}])
def test_cases_of_loading_survive_a_pickle(arguments: dict[str, object]) -> None:
    gen = smalti.load(**arguments)
    again = pickle.loads(pickle.dumps(gen))
    assert again.report == gen.report
    assert type(again.backend) is type(gen.backend)
    assert isinstance(pickle.loads(pickle.dumps([gen, gen]))[0], smalti.Generator)


def test_cases_of_bundles_that_changed_or_went_are_not_opened_again(tmp_path: Path) -> None:
    own = Path(shutil.copytree(smalti.open_bundle().path, tmp_path / "own"))
    pickled = pickle.dumps(smalti.load(own, backend=smalti.NullBackend()))
    content = json.loads((own / "manifest.json").read_text())
    content["name"] = "other"
    (own / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(smalti.BundleError, match="has changed"):
        pickle.loads(pickled)
    shutil.rmtree(own)
    with pytest.raises(smalti.BundleError, match="no bundle at"):
        pickle.loads(pickled)


class Held(smalti.NullBackend):
    """One that no pickle can hold."""

    name: ClassVar[str] = "held"

    def __init__(self) -> None:
        self.lock = threading.Lock()


class HeldCpu(OnnxRuntimeCpu):
    def __init__(self) -> None:
        super().__init__(1)
        self.told = lambda: None


@pytest.mark.parametrize("backend", [Held, HeldCpu])
@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_cases_of_backends_that_cannot_be_pickled_say_so(way: str, backend: type[smalti.Backend]) -> None:
    gen = smalti.load(backend=backend())
    with pytest.raises(smalti.UsageError, match=f"backend {backend.__name__} cannot be pickled"):
        WAYS[way](gen)


@forks
def test_cases_of_devices_do_not_survive_a_fork(python) -> None:
    code = """
import os, smalti
class Device(smalti.NullBackend):
    name = "cuda"
gen = smalti.load(backend=Device())
gen.generate(steps=1)
if not (child := os.fork()):
    for call in (lambda: gen.generate(steps=1), lambda: gen.session("decoder"), lambda: next(gen.stream(steps=1))):
        try:
            call()
        except smalti.ProviderUnavailable as error:
            assert "child" in str(error) and "spawn" in str(error)
        else:
            os._exit(1)
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""
    done = python(code)
    assert done.stdout.strip() == "0", done.stderr
