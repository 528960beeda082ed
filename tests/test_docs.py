"""README and pages: links lead somewhere, code compiles, and what smalti exports is what they describe."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

import smalti
from test_house import ROOMS

HOUSE = Path(__file__).parents[1]
DOCS = HOUSE / "docs"
PAGES = [HOUSE / "README.md", *sorted(DOCS.glob("*.md"))]
BUILDERS = ("sphinx", "furo", "myst_parser")

EXPORTED = [
    "Backend",
    "BuildProgress",
    "Bundle",
    "BundleError",
    "Cancelled",
    "DamagedKernel",
    "DriverError",
    "DriverUnavailable",
    "EngineBuild",
    "EngineError",
    "Generator",
    "KernelError",
    "Limits",
    "Manifest",
    "MissingExtra",
    "NoMatchingKernel",
    "NullBackend",
    "OutOfMemory",
    "OutputError",
    "ParityError",
    "ProviderReport",
    "ProviderUnavailable",
    "Recipe",
    "Result",
    "SamplingError",
    "Settings",
    "SmaltiError",
    "SpeedRegression",
    "Step",
    "Timings",
    "TrainingError",
    "Upgrade",
    "UsageError",
    "Written",
    "__version__",
    "aio",
    "embedded_bundles",
    "load",
    "open_bundle",
    "read_recipe",
    "replay",
]
"""The public names of smalti. A name that is added or removed is also told in docs/CHANGELOG.md."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def without_code(text: str) -> str:
    """The text without blocks of code and without code inside lines."""
    return re.sub(r"`[^`\n]*`", "code", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def links(text: str) -> Iterator[str]:
    """Targets of the links and images that do not lead to other sites."""
    found = re.findall(r"\]\(([^)\s]+)\)", without_code(text)) + re.findall(r"^```\{image\} (\S+)", text, re.MULTILINE)
    yield from (target for target in found if not re.match(r"[a-z]+:", target))


def anchors(text: str) -> set[str]:
    """Anchors of the headings, as sites make them: small letters, no punctuation, hyphens for spaces."""
    blocks = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", blocks, re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", title.lower())) for title in titles}


def broken(page: Path, text: str) -> list[str]:
    """Links of a page that lead to no file, or to no heading of one."""
    wrong: list[str] = []
    for target in links(text):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        there = file.exists() and file.is_relative_to(HOUSE)
        if not there or (anchor and anchor not in anchors(text if file == page else file.read_text(encoding="utf-8"))):
            wrong.append(target)
    return wrong


@each_page
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert broken(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("target", ["nowhere.md", "guide.md#nothing", "#nothing", "../../elsewhere.md"])
def test_a_broken_link_is_seen(target: str) -> None:
    assert broken(DOCS / "guide.md", f"# A heading\n\nSee [there]({target}).") == [target]


def test_links_in_code_are_no_links() -> None:
    assert list(links("`[a](b.md)`\n\n```\n[a](c.md)\n```\n\n[a](d.md) and [a](https://example.org)")) == ["d.md"]


@each_page
def test_python_on_the_page_compiles(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        ast.parse(block)


def test_readme_and_guide_have_python_to_compile() -> None:
    for page in (HOUSE / "README.md", DOCS / "guide.md"):
        assert "```python\n" in page.read_text(encoding="utf-8")


@each_page
def test_papers_have_authors_and_no_numbers(page: Path) -> None:
    assert not re.search(r"paper 00\d", page.read_text(encoding="utf-8"), re.IGNORECASE)


def test_the_readme_is_short_and_names_the_two_commands() -> None:
    text = (HOUSE / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 110
    assert '.venv/bin/pip install ".[cpu,cli]" && .venv/bin/smalti generate --count 8' in text
    assert re.search(r"^<!-- tests -->\n```sh\n.*pytest -n auto\n```$", text, re.MULTILINE)


def test_smalti_exports_what_is_listed_here() -> None:
    assert smalti.__all__ == EXPORTED


def test_every_exported_name_is_on_the_page_of_the_api() -> None:
    described = re.findall(
        r"^\.\. auto\w+:: smalti\.(\w+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(set(described) - {"errors"}) == sorted(EXPORTED)


def test_the_drawing_shows_every_room() -> None:
    words = [text.text for text in ElementTree.parse(DOCS / "architecture.svg").iter() if text.tag.endswith("}text")]
    missing = {root: [room for room in rooms if words.count(room) < 1] for root, rooms in ROOMS.items()}
    assert not any(missing.values()), missing
    assert len([word for word in words if word in {room for rooms in ROOMS.values() for room in rooms}]) == sum(
        map(len, ROOMS.values())
    )


@pytest.mark.slow  # half a minute of one core; .ci/run builds the pages too
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in BUILDERS), reason="the extra docs is not installed"
)
def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-d",
        tmp_path / "trees",
        DOCS,
        tmp_path / "html",
    ]
    done = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "html/command-line.html").read_text(encoding="utf-8")
    for shown in ("smalti generate", "--final-temperature", "smalti train prior", "smalti engine build"):
        assert shown in commands
    assert "smalti.Generator.inpaint" in (tmp_path / "html/api.html").read_text(encoding="utf-8")
