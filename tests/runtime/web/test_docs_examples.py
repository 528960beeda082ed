"""The examples of docs/serving.md, each run as it stands against a server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.house import HOUSE
from helpers.served import Started, ready, start
from helpers.web_pictures import opened

PAGE = (HOUSE / "docs/serving.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


ASKED = [block for block in blocks("sh") if block.startswith("curl")]


@pytest.fixture(scope="module")
def embedded():
    started = start()
    with started.client() as client:
        ready(client)
    yield started
    started.process.kill()
    started.process.wait()


def run(line: list[str], folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def node() -> str | None:
    """Node, as it is installed or as Playwright brings it."""
    if found := shutil.which("node"):
        return found
    import playwright

    own = Path(playwright.__file__).parent / "driver/node"
    return str(own) if own.exists() else None


@pytest.mark.parametrize("code", blocks("python"), ids=range(len(blocks("python"))))
def test_python(code: str, embedded: Started, tmp_path: Path):
    run([sys.executable, "-c", code.replace(ADDRESS, embedded.url)], tmp_path)
    written = [path for path in tmp_path.iterdir() if path.suffix in (".png", ".jpg")]
    assert written
    for path in written:
        assert opened(path.read_bytes()).size in ((256, 256), (512, 512))


@pytest.mark.parametrize("code", ASKED, ids=range(len(ASKED)))
def test_curl(code: str, embedded: Started, tmp_path: Path):
    (tmp_path / "token").write_text("any, for this server has none")
    out = run(["bash", "-c", code.replace(ADDRESS, embedded.url).replace("curl ", "curl -sS --fail ", 1)], tmp_path)
    if "-o lorelei.png" in code:
        assert opened((tmp_path / "lorelei.png").read_bytes()).size == (512, 512)
    elif "-o planets.json" in code:
        assert len(json.loads((tmp_path / "planets.json").read_text())["images"]) == 2
    elif "stream" in code:
        assert out.count("event: step") >= 2
        assert out.count("event: done") == 1
    else:
        assert json.loads(out)["bundles"]


@pytest.mark.parametrize("code", blocks("js"), ids=range(len(blocks("js"))))
def test_javascript(code: str, embedded: Started, tmp_path: Path):
    found = node()
    assert found, "node is needed, such as Playwright's"
    (tmp_path / "example.mjs").write_text(code.replace(ADDRESS, embedded.url))
    out = run([found, "example.mjs"], tmp_path)
    assert "data:image/png;base64,iVBOR" in out or "seed 7 is drawn" in out


def test_the_error_that_is_shown_is_told(embedded: Started):
    (shown,) = blocks("json")
    with embedded.client() as client:
        assert client.post("/api/generate", json={"steps": 0}).json().keys() == json.loads(shown).keys()
        told = client.post("/api/generate", json={"steps": 0}).json()["error"]
    assert told == json.loads(shown)["error"]


def test_every_route_figure_and_option_on_the_page_is_there(embedded: Started):
    with embedded.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
        figures = client.get("/metrics").text
        settings = client.get("/api/capabilities").json()["limits"]
    for path in re.findall(r"`(?:POST |GET )?(/(?:api|v1|sdapi|health|metrics)[a-z0-9/-]*)`", PAGE):
        assert path in paths, path
    for name in re.findall(r"`(smalti_[a-z_]+)`", PAGE):
        assert f"# TYPE {name.removesuffix('_total')}" in figures, name
    assert (settings["count"], settings["steps"], settings["pixels"]) == (16, 1000, 2048 * 2048)
    assert (settings["body"], settings["queue"], settings["seconds"]) == (32 * 2**20, 16, 60)
    help_ = run([sys.executable, "-m", "smalti.cli", "serve", "--help"], HOUSE)
    for option in set(re.findall(r"`(--[a-z-]+)", PAGE)) - {"--no-buffer"}:
        assert option in help_, option
