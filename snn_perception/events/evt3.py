"""Decodes Prophesee EVT 3.0 words, as ROS drivers send them in EventPacket messages."""

from __future__ import annotations

import numpy as np

from snn_perception.events import evt3_kernels as k
from snn_perception.events.word_decoder import Columns, WordDecoder, Words
from snn_perception.types import EventArray, Packet, SensorSize


class Evt3Decoder(WordDecoder):
    """Returns the events of one stream's packets; carries row, vector base and time from one packet to the next.

    How the words are cut into packets does not show in the result, once time has started. It starts with a TIME_HIGH
    and a TIME_LOW word in the same packet; everything before, rows included, is dropped. Events also wait for the
    first row, and vectors for the first base. Sensor time is in us, ``wraps * 2^24 + high * 4096 + low``. A high half
    smaller than the last by more than 10 is a wrap; by less, it is a glitch that some devices show, taken as it is. No
    decoder can tell how often time wrapped within a loss of more than 16.7 s.

    Known times, on which `leaps` and `t_reached` rest: A TIME_HIGH that differs from the last says little by itself,
    since the low half in force is the old one. Its time is settled by the word after it: by a TIME_LOW (high and low
    are one time then), by an event or trigger (which takes the old low half), or by another, different TIME_HIGH (the
    time of the first is then ``high * 4096``: the sensor ran through silence). While it is unsettled, `t_reached` is
    ``high * 4096``, which no later event can precede, or the time before it where this step may turn out a leap: no
    window closes across a gap before the gap is told.
    """

    kernels = k
    record = np.uint16

    def __init__(self) -> None:
        super().__init__()
        self._store = np.empty(k.BLOCK, np.uint64)

    def run(self, words: Words, start: int, columns: Columns, size: SensorSize) -> int:
        """Call the inner loop once; see `WordDecoder.run`."""
        args = (self._triggers, self._leaps, self._store, size.width, size.height, self._state)
        return k.decode_words(words, start, *columns, *args)  # type: ignore[no-any-return]


def warm_up() -> None:
    """Compile every kernel that decodes packets (or load it from disk), so that the first packet waits for none."""
    from snn_perception.events.evt2 import Evt2Decoder, Evt21Decoder
    from snn_perception.events.libcaer import LibcaerCmpDecoder
    from snn_perception.events.point_layout import pack_points
    from snn_perception.events.pointcloud import PointCloudDecoder

    for decoder in (Evt3Decoder(), LibcaerCmpDecoder(), Evt2Decoder(), Evt21Decoder()):
        decoder.decode(Packet(np.zeros(8, np.uint8), "", SensorSize(1, 1)))
    layout, point = pack_points(EventArray.empty(SensorSize(1, 1)), 0)
    PointCloudDecoder().decode(Packet(np.frombuffer(point, np.uint8), "", SensorSize(1, 1), layout=layout))
