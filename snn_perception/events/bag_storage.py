"""What a storage file of a bag offers, whatever its format, and the bounds that hold for all of them."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from snn_perception.errors import EventDataError

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = (1 << 26) + (1 << 16)  # the decoders' bound on a payload, and room for what surrounds it
_PIECE = 1 << 20
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class StoredMessage:
    """A message as it was recorded: when (host clock, ns) and its serialized bytes."""

    log_time_ns: int
    data: bytes | memoryview


class BagStorage(ABC):
    """One storage file.

    Attributes:
        topics: message type of each topic found so far.
        notes: what is damaged or missing, found so far; each is logged once.
        fraction: how far the pass under way has come, 0 to 1.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.topics: dict[str, str] = {}
        self.notes: list[str] = []
        self.fraction = 0.0

    @abstractmethod
    def messages(self, topic: str) -> Iterator[StoredMessage]:
        """Yield a topic's messages by log time. A damaged end is a note; EventDataError where nothing can be read."""

    def note(self, text: str) -> None:
        """Keep a finding for people and log it, once."""
        if text not in self.notes:
            self.notes.append(text)
            log.warning("%s: %s", self.path, text)


def inflate_message(data: bytes | memoryview) -> bytes | memoryview:
    """Return a message unpacked, where the recorder compressed each by itself (serialized messages never begin so)."""
    return unzstd(data, MAX_MESSAGE_BYTES) if bytes(data[:4]) == _ZSTD_MAGIC else data


def unzstd(data: bytes | memoryview, limit: int) -> memoryview:
    """Return zstd data unpacked, as far as it goes: a frame that is cut off gives what its bytes hold.

    Raises:
        EventDataError: for other data, or more than `limit` bytes.
    """
    import zstandard

    out = bytearray()
    try:
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            while piece := reader.read(_PIECE):
                out += piece
                _require_below(len(out), limit)
    except zstandard.ZstdError as error:
        raise EventDataError(f"damaged zstd data: {error}") from None
    return memoryview(out).toreadonly()


def unlz4(data: bytes | memoryview, limit: int) -> memoryview:
    """Return an lz4 frame unpacked, as far as it goes. Raises EventDataError as `unzstd` does."""
    import lz4.frame

    out = bytearray()
    decompressor = lz4.frame.LZ4FrameDecompressor()
    try:
        piece = decompressor.decompress(bytes(data), max_length=_PIECE)
        while piece:
            out += piece
            _require_below(len(out), limit)
            piece = b"" if decompressor.eof or decompressor.needs_input else decompressor.decompress(b"", _PIECE)
    except (RuntimeError, EOFError, ValueError) as error:
        raise EventDataError(f"damaged lz4 data: {error}") from None
    return memoryview(out).toreadonly()


def _require_below(size: int, limit: int) -> None:
    if size > limit:
        raise EventDataError(f"unpacks to more than {limit} bytes")
