"""The pickle of a PyTorch checkpoint, read without running anything that stands in it.

The pickle names the classes it wants. Each name that a reader allows has an inert stand-in, every other is refused, and so is every
operation of the pickle machine that plain values and tensors do not need; so no code of the file's choosing is ever called.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from atomjet.models.strict_json import short

MAX_OPERATIONS = 1_500_000
"""Reads of the pickle machine, two or so for each operation; a checkpoint of thousands of tensors takes a tenth."""

STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.BoolStorage": torch.bool,
}


class Record(NamedTuple):
    """A storage in the archive, not read yet."""

    key: str
    dtype: torch.dtype


class Pending(NamedTuple):
    """A tensor in a storage, not read yet."""

    record: Record
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Stand:
    """An object of a class that is known by name: keeps its state, does nothing."""

    state: Mapping[str, Any] = {}

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError(f"unexpected state of {type(self).__name__}")
        self.state = state


def loads(content: bytes, names: Mapping[str, Any]) -> Any:
    """Read a pickle.

    Args:
        content: the pickle.
        names: what it may name beside tensors and dictionaries, and the stand-in of each.

    Returns:
        Plain values, stand-ins, and a `Pending` for each tensor.

    Raises:
        pickle.UnpicklingError: another name or operation; says which. Damaged input may raise anything else.
    """
    return _Machine(content, names).load()


class _Counted(io.BytesIO):
    """A pickle that stops being read after `MAX_OPERATIONS`."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MAX_OPERATIONS:
            raise pickle.UnpicklingError(f"more than {MAX_OPERATIONS} values")
        content = super().read(size)
        if size is not None and len(content) < size:
            raise EOFError
        return content

    def readline(self, size: int | None = -1, /) -> bytes:
        content = super().readline(size)
        if not content.endswith(b"\n"):
            raise EOFError
        return content


class _Operations(dict[int, Any]):
    """What the pickle machine may do."""

    def __missing__(self, code: int) -> Any:
        raise pickle.UnpicklingError(f"operation {chr(code)!r} of its pickle is refused")


class _Machine(pickle._Unpickler):
    """Python's own machine, written in Python, with fewer operations; resolves names to stand-ins, made anew for each file."""

    # What Python's machine has while it runs.
    stack: list[Any]
    append: Any
    pop_mark: Any
    read: Any

    def __init__(self, content: bytes, names: Mapping[str, Any]) -> None:
        super().__init__(_Counted(content))
        self.known: dict[str, Any] = {
            **STORAGES,
            "collections.OrderedDict": _dictionary,
            "collections.defaultdict": _dictionary,
            "torch._utils._rebuild_tensor_v2": _pending,
            "torch._utils._rebuild_parameter": _parameter,
            **names,
        }

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in self.known:
            raise pickle.UnpicklingError(f"it wants {short(full, quote=False)}, which is refused")
        return self.known[full]

    def persistent_load(self, pid: Any) -> Record:
        words = pid[:3] if isinstance(pid, tuple) else ()
        if len(words) == 3 and words[0] == "storage" and isinstance(words[1], torch.dtype):
            key = words[2]
            if isinstance(key, str) and key.isdigit() and len(key) < 20:
                return Record(key, words[1])
        raise pickle.UnpicklingError("it refers to something else than a storage")

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _set_items(self.stack[-1], [(key, value)])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        _set_items(self.stack[-1], zip(items[::2], items[1::2], strict=True))

    def load_dict(self) -> None:
        items, made = self.pop_mark(), {}
        _set_items(made, zip(items[::2], items[1::2], strict=True))
        self.append(made)

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        made = self.stack[-1]
        if not callable(made) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("it calls what is no function")
        self.stack[-1] = made(*arguments)

    def load_newobj(self) -> None:
        arguments, made = self.stack.pop(), self.stack.pop()
        if not isinstance(made, type) or not issubclass(made, Stand) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("it makes an object of what is no class")
        self.append(made())

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Stand):
            target.__setstate__(state)
        elif not isinstance(target, dict):  # of a dictionary it is the versions of modules: nothing to keep
            raise pickle.UnpicklingError(f"it changes a {type(target).__name__}")

    def skip_frame(self) -> None:
        """The length of what follows, which is no more than a hint."""
        self.read(8)

    dispatch = _Operations(
        {
            code[0]: pickle._Unpickler.dispatch[code[0]]
            for code in (
                *(pickle.PROTO, pickle.STOP, pickle.MARK, pickle.POP, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE),
                *(pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT),
                *(pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.SHORT_BINSTRING),
                *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
                *(pickle.EMPTY_LIST, pickle.LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT),
                *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.BINPERSID),
                *(pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE),
            )
        }
        | {
            pickle.DICT[0]: load_dict,
            pickle.SETITEM[0]: load_setitem,
            pickle.SETITEMS[0]: load_setitems,
            pickle.REDUCE[0]: load_reduce,
            pickle.NEWOBJ[0]: load_newobj,
            pickle.BUILD[0]: load_build,
            pickle.FRAME[0]: skip_frame,
        }
    )


def _set_items(target: Any, items: Any) -> None:
    """Keys are plain values: the hash of nested tuples can take for ever."""
    for key, value in items:
        if not isinstance(target, dict) or not isinstance(key, str | int | float | bool | None):
            raise pickle.UnpicklingError(f"a {type(key).__name__} as a key")
        target[key] = value


def _dictionary(*arguments: Any) -> dict[Any, Any]:
    """What `OrderedDict()` and `defaultdict(dict)` stand for; pairs as an argument occur in old pickles."""
    made: dict[Any, Any] = {}
    for argument in arguments[:1]:
        if isinstance(argument, list):
            _set_items(made, argument)
    return made


def _pending(record: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Pending:
    numbers = (offset, *size, *stride)
    if not isinstance(record, Record) or len(size) != len(stride) or len(size) > 8:
        raise pickle.UnpicklingError("a tensor without a storage")
    if not all(type(number) is int and abs(number) < 2**62 for number in numbers):
        raise pickle.UnpicklingError("a tensor whose shape is not made of numbers")
    return Pending(record, offset, tuple(size), tuple(stride))


def _parameter(data: Any, *_: Any) -> Any:
    return data
