"""``smalti serve``: what it says, and how it ends where it cannot serve."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import smalti
from helpers.served import command, ready
from helpers.web_pictures import same


def ended(*arguments: object) -> tuple[int, str]:
    """Exit code and last line of a command that ends by itself."""
    line = command("serve", "--provider", "cpu", "--threads", 1, *arguments)
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr.strip()


def test_a_port_that_is_taken_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, told = ended("--port", port)
    assert code == 2
    assert f"port {port}" in told
    assert "--port" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--host", "0.0.0.0"), 2, "--token-file"),
        (("--host", "a..b", "--token-file", "TOKEN"), 2, "cannot listen"),
        (("--token-file", "/none/such"), 2, "cannot be read"),
        (("--max-queue", 0), 2, "max_queue"),
        (("--timeout", "nan"), 2, "timeout"),
        (("--allow-host", "*"), 2, "allow_host"),
        (("--bundle", "none-such"), 3, "none-such"),
        (("--bundle", "a=none-such"), 3, "none-such"),
        (("--bundle", "avatars", "--bundle", "avatars"), 2, "one=PATH"),
        (("--threads", 10**6), 2, "threads"),
    ],
)
def test_what_cannot_be_served_is_told_in_a_line_with_its_exit_code(arguments, code, told, tmp_path):
    (tmp_path / "token").write_text("0123456789abcdef")
    given = [str(tmp_path / "token") if one == "TOKEN" else one for one in arguments]
    found, said = ended("--port", 0, *given)
    assert (found, told in said) == (code, True), said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 3


def test_a_bundle_that_cannot_be_made_ready_ends_the_server_with_its_code(copied: Path):
    (copied / "denoiser.int8.onnx").write_bytes(b"damaged")
    (copied / "denoiser.fp32.onnx").write_bytes(b"damaged")
    code, told = ended("--port", 0, "--bundle", copied)
    assert code == 3
    assert "denoiser" in told
    assert "Traceback" not in told


def test_several_bundles_by_name(starting, tiny_bundle, tiny):
    server = starting("--bundle", f"small={tiny_bundle}", "--bundle", f"other={tiny_bundle}")
    with server.client() as client:
        ready(client)
        assert [one["name"] for one in client.get("/api/capabilities").json()["bundles"]] == ["small", "other"]
        answer = client.post("/api/generate", json={"bundle": "other", "seed": 3, "steps": 2}).json()
        assert same(answer["pictures"][0]["data"], tiny.generate(seed=3, steps=2).images[0])
        assert client.get("/v1/models").json()["data"][1]["id"] == "other"
        assert client.post("/api/generate", json={"bundle": "tiny"}).status_code == 404


def test_a_token_is_read_from_a_file_or_the_environment(starting, tiny_bundle, tmp_path):
    token = "0123456789abcdef-token"
    (tmp_path / "token").write_text(f"{token}\n")
    by_file = starting("--bundle", tiny_bundle, "--token-file", tmp_path / "token")
    by_name = starting("--bundle", tiny_bundle, SMALTI_TOKEN=token)
    for server in (by_file, by_name):
        assert token not in server.told  # which may be a log
        with server.client() as client:
            ready(client)
            for wrong, message in (({}, "a token is needed"), ({"Authorization": "Bearer no"}, "is not that of this")):
                answer = client.get("/api/capabilities", headers=wrong)
                assert answer.status_code == 401
                assert message in answer.json()["error"]["message"]
            shown = {"Authorization": f"Bearer {token}"}
            assert client.get("/api/capabilities", headers=shown).status_code == 200
            assert client.get("/metrics", auth=("any", token)).status_code == 200


def ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not ipv6(), reason="this machine has no IPv6")
def test_an_address_of_ipv6(starting, tiny_bundle):
    server = starting("--bundle", tiny_bundle, "--host", "::1")
    assert re.fullmatch(r"http://\[::1\]:\d+", server.url)
    with server.client() as client:
        ready(client)
        assert client.post("/api/generate", json={"steps": 1}).status_code == 200
        assert client.get("/health/live", headers={"Host": "[::2]"}).status_code == 400


def test_while_bundles_are_loaded_requests_are_told_to_come_again(starting, tiny_bundle):
    server = starting("--bundle", tiny_bundle, "--bundle", "avatars")
    with server.client() as client:
        answer = client.post("/api/generate", json={"bundle": "avatars", "steps": 1})
        if answer.status_code != 200:  # it may have been fast
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "loading")
            assert int(answer.headers["Retry-After"]) >= 1
        ready(client)
        assert client.get("/health/ready").json() == {"status": "ready"}
        assert "smalti_ready 1.0" in client.get("/metrics").text


def test_what_is_served_needs_no_torch_and_no_page_of_others():
    code = "import sys, smalti.web.running; print([m for m in ('torch', 'triton', 'onnx') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "[]"
    assert smalti.__version__


def test_an_answer_is_not_held_back_for_what_else_could_be_sent_with_it(client):
    seconds: list[float] = []
    for _ in range(30):
        asked = time.perf_counter()
        client.get("/health/live")
        seconds.append(time.perf_counter() - asked)
    assert sorted(seconds)[len(seconds) // 4] < 0.03  # Nagle's algorithm takes 0.04
