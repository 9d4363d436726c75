"""One recording of an evaluation: its windows in order, which of them labels fall into, and what was seen there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from snn_perception.data.dataset import LabelledRecording
from snn_perception.data.label_filters import select_classes
from snn_perception.data.label_windows import LabelWindows, label_times
from snn_perception.data.labels import Labels
from snn_perception.data.stored import StoredWindow, StoredWindows, check_fed
from snn_perception.data.window_rule import WindowRule
from snn_perception.detector import Detector
from snn_perception.errors import EventDataError
from snn_perception.evaluation.activity import Activity
from snn_perception.evaluation.outcome import RecordingOutcome, set_ends
from snn_perception.events.recording import Recording
from snn_perception.events.window_source import WindowSource, events_between
from snn_perception.registry import Registry
from snn_perception.runtime.stream import StreamState
from snn_perception.spec import ModelSpec
from snn_perception.types import Detections, EventArray, EventWindow, SensorSize

MAX_TAIL_US = 10_000_000


@dataclass(frozen=True)
class WalkOptions:
    """How recordings are walked.

    Attributes:
        truth_classes: number of a class in the data set -> in the evaluation; labels of others are left out.
        found_classes: the same for the model's classes and its detections.
        max_windows: stop after so many; labels after them are left out.
        all_windows: run the model in every window, also where it starts each from rest and only labelled ones count.
        silent: tell which labels are of objects that emit no events.
        rule: how windows are cut.
    """

    truth_classes: Mapping[int, int]
    found_classes: Mapping[int, int]
    max_windows: int | None = None
    all_windows: bool = False
    silent: bool = True
    rule: WindowRule = field(default_factory=WindowRule)


class RecordingWalk:
    """A recording under way: asks for no window twice and keeps only what was seen where labels are.

    Args:
        detector: whose windows they are.

    Raises:
        EventDataError: if it cannot be read, or holds histograms in place of events that the model cannot be fed from.
    """

    def __init__(
        self, labelled: LabelledRecording, registry: Registry, detector: Detector, options: WalkOptions
    ) -> None:
        self.labelled, self._registry, self._options = labelled, registry, options
        self._spec = spec = detector.spec
        self._is_timed = labelled.is_sequence or not options.rule.is_grid
        stored = _stored_windows(labelled, detector, options.rule) if labelled.is_sequence else None
        self.recording = labelled.open(registry) if stored is None else None
        labels, notes = labelled.labels_and_notes()
        self._notes = list(notes)
        self.truth = self._truth(labels)
        self._set_ends = set_ends(self.truth.t_us, spec.stride_us, at_labels=self._is_timed)
        self._wanted = set(self._set_ends.tolist())
        self._needs_all = spec.state_policy == "carry" or options.all_windows
        self._set_end_us = 0  # that the latest window stands for
        self.stream = StreamState()
        self._seen: dict[int, Detections] = {}
        self._set_events: dict[int, int] = {}
        self._activity = Activity()
        self._windows = self._events = self._end_us = 0
        if self.recording is None or self._is_timed:
            self._walk = self._windows_of_labels(stored)
        else:
            self._walk = self._windows_of_grid(self.recording)

    def next(self) -> EventWindow | None:
        """Return the next window that the model must see, None at the end."""
        for set_end_us, window in self._walk:
            self._windows += 1
            self._events += _count(window)
            self._end_us = max(self._end_us, set_end_us)
            self._set_end_us = set_end_us
            if self._needs_all or set_end_us in self._wanted:
                return window
        return None

    def wants(self, window: EventWindow) -> bool:
        """Return whether what is seen in the latest window counts: a label lies in what it adds to the one before."""
        return self._set_end_us in self._wanted and self._set_end_us not in self._seen

    def add(self, window: EventWindow, found: Detections | None, stream: StreamState, activity: Activity) -> None:
        """Take what the model made of the latest window."""
        if not self._is_timed:  # windows at labels do not follow one another
            self.stream = stream
        if activity.windows:
            self._activity = self._activity + activity
        if found is not None:
            self._seen[self._set_end_us] = found
            self._set_events[self._set_end_us] = _count(window)

    def progress(self) -> float:
        """Return which share of the recording is done, as far as its reader can tell."""
        done, total = self.recording.progress() if self.recording is not None else (0, 0)
        return min(1.0, done / total) if total else 0.0

    def outcome(self) -> RecordingOutcome:
        """Return what came of it, after the last window."""
        looked = self._set_ends[np.isin(self._set_ends, list(self._seen))]
        sets = [self._kept(self._seen[end]) for end in looked.tolist()]
        xyxy = np.concatenate([np.empty((0, 4), np.float32), *(one.xyxy for one in sets)])
        late = 0 if self._is_timed else int((self.truth.t_us >= self._end_us).sum())
        if late:
            self._notes.append(f"{late} label(s) later than {self._end_us / 1e6:g} s, the recording's end: not found")
        return RecordingOutcome(
            name=self.labelled.name,
            truth=self.truth,
            silent=self._silent() if self._options.silent else None,
            stride_us=self._spec.stride_us,
            window_us=self._spec.window_us,
            at_labels=self._is_timed,
            set_end_us=looked,
            set_events=np.array([self._set_events[end] for end in looked.tolist()], np.int64),
            end_us=np.repeat(looked, [len(one) for one in sets]).astype(np.int64),
            xywh=np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1),
            score=np.concatenate([np.empty(0, np.float32), *(one.score for one in sets)]),
            class_id=np.concatenate([np.empty(0, np.int64), *(one.class_id for one in sets)]),
            windows=self._windows,
            labelled_windows=len(looked),
            events=self._events,
            resets=self.stream.resets,
            duration_us=self._end_us,
            activity=self._activity,
            notes=tuple(self._notes),
        )

    def _truth(self, labels: Labels) -> Labels:
        labels = select_classes(labels, self._options.truth_classes)
        most = self._options.max_windows
        if most is None:
            return labels
        if self._is_timed:
            return labels[np.isin(labels.t_us, label_times(labels)[:most])]
        return labels[labels.t_us < most * self._spec.stride_us]

    def _kept(self, found: Detections) -> Detections:
        """Return the detections of classes that are evaluated, so numbered."""
        numbers = self._options.found_classes
        table = np.full(len(self._spec.classes), -1, np.int64)
        table[list(numbers)] = list(numbers.values())
        ours = table[found.class_id]
        kept = ours >= 0
        return Detections(found.xyxy[kept], found.score[kept], ours[kept], found.t_us)

    def _silent(self) -> Any:
        from snn_perception.evaluation.motion import silent_rows

        if self.recording is None or self.recording.is_packets:  # without events, or known only by decoding all before
            return None
        return silent_rows(self.truth, partial(events_between, self.recording, self._registry))

    def _windows_of_labels(self, stored: StoredWindows | None) -> Iterator[tuple[int, EventWindow]]:
        """Yield each label time and its window."""
        times = label_times(self.truth)
        windows: StoredWindows | LabelWindows
        if stored is not None:
            windows = stored
        else:
            assert self.recording is not None
            rule = self._options.rule
            rule.check_times(times, self.labelled.name)
            windows = LabelWindows(self.recording, self._registry, self._spec.window_us, rule)
        for t_us in times.tolist():
            yield t_us, windows.at(t_us)

    def _windows_of_grid(self, recording: Recording) -> Iterator[tuple[int, EventWindow]]:
        """Yield the end of each window, and the window."""
        source = WindowSource(
            recording, self._registry, self._spec.window_us, stride_us=self._spec.stride_us, t_start_us=0
        )
        last_label_us = int(self.truth.t_us[-1]) if len(self.truth) else -1
        windows = _with_silent_tail(source, self._spec, recording.size, last_label_us)
        return ((window.t_end_us, window) for window in islice(windows, self._options.max_windows))


def _stored_windows(labelled: LabelledRecording, detector: Detector, rule: WindowRule) -> StoredWindows:
    check_fed(labelled.path, detector.representation, detector.spec)  # before its files are looked into
    if rule.is_whole or rule.lookback:
        raise EventDataError(
            f"{labelled.path}: holds histograms of labelled windows; windows: {rule.kind} and lookback need events"
        )
    return StoredWindows(labelled.sequence(), detector.representation, detector.spec)


def _count(window: EventWindow) -> int:
    return window.count if isinstance(window, StoredWindow) else len(window.events)


def _with_silent_tail(
    source: WindowSource, spec: ModelSpec, size: SensorSize, last_label_us: int
) -> Iterator[EventWindow]:
    """Yield the windows of a recording, and empty ones after its last event until the one of the last label.

    A camera in front of a still scene goes on too. Labels more than `MAX_TAIL_US` after the last event stay without.
    """
    end_us = 0
    for window in source:
        end_us = window.t_end_us
        yield window
    if last_label_us >= end_us + MAX_TAIL_US:
        return
    while end_us <= last_label_us:
        end_us += spec.stride_us
        yield EventWindow(EventArray.empty(size), end_us - spec.window_us, end_us)
