"""Settings of Sphinx: how the pages in this folder become a site.

The command line and the options of a draw are written into their pages from the program itself. The reports below
``bench/results`` become pages of the site: they are copied to ``results`` here, which git ignores.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

HOUSE = Path(__file__).parents[1]
sys.path[:0] = [str(HOUSE / folder) for folder in ("runtime", "kernels", "training", "export")]

import msgspec  # noqa: E402
import typer  # noqa: E402
from sphinx.ext.napoleon import Config, GoogleDocstring  # noqa: E402

import smalti  # noqa: E402
from smalti.cli.plain import plain_name  # noqa: E402
from smalti.cli.tree import every_command  # noqa: E402
from smalti.families.registry import FAMILIES  # noqa: E402
from smalti.families.settings import DECLARED  # noqa: E402
from smalti_train.presets.catalogue import AUTOENCODERS, HEADS, PRIORS  # noqa: E402

project = "smalti"
author = "the authors of smalti"
copyright = "the authors of smalti, Apache-2.0"
version = release = smalti.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "index"
exclude_patterns = ["_build"]

myst_heading_anchors = 4
smartquotes_action = "qe"  # quotes and ellipses; two hyphens begin an option
myst_enable_extensions = ["colon_fence"]

html_theme = "furo"
html_title = f"smalti {release}"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
autodoc_type_aliases = {
    name: name for name in ("Int32", "Logits", "Sample", "Asked", "Timed", "Picture", "Array", "Seeds", "Label")
}
nitpicky = True
# Names of other projects, and of types that only stand in signatures; smalti's own roles all have to resolve.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!smalti)[\w.]*"),
    (r"py:.*", r"(typing\.Literal|dict|collections\.abc\.Mapping)\[.*"),
    (r"py:class", r"smalti_train\.(models|trainers|evaluation|runs)\..*"),
    (r"py:class", r"smalti_kernels\.(checks|impl\.abi|impl\.cuda\.driver)\..*"),
    (r"py:class", r"smalti\.codec\.batches\.Number"),
    (r"py:class", r"smalti\.verification\.doctor\.facts\.Processor"),
]

REPORTS = HOUSE / "bench/results"
shutil.rmtree(Path(__file__).with_name("results"), ignore_errors=True)
shutil.copytree(REPORTS, Path(__file__).with_name("results"))


def commands() -> Iterator[tuple[str, Any]]:
    """Every command of ``smalti`` by its whole name, with those that other floors bring in their places."""
    for name, command in every_command().commands.items():
        yield f"smalti {name}", command


def described(name: str, command: Any, level: int = 2) -> Iterator[str]:
    """Give the Markdown of one command, and of those below it, from what its ``--help`` says."""
    context = typer.Context(command, info_name=name)
    usage = " ".join(command.get_usage(context).split()).removeprefix("Usage: ")
    yield f"{'#' * level} {name}\n"
    yield f"```text\n{usage}\n```\n"
    yield plain(command.help) + "\n"
    if command.epilog:
        yield plain(command.epilog) + "\n"
    records = [record for one in command.params if (record := one.get_help_record(context))]
    told = [(plain_name(left), right) for left, right in records if not left.startswith("--help")]
    if rows := [f"| `{cell(left)}` | {plain(right)} |" for left, right in told]:
        yield "\n".join(["| argument or option | meaning |", "| --- | --- |", *rows]) + "\n"
    for inner, found in getattr(command, "commands", {}).items():
        yield from described(f"{name} {inner}", found, level + 1)


def cell(code: str) -> str:
    """Give code as it stands in a cell of a table, where a bar would end the cell."""
    return code.replace("|", "\\|")


def plain(text: str | None) -> str:
    """Give a text of help as Markdown: one paragraph for each of its own, with angle brackets as they are."""
    parts = re.split(r"\n\s*\n", (text or "").strip())
    return "\n\n".join(" ".join(part.split()) for part in parts).replace("<", "&lt;").replace("|", "\\|")


def command_line() -> str:
    """Give the Markdown of all commands."""
    return "\n".join(line for name, command in commands() for line in described(name, command))


def options_by_family() -> str:
    """Give the Markdown table of the options of a draw, with the families that know each."""
    rows = ["| option | families | meaning |", "| --- | --- | --- |"]
    own = {name: [family.name for family in FAMILIES.values() if name in family.options] for name in DECLARED}
    for name, declared in DECLARED.items():
        text = next(note.description for note in get_args(declared) if isinstance(note, msgspec.Meta))
        rows.append(f"| `{name}` | {', '.join(own[name]) or 'all'} | {text} |")
    return "\n".join(rows)


def presets() -> str:
    """Give the Markdown table of all presets: what each trains, on which images, and for how many steps."""
    rows = ["| preset | `smalti train` | images | pixels | steps |", "| --- | --- | --- | --- | --- |"]
    for verb, kinds in (("autoencoder", AUTOENCODERS), ("prior", PRIORS), ("heads", HEADS)):
        for name, config in kinds.items():
            loop = getattr(config, "loop", None)
            steps = "none: pixels are tokens" if loop is None else f"{loop.steps:,}"
            rows.append(f"| `{name}` | `{verb}` | {config.data.name} | {config.data.size} | {steps} |")
    return "\n".join(rows)


WRITTEN = {
    "<!-- commands -->": command_line,
    "<!-- options -->": options_by_family,
    "<!-- presets -->": presets,
}
"""What stands in a page in place of each of these marks."""


def write_pages(app: Any, page: str, source: list[str]) -> None:
    """Fill in what the program itself says, and turn links to reports into links to their pages."""
    for mark, text in WRITTEN.items():
        if mark in source[0]:
            source[0] = source[0].replace(mark, text())
    source[0] = source[0].replace("](../bench/results/", "](results/")


def read_sections(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Read sections such as "Args:" in docstrings; texts under fields are prose, in which a colon is a colon."""
    if what not in ("attribute", "data", "property"):
        lines[:] = GoogleDocstring(lines, Config(), app, what, name, value, options).lines()


def setup(app: Any) -> None:
    """Let Sphinx call the functions above for every page and every docstring."""
    app.connect("source-read", write_pages)
    app.connect("autodoc-process-docstring", read_sections)
