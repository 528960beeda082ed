"""``docs/coverage.md`` says what the committed evidence gives, and the table never says more than evidence does."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import smalti
from smalti.verification.doctor.install import runs
from smalti_kernels.impl.cuda.prebuilt import FOLDER, MANIFEST
from smalti_kernels.impl.cuda.targets import TARGETS

HOUSE = Path(__file__).parents[1]
sys.path.insert(0, str(HOUSE / "bench/coverage"))
try:
    evidence, table, from_gpu = (importlib.import_module(name) for name in ("evidence", "table", "from_gpu"))
finally:
    sys.path.pop(0)

COMMITTED = evidence.read_all()
AGAIN = "run python bench/coverage/emulated.py and python bench/coverage/table.py --write again"
CPU = evidence.Machine("cpu", "2 CPU cores, Maker")
RTX_30 = evidence.Machine("gpu", "NVIDIA GeForce RTX 3090", 86)
ROW = "GeForce RTX 30 (`sm_86`)"


def claim(how: str = "ran", target: str = "sm_86", backend: str = "cuda", **changes: Any) -> Any:
    return evidence.Claim(**({"passed": True, "what": "x"} | changes), backend=backend, target=target, how=how)


def file(*claims: Any, machine: Any = RTX_30, command: str = "python bench/gpu/run.py") -> Any:
    return evidence.Evidence(1, command, "2026-11-30", "0.1.0", {"numpy": "2.4.6"}, machine, 1.0, claims)


def how_of(*files: Any, row: str = ROW, backend: str = "cuda") -> str | None:
    return table.cell_of({str(number): one for number, one in enumerate(files)}, row, backend).how


def test_the_page_is_what_the_committed_evidence_gives() -> None:
    text = table.PAGE.read_text(encoding="utf-8")
    assert table.page(text, COMMITTED) == text, "run python bench/coverage/table.py --write"
    assert table.contradictions(COMMITTED) == []


def test_evidence_is_small_and_names_no_machine() -> None:
    for path in evidence.FOLDER.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert len(text) < 20_000
        assert not re.search(r"/(?:home|root|tmp|work|Users)/", text)
        assert path.read_bytes() == msgspec.json.format(msgspec.json.encode(evidence.read(path)), indent=1) + b"\n"


def test_the_evidence_is_about_the_kernels_and_the_bundle_that_ship() -> None:
    ships = {
        "manifest": hashlib.sha256((FOLDER / MANIFEST).read_bytes()).hexdigest(),
        "bundle": smalti.open_bundle().digest,
    }
    claims = [claim for one in COMMITTED.values() if one.machine.kind == "cpu" for claim in one.claims]
    for name, digest in ships.items():
        found = {claim.figures[name] for claim in claims if name in claim.figures}
        assert found == {digest[:16]}, AGAIN


def test_every_kernel_file_has_evidence() -> None:
    claims = COMMITTED["emulated.json"].claims
    for how in ("built", "emulated"):
        assert {one.target for one in claims if (one.backend, one.how) == ("kernels", how)} == {t.name for t in TARGETS}


def test_projections_of_the_cuda_provider_agree_with_doctor() -> None:
    claims = [one for one in COMMITTED["projected.json"].claims if (one.backend, one.how) == ("cuda", "projected")]
    cuda = {one.target: 12 if "for CUDA 12" in one.what else 13 for one in claims}
    assert set(cuda) == {target.name for target in TARGETS}
    for target, version in cuda.items():
        assert runs(version, 100 if target == "ptx_80" else int(target[3:]))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content["claims"][0].update(backend="vulkan"),
        lambda content: content["claims"][0].update(how="works"),
        lambda content: content["claims"][0].update(target="sm_"),
        lambda content: content["claims"][0].update(target="RTX 20"),
        lambda content: content["claims"][0].pop("passed"),
        lambda content: content["claims"][0].update(verdict="equal"),
        lambda content: content.pop("command"),
        lambda content: content.update(date="today"),
        lambda content: content.update(schema=2),
        lambda content: content["machine"].update(kind="stub"),
    ],
)
def test_what_is_not_of_the_format_is_refused(spoil: Any, tmp_path: Path) -> None:
    content = json.loads((evidence.FOLDER / "emulated.json").read_text())
    spoil(content)
    (tmp_path / "spoilt.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"^spoilt\.json is no evidence: "):
        evidence.read_all(tmp_path)


def test_a_good_claim_raises_a_cell() -> None:
    assert how_of(file(claim())) == "ran"
    assert how_of(file(claim("emulated"), machine=CPU)) == "emulated"
    assert (
        how_of(file(claim("projected", reason="published"), machine=evidence.Machine("none"), command=""))
        == "projected"
    )
    assert how_of(file(claim("emulated"), claim("built")), file(claim("no", reason="it is"))) == "emulated"
    assert how_of(file(claim(target="cpu", backend="cpu"), machine=CPU), row="CPU", backend="cpu") == "ran"
    vulkan = file(claim("emulated", "vulkan", "webgpu"), machine=CPU)
    assert how_of(vulkan, row="any GPU, behind Vulkan", backend="webgpu") == "emulated"
    assert how_of(vulkan, backend="webgpu") is None  # nobody has played this GPU


@pytest.mark.parametrize(
    ("planted", "fault"),
    [
        (file(claim(passed=False)), "it failed"),
        (file(claim("emulated", passed=False), machine=CPU), "it failed"),
        (file(claim(), command="python bench/gpu/run.py --stub"), "a stub"),
        (file(claim(), command=" "), "no command"),
        (file(claim("emulated"), machine=CPU, command=""), "no command"),
        (file(claim("built"), machine=evidence.Machine("none")), "no machine"),
        (file(claim(), machine=evidence.Machine("gpu", "", 86)), "no machine"),
        (file(claim(), machine=CPU), "no GPU"),
        (file(claim(), machine=evidence.Machine("gpu", "NVIDIA GeForce RTX 4090", 89)), "another generation"),
        (file(claim("projected")), "no reason"),
        (file(claim("no", reason=" ")), "no reason"),
    ],
)
def test_a_planted_claim_does_not_raise_a_cell(planted: Any, fault: str) -> None:
    assert fault in evidence.why_not(planted, planted.claims[0])
    assert how_of(planted) is None
    weaker = file(claim("projected", reason="published"))
    assert how_of(weaker, planted) == "projected"
    # It is still told, as what it is.
    lines = table.written({"planted.json": planted}).split("## Evidence")[1]
    assert f"does not count: {evidence.why_not(planted, planted.claims[0])}" in lines


@pytest.mark.parametrize(
    ("row", "target", "machine"),
    [
        ("other NVIDIA GPUs of 8.0 or later (`ptx_80`)", "ptx_80", evidence.Machine("gpu", "NVIDIA H200", 90)),
        ("GPUs of AMD", "vulkan", evidence.Machine("gpu", "AMD Radeon")),
        ("CPU", "cpu", RTX_30),
    ],
)
def test_what_ran_elsewhere_is_no_run_of_a_row(row: str, target: str, machine: Any) -> None:
    for backend in evidence.BACKENDS:
        assert how_of(file(claim("ran", target, backend), machine=machine), row=row, backend=backend) is None


def test_what_failed_stands_in_the_cell() -> None:
    found = {"a.json": file(claim(), claim(passed=False, what="y"))}
    cells = next(line for line in table.written(found).splitlines() if line.startswith(f"| {ROW}")).split(" | ")
    assert cells[2] == "**ran** on NVIDIA GeForce RTX 3090 (1); failed (2)"
    assert set(cells[3:]) <= {"-", "- |"}


def test_a_contradiction_is_named() -> None:
    found = {"a.json": file(claim("emulated"), machine=CPU), "b.json": file(claim("no", reason="it is"))}
    (line,) = table.contradictions(found)
    assert line == f"cuda, {ROW}: emulated in a.json, no in b.json"


TARGET = st.sampled_from(["sm_61", "sm_86", "sm_90", "sm_121", "ptx_80", "vulkan", "metal", "amd", "apple", "cpu"])
CLAIMS = st.builds(
    evidence.Claim,
    backend=st.sampled_from(evidence.BACKENDS),
    target=TARGET,
    how=st.sampled_from(evidence.HOWS),
    what=st.just("x"),
    passed=st.booleans(),
    reason=st.sampled_from(["", "published"]),
)
MACHINES = st.builds(
    evidence.Machine,
    kind=st.sampled_from(["gpu", "cpu", "none"]),
    name=st.sampled_from(["", "Maker's"]),
    capability=st.sampled_from([0, 61, 86, 90, 100]),
)
COMMANDS = st.sampled_from(["", "python bench/gpu/run.py", "python bench/gpu/run.py --stub"])
FILES = st.lists(
    st.builds(
        lambda machine, command, claims: file(*claims, machine=machine, command=command),
        MACHINES,
        COMMANDS,
        st.lists(CLAIMS, max_size=6),
    ),
    max_size=4,
).map(lambda files: {f"{number}.json": one for number, one in enumerate(files)})


def rank(how: str | None) -> int:
    """0 where nothing is said, and more for more."""
    return 0 if how is None else len(evidence.HOWS) - evidence.HOWS.index(how)


@settings(max_examples=150, deadline=None)
@given(FILES)
def test_no_cell_says_more_than_a_claim_that_passed(files: dict[str, Any]) -> None:
    for (row, backend), cell in table.cells(files).items():
        good = [
            (one, found)
            for one in files.values()
            for found in one.claims
            if found.passed and found.backend == backend and found.how == cell.how and found.target in table.ROWS[row]
        ]
        if cell.how in ("ran", "emulated", "built"):
            good = [(one, found) for one, found in good if one.command and one.machine.kind != "none"]
        if cell.how == "ran" and row != "CPU":
            good = [(one, _) for one, _ in good if one.machine.kind == "gpu" and "--stub" not in one.command]
        if cell.how in ("projected", "no"):
            good = [(one, found) for one, found in good if found.reason]
        assert bool(good) == (cell.how is not None)


@settings(max_examples=100, deadline=None)
@given(FILES)
def test_less_evidence_never_says_more(files: dict[str, Any]) -> None:
    whole = table.cells(files)
    for gone in files:
        rest = table.cells({name: one for name, one in files.items() if name != gone})
        assert all(rank(rest[place].how) <= rank(whole[place].how) for place in whole)
    assert all(cell.how is None for cell in table.cells({}).values())
    table.written(files)


def test_without_a_committed_file_cells_are_weaker() -> None:
    whole = table.cells(COMMITTED)
    for gone in COMMITTED:
        rest = table.cells({name: one for name, one in COMMITTED.items() if name != gone})
        assert all(rank(rest[place].how) <= rank(whole[place].how) for place in whole)
        assert any(rank(rest[place].how) < rank(whole[place].how) for place in whole)


def report_of(**steps: Any) -> dict[str, Any]:
    """A gpu.json as ``bench/gpu/run.py`` writes it, with the steps that matter here."""
    device = {"name": "NVIDIA H200", "compute capability": "9.0", "kernel file": "sm_90", "driver_version": "580.1"}
    return {
        "schema": 1,
        "measured": True,
        "ran_on": "gpu",
        "date": "2026-11-30",
        "command": "python bench/gpu/run.py",
        "seconds": 300.25,
        "device": device,
        "versions": {"numpy": "2.4.6"},
        "steps": steps,
    }


def step(status: str, *figures: tuple[str, Any, str], ran_on: str = "gpu") -> dict[str, Any]:
    rows = [{"name": n, "value": v, "verdict": w, "samples": 9, "ran_on": ran_on} for n, v, w in figures]
    return {"status": status, "figures": rows}


def test_what_ran_on_a_gpu_becomes_evidence(tmp_path: Path) -> None:
    content = report_of(
        cubin=step("passed", ("every variant, fp32", 0, "equal"), ("many draws, fp32", 0, "equal")),
        ptx=step("failed", ("every variant, fp32", 2, "differs")),
        triton=step("passed", ("a", 0, "equal")),
        loop=step("passed", ("cuda fp16, 256 pixels: PSNR beside the CPU's pixels", 60.12345, "passed")),
        tests=step("skipped"),
    )
    found = from_gpu.evidence_of(content, "0.1.0")
    assert found.machine == evidence.Machine("gpu", "NVIDIA H200", 90)
    assert [(one.backend, one.target, one.passed) for one in found.claims] == [
        ("kernels", "sm_90", True),
        ("kernels", "sm_90", False),
        ("cuda", "sm_90", True),
    ]
    assert found.claims[0].figures == {"compared": 18, "that differ": 0}
    evidence.write(tmp_path / "gpu.json", found)
    assert evidence.read(tmp_path / "gpu.json") == found
    for backend in ("kernels", "cuda"):
        assert how_of(found, row="H100, H200 (`sm_90`)", backend=backend) == "ran"
        assert how_of(found, row="other NVIDIA GPUs of 8.0 or later (`ptx_80`)", backend=backend) is None


def test_the_loop_without_the_cuda_provider_is_no_claim() -> None:
    content = report_of(loop=step("passed", ("network on the host: NumPy draws from the same logits", 0, "equal")))
    assert from_gpu.evidence_of(content, "0.1.0").claims == ()


@pytest.mark.parametrize(
    "change",
    [
        {"measured": False},
        {"ran_on": "stub"},
        {"command": "python bench/gpu/run.py --stub"},
        {"steps": {"cubin": step("passed", ("a", 0, "equal"), ran_on="stub")}},
        {"device": {}},
    ],
)
def test_what_ran_on_the_stub_becomes_no_evidence(change: dict[str, Any]) -> None:
    content = report_of(cubin=step("passed", ("a", 0, "equal"))) | change
    with pytest.raises(ValueError, match=r"ran on the stub|on which GPU"):
        from_gpu.evidence_of(content, "0.1.0")
