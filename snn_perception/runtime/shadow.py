"""A new model beside the one in use: it sees the same windows until its membranes are warm, then takes its place."""

from __future__ import annotations

from dataclasses import replace

from snn_perception.errors import SpecError
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.stream import StreamState
from snn_perception.spec import ModelSpec
from snn_perception.types import Window


class Shadow:
    """A pipeline that steps along with streams which another one serves.

    Args:
        pipeline: the new model's.
        warm_us: sensor time that each stream's membranes need, one window at least where the model carries state.
    """

    def __init__(self, pipeline: DetectionPipeline, warm_us: int) -> None:
        self.pipeline = pipeline
        spec = pipeline.spec
        self._needed = max(1, -(-warm_us // spec.stride_us)) if spec.state_policy == "carry" else 0
        self._streams: dict[str, StreamState] = {}
        self._windows = 0  # of all streams
        self._latest: dict[str, int] = {}  # stream -> the count at its last window

    def step(self, camera: str, window: Window) -> None:
        """Take in a window, with all network steps; what the model sees in it goes nowhere."""
        if self._needed:
            self._windows += 1
            self._latest[camera] = self._windows
            # Not `step`: how far a deadline lets it come is a matter of chance, and would show in its membranes.
            self._streams[camera] = self.pipeline.advance(window, self._streams.get(camera, StreamState()))

    def reset(self, camera: str) -> None:
        """Put one stream to rest, as the model in use was."""
        self._streams.pop(camera, None)

    @property
    def is_warm(self) -> bool:
        """Whether every stream of which windows come has been followed for long enough.

        A camera that has fallen silent is not waited for: the others have had twice their time since its last window.
        """
        patience = 2 * self._needed * len(self._streams)
        windows = [
            stream.windows for name, stream in self._streams.items() if self._windows - self._latest[name] <= patience
        ]
        return not self._needed or (bool(windows) and min(windows) >= self._needed)

    def taken_over(self, streams: dict[str, StreamState]) -> dict[str, StreamState]:
        """Return the streams with the new model's membranes in place of the old one's, at rest where none came."""
        return {
            camera: replace(old, model=self._streams.get(camera, StreamState()).model)
            for camera, old in streams.items()
        }


def check_swap(old: ModelSpec, new: ModelSpec) -> None:
    """Raise SpecError unless a running model can be followed by the new one: windows are cut once for both."""
    for name, unit in (("window_us", "us"), ("stride_us", "us")):
        have, got = getattr(old, name), getattr(new, name)
        if have != got:
            raise SpecError(
                f"checkpoint: a model that takes over while the node is active must have the running one's {name}, "
                f"expected {have} {unit}, got {got} {unit}; deactivate and clean the node up first"
            )
