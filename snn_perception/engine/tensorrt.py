"""The exported step in TensorRT, for the GPUs of robots. **Not run yet**: no machine at hand had the package and a GPU.

What can be tested without either is: which tensors stay float32 (`graph_forms`), and the two sets of membranes. The
plan that TensorRT builds is kept in the cache of engines under the GPU's name and TensorRT's version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snn_perception.detector import Detector
from snn_perception.engine.artifact import Sidecar, StateTensor, read_sidecar
from snn_perception.engine.cache import cache_folder, cache_name
from snn_perception.engine.engines import Settings
from snn_perception.engine.export import example_input
from snn_perception.engine.graph_forms import graph_in
from snn_perception.engine.onnx_runtime import graph_of
from snn_perception.engine.program import MAX_ROWS, flat_arguments, flat_vectors, unflatten
from snn_perception.engine.step import step_shape
from snn_perception.errors import ExportError, SpecError
from snn_perception.state import State
from snn_perception.whole_file import whole_file

PRECISIONS = ("fp32", "fp16", "int8")
_REMEDY = "pip install tensorrt (or snn_perception[tensorrt]); on a Jetson it is part of JetPack"


class TensorRtEngine:
    """A plan with the membranes as inputs and outputs, never at one address. One call at a time.

    Args:
        precision: of the convolutions; ``fp16`` by default. ``int8`` is of the weights of convolutions of spikes.

    Raises:
        ExportError: if TensorRT is missing, the detector is not on a CUDA device, or the graph is refused.
        SpecError: for an unknown precision.
    """

    name = "tensorrt"

    def __init__(self, detector: Detector, settings: Settings | None = None, *, precision: str = "fp16") -> None:
        settings = settings or Settings()
        if precision not in PRECISIONS:
            raise SpecError(f"precision: expected one of {', '.join(PRECISIONS)} with TensorRT, got {precision!r}")
        trt = _package()
        if detector.device.type != "cuda":
            raise ExportError(f"the engine 'tensorrt' needs a model on a CUDA device, got one on {detector.device}")
        self.precision, self._device = precision, detector.device
        self.shape = step_shape(detector, example_input(detector, rows=1, seed=0))
        graph = graph_of(detector, settings)
        self.sidecar = read_sidecar(graph)
        logger = trt.Logger(trt.Logger.WARNING)
        plan = _plan(trt, logger, graph, self.sidecar, precision, settings, self._device)
        self._runtime = trt.Runtime(logger)  # must outlive the plan
        self._engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        if self._engine is None:
            plan.unlink(missing_ok=True)
            raise ExportError(f"{plan}: TensorRT does not take the plan; it is deleted, start again")
        self._context = self._engine.create_execution_context()
        self._memory: dict[int, Memory] = {}

    @torch.no_grad()
    def __call__(
        self, x: Tensor, state: State = None, keep: Tensor | None = None, active: Tensor | None = None
    ) -> tuple[Any, State]:
        """Return the head's raw output and the state after x, in memory of their own."""
        rows, x = x.shape[1], x.to(self._device)
        memory = self._memory.setdefault(rows, Memory.of(self.sidecar.states, rows, self._device))
        if state is not None and state is memory.resident:
            vectors = flat_vectors(self.shape.events, x, keep, active)
        else:
            vectors = flat_arguments(self.shape, x, state, keep, active)
            memory.load(vectors[3:])
        memory.resident = None
        outputs = self._run(memory, vectors[:3])
        memory.turn()
        found = [*outputs, *(one.clone() for one in memory.now)]
        raw, memory.resident = unflatten(self.shape, found)
        return raw, memory.resident

    def _run(self, memory: Memory, vectors: Sequence[Tensor]) -> list[Tensor]:
        """Return the raw outputs of a step from the membranes of now to those of next."""
        names = [one.name for one in self.sidecar.states]
        given = dict(zip(("events", "keep", "active"), vectors, strict=True))
        given |= {f"{name}_in": one for name, one in zip(names, memory.now, strict=True)}
        for name, tensor in given.items():
            self._context.set_input_shape(name, tuple(tensor.shape))
            self._context.set_tensor_address(name, tensor.data_ptr())
        others = [*self.sidecar.raw, "boxes", "scores"]
        made = {name: torch.empty(tuple(self._context.get_tensor_shape(name)), device=self._device) for name in others}
        taken = made | {f"{name}_out": one for name, one in zip(names, memory.next, strict=True)}
        for name, tensor in taken.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        stream = torch.cuda.current_stream(self._device)
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("TensorRT could not run the plan; its log says why")
        return [made[name] for name in self.sidecar.raw]


@dataclass(eq=False)
class Memory:
    """Two sets of membranes: a step reads those of `now` and writes those of `next`, then they change places.

    Attributes:
        resident: the state that lies in `now`: the one that was given out last.
    """

    now: list[Tensor]
    next: list[Tensor]
    resident: State = field(default=None)

    @classmethod
    def of(cls, states: Sequence[StateTensor], rows: int, device: torch.device) -> Memory:
        """Return memory at rest for so many rows."""
        now, following = ([torch.zeros(rows, *one.shape, device=device) for one in states] for _ in range(2))
        return cls(now, following)

    def load(self, membranes: Sequence[Tensor]) -> None:
        """Let the next step start from these membranes."""
        for mine, given in zip(self.now, membranes, strict=True):
            mine.copy_(given)

    def turn(self) -> None:
        """Let what was written be what is read."""
        self.now, self.next = self.next, self.now


def _package() -> Any:
    try:
        import tensorrt
    except ImportError:
        raise ExportError(f"the engine 'tensorrt' needs its package: {_REMEDY}") from None
    return tensorrt


def _plan(
    trt: Any, logger: Any, graph: Path, sidecar: Sidecar, precision: str, settings: Settings, device: torch.device
) -> Path:
    """Return the file of the plan, built now if it is not in the cache."""
    gpu = torch.cuda.get_device_name(device)
    folder = cache_folder(settings.cache)
    name = cache_name(sidecar.sha256, "tensorrt", (), gpu, precision=precision, tensorrt=trt.__version__)
    path = folder / f"{name}.plan"
    if path.exists():
        return path
    settings.on_stage("building a TensorRT plan, once for these weights and this GPU")
    parts = _parsed(trt, logger, graph_in(precision, graph, sidecar.sha256, folder))
    plan = _built(trt, *parts)
    with whole_file(path) as partial:
        partial.write_bytes(memoryview(plan))
    return path


def _parsed(trt: Any, logger: Any, graph: Path) -> tuple[Any, Any]:
    """Return a builder and the network of a graph, whose own types hold: TensorRT lowers no precision by itself."""
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph.read_bytes()):
        reasons = "; ".join(str(parser.get_error(at)) for at in range(parser.num_errors))
        raise ExportError(f"{graph}: TensorRT does not take it: {reasons[:300]}; use another engine")
    return builder, network


def _built(trt: Any, builder: Any, network: Any) -> Any:
    """Return the plan of a network for 1 to 16 rows, best at one."""
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # by it, spikes come out otherwise
    profile = builder.create_optimization_profile()
    for at in range(network.num_inputs):
        tensor = network.get_input(at)
        least, most = (tuple(rows if size == -1 else size for size in tensor.shape) for rows in (1, MAX_ROWS))
        profile.set_shape(tensor.name, least, least, most)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError("TensorRT could not build the network; its log says why; use another engine")
    return plan
