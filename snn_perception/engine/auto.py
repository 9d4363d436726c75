"""The engine that is fastest here: all that can be built are timed on a few windows, once, and the choice is kept.

The choice is kept in the cache of engines under the weights, the versions, the device and the threads. The next start
builds that engine alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from snn_perception.detector import Detector
from snn_perception.engine.cache import cache_folder, cache_name, processor
from snn_perception.engine.engines import DetectorEngine, EagerEngine, Engine, Settings
from snn_perception.engine.export import weights_digest
from snn_perception.engine.parity import compare
from snn_perception.engine.probe import synthetic_inputs
from snn_perception.engine.timing import Times, measure, waiting_for
from snn_perception.errors import SnnPerceptionError
from snn_perception.whole_file import whole_file

CANDIDATES = {
    "cpu": ("native", "onnxruntime", "openvino", "compile", "detector"),
    "cuda": ("cudagraph", "compile", "detector"),  # lower precision is for somebody to choose
}
PACKAGES = ("torch", "snn_perception", "numba", "onnxruntime", "openvino", "tensorrt")
WARM_UPS, WINDOWS = 2, 7
MOST_FLIPS = 1e-4  # of neurons, from the oracle's state: a faster engine with other numbers is no choice
_FORMAT = 1

log = logging.getLogger(__name__)


def fastest_engine(
    detector: Detector, settings: Settings | None = None, candidates: Sequence[str] | None = None
) -> Engine:
    """Return the engine of a detector that takes the least time for a window on this machine.

    Args:
        candidates: names to choose among; by default all that suit the detector's device.

    If none can be used it is the detector as it is, and the log says so.
    """
    settings = settings or Settings()
    names = tuple(candidates or CANDIDATES["cuda" if detector.device.type == "cuda" else "cpu"])
    path = _choice_path(detector, settings, names)
    if (name := _kept(path, names)) is not None and (engine := _built(name, detector, settings)) is not None:
        return engine
    settings.on_stage("timing the engines, once for these weights and this machine")
    engines = {name: engine for name in names if (engine := _built(name, detector, settings)) is not None}
    inputs = synthetic_inputs(detector, WARM_UPS + WINDOWS)
    engines = {name: engine for name, engine in engines.items() if _agrees(engine, detector, inputs[: WARM_UPS + 1])}
    if not engines:
        log.warning("no engine of %s can be used; the detector runs as it is", ", ".join(names))
        return DetectorEngine(detector)
    times = _times_of(engines, inputs, detector, settings.threads)
    best = choose(times, by_wall=detector.device.type == "cuda" or settings.threads > 1)
    log.info("engine %s: %s", best, ", ".join(f"{name} {t.wall_median_s * 1e3:.1f} ms" for name, t in times.items()))
    _keep(path, best, times)
    return engines[best]


def choose(times: Mapping[str, Times], *, by_wall: bool) -> str:
    """Return the name of the fastest.

    Args:
        by_wall: by the time that passes; else by that of the processor, which other programs change less. They are the
            same where one thread does all the work.
    """
    return min(times, key=lambda name: times[name].wall_median_s if by_wall else times[name].cpu_median_s)


def _times_of(
    engines: Mapping[str, Engine], inputs: Sequence[Tensor], detector: Detector, threads: int
) -> dict[str, Times]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = measure(
            list(engines.values()),
            inputs,
            windows=WINDOWS,
            warm_up=WARM_UPS,
            carries=detector.spec.state_policy == "carry",
            synchronize=waiting_for(detector.device),
        )
    finally:
        torch.set_num_threads(before)
    return dict(zip(engines, found, strict=True))


def _agrees(engine: Engine, detector: Detector, inputs: Sequence[Tensor]) -> bool:
    """Return whether an engine gives the detector's numbers, window by window from the detector's own state."""
    found = compare(engine, EagerEngine(detector), inputs)
    if found.flips > MOST_FLIPS:
        log.warning("engine %s: left out: %.2g of the neurons spike differently", engine.name, found.flips)
        return False
    return True


def _built(name: str, detector: Detector, settings: Settings) -> Engine | None:
    """Return an engine, or None and its reason in the log."""
    from snn_perception.engine.choose import build_engine

    try:
        return build_engine(name, detector, settings)
    except (SnnPerceptionError, RuntimeError, ValueError) as error:  # a runtime may refuse a network in its own way
        log.info("engine %s: left out: %s", name, error)
        return None


def _choice_path(detector: Detector, settings: Settings, names: Sequence[str]) -> Path:
    device = processor() if detector.device.type == "cpu" else torch.cuda.get_device_name(detector.device)
    key = cache_name(
        weights_digest(detector), "auto", PACKAGES, device, threads=settings.threads, names=list(names), v=_FORMAT
    )
    return cache_folder(settings.cache) / f"{key}.auto.json"


def _kept(path: Path, names: Sequence[str]) -> str | None:
    """Return the choice of an earlier start, None if there is none that can be read."""
    try:
        found = json.loads(path.read_text())
        return found["engine"] if found["engine"] in names else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(path: Path, best: str, times: Mapping[str, Times]) -> None:
    measured = {
        name: {"wall_ms": one.wall_median_s * 1e3, "cpu_ms": one.cpu_median_s * 1e3} for name, one in times.items()
    }
    with whole_file(path) as partial:
        partial.write_text(json.dumps({"engine": best, "timings": measured}, indent=1))
