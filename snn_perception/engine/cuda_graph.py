"""The folded step recorded once as a CUDA graph for each batch size, and replayed: one launch instead of some 160.

A small spiking network on a GPU waits for its own launches. A recorded graph reads and writes fixed memory: the input,
``keep``, ``active``, the membranes, which it advances in place, and the raw outputs. A stream's membranes stay in that
memory for as long as the state that comes in is the one that went out last; any other state is copied in first.

Everything but the recording itself is plain code that runs on any device, and is tested on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from snn_perception.detector import Detector
from snn_perception.engine.compiled import exact_floats
from snn_perception.engine.engines import Settings
from snn_perception.engine.export import example_input
from snn_perception.engine.program import flat_arguments, flat_vectors, unflatten
from snn_perception.engine.step import Step, StepShape
from snn_perception.errors import ExportError
from snn_perception.fold import fold_norms
from snn_perception.state import State

BATCH_SIZES = (1, 2, 4, 8, 16)
_WARM_UPS = 3  # libraries choose their kernels and take their memory before anything is recorded

Work = Callable[[], None]
Capture = Callable[[Work, torch.device], Work]


class CudaGraphEngine:
    """Recorded steps. One call at a time: the memory is shared by all.

    Args:
        capture: turns work on fixed memory into its replay; by default it records a CUDA graph. `as_it_is` runs the
            work on any device.

    Raises:
        ExportError: if the detector is not on a CUDA device.
    """

    name, precision = "cudagraph", "fp32"

    def __init__(self, detector: Detector, settings: Settings | None = None, *, capture: Capture | None = None) -> None:
        settings = settings or Settings()
        if capture is None:
            _require_cuda(detector.device)
            capture = record
        if detector.dtype != torch.float32:
            raise ExportError(f"the engine 'cudagraph' is for float32, got {detector.dtype}")
        x = example_input(detector, rows=1, seed=0)
        step = Step(fold_norms(detector).requires_grad_(False), x, with_boxes=False).eval()
        self.shape: StepShape = step.shape
        self._device = detector.device
        settings.on_stage("recording the network for 1 to 16 streams")
        self._graphs = {rows: _Graph.of(step, rows, self._device, capture) for rows in BATCH_SIZES}
        one, two = self._graphs[BATCH_SIZES[0]], self._graphs[BATCH_SIZES[1]]
        self._raw_axes = [_batch_axis(a, b) for a, b in zip(one.raw, two.raw, strict=True)]

    @torch.no_grad()
    def __call__(
        self, x: Tensor, state: State = None, keep: Tensor | None = None, active: Tensor | None = None
    ) -> tuple[Any, State]:
        """Return the head's raw output and the state after x, in memory of their own."""
        rows = x.shape[1]
        graph = self._graphs[_size_for(rows)]
        x = x.to(self._device)
        if state is not None and state is graph.resident and rows == graph.resident_rows:
            graph.put(flat_vectors(self.shape.events, x, keep, active))
        else:
            graph.put(flat_arguments(self.shape, x, state, keep, active))
        graph.replay()
        raw = [one.narrow(axis, 0, rows) for one, axis in zip(graph.raw, self._raw_axes, strict=True)]
        found = [one.clone() for one in (*raw, *(membrane[:rows] for membrane in graph.membranes))]
        output, graph.resident = unflatten(self.shape, found)
        graph.resident_rows = rows
        return output, graph.resident


@dataclass(eq=False)
class _Graph:
    """Fixed memory for so many rows, and the work on it.

    Attributes:
        resident: the state whose membranes lie in the memory, the one that was given out last, of `resident_rows`.
    """

    events: Tensor
    keep: Tensor
    active: Tensor
    membranes: list[Tensor]
    raw: list[Tensor] = field(default_factory=list)
    replay: Work = lambda: None
    resident: State = None
    resident_rows: int = 0

    @classmethod
    def of(cls, step: Step, rows: int, device: torch.device, capture: Capture) -> _Graph:
        """Return the recorded step for so many rows."""
        count, *image = step.shape.events
        graph = cls(
            torch.zeros(count, rows, *image, device=device),
            torch.ones(rows, device=device),
            torch.ones(rows, dtype=torch.bool, device=device),
            step.shape.at_rest(rows, device),
        )
        raws = len(step.shape.raw)

        def advance() -> None:
            found = step(graph.events, graph.keep, graph.active, *graph.membranes)
            if not graph.raw:
                graph.raw = [torch.empty_like(one, memory_format=torch.contiguous_format) for one in found[:raws]]
            _copy([*graph.raw, *graph.membranes], found)

        with torch.no_grad(), exact_floats(device):
            advance()
            graph.replay = capture(advance, device)
        for membrane in graph.membranes:
            membrane.zero_()
        return graph

    def put(self, arguments: Sequence[Tensor]) -> None:
        """Put the arguments of the next step into the memory, into its first rows; the other rows do nothing.

        Args:
            arguments: events, keep, active, and membranes, or none to go on from those in the memory.
        """
        events, keep, active, *membranes = arguments
        rows = len(keep)
        self.resident = None  # until the step is done
        self.events[:, :rows].copy_(events)
        self.keep[:rows].copy_(keep)
        self.active[:rows].copy_(active)
        self.active[rows:] = False
        _copy([mine[:rows] for mine in self.membranes[: len(membranes)]], membranes)


def record(work: Work, device: torch.device) -> Work:
    """Return the replay of work on a CUDA device, recorded now. It must neither allocate for others nor wait."""
    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UPS):
            work()
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        work()
    return graph.replay


def as_it_is(work: Work, device: torch.device) -> Work:
    """Return the work itself, for devices that record nothing."""
    return work


def _require_cuda(device: torch.device) -> None:
    if device.type == "cuda":
        return
    missing = "" if torch.cuda.is_available() else ", and torch finds no CUDA device here"
    raise ExportError(
        f"the engine 'cudagraph' needs a model on a CUDA device, got one on {device}{missing}; "
        "set the device to cuda, or use the engine compile or onnxruntime"
    )


def _size_for(rows: int) -> int:
    size = next((size for size in BATCH_SIZES if size >= rows), None)
    if size is None:
        raise ValueError(f"x: expected 1 to {BATCH_SIZES[-1]} rows, got {rows}")
    return size


def _batch_axis(one: Tensor, two: Tensor) -> int:
    """Return the axis of the rows of an output, given it of one row and of two."""
    return next(axis for axis, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)) if a != b)


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    if sources:
        torch._foreach_copy_(list(targets), list(sources))  # one launch for all
