"""Turn what ``python bench/gpu/run.py`` found on a GPU into evidence.

    python bench/coverage/from_gpu.py gpu-results/gpu.json

A step that passed or failed becomes a claim about the GPU's generation; one that was skipped becomes none. What ran on
the stub is refused. Run it in the checkout whose code ran on the GPU: the version of smalti is this one's. Then
``python bench/coverage/table.py --write``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from evidence import CUBINS, FOLDER, Backend, Claim, Evidence, Machine, write

STEPS: Final[dict[str, tuple[Backend, str]]] = {
    "cubin": ("kernels", "The draw from the file that the GPU loads, in every variant, beside the NumPy definition"),
    "ptx": ("kernels", "The draw from the PTX file, which the driver compiles, beside the NumPy definition"),
    "small-kernels": ("kernels", "The small kernels of the device loop beside the NumPy definition"),
    "memory-checks": ("kernels", "What the kernels write outside of their arrays"),
    "tests": ("kernels", "The tests of the launcher on a GPU"),
    "loop": ("cuda", "Runs of the embedded bundle on ONNX Runtime's CUDA provider, beside the CPU's"),
}
"""Steps that say whether something works, by name; the others measure."""
ON_THE_PROVIDER: Final = re.compile(r"cuda fp\d+\b")
"""How figures of ``loop`` begin that ONNX Runtime's CUDA provider had a part in. Without it the loop runs in part."""


def claims_of(content: Mapping[str, Any], target: str) -> Iterator[Claim]:
    """What the steps say of a target."""
    for step, (backend, what) in STEPS.items():
        report = content["steps"].get(step)
        if report is None or report["status"] == "skipped":
            continue
        figures = report["figures"]
        if backend == "cuda" and not any(ON_THE_PROVIDER.match(figure["name"]) for figure in figures):
            continue
        compared = [figure for figure in figures if figure["verdict"] in ("equal", "differs")]
        found: dict[str, int | float | str] = {"compared": sum(figure["samples"] for figure in compared)}
        found["that differ"] = sum(figure["value"] for figure in compared)
        for figure in figures:
            if figure["verdict"] in ("passed", "failed") and isinstance(figure["value"], int | float):
                found[figure["name"]] = round(figure["value"], 3)
        yield Claim(backend, target, "ran", what, report["status"] == "passed", found)


def evidence_of(content: Mapping[str, Any], smalti: str) -> Evidence:
    """Turn the content of a ``gpu.json`` into evidence.

    Raises ValueError where a stub ran it, or where it does not say on which GPU it ran.
    """
    places = {figure["ran_on"] for step in content["steps"].values() for figure in step["figures"]}
    if not content["measured"] or content["ran_on"] != "gpu" or "stub" in places or "--stub" in content["command"]:
        raise ValueError("this ran on the stub and not on a GPU: bench/coverage/emulated.py is for that")
    device = content["device"]
    if not device.get("name") or not device.get("compute capability"):
        raise ValueError("this does not say on which GPU it ran: let the step `environment` run too")
    capability = round(10 * float(device["compute capability"]))
    file = str(device.get("kernel file", ""))
    target = file if file == "ptx_80" and capability not in CUBINS else f"sm_{capability}"
    drivers = {"driver": device.get("driver_version"), "CUDA of the driver": device.get("CUDA of the driver")}
    return Evidence(
        schema=1,
        command=content["command"],
        date=content["date"],
        smalti=smalti,
        versions={name: str(version) for name, version in {**drivers, **content["versions"]}.items() if version},
        machine=Machine("gpu", device["name"], capability),
        seconds=round(content["seconds"], 1),
        claims=tuple(claims_of(content, target)),
    )


def version() -> str:
    """Version of smalti in this checkout, which need not be installed."""
    text = (Path(__file__).parents[2] / "runtime/smalti/version.py").read_text(encoding="utf-8")
    return re.findall(r'__version__ = "(.+)"', text)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="gpu.json")
    options = parser.parse_args()
    try:
        found = evidence_of(json.loads(options.report.read_text(encoding="utf-8")), version())
    except ValueError as error:
        raise SystemExit(f"{options.report}: {error}") from None
    name = re.sub(r"[^a-z0-9]+", "-", found.machine.name.lower()).strip("-")
    path = FOLDER / f"gpu-sm_{found.machine.capability}-{name}.json"
    write(path, found)
    for claim in found.claims:
        print(f"{claim.backend} {claim.target}: {'passed' if claim.passed else 'FAILED'}: {claim.what}")
    print(f"written to bench/results/coverage/{path.name}; now python bench/coverage/table.py --write")


if __name__ == "__main__":
    main()
