"""The demo's video: windows in parts, with the boxes that a node published and the labels where there are any."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from snn_perception.runtime.labelled_drive import LabelledDrive
from snn_perception.runtime.render import draw_events, draw_window
from snn_perception.runtime.video import VideoWriter, count_distinct_frames
from snn_perception.types import Detections, EventWindow

WANTED_FRAMES = 80
FRAMES_PER_SECOND = 20


@dataclass(frozen=True)
class Seen:
    """A window and what is seen in it offline; the states in between are not kept, they are large."""

    window: EventWindow
    detections: Detections


@dataclass(frozen=True)
class Look:
    """What is drawn.

    Attributes:
        classes: names. drawn_from: detections with less score are left out. note: the line below the picture.
        drive: whose labels are drawn dashed; None for a recording without.
    """

    classes: Sequence[str]
    drawn_from: float = 0.0
    note: str = ""
    drive: LabelledDrive | None = None

    @property
    def legend(self) -> str:
        """The line below the picture, with what the boxes are."""
        threshold = f"boxes: score from {self.drawn_from:g}" if self.drawn_from else ""
        labels = f"dashed: labels ({self.drive.generator})" if self.drive else ""
        return "; ".join(filter(None, (self.note, labels, threshold)))


@dataclass(frozen=True)
class Shown:
    """One picture of the video: a part of a window, its number, the detections of the whole, and the labels."""

    part: EventWindow
    number: int
    detections: Detections
    labels: Detections | None = None


def pictures(seen: Sequence[Seen], received: Mapping[int, Detections], look: Look) -> Iterator[Shown]:
    """Yield each window with the boxes that came, in parts where a recording is short, so that it also makes a video.

    Args:
        received: end of a window in us -> detections.
    """
    parts = max(1, -(-WANTED_FRAMES // max(1, len(seen))))
    for number, one in enumerate(seen):
        window = one.window
        edges = np.linspace(window.t_start_us, window.t_end_us, parts + 1).astype(np.int64).tolist()
        cuts = np.searchsorted(window.events.t, edges).tolist()
        found = received.get(window.t_end_us, Detections.empty())
        found = found[found.score >= look.drawn_from]
        for k in range(parts):
            part = EventWindow(window.events[cuts[k] : cuts[k + 1]], edges[k], edges[k + 1], lossy=window.lossy)
            if number == 0 and not cuts[k + 1]:
                continue  # before the first event
            labels = look.drive.labels_at(part.t_end_us, look.classes) if look.drive else None
            yield Shown(part, number, found, labels)


def write_video(path: Path, shown: Iterable[Shown], look: Look) -> int:
    """Write the video; return how many of its frames differ, by their events and in the file.

    Raises:
        SnnPerceptionError: if it cannot be written.
    """
    by_events = set()
    with VideoWriter(path, fps=FRAMES_PER_SECOND) as video:
        for one in shown:
            by_events.add(draw_events(one.part.events).tobytes())
            video.write(
                draw_window(
                    one.part, one.detections, look.classes, number=one.number, note=look.legend, labels=one.labels
                )
            )
    return min(len(by_events), count_distinct_frames(path))
