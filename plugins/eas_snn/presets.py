"""The published networks as model descriptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from snn_perception.api import ComponentRef, ModelSpec, SensorSize

from . import classes as class_names

SIZES: dict[str, dict[str, float]] = {  # letter -> factors of bottlenecks and channels
    "s": {"depth_factor": 0.33, "width_factor": 0.50},
    "m": {"depth_factor": 0.67, "width_factor": 0.75},
    "l": {"depth_factor": 1.0, "width_factor": 1.0},
}
# The authors' name of a mode -> how far the backbone's neurons reach, and whether the head has any.
MODES: dict[str, tuple[str, bool]] = {
    "none": ("none", False),
    "use_spike": ("backbone", False),
    "full_spike": ("fpn", False),
    "full_spike_v2": ("fpn", True),
}
NETWORK_SIZE = (640, 640)
STEPS, MICRO_STEPS = 3, 4  # T and Tm
WINDOW_US = 200_000
MAIN = {"branch": "main", "ksize": 5, "sampler_depth": 2}
NCALTECH_REP = {"branch": "ncaltech-rep", "ksize": 7, "sampler_depth": 1}
ALPHA, NCALTECH_ALPHA = 2.0, 1.5
ONE_MPX_BINS = {"bins": "window"}  # stored frames span 50 ms whatever happens in them

# The authors' PLIF: undecayed input, soft reset that gradients run through, arctan surrogate.
PLIF: dict[str, Any] = {
    "tau": 2.0,
    "decay_input": False,
    "v_threshold": 1.0,
    "v_reset": None,
    "detach_reset": False,
    "surrogate": "atan",
    "alpha": ALPHA,
}
# Spike-aware training, residual potential dropout, and what else the sampler does as published.
ARSNN: dict[str, Any] = {
    "sampler": "arsnn",
    "sampler_threshold": 1.0,
    "sampler_reset": 0.0,
    "readout": "sum",
    "spike_attach": True,
    "write_zero": True,
}

StatePolicy = Literal["carry", "per_window"]


def gen1_preset(
    *,
    mode: str,
    depth_factor: float,
    width_factor: float,
    classes: Sequence[str] = class_names.GEN1,
    steps: int = STEPS,
    micro_steps: int = MICRO_STEPS,
    height: int = 240,
    width: int = 304,
    network_size: Sequence[int] | None = NETWORK_SIZE,
    window_us: int = WINDOW_US,
    stride_us: int = 0,
    state_policy: StatePolicy = "per_window",
    surrogate: str = "atan",
    alpha: float = ALPHA,
) -> ModelSpec:
    """Return EAS-SNN for GEN1: windows of 200 ms in four micro-bins, enlarged to 640x640, three network steps.

    Args:
        mode: which units have neurons: ``none``, ``use_spike`` (the trunk), ``full_spike`` (and the neck) or
            ``full_spike_v2`` (and the head).
        depth_factor, width_factor: of bottlenecks and channels.
        classes: class names, in the order of the ids.
        steps, micro_steps: T network steps and Tm micro-bins per window.
        height, width: of the sensor, in pixels.
        network_size: [height, width] of the network's input, multiples of 32; None for the sensor's own.
        window_us, stride_us: of the windows; a stride of 0 is the window.
        state_policy: as published every window starts from rest; ``carry`` keeps membranes from window to window.
        surrogate, alpha: of the network's neurons: ``atan``, ``sigmoid``, or ``patan``, whose alpha is learned.
    """
    return eas_spec(
        mode,
        {"depth_factor": depth_factor, "width_factor": width_factor, **MAIN, **ARSNN},
        classes=classes,
        sensor=SensorSize(height, width),
        bins={"steps": micro_steps, "network_size": network_size},
        steps=steps,
        window_us=window_us,
        stride_us=stride_us,
        state_policy=state_policy,
        surrogate=surrogate,
        alpha=alpha,
    )


def one_mpx_preset(
    *,
    mode: str = "use_spike",
    depth_factor: float = SIZES["m"]["depth_factor"],
    width_factor: float = SIZES["m"]["width_factor"],
    classes: Sequence[str] = class_names.ONE_MPX,
    steps: int = STEPS,
    micro_steps: int = MICRO_STEPS,
    raw: bool = False,
    network_size: Sequence[int] | None = NETWORK_SIZE,
    window_us: int = WINDOW_US,
    stride_us: int = 0,
    state_policy: StatePolicy = "per_window",
    surrogate: str = "atan",
    alpha: float = ALPHA,
) -> ModelSpec:
    """Return EAS-SNN-M for 1Mpx: four frames of 50 ms, of half size as RVT preprocesses them, in an input of 640x640.

    Made of events, the frames are the four parts of the window, as the stored ones are; these are cut at 10 events of a
    pixel and tenth of a frame, and those are not.

    Args: as `gen1_preset`, and
        raw: the sensor has its full 720x1280 pixels, shrunk to the network's input.
        network_size: of the published 640x640, frames of half size fill 360 rows; [384, 640] is cheaper, with other
            numbers at the lower border.
    """
    return eas_spec(
        mode,
        {"depth_factor": depth_factor, "width_factor": width_factor, **MAIN, **ARSNN},
        classes=classes,
        sensor=SensorSize(720, 1280) if raw else SensorSize(360, 640),
        bins={"steps": micro_steps, "network_size": network_size, **ONE_MPX_BINS},
        steps=steps,
        window_us=window_us,
        stride_us=stride_us,
        state_policy=state_policy,
        surrogate=surrogate,
        alpha=alpha,
    )


def ncaltech_preset(
    *,
    mode: str = "use_spike",
    depth_factor: float = SIZES["m"]["depth_factor"],
    width_factor: float = SIZES["m"]["width_factor"],
    classes: Sequence[str] = class_names.NCALTECH101,
    steps: int = STEPS,
    micro_steps: int = MICRO_STEPS,
    height: int = 180,
    width: int = 240,
    network_size: Sequence[int] | None = NETWORK_SIZE,
    window_us: int = 300_000,
    stride_us: int = 0,
    state_policy: StatePolicy = "per_window",
    surrogate: str = "atan",
    alpha: float = NCALTECH_ALPHA,
) -> ModelSpec:
    """Return EAS-SNN-M for N-Caltech101, of the authors' branch ncaltech-rep: a whole recording in four micro-bins.

    Args: as `gen1_preset`; a recording is about 300 ms long.
    """
    return eas_spec(
        mode,
        {"depth_factor": depth_factor, "width_factor": width_factor, **NCALTECH_REP, **ARSNN},
        classes=classes,
        sensor=SensorSize(height, width),
        bins={
            "steps": micro_steps,
            "network_size": network_size,
            "interpolation": "bicubic",
            "macro_slice": True,
        },
        steps=steps,
        window_us=window_us,
        stride_us=stride_us,
        state_policy=state_policy,
        surrogate=surrogate,
        alpha=alpha,
    )


def eas_spec(
    mode: str,
    network: Mapping[str, Any],
    *,
    classes: Sequence[str],
    sensor: SensorSize,
    bins: Mapping[str, Any],
    steps: int = STEPS,
    window_us: int = WINDOW_US,
    stride_us: int = 0,
    state_policy: StatePolicy = "per_window",
    surrogate: str = "atan",
    alpha: float = ALPHA,
) -> ModelSpec:
    """Return the model of a mode with these options of the backbone and of the representation ``micro_bins``.

    Raises:
        ValueError: for an unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    reach, spiking_head = MODES[mode]
    backbone = {"spiking": reach, "steps": steps, "micro_steps": bins["steps"], **network}
    return ModelSpec(
        representation=ComponentRef("micro_bins", dict(bins)),
        neuron=ComponentRef("plif", PLIF | {"surrogate": surrogate, "alpha": alpha}),
        backbone=ComponentRef("eas_snn", backbone),
        head=ComponentRef("yolox", {"spiking": spiking_head}),
        classes=tuple(classes),
        window_us=window_us,
        sensor_size=sensor,
        state_policy=state_policy,
        stride_us=stride_us,
    )
