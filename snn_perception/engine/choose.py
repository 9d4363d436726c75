"""Engines by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec

from snn_perception.detector import Detector
from snn_perception.engine.engines import DetectorEngine, EagerEngine, Engine, Settings
from snn_perception.errors import SpecError

Maker = Callable[[Detector, Settings], Engine]


def _detector(detector: Detector, settings: Settings) -> Engine:
    return DetectorEngine(detector)


def _eager(detector: Detector, settings: Settings) -> Engine:
    return EagerEngine(detector)


def _native(detector: Detector, settings: Settings) -> Engine:
    from snn_perception.engine.native import NativeEngine

    return NativeEngine(detector, settings)


def _onnxruntime(detector: Detector, settings: Settings) -> Engine:
    from snn_perception.engine.onnx_runtime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(detector, settings)


def _openvino(detector: Detector, settings: Settings) -> Engine:
    from snn_perception.engine.openvino import OpenVinoEngine

    return OpenVinoEngine(detector, settings, precision=settings.precision)


def _compile(detector: Detector, settings: Settings) -> Engine:
    from snn_perception.engine.compiled import CompiledEngine

    return CompiledEngine(detector, settings)


def _cudagraph(detector: Detector, settings: Settings) -> Engine:
    from snn_perception.engine.cuda_graph import CudaGraphEngine

    return CudaGraphEngine(detector, settings)


def _tensorrt(detector: Detector, settings: Settings) -> Engine:
    from snn_perception.engine.tensorrt import TensorRtEngine

    return TensorRtEngine(detector, settings, precision=settings.precision)


def _auto(detector: Detector, settings: Settings) -> Engine:
    from snn_perception.engine.auto import fastest_engine

    return fastest_engine(detector, settings)


# Packages, and the device that an engine is for.
_NEEDS: dict[str, tuple[tuple[str, ...], str]] = {
    "native": ((), "cpu"),
    "onnxruntime": (("onnxruntime", "onnx", "onnxscript"), "cpu"),
    "openvino": (("openvino", "onnxruntime", "onnx", "onnxscript"), "cpu"),
    "cudagraph": ((), "gpu"),
    "tensorrt": (("tensorrt", "onnxruntime", "onnx", "onnxscript"), "gpu"),
}
PRECISIONS = {"openvino": ("fp32", "bf16", "int8"), "tensorrt": ("fp16", "fp32", "int8")}
MAKERS: dict[str, Maker] = {
    "eager": _eager,
    "detector": _detector,
    "native": _native,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "compile": _compile,
    "cudagraph": _cudagraph,
    "tensorrt": _tensorrt,
    "auto": _auto,
}


def build_engine(name: str, detector: Detector, settings: Settings | None = None) -> Engine:
    """Return an engine of a detector in evaluation mode.

    Args:
        name: of the engine; with a precision behind a colon, as in ``openvino:int8``, where it has others than fp32.

    Raises:
        SpecError: for an unknown name, or a precision that the engine does not have.
        ExportError: if its package is missing, or the network cannot be brought into its form.
    """
    name, _, precision = name.partition(":")
    if name not in MAKERS:
        raise SpecError(f"engine: expected one of {', '.join(MAKERS)}, got {name!r}")
    settings = settings or Settings()
    settings = replace(settings, precision=precision or settings.precision)
    if settings.precision not in PRECISIONS.get(name, ("fp32",)):
        known = ", ".join(PRECISIONS.get(name, ("fp32",)))
        raise SpecError(f"engine {name}: expected a precision of {known}, got {settings.precision!r}")
    return MAKERS[name](detector, settings)


def engine_label(engine: Engine) -> str:
    """Return the name that `build_engine` makes an engine from, with its precision where that is not fp32."""
    return engine.name if engine.precision == "fp32" else f"{engine.name}:{engine.precision}"


def available(detector: Detector) -> list[str]:
    """Return the names of the engines whose parts are there for the device of a detector, `eager` first.

    With lower precisions behind a colon. Whether one takes this detector's network shows when it is built.
    """
    there = [name for name in MAKERS if name != "auto" and _is_there(name, detector)]
    lower = [f"{name}:{precision}" for name in there for precision in PRECISIONS.get(name, ()) if precision != "fp32"]
    return there + lower


def _is_there(name: str, detector: Detector) -> bool:
    is_gpu = detector.device.type == "cuda"
    packages, on = _NEEDS.get(name, ((), "any"))
    return on in ("any", "gpu" if is_gpu else "cpu") and all(find_spec(package) is not None for package in packages)
