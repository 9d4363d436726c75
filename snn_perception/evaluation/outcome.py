"""What running a detector over one recording gave, apart from any protocol; it goes to a small file and comes back."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_perception.data.labels import Labels
from snn_perception.evaluation.activity import Activity
from snn_perception.evaluation.protocol import Protocol
from snn_perception.evaluation.results import RecordingResult
from snn_perception.types import F32, I64

_LABEL_COLUMNS = ("t_us", "xywh", "class_id", "track_id", "confidence", "area", "is_crowd")
_COLUMNS = ("set_end_us", "set_events", "end_us", "xywh", "score", "class_id")


@dataclass(frozen=True, eq=False)
class RecordingOutcome:
    """Detections of the windows that labels fall into, and counts over the whole recording.

    Attributes:
        name: of the recording.
        truth: its labels as the rules of the data set give them, classes as the evaluation numbers them.
        silent: bool [M], which of them are of objects that emit no events; None where nobody asked.
        stride_us: from one window end to the next; the window of time t ends at ``(t // stride_us + 1) * stride_us``.
        window_us: length of a window.
        at_labels: windows are not on this grid but belong to one label time each, which stands for their end.
        set_end_us: int64 [K], ends of the windows that were looked at, also of those in which nothing was seen.
        set_events: int64 [K], how many events they hold.
        end_us: int64 [N], for each detection the end of its window, ascending.
        xywh, score, class_id: of the detections, boxes in pixels of the sensor.
        windows, labelled_windows, events: how many. resets: membranes put to rest by a jump of time.
        duration_us: end of the last window.
        activity: what went on in the network; empty where nobody measured.
        notes: what a person should know of this recording.
    """

    name: str
    truth: Labels
    silent: npt.NDArray[np.bool_] | None
    stride_us: int
    window_us: int
    set_end_us: I64
    set_events: I64
    end_us: I64
    xywh: F32
    score: F32
    class_id: I64
    at_labels: bool = False
    windows: int = 0
    labelled_windows: int = 0
    events: int = 0
    resets: int = 0
    duration_us: int = 0
    activity: Activity = field(default_factory=Activity)
    notes: tuple[str, ...] = ()

    def result(self, protocol: Protocol) -> RecordingResult:
        """Return the detections as a protocol compares them: one set for each label time, stamped with that time.

        The set of a label time is that of the window that contains it. Under window matching there is one set for each
        of the protocol's windows, that of its last label. So no image sees a set twice.
        """
        times = np.unique(self.truth.t_us)
        if protocol.matching == "window" and len(times):
            number = times // protocol.window_us
            times = times[np.append(number[1:] != number[:-1], True)]
        ends = self.ends_of(times)
        begin, end = (np.searchsorted(self.end_us, ends, side) for side in ("left", "right"))
        counts = end - begin
        rows = np.repeat(begin - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        return RecordingResult(
            self.name,
            self.truth,
            np.repeat(times, counts).astype(np.int64),
            self.xywh[rows],
            self.score[rows],
            self.class_id[rows],
            self.silent,
        )

    def ends_of(self, t_us: I64) -> I64:
        """Return the ends of the windows of label times [N], in the order of the times."""
        return t_us if self.at_labels else window_ends(t_us, self.stride_us)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; columns are packed."""
        packed = {name: _pack(getattr(self, name)) for name in _COLUMNS}
        truth = {name: getattr(self.truth, name) for name in _LABEL_COLUMNS}
        packed |= {f"truth.{name}": _pack(column) for name, column in truth.items() if column is not None}
        if self.silent is not None:
            packed["silent"] = _pack(self.silent)
        plain = (
            "name",
            "stride_us",
            "window_us",
            "at_labels",
            "windows",
            "labelled_windows",
            "events",
            "resets",
            "duration_us",
        )
        return {
            **{name: getattr(self, name) for name in plain},
            "columns": packed,
            "activity": self.activity.as_dict(),
            "notes": list(self.notes),
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> RecordingOutcome:
        """Return what `as_dict` gave, bit for bit.

        Raises:
            ValueError, KeyError, TypeError: if it did not come from there.
        """
        columns: dict[str, Any] = {name: _unpack(packed) for name, packed in values["columns"].items()}
        plain: dict[str, Any] = {name: values[name] for name in values if name not in ("columns", "activity", "notes")}
        return RecordingOutcome(
            truth=Labels(**{name: columns[key] for name in _LABEL_COLUMNS if (key := f"truth.{name}") in columns}),
            silent=columns.get("silent"),
            **{name: columns[name] for name in _COLUMNS},
            **plain,
            activity=Activity.from_dict(values["activity"]),
            notes=tuple(values["notes"]),
        )


def window_ends(t_us: I64, stride_us: int) -> I64:
    """Return the ends of the windows on the grid that times [N] lie in."""
    return (t_us // stride_us + 1) * stride_us


def set_ends(t_us: I64, stride_us: int, *, at_labels: bool) -> I64:
    """Return the ends of all windows that label times fall into, ascending; label times themselves if `at_labels`."""
    return np.unique(t_us[t_us >= 0] if at_labels else window_ends(t_us, stride_us))


def _pack(array: npt.NDArray[Any]) -> dict[str, Any]:
    data = base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 1)).decode("ascii")
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}


def _unpack(packed: Mapping[str, Any]) -> npt.NDArray[Any]:
    data = zlib.decompress(base64.b64decode(packed["data"]))
    return np.frombuffer(data, np.dtype(packed["dtype"])).reshape(packed["shape"]).copy()
