"""What reads well on Linux and fails on Windows, found in the sources of all four packages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from test_house import MODULES

ASKS = {"smalti.system.platform", "smalti_kernels.platform", "smalti.backends.webgpu_plugin"}
"""Modules that may ask on which system they are, besides the doctor, whose answers are about the system."""
DOCTOR = "smalti.verification.doctor."
RENAMES = {"smalti.system.files", "smalti_train.runs.folder"}
"""Modules that may rename: all others leave it to `move_folder`, which waits for what holds a file open."""
POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
POSIX_NAMES = {
    "os": {"chown", "fork", "geteuid", "getuid", "kill", "killpg", "link", "mkfifo", "nice", "setsid", "symlink"},
    "signal": {"SIGALRM", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2", "alarm", "pause", "setitimer"},
    "ctypes": {"c_long", "c_ulong"},  # of 32 bits there
    "np": {"int_", "long", "uint", "ulong"},  # of 32 bits there before NumPy 2
    "tempfile": {"NamedTemporaryFile"},  # cannot be opened a second time there
}
ASKING = {("sys", "platform"), ("os", "name"), ("os", "uname"), ("platform", "system"), ("os", "sched_getaffinity")}
MODE = re.compile(r"[rwaxbt+]+")


def faults(module: str, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield from call_faults(module, node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (f"{name} is not on Windows" for name in names if name in POSIX_MODULES)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner, name = node.value.id, node.attr
            if name in POSIX_NAMES.get(owner, ()):
                yield f"{owner}.{name} is not on Windows, or is something else there"
            if (owner, name) in ASKING and module not in ASKS and not module.startswith(DOCTOR):
                yield f"{owner}.{name} belongs in the platform modules"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\x1b" in node.value:
            yield "old consoles print escape codes"


def call_faults(module: str, call: ast.Call) -> Iterator[str]:
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    values = [argument.value if isinstance(argument, ast.Constant) else None for argument in call.args]
    if "encoding" not in named:
        if name == "open" and opens_text(call, values, named):
            yield "open without encoding"
        if (name == "read_text" and not values) or (name == "write_text" and len(values) < 2):
            yield f"{name} without encoding"
        if name in ("run", "Popen", "check_output", "check_call") and {"text", "universal_newlines"} & set(named):
            yield "text of a process without encoding"
    if name == "rename" and module not in RENAMES:
        yield "a rename that does not wait; see smalti.system.files.move_folder"
    kinds = [named.get("dtype"), *(call.args if name == "astype" else ())]
    if any(isinstance(kind, ast.Name) and kind.id == "int" for kind in kinds):
        yield "int as a type of numbers has 32 bits on Windows before NumPy 2"


def opens_text(call: ast.Call, values: list[object], named: dict[str | None, ast.expr]) -> bool:
    """Whether a call opens a text file, by the built-in function or by a method of a path."""
    mode = getattr(named.get("mode"), "value", None)
    if isinstance(call.func, ast.Name):
        mode = values[1] if len(values) > 1 else mode
        return "b" not in str(mode or "r")
    first = values[0] if values else mode or "r"
    return isinstance(first, str) and MODE.fullmatch(first) is not None and "b" not in first


@pytest.mark.parametrize("root", ["smalti_kernels", "smalti", "smalti_train", "smalti_export"])
def test_nothing_is_known_to_fail_on_windows(root: str) -> None:
    sources = {name: file.read_text("utf-8") for name, file in MODULES.items() if name.split(".")[0] == root}
    assert len(sources) > 20
    assert {name: found for name, source in sources.items() if (found := list(faults(name, source)))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "open(path)",
        "open(path, 'w')",
        "open(path, mode='a')",
        "path.open()",
        "path.open('w', newline='')",
        "path.read_text()",
        "path.write_text(text)",
        "subprocess.run(command, text=True)",
        "def f():\n    import fcntl",
        "from resource import getrlimit",
        "os.kill(1, signal.SIGKILL)",
        "ctypes.c_long()",
        "tempfile.NamedTemporaryFile()",
        "if sys.platform == 'win32': pass",
        "partial.rename(output)",
        "print('\\033[K')",
        "np.zeros(3, dtype=int)",
        "x.astype(int)",
        "np.int_",
    ],
)
def test_a_fault_is_seen(source: str) -> None:
    assert list(faults("smalti.somewhere", source))


@pytest.mark.parametrize(
    "source",
    [
        "open(path, 'rb')",
        "path.open('rb+')",
        "Image.open(path)",
        "backend.open(bundle, role)",
        "path.open(encoding='utf-8')",
        "path.read_text('utf-8')",
        "path.write_text(text, 'utf-8')",
        "subprocess.run(command, text=True, encoding='utf-8')",
        "name.replace('a', 'b')",
        "x.astype(np.int64)",
    ],
)
def test_what_is_right_is_left_alone(source: str) -> None:
    assert not list(faults("smalti.somewhere", source))
    assert not list(faults("smalti.system.platform", "sys.platform"))
