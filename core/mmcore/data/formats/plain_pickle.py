"""Read a pickle that holds only plain containers, text, bytes and numbers, and refuse every other one unread.

RefCOCO is published as pickles, a format whose files can run any code when loaded. The opcodes are walked first, which
executes nothing: only those that build plain values may occur. So no class is ever looked up, nothing is called, and
nothing is allocated that the file does not contain.
"""

import io
import pickle
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from mmcore.errors import DataError, MissingDataError, UnsafeDataError

MAX_BYTES = 1 << 30

# fmt: off
_PLAIN = frozenset((
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE",
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_SET", "ADDITEMS", "FROZENSET",
    "PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET", "MEMOIZE",
))
# fmt: on
_MEMO = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET"})


_OPCODES: dict[str, Any] = vars(pickletools)["code2op"]  # not in its stubs


class _Unpickler(pickle.Unpickler):
    """The second lock, should the first ever miss something."""

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        raise UnsafeDataError(f"pickle asks for {module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise UnsafeDataError("pickle asks for an object outside of it")


def load_plain(path: Path) -> Any:
    """The plain value in a pickle file; text of Python 2 pickles is read as UTF-8, or Latin-1 where it is not.

    Raises:
        MissingDataError: there is no such file.
        UnsafeDataError: it holds anything but plain values; nothing of it was executed.
        DataError: it is damaged or no pickle.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UnsafeDataError(f"pickle is larger than {MAX_BYTES} bytes", where=path)
        content = path.read_bytes()
    except OSError as error:
        raise MissingDataError(f"annotation file cannot be read: {error.strerror}", where=path) from None
    _check(content, path)
    try:
        try:
            return _Unpickler(io.BytesIO(content), encoding="utf-8").load()
        except UnicodeDecodeError:
            return _Unpickler(io.BytesIO(content), encoding="latin-1").load()
    except UnsafeDataError as error:
        raise UnsafeDataError(error.what, where=path) from None
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(f"pickle is damaged: {type(error).__name__}: {error}", where=path) from None


def _check(content: bytes, path: Path) -> None:
    number = 0
    try:
        for number, (name, argument, place) in enumerate(_opcodes(content)):
            if name not in _PLAIN:
                raise UnsafeDataError(
                    f"pickle holds more than plain values ({name} at byte {place})",
                    where=path,
                    do="do not load this file elsewhere either; it may run code. Fetch the published one again",
                )
            # The unpickler's memo is a list as long as its largest number.
            if name in _MEMO and int(argument) > 16 * (number + 16):
                raise UnsafeDataError(f"pickle numbers an entry {argument} (byte {place})", where=path)
    except UnsafeDataError:
        raise
    except Exception as error:  # the argument readers raise ValueError and, on odd bytes, a few others
        raise DataError(
            f"not a pickle, or damaged after {number} entries: {error}", where=path, do="fetch the file again"
        ) from None


def _opcodes(content: bytes) -> Iterator[tuple[str, Any, int]]:
    """Name, argument and place of every opcode: `pickletools.genops`, but for text of Python 2 that is not ASCII."""
    file = io.BytesIO(content)
    name = ""
    while name != "STOP":
        place = file.tell()
        code = file.read(1)
        if not code or code.decode("latin-1") not in _OPCODES:
            raise ValueError(f"no opcode at byte {place}")
        opcode = _OPCODES[code.decode("latin-1")]
        name = opcode.name
        if name == "STRING":
            yield name, file.readline(), place
        else:
            yield name, opcode.arg.reader(file) if opcode.arg else None, place
