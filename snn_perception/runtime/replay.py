"""A recording through a pipeline, window by window: what the node would have published, offline."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter_ns, process_time_ns

from snn_perception.discovery import load_registry
from snn_perception.errors import EventDataError
from snn_perception.events.recording import Recording, open_recording
from snn_perception.events.stream import PacketWindows, StreamCounts
from snn_perception.events.windower import Windower
from snn_perception.registry import Registry
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.stream import StreamState
from snn_perception.types import DecodedEvents, Detections, EventWindow

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Replayed:
    """One window of a replay: its events, what was seen in it, and the stream's state after it.

    `wall_ns` and `cpu_ns` are what the step from window to detections took, the latter over all threads.
    """

    window: EventWindow
    detections: Detections
    stream: StreamState
    wall_ns: int = 0
    cpu_ns: int = 0


class WindowSource:
    """The windows of a recording, in order, and what was lost on the way.

    A packet recording is decoded and cut exactly as the live node does it; a file recording is complete, so that
    silence in it is silence, however long.

    Args:
        max_gap_us: what counts as an interruption of a packet recording.
        t_start_us: start of the first window; by default the window that holds the first event.
    """

    def __init__(
        self,
        recording: Recording,
        registry: Registry,
        window_us: int,
        *,
        max_gap_us: int,
        t_start_us: int | None = None,
    ) -> None:
        self.recording = recording
        self.packets: PacketWindows | None = None
        self._windower: Windower | None = None
        self._counts = StreamCounts()
        if recording.is_packets:
            self.packets = PacketWindows(
                registry, window_us, max_gap_us=max_gap_us, size=recording.size, topic=str(recording.path)
            )
        else:
            self._windower = Windower(window_us, recording.size, t_start_us=t_start_us)

    @property
    def counts(self) -> StreamCounts:
        """What was read and what could not be used, so far."""
        return self._counts if self.packets is None else self.packets.stream.counts

    @property
    def windower(self) -> Windower | None:
        """What cuts the windows, and counts gaps and disorder; None before the first packet."""
        return self._windower if self.packets is None else self.packets.windower

    def __iter__(self) -> Iterator[EventWindow]:
        """Yield every window, the last partial one included."""
        if self.packets is not None:
            yield from self._from_packets(self.packets)
        elif self._windower is not None:
            for chunk in self.recording.chunks():
                self._count(chunk)
                yield from self._windower.push(chunk)
            yield from self._windower.flush()

    def _from_packets(self, packets: PacketWindows) -> Iterator[EventWindow]:
        """Yield what the packets give; one that cannot be read is counted and passed over, as the node does."""
        last_error: EventDataError | None = None
        for packet in self.recording.packets():
            try:
                yield from packets.push(packet)
            except EventDataError as error:
                if self.counts.bad_packets == 1:
                    log.warning("%s: a packet cannot be read: %s", self.recording.path, error)
                last_error = error
        if self.counts.bad_packets and not self.counts.packets:
            raise EventDataError(f"{self.recording.path}: no packet can be read: {last_error}")
        yield from packets.flush()

    def _count(self, chunk: DecodedEvents) -> None:
        counts = self._counts
        self._counts = replace(
            counts,
            events=counts.events + len(chunk),
            triggers=counts.triggers + len(chunk.triggers),
            losses=counts.losses + chunk.losses,
        )


def replay(
    windows: str | Path | Recording | Iterable[EventWindow],
    pipeline: DetectionPipeline,
    stream: StreamState | None = None,
    *,
    registry: Registry | None = None,
) -> Iterator[Replayed]:
    """Yield each window with its detections, carrying the state from one to the next.

    Args:
        windows: a recording or its path, or windows from anywhere.
        stream: where to start; at rest by default.
        registry: for the readers and decoders of a recording; by default every installed plugin.

    Raises:
        EventDataError: if the recording cannot be read.
    """
    stream = stream or StreamState()
    if isinstance(windows, (str, Path, Recording)):
        registry = registry or load_registry()
        recording = windows if isinstance(windows, Recording) else open_recording(windows, registry)
        windows = WindowSource(recording, registry, pipeline.spec.window_us, max_gap_us=pipeline.max_gap_us)
    for window in windows:
        wall_ns, cpu_ns = perf_counter_ns(), process_time_ns()
        detections, stream = pipeline.step(window, stream)
        wall_ns, cpu_ns = perf_counter_ns() - wall_ns, process_time_ns() - cpu_ns
        yield Replayed(window, detections, stream, wall_ns, cpu_ns)
