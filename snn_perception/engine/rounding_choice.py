"""Which layers of a graph can have int8 weights: those whose rounding hardly changes what fires.

Measured on windows of a made-up scene, each from the exact network's state. First every layer alone: a layer stays in
float32 if rounding changes more of its own spikes than a bound, or more of its raw output; so does one behind which
nothing fires there, since a silent layer shows nothing. Then all that are left together: as long as their effects add
up to more than the bounds for the whole network, those that change most spikes go back to float32 as well.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from snn_perception.engine.artifact import Sidecar, file_digest, sidecar_path
from snn_perception.engine.graph_forms import integer_convolutions
from snn_perception.engine.rounding_probe import Disturbance, DisturbanceMeter, Shadowed, shadowed
from snn_perception.engine.session import Session
from snn_perception.whole_file import whole_file

WARM_UPS, WINDOWS = 4, 8
_FORMAT = 1  # rises when the same graph would get other layers or weights

Array = np.ndarray[Any, Any]
Feed = dict[str, Array]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bounds:
    """How much rounding may change, as `Disturbance` measures it.

    Attributes:
        layer: of one layer's own spikes, or of its raw output. network: of all spikes, or all raw outputs, where all
            chosen layers are rounded.
    """

    layer: float = 0.03
    network: float = 0.06


@dataclass(frozen=True)
class LayerRounding:
    """What rounding does to a layer alone, and whether it is rounded.

    Attributes:
        changed: spikes behind it that differ, over the windows.
    """

    name: str
    is_int8: bool
    alone: Disturbance
    changed: int


@dataclass(frozen=True)
class RoundingChoice:
    """Which layers are rounded.

    Attributes:
        together: what all of them do, teacher-forced, to the whole network; None if there are none.
    """

    layers: tuple[LayerRounding, ...]
    together: Disturbance | None
    bounds: Bounds
    windows: int

    @property
    def int8(self) -> tuple[str, ...]:
        """Names of the layers that are rounded."""
        return tuple(layer.name for layer in self.layers if layer.is_int8)


def int8_graph(
    graph: Path,
    sidecar: Sidecar,
    windows: Callable[[int], Sequence[Array]],
    folder: Path,
    *,
    bounds: Bounds | None = None,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Path:
    """Return the file of a graph with int8 layers, with a sidecar that names them; made in `folder` if need be.

    Args:
        graph: in float32. sidecar: its own.
        windows: gives so many inputs float32 [T, 1, C, H, W] that follow one another; asked only if need be.
    """
    bounds = bounds or Bounds()
    path = folder / f"{sidecar.sha256[:24]}.int8-{_FORMAT}-{bounds.layer:g}-{bounds.network:g}.onnx"
    if path.exists() and sidecar_path(path).exists():
        return path
    import onnx

    on_stage("choosing layers for int8, once for these weights")
    model = onnx.load(graph)
    choice = choose_layers(model, sidecar, windows(WARM_UPS + WINDOWS), bounds)
    log.info("int8: %d of %d layers of spikes, %s", len(choice.int8), len(choice.layers), choice.together)
    if not choice.int8:
        log.warning("int8: no layer keeps within %g of its spikes when rounded: all stay in float32", bounds.layer)
    with whole_file(path) as partial:
        onnx.save(integer_convolutions(model, choice.int8), partial)
        told = replace(sidecar, sha256=file_digest(partial), precision="int8", rounding=asdict(choice))
        with whole_file(sidecar_path(path)) as beside:
            beside.write_text(told.to_json())
    return path


def choose_layers(model: Any, sidecar: Sidecar, windows: Sequence[Array], bounds: Bounds) -> RoundingChoice:
    """Return which layers of a float32 graph can be rounded.

    Args:
        windows: float32 [T, 1, C, H, W] that follow one another, `WARM_UPS` of them before what is measured.
    """
    shadow = shadowed(model, sidecar.raw)
    with tempfile.TemporaryDirectory() as folder:
        probe = _Probe(sidecar, shadow, Path(folder))
        alone = probe.layers(windows)
        fit = [name for name, meter in alone.items() if _is_within(meter.disturbance(), bounds.layer)]
        fit.sort(key=lambda name: alone[name].changed)
        chosen, together = _most_within(fit, lambda names: probe.together(model, names), bounds.network)
    layers = tuple(
        LayerRounding(name, name in chosen, meter.disturbance(), meter.changed) for name, meter in alone.items()
    )
    return RoundingChoice(layers, together, bounds, len(windows) - WARM_UPS)


def _is_within(found: Disturbance, bound: float) -> bool:
    figures = [figure for figure in (found.flips, found.raw_error) if figure is not None]
    return bool(figures) and max(figures) <= bound


def _most_within(
    names: Sequence[str], measure: Callable[[Collection[str]], Disturbance], bound: float
) -> tuple[Collection[str], Disturbance | None]:
    """Return the most of the names, from the first on, that keep within a bound together; by halving."""
    kept: tuple[Collection[str], Disturbance | None] = (), None
    low, high, count = 0, len(names), len(names)
    while low < high:
        found = measure(names[:count])
        if _is_within(found, bound):
            kept, low = (names[:count], found), count
        else:
            high = count - 1
        count = (low + high + 1) // 2
    return kept


class _Probe:
    """The exact network over some windows, and what others make of each from the same state."""

    def __init__(self, sidecar: Sidecar, shadow: Shadowed, folder: Path) -> None:
        self._sidecar, self._shadow, self._folder = sidecar, shadow, folder
        self._ends = (*shadow.spikes, *shadow.raw)
        self._seen: list[tuple[Feed, Feed]] = []

    def layers(self, windows: Sequence[Array]) -> Mapping[str, DisturbanceMeter]:
        """Return what the rounding of each layer alone changes behind it."""
        session = self._session(self._shadow.model)
        meters = {name: DisturbanceMeter(self._shadow.spikes) for name in self._shadow.pairs}
        membranes = {one.name: np.zeros((1, *one.shape), np.float32) for one in self._sidecar.states}
        carries = self._sidecar.state_policy == "carry"
        for number, x in enumerate(windows):
            feed = self._feed(x, membranes)
            found = session.run(feed)
            if carries:
                membranes = {name: found[f"{name}_out"] for name in membranes}
            if number < WARM_UPS:
                continue
            for name, pairs in self._shadow.pairs.items():
                for exact, got in pairs:
                    meters[name].add(exact, found[exact], found[got])
            self._seen.append((feed, {name: _small(found[name]) for name in self._ends}))
        return meters

    def together(self, model: Any, layers: Collection[str]) -> Disturbance:
        """Return what the rounding of several layers changes in the whole network."""
        rounded = integer_convolutions(model, layers)
        names = {one.name for one in rounded.graph.output}
        rounded.graph.output.extend(one for one in self._outputs() if one.name not in names)
        session = self._session(rounded)
        meter = DisturbanceMeter(self._shadow.spikes)
        for feed, exact in self._seen:
            found = session.run(feed)
            for name in self._ends:
                meter.add(name, exact[name], found[name])
        return meter.disturbance()

    def _outputs(self) -> list[Any]:
        from onnx import ValueInfoProto

        return [ValueInfoProto(name=name) for name in self._ends]

    def _session(self, model: Any) -> Session:
        import onnx

        path = self._folder / "probe.onnx"
        onnx.save(model, path)
        return Session(path)

    def _feed(self, x: Array, membranes: Mapping[str, Array]) -> Feed:
        inputs = {f"{name}_in": leaf for name, leaf in membranes.items()}
        return {"events": x, "keep": np.ones(1, np.float32), "active": np.ones(1, bool), **inputs}


def _small(x: Array) -> Array:
    """Return whole numbers as bytes, and others as they are: exact spikes are kept for all windows."""
    as_bytes = x.astype(np.int8)
    return as_bytes if np.array_equal(as_bytes, x) else x
