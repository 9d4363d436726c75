"""Engines in an evaluation: what they are called, what they cannot do, and what their numbers follow from."""

from __future__ import annotations

from snn_perception.engine.cache import installed_version
from snn_perception.engine.choose import engine_label
from snn_perception.engine.engines import DetectorEngine, EagerEngine, Engine
from snn_perception.engine.program import MAX_ROWS
from snn_perception.errors import SpecError

DETECTOR = "detector"  # as it is, without another engine
_PACKAGES = ("torch", "onnxruntime", "openvino", "tensorrt")  # whose versions change how an engine rounds


def label_of(engine: Engine | None) -> str:
    """Return the name of an engine, with its precision where that is not fp32."""
    return DETECTOR if engine is None else engine_label(engine)


def counts_layers(engine: Engine | None) -> bool:
    """Return whether an engine runs the detector's own layers, whose spikes and operations can be counted."""
    return engine is None or type(engine) in (DetectorEngine, EagerEngine)


def check_engine(engine: Engine | None, rows: int, measure: bool) -> None:
    """Raise `SpecError` if an engine does not take so many rows, or does not run the layers that are to be measured."""
    if engine is None:
        return
    if rows > MAX_ROWS and not isinstance(engine, DetectorEngine):
        raise SpecError(f"engine {label_of(engine)}: takes up to {MAX_ROWS} rows in a batch, got {rows}")
    if measure and not counts_layers(engine):
        raise SpecError(
            f"engine {label_of(engine)}: runs another form of the network, whose layers are not counted; "
            "leave measure out"
        )


def made_by_engine(engine: Engine | None) -> list[str]:
    """Return what numbers of another engine follow from besides; nothing for the detector itself."""
    if label_of(engine) == DETECTOR:
        return []
    return [label_of(engine), *(f"{name} {installed_version(name)}" for name in _PACKAGES)]
