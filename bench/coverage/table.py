"""The table of ``docs/coverage.md``: GPU generations and backends, each cell the strongest claim that counts.

    python bench/coverage/table.py            print it
    python bench/coverage/table.py --write    put it into the page

It reads ``bench/results/coverage`` and nothing else, so that it cannot say more than is committed there.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from evidence import BACKENDS, HOWS, INTERFACES, Backend, Claim, Evidence, How, read_all, why_not

PAGE: Final = Path(__file__).parents[2] / "docs/coverage.md"
BEGIN: Final = "<!-- written by bench/coverage/table.py: from here -->"
END: Final = "<!-- written by bench/coverage/table.py: to here -->"
ROWS: Final = {
    "GeForce GTX 10 (`sm_61`)": ("sm_61", "direct3d12"),
    "GeForce RTX 20 (`sm_75`)": ("sm_75", "direct3d12"),
    "A100 (`sm_80`)": ("sm_80", "direct3d12"),
    "GeForce RTX 30 (`sm_86`)": ("sm_86", "direct3d12"),
    "GeForce RTX 40 (`sm_89`)": ("sm_89", "direct3d12"),
    "H100, H200 (`sm_90`)": ("sm_90", "direct3d12"),
    "GeForce RTX 50 (`sm_120`)": ("sm_120", "direct3d12"),
    "DGX Spark (`sm_121`)": ("sm_121",),
    "other NVIDIA GPUs of 8.0 or later (`ptx_80`)": ("ptx_80", "direct3d12"),
    "GPUs of AMD": ("amd", "direct3d12"),
    "GPUs of Intel": ("intel", "direct3d12"),
    "GPUs of Apple": ("apple", "metal"),
    "any GPU, behind Vulkan": ("vulkan",),
    "CPU": ("cpu",),
}
"""Rows, and the targets whose claims are about them. What plays a GPU behind Vulkan plays none of those above."""
COLUMNS: Final[dict[Backend, str]] = {
    "kernels": "kernels (the draw)",
    "cuda": "`cuda`",
    "rtx": "`rtx` (TensorRT-RTX)",
    "trt": "`trt` (TensorRT)",
    "webgpu": "`webgpu`",
    "cpu": "`cpu`",
}
WORDS: Final[dict[How, str]] = {
    "ran": "ran",
    "emulated": "ran in emulation",
    "built": "builds",
    "projected": "projected",
    "no": "no",
}


NOTHING: Final = "-"
"""What stands where nothing is known."""


class Support(NamedTuple):
    """A claim, and where it stands."""

    file: str
    evidence: Evidence
    claim: Claim


class Line(NamedTuple):
    """What claims have in common that differ in their target and figures alone."""

    file: str
    backend: Backend
    how: How
    what: str
    reason: str
    fault: str
    """Why they do not count; empty if they do."""


class Cell(NamedTuple):
    """What the table says of a backend on a row."""

    how: How | None
    """The strongest way that counts; None where nothing does."""
    supports: list[Support]
    """The claims of that way."""
    failed: list[Support]
    """What was tried for the cell and failed."""


def cell_of(evidence: Mapping[str, Evidence], row: str, backend: Backend) -> Cell:
    """The strongest claims about a backend on a row."""
    about = [
        Support(file, one, claim)
        for file, one in evidence.items()
        for claim in one.claims
        if claim.backend == backend and claim.target in ROWS[row]
    ]
    good = [support for support in about if not why_not(support.evidence, support.claim)]
    how = min((support.claim.how for support in good), key=HOWS.index, default=None)
    failed = [support for support in about if not support.claim.passed]
    return Cell(how, [support for support in good if support.claim.how == how], failed)


def cells(evidence: Mapping[str, Evidence]) -> dict[tuple[str, Backend], Cell]:
    """Every cell by row and backend."""
    return {(row, backend): cell_of(evidence, row, backend) for row, backend in itertools.product(ROWS, BACKENDS)}


def contradictions(evidence: Mapping[str, Evidence]) -> list[str]:
    """Cells of which one claim says that it cannot work, and another one more."""
    found: list[str] = []
    for row, backend in itertools.product(ROWS, BACKENDS):
        counted = {
            claim.how: file
            for file, one in evidence.items()
            for claim in one.claims
            if claim.backend == backend and claim.target in ROWS[row] and not why_not(one, claim)
        }
        if "no" in counted and len(counted) > 1:
            found.append(f"{backend}, {row}: {', '.join(f'{how} in {file}' for how, file in counted.items())}")
    return found


def line_of(support: Support) -> Line:
    """The line that a claim is told in."""
    file, one, claim = support
    return Line(file, claim.backend, claim.how, claim.what, claim.reason, why_not(one, claim))


def lines_of(evidence: Mapping[str, Evidence]) -> dict[Line, list[str]]:
    """All claims as lines with their targets, in the order of backends and ways."""
    found: dict[Line, list[str]] = {}
    for file, one in evidence.items():
        for claim in one.claims:
            found.setdefault(line_of(Support(file, one, claim)), []).append(claim.target)
    ordered = sorted(found, key=lambda line: (BACKENDS.index(line.backend), HOWS.index(line.how), line))
    return {line: list(dict.fromkeys(found[line])) for line in ordered}


def words_of(cell: Cell, numbers: Mapping[Line, int]) -> str:
    """A cell as text: how far it came, and the numbers of the lines that say so."""

    def cited(supports: list[Support]) -> str:
        return ", ".join(map(str, sorted({numbers[line_of(support)] for support in supports})))

    text = NOTHING
    if cell.how == "ran":
        names = dict.fromkeys(support.evidence.machine.name for support in cell.supports)
        text = f"**ran** on {', '.join(names)} ({cited(cell.supports)})"
    elif cell.how is not None:
        text = f"{WORDS[cell.how]} ({cited(cell.supports)})"
    return f"{text}; failed ({cited(cell.failed)})" if cell.failed else text


def written(evidence: Mapping[str, Evidence]) -> str:
    """All that stands between the marks of the page."""
    lines = lines_of(evidence)
    numbers = {line: number for number, line in enumerate(lines, start=1)}
    found = cells(evidence)
    out = ["| | " + " | ".join(COLUMNS[backend] for backend in BACKENDS) + " |", "| --- " * (len(BACKENDS) + 1) + "|"]
    for row in ROWS:
        out.append(f"| {row} | " + " | ".join(words_of(found[row, backend], numbers) for backend in BACKENDS) + " |")
    out += ["", "## Evidence", "", "| | backend | on | state | what was found | file |", "| ---: " + "| --- " * 5 + "|"]
    for line, targets in lines.items():
        state = WORDS[line.how] if not line.fault else f"does not count: {line.fault}"
        text = plain(f"{line.what}. {line.reason}" if line.reason else line.what)
        on = ", ".join(target if target in INTERFACES or "_" not in target else f"`{target}`" for target in targets)
        out.append(f"| {numbers[line]} | {line.backend} | {on} | {state} | {text} | {line.file} |")
    out += ["", "## Files", "", "| file | command | date | smalti | machine | with |", "| --- " * 6 + "|"]
    out += [f"| {' | '.join(described(name, one))} |" for name, one in evidence.items()]
    return "\n".join(out)


def described(name: str, one: Evidence) -> Iterator[str]:
    """What a file says of itself."""
    yield f"[{name}](../bench/results/coverage/{name})"
    yield f"`{one.command}`" if one.command else "written by hand"
    yield one.date
    yield one.smalti
    capability = f", compute capability {one.machine.capability / 10:.1f}" if one.machine.capability else ""
    yield plain(one.machine.name + capability) or "none"
    yield plain(", ".join(f"{library} {version}" for library, version in one.versions.items()))


def plain(text: str) -> str:
    """A text that fits into a cell."""
    return " ".join(text.split()).replace("|", "\\|")


def page(text: str, evidence: Mapping[str, Evidence]) -> str:
    """The page's text with what is between its marks written anew. Raises ValueError where it has no marks."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} lacks the marks between which the table goes")
    return f"{head}{BEGIN}\n\n{written(evidence)}\n\n{END}{tail}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"put it into {PAGE.name}")
    options = parser.parse_args()
    evidence = read_all()
    if wrong := contradictions(evidence):
        raise SystemExit("these cannot both be; settle it first:\n" + "\n".join(wrong))
    print(written(evidence))
    if options.write:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), evidence), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
