"""Evaluation protocols: which boxes count, which times are scored, and how labels and detections meet.

Published mean APs on one data set differ by tenths for these choices alone, so every figure carries the `hash` of its
protocol: figures of different hashes are not comparable.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

from snn_perception.data.label_filters import FILTERS, LabelFilter
from snn_perception.errors import SnnPerceptionError

Matching = Literal["tolerance", "window"]
FrameChoice = Literal["after_filter", "before_filter"]


@dataclass(frozen=True)
class Protocol:
    """How detections are scored against labels.

    Boxes are compared in float32 as ``w*w + h*h >= d*d`` and ``side >= s``, unclipped unless `clips_boxes`.

    Attributes:
        name, source: for people; no figure depends on them.
        skip_us: only labels and detections later than this (strictly) count; None keeps all.
        min_diagonal_px, min_side_px: smallest box that counts, of labels and detections; 0 for any.
        tolerance_us: a detection belongs to every scored time at most this far away, both ends included.
        max_detections: of each image and class the best this many count.
        matching: ``tolerance`` scores each label time, with the detections within `tolerance_us` of it; ``window``
            scores windows: labels and detections meet where ``floor(t / window_us)`` is equal, and of each track only
            the last label of a window counts (Cordone, PhD thesis, 2022, ch. 5).
        window_us: length of these windows.
        frames: the scored times are those of the labels that pass the filter (``after_filter``), or of all labels later
            than `skip_us`, so that false positives also count where every label was filtered out (``before_filter``).
        clips_boxes: boxes are cut to the image before they are filtered, and those of which nothing is left go.
        trapezoid: give the AP of the YOLO family's own validators too (`evaluation.trapezoid`).

    Raises:
        SnnPerceptionError: for a value out of range.
    """

    name: str
    source: str = ""
    skip_us: int | None = None
    min_diagonal_px: float = 0.0
    min_side_px: float = 0.0
    tolerance_us: int = 50_000
    max_detections: int = 100
    matching: Matching = "tolerance"
    window_us: int = 50_000
    frames: FrameChoice = "after_filter"
    clips_boxes: bool = False
    trapezoid: bool = False

    def __post_init__(self) -> None:
        for name, least in (("min_diagonal_px", 0), ("min_side_px", 0), ("tolerance_us", 0), ("max_detections", 1)):
            self._check(name, f"a number of at least {least}", getattr(self, name) >= least)
        self._check("window_us", "positive microseconds", self.window_us > 0)
        self._check("matching", " or ".join(get_args(Matching)), self.matching in get_args(Matching))
        self._check("frames", " or ".join(get_args(FrameChoice)), self.frames in get_args(FrameChoice))

    def _check(self, name: str, expected: str, holds: bool) -> None:
        if not holds:
            raise SnnPerceptionError(
                f"protocol '{self.name}': {name}: expected {expected}, got {getattr(self, name)!r}"
            )

    @property
    def filter(self) -> LabelFilter:
        """Which boxes count, as a rule that `label_filters.kept_by` applies to labels and detections alike."""
        return LabelFilter(self.name, self.source, self.skip_us, self.min_diagonal_px, self.min_side_px)

    @property
    def figures(self) -> dict[str, Any]:
        """Every field that can change a figure, with its value; what the chosen matching does not read is left out."""
        meeting = {"window_us": self.window_us} if self.matching == "window" else {"tolerance_us": self.tolerance_us}
        return {
            "skip_us": self.skip_us,
            "min_diagonal_px": float(self.min_diagonal_px),
            "min_side_px": float(self.min_side_px),
            "max_detections": self.max_detections,
            "matching": self.matching,
            **meeting,
            "frames": self.frames,
            "clips_boxes": self.clips_boxes,
            **({"trapezoid": True} if self.trapezoid else {}),
        }

    @property
    def hash(self) -> str:
        """16 hex digits that are equal for protocols that score alike, whatever their names."""
        return digest(self.figures)


def digest(values: dict[str, Any]) -> str:
    """Return 16 hex digits over plain values, the same on every machine and in any order of the keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]


def _from_filter(name: str, source: str = "", **choices: Any) -> Protocol:
    """Return the protocol that filters labels and detections by the filter of the same name."""
    rule = FILTERS[name]
    return Protocol(name, source or rule.source, rule.after_us, rule.min_diagonal_px, rule.min_side_px, **choices)


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        _from_filter("gen1"),
        _from_filter("one_mpx"),
        _from_filter("one_mpx_half"),
        _from_filter("stvgg", matching="window", frames="before_filter", clips_boxes=True),
        _from_filter("toolbox"),
        _from_filter("toolbox_one_mpx"),
        _from_filter("none", "every label, within 50 ms"),
        Protocol("coco", "COCO's own: every image, crowds ignored", tolerance_us=0, frames="before_filter"),
        Protocol(
            "yolo",
            "the YOLO family's validators: every label, 300 detections",
            tolerance_us=0,
            frames="before_filter",
            max_detections=300,
            trapezoid=True,
        ),
    )
}


def named_protocol(name: str | Protocol) -> Protocol:
    """Return the protocol of this name; a protocol is returned as it is.

    Raises:
        SnnPerceptionError: if there is none, with those there are and the closest.
    """
    if isinstance(name, Protocol):
        return name
    if name not in PROTOCOLS:
        close = difflib.get_close_matches(str(name), PROTOCOLS, n=1, cutoff=0.5)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise SnnPerceptionError(f"unknown protocol {name!r}; protocols: {', '.join(PROTOCOLS)}{hint}")
    return PROTOCOLS[name]
