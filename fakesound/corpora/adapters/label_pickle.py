"""Label arrays that were saved as pickles (PartialSpoof), read without executing anything of them.

`numpy.save` writes a dict of arrays as a pickle, and to unpickle is to run what the file says. Here nothing
runs: `pickletools.genops` lists the opcodes, a small machine follows those that build containers, and the
callables with which numpy describes an array (pickle protocols 2 to 4, which `numpy.save` uses) are
recognised by name as descriptions. Every other global and every other opcode is refused by name.
"""

import io
import pickletools
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from fakesound.core.errors import UserError

_RECONSTRUCT = frozenset({"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"})
_NDARRAY, _DTYPE = "numpy ndarray", "numpy dtype"
_ENCODE, _BYTES = "_codecs encode", frozenset({"__builtin__ bytes", "builtins bytes"})
_GLOBALS = _RECONSTRUCT | _BYTES | {_NDARRAY, _DTYPE, _ENCODE}
_DTYPE_KINDS = "USbiu"
_DTYPE_CODE = re.compile(r"[a-zA-Z]\d{1,9}", re.ASCII)
_LONGEST_LABEL = 16  # an array of text is as wide throughout as its longest item
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUSHED = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    }
)


class _Refused(Exception):
    """The reason why a pickle is not an array of labels."""


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass
class _Dtype:
    code: str
    order: str = "="


@dataclass
class _Array:
    """An array as it is described so far."""

    shape: tuple[int, ...] = ()
    dtype: _Dtype | None = None
    content: Any = None


class _Mark:
    """Where a container's items start on the stack."""


def read_label_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a `.npy` file that holds one pickled dict: utterance -> labels, shape (segments,).

    Arrays hold integers, text or bytes.

    Raises:
        UserError: the file is not of that form, or would run something; names the file and the global.
    """
    try:
        pickle = _pickle_of(path)
        return _as_labels(_Machine(pickle).result(), len(pickle))
    except _Refused as reason:
        raise UserError(f"{path}: {reason}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _pickle_of(path: Path) -> bytes:
    """What follows the header of a `.npy` file of objects."""
    stream = io.BytesIO(path.read_bytes())
    try:
        version = npy_format.read_magic(stream)
        readers = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
        if version not in readers:
            raise _Refused(f"a .npy file of version {version}, not 1.0 or 2.0")
        shape, _, dtype = readers[version](stream)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, TokenError):
        raise _Refused("not a .npy file, or its header is broken") from None
    if dtype != np.dtype(object) or shape != ():
        raise _Refused(f"holds an array {shape} of {dtype}, not one dict of label arrays")
    return stream.read()


class _Machine:
    """Follows the opcodes of a pickle, of which it knows few; `stack` and `memo` hold plain data only."""

    def __init__(self, pickle: bytes) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._steps: dict[str, Callable[[Any], None]] = {
            **dict.fromkeys(_PUSHED, self._stack.append),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self._memoize_at),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), self._recall),
            **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda _: None),
            "MEMOIZE": lambda _: self._memoize_at(len(self._memo)),
            "MARK": lambda _: self._stack.append(_Mark),
            "EMPTY_TUPLE": lambda _: self._stack.append(()),
            "EMPTY_LIST": lambda _: self._stack.append([]),
            "EMPTY_DICT": lambda _: self._stack.append({}),
            "TUPLE": lambda _: self._stack.append(tuple(self._since_mark())),
            "TUPLE1": lambda _: self._stack.append(tuple(self._pop(1))),
            "TUPLE2": lambda _: self._stack.append(tuple(self._pop(2))),
            "TUPLE3": lambda _: self._stack.append(tuple(self._pop(3))),
            "LIST": lambda _: self._stack.append(self._since_mark()),
            "DICT": lambda _: self._make_dict(),
            "APPEND": lambda _: self._extend(self._pop(1)),
            "APPENDS": lambda _: self._extend(self._since_mark()),
            "SETITEM": lambda _: self._update(self._pop(2)),
            "SETITEMS": lambda _: self._update(self._since_mark()),
            "GLOBAL": self._global,
            "STACK_GLOBAL": lambda _: self._stack_global(*self._pop(2)),
            "REDUCE": lambda _: self._reduce(*self._pop(2)),
            "BUILD": lambda _: self._build(*self._pop(2)),
        }
        try:
            for opcode, argument, _ in pickletools.genops(pickle):
                self._follow(opcode.name, argument)
        except _Refused:
            raise
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            raise _Refused(f"a damaged pickle ({error})") from None

    def result(self) -> Any:
        """What the pickle describes."""
        if len(self._stack) != 1:
            raise _Refused("a damaged pickle (it leaves no single value)")
        return self._stack[0]

    def _follow(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in self._steps:
            self._steps[name](argument)
        else:
            raise _Refused(f"refused: the pickle uses {name}, which an array of labels has no need of")

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise _Refused("a damaged pickle (it takes from an empty stack)")
        taken = self._stack[-count:]
        del self._stack[-count:]
        return taken

    def _since_mark(self) -> list[Any]:
        taken = []
        while (item := self._pop(1)[0]) is not _Mark:
            taken.append(item)
        return taken[::-1]

    def _memoize_at(self, index: int) -> None:
        self._memo[index] = self._pop(1)[0]
        self._stack.append(self._memo[index])

    def _recall(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _top(self, kind: type) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kind):
            raise _Refused(f"a damaged pickle (no {kind.__name__} where one should be)")
        return self._stack[-1]

    def _make_dict(self) -> None:
        items = self._since_mark()
        self._stack.append({})
        self._update(items)

    def _extend(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def _update(self, items: list[Any]) -> None:
        if len(items) % 2 or not all(isinstance(key, str) for key in items[::2]):
            raise _Refused("holds a dict whose keys are not names of utterances")
        self._top(dict).update(zip(items[::2], items[1::2], strict=True))

    def _global(self, name: str) -> None:
        if name not in _GLOBALS:
            raise _Refused(
                f"refused: the pickle asks for {name.replace(' ', '.')!r:.80}, which is not numpy's"
            )
        self._stack.append(_Global(name))

    def _stack_global(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):  # lists of lists would never end as text
            raise _Refused("a damaged pickle (a global whose name is no text)")
        self._global(f"{module} {name}")

    def _reduce(self, function: Any, arguments: Any) -> None:
        name = function.name if isinstance(function, _Global) else ""
        match name, arguments:
            case _, (_Global(name=cls), (0,), b"b" | "b") if name in _RECONSTRUCT and cls == _NDARRAY:
                self._stack.append(_Array())
            case _, (str(code), bool() | int(), bool() | int()) if name == _DTYPE:
                self._stack.append(_Dtype(code))
            case _, (str(text), "latin1" | "latin-1") if name == _ENCODE:  # bytes in protocol 2
                self._stack.append(text.encode("latin-1"))
            case _, () if name in _BYTES:  # and none of them
                self._stack.append(b"")
            case _:
                raise _Refused(
                    f"refused: the pickle calls {name.replace(' ', '.') or 'something'} in its own way"
                )

    def _build(self, target: Any, state: Any) -> None:
        match target, state:
            case _Dtype(), (int(), "<" | ">" | "|" | "=" as order, None, None, None, *_):
                target.order = order
            case _Array(), (int(), tuple(shape), _Dtype() as dtype, False | 0, bytes() | list() as content):
                if not all(type(size) is int and 0 <= size <= sys.maxsize for size in shape):
                    raise _Refused("an array of impossible shape")
                target.shape, target.dtype, target.content = shape, dtype, content
            case _:
                raise _Refused("refused: the pickle sets the state of what is no array of labels")
        self._stack.append(target)


def _as_labels(described: Any, num_bytes: int) -> dict[str, NDArray[Any]]:
    """The dict inside the array of one object that `numpy.save` wraps it in; its pickle has `num_bytes`."""
    match described:
        case _Array(shape=(), content=[dict() as arrays]):
            if sum(map(_size, arrays.values())) > num_bytes:  # a few bytes could ask for gigabytes
                raise _Refused("refused: many utterances share one row of labels, more than the file holds")
            return {name: _as_array(name, array) for name, array in arrays.items()}
    raise _Refused("holds no dict of label arrays")


def _size(described: Any) -> int:
    content = described.content if isinstance(described, _Array) else described
    return len(content) if isinstance(content, bytes | list) else 0


def _as_array(name: str, described: Any) -> NDArray[Any]:
    if isinstance(described, list):  # the labels as they are
        described = _Array((len(described),), _Dtype("O"), described)
    if not isinstance(described, _Array) or described.dtype is None or len(described.shape) != 1:
        raise _Refused(f"{name!r:.60} is no row of labels")
    length = described.shape[0]
    if isinstance(described.content, list):
        if not all(_is_label(item) for item in described.content):
            raise _Refused(f"{name!r:.60} holds something other than labels")
        return np.array([item if isinstance(item, str) else str(int(item)) for item in described.content])
    try:
        if not _DTYPE_CODE.fullmatch(described.dtype.code):  # numpy would read expressions, too
            raise TypeError
        dtype = np.dtype(described.dtype.code).newbyteorder(described.dtype.order)  # type: ignore[arg-type]
    except TypeError:
        raise _Refused(f"{name!r:.60} is of an unknown kind {described.dtype.code!r:.20}") from None
    is_known = dtype.kind in _DTYPE_KINDS and dtype.itemsize > 0
    if not is_known or dtype.itemsize * length != len(described.content):
        raise _Refused(f"{name!r:.60}: {len(described.content)} bytes are not {length} labels of {dtype}")
    return np.frombuffer(described.content, dtype=dtype)


def _is_label(item: Any) -> bool:
    return len(item) <= _LONGEST_LABEL if isinstance(item, str) else item in (0, 1)
