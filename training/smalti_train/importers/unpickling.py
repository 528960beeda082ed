"""Weights from checkpoints that pickle other things beside them, of which nothing is imported, called or built.

PyTorch Lightning, for example, saves its callbacks, hyper-parameters and optimisers beside the weights, as objects of
any library. PyTorch's own reader of weights refuses such a file as a whole. Here every object of an unknown class
becomes an :class:`Inert` one: a name without content. What is called are only the functions that put a tensor together.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor, _utils

HARMFUL = (
    "os",
    "posix",
    "nt",
    "sys",
    "subprocess",
    "commands",
    "shutil",
    "importlib",
    "runpy",
    "socket",
    "ctypes",
    "pty",
)
"""Modules whose functions no training program saves: a file that names one was made to do harm, and is refused."""
HARMFUL_BUILTINS = ("eval", "exec", "compile", "open", "input", "breakpoint", "__import__")
BUILTINS = ("builtins", "__builtin__")


_PRIVATE: tuple[Any, Any] = (pickle, _utils)
"""Modules of which names are needed that begin with an underscore, as files and pickle's own documents have them."""


class Inert:
    """In place of an object whose class is not known, or of the class itself."""

    def __init__(self, name: str) -> None:
        self.name = name
        """What the file asked for, as ``package.module.Class``."""


def inert_load(file: BinaryIO) -> Any:
    """The content of a file of ``torch.save``, tensors on the CPU, with :class:`Inert` for what is unknown.

    Nothing in the file is executed. Raises pickle.UnpicklingError for a file that names something harmful, and any
    error for one that is damaged.
    """
    reader: Any = SimpleNamespace(__name__=__name__, Unpickler=_Unpickler, load=_load)
    # What may be called is decided by _Unpickler alone, in the place of pickle's own.
    return torch.load(file, map_location="cpu", pickle_module=reader, weights_only=False)


def _load(file: BinaryIO, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


def _tensor(*parts: Any) -> Tensor:
    # The last parts are hooks, which would be called, and attributes.
    return _PRIVATE[1]._rebuild_tensor_v2(*parts[:5], OrderedDict())


def _parameter(data: Any, *_: Any) -> Any:
    return data


KNOWN: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor": _PRIVATE[1]._rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}
"""All that is called, by its name in files."""
_CALLED = tuple(KNOWN.values())

_Base = _PRIVATE[0]._Unpickler
"""The unpickler that is written in Python, whose single steps can be replaced."""


class _Unpickler(_Base):
    """Python's own unpickler, without every step that calls, builds or changes an object of an unknown class."""

    dispatch: dict[int, Callable[[Any], None]] = dict(_Base.dispatch)  # noqa: RUF012 - as in the base class

    def find_class(self, module: str, name: str) -> Any:
        """What a file means by a global name. Nothing is imported."""
        full = f"{module}.{name}"
        harmful = module.partition(".")[0] in HARMFUL or (module in BUILTINS and name in HARMFUL_BUILTINS)
        if harmful or not isinstance(module, str):  # pyright: ignore[reportUnnecessaryIsInstance] - from a file
            raise pickle.UnpicklingError(f"GLOBAL {full}")
        if full in ("torch.storage.UntypedStorage", "torch.UntypedStorage"):
            return torch.UntypedStorage  # compared with, never called
        return KNOWN.get(full) or Inert(full)

    def load_reduce(self) -> None:
        """Call a known function; the result of any other is inert."""
        arguments: Any = self.stack.pop()
        self.stack[-1] = _called(self.stack[-1], arguments)

    def load_newobj(self) -> None:
        """Make an object of a class, as :meth:`load_reduce` does."""
        self.load_reduce()

    def load_newobj_ex(self) -> None:
        """As :meth:`load_newobj`; no known class takes keywords."""
        self.stack.pop()
        self.load_reduce()

    def _instantiate(self, kind: Any, arguments: Any) -> None:
        self.append(_called(kind, arguments))

    def load_build(self) -> None:
        """Leave out an object's attributes, which weights have no use for."""
        self.stack.pop()

    def load_append(self) -> None:
        """Append to a list."""
        self._extend([self.stack.pop()])

    def load_appends(self) -> None:
        """Append several to a list."""
        self._extend(self.pop_mark())

    def load_additems(self) -> None:
        """Add several to a set."""
        added = self.pop_mark()
        if isinstance(self.stack[-1], set):
            cast("set[Any]", self.stack[-1]).update(added)

    def load_setitem(self) -> None:
        """Set one item of a dictionary."""
        value = self.stack.pop()
        self._update([self.stack.pop(), value])

    def load_setitems(self) -> None:
        """Set several items of a dictionary."""
        self._update(self.pop_mark())

    def load_binpersid(self) -> None:
        """A storage; of a module with its source, as old files have them, the class alone."""
        name = self.stack.pop()
        whole = isinstance(name, tuple) and name[:1] == ("module",)
        self.append(cast("tuple[Any, ...]", name)[1] if whole else self.persistent_load(name))

    def _extend(self, added: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            cast("list[Any]", self.stack[-1]).extend(added)

    def _update(self, pairs: list[Any]) -> None:
        if isinstance(self.stack[-1], dict):
            cast("dict[Any, Any]", self.stack[-1]).update(zip(pairs[::2], pairs[1::2]))

    for _code, _step in (
        (pickle.REDUCE, load_reduce),
        (pickle.NEWOBJ, load_newobj),
        (pickle.NEWOBJ_EX, load_newobj_ex),
        (pickle.BUILD, load_build),
        (pickle.APPEND, load_append),
        (pickle.APPENDS, load_appends),
        (pickle.ADDITEMS, load_additems),
        (pickle.SETITEM, load_setitem),
        (pickle.SETITEMS, load_setitems),
        (pickle.BINPERSID, load_binpersid),
    ):
        dispatch[_code[0]] = _step


def _called(function: Any, arguments: Any) -> Any:
    """What a known function gives for ``arguments``; of anything else, its name."""
    if any(function is known for known in _CALLED):
        return function(*arguments)
    return Inert(function.name if isinstance(function, Inert) else type(function).__name__)
