"""A command that is told to end does so within two seconds, also in a native call, and leaves nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.cases,
    pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM to another process is POSIX"),
]

NATIVE = """
import sys, threading
from pathlib import Path
import smalti.cli.main as cli
from smalti.system import files

def busy(arguments):
    # A native call that holds the main thread, and no handler of Python runs meanwhile.
    import ctypes
    with files.whole_folder(Path(sys.argv[1]) / "folder") as folder:
        (folder / "a").write_bytes(b"half")
        partial = files.beside(Path(sys.argv[1]) / "file")
        files._partial.add(partial)
        partial.write_bytes(b"half")
        print("ready", flush=True)
        try:
            {wait}
        finally:
            partial.unlink()

cli._run = busy
cli.main(["x"])
"""
WAITS = {
    "a product of matrices": "import numpy as np; a = np.ones((9000, 9000)); a @ a; a @ a",
    "Python": "threading.Event().wait(60)",
}


@pytest.mark.parametrize("wait", WAITS)
def test_it_ends_within_two_seconds_and_leaves_nothing(wait, tmp_path):
    command = [sys.executable, "-c", NATIVE.format(wait=WAITS[wait]), str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=30)
    assert time.monotonic() - started < 4  # two are promised, of a machine that does nothing else
    assert process.returncode == 143
    assert error.count("smalti: terminated\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_native_call_does_not_hold_up_the_end():
    code = """
import sys
import numpy as np
import smalti.cli.main as cli

def busy(arguments):
    print("ready", flush=True)
    square = np.ones((9000, 9000))
    square @ square

cli._run = busy
cli.main(["x"])
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(1)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert time.monotonic() - started < 4
    assert process.returncode == 143


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the moment is found through /proc")
def test_a_long_encode_of_the_real_command_is_ended(tiny_bundle, tmp_path):
    from PIL import Image

    Image.new("RGB", (4096, 4096), "teal").save(tmp_path / "large.png")
    command = [sys.executable, "-m", "smalti.cli", "encode", tmp_path / "large.png", "-o", tmp_path / "out.npy"]
    command += ["--bundle", tiny_bundle, "--provider", "cpu"]
    with subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True) as process:
        for _ in range(300):  # its handlers stand by then
            if process.poll() is not None or "onnxruntime" in Path(f"/proc/{process.pid}/maps").read_text():
                break
            time.sleep(0.1)
        time.sleep(2)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert time.monotonic() - started < 4
    assert process.returncode in (143, 0)  # a fast machine has ended by then
    assert {path.name for path in tmp_path.iterdir()} <= {"large.png", "out.npy"}
