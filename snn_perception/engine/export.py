"""A detector's step as an ONNX file, checked against the detector before it appears under its name."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_perception.detector import Detector
from snn_perception.engine.artifact import Sidecar, StateTensor, file_digest, sidecar_path
from snn_perception.engine.parity import Parity, ParityMeter, largest
from snn_perception.engine.program import MAX_ROWS, export_program
from snn_perception.engine.step import Step, input_size
from snn_perception.errors import ExportError
from snn_perception.fold import fold_norms
from snn_perception.state import State, named_leaves
from snn_perception.whole_file import whole_file

Array = np.ndarray[Any, Any]
OPSET = 18
CHECK_WINDOWS = 4
TOLERANCE = 1e-3  # of raw outputs where no spike differs, and of membranes
MOST_FLIPS = 1e-4  # of neurons, teacher-forced: rounding puts a few on the other side of the threshold
_CHARGE = 4.0  # membranes start within so many thresholds: what a leak leaves still makes many fire
_ACTIVE = 0.08  # share of input cells of the windows of a check

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportReport:
    """What a check of an exported file against its detector showed, each window from the state before it.

    Attributes:
        path: of the graph. inputs, outputs: their names.
        operators: how many of each the graph has.
        parity: over windows, half of them from rest on and half from charged membranes on.
        state_effect: largest difference of a raw output between charged membranes and rest.
    """

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: dict[str, int]
    parity: Parity
    state_effect: float


def export_onnx(
    detector: Detector,
    path: str | Path,
    *,
    fold: bool = True,
    windows: int = CHECK_WINDOWS,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> ExportReport:
    """Write one step of a detector with named states as ``path``, and its sidecar beside it; return how it compares.

    Nothing is written unless ONNX Runtime gives what the detector gives, window after window from carried state, and
    unless the file's outputs depend on that state.

    Args:
        fold: norms into convolutions first.
        windows: to compare, from rest and from charged membranes.
        on_stage: told what is being done, since large models take minutes.

    Raises:
        ExportError: if a package is missing, the network cannot be traced, or the file differs from the detector.
        SpecError: if the detector has no state, or its head gives no boxes and scores.
    """
    path = Path(path)
    _require_packages()
    detector = detector.eval()
    form = fold_norms(detector) if fold else detector
    form.requires_grad_(False)
    x = example_input(detector, rows=2, seed=0)
    step = Step(form, x).eval()
    with whole_file(path) as partial:
        operators = _write(step, x, partial, on_stage)
        on_stage("comparing with the detector")
        report = _compare(step, detector, partial, windows, operators, path)
        sidecar = describe(step, detector, file_digest(partial))
        with whole_file(sidecar_path(path)) as beside:
            beside.write_text(sidecar.to_json())
    return report


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(f"export needs the package '{error.name}'; pip install onnx onnxruntime onnxscript") from None


def example_input(detector: Detector, *, rows: int, seed: int) -> Tensor:
    """Return a random sparse input [T, rows, C, H, W] of a detector."""
    representation, size = detector.representation, input_size(detector)
    generator = torch.Generator().manual_seed(seed)
    shape = representation.steps, rows, representation.channels, size.height, size.width
    return (torch.rand(shape, generator=generator) < _ACTIVE).to(detector.device, detector.dtype)


def _write(step: Step, x: Tensor, path: Path, on_stage: Callable[[str], None]) -> dict[str, int]:
    """Write the graph; return how many of each operator it has."""
    with torch.no_grad(), _quietly():
        on_stage("tracing the step")
        program = export_program(step, x)
        on_stage("writing operators")
        try:
            written = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                external_data=False,
                input_names=list(step.shape.inputs),
                output_names=list(step.shape.outputs),
            )
        except Exception as error:  # whatever the exporter meets in a plugin's network
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ExportError(
                f"{step.detector.spec.backbone.name}: the network cannot be exported: {reason}; operations of a plugin "
                "must be those that ONNX knows"
            ) from error
    assert written is not None
    written.save(str(path))
    counts: dict[str, int] = {}
    for node in written.model.graph:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporter's own remarks (missing torchvision, progress) off the screen."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@torch.no_grad()
def _compare(
    step: Step, detector: Detector, graph: Path, windows: int, operators: dict[str, int], path: Path
) -> ExportReport:
    """Return how a graph compares with the unfolded detector, each window from the detector's own state."""
    from snn_perception.engine.session import Session

    session = Session(graph, step.shape.inputs, step.shape.outputs)
    membranes = tuple(f"{name}_out" for name in step.shape.state)
    meter, effect = ParityMeter(), 0.0
    for state in (None, _charged(step)):
        for number in range(windows):
            x = example_input(detector, rows=1, seed=number)
            before = step.shape.leaves(state, 1, x.device)
            raw, state = detector(x, step.shape.tree(before))
            got, expected = session.run(_feed(x, before, step)), _flat(raw, state)
            meter.add(_pairs(expected, got, membranes), _pairs(expected, got, step.shape.raw))
            if number == 0:
                forgot = session.run(_feed(x, step.shape.at_rest(1), step))
                effect = max(effect, largest(_pairs(got, forgot, step.shape.raw)))
    report = ExportReport(path, step.shape.inputs, step.shape.outputs, operators, meter.parity(), effect)
    _judge(report)
    return report


def _charged(step: Step) -> State:
    """Return membranes of which many are about to fire, also where the weights are too small to make them."""
    generator = torch.Generator().manual_seed(0)
    rows = step.shape.rows.values()
    return step.shape.tree([torch.rand(1, *shape, generator=generator) * _CHARGE for shape in rows])


def _judge(report: ExportReport) -> None:
    parity = report.parity
    if parity.flips > MOST_FLIPS or max(parity.raw_error, parity.membrane_error) > TOLERANCE:
        raise ExportError(
            f"{report.path}: the exported step differs from the detector by {parity.raw_error:.2g} in a raw output, by "
            f"{parity.membrane_error:.2g} in a membrane, and in the spikes of {parity.flips:.2g} of the neurons "
            f"(rounding: {TOLERANCE:g} and {MOST_FLIPS:g}); nothing was written"
        )
    if report.state_effect == 0:
        raise ExportError(
            f"{report.path}: the exported step gives the same with charged membranes as from rest: it ignores its "
            "state; nothing was written"
        )


def _flat(raw: Any, state: State) -> dict[str, Array]:
    found = {f"raw.{name}": leaf for name, leaf in named_leaves(raw)}
    found |= {f"{name}_out": leaf for name, leaf in named_leaves(state)}
    return {name: leaf.cpu().numpy() for name, leaf in found.items()}


def _feed(x: Tensor, membranes: list[Tensor], step: Step) -> dict[str, Array]:
    rows = x.shape[1]
    vectors = {"events": x.cpu().numpy(), "keep": np.ones(rows, np.float32), "active": np.ones(rows, bool)}
    named = zip(step.shape.state, membranes, strict=True)
    return vectors | {f"{name}_in": leaf.cpu().contiguous().numpy() for name, leaf in named}


def _pairs(a: dict[str, Array], b: dict[str, Array], names: tuple[str, ...]) -> list[tuple[Array, Array]]:
    return [(a[name], b[name]) for name in names]


def describe(step: Step, detector: Detector, sha256: str) -> Sidecar:
    """Return what belongs to the graph of a step.

    Args:
        detector: the unfolded one. sha256: of the graph file.
    """
    spec, shape = detector.spec, step.shape
    letterbox = getattr(detector.representation, "letterbox", None)
    leaks = shape.leaks or {}
    return Sidecar(
        sha256=sha256,
        weights_sha256=weights_digest(detector),
        opset=OPSET,
        precision="fp32",
        model=json.loads(spec.to_json()),
        state_policy=spec.state_policy,
        events=shape.events,
        max_batch=MAX_ROWS,
        raw=shape.raw,
        raw_outline=shape.raw_outline,
        state_outline=shape.state_outline,
        states=tuple(StateTensor(name, rows, leaks.get(name)) for name, rows in shape.rows.items()),
        classes=spec.classes,
        window_us=spec.window_us,
        sensor=spec.sensor_size,
        network=input_size(detector),
        letterbox=None if letterbox is None else letterbox.to_source,
        selection=detector.head.selection,
        versions=_versions(),
    )


def weights_digest(detector: Detector) -> str:
    """Return the SHA-256 of a detector's spec and weights, the same wherever they are."""
    digest = hashlib.sha256(detector.spec.to_json().encode())
    for name, tensor in sorted(detector.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "onnx", "onnxruntime", "onnxscript")}
