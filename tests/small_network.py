"""A small network that fires and sees something in every window, packets for it, and what this process holds."""

import gc
import os
from dataclasses import dataclass
from pathlib import Path

from snn_perception import build_preset
from snn_perception.data.shapes import MovingShapes
from snn_perception.events.evt3_encode import packetize
from snn_perception.runtime.soak import awake
from snn_perception.types import SensorSize

SIZE = SensorSize(48, 64)
WINDOW_US = 50_000
PACKET_US = 5_000


def small_detector(registry, windows=8):
    """Return a detector whose every layer fires on the shapes, with boxes of any score."""
    return awake(
        build_preset("st_vgg_ssd_16", registry=registry, height=SIZE.height, width=SIZE.width), registry, windows
    )


def small_packets(windows, seed=3, interval_us=PACKET_US):
    """Return the packets of so many windows of moving shapes, and one more, which closes the last of them."""
    scene = MovingShapes(SIZE, windows * WINDOW_US + interval_us, seed=seed, pause=None)
    return list(packetize(scene, SIZE, interval_us=interval_us))


@dataclass(frozen=True)
class Held:
    """What this process holds."""

    resident_mib: float
    threads: int
    files: int


def held():
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    threads, files = (len(list(Path(f"/proc/self/{name}").iterdir())) for name in ("task", "fd"))
    return Held(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, threads, files)
