"""Reading checkpoint files as named tensors, without executing anything in them.

Handled are: a bare state dict; a state dict below ``state_dict``, ``net``, ``model`` and the like; averaged (EMA)
copies, as a second dictionary or by the names ``ema.X``, ``ema_model.X``, ``model_ema.X`` and Lightning's
``model_ema.`` with the dots left out; names that data parallelism (``module``), compilation (``_orig_mod``) and other
wrappers put before or into those of the weights. If a file holds raw and averaged weights, the averaged ones are taken:
published samples come from them. Objects of other classes beside the weights are left out (``unpickling.py``).
"""

from __future__ import annotations

import errno
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard, cast

import torch
from torch import Tensor

from smalti.errors import MissingExtra, UsageError
from smalti.system.platform import install_hint
from smalti_train.importers.unpickling import Inert, inert_load

WRAPPERS = ("state_dict", "net", "model", "model_state_dict", "module", "params", "weights")
"""Keys below which training programs put the state dict, the clearest first."""
DEPTH = 4
"""Greatest depth of nested wrappers that is followed."""
AVERAGED = re.compile(r"(?:^|[_.])ema(?:$|[_.])", re.IGNORECASE)
"""Finds the word ema in the name of a dictionary."""
AVERAGED_PREFIX = re.compile(r"^(?:\w+_|_)?ema(?:_\w+)?\.", re.IGNORECASE)
COUNTERS = {"decay", "num_updates", "initted", "step", "n_averaged"}
"""Keys beside the weights in averaged copies."""
INSERTED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""Names that a wrapper puts into those of the weights; no published model has one of them itself."""
EXTRA_STATE = "_extra_state"
"""Name of what a module keeps beside its weights."""
FETCH = (
    "which could run code and is not unpickled: fetch it again, or where you trust it load it with the program that "
    "wrote it and save its state_dict() alone"
)
SHOWN = 4
"""Greatest number of keys of each kind in a message."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint's tensors, on the CPU, by their names in the model.

    Raises UsageError, naming the file, when it is missing, not a file, damaged, holds more than weights (nothing in it
    is executed) or no state dict; MissingExtra for .safetensors when that package is not installed.
    """
    try:
        if not path.is_file():
            fault = "is not a file; name the file of weights itself" if path.exists() else "does not exist"
            raise UsageError(f"{path} {fault}")
        with path.open("rb") as file:
            held = unpacked(path, file)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        return averaged(_plain_names(_state_dict(held)))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def some(keys: Iterable[str], most: int = SHOWN) -> str:
    """The first ``most`` keys for a message, shortened and on one line whatever they contain."""
    keys = list(keys)
    shown = ", ".join(ascii(key[:120])[1:-1] for key in keys[:most])
    return f"{shown} and {len(keys) - most} more" if len(keys) > most else shown


def split_off(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, by their whole names, with averaged copies resolved."""
    part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return {prefix + name: value for name, value in averaged(part).items()}


def averaged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with averaged copies in place of the raw tensors.

    Copies are recognised by a first name such as ``ema.``, ``model_ema.`` or, beside ``ae.``, ``ae_ema.``; the raw
    tensors may be under ``online_model.``. Lightning's copies have names without dots, restored by the raw names.
    """
    copies = {name: AVERAGED_PREFIX.sub("", name) for name in state if AVERAGED_PREFIX.match(name)}
    if not copies:
        return state
    raw = {name: value for name, value in state.items() if name not in copies and name not in COUNTERS}
    if any(name.startswith("online_model.") for name in raw):
        raw = {name.removeprefix("online_model."): value for name, value in raw.items()}
    dotted = {name.replace(".", ""): name for name in raw}
    for name, inner in copies.items():
        if inner in COUNTERS:
            continue
        stem = AVERAGED.sub("", name.split(".")[0])
        known = next((each for each in (inner, f"{stem}.{inner}", dotted.get(inner)) if each in raw), inner)
        raw[known] = state[name]
    return raw


def _state_dict(held: Any, depth: int = DEPTH) -> dict[str, Tensor]:
    """The state dict in a file's content; averaged copies are preferred."""
    if not _is_mapping(held):
        raise UsageError(f"holds a {type(held).__name__} and not a dictionary of weights")
    if not depth:
        raise UsageError(f"has its weights below more than {DEPTH} dictionaries")
    for _ in range(DEPTH):
        nested = {str(key): value for key, value in held.items() if _is_mapping(value) and _tensors_in(value)}
        wrapped = next((nested[name] for name in WRAPPERS if name in nested), None)
        copies = next((value for name, value in nested.items() if AVERAGED.search(name)), None)
        if copies is not None:
            copies = _state_dict(copies, depth - 1)
            if wrapped is None:
                return copies
            raw = _state_dict(
                wrapped, depth - 1
            )  # where only parameters were averaged, buffers come from the raw weights
            return {**raw, **copies} if copies.keys() <= raw.keys() else copies
        if wrapped is None:
            if nested and not any(isinstance(value, Tensor) for value in held.values()):
                raise UsageError(f"holds several dictionaries of weights ({some(nested)}); save the wanted one alone")
            break
        held = wrapped
    held = {key: value for key, value in held.items() if not str(key).endswith(EXTRA_STATE)}
    if foreign := next((value.name for value in held.values() if isinstance(value, Inert)), None):
        raise UsageError(f"pickles more than weights ({ascii(foreign)[1:121]}) among them, {FETCH}")
    odd = [str(key) for key, value in held.items() if not isinstance(key, str) or not _is_plain(value)]
    if odd:
        raise UsageError(f"holds things that are not plain tensors: {some(odd)}")
    if not held:
        raise UsageError("holds no weights")
    return cast("dict[str, Tensor]", dict(held))


def _plain_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state without the names that compilation, data parallelism and other wrappers put into those of weights."""
    plain = {name: ".".join(part for part in name.split(".") if part not in INSERTED) for name in state}
    while own := [inner for inner in plain.values() if inner not in COUNTERS and not AVERAGED_PREFIX.match(inner)]:
        if not all(inner.startswith("module.") for inner in own):
            break
        plain = {name: inner.removeprefix("module.") for name, inner in plain.items() if inner not in COUNTERS}
    below: dict[str, set[str]] = {}
    for inner in plain.values():
        parts = inner.split(".")
        for depth in range(1, len(parts)):
            below.setdefault(".".join(parts[:depth]), set()).add(parts[depth])
    plain = {name: _inner(inner, below) for name, inner in plain.items()}
    # Lightning's averaged copies have the same names, without dots.
    dotless = {name.replace(".", ""): inner.replace(".", "") for name, inner in plain.items()}
    for name in plain:
        head, _, tail = name.partition(".")
        if AVERAGED.search(head) and tail in dotless:
            plain[name] = f"{head}.{dotless[tail]}"
    return {inner: state[name] for name, inner in plain.items()}


def _inner(name: str, below: Mapping[str, set[str]]) -> str:
    """A name without each ``module`` that is all there is below the names before it."""
    parts = name.split(".")
    return ".".join(
        part
        for depth, part in enumerate(parts)
        if part != "module" or depth in (0, len(parts) - 1) or below[".".join(parts[:depth])] - COUNTERS != {"module"}
    )


def _tensors_in(value: Mapping[Any, Any], depth: int = DEPTH) -> bool:
    """Whether a dictionary holds tensors by name, itself or below a known wrapper."""
    if any(isinstance(key, str) and isinstance(inner, Tensor) for key, inner in value.items()):
        return True
    inner = [value[name] for name in WRAPPERS if isinstance(value.get(name), Mapping)]
    return depth > 0 and any(_tensors_in(each, depth - 1) for each in inner)


def _is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    """Whether ``value`` is a mapping, of whatever to whatever."""
    return isinstance(value, Mapping)


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_complex()


def unpacked(path: Path, file: BinaryIO) -> Any:
    """The content of a file open for reading, by loaders that execute nothing.

    ``path`` is used for messages and for its suffix. Raises UsageError for a file that is damaged or holds more than
    weights, MissingExtra for .safetensors when that package is not installed.
    """
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load

            return load(file.read())
        if _is_program(file):
            raise UsageError(f"{path} is a TorchScript program; weights alone are read, no code")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # it loads anyway, or is refused below
            try:
                return torch.load(file, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                return _beside(file, error)
    except ImportError as error:
        raise MissingExtra(f"{path} needs safetensors; {install_hint('train')}") from error
    except UsageError:
        raise
    except Exception as error:  # the loaders document no errors, and damage can raise almost any
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # an error of the disk; EINVAL is a seek beyond the end of a truncated file
        raise UsageError(f"{path} is damaged, or pickles more than weights{_foreign(error)}, {FETCH}") from error


def _beside(file: BinaryIO, refused: pickle.UnpicklingError) -> Any:
    """The content of a file that holds other things beside weights; else raises ``refused``."""
    file.seek(0)
    try:
        held = inert_load(file)
    except Exception:  # as above
        raise refused from None
    if isinstance(held, Inert):
        raise refused
    return held


def _foreign(error: Exception) -> str:
    """The class that a pickle asked for, if torch's refusal names one."""
    found = re.search(r"GLOBAL\s+([A-Za-z_]\w*\.[\w.]*\w)", str(error))
    return f" ({found[1][:120]})" if found else ""


def _is_program(file: BinaryIO) -> bool:
    program = zipfile.is_zipfile(file)
    if program:
        with zipfile.ZipFile(file) as archive:
            program = any(name.endswith("/constants.pkl") for name in archive.namelist())
    file.seek(0)
    return program
