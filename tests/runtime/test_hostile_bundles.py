"""Bundles made or changed in bad faith: refused with exit 3 and the name of the file, and nothing happens elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from helpers.golden_bundle import golden_bundle, plain_bundle
from smalti.bundle.manifest import LARGEST_FILE
from smalti.cli.main import _run

GRAPH = "denoiser.fp32.onnx"


@pytest.fixture
def bundle(tmp_path) -> Path:
    return plain_bundle(tmp_path / "bundle")


def edit(path: Path, change) -> None:
    content = json.loads((path / "manifest.json").read_text())
    change(content)
    (path / "manifest.json").write_text(json.dumps(content))


def graph_of(content):
    return content["components"]["denoiser"]["variants"][0]["graph"]


def flip(path: Path) -> None:
    content = bytearray((path / GRAPH).read_bytes())
    content[len(content) // 2] ^= 0x10
    (path / GRAPH).write_bytes(content)


def swap(path: Path) -> None:
    (path / GRAPH).write_bytes((path / "decoder.fp32.onnx").read_bytes())


def outside(path: Path) -> Path:
    """A copy of the graph beside the bundle, whose hash is the right one."""
    (path / GRAPH).rename(path.parent / GRAPH)
    return path.parent / GRAPH


def link(path: Path) -> None:
    """Links may lead anywhere, but what they lead to is checked."""
    target = outside(path)
    (path / GRAPH).symlink_to(target)
    target.write_bytes(target.read_bytes()[::-1])


def linked_folder(path: Path) -> None:
    outside(path).write_bytes(b"another file")
    (path / "inner").symlink_to(path.parent, target_is_directory=True)
    edit(path, lambda content: graph_of(content).update(file=f"inner/{GRAPH}"))


def pipe(path: Path) -> None:
    (path / GRAPH).unlink()
    os.mkfifo(path / GRAPH)


def climb(path: Path) -> None:
    outside(path)
    edit(path, lambda content: graph_of(content).update(file=f"../{GRAPH}"))


def absolute(path: Path) -> None:
    target = outside(path)
    edit(path, lambda content: graph_of(content).update(file=str(target)))


def sparse(path: Path) -> None:
    """A file of a terabyte that takes no place, and is declared as such."""
    with (path / GRAPH).open("wb") as handle:
        handle.truncate(2**40)
    edit(path, lambda content: graph_of(content).update(bytes=2**40))


def grown(path: Path) -> None:
    with (path / GRAPH).open("r+b") as handle:
        handle.truncate(2**40)


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes need POSIX")
@pytest.mark.parametrize(
    ("attack", "file"),
    [
        (flip, GRAPH),
        (swap, GRAPH),
        (link, GRAPH),
        (linked_folder, f"inner/{GRAPH}"),
        (pipe, GRAPH),
        (climb, f"../{GRAPH}"),
        (absolute, GRAPH),
        (sparse, "manifest.json"),
        (grown, GRAPH),
        (lambda path: edit(path, lambda content: graph_of(content).update(bytes=-1)), "manifest.json"),
        (lambda path: edit(path, lambda content: graph_of(content).update(bytes=LARGEST_FILE)), GRAPH),
        (lambda path: edit(path, lambda content: graph_of(content).update(bytes=10**30)), "manifest.json"),
        (lambda path: edit(path, lambda content: graph_of(content).update(sha256="0" * 63)), "manifest.json"),
        (lambda path: edit(path, lambda content: content["latent"].update(grid=[2**31, 2**31])), "manifest.json"),
        (lambda path: edit(path, lambda content: content["latent"].update(codes=2**62)), "manifest.json"),
        (lambda path: edit(path, lambda content: content["latent"].update(factor=10**9)), "manifest.json"),
        (lambda path: edit(path, lambda content: content["sampler"].update(steps=10**12)), "manifest.json"),
        (lambda path: edit(path, lambda content: content["sampler"].update(steps=0)), "manifest.json"),
        (lambda path: edit(path, lambda content: content["sampler"].update(temperature=-1)), "manifest.json"),
        (lambda path: edit(path, lambda content: content.update(schema_version=3)), "manifest.json"),
        (lambda path: edit(path, lambda content: content.update(surprise=1)), "manifest.json"),
        (lambda path: edit(path, lambda content: graph_of(content).update(mode="0777")), "manifest.json"),
        (lambda path: edit(path, lambda content: graph_of(content).update(file="manifest.json")), "manifest.json"),
        (lambda path: edit(path, lambda content: graph_of(content).update(file="DECODER.fp32.onnx")), "manifest.json"),
        (lambda path: edit(path, lambda content: graph_of(content).update(file="a\nb.onnx")), "manifest.json"),
        (lambda path: edit(path, lambda content: graph_of(content).update(file="x;reboot;#")), "manifest.json"),
        (lambda path: edit(path, lambda content: graph_of(content).update(file="-o")), "manifest.json"),
        (lambda path: edit(path, lambda content: graph_of(content).update(file="$(reboot)")), "manifest.json"),
        (lambda path: edit(path, lambda content: graph_of(content).update(file=f"./{GRAPH}")), "manifest.json"),
        (lambda path: edit(path, lambda content: graph_of(content).update(file="a//b")), "manifest.json"),
        (lambda path: edit(path, lambda content: graph_of(content).update(file="a/.")), "manifest.json"),
        (lambda path: edit(path, lambda content: content["sampler"].update(steps=10**6 + 1)), "manifest.json"),
        (lambda path: (path / "manifest.json").write_bytes(b"[" * 10**6), "manifest.json"),
        (lambda path: (path / "manifest.json").write_bytes(b'{"schema_version":1,"a":' * 10**5), "manifest.json"),
        (lambda path: (path / "manifest.json").write_bytes(b" " * (2**24 + 1)), "manifest.json"),
    ],
)
@pytest.mark.parametrize("command", ["verify"])
def test_an_attack_is_refused_with_exit_3_and_the_files_name(command, attack, file, bundle, capsys):
    attack(bundle)
    before = sorted(str(path) for path in bundle.parent.rglob("*"))
    assert _run(["bundle", command, str(bundle)]) == 3
    said = capsys.readouterr()
    assert file in said.err
    assert said.out == ""
    assert sorted(str(path) for path in bundle.parent.rglob("*")) == before


def zipped(bundle: Path, bomb: dict[str, int], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """The bundle as a zip, with some of its files, or the manifest, as so many zero bytes."""
    target = bundle.with_suffix(".zip")
    with zipfile.ZipFile(target, "w", compression) as archive:
        for file in bundle.iterdir():
            archive.writestr(file.name, bytes(bomb[file.name]) if file.name in bomb else file.read_bytes())
    return target


@pytest.mark.parametrize("name", [GRAPH, "manifest.json"])
def test_a_zip_bomb_is_not_unpacked(name, bundle, capsys):
    size = 2**25
    digest = hashlib.sha256(bytes(size)).hexdigest()
    edit(bundle, lambda content: graph_of(content).update(bytes=size, sha256=digest))
    archive = zipped(bundle, {name: size})
    assert archive.stat().st_size < size / 500
    assert _run(["bundle", "verify", str(archive)]) == 3
    error = capsys.readouterr().err
    assert f"{name} would unpack from" in error
    assert "bundle.zip" in error


def test_a_zip_of_a_sound_bundle_is_sound_compressed_or_not(bundle, capsys):
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert _run(["bundle", "verify", str(zipped(bundle, {}, compression))]) == 0
    assert _run(["bundle", "inspect", str(bundle.with_suffix(".zip"))]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "C:\\x", "..\\x"])
@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_a_zip_with_a_file_that_leads_out_of_it_is_refused_though_it_would_not_be_read(name, command, bundle, capsys):
    archive = zipped(bundle, {})
    with zipfile.ZipFile(archive, "a") as more:
        info = zipfile.ZipInfo()
        info.filename = name  # as it is: the constructor would mend it
        more.writestr(info, b"more")
    assert _run(["bundle", command, str(archive)]) == 3
    assert repr(name) in capsys.readouterr().err


def test_a_link_inside_the_bundle_does_no_harm(bundle):
    (bundle / GRAPH).rename(bundle / "real.onnx")
    (bundle / GRAPH).symlink_to(bundle / "real.onnx")
    assert _run(["bundle", "verify", str(bundle)]) == 0


def test_a_bundle_that_is_itself_a_link_is_followed(bundle):
    link_to = bundle.parent / "link"
    link_to.symlink_to(bundle, target_is_directory=True)
    assert _run(["bundle", "verify", str(link_to)]) == 0


def declare(path: Path, field: str, file: str, data: bytes, role: str = "denoiser") -> None:
    """Write a file, and declare it as a component's ``graph``, among its ``weights`` or as ``golden``."""
    (path / file).write_bytes(data)
    record = {"file": file, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}

    def change(content):
        variant = content["components"][role]["variants"][0]
        if field == "graph":
            variant["graph"] = record
        elif field == "weights":
            content["weights"].append(record)
            variant["weights"] = [file]
        else:
            content["golden"] = record

    edit(path, change)


def test_its_files_cannot_take_the_place_of_scripts_that_are_written_for_polygraphy(tmp_path, capsys):
    path = golden_bundle(tmp_path / "bundle")
    declare(path, "weights", "decoder_inputs.py", b"raise SystemExit('run!')", "decoder")
    assert _run(["bundle", "verify", str(path), "--polygraphy", str(tmp_path / "compare")]) == 3
    assert "cannot be called decoder_inputs.py" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.skipif(sys.platform != "linux", reason="how much memory a process took at most")
def test_verifying_does_not_work_out_what_a_graphs_constants_come_to(bundle):
    size = helper.make_tensor("size", TensorProto.INT64, [1], [2**28])  # a gibibyte of fp32
    one = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["large"], value=one),
        helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["byte"], to=TensorProto.UINT8),
        helper.make_node("Expand", ["byte", "shape"], ["images"]),
    ]
    inputs = [helper.make_tensor_value_info("tokens", TensorProto.INT32, ["n", "h", "w"])]
    outputs = [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", "H", "W", 3])]
    shape = helper.make_tensor("shape", TensorProto.INT64, [4], [1, 2, 2, 3])
    graph = helper.make_graph(nodes, "decoder", inputs, outputs, [size, shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    declare(bundle, "graph", "decoder.fp32.onnx", model.SerializeToString(), "decoder")
    code = """
import sys
from smalti import open_bundle
from smalti.verification.verify import verify
verify(open_bundle(sys.argv[1]))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    done = subprocess.run([sys.executable, "-c", code, str(bundle)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2**19  # of 1024 bytes each


def test_a_zip_that_says_to_have_compressed_less_than_it_did_is_not_unpacked(bundle, capsys):
    size = 2**25
    digest = hashlib.sha256(bytes(size)).hexdigest()
    edit(bundle, lambda content: graph_of(content).update(bytes=size, sha256=digest))
    archive = zipped(bundle, {GRAPH: size})
    with zipfile.ZipFile(archive, "a") as changed:
        changed.getinfo(GRAPH).compress_size = size
        changed.comment = b"so that the list of files is written again"
    assert _run(["bundle", "verify", str(archive)]) == 3
    assert "said to take more than the archive has" in capsys.readouterr().err


def test_no_text_of_a_bundle_can_forge_a_line_or_move_the_cursor(bundle, capsys):
    evil = "x\ndigest    " + "0" * 64 + "\x1b[8m"
    edit(bundle, lambda content: content.update(name=evil, classes=["\x1b[2Ja", "b"], licence="é\r"))
    (bundle / "todo\n.txt").touch()
    for command in (["inspect", str(bundle)], ["verify", str(bundle)]):
        assert _run(["bundle", *command]) == 0
        said = capsys.readouterr().out
        assert "x\\ndigest" in said
        assert [line for line in said.split("\n") if line.startswith("digest    0")] == []
        assert all(char.isprintable() for char in said.replace("\n", ""))
    assert _run(["generate", "--bundle", str(bundle), "--label", "c", "-o", str(bundle.parent / "a.png")]) == 2
    assert "this bundle knows \\x1b[2Ja, b" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="file names that are no text")
def test_a_files_name_that_is_no_text_is_told(bundle, capsys):
    Path(os.fsdecode(os.fsencode(bundle) + b"/\xff.bin")).touch()
    assert _run(["bundle", "verify", str(bundle)]) == 0
    assert "never read: \\udcff.bin" in capsys.readouterr().out


def test_a_tensor_of_impossible_sides_is_refused(bundle, capsys):
    header = json.dumps({"runs": {"dtype": "I32", "shape": [0, 2**40, 2**40], "data_offsets": [0, 0]}}).encode()
    declare(bundle, "golden", "golden.safetensors", len(header).to_bytes(8, "little") + header)
    assert _run(["bundle", "verify", str(bundle)]) == 3
    assert "golden.safetensors: runs cannot be of shape" in capsys.readouterr().err


def test_a_name_that_is_too_long_for_a_file_is_no_bundle(capsys):
    assert _run(["bundle", "inspect", "a" * 300]) == 3
    assert "no bundle at aaa" in capsys.readouterr().err
