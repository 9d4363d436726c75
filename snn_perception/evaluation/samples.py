"""Which moments of an evaluation are worth a look: where it went best, where it went worst, and silent objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from snn_perception.data.label_filters import kept_by
from snn_perception.data.labels import Labels
from snn_perception.evaluation.outcome import RecordingOutcome
from snn_perception.evaluation.protocol import Protocol
from snn_perception.types import F32, I64

KINDS = ("best", "worst", "silent")
PER_KIND = 3
_MOST_LOOKED_AT = 3_000  # frames; more are thinned evenly
_APART_US = 1_000_000  # frames of one kind, in one recording
_MIN_IOU = 0.5
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class SampleFrame:
    """A label time with what was there and what was said.

    Attributes:
        kind: of `KINDS`.
        recording: number of its outcome. t_us: of the labels. end_us: of the window that was looked at.
        truth_xyxy, truth_class: labels that pass the protocol's filter. silent, found: which emit no events, which
            were found at IoU 0.5.
        xyxy, score, class_id: detections above the threshold. hit: which of them found a label.
    """

    kind: str
    recording: int
    t_us: int
    end_us: int
    truth_xyxy: F32
    truth_class: I64
    silent: Mask
    found: Mask
    xyxy: F32
    score: F32
    class_id: I64
    hit: Mask

    @property
    def f1(self) -> float:
        """Twice the found labels over labels and detections."""
        return 2 * int(self.hit.sum()) / max(len(self.found) + len(self.hit), 1)

    @property
    def errors(self) -> int:
        """Missed labels and false detections."""
        return int((~self.found).sum() + (~self.hit).sum())


def pick_frames(
    outcomes: Sequence[RecordingOutcome], protocol: Protocol, min_score: float, *, per_kind: int = PER_KIND
) -> dict[str, list[SampleFrame]]:
    """Return up to `per_kind` frames of each kind, none twice, those of a recording a second apart where possible.

    Args:
        min_score: detections below it are left out.
    """
    frames = [frame for frame in _frames(outcomes, protocol, min_score) if len(frame.truth_class)]
    orders: dict[str, Callable[[SampleFrame], tuple[float, ...]]] = {
        "best": lambda frame: (-frame.f1, -len(frame.found)),
        "worst": lambda frame: (frame.f1, -frame.errors),
        "silent": lambda frame: (-int(frame.silent.sum()), -frame.f1),
    }
    taken: set[tuple[int, int]] = set()
    picked = {}
    for kind in ("silent", "best", "worst"):  # the rarest first
        fit = [frame for frame in frames if frame.silent.any() or kind != "silent"]
        fit = [frame for frame in fit if frame.hit.any() or kind != "best"]
        fit = [frame for frame in fit if frame.errors or kind != "worst"]
        picked[kind] = _spread(sorted(fit, key=orders[kind]), per_kind, taken)
    return {kind: [_of_kind(frame, kind) for frame in picked[kind]] for kind in KINDS}


def _of_kind(frame: SampleFrame, kind: str) -> SampleFrame:
    return SampleFrame(**{**vars(frame), "kind": kind})


def _spread(frames: Sequence[SampleFrame], count: int, taken: set[tuple[int, int]]) -> list[SampleFrame]:
    chosen: list[SampleFrame] = []
    for apart_us in (_APART_US, 0):
        for frame in frames:
            key = (frame.recording, frame.t_us)
            near = any(o.recording == frame.recording and abs(o.t_us - frame.t_us) < apart_us for o in chosen)
            if len(chosen) < count and key not in taken and not near:
                taken.add(key)
                chosen.append(frame)
    return chosen


def _frames(outcomes: Sequence[RecordingOutcome], protocol: Protocol, min_score: float) -> list[SampleFrame]:
    places = [(number, t) for number, outcome in enumerate(outcomes) for t in np.unique(outcome.truth.t_us).tolist()]
    step = -(-len(places) // _MOST_LOOKED_AT) or 1
    results = {number: outcome.result(protocol) for number, outcome in enumerate(outcomes)}
    frames = []
    for number, t_us in places[::step]:
        outcome, result = outcomes[number], results[number]
        begin, end = np.searchsorted(outcome.truth.t_us, [t_us, t_us + 1])
        truth = outcome.truth[begin:end]
        kept = kept_by(truth, protocol.filter)
        silent = np.zeros(len(truth), bool) if outcome.silent is None else outcome.silent[begin:end]
        first, last = np.searchsorted(result.t_us, [t_us, t_us + 1])
        score = result.score[first:last]
        found = Labels(
            result.t_us[first:last], result.xywh[first:last], result.class_id[first:last], np.arange(len(score)), score
        )
        found = found[kept_by(found, protocol.filter) & (score >= np.float32(min_score))]
        end_us = int(outcome.ends_of(np.array([t_us], np.int64))[0])
        frames.append(_frame(number, t_us, end_us, truth[kept], silent[kept], found))
    return frames


def _frame(number: int, t_us: int, end_us: int, truth: Labels, silent: Mask, found: Labels) -> SampleFrame:
    there, seen = _xyxy(truth.xywh), _xyxy(found.xywh)
    was_found, hit = _matched(there, truth.class_id, seen, found.class_id)
    return SampleFrame(
        "", number, t_us, end_us, there, truth.class_id, silent, was_found, seen, found.confidence, found.class_id, hit
    )


def _xyxy(xywh: F32) -> F32:
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def _matched(truth: F32, truth_class: I64, found: F32, found_class: I64) -> tuple[Mask, Mask]:
    """Return which labels were found and which detections found one: greedily, best detection first."""
    overlap = _iou(found, truth) * (found_class[:, None] == truth_class[None])
    was_found, hit = np.zeros(len(truth), bool), np.zeros(len(found), bool)
    for row in range(len(found) if len(truth) else 0):
        free = np.where(was_found, 0.0, overlap[row])
        best = int(np.argmax(free))
        if free[best] >= _MIN_IOU:
            was_found[best] = hit[row] = True
    return was_found, hit


def _iou(a: F32, b: F32) -> npt.NDArray[np.float64]:
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = (high - low).clip(0).astype(np.float64).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).astype(np.float64).prod(axis=1) for boxes in (a, b)]
    return overlap / np.maximum(areas[0][:, None] + areas[1][None] - overlap, 1e-12)
