"""The pickle instructions that torch.save writes, cut from bytes; every length is checked before a byte is taken.

Source: CPython's ``Lib/pickletools.py`` (the opcode table). Left out, and so refused: the text protocols 0 and 1, what
reaches outside the stream, and what no pickler writes.
"""

import struct
from collections.abc import Callable, Iterator
from typing import Any

from snn_perception.foreign.limits import MAX_INTEGER_BYTES, damaged, shown, unknown

Argument = Callable[[bytes, int], tuple[Any, int]]


def instructions(data: bytes, start: int) -> Iterator[tuple[int, str, Any]]:
    """Yield (position, opcode name, argument) from `start` up to STOP; raise Refusal at a byte that does not fit."""
    position = start
    while position < len(data):
        known = _TABLE.get(data[position])
        if known is None:
            name = _REFUSED.get(data[position], f"0x{data[position]:02x}")
            raise unknown(f"refuses pickle opcode {name} at byte {position}, which torch.save does not write")
        name, argument = known
        value, after = (None, position + 1) if argument is None else argument(data, position + 1)
        yield position, name, value
        if name == "STOP":
            return
        position = after
    raise damaged(f"ends at byte {len(data)} of its pickle, before STOP")


def _take(data: bytes, position: int, count: int) -> tuple[bytes, int]:
    end = position + count
    if count < 0 or end > len(data):
        raise damaged(f"claims {count} bytes at byte {position} of a pickle of {len(data)}")
    return data[position:end], end


def _number(layout: str) -> Argument:
    unpack, width = struct.Struct(layout).unpack, struct.calcsize(layout)

    def read(data: bytes, position: int) -> tuple[Any, int]:
        raw, end = _take(data, position, width)
        return unpack(raw)[0], end

    return read


def _counted(layout: str, convert: Callable[[bytes], Any]) -> Argument:
    length = _number(layout)

    def read(data: bytes, position: int) -> tuple[Any, int]:
        count, begin = length(data, position)
        raw, end = _take(data, begin, count)
        return convert(raw), end

    return read


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise damaged(f"holds a text that is not UTF-8 (bytes {raw[:20].hex(' ')} ...)") from None


def _python2_text(raw: bytes) -> str | bytes:
    """Python 2 wrote names and raw bytes alike."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


def _integer(raw: bytes) -> int:
    if len(raw) > MAX_INTEGER_BYTES:
        raise damaged(f"holds an integer of {len(raw)} bytes, over the limit of {MAX_INTEGER_BYTES}")
    return int.from_bytes(raw, "little", signed=True)


def _line(data: bytes, position: int) -> tuple[str, int]:
    end = data.find(b"\n", position, position + 512)
    if end < 0:
        raise damaged(f"has no end of line within 512 bytes of byte {position} of its pickle")
    return _text(data[position:end]), end + 1


def _two_lines(data: bytes, position: int) -> tuple[tuple[str, str], int]:
    module, middle = _line(data, position)
    name, end = _line(data, middle)
    return (module, name), end


def _decimal(data: bytes, position: int) -> tuple[int, int]:
    """Python 2 wrote integers of more than 32 bits in decimals, also in its binary protocol."""
    text, end = _line(data, position)
    digits = text.removesuffix("L")
    if len(digits) > 20 or not digits.removeprefix("-").isdecimal():
        raise damaged(f"holds {shown(text)} where an integer of up to 64 bits belongs")
    return int(digits), end


_U1, _U2, _I4, _U4, _U8 = (_number(layout) for layout in ("<B", "<H", "<i", "<I", "<Q"))

_WITHOUT_ARGUMENT = (
    ("(", "MARK"), (".", "STOP"), ("0", "POP"), ("1", "POP_MARK"),
    ("N", "NONE"), ("\x88", "NEWTRUE"), ("\x89", "NEWFALSE"),
    ("]", "EMPTY_LIST"), ("a", "APPEND"), ("e", "APPENDS"), ("}", "EMPTY_DICT"), ("s", "SETITEM"), ("u", "SETITEMS"),
    (")", "EMPTY_TUPLE"), ("t", "TUPLE"), ("\x85", "TUPLE1"), ("\x86", "TUPLE2"), ("\x87", "TUPLE3"),
    ("\x8f", "EMPTY_SET"), ("\x90", "ADDITEMS"), ("\x91", "FROZENSET"), ("\x93", "STACK_GLOBAL"),
    ("R", "REDUCE"), ("b", "BUILD"), ("\x81", "NEWOBJ"), ("Q", "BINPERSID"), ("\x94", "MEMOIZE"),
)  # fmt: skip

_REFUSED = {
    ord(code): name
    for code, name in (
        ("i", "INST"), ("o", "OBJ"), ("P", "PERSID"), ("2", "DUP"), ("S", "STRING"), ("V", "UNICODE"), ("F", "FLOAT"),
        ("g", "GET"), ("p", "PUT"), ("d", "DICT"), ("l", "LIST"), ("\x82", "EXT1"), ("\x83", "EXT2"), ("\x84", "EXT4"),
        ("\x92", "NEWOBJ_EX"), ("\x97", "NEXT_BUFFER"), ("\x98", "READONLY_BUFFER"),
    )
}  # fmt: skip

_TABLE: dict[int, tuple[str, Argument | None]] = {
    **{ord(code): (name, None) for code, name in _WITHOUT_ARGUMENT},
    ord("c"): ("GLOBAL", _two_lines),
    ord("q"): ("PUT", _U1),
    ord("r"): ("PUT", _U4),
    ord("h"): ("GET", _U1),
    ord("j"): ("GET", _U4),
    0x80: ("PROTO", _U1),
    0x95: ("FRAME", _U8),
    # What follows pushes its argument as it is.
    ord("K"): ("BININT1", _U1),
    ord("M"): ("BININT2", _U2),
    ord("J"): ("BININT", _I4),
    ord("I"): ("INT", _decimal),
    ord("L"): ("LONG", _decimal),
    0x8A: ("LONG1", _counted("<B", _integer)),
    0x8B: ("LONG4", _counted("<i", _integer)),
    ord("G"): ("BINFLOAT", _number(">d")),
    ord("X"): ("BINUNICODE", _counted("<I", _text)),
    0x8C: ("SHORT_BINUNICODE", _counted("<B", _text)),
    0x8D: ("BINUNICODE8", _counted("<Q", _text)),
    ord("U"): ("SHORT_BINSTRING", _counted("<B", _python2_text)),
    ord("T"): ("BINSTRING", _counted("<i", _python2_text)),
    ord("C"): ("SHORT_BINBYTES", _counted("<B", bytes)),
    ord("B"): ("BINBYTES", _counted("<I", bytes)),
    0x8E: ("BINBYTES8", _counted("<Q", bytes)),
    0x96: ("BYTEARRAY8", _counted("<Q", bytes)),
}
PUSHES = frozenset(
    {
        *("BININT1", "BININT2", "BININT", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING", "BINSTRING"),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
