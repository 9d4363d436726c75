"""A file's words on their way to events: read through one buffer, decoded into pieces, pieces cut to measure."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from snn_perception.events.word_decoder import FOREVER_US, Columns, WordDecoder, Words
from snn_perception.types import I64, DecodedEvents, Packet, SensorSize, Triggers

BUFFER_BYTES = 1 << 18  # measured: shorter ones are slower, longer ones no faster
PIECE_BYTES = 1 << 24  # so much silence, or damage, ends a piece too
LEAST_ROWS, MOST_ROWS = 1 << 10, 1 << 22  # decoded at once, whatever is asked for


class WordFile:
    """The words of an open file from a byte on, a bufferful at a time.

    Attributes:
        words: those at hand; at: the next one to decode.
        ragged: bytes at the end of the file that fill no word.
    """

    def __init__(self, file: io.FileIO, offset: int, decoder: WordDecoder) -> None:
        self._file, self._decoder = file, decoder
        self._buffer = np.empty(BUFFER_BYTES, np.uint8)
        self._offset = file.seek(offset)
        self._word_bytes = np.dtype(decoder.record).itemsize
        self._is_last = False
        self.words: Words = np.empty(0, decoder.record)
        self.at = self.ragged = 0

    @property
    def position(self) -> int:
        """Byte of the next word; at the end, that after the last."""
        return self._offset + self.at * self._word_bytes

    def read(self) -> bool:
        """Read on when all words at hand are decoded; return whether anything came."""
        self._offset = self.position + self.ragged
        filled, view = 0, self._buffer.data
        while not self._is_last and filled < BUFFER_BYTES and (got := self._file.readinto(view[filled:])):
            filled += got
        self.at, self._is_last = 0, filled < BUFFER_BYTES
        self.words, ragged = self._decoder.packet_words(Packet(self._buffer[:filled], "", None))
        if filled:
            self.ragged = ragged
        return filled > 0


def pieces(
    decoder: WordDecoder,
    source: WordFile,
    size: SensorSize,
    max_events: int,
    align_us: int | None = None,
    before_piece: Callable[[], None] = lambda: None,
) -> Iterator[DecodedEvents]:
    """Yield what the words hold in pieces of at most `max_events`, which end at multiples of `align_us` if they can."""
    rows = min(max(max_events, LEAST_ROWS), MOST_ROWS)
    held: DecodedEvents | None = None
    until_us, ended = FOREVER_US, False
    while not ended:
        before_piece()
        columns = _columns(rows, held)
        decoder.begin(*((len(held), held.in_order) if held is not None else (0, True)), until_us)
        start = source.position
        ended = _fill(decoder, source, columns, size)
        if source.position == start and held is None:
            break
        piece = decoder.piece(columns, size, source.ragged if ended else 0)
        if held is not None:
            piece, held = _with_told(held, piece), None
        if align_us is not None and len(piece):
            until_us = _end_of_next(piece, rows, align_us)
        while (cut := _cut(piece.t, max_events, align_us, ended)) < len(piece):
            front, piece = piece.split(cut)
            yield front
            if align_us is not None and not ended and len(piece) < max_events:
                held = piece
                break
        else:
            yield piece


def _end_of_next(piece: DecodedEvents, rows: int, align_us: int) -> int:
    """Return the multiple at which the piece after this one had best end, so that little must be held back."""
    now = int(piece.t[-1]) if piece.t_reached is None else piece.t_reached
    span_us = (int(piece.t[-1]) - int(piece.t[0]) + 1) * rows // len(piece)
    return (now + max(align_us, span_us * 7 // 8)) // align_us * align_us


def _fill(decoder: WordDecoder, source: WordFile, columns: Columns, size: SensorSize) -> bool:
    """Decode until the columns are full, or much was read; return whether the file has ended."""
    start = source.position
    while decoder.told < LEAST_ROWS and source.position - start < PIECE_BYTES:
        if source.at == len(source.words) and not source.read():
            return True
        source.at = decoder.fill(source.words, source.at, columns, size)
        if source.at < len(source.words):
            break
    return False


def _columns(rows: int, held: DecodedEvents | None) -> Columns:
    """Return columns that begin with the events held back, in one block: memory of one size is soon used again."""
    block = np.empty(13 * rows, np.uint8)
    t, pixels, p = block[: 8 * rows].view(np.int64), block[8 * rows : 12 * rows].view(np.uint16), block[12 * rows :]
    x, y = pixels[:rows], pixels[rows:]
    if held is not None:
        n = len(held)
        x[:n], y[:n], p[:n], t[:n] = held.x, held.y, held.p, held.t
    return x, y, p, t


def _with_told(held: DecodedEvents, piece: DecodedEvents) -> DecodedEvents:
    """Return the piece, which begins with the events held back, with their leaps and triggers."""
    if not len(held.leaps) and not len(held.triggers):
        return piece
    pairs = ((getattr(held.triggers, name), getattr(piece.triggers, name)) for name in ("t", "edge", "id"))
    triggers = Triggers(*(np.concatenate(pair) for pair in pairs))
    return replace(piece, leaps=np.concatenate([held.leaps, piece.leaps]), triggers=triggers)


def _cut(t: I64, max_events: int, align_us: int | None, ended: bool) -> int:
    """Return how many of the events at `t` make the next piece."""
    count = min(len(t), max_events)
    if align_us is None or count == 0 or (ended and count == len(t)):
        return count
    edge = int(t[count - 1]) // align_us * align_us
    return max(1, int(np.searchsorted(t[:count], edge))) if t[0] < edge else count
