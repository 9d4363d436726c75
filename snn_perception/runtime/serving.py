"""Streams served by one model: everything that decides what comes out, live and when a journal is repeated.

A live node and an offline repetition drive the same object; it has no clock, no thread and no ROS in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from snn_perception.runtime.journal import FORMAT, Entry, batch_of
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.shadow import Shadow, check_swap
from snn_perception.runtime.stream import StreamState
from snn_perception.types import Detections, EventWindow, Window

SETTINGS = ("score_threshold", "max_detections", "deadline_ms", "gap_policy", "nms_threshold", "classes")


def nowhere(entry: Entry) -> None:
    """Keep no journal."""


class Serving:
    """Cameras, their states, and the model that serves them.

    Args:
        pipeline: of the model.
        journal: called with every decision, in order.

    Attributes:
        pipeline: of the model in use. streams: of each camera, after its last window.
    """

    def __init__(self, pipeline: DetectionPipeline, journal: Callable[[Entry], None] = nowhere) -> None:
        self.pipeline, self._journal = pipeline, journal
        self.streams: dict[str, StreamState] = {}
        self._shadow: Shadow | None = None
        self._coming = ""  # name of the shadow's model

    def begin(self, **facts: Any) -> None:
        """Write the journal's head.

        Args:
            facts: of the run beside the model and the settings, such as how windows are cut.
        """
        pipeline = self.pipeline
        settings = {name: getattr(pipeline, name) for name in (*SETTINGS, "geometry", "max_gap_us")}
        self._journal(Entry("journal", "", {"format": FORMAT, "spec": pipeline.spec.hash(), **settings, **facts}))

    def window(
        self, camera: str, window: Window, *, since_ns: int | None = None, steps: int | None = None
    ) -> Detections:
        """Return what is seen in a camera's next window; its stream goes on, from rest where that failed.

        Args:
            since_ns, steps: as of `DetectionPipeline.step`.
        """
        before = self.streams.get(camera, StreamState())
        try:
            found, self.streams[camera] = self.pipeline.step(window, before, since_ns=since_ns, steps=steps)
        except Exception:
            self._journal(Entry("failed", camera, _told(window)))
            self._rest(camera)
            raise
        taken = {} if found.steps is None else {"steps": found.steps}
        self._journal(Entry("window", camera, {**_told(window), **taken}))
        return found

    def batch(self, windows: Sequence[tuple[str, Window]]) -> list[Detections]:
        """Return what is seen in the next window of each of several cameras, in their order, run as one batch.

        Where that fails nothing has happened: each of them can still be run alone.

        Args:
            windows: with the names of their cameras, each of which comes once.
        """
        cameras = [camera for camera, _ in windows]
        if len(set(cameras)) < len(cameras):
            raise ValueError(f"expected one window of each camera, got those of {cameras}")
        before = [self.streams.get(camera, StreamState()) for camera in cameras]
        ran = self.pipeline.step_batch([window for _, window in windows], before)
        self.streams |= {camera: after for camera, (_, after) in zip(cameras, ran, strict=True)}
        rows = [Entry("window", camera, _told(window)) for camera, window in windows]
        self._journal(batch_of(rows) if len(rows) > 1 else rows[0])
        return [found for found, _ in ran]

    def peek(
        self, camera: str, window: Window, at_us: int, *, since_ns: int | None = None, steps: int | None = None
    ) -> Detections:
        """Return what is seen in the part of a camera's next window that is there, and leave its stream as it is.

        Args:
            window: the whole one, with the events so far. at_us: how far they reach, the detections' time.
            since_ns, steps: as of `DetectionPipeline.step`.
        """
        before = self.streams.get(camera, StreamState())
        found, _ = self.pipeline.step(window, before, since_ns=since_ns, steps=steps)
        taken = {} if found.steps is None else {"steps": found.steps}
        self._journal(Entry("peek", camera, {**_told(window), "at_us": at_us, **taken}))
        return replace(found, t_us=at_us)

    def catch_up(self, camera: str, window: Window) -> None:
        """Let a camera's stream go on through a window without asking what is in it."""
        try:
            self.streams[camera] = self.pipeline.advance(window, self.streams.get(camera, StreamState()))
        except Exception:
            self._journal(Entry("failed", camera, _told(window)))
            self._rest(camera)
            raise
        self._journal(Entry("catch_up", camera, _told(window)))

    def follow(self, camera: str, window: Window) -> Exception | None:
        """Let a model that is to take over see the window too; it takes over here once it is warm.

        Returns what went wrong with it, after which the model in use stays.
        """
        if self._shadow is None:
            return None
        try:
            self._shadow.step(camera, window)
        except Exception as error:  # the model in use must not suffer from one that does not work
            self.give_up()
            return error
        if self._shadow.is_warm:
            self.streams = self._shadow.taken_over(self.streams)
            self.pipeline, self._shadow = self._shadow.pipeline, None
            self._journal(Entry("swap", "", {"model": self._coming}))
        return None

    @property
    def is_swapping(self) -> bool:
        """Whether a new model is being warmed up."""
        return self._shadow is not None

    @property
    def coming(self) -> str:
        """Name of the model that is being warmed up, or was last."""
        return self._coming

    def give_up(self) -> None:
        """Go on with the model in use; one that is being warmed up does not take over."""
        if self._shadow is not None:
            self._shadow = None
            self._journal(Entry("swap", "", {"model": self._coming, "failed": True}))

    def swap(self, pipeline: DetectionPipeline, warm_us: int, name: str) -> None:
        """Warm up a new model beside the one in use; one that was waiting is given up for it.

        Args:
            warm_us: sensor time that it sees of every stream first.
            name: of the model, for the journal.

        Raises:
            SpecError: if it cannot follow the one in use.
        """
        check_swap(self.pipeline.spec, pipeline.spec)
        for setting in SETTINGS:
            setattr(pipeline, setting, getattr(self.pipeline, setting))
        self._shadow, self._coming = Shadow(pipeline, warm_us), name
        self._journal(Entry("shadow", "", {"model": name, "spec": pipeline.spec.hash(), "warm_us": warm_us}))

    def set(self, name: str, value: Any) -> Exception | None:
        """Change a setting (one of `SETTINGS`) from the next window on.

        Returns why a model that was being warmed up cannot do with it, after which the model in use stays.

        Raises:
            SpecError: if the model in use cannot do with it; nothing has changed then.
        """
        setattr(self.pipeline, name, value)
        self._journal(Entry("set", "", {"name": name, "value": value}))
        if self._shadow is not None:
            try:
                setattr(self._shadow.pipeline, name, value)
            except Exception as error:  # the model in use must not suffer from one that does not fit
                self.give_up()
                return error
        return None

    def reset(self, camera: str) -> None:
        """Put a camera's membranes to rest."""
        self._journal(Entry("reset", camera))
        self._rest(camera)

    def load(self, camera: str, stream: StreamState, file: str = "") -> None:
        """Let a camera's next window go on from a saved state, whenever in time it comes.

        Args:
            file: where the state can be found again, for the journal.
        """
        self._journal(Entry("load", camera, {"file": file}))
        now = self.streams.get(camera, StreamState())
        self.streams[camera] = replace(now, model=stream.model, t_end_us=None, gaps=now.gaps + 1)
        if self._shadow is not None:
            self._shadow.reset(camera)

    def _rest(self, camera: str) -> None:
        # The time stays, so that a gap just after the reset is still seen; only the membranes go to rest.
        old = self.streams.get(camera, StreamState())
        self.streams[camera] = replace(old, model=None, resets=old.resets + 1)
        if self._shadow is not None:
            self._shadow.reset(camera)


def _told(window: Window) -> dict[str, Any]:
    events = {"events": len(window.events)} if isinstance(window, EventWindow) else {}
    gap = {"after_gap": True} if window.after_gap else {}
    return {"t_us": [window.t_start_us, window.t_end_us], **events, **gap}
