"""The compiled library as Python sees it: its structures, its functions, and the instruction sets that run here."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_int64, c_void_p
from enum import IntEnum
from functools import cache
from pathlib import Path

from snn_perception.native import build


class InputKind(IntEnum):
    """What an input holds."""

    WORDS = 0  # a bit per spike
    FLOATS = 1
    BYTES = 2


class Method(IntEnum):
    """How spikes are turned into sums of weights."""

    ROWS = 0  # one addition of a row of weights per spike
    TABLES = 1  # one per four channels of which some fired


class Charge(IntEnum):
    """How a membrane charges; the numbers of `spikes.h`."""

    NONE = -1
    SUM = 0
    INPUT_TIMES = 1
    INPUT_OVER = 2
    PLAIN_TIMES = 3
    PLAIN_OVER = 4
    WHOLE_NUMBER = 5


class Status(IntEnum):
    """How a call ended."""

    DONE = 0
    NO_MEMORY = 1
    NOT_BINARY = 2
    NOT_SMALL = 4


class Geometry(Structure):
    """Sizes of a convolution."""

    _fields_ = [
        (name, c_int64)
        for name in (
            *("batch", "height", "width", "in_channels"),
            *("out_height", "out_width", "out_channels"),
            *("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w"),
        )
    ]


class Neuron(Structure):
    """A neuron's step."""

    _fields_ = [
        ("charge", c_int32),
        ("hard_reset", c_int32),
        ("factor", c_float),
        ("threshold", c_float),
        ("gain", c_float),
    ]


class Output(Structure):
    """Addresses of results; None where not wanted."""

    _fields_ = [(name, c_void_p) for name in ("current", "v", "v_after", "floats", "bytes", "words")]


class Call(Structure):
    """Everything that one convolution needs."""

    _fields_ = [
        ("geometry", Geometry),
        ("neuron", Neuron),
        ("output", Output),
        *((name, c_void_p) for name in ("input", "rows", "tables", "bias")),
        ("input_kind", c_int32),
        ("method", c_int32),
    ]


class TileCall(Structure):
    """Everything that one convolution by tiles needs."""

    _fields_ = [
        ("geometry", Geometry),
        *((name, c_void_p) for name in ("input", "weights", "starts", "scales", "bias", "current")),
    ]


_SIGNATURES = {
    "spikes_isa_name": (c_char_p, c_int32),
    "spikes_isa_runs": (c_int32, c_int32),
    "spikes_rows_size": (c_int64, c_int32, POINTER(Geometry)),
    "spikes_tables_size": (c_int64, c_int32, POINTER(Geometry)),
    "spikes_pack_rows": (None, c_int32, POINTER(Geometry), c_void_p, c_void_p),
    "spikes_pack_tables": (None, c_int32, POINTER(Geometry), c_void_p, c_void_p),
    "spikes_pack": (c_int32, c_int32, c_void_p, c_int32, c_int64, c_int64, c_int64, c_void_p),
    "spikes_convolve": (c_int32, c_int32, POINTER(Call), c_int64, c_int64),
    "spikes_fire": (None, c_int32, POINTER(Neuron), c_void_p, POINTER(Output), c_int64, c_int64, c_int64),
    "spikes_fire_whole": (
        *(None, c_int32, POINTER(Neuron), c_void_p, POINTER(Output)),
        *(c_int64, c_int64, c_int64, c_int64),
    ),
    "spikes_tile_weights_size": (c_int64, c_int32, POINTER(Geometry)),
    "spikes_tile_channels": (c_int64, c_int32, POINTER(Geometry)),
    "spikes_pack_tiles": (None, c_int32, POINTER(Geometry), c_void_p, c_void_p, c_void_p),
    "spikes_convolve_tiles": (c_int32, c_int32, POINTER(TileCall), c_int64, c_int64),
    "spikes_count": (c_int64, c_int32, c_void_p, c_int64),
}


class Library:
    """The loaded library. Its functions free the GIL.

    Attributes:
        path: of the file. isas: names of the instruction sets that this processor runs -> their number, best first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        loaded = ctypes.CDLL(str(path))
        for name, (result, *arguments) in _SIGNATURES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
        self.isa_name, self.isa_runs = loaded.spikes_isa_name, loaded.spikes_isa_runs
        self.rows_size, self.tables_size = loaded.spikes_rows_size, loaded.spikes_tables_size
        self.pack_rows, self.pack_tables = loaded.spikes_pack_rows, loaded.spikes_pack_tables
        self.pack, self.count = loaded.spikes_pack, loaded.spikes_count
        self.convolve, self.fire, self.fire_whole = loaded.spikes_convolve, loaded.spikes_fire, loaded.spikes_fire_whole
        self.tile_weights_size, self.tile_channels = loaded.spikes_tile_weights_size, loaded.spikes_tile_channels
        self.pack_tiles, self.convolve_tiles = loaded.spikes_pack_tiles, loaded.spikes_convolve_tiles
        self.isas = self._isas()

    def _isas(self) -> dict[str, int]:
        found, number = {}, 0
        while name := self.isa_name(number):
            if self.isa_runs(number):
                found[name.decode()] = number
            number += 1
        return found


@cache
def load() -> tuple[Library | None, str]:
    """Return the library and "", or None and the reason why there is none, with what to do about it."""
    if os.environ.get(build.VARIABLE) == build.OFF:
        return None, f"switched off by {build.VARIABLE}={build.OFF}"
    reasons = []
    for folder in build.folders():
        path = folder / build.library_name()
        if not path.is_file():
            continue
        try:
            return Library(path), ""
        except (OSError, AttributeError) as error:
            reasons.append(f"{path} cannot be loaded: {error}")
    reason = "; ".join(reasons) or "the native kernels are not built for this version"
    return None, f"{reason}; run 'python -m snn_perception.native' (needs a C++ compiler)"
