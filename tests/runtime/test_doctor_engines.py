"""What the doctor says of engines: which GPU runs them, in which version, and whether that is enough to draw."""

from __future__ import annotations

from dataclasses import replace

from helpers.machines import RTX_3060, machine, with_driver
from smalti.verification.doctor.facts import Driver, Engine, Machine
from smalti.verification.doctor.findings import conclude, draws_with


def said(found: Machine) -> str:
    (one,) = [one for one in conclude(found) if one.topic == "engines"]
    return one.text


def providers(found: Machine) -> list[str]:
    return draws_with(found, conclude(found))


def test_engines_are_matched_with_gpus_and_versions() -> None:
    engine = Engine("avatars", "denoiser", "fp16", "rtx", "1.7.1", ("sm_75", "sm_86"), bytes=20_000_000)
    both = (engine, replace(engine, component="decoder"))
    found = replace(with_driver(machine(), RTX_3060), engines=both)
    assert said(found) == "bundle avatars has 2 for sm_75, sm_86 (40.0 MB); 2 match a GPU here"
    assert "rtx" not in providers(found)  # the package is not there
    ready = replace(found, packages=(*found.packages, ("tensorrt-rtx", "1.7.1")))
    assert providers(ready)[:1] == ["rtx"]
    assert "rtx" not in providers(replace(ready, engines=both[:1]))
    newer = replace(found, packages=(*found.packages, ("tensorrt-rtx", "1.8.0")))
    assert "they need tensorrt-rtx 1.7.1, not 1.8.0" in said(newer)
    assert "rtx" not in providers(newer)
    assert "none is for a GPU here" in said(replace(found, driver=Driver()))


def test_engines_that_another_gpu_built_do_not_run_here() -> None:
    engine = Engine("avatars", "denoiser", "fp16", "trt", "10.13", ("sm_86",), device=RTX_3060.name, cached=True)
    there = (("tensorrt", "10.13"),)
    found = replace(with_driver(machine(), RTX_3060), engines=(engine, replace(engine, component="decoder")))
    assert "trt" in providers(replace(found, packages=(*found.packages, *there)))
    other = tuple(replace(one, device="another GPU") for one in found.engines)
    assert "trt" not in providers(replace(found, engines=other, packages=(*found.packages, *there)))
