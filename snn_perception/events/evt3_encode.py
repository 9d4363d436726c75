"""Writes events as Prophesee EVT 3.0 words, and as the packets that a camera's driver would send."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from snn_perception.errors import EventDataError
from snn_perception.events import evt3_encode_kernels as k
from snn_perception.events.intervals import by_interval, columns_of
from snn_perception.types import EventArray, Packet, SensorSize

MAX_SIDE_PX = 1 << 11  # coordinates have 11 bits
MAX_SILENCE_US = 24 * 3600 * 1_000_000  # 42 MB of time words; a longer one is a broken clock, not a camera at rest
_STRIDE = 23  # high halves of 4096 us: with a low half on top, still below LEAP_US


class Evt3Encoder:
    """Turns one stream's events into EVT3 words that decode to the same events, in the same order.

    Time is told as devices tell it: a TIME_HIGH word at least every 4096 us, also through silence. EVT3 has 24 bits
    of time, so a decoder that starts with this stream gives ``t - k * 2^24`` us with one constant
    ``k = floor(t_start / 2^24)``, where t_start is the first time told; from there on it counts the wraps.

    Attributes:
        size: sensor size.
        self_contained: every call begins with the time reached and repeats row and vector base, so that its words
            can be decoded alone, as drivers' packets can. Without it the words only continue those before.
    """

    def __init__(self, size: SensorSize, *, self_contained: bool = True, t_start_us: int | None = None) -> None:
        """Start a stream at `t_start_us`, or with its first event.

        Raises:
            EventDataError: if the sensor is wider or higher than EVT3 can tell.
        """
        if max(size.width, size.height) > MAX_SIDE_PX:
            raise EventDataError(f"evt3: expected a sensor of at most {MAX_SIDE_PX}x{MAX_SIDE_PX}, got {size}")
        self.size, self.self_contained = size, self_contained
        self._state = k.new_state()
        self._t_start_us = t_start_us
        self._started = False

    def encode(self, events: EventArray, t_until_us: int | None = None) -> bytes:
        """Return the words, little endian, of the events and of the silence after them, up to `t_until_us`.

        Later events may not precede `t_until_us`, nor the last event.

        Raises:
            EventDataError: if events are out of order, outside the sensor, before the time already reached, or after a
                silence of more than a day.
        """
        last = int(events.t[-1]) if len(events) else None
        until = last if t_until_us is None else t_until_us
        if until is None:
            return b""
        if last is not None and until < last:
            raise EventDataError(f"evt3: expected t_until_us after the last event at {last} us, got {until}")
        begins = not self._started
        self._check(events, self._t_start_us if begins else int(self._state[k.TIME]), until)
        if begins:
            first = int(events.t[0]) if len(events) else until
            self._state[k.TIME] = first if self._t_start_us is None else self._t_start_us
        words = np.empty(self._most_words(events, until), np.uint16)
        n = 0
        if begins or self.self_contained:
            self._state[k.ROW] = self._state[k.BASE] = -1
            n = k.tell_time(words, n, self._state)
        self._started = True
        n = k.encode_words(events.x, events.y, events.p, events.t, words, n, self._state)
        n = k.advance(until, words, n, self._state)
        return words[:n].astype("<u2").tobytes()

    def _check(self, events: EventArray, reached: int | None, until: int) -> None:
        """Raise EventDataError for what cannot be told after `reached` (None before a stream begins)."""
        if events.size != self.size:
            raise EventDataError(f"evt3: expected events of a {self.size} sensor, got {events.size}")
        first = int(events.t[0]) if len(events) else until
        begin = first if reached is None else reached
        is_fine, longest, at = k.judge(
            events.x, events.y, events.p, events.t, self.size.width, self.size.height, begin, until
        )
        if not is_fine:
            try:
                events.validate()
            except ValueError as error:
                raise EventDataError(f"evt3: {error}") from error
        if first < begin:
            raise EventDataError(f"evt3: expected no time before {begin} us, which is already told, got {first} us")
        if longest > MAX_SILENCE_US:
            raise EventDataError(
                f"evt3: silence of {longest} us before event {at}, expected at most {MAX_SILENCE_US}; mend the times "
                "or split the recording there"
            )

    def _most_words(self, events: EventArray, until: int) -> int:
        highs = (until >> 12) - (int(self._state[k.TIME]) >> 12)
        return len(events) * k.WORDS_PER_EVENT + highs + 4  # time words before and after


def lead_in(t_us: int) -> bytes:
    """Return the words, little endian, that take a decoder from time 0 through silence to `t_us`.

    Time is told in steps just short of what a reader reports as a leap: 2 bytes for 94 ms.

    Raises:
        EventDataError: for a time before 0, or beyond `MAX_SILENCE_US`.
    """
    if not 0 <= t_us <= MAX_SILENCE_US:
        raise EventDataError(
            f"evt3: expected a stream to begin within a day of time 0, got {t_us} us; EVT3 counts time from 0: write "
            "times relative to the first event (convert --rebase)"
        )
    high = k.TIME_HIGH << 12
    begin = np.array([high, k.TIME_LOW << 12], "<u2")
    through = np.arange(_STRIDE, t_us >> 12, _STRIDE) & 0xFFF | high
    end = np.array([t_us >> 12 & 0xFFF | high, k.TIME_LOW << 12 | t_us & 0xFFF], "<u2")
    return b"".join((begin.tobytes(), through.astype("<u2").tobytes(), end.tobytes()))


def packetize(
    events: Iterable[EventArray],
    size: SensorSize,
    *,
    interval_us: int = 4_000,
    stamp_offset_ns: int = 0,
    seq: int = 0,
    frame_id: str = "",
    from_zero: bool = False,
) -> Iterator[Packet]:
    """Yield the packets in which a driver would send these events, one per interval of sensor time, silent ones too.

    Intervals lie on a grid from sensor time 0; the first is that of the first event. A packet begins with the time at
    which its interval does, ends with the time at which it ends, and can be decoded alone. An interval of very many
    events is sent in several packets.

    Args:
        events: chunks of one stream in order of time.
        interval_us: length of a packet; drivers use 1 to 10 ms.
        stamp_offset_ns: stamp minus sensor time; the stamp is that of the interval's start.
        seq: number of the first packet.
        from_zero: let the first packet tell the silence since time 0 (`lead_in`), so that a decoder gives the very
            times of `events`; without it, it gives them but for a multiple of 2^24 us.

    Raises:
        EventDataError: as `Evt3Encoder.encode` and, `from_zero`, as `lead_in`.
    """
    encoder: Evt3Encoder | None = None
    for start, reached, columns in by_interval(map(columns_of, events), interval_us, max_silence=MAX_SILENCE_US):
        head = b""
        if encoder is None:
            head = lead_in(start) if from_zero else b""
            encoder = Evt3Encoder(size, t_start_us=start)
        data = head + encoder.encode(EventArray(*columns, size), reached)
        stamp_ns = start * 1000 + stamp_offset_ns
        yield Packet(np.frombuffer(data, np.uint8), "evt3", size, seq=seq, stamp_ns=stamp_ns, frame_id=frame_id)
        seq += 1
