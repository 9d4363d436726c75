"""Time against events per second: whole windows, events to boxes, of scenes that are made for each rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from snn_perception.benchmark.work import work_of
from snn_perception.data.shapes import MovingShapes
from snn_perception.detector import Detector
from snn_perception.engine.engines import Engine
from snn_perception.engine.timing import Times, measure, waiting_for
from snn_perception.errors import SpecError
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.stream import StreamState
from snn_perception.types import EventArray, EventWindow, SensorSize

ENERGY = "event_ac"  # of the ways of `evaluation.energy`: accumulates where spikes come, multiplications where not
WARM_UP, WINDOWS = 3, 20
_SEED = 7
_FIRST_SHAPES = 8
_MOST_SHAPES = 4000


@dataclass(frozen=True)
class EngineAtRate:
    """Times of whole windows: representation, network and decoding.

    Attributes:
        median_ms, p95_ms: wall time. cpu_median_ms: CPU time of all threads.
        load: CPU time beside the window's own length; above 1 one thread falls behind the camera.
        sustained_events_per_s: events of such windows that one thread could take in a second.
    """

    name: str
    precision: str
    median_ms: float
    p95_ms: float
    cpu_median_ms: float
    load: float
    sustained_events_per_s: float


@dataclass(frozen=True)
class RateFigures:
    """What was measured at one rate.

    Attributes:
        events_per_s: that the windows really hold. spikes: of the network in a window.
        energy_uj: estimate for neuromorphic hardware of a window, `ENERGY`.
    """

    events_per_s: float
    spikes: float
    firing_rate: float
    energy_uj: float
    engines: tuple[EngineAtRate, ...]


def sweep_rates(
    detector: Detector,
    engines: Sequence[Engine],
    rates: Sequence[float],
    *,
    windows: int = WINDOWS,
    on_window: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[RateFigures, ...]:
    """Return the figures of engines at several rates, in events per second, all rates and engines in turn.

    Raises:
        SpecError: for a model of images.
        SnnPerceptionError: if nothing fires at a rate.
    """
    if getattr(detector.representation, "takes_images", False):
        raise SpecError("rates: expected a model of events, and this one sees images; leave the rates out")
    spec, count = detector.spec, WARM_UP + windows
    scenes = [windows_at(rate, spec.sensor_size, spec.window_us, count) for rate in rates]
    times = measure(
        [_whole(detector, engine, scene) for scene in scenes for engine in engines],
        range(count),
        windows=windows,
        warm_up=WARM_UP,
        carries=True,  # the pipeline itself starts from rest where the model does
        synchronize=waiting_for(detector.device),
        on_window=on_window,
    )
    of_scene = [times[k : k + len(engines)] for k in range(0, len(times), len(engines))]
    return tuple(
        _figures(detector, engines, *pair) for pair in zip((s[WARM_UP:] for s in scenes), of_scene, strict=True)
    )


def _whole(
    detector: Detector, engine: Engine, scene: Sequence[EventWindow]
) -> Callable[[int, StreamState | None], tuple[Any, StreamState]]:
    pipeline = DetectionPipeline(detector)
    pipeline.engine = engine
    return lambda number, stream: pipeline.step(scene[number], stream or StreamState())


def _figures(
    detector: Detector, engines: Sequence[Engine], scene: Sequence[EventWindow], times: Sequence[Times]
) -> RateFigures:
    spec = detector.spec
    inputs = [detector.represent(window) for window in scene]
    work = work_of(detector, inputs, carries=spec.state_policy == "carry")
    events = sum(map(len, (window.events for window in scene))) / len(scene)
    return RateFigures(
        events / spec.window_us * 1e6,
        work.spikes,
        work.firing_rate,
        work.energy[ENERGY],
        tuple(_at(engine, one, events, spec.window_us) for engine, one in zip(engines, times, strict=True)),
    )


def _at(engine: Engine, times: Times, events: float, window_us: int) -> EngineAtRate:
    cpu_s = times.cpu_median_s
    return EngineAtRate(
        engine.name,
        engine.precision,
        times.wall_median_s * 1e3,
        times.percentile(0.95) * 1e3,
        cpu_s * 1e3,
        cpu_s * 1e6 / window_us,
        events / cpu_s,
    )


def windows_at(rate: float, size: SensorSize, window_us: int, count: int) -> list[EventWindow]:
    """Return windows of moving shapes that follow one another and hold about `rate` events per second together.

    As many shapes as it takes move at once; what is too much is left out at random. More events are more edges in the
    picture then, as in a busier street, and not the same ones more often.
    """
    duration_us = window_us * count
    wanted = rate * duration_us / 1e6
    shapes, events = _FIRST_SHAPES, _scene(size, duration_us, _FIRST_SHAPES)
    while len(events) < wanted and shapes < _MOST_SHAPES:
        more = 1.1 * shapes * wanted / max(len(events), 1)
        shapes = min(_MOST_SHAPES, max(shapes + 1, int(np.ceil(more))))
        events = _scene(size, duration_us, shapes)
    keep = np.random.default_rng(_SEED).random(len(events)) < wanted / max(len(events), 1)
    events = events[np.flatnonzero(keep)]
    cuts = np.searchsorted(events.t, np.arange(count + 1) * window_us)
    return [EventWindow(events[cuts[k] : cuts[k + 1]], k * window_us, (k + 1) * window_us) for k in range(count)]


def _scene(size: SensorSize, duration_us: int, shapes: int) -> EventArray:
    parts = list(MovingShapes(size, duration_us, seed=_SEED, shapes=shapes))
    x, y, p, t = (np.concatenate([getattr(part, name) for part in parts]) for name in "xypt")
    return EventArray(x, y, p, t, size)
