"""Checkpoint files as named tensors: wrappers, averaged copies and prefixes are undone, and nothing is executed.

Understood are a bare state dict; one below ``state_dict``, ``net``, ``model`` and the like; averaged (EMA) copies, as a
dictionary beside the raw one or by the names ``ema.X``, ``ema_model.X``, ``model_ema.X`` and Lightning's ``model_ema.``
with the dots left out; names that data parallelism (``module.``) or compilation (``_orig_mod.``) lengthened. Where a
file holds both, the averaged weights are taken: they are what was published and sampled from.
"""

from __future__ import annotations

import errno
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from smalti.errors import MissingExtra, UsageError

WRAPPERS = ("state_dict", "net", "model", "model_state_dict", "module", "params", "weights")
"""Names below which training programs put the state dict, the most telling first."""
DEPTH = 4
"""Wrappers within wrappers that are followed."""
AVERAGED = re.compile(r"(?:^|[_.])ema(?:$|[_.])", re.IGNORECASE)
"""Finds the word ema in the name of a dictionary."""
AVERAGED_PREFIX = re.compile(r"^(?:\w+_|_)?ema(?:_\w+)?\.", re.IGNORECASE)
COUNTERS = {"decay", "num_updates", "initted", "step", "n_averaged"}
"""What averages keep beside the weights."""
SHOWN = 4
"""How many keys of each kind a message names."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Named tensors of a checkpoint, on the CPU, by the names that its model gives them.

    Raises UsageError, always naming the file, when it is missing, no file, damaged, more than weights (nothing in it is
    run) or no state dict; MissingExtra for .safetensors where that package is not installed.
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
    """The first keys, for a message; whatever a file calls them, they stay short and on one line."""
    keys = list(keys)
    shown = ", ".join(ascii(key[:120])[1:-1] for key in keys[:most])
    return f"{shown} and {len(keys) - most} more" if len(keys) > most else shown


def split_off(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, by their whole names, averaged copies among them undone."""
    part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return {prefix + name: value for name, value in averaged(part).items()}


def averaged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with every tensor that has an averaged copy replaced by it, and no copies left.

    Copies are told by a first name such as ``ema.``, ``model_ema.`` or, beside ``ae.``, ``ae_ema.``; what stands beside
    them may be under ``online_model.``. Lightning's copies have names without dots, which the raw ones help to undo.
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
    """The state dict in whatever a file holds, averaged copies preferred."""
    if not isinstance(held, Mapping):
        raise UsageError(f"holds a {type(held).__name__} and not a dictionary of weights")
    if not depth:
        raise UsageError(f"has its weights below more than {DEPTH} dictionaries")
    for _ in range(DEPTH):
        nested = {str(key): value for key, value in held.items() if isinstance(value, Mapping) and _tensors_in(value)}
        wrapped = next((nested[name] for name in WRAPPERS if name in nested), None)
        copies = next((value for name, value in nested.items() if AVERAGED.search(name)), None)
        if copies is not None:
            copies = _state_dict(copies, depth - 1)
            if wrapped is None:
                return copies
            raw = _state_dict(
                wrapped, depth - 1
            )  # an average of parameters alone leaves the buffers to the raw weights
            return {**raw, **copies} if copies.keys() <= raw.keys() else copies
        if wrapped is None:
            if nested and not any(isinstance(value, Tensor) for value in held.values()):
                raise UsageError(f"holds several dictionaries of weights ({some(nested)}); save the wanted one alone")
            break
        held = wrapped
    odd = [str(key) for key, value in held.items() if not isinstance(key, str) or not _is_plain(value)]
    if odd:
        raise UsageError(f"holds things that are not plain tensors: {some(odd)}")
    if not held:
        raise UsageError("holds no weights")
    return dict(held)


def _plain_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without what compilation and data parallelism put before them."""
    state = {name.replace("_orig_mod.", ""): value for name, value in state.items()}
    while (named := [name for name in state if name not in COUNTERS]) and all(n.startswith("module.") for n in named):
        state = {name.removeprefix("module."): state[name] for name in named}
    return state


def _tensors_in(value: Mapping[Any, Any], depth: int = DEPTH) -> bool:
    """Whether tensors stand by name in a dictionary, or in one that a known wrapper names."""
    if any(isinstance(key, str) and isinstance(inner, Tensor) for key, inner in value.items()):
        return True
    inner = [value[name] for name in WRAPPERS if isinstance(value.get(name), Mapping)]
    return depth > 0 and any(_tensors_in(each, depth - 1) for each in inner)


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_complex()


def unpacked(path: Path, file: BinaryIO) -> Any:
    """Whatever object a file that is open for reading holds, by loaders that run no code.

    Raises UsageError for one that is damaged or holds more than weights, MissingExtra for .safetensors where that
    package is not installed; ``path`` is for messages and its ending.
    """
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load

            return load(file.read())
        if _is_program(file):
            raise UsageError(f"{path} is a TorchScript program; weights alone are read, no code")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # it loads all the same, or is refused below
            return torch.load(file, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise MissingExtra(f'{path} needs safetensors; pip install "smalti[train]"') from error
    except UsageError:
        raise
    except Exception as error:  # neither loader says what it raises, and damage can surface as nearly anything
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # the disk's fault; EINVAL is a seek to where a cut file has nothing
        raise UsageError(
            f"{path} is damaged, or pickles more than weights{_foreign(error)}, which could run code and is not "
            "unpickled: fetch it again, or where you trust it load it with the program that wrote it and save its "
            "state_dict() alone"
        ) from error


def _foreign(error: Exception) -> str:
    """The class that a pickle asked for, where torch's refusal names one."""
    found = re.search(r"GLOBAL\s+([A-Za-z_]\w*\.[\w.]*\w)", str(error))
    return f" ({found[1][:120]})" if found else ""


def _is_program(file: BinaryIO) -> bool:
    program = zipfile.is_zipfile(file)
    if program:
        with zipfile.ZipFile(file) as archive:
            program = any(name.endswith("/constants.pkl") for name in archive.namelist())
    file.seek(0)
    return program
