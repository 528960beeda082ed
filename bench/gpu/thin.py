"""Make a small tree with all that ``run.py`` needs, to be copied to a GPU machine: ``python bench/gpu/thin.py OUT``.

It has the kernels, the runtime, the tests and helpers that are used, and of the embedded bundle the denoiser and the
decoders in fp16 and fp32. Prints what takes the room, and the total.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TREES = ("bench/gpu", "kernels", "runtime", "tests/helpers")
FILES = ("LICENSE", "tests/kernels/test_cuda.py", "tests/kernels/stub_cuda.c")
EMBEDDED = "runtime/smalti/embedded"
PRECISIONS = ("fp16", "fp32")
MOST = 60 * 2**20
"""Bytes that the tree may have."""


def is_wanted(role: str) -> bool:
    """Whether a component of the bundle is drawn with."""
    return role == "denoiser" or role.startswith("decoder")


def copy_tree(out: Path) -> None:
    """Copy code and tests, without caches and without bundles."""
    for name in TREES:
        shutil.copytree(ROOT / name, out / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", "embedded"))
    for name in FILES:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, out / name)


def thin_bundle(source: Path, out: Path) -> None:
    """Copy a bundle's denoiser and decoders in fp16 and fp32, with a manifest of their own."""
    manifest: dict[str, Any] = json.loads((source / "manifest.json").read_text(encoding="utf-8"))
    components = {role: component for role, component in manifest["components"].items() if is_wanted(role)}
    used: set[str] = set()
    for component in components.values():
        component["variants"] = [one for one in component["variants"] if one["precision"] in PRECISIONS]
        for variant in component["variants"]:
            used |= {variant["graph"]["file"], *variant["weights"]}
    manifest["components"] = components
    manifest["weights"] = [record for record in manifest["weights"] if record["file"] in used]
    manifest["certificate"] = [
        row for row in manifest["certificate"] if row["component"] in components and row["precision"] in PRECISIONS
    ]
    manifest["golden"] = None
    out.mkdir(parents=True)
    for name in sorted(used):
        shutil.copy2(source / name, out / name)
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def sizes(out: Path) -> dict[str, int]:
    """Bytes by the first folders of a path."""
    found: dict[str, int] = {}
    for path in out.rglob("*"):
        if path.is_file():
            parts = path.relative_to(out).parts
            key = "/".join(parts[:2]) if len(parts) > 2 else parts[0]
            key = EMBEDDED if path.is_relative_to(out / EMBEDDED) else key
            found[key] = found.get(key, 0) + path.stat().st_size
    return found


def main() -> int:
    """Make the tree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a folder that does not exist yet")
    parser.add_argument("--without-bundle", action="store_true", help="for a machine that has it from an earlier copy")
    options = parser.parse_args()
    out: Path = options.out
    if out.exists() and any(out.iterdir()):
        print(f"{out} is not empty: name a folder that does not exist yet", file=sys.stderr)
        return 1
    copy_tree(out)
    for bundle in [] if options.without_bundle else sorted((ROOT / EMBEDDED).iterdir()):
        thin_bundle(bundle, out / EMBEDDED / bundle.name)
    found = sizes(out)
    for name, size in sorted(found.items(), key=lambda item: -item[1]):
        print(f"{size / 2**20:8.2f} MiB  {name}")
    total = sum(found.values())
    files = [path for path in out.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    print(f"{total / 2**20:8.2f} MiB  in all: {len(files)} files, the largest {largest.name}")
    print(
        "There: python bench/gpu/run.py. It also needs NumPy; msgspec, Pillow and ONNX Runtime with CUDA for the loop."
    )
    return 0 if total <= MOST else 1


if __name__ == "__main__":
    sys.exit(main())
