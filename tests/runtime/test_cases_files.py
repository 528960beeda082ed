"""Files as they lie in other people's folders: behind links, with long names, at ``~``, and recipes in any place."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import smalti
from helpers.golden_bundle import plain_bundle
from smalti.cli.main import _run
from smalti.errors import BundleError, OutputError, UsageError
from smalti.saving.chunks import KEY, LARGEST_TEXT
from smalti.saving.formats import save_png
from smalti.saving.recipe import Recipe, encode_recipe, read_recipe
from smalti.system.files import beside, check_folder, check_writable, replace_file, write_whole
from smalti.system.platform import cache_folder, reachable

posix = pytest.mark.skipif(sys.platform == "win32", reason="links and pipes need POSIX")
Layout = Callable[[Path], Path]


def in_a_store(bundle: Path) -> Path:
    """As Hugging Face's cache has it: every file a relative link to one that is named by its hash."""
    blobs, snapshot = bundle.parent / "cache/blobs", bundle.parent / "cache/snapshots/1"
    for folder in (blobs, snapshot):
        folder.mkdir(parents=True)
    for file in bundle.iterdir():
        name = hashlib.sha256(file.read_bytes()).hexdigest()
        file.rename(blobs / name)
        (snapshot / file.name).symlink_to(Path("../../blobs") / name)
    bundle.rmdir()
    return snapshot


def absolute_links(bundle: Path) -> Path:
    target = bundle.parent / "links"
    target.mkdir()
    for file in bundle.iterdir():
        (target / file.name).symlink_to(file.absolute())
    return target


def chain_of_links(bundle: Path) -> Path:
    for file in [*bundle.iterdir()]:
        file.rename(bundle.parent / f"one-{file.name}")
        (bundle.parent / f"two-{file.name}").symlink_to(bundle.parent / f"one-{file.name}")
        file.symlink_to(bundle.parent / f"two-{file.name}")
    return bundle


def linked_folder(bundle: Path) -> Path:
    (bundle.parent / "link").symlink_to(bundle, target_is_directory=True)
    return bundle.parent / "link"


def linked_zip(bundle: Path) -> Path:
    with zipfile.ZipFile(bundle.parent / "0123abcd", "w") as archive:
        for file in bundle.iterdir():
            archive.write(file, file.name)
    (bundle.parent / "bundle.zip").symlink_to("0123abcd")
    return bundle.parent / "bundle.zip"


def hard_links(bundle: Path) -> Path:
    target = bundle.parent / "hard"
    target.mkdir()
    for file in bundle.iterdir():
        (target / file.name).hardlink_to(file)
    return target


@posix
@pytest.mark.parametrize("layout", [in_a_store, absolute_links, chain_of_links, linked_folder, linked_zip, hard_links])
def test_cases_of_bundles_behind_links_load(layout: Layout, tmp_path: Path) -> None:
    path = layout(plain_bundle(tmp_path / "bundle"))
    assert _run(["bundle", "verify", str(path)]) == 0
    assert len(smalti.load(path, provider="cpu").generate(1, steps=2).images) == 1


@posix
def test_cases_of_a_damaged_file_behind_a_link_are_refused(tmp_path: Path) -> None:
    path = in_a_store(plain_bundle(tmp_path / "bundle"))
    file = (path / "decoder.fp32.onnx").resolve()
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match=r"decoder\.fp32\.onnx is damaged"):
        smalti.load(path, provider="cpu").generate(1, steps=2)


@posix
@pytest.mark.parametrize("target", ["pipe", "/dev/zero", "folder", "nothing", "circle"])
@pytest.mark.parametrize("name", ["decoder.fp32.onnx", "manifest.json", ""])
def test_cases_of_links_to_no_file_are_refused_at_once(target: str, name: str, tmp_path: Path) -> None:
    bundle = plain_bundle(tmp_path / "bundle")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    link = bundle / name if name else tmp_path / "link.zip"
    link.unlink(missing_ok=True)
    link.symlink_to(target if target.startswith("/") else tmp_path / target)
    code = "import sys; from smalti.cli.main import _run; sys.exit(_run(['bundle', 'verify', sys.argv[1]]))"
    command = [sys.executable, "-c", code, str(bundle if name else link)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr


@posix
def test_cases_of_an_installation_by_links(tmp_path: Path) -> None:
    """As ``uv --link-mode=symlink`` installs: every file of the package is a link into a cache."""
    cache = Path(smalti.__file__).parents[1]
    kernels = Path(sys.modules["smalti_kernels"].__file__ or "").parents[1]
    for source in (cache / "smalti", kernels / "smalti_kernels"):
        for file in source.rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                link = tmp_path / "site" / file.relative_to(source.parent)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file)
    code = "import smalti; print(smalti.__file__); smalti.load(provider='cpu').generate(1, steps=1).save('a.png')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "site") in done.stdout
    assert (tmp_path / "a.png").stat().st_size > 1000


NAMES = ["n" * 240 + ".png", "n" * 251 + ".png", "é" * 120 + ".png", "名" * 80 + ".png", "🦊" * 60 + ".png", "a.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count characters")
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_cases_of_long_names(name: str, tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        check_writable(tmp_path / name)
        write_whole(tmp_path / name, content)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"second"
    check_folder(tmp_path / name.removesuffix(".png"))
    temporary = beside(tmp_path / name).name
    for measure in (os.fsencode, lambda text: text.encode("utf-16-le")):
        assert len(measure(temporary)) <= max(len(measure(name)), 150)


@pytest.mark.parametrize("name", ["n" * 256 + ".png", "名" * 90 + ".png", "n" * 5000])
def test_cases_of_names_too_long_are_refused_before_the_work(name: str, tmp_path: Path) -> None:
    for check in (check_writable, check_folder):
        with pytest.raises(OutputError, match="cannot write"):
            check(tmp_path / name)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "-o", ""],
        ["generate", "--output", ""],
        ["generate", "--output="],
        ["inpaint", "", "mask.png", "-o", "a.png"],
        ["decode", "a.npy", "-o", ""],
        ["bundle", "verify", ""],
        ["export", "run", "-o", ""],
        ["train", "autoencoder", "--run", ""],
        ["import", "--labels=", "a.ckpt"],
    ],
)
def test_cases_of_empty_arguments(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _run(words) == 2
    assert "is empty; give it a value" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def test_cases_of_home_on_the_command_line(home: Path, tiny_bundle: Path) -> None:
    shutil.copytree(tiny_bundle, home / "bundle")
    assert _run(["generate", "--output=~/a.png", "--bundle=~/bundle"]) == 0
    assert _run(["generate", "-o", "~/many/", "--bundle", "~/bundle", "--count", "2"]) == 0
    assert _run(["generate", "-o~/short.png", "--replay=~/a.png", "--bundle=~/bundle"]) == 0
    assert _run(["encode", "~/a.png", "-o", "~/tokens.npy", "--bundle=~/bundle"]) == 0
    assert _run(["decode", "~/tokens.npy", "--output=~/b.png", "--bundle=~/bundle"]) == 0
    wanted = {"a.png", "b.png", "bundle", "many", "short.png", "tokens.npy"}
    assert {path.name for path in home.iterdir()} == wanted
    assert len([*(home / "many").iterdir()]) == 2
    assert not [*Path().iterdir()]


def test_cases_of_home_in_the_api(home: Path, tiny_bundle: Path) -> None:
    shutil.copytree(tiny_bundle, home / "bundle")
    gen = smalti.load("~/bundle")
    gen.generate(1).save(Path("~/a.png"))
    replace_file(Path("~/b"), b"b")
    assert read_recipe(Path("~/a.png")).seeds == (0,)
    assert smalti.open_bundle(Path("~/bundle")).path == home / "bundle"
    assert {path.name for path in home.iterdir()} == {"a.png", "b", "bundle"}
    assert not [*Path().iterdir()]


@pytest.mark.parametrize("name", ["~nobody-has-this-name", "a~", "b/~", "~nobody-has-this-name/c"])
def test_cases_of_names_that_are_not_home(name: str, home: Path) -> None:
    assert reachable(Path(name)) == Path(name)


@posix
@pytest.mark.parametrize(
    ("variable", "value", "below"),
    [
        ("SMALTI_CACHE_DIR", "~/c", "c"),
        ("SMALTI_CACHE_DIR", "$HOME/c", "c"),
        ("SMALTI_CACHE_DIR", "${HOME}/c", "c"),
        ("SMALTI_CACHE_DIR", "~", ""),
        ("XDG_CACHE_HOME", "~/x", "x/smalti"),
    ],
)
def test_cases_of_home_in_variables(
    variable: str, value: str, below: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SMALTI_CACHE_DIR", raising=False)
    monkeypatch.setenv(variable, value)
    if sys.platform == "linux" or variable != "XDG_CACHE_HOME":
        assert cache_folder() == home / below


RECIPE = Recipe(
    version="0.1.0",
    bundle="tiny",
    bundle_digest="ab" * 32,
    seeds=(7,),
    labels=("lorelei",),
    options={"top_k": 0, "top_p": 1.0, "order": "random", "remask": 0.0},
    precision={"denoiser": "fp32"},
    provider="cpu",
    columns=1,
)
TEXT = encode_recipe(RECIPE)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def plain(text: str = TEXT) -> bytes:
    return chunk(b"tEXt", KEY.encode() + b"\0" + text.encode())


def packed(text: bytes = TEXT.encode()) -> bytes:
    return chunk(b"zTXt", KEY.encode() + b"\0\0" + zlib.compress(text))


def unicode(compressed: bool, text: str = TEXT) -> bytes:
    content = zlib.compress(text.encode()) if compressed else text.encode()
    return chunk(b"iTXt", KEY.encode() + b"\0" + bytes([compressed, 0]) + b"en\0smalti\0" + content)


def png(path: Path, added: bytes, before: bytes, size: int = 40) -> Path:
    """A picture with a chunk before another: IDAT, IEND or the first after the header."""
    pixels = np.random.default_rng(0).integers(0, 255, (size, size, 3), np.uint8)
    save_png(Image.fromarray(pixels), path)
    content = path.read_bytes()
    place = content.index(before) - 4
    path.write_bytes(content[:place] + added + content[place:])
    return path


KINDS = {"tEXt": plain(), "zTXt": packed(), "iTXt": unicode(False), "iTXt packed": unicode(True)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
def test_cases_of_recipes_anywhere(before: bytes, kind: str, tmp_path: Path) -> None:
    assert read_recipe(png(tmp_path / "a.png", KINDS[kind], before)) == RECIPE


def test_cases_of_recipes_in_animations_and_cut_pictures(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    content = (tmp_path / "a.png").read_bytes()
    end = content.index(b"IEND") - 4
    (tmp_path / "a.png").write_bytes(content[:end] + plain() + content[end:])
    assert read_recipe(tmp_path / "a.png") == RECIPE
    whole = png(tmp_path / "b.png", plain(), b"IDAT").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    assert read_recipe(tmp_path / "b.png") == RECIPE


@pytest.mark.parametrize(
    ("added", "says"),
    [
        (packed(b" " * (LARGEST_TEXT + 1)), "cannot be read as an image"),
        (chunk(b"zTXt", b"smalti\0\0" + zlib.compress(TEXT.encode())[:-20]), "cannot be read as an image"),
        (chunk(b"zTXt", b"smalti\0\0not packed"), "cannot be read as an image"),
        (plain()[:-4] + b"\0\0\0\0", "cannot be read as an image"),
        (chunk(b"iTXt", b"smalti\0\0\0\0\0\xff\xfe"), "cannot be read as an image"),
        (chunk(b"iTXt", b"smalti\0"), "its recipe cannot be read|does not say how"),
        (chunk(b"tEXt", b"smalti"), "does not say how it was made"),
        (chunk(b"tEXt", b"smalti2\0" + TEXT.encode()), "does not say how it was made"),
        (struct.pack(">I", 2**31) + b"tEXt" + b"smalti\0", "does not say how|cannot be read"),
    ],
)
def test_cases_of_damaged_recipes_are_refused(added: bytes, says: str, tmp_path: Path) -> None:
    for before in (b"IEND", b"IDAT"):
        with pytest.raises(UsageError, match=says if before == b"IEND" else None) as caught:
            read_recipe(png(tmp_path / "a.png", added, before))
        assert "a.png" in str(caught.value)


def test_cases_of_edited_pictures_replay_the_same(tmp_path: Path, tiny_bundle: Path) -> None:
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    assert _run(["generate", "-o", str(first), "--seed", "5", "--bundle", str(tiny_bundle)]) == 0
    with Image.open(first) as image:
        text: Any = image.info[KEY]
        image.save(tmp_path / "stripped.png")
    png_end = (tmp_path / "stripped.png").read_bytes()
    end = png_end.index(b"IEND") - 4
    (tmp_path / "stripped.png").write_bytes(png_end[:end] + plain(text) + png_end[end:])
    assert (
        _run(["generate", "-o", str(second), "--replay", str(tmp_path / "stripped.png"), "--bundle", str(tiny_bundle)])
        == 0
    )
    assert second.read_bytes() == first.read_bytes()
