"""Decodes Prophesee EVT 2.0 and EVT 2.1 words, as RAW files hold them and drivers may send them."""

from __future__ import annotations

import sys

import numpy as np

from snn_perception.events import evt2_kernels as k
from snn_perception.events.payload import records
from snn_perception.events.word_decoder import Columns, WordDecoder, Words
from snn_perception.types import Packet, SensorSize


class Evt2Decoder(WordDecoder):
    """Returns the events of one stream's packets; carries time from one packet to the next.

    How the words are cut into packets does not show in the result. Events before the first TIME_HIGH are dropped.
    Sensor time is in us, ``wraps * 2^34 + high * 64 + low``: a high part that falls by more than half of its range has
    wrapped (every 4.77 h), and one that rises as much just after a wrap is a straggler from before it. A smaller fall
    is taken as it is, and is a leap where it exceeds `JITTER_US`. Known times, on which `leaps` and `t_reached` rest,
    are those of events, of triggers, and of TIME_HIGH words that differ from the last.
    """

    kernels = k
    record = np.uint32

    def count(self, words: Words) -> int:
        """Return how many rows the events of the words take at most: one a word."""
        return len(words)


class Evt21Decoder(WordDecoder):
    """Returns the events of one stream's packets of 64-bit words, little endian (``evt21``; GenX320 sends them).

    As `Evt2Decoder`, but for a word of events, which holds those of up to 32 neighbours along x. They are told by
    rising x.
    """

    kernels = k
    record = np.uint64
    head = 1 if sys.byteorder == "little" else 0  # which half of a native word is the upper one

    def packet_words(self, packet: Packet) -> tuple[Words, int]:
        """Return the payload's words as native halves uint32 [N, 2], and the number of bytes that fill none."""
        words, ragged = records(packet, np.uint64)
        return words.view(np.uint32).reshape(-1, 2), ragged

    def count(self, words: Words) -> int:
        """Return how many events the words hold."""
        return int(k.count_vector_events(words, self.head))

    def run(self, words: Words, start: int, columns: Columns, size: SensorSize) -> int:
        """Call the inner loop once; see `WordDecoder.run`."""
        args = (self._triggers, self._leaps, size.width, size.height, self._state)
        return k.decode_vector_words(words, self.head, start, *columns, *args)  # type: ignore[no-any-return]


class Evt21eDecoder(Evt21Decoder):
    """As `Evt21Decoder`, for words sent as two 32-bit halves, the upper one first (``evt21e``, called legacy; IMX636
    sends them). A big-endian packet has the bytes of each half swapped."""

    head = 0

    def packet_words(self, packet: Packet) -> tuple[Words, int]:
        """Return the payload's words as native halves uint32 [N, 2], and the number of bytes that fill none."""
        halves, _ = records(packet, np.uint32)
        return halves[: len(halves) // 2 * 2].reshape(-1, 2), len(packet.data) % 8
