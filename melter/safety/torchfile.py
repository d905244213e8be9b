"""Reading tensors out of a torch file without torch and without running a pickle.

A torch file is a zip with raw storages and one pickle that says which storage is which tensor. Here the
pickle's instructions are walked by a machine that can build nothing but dicts, tuples, strings, integers
and tensors of float32 or int64; everything else is refused. No name in the file is ever imported.
Source: Python's ``pickletools`` (opcode definitions); torch/serialization.py (file layout).
"""

from __future__ import annotations

import math
import pickletools
import warnings
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from melter.errors import ModelFileError
from melter.safety.zipreader import StrictZip

LARGEST_PICKLE_BYTES = 1 << 20
_ORDERED_DICT = "collections OrderedDict"
_REBUILD = "torch._utils _rebuild_tensor_v2"
_STORAGES = {"torch FloatStorage": np.dtype("<f4"), "torch LongStorage": np.dtype("<i8")}
_MARK = object()
_MOST = 1 << 40
"""No tensor has more numbers than this."""
_KEY_DIGITS = 20


class _Name(str):
    """A global that the file mentions; never looked up."""


class _State(dict[Any, Any]):
    """What ``OrderedDict()`` stands for."""


def read_tensors(content: bytes, name: str) -> dict[str, NDArray[Any]]:
    """Return the tensors of a torch file by name. Raises ModelFileError, which starts with ``name``."""
    archive = StrictZip(content, name)
    pickles = [member for member in archive.names if member.endswith("/data.pkl") and member.count("/") == 1]
    if len(pickles) != 1:
        raise ModelFileError(f"{name}: not a torch file (needs one data.pkl, has {len(pickles)})")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in archive.names and archive.read(f"{root}byteorder") != b"little":
        raise ModelFileError(f"{name}: byte order must be little")
    if archive.size(pickles[0]) > LARGEST_PICKLE_BYTES:
        raise ModelFileError(
            f"{name}: data.pkl has {archive.size(pickles[0])} bytes, must be within {LARGEST_PICKLE_BYTES}"
        )
    machine = _Machine(archive, root, name)
    state = machine.run(archive.read(pickles[0]))
    if not isinstance(state, _State):
        raise ModelFileError(f"{name}: holds no table of weights")
    tensors: dict[str, NDArray[Any]] = {}
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, np.ndarray):
            raise ModelFileError(f"{name}: entry {_shown(key)} is not a tensor")
        tensors[key] = cast("NDArray[Any]", value)
    if len({id(tensor) for tensor in tensors.values()}) != len(tensors):
        raise ModelFileError(f"{name}: one tensor has two names")
    return tensors


class _Machine:
    """A stack machine for the few instructions that a table of weights needs."""

    def __init__(self, archive: StrictZip, root: str, name: str) -> None:
        self._archive, self._root, self._name = archive, root, name
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._storages: dict[str, NDArray[Any]] = {}
        self._used: set[str] = set()

    def run(self, pickled: bytes) -> Any:
        """Walk all instructions and return what is left."""
        try:
            *instructions, (_, _, end) = _instructions(pickled)  # the last one is STOP, or there are none
            for opcode, argument, _ in instructions:
                handler = _HANDLERS.get(opcode.name)
                if handler is None:
                    raise self._wrong(f"instruction {opcode.name} is not allowed")
                handler(self, argument)
            if end != len(pickled) - 1 or len(self._stack) != 1:
                raise self._wrong("data.pkl does not end cleanly")
            return self._stack[0]
        except (IndexError, KeyError, ValueError, TypeError, UnicodeDecodeError, OverflowError):
            raise self._wrong("data.pkl is damaged") from None

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def push_name(self, argument: Any) -> None:
        if argument not in (_ORDERED_DICT, _REBUILD, *_STORAGES):
            raise self._wrong(f"names {_shown(argument)}, which no table of weights needs")
        self.push(_Name(argument))

    def put(self, argument: Any) -> None:
        self._memo[argument] = self._stack[-1]

    def get(self, argument: Any) -> None:
        self.push(self._memo[argument])

    def pack(self, count: int) -> None:
        items = [self._stack.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def since_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        items.reverse()
        return items

    def set_items(self, items: list[Any]) -> None:
        state = self._stack[-1]
        if not isinstance(state, _State) or len(items) % 2:
            raise self._wrong("data.pkl sets items of no table")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int) or key in state:
                raise self._wrong(f"entry {_shown(key)} appears twice or has no name")
            state[key] = value

    def set_item(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self.set_items([key, value])

    def build(self, _: Any) -> None:
        """Attributes of the table (torch's metadata): dropped."""
        if not isinstance(self._stack.pop(), _State) or not isinstance(self._stack[-1], _State):
            raise self._wrong("data.pkl builds something that is no table")

    def call(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise self._wrong("data.pkl calls something that is no name")
        if function == _ORDERED_DICT and arguments == ():
            self.push(_State())
        elif function == _REBUILD:
            self.push(self._tensor(*cast("tuple[Any, ...]", arguments)))
        else:
            raise self._wrong(f"data.pkl calls {function}")

    def load_storage(self, _: Any) -> None:
        kind, storage, key, place, count = self._stack.pop()
        if (
            kind != "storage"
            or not isinstance(storage, _Name)
            or storage not in _STORAGES
            or not isinstance(place, str)
        ):
            raise self._wrong(f"storage {_shown(storage)}: must be float32 or int64")
        if not isinstance(key, str) or not key.isdecimal() or len(key) > _KEY_DIGITS or not isinstance(count, int):
            raise self._wrong(f"storage key {_shown(key)} is not a number")
        dtype = _STORAGES[storage]
        if key not in self._storages:
            self._storages[key] = np.frombuffer(self._archive.read(f"{self._root}data/{key}"), dtype=np.uint8)
        content = self._storages[key]
        if len(content) != count * dtype.itemsize:
            raise self._wrong(f"storage {key} has {len(content)} bytes, needs {count * dtype.itemsize}")
        self.push((key, content.view(dtype)))

    def _tensor(
        self, storage: tuple[Any, Any], offset: Any, shape: Any, strides: Any, _grad: Any, hooks: Any, *rest: Any
    ) -> NDArray[Any]:
        key, values = storage
        if not isinstance(key, str) or not isinstance(values, np.ndarray):
            raise self._wrong("tensor of something that is no storage")
        whole = [offset, *shape, *strides]
        if (
            rest
            or hooks != {}
            or any(type(number) is not int or not 0 <= number < _MOST for number in whole)
            or len(shape) > 4
        ):
            raise self._wrong(f"tensor of storage {key} is malformed")
        count = math.prod(shape)
        contiguous = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        if offset != 0 or count != len(values) or (count and tuple(strides) != contiguous):
            raise self._wrong(
                f"tensor of storage {key}: shape {tuple(shape)} must use all of its own {len(values)} numbers"
            )
        if key in self._used:
            raise self._wrong(f"two tensors share storage {key}")
        self._used.add(key)
        return values.reshape(shape)

    def _wrong(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self._name}: {what}")


def _shown(value: Any) -> str:
    """A name for a message; of anything but text only its kind, for a few bytes can spell an endless tuple."""
    return repr(value[:60]) if isinstance(value, str) else f"of kind {type(value).__name__}"


def _instructions(pickled: bytes) -> list[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    """All instructions, taken apart but not run; odd escapes in names warn, and are refused later anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(pickletools.genops(pickled))


_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda _m, _a: None,
    "GLOBAL": _Machine.push_name,
    "BINUNICODE": _Machine.push,
    "BININT": _Machine.push,
    "BININT1": _Machine.push,
    "BININT2": _Machine.push,
    "LONG1": _Machine.push,
    "NEWFALSE": lambda m, _a: m.push(False),
    "NEWTRUE": lambda m, _a: m.push(True),
    "EMPTY_TUPLE": lambda m, _a: m.push(()),
    "EMPTY_DICT": lambda m, _a: m.push(_State()),
    "MARK": lambda m, _a: m.push(_MARK),
    "TUPLE": lambda m, _a: m.push(tuple(m.since_mark())),
    "TUPLE1": lambda m, _a: m.pack(1),
    "TUPLE2": lambda m, _a: m.pack(2),
    "TUPLE3": lambda m, _a: m.pack(3),
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "SETITEM": _Machine.set_item,
    "SETITEMS": lambda m, _a: m.set_items(m.since_mark()),
    "BUILD": _Machine.build,
    "REDUCE": _Machine.call,
    "BINPERSID": _Machine.load_storage,
}
