"""Compiled kernels and their cache, and the room on the disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from snn_perception.doctor.finding import Bench, Finding, Status

GOOD_BYTES, LEAST_BYTES = 1_000_000_000, 50_000_000  # below the first a warning, below the second nothing works
CACHE_VARIABLE = "NUMBA_CACHE_DIR"


def kernels(bench: Bench) -> Finding:
    """Whether event kernels compile, give back what they were given, and are kept for the next process."""
    import numba

    from snn_perception.data.shapes import moving_shapes
    from snn_perception.discovery import load_registry
    from snn_perception.events.evt3_encode import packetize
    from snn_perception.events.stream import EventStream
    from snn_perception.types import EventArray, SensorSize

    size = SensorSize(240, 304)
    events = EventArray.concatenate(list(moving_shapes(size, 100_000, seed=1)), size)
    stream = EventStream(load_registry(installed=False), size=size, topic="doctor")
    pieces = [stream.decode(packet) for packet in packetize([events], size, interval_us=1_000)]
    back = EventArray.concatenate([piece.events.to_event_array() for piece in pieces if piece is not None], size)
    facts = {"numba": numba.__version__, "events": len(events), "cache": str(cache_folder() or "")}
    same = len(back) == len(events) > 0
    if not (same and all((getattr(events, name) == getattr(back, name)).all() for name in "xypt")):
        return Finding("failed", f"{len(events)} events were encoded, others decoded", "remove the cache", facts)
    told = f"numba {numba.__version__}: {len(events):,} events encoded and decoded"
    trouble = cache_trouble(cache_folder(), os.environ.get(CACHE_VARIABLE))
    if trouble:
        return Finding(*trouble, facts=facts)
    return Finding("ok", f"{told}; kept in {cache_folder()}", facts=facts)


def native_kernels(bench: Bench) -> Finding:
    """Whether the optional C++ kernels are built and count right; without them everything works, some of it slower."""
    import torch

    from snn_perception import native
    from snn_perception.native.build import OFF, VARIABLE

    reason = native.why_not()
    if reason is not None:
        what, _, remedy = reason.partition("; ")
        is_asked = os.environ.get(VARIABLE) == OFF
        facts = {"available": False, "reason": reason}
        return Finding("ok" if is_asked else "warning", f"not in use: {what}", remedy, facts)
    from snn_perception.native.calls import require
    from snn_perception.native.convolution import SpikeConv2d

    generator = torch.Generator().manual_seed(0)
    convolution = torch.nn.Conv2d(20, 24, 3, padding=1)
    spikes = (torch.rand(1, 20, 12, 16, generator=generator) < 0.25).float()
    library = require()
    with torch.no_grad():
        expected = convolution(spikes)
        furthest = max(
            float((SpikeConv2d.from_conv(convolution, isa=isa)(spikes) - expected).abs().max() / expected.abs().max())
            for isa in library.isas
        )
    facts = {"available": True, "isas": list(library.isas), "library": str(library.path), "difference": furthest}
    if furthest > 1e-5:
        remedy = "build them again: python -m snn_perception.native"
        return Finding("failed", f"a convolution differs from torch's by {furthest:.1e}", remedy, facts)
    return Finding("ok", f"spike convolutions for {', '.join(library.isas)}; they agree with torch's", facts=facts)


def cache_folder() -> Path | None:
    """Return where numba keeps compiled kernels of the events; None where it keeps none."""
    from snn_perception.events import evt3_kernels

    stats = [getattr(value, "stats", None) for value in vars(evt3_kernels).values()]
    paths = list(filter(None, (getattr(one, "cache_path", None) for one in stats)))
    return Path(paths[0]) if paths else None


def cache_trouble(folder: Path | None, asked: str | None) -> tuple[Status, str, str] | None:
    """Return what is wrong with the cache as (status, told, remedy); None if nothing is.

    Args:
        folder: that numba chose. asked: value of NUMBA_CACHE_DIR.
    """
    remedy = f"set {CACHE_VARIABLE} to a folder that can be written"
    if asked and (folder is None or Path(asked).absolute() not in (folder.absolute(), *folder.absolute().parents)):
        return "failed", f"{CACHE_VARIABLE} is {asked}, which numba cannot write", remedy
    if folder is None:
        return "warning", "compiled kernels cannot be kept: every start of a process takes some seconds more", remedy
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return "failed", f"{folder}: cannot be written: {error.strerror or error}", remedy
    return None


def disk(bench: Bench, *, good: int = GOOD_BYTES, least: int = LEAST_BYTES) -> Finding:
    """Whether there is room where files are written."""
    places = {"current folder": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    if (cache := cache_folder()) is not None:
        places["kernel cache"] = cache
    free = {name: shutil.disk_usage(_existing(path)).free for name, path in places.items()}
    facts = {"free_bytes": free}
    told = ", ".join(f"{name} {count / 1e9:.1f} GB free" for name, count in free.items())
    return _judged(free, told, facts, good, least)


def _judged(free: Mapping[str, int], told: str, facts: Mapping[str, object], good: int, least: int) -> Finding:
    lowest = min(free, key=lambda name: free[name])
    remedy = f"make room for the {lowest}: {good / 1e9:g} GB are comfortable"
    if free[lowest] < least:
        return Finding("failed", told, remedy, facts)
    return Finding("warning" if free[lowest] < good else "ok", told, remedy if free[lowest] < good else "", facts)


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.absolute().parents) if place.exists())
