"""Kernels that TensorRT-RTX compiled: their files say what for, and prune removes those that are of no more use."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest

from helpers.compiled import Cache, used
from helpers.kept_engines import INSTALLED, MADE
from helpers.stub_driver import Stub
from smalti.backends import driver_version as versions
from smalti.backends.tensorrt.compiled import MadeFor, compiled_folder, made_for
from smalti.verification.doctor import safe_driver
from smalti.verification.engines import worn
from smalti.verification.engines.pruning import Rule, prune
from smalti.verification.engines.worn import Here

HERE = Here(frozenset({"GeForce RTX 3060", "GeForce GTX 1080 Ti"}), "580.95.05")


@pytest.fixture
def file(cache) -> Path:
    return used(MADE)[0]


def test_a_file_says_what_it_was_made_for_and_is_read_again(cache, file):
    assert made_for(file) == MADE
    assert used(MADE) == (file, [Cache().content])
    for name in MadeFor.__struct_fields__:
        other = msgspec.structs.replace(MADE, **{name: "another"})
        assert used(other)[0] != file
        assert used(other)[1] == [Cache().content]
    file.write_bytes(file.read_bytes().replace(b"GTX", b"RTX").replace(b"3060", b"4090"))
    assert used(MADE) == (file, [])  # it was made for another card


@pytest.mark.parametrize("rest", [b"", b"\n", b"{}\n", b"[1]\nkernels", b"\xff\n", b"{" * 10000])
def test_a_file_that_does_not_tell_is_made_again_and_goes(rest, file):
    file.write_bytes(rest)
    assert made_for(file) is None
    (gone,) = prune(INSTALLED, Rule(), here=HERE).removed
    assert (gone.path, gone.why) == (str(file), "it does not tell what it was compiled for")
    assert used(MADE) == (file, [])
    assert made_for(file) == MADE


@pytest.mark.parametrize(
    ("installed", "here", "why"),
    [
        (INSTALLED, HERE, ""),
        ({"rtx": "", "trt": ""}, HERE, ""),
        ({"rtx": "9.9", "trt": ""}, HERE, f"compiled by TensorRT-RTX {INSTALLED['rtx']}, and 9.9 is installed"),
        (INSTALLED, Here(HERE.devices, "590.1"), "compiled for driver 580.95.05, and 590.1 is installed"),
        (INSTALLED, Here(HERE.devices, ""), ""),
        (INSTALLED, Here(frozenset({"another card"}), "590.1"), ""),  # in a home that several machines share
    ],
)
def test_what_was_compiled_for_something_that_is_gone_goes(installed, here, why, file):
    removed = prune(installed, Rule(), here=here).removed
    assert [one.why for one in removed] == ([why] if why else [])
    assert file.exists() == (not why)


def test_old_ones_go_by_age_and_locks_stay(file):
    lock = file.with_suffix(".lock")
    os.utime(file, (time.time() - 3 * 86400,) * 2)
    lock.touch()
    os.utime(lock, (time.time() - 3 * 86400,) * 2)
    assert prune(INSTALLED, Rule(older_than=4), here=HERE).removed == []
    assert [one.path for one in prune(INSTALLED, Rule(older_than=2), dry=True, here=HERE).removed] == [str(file)]
    assert file.exists()
    assert [one.path for one in prune(INSTALLED, Rule(older_than=2), here=HERE).removed] == [str(file)]
    assert lock.exists()
    assert not file.exists()


def test_the_gpus_of_this_machine_and_their_driver(stub: Stub, monkeypatch, tmp_path):
    stub.machine(devices=2)
    found = stub.driver()
    monkeypatch.setattr(safe_driver, "driver", lambda: found)
    module = tmp_path / "version"
    module.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23\nGCC version: 12.2.0\n")
    monkeypatch.setattr(versions, "MODULE", module)
    assert worn.gpus_here() == Here(frozenset({"Stub 70", "Stub 71"}), "580.95.05")


def test_a_machine_without_a_driver_has_no_gpus(cache):
    assert not worn.gpus_here().devices
    assert not compiled_folder().exists()
