"""How windows are cut for labels: on a grid, ending at the label, or as whole recordings.

A live stream is cut on a grid, and so is a replay. Models that start every window from rest may also be trained and
scored on windows that end where the labels lie, as EAS-SNN is (Wang et al., ECCV 2024); live they see the same kind of
input at other times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from snn_perception.errors import EventDataError, SpecError

if TYPE_CHECKING:
    from snn_perception.types import I64

KINDS = ("grid", "label", "recording", "recording_end")


@dataclass(frozen=True)
class WindowRule:
    """How windows are cut for the labels of a recording.

    Attributes:
        kind: ``grid``, as live: windows from sensor time 0 on, of which labels take the one that they lie in.
            ``label``: ``[t - window_us, t)`` for every label time t, cut off at sensor time 0.
            ``recording``: one window of the whole recording, however long.
            ``recording_end``: one window, the last `window_us` of the recording, its last event included.
        lookback: with ``label``, as EAS-SNN's reader: an empty window gives way to the one before it, at most twice,
            and a window that would begin before time 0 begins there and keeps its length, so that it holds events after
            its label.

    Raises:
        SpecError: for an unknown kind, or `lookback` with another kind than ``label``.
    """

    kind: str = "grid"
    lookback: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SpecError(f"windows: expected {', '.join(KINDS)}, got {self.kind!r}")
        if self.lookback and self.kind != "label":
            raise SpecError(f"lookback: expected windows: label, which it belongs to, got {self.kind}")

    @property
    def is_grid(self) -> bool:
        """Whether windows follow one another on the grid."""
        return self.kind == "grid"

    @property
    def is_whole(self) -> bool:
        """Whether a recording has one window."""
        return self.kind in ("recording", "recording_end")

    def check_policy(self, state_policy: str) -> None:
        """Raise SpecError where a model carries state from window to window, which needs the grid."""
        if not self.is_grid and state_policy != "per_window":
            raise SpecError(
                f"windows: {self.kind} cuts windows that do not follow one another, and the model's state_policy is "
                f"{state_policy}; use windows: grid, or a model with state_policy per_window"
            )

    def check_times(self, t_us: I64, name: str) -> None:
        """Raise EventDataError where a recording is one window but its labels have several times [N]."""
        if self.is_whole and len(t_us) > 1:
            raise EventDataError(
                f"{name}: windows: {self.kind} takes a recording as one sample, and its labels have {len(t_us)} times "
                f"({t_us[0]} us to {t_us[-1]} us); use windows: label"
            )


GRID = WindowRule()
