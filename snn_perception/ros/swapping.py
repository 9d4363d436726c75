"""Loads another model while the node is at work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from snn_perception.errors import SpecError
from snn_perception.registry import Registry
from snn_perception.ros.jobs import SwapJob
from snn_perception.ros.loading import load_pipeline
from snn_perception.ros.queue import JobQueue
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.shadow import check_swap
from snn_perception.runtime.wanted import class_ids
from snn_perception.spec import ModelSpec
from snn_perception.tensor_file import read_texts
from snn_perception.zoo import checkpoint_path


def check_checkpoint(name: str, running: ModelSpec, classes: Sequence[str] = ()) -> None:
    """Raise a SnnPerceptionError unless a checkpoint may take over from the running model, as far as its head tells.

    Args:
        classes: those that are published, which it must know.
    """
    path = checkpoint_path(name)
    texts = read_texts(path)
    if "spec" not in texts:
        raise SpecError(f"{path}: holds no model description; import foreign weights with 'convert'")
    spec = ModelSpec.from_json(texts["spec"])
    check_swap(running, spec)
    try:
        class_ids(classes, spec.classes)
    except SpecError as error:
        raise SpecError(f"checkpoint {path.name}: {error}; change classes first, or together with it") from None


class Swapping(threading.Thread):
    """Loads a checkpoint and hands it to the inference thread; detection goes on meanwhile.

    Once it is given up, nothing comes of it.

    Args:
        settings: the node's, with the new ``checkpoint``. running: the model's description that it takes over from.
        prepare: called in this thread with the model, before it serves.
        failed: called with the checkpoint's name and what went wrong.

    Attributes:
        checkpoint: its name.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        registry: Registry,
        running: ModelSpec,
        queue: JobQueue,
        prepare: Callable[[DetectionPipeline], None],
        failed: Callable[[str, Exception], None],
    ) -> None:
        super().__init__(name="swapping", daemon=True)
        self._settings, self._registry, self._running = dict(settings), registry, running
        self._queue, self._prepare, self._failed = queue, prepare, failed
        self.checkpoint: str = settings["checkpoint"]
        self._lock = threading.Lock()
        self._given_up = False

    def give_up(self) -> None:
        """Let nothing come of it, however far it is."""
        with self._lock:
            self._given_up = True

    def run(self) -> None:
        """Load, warm up, hand over."""
        try:
            pipeline: DetectionPipeline = load_pipeline(self._settings, self._registry)
            check_swap(self._running, pipeline.spec)
            self._prepare(pipeline)
        except Exception as error:  # whatever a plugin raised: the model in use stays
            self._end(partial(self._failed, self.checkpoint, error))
            return
        self._end(partial(self._queue.put, SwapJob(pipeline, self._settings["swap_warm_ms"] * 1000, self.checkpoint)))

    def _end(self, act: Callable[[], object]) -> None:
        with self._lock:
            if not self._given_up:
                act()
