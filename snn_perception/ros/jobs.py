"""What the inference thread is given to do."""

from __future__ import annotations

from dataclasses import dataclass

from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.rates import stream_name
from snn_perception.runtime.stages import Arrival
from snn_perception.runtime.state_file import SavedStream
from snn_perception.types import Window


@dataclass(frozen=True)
class WindowJob:
    """One window to infer, with what its message needs: stamp, frame, and when it was closed (monotonic, ns).

    Attributes:
        phase, peek_at_us: as of a `runtime.rates.Part`.
        arrived: how the message that closed it came; None where nobody knows.
    """

    camera: str
    window: Window
    stamp_ns: int
    frame_id: str
    closed_ns: int
    phase: int = 0
    peek_at_us: int | None = None
    arrived: Arrival | None = None

    @property
    def stream(self) -> str:
        """The name of the state that it belongs to."""
        return stream_name(self.camera, self.phase)


@dataclass(frozen=True)
class ResetJob:
    """Put one camera's membranes to rest, after the windows queued before it."""

    camera: str


@dataclass(frozen=True)
class LoadJob:
    """Let one stream go on from a saved state, after the windows queued before it.

    Attributes:
        camera: the stream's name, as of `WindowJob.stream`.
        saved: the state. file: where it can be found again.
        max_gap_ms: of the stamps, between its last window and the next; a longer one leaves the camera at rest. None:
            it is taken whatever the time.
    """

    camera: str
    saved: SavedStream
    file: str = ""
    max_gap_ms: int | None = None


@dataclass(frozen=True)
class SwapJob:
    """Let another model take over, once it has seen `warm_us` of every camera; `name` is its checkpoint.

    Without a `pipeline` the model in use stays, and one that was warming up is given up.
    """

    pipeline: DetectionPipeline | None
    warm_us: int = 0
    name: str = ""


Job = WindowJob | ResetJob | LoadJob | SwapJob
