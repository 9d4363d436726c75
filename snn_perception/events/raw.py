"""Prophesee RAW recordings: the sensor's own words behind a text header.

Reading goes through one buffer, so memory does not grow with the file, and a file that shrinks meanwhile ends the
recording instead of the process.
"""

from __future__ import annotations

import io
import logging
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from snn_perception.errors import EventDataError
from snn_perception.events import raw_header
from snn_perception.events.event_file import EventFile, kind_of, opened
from snn_perception.events.evt2 import Evt2Decoder, Evt21Decoder, Evt21eDecoder
from snn_perception.events.evt3 import Evt3Decoder
from snn_perception.events.raw_order import likelier_order
from snn_perception.events.raw_pieces import WordFile, pieces
from snn_perception.events.recording import CHUNK_EVENTS, from_time_on
from snn_perception.events.word_decoder import WordDecoder
from snn_perception.types import I64, DecodedEvents, SensorSize

log = logging.getLogger(__name__)

DECODERS: dict[str, type[WordDecoder]] = {
    "evt2": Evt2Decoder,
    "evt21": Evt21Decoder,
    "evt21e": Evt21eDecoder,
    "evt3": Evt3Decoder,
}
MARK_BYTES = 1 << 24  # between two places from which decoding can begin
_WIDEST = SensorSize(2048, 2048)  # coordinates have 11 bits
_NEVER_US = -(1 << 62)


@dataclass(frozen=True, eq=False)
class Mark:
    """A place in the file from which decoding can begin: its byte, the decoder's state there, and a time that no event
    before it is later than."""

    offset: int
    state: I64
    latest_us: int


class RawRecording(EventFile):
    """A RAW file of EVT2, EVT2.1 or EVT3 words.

    Time is that of the words, unwrapped (see the decoders); files that this project wrote may state what to add.

    EVT 2.1 exists in two orders of its halves. A header may state which (``endianness``). Where it does not, it is the
    order in which time runs on at the beginning of the file, and the legacy order (``evt21e``: halves swapped, as
    IMX636 sends them) where that does not tell.

    Args:
        path: the file.
        size: (height, width) of the sensor, in place of what the header states. Where neither does, the smallest size
            that holds every event is used, found by a pass over the file (`size_inferred`).
        encoding: evt2, evt21, evt21e or evt3, in place of what the header states.

    Attributes:
        header: what the header says.
        notes: what a person should know about the file (a ragged tail, an inferred size), found so far.

    Raises:
        EventDataError: if the file cannot be read or its header is not one of these.
    """

    format = "raw"

    def __init__(
        self, path: str | Path, *, size: tuple[int, int] | list[int] | None = None, encoding: str | None = None
    ) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise EventDataError(f"{self.path}: expected a RAW file, got {kind_of(self.path)}")
        if encoding is not None and encoding not in DECODERS:
            raise EventDataError(f"{self.path}: expected encoding {', '.join(DECODERS)}, got {encoding!r}")
        with opened(self.path) as file:
            head = file.read(raw_header.MAX_HEADER_BYTES)
            self._total = file.seek(0, io.SEEK_END)
        self.header = raw_header.parse_header(head, self.path)
        self.notes: list[str] = []
        self._done = 0
        self.encoding = encoding or self._stated_encoding(head[self.header.data_offset :])
        self._stated = SensorSize(*size) if size is not None else raw_header.stated_size(self.header, self.path)
        self._marks = [Mark(self.header.data_offset, self._new_decoder().snapshot(), _NEVER_US)]

    @staticmethod
    def claims(path: Path) -> bool:
        """Return whether `path` is a file called ``.raw``, or of any other name with the header of one."""
        if not path.is_file():
            return False
        if path.suffix.lower() == ".raw":
            return True
        try:
            with path.open("rb") as file:
                return raw_header.looks_like_raw(file.read(raw_header.MAX_HEADER_BYTES))
        except OSError:
            return False

    def chunks(
        self, max_events: int = CHUNK_EVENTS, *, start_us: int | None = None, align_us: int | None = None
    ) -> Iterator[DecodedEvents]:
        """Yield the events in pieces of at most `max_events`; t in us, unwrapped (see `Recording.chunks`).

        Long silence ends a piece too. What could not be used is counted in the piece it was in; the bytes of an
        unfinished last word are counted in the last piece. Every pass leaves marks in memory, from which a later one
        reaches its `start_us`; without them it decodes from the front.

        Raises:
            ValueError: if `max_events` or `align_us` is not positive.
        """
        if max_events < 1 or (align_us is not None and align_us < 1):
            raise ValueError(f"max_events and align_us must be at least 1, got {max_events} and {align_us}")
        found = self._walk(self.size, max_events, align_us, start_us)
        return found if start_us is None else from_time_on(found, start_us)

    def _walk(
        self, size: SensorSize, max_events: int, align_us: int | None = None, start_us: int | None = None
    ) -> Iterator[DecodedEvents]:
        """Yield pieces from the last mark before `start_us` is reached, or from the front."""
        mark = self._marks[0] if start_us is None else self._mark_before(start_us)
        self._done = mark.offset
        decoder = self._new_decoder()
        decoder.restore(mark.state)
        with opened(self.path) as file:
            source = WordFile(file, mark.offset, decoder)

            def note() -> None:
                if source.position - self._marks[-1].offset >= MARK_BYTES:
                    self._marks.append(Mark(source.position, decoder.snapshot(), decoder.latest_us))

            for piece in pieces(decoder, source, size, max_events, align_us, note):
                self._done = source.position
                yield piece
        if source.ragged:
            self._note(f"ends within a word: {source.ragged} bytes ignored")

    def _mark_before(self, start_us: int) -> Mark:
        return self._marks[max(0, bisect_left(self._marks, start_us, key=lambda mark: mark.latest_us) - 1)]

    def _new_decoder(self) -> WordDecoder:
        decoder = DECODERS[self.encoding]()
        decoder.of_file(raw_header.stated_offset(self.header, self.path))
        return decoder

    def _stated_encoding(self, words: bytes) -> str:
        encoding, is_whole = raw_header.stated_encoding(self.header, self.path)
        if is_whole:
            return encoding
        encoding, is_sure = likelier_order(words)
        why = "in which time runs on" if is_sure else "that older cameras send; time does not tell"
        self._note(f"does not state the order of its EVT 2.1 words; taken is {encoding}, {why}")
        return encoding

    def _infer_size(self) -> SensorSize:
        largest_x = largest_y = -1
        for piece in self._walk(_WIDEST, CHUNK_EVENTS):
            if len(piece):
                largest_x, largest_y = max(largest_x, int(piece.x.max())), max(largest_y, int(piece.y.max()))
        if largest_x < 0:
            raise EventDataError(f"{self.path}: states no sensor size and holds no events; give the size: --size WxH")
        size = SensorSize(largest_y + 1, largest_x + 1)
        self._note(f"states no sensor size; used is {size} px, the smallest that holds its events")
        return size
