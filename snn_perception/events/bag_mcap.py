"""The MCAP storage of ROS 2 bags (mcap.dev/spec), read with bounds on everything a file may claim.

A first pass over the record heads notes where chunks and messages lie; it also serves files without index or footer,
which a recorder leaves when the power goes. Reading then merges the chunks by log time.
"""

from __future__ import annotations

import heapq
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from snn_perception.errors import EventDataError
from snn_perception.events.bag_storage import MAX_MESSAGE_BYTES, BagStorage, StoredMessage, unlz4, unzstd

MAGIC = b"\x89MCAP0\r\n"
MAX_CHUNK_BYTES = 1 << 27  # recorders write chunks of 1 to 4 MiB, larger ones only for a larger message
_MAX_PENDING_BYTES = 1 << 27
_RUN_BYTES = 1 << 20  # messages outside chunks are read in runs of this size
_HEAD = struct.Struct("<BQ")
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK = 0x02, 0x03, 0x04, 0x05, 0x06
_MESSAGE_HEAD = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time


@dataclass(frozen=True, order=True)
class _Unit:
    """A part of the file that is read at once: a chunk, or a run of messages outside chunks."""

    start_ns: int
    offset: int
    end: int
    is_chunk: bool


class McapStorage(BagStorage):
    """An ``.mcap`` file. Raises EventDataError if it is none, or holds nothing whole."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._schemas: dict[int, str] = {}
        self._channels: dict[int, tuple[str, int, str]] = {}  # id -> topic, schema, message encoding
        self._bytes = path.stat().st_size
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise EventDataError(f"{path}: expected an MCAP file, got other first bytes; check what this file is")
            self._units = sorted(self._find_units(file))
            for unit in self._units:  # without a summary, channels are told of in chunks only
                if self._channels:
                    break
                for _ in self._records(file, unit):
                    pass
        self.topics = {topic: self._schemas.get(schema, "") for topic, schema, _ in self._channels.values()}

    def messages(self, topic: str) -> Iterator[StoredMessage]:
        """Yield a topic's messages by log time; chunks that are damaged are left out with a note."""
        pending: list[tuple[int, int, bytes]] = []  # copies: a view would keep its whole chunk
        held = order = done = 0
        with self.path.open("rb") as file:
            for unit in self._units:
                while pending and (pending[0][0] <= unit.start_ns or held > _MAX_PENDING_BYTES):
                    log_time, _, copied = heapq.heappop(pending)
                    held -= len(copied)
                    yield StoredMessage(log_time, copied)
                for channel, log_time, data in self._records(file, unit):
                    if self._is_of(channel, topic):
                        heapq.heappush(pending, (log_time, order, bytes(data)))
                        order, held = order + 1, held + len(data)
                done += unit.end - unit.offset
                self.fraction = done / self._bytes
        while pending:
            log_time, _, copied = heapq.heappop(pending)
            yield StoredMessage(log_time, copied)
        self.fraction = 1.0

    def _is_of(self, channel: int, topic: str) -> bool:
        name, _, encoding = self._channels.get(channel, ("", 0, ""))
        if name != topic:
            return False
        if encoding != "cdr":
            raise EventDataError(f"{self.path}: topic '{topic}': expected messages in CDR, got {encoding!r}")
        return True

    def _find_units(self, file: BinaryIO) -> Iterator[_Unit]:
        """Yield where messages lie, taking in channels on the way; note where the file breaks off."""
        at, run_start, run_ns = len(MAGIC), 0, 0
        code = 0
        while code != _FOOTER:
            file.seek(at)
            head = file.read(_HEAD.size)
            code, length = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, 0)
            end = at + _HEAD.size + length
            whole = bool(code) and end <= self._bytes
            ends_run = code != _MESSAGE or not whole or end - run_start > _RUN_BYTES
            if run_start and ends_run:
                yield _Unit(run_ns, run_start, at, is_chunk=False)
                run_start = 0
            if whole and code == _MESSAGE and length >= _MESSAGE_HEAD.size:
                log_time = _MESSAGE_HEAD.unpack(file.read(_MESSAGE_HEAD.size))[2]
                run_start, run_ns = (run_start, min(run_ns, log_time)) if run_start else (at, log_time)
            elif code == _CHUNK and length >= 8:
                start = file.read(8)
                if len(start) == 8:
                    yield _Unit(struct.unpack("<Q", start)[0], at, min(end, self._bytes), is_chunk=True)
            elif whole and code in (_SCHEMA, _CHANNEL) and length <= _RUN_BYTES:
                self._take_record(code, memoryview(file.read(length)))
            if not whole:
                self.note(f"breaks off at byte {at} of {self._bytes}, before its footer; read is what is whole")
                return
            at = end

    def _records(self, file: BinaryIO, unit: _Unit) -> Iterator[tuple[int, int, memoryview]]:
        """Yield (channel, log time, data) of a unit's messages, taking in its channels; note what is damaged."""
        try:
            content = self._content(file, unit)
        except EventDataError as error:
            self.note(f"chunk at byte {unit.offset}: {error}; left out")
            return
        at = 0
        while at + _HEAD.size <= len(content):
            code, length = _HEAD.unpack_from(content, at)
            body = content[at + _HEAD.size : at + _HEAD.size + length]
            if len(body) < length:
                self.note(f"chunk at byte {unit.offset}: its last record is cut off; left out")
                return
            if code == _MESSAGE and _MESSAGE_HEAD.size <= length <= MAX_MESSAGE_BYTES:
                channel, _, log_time, _ = _MESSAGE_HEAD.unpack_from(body)
                yield channel, log_time, body[_MESSAGE_HEAD.size :]
            elif code in (_SCHEMA, _CHANNEL):
                self._take_record(code, body)
            at += _HEAD.size + length

    def _content(self, file: BinaryIO, unit: _Unit) -> memoryview:
        """Return a unit's records. Raises EventDataError if its chunk is damaged or beyond the bounds."""
        if unit.end - unit.offset > MAX_CHUNK_BYTES:
            raise EventDataError(f"larger than {MAX_CHUNK_BYTES} bytes")
        file.seek(unit.offset)
        data = memoryview(file.read(unit.end - unit.offset))
        if not unit.is_chunk:
            return data
        try:
            _, _, unpacked_bytes, crc, name_bytes = struct.unpack_from("<QQQII", data, _HEAD.size)
            at = _HEAD.size + 32
            compression = bytes(data[at : at + min(name_bytes, 16)])
            at += name_bytes
            packed_bytes = struct.unpack_from("<Q", data, at)[0]
        except struct.error:
            raise EventDataError("its head is cut off") from None
        packed = data[at + 8 : at + 8 + packed_bytes]
        if unpacked_bytes > MAX_CHUNK_BYTES:
            raise EventDataError(f"announces {unpacked_bytes} bytes, more than {MAX_CHUNK_BYTES}")
        content = _unpack(compression, packed, unpacked_bytes)
        is_whole = len(packed) == packed_bytes
        if is_whole and (len(content) != unpacked_bytes or (crc and zlib.crc32(content) != crc)):
            raise EventDataError("its content does not match its checksum or length")
        return content

    def _take_record(self, code: int, body: memoryview) -> None:
        """Keep a schema or a channel; one that is damaged is no loss before a message needs it."""
        try:
            if code == _SCHEMA:
                number, name = struct.unpack_from("<H", body)[0], _string(body, 2)[0]
                self._schemas[number] = name
            else:
                number, schema = struct.unpack_from("<HH", body)
                topic, at = _string(body, 4)
                self._channels[number] = (topic, schema, _string(body, at)[0])
        except (struct.error, ValueError) as error:
            self.note(f"damaged {'schema' if code == _SCHEMA else 'channel'}: {error}")


def _string(body: memoryview, at: int) -> tuple[str, int]:
    """Return a string that its length precedes, and where it ends."""
    length = struct.unpack_from("<I", body, at)[0]
    end = at + 4 + length
    if end > len(body):
        raise ValueError(f"{length} bytes announced, {len(body) - at - 4} left")
    return bytes(body[at + 4 : end]).decode("utf-8", "replace"), end


def _unpack(compression: bytes, packed: memoryview, limit: int) -> memoryview:
    if compression == b"":
        return packed
    if compression == b"zstd":
        return unzstd(packed, limit)
    if compression == b"lz4":
        return unlz4(packed, limit)
    raise EventDataError(f"unknown compression {compression!r}; known: none, zstd, lz4")
