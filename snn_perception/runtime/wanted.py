"""Which of a model's detections are told: how strictly its boxes are suppressed, and of which classes."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from snn_perception.errors import SpecError

AS_MODEL = -1.0  # the suppression threshold that the model came with
_MOST_NAMED = 20


class Suppression:
    """The threshold of a head's non-maximum suppression, for heads that have one as an attribute `nms_threshold`.

    Args:
        head: of a detector. name: of it, for errors.
    """

    def __init__(self, head: Any, name: str) -> None:
        self._head, self._name = head, name
        self._models: float | None = None  # the model's own value, once another one is in its place

    def require(self, threshold: float) -> None:
        """Raise SpecError unless the head can do with a threshold in 0..1, or with `AS_MODEL`."""
        if threshold == AS_MODEL:
            return
        if not 0.0 <= threshold <= 1.0:
            raise SpecError(f"nms_threshold: expected 0..1, or {AS_MODEL:g} for the model's own, got {threshold:g}")
        if not hasattr(self._head, "nms_threshold"):
            raise SpecError(
                f"nms_threshold: expected a head that suppresses boxes by a threshold which may be changed, and "
                f"'{self._name}' does not; leave nms_threshold at {AS_MODEL:g}"
            )

    def use(self, threshold: float) -> None:
        """Let the head suppress by this threshold from now on. Raises as `require`."""
        self.require(threshold)
        if threshold != AS_MODEL:
            if self._models is None:
                self._models = self._head.nms_threshold
            self._head.nms_threshold = threshold
        elif self._models is not None:
            self._head.nms_threshold, self._models = self._models, None


def class_ids(wanted: Sequence[str], known: Sequence[str]) -> tuple[int, ...]:
    """Return the numbers of classes that are given by name, or by number as text; each once, in rising order.

    Args:
        known: the model's class names.

    Raises:
        SpecError: for a class that the model does not know, with those that it does.
    """
    numbers = {str(number): number for number in range(len(known))}
    names = {name: number for number, name in reversed(list(enumerate(known)))}
    if missing := [one for one in wanted if one not in names and one not in numbers]:
        near = difflib.get_close_matches(missing[0], known, 1)
        told = [f"{number} {name}" for number, name in enumerate(known[:_MOST_NAMED])]
        if len(known) > _MOST_NAMED:
            told.append(f"... up to {len(known) - 1}")
        raise SpecError(
            f"classes: the model does not know {', '.join(map(repr, missing))}"
            f"{f' (do you mean {near[0]!r}?)' if near else ''}; it knows {', '.join(told)}"
        )
    return tuple(sorted({names.get(one, numbers.get(one, 0)) for one in wanted}))
