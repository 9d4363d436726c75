"""What a replay did, in numbers: windows, events, losses, detections, and how long a window took."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from snn_perception.events.stream_counts import StreamCounts
from snn_perception.images.recording import ImageSource
from snn_perception.runtime.replay import Replayed, WindowSource
from snn_perception.types import EventWindow


class ReplayReport:
    """Adds up a replay, window by window; holds numbers only, some 16 bytes per window."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.windows = self.empty = self.lossy = self.events = self.gaps = self.resets = 0
        self.t_start_us: int | None = None
        self.t_end_us: int | None = None
        self._detections = np.zeros(len(classes), np.int64)
        self._wall_ns, self._cpu_ns = array("q"), array("q")
        self._steps: Counter[int] = Counter()

    def add(self, step: Replayed) -> None:
        """Count one window."""
        self.windows += 1
        self.empty += isinstance(step.window, EventWindow) and not len(step.window.events)
        self.lossy += step.window.lossy
        self.events += step.window.event_count
        self.gaps, self.resets = step.stream.gaps, step.stream.resets
        if self.t_start_us is None:
            self.t_start_us = step.window.t_start_us
        self.t_end_us = step.window.t_end_us
        self._detections += np.bincount(step.detections.class_id, minlength=len(self.classes))
        self._wall_ns.append(step.wall_ns)
        self._cpu_ns.append(step.cpu_ns)
        if step.detections.steps is not None:
            self._steps[step.detections.steps] += 1

    def detections(self) -> dict[str, int]:
        """Return the number of detections of each class."""
        return dict(zip(self.classes, self._detections.tolist(), strict=True))

    def latency_ms(self) -> dict[str, float] | None:
        """Return the median and 95th percentile from window to detections, by the clock and in processor time.

        None if there were no windows.
        """
        if not self.windows:
            return None
        return {
            f"{clock}_p{percent}": round(float(np.percentile(times, percent)) / 1e6, 4)
            for clock, times in (("wall", self._wall_ns), ("cpu", self._cpu_ns))
            for percent in (50, 95)
        }

    def as_dict(self) -> dict[str, Any]:
        """Return every number in plain types, for JSON."""
        return {
            "windows": self.windows,
            "empty_windows": self.empty,
            "lossy_windows": self.lossy,
            "events": self.events,
            "t_start_us": self.t_start_us,
            "t_end_us": self.t_end_us,
            "covered_s": ((self.t_end_us or 0) - (self.t_start_us or 0)) / 1e6,
            "gaps": self.gaps,
            "resets": self.resets,
            "detections": self.detections(),
            "latency_ms": self.latency_ms(),
            "network_steps": {str(steps): self._steps[steps] for steps in sorted(self._steps)} or None,
        }


def losses_of(source: WindowSource | ImageSource) -> dict[str, int]:
    """Return what was lost on the way from the recording to the windows, by kind, so far.

    Packets: ``lost_packets`` in ``sequence_gaps`` places, ``bad_packets`` that cannot be read (numbered ones are also
    among the lost), ``late_packets`` and ``duplicates`` ignored, ``restarts`` of the driver. Inside packets: see
    `Losses`. ``disordered``: events that came late and were moved up to the time already reached. ``overflowed``:
    events beyond what a window may hold. Of images ``bad_images`` alone, those that cannot be read.
    """
    if isinstance(source, ImageSource):
        return {"bad_images": source.stream.bad_images}
    counts: StreamCounts = source.counts
    return {
        "lost_packets": counts.lost_packets,
        "sequence_gaps": counts.sequence_gaps,
        "bad_packets": counts.bad_packets,
        "late_packets": counts.late_packets,
        "duplicates": counts.duplicates,
        "restarts": counts.restarts,
        **asdict(counts.losses),
        "disordered": source.windower.disordered if source.windower else 0,
        "overflowed": source.windower.overflowed if source.windower else 0,
    }
