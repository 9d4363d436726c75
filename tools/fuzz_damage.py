"""Damage: to the bytes of a file, whatever they are, and to its parts by what those hold."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 10**9, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
_NUMBER = re.compile(rb"\d+")
_WORD = re.compile(rb"[A-Za-z_<>|=.]+\d*")
_WORDS = (
    *(b"Height", b"Width", b"Version", b"Date", b"end", b"format", b"geometry", b"evt", b"height", b"width"),
    *(b"endianness=big", b"endianness=legacy", b"EVT2", b"EVT21", b"EVT3", b"EVT4", b"2.0", b"3.0", b"-1", b"304x240"),
    *(b"descr", b"fortran_order", b"shape", b"True", b"(3, 3)", b"<i8", b">f4", b"<f8", b"|O", b"<U9", b"|V40", b"?"),
    *(b"t", b"ts", b"x", b"invalid", b"class_id", b"%", b"% ", b"'", b"{", b"[" * 200, b"\xff", b"\0", b"", b"9" * 400),
)


@dataclass(frozen=True)
class Part:
    """A piece of a file that damage can aim at.

    Attributes:
        record: bytes of a record in it, 1 where it has none; `is_text` where it is lines of text.
        fields: (place, bytes) of numbers that say something about the file: lengths, offsets, counts.
    """

    data: bytes
    record: int = 1
    is_text: bool = False
    fields: tuple[tuple[int, int], ...] = ()
    order: str = "little"


@dataclass(frozen=True)
class Sample:
    """A sound file, as its parts and what makes a file of them (compressing, with lengths and checksums)."""

    parts: tuple[Part, ...]
    join: Callable[[Sequence[bytes]], bytes] = b"".join

    @property
    def data(self) -> bytes:
        """The file."""
        return self.join([part.data for part in self.parts])


def damage(sample: Sample, others: Sequence[bytes], chance: Random) -> bytes:
    """Return the file with damage by structure, to its bytes, or both; or spliced with another one."""
    kind = chance.random()
    if kind < 0.05 and others:
        data, other = sample.data, chance.choice(others)
        return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]
    if kind < 0.40:
        return damaged(sample.data, chance)
    parts = [part.data for part in sample.parts]
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(parts))
        parts[at] = _damaged_part(sample.parts[at], parts[at], chance)
    data = sample.join(parts)
    return damaged(data, chance) if kind < 0.50 else data


def damaged(data: bytes, chance: Random) -> bytes:
    """Return the bytes with one to three things done to them."""
    out = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        at = chance.randrange(len(out) + 1)
        length = chance.choice([1, 2, 4, 8, 16, 64, 512])
        kind = chance.randrange(8)
        if kind == 0:
            del out[at:]
        elif kind in (1, 2) and out:
            out[min(at, len(out) - 1)] ^= 1 << chance.randrange(8)
        elif kind in (3, 4):
            code = chance.choice("BHIQ")
            number = chance.choice(NUMBERS) % (1 << 8 * struct.calcsize(code))
            raw = struct.pack(chance.choice("<>") + code, number)
            out[at : at + len(raw)] = raw
        elif kind == 5:
            del out[at : at + length]
        elif kind == 6:
            out[at:at] = out[chance.randrange(len(out) + 1) :][:length]
        else:
            out[at : at + length] = chance.randbytes(length)
    return bytes(out)


def _damaged_part(part: Part, data: bytes, chance: Random) -> bytes:
    if part.is_text:
        return _changed_text(data, chance)
    if part.fields and chance.random() < 0.6:
        return _changed_field(part, data, chance)
    if part.record > 1 and chance.random() < 0.8:
        return _changed_records(part.record, data, chance)
    return damaged(data, chance)


def _changed_text(text: bytes, chance: Random) -> bytes:
    kind = chance.randrange(6)
    if kind <= 2:  # a number or a word
        found = list((_NUMBER if kind == 0 else _WORD).finditer(text))
        if not found:
            return text + chance.choice(_WORDS)
        match = chance.choice(found)
        new = str(_odd_number(int(match[0][:19]), 64, chance)).encode() if kind == 0 else chance.choice(_WORDS)
        return text[: match.start()] + new + text[match.end() :]
    lines = text.splitlines(keepends=True) or [b""]
    at = chance.randrange(len(lines))
    if kind == 3:
        del lines[at]
    elif kind == 4:
        lines.insert(chance.randrange(len(lines) + 1), lines[at])
    else:
        lines[at] = lines[at].rstrip(b"\n") + chance.choice((b"\r\n", b" \n", b"", b";x=1\n", b"\n\n", b"\n% \n"))
    return b"".join(lines)


def _changed_field(part: Part, data: bytes, chance: Random) -> bytes:
    at, size = chance.choice(part.fields)
    order = "little" if part.order == "little" else "big"
    old = int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]
    new = _odd_number(old, 8 * size, chance, len(data))
    return data[:at] + new.to_bytes(size, order) + data[at + size :]  # type: ignore[arg-type]


def _odd_number(old: int, bits: int, chance: Random, length: int = 1000) -> int:
    """Return a number beside, below or far from the old one, that fits unsigned."""
    new = chance.choice((old + 1, old - 1, old * 2, old // 2, old ^ 1 << chance.randrange(bits), length, length - old))
    if chance.random() < 0.4:
        new = chance.choice(NUMBERS)
    return new % (1 << bits)


def _changed_records(record: int, data: bytes, chance: Random) -> bytes:
    """Drop, double, exchange, shift or overwrite records, or a number in one."""
    count = len(data) // record
    if not count:
        return chance.randbytes(record)
    a = chance.randrange(count) * record
    b = min(len(data), a + chance.choice((1, 1, 2, 5, 20)) * record)
    kind = chance.randrange(7)
    if kind == 0:
        return data[:a] + data[b:]
    if kind == 1:
        return data[:b] + data[a:b] * chance.choice((1, 1, 2, 9)) + data[b:]
    if kind == 2:
        c = chance.randrange(count) * record
        return data[:c] + data[a:b] + data[c + b - a :]
    if kind == 3:  # out of step with what follows
        return data[:a] + data[a + chance.randrange(1, record) :]
    if kind == 4:
        return data[:a] + chance.randbytes(b - a) + data[b:]
    size = chance.choice([size for size in (1, 2, 4, 8) if size <= record])
    at = a + chance.randrange(0, record - size + 1)
    new = chance.choice(NUMBERS) % (1 << 8 * size) if kind == 5 else chance.getrandbits(8 * size)
    return data[:at] + new.to_bytes(size, "little") + data[at + size :]
