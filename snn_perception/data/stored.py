"""Windows of sets that hold histograms in place of events: RVT-preprocessed sequences as the input of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_perception.data.rvt import RvtSequence
from snn_perception.errors import EventDataError
from snn_perception.spec import ModelSpec
from snn_perception.types import U8, EventArray, EventWindow


@dataclass(frozen=True, eq=False)
class StoredWindow(EventWindow):
    """A window of which the events are gone and histograms are left.

    Attributes:
        histograms: uint8 [N, 2 * bins, H, W], oldest first, all OFF bins before the ON bins.
    """

    histograms: U8 = field(kw_only=True)

    @property
    def count(self) -> int:
        """Events that the histograms hold; they may have been cut at a largest count."""
        return int(self.histograms.sum(dtype=np.int64))


class StoredWindows:
    """The windows of one sequence at its label times, as a model's representation takes them.

    A window is the last `frames` histograms up to the one that a label belongs to; before the first there are zeros
    (EAS-SNN's ``Tl`` frames).

    Args:
        sequence: an opened one.
        representation: of the model; `spec` its description.

    Raises:
        EventDataError: if the model cannot be fed from these histograms, with what they are and what the model takes.
    """

    def __init__(self, sequence: RvtSequence, representation: Any, spec: ModelSpec) -> None:
        check_fed(sequence.path, representation, spec)
        self._sequence, self._frames = sequence, int(representation.stored_frames)
        self._check(representation, spec)
        starts, windows = sequence.frame_start.tolist(), sequence.frame_window.tolist()
        times = sequence.labels().t_us
        self._window_of = {
            t_us: window
            for (first, last), window in zip(pairwise(starts), windows, strict=True)
            for t_us in np.unique(times[first:last]).tolist()
        }

    def at(self, t_us: int) -> StoredWindow:
        """Return the window of a label time.

        Raises:
            EventDataError: if no labelled frame has this time, or a histogram is damaged.
        """
        if t_us not in self._window_of:
            raise EventDataError(f"{self._sequence.path}: no labelled frame at {t_us} us")
        last, sequence = self._window_of[t_us], self._sequence
        first = last + 1 - self._frames
        size = sequence.size
        histograms = np.zeros((self._frames, 2 * sequence.bins, size.height, size.width), np.uint8)
        for place, one in enumerate(sequence.histograms(max(0, first), last + 1), start=max(0, -first)):
            histograms[place] = one
        end_us = int(sequence.t_end_us[last])
        begin_us = end_us - self._frames * sequence.window_us
        return StoredWindow(EventArray.empty(size), begin_us, end_us, histograms=histograms)

    def _check(self, representation: Any, spec: ModelSpec) -> None:
        sequence, bins = self._sequence, getattr(representation, "stored_bins", None)
        held = (sequence.size, sequence.window_us, sequence.bins)
        wanted = (spec.sensor_size, spec.window_us // self._frames, sequence.bins if bins is None else bins)
        if held != wanted or spec.window_us % self._frames:
            raise EventDataError(
                f"{sequence.path}: holds histograms of {_told(*held)}; the model's '{spec.representation.name}' takes "
                f"{self._frames} of {_told(*wanted)} for its window of {spec.window_us / 1000:g} ms; change "
                "the model's sensor_size, window_us or representation, or preprocess the recordings again"
            )


def check_fed(path: Path, representation: Any, spec: ModelSpec) -> None:
    """Raise EventDataError where a model cannot be fed from histograms that were stored.

    A representation that can has ``stored_frames``, how many histograms a window takes, ``stored_bins``, how many bins
    each must have (None for any), and ``of_histograms(histograms, dtype) -> [T, C, H, W]``.
    """
    if hasattr(representation, "of_histograms") and spec.state_policy == "per_window":
        return
    held = next((folder.parent.name for folder in sorted(path.glob("event_representations_v2/*/*.h5"))), "")
    own = f"'{spec.representation.name}'" + (" with carried state" if spec.state_policy == "carry" else "")
    raise EventDataError(
        f"{path}: holds representations made elsewhere ({held or 'histograms'}), not events, and the model's {own} is "
        "made from events; use the original recordings, or a model with state_policy per_window whose representation "
        "takes stored histograms (micro_bins, stacked_histogram)"
    )


def represented(representation: Any, window: EventWindow, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a window, of events on the model's grid or of stored histograms, as the tensor [T, C, H, W]."""
    if isinstance(window, StoredWindow):
        tensor: Tensor = representation.of_histograms(window.histograms, dtype)
        return tensor
    made: Tensor = representation(window)
    return made.to(dtype)


def _told(size: object, window_us: int, bins: int) -> str:
    return f"{size} px, {window_us / 1000:g} ms and {bins} bins"
