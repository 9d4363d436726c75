"""What comes of windows in the inference thread, and who hears of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from snn_perception.ros.jobs import LoadJob, WindowJob
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.stages import Arrival, Stages, stages_of
from snn_perception.runtime.stream import StreamState
from snn_perception.spec import ModelSpec
from snn_perception.types import Detections


@dataclass(frozen=True)
class WindowResult:
    """What came of one window, of which model, and how long it took: in the queue and in inference, in nanoseconds.

    Attributes:
        batch: how many windows were run with it as one batch, itself among them; `inference_ns` is that of all.
    """

    job: WindowJob
    spec: ModelSpec
    detections: Detections
    stream: StreamState
    waited_ns: int
    inference_ns: int
    batch: int = 1

    @property
    def latency_ns(self) -> int:
        """From the window's close to its detections, in nanoseconds."""
        return self.waited_ns + self.inference_ns

    def stages(self, published_ns: int) -> Stages:
        """Return what each stage of the window took, once its message is out (monotonic, ns)."""
        closed_ns = self.job.closed_ns
        begun_ns = closed_ns + self.waited_ns
        arrived = self.job.arrived or Arrival(closed_ns, closed_ns)
        return stages_of(arrived, closed_ns, begun_ns, begun_ns + self.inference_ns, published_ns)


@dataclass(frozen=True)
class Told:
    """Whom the inference thread tells what, in that thread.

    Attributes:
        result: after each window; it publishes. caught_up: after one that was run for its state alone.
        failed: with the job, what went wrong, and whether the window itself failed, so that its camera starts again
            from rest, or only `result`.
        swapped: with a checkpoint that was to take over, the model that now serves, and what went wrong, or None.
        refused: with a saved state that came too late, and the gap in milliseconds.
    """

    result: Callable[[WindowResult], None]
    caught_up: Callable[[WindowJob], None]
    failed: Callable[[WindowJob, Exception, bool], None]
    swapped: Callable[[str, DetectionPipeline, Exception | None], None]
    refused: Callable[[LoadJob, float], None]
