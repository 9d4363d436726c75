#!/usr/bin/env python3
"""Every engine on one network of each family, and how soon the first detection is there: docs/benchmarks/engine.md.

    python tools/bench_engine.py [--seconds S] [--only NAME ...] [--json] [-o docs/benchmarks/engine.md]

Each network is measured by the command `bench` in a process of its own, all its engines in turn in that process. Starts
are timed from the start of a process to its first detection, with everything that can be cached in the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from snn_perception.benchmark.page import markdown_table, section, write_picture  # noqa: E402
from snn_perception.whole_file import whole_file  # noqa: E402

ALL = ""
# Networks whose steps are unrolled take many minutes to compile: they go without that engine.
UNCOMPILED = "eager,detector,native,onnxruntime,openvino"
NETWORKS = {
    "st_vgg_ssd_32": ALL,
    "rescat_ssd_32": ALL,
    "eas_snn_s_use_spike": UNCOMPILED,
    "spikeyolo_s_gen1": UNCOMPILED,
}
STREAMS_OF = "st_vgg_ssd_32"
STARTS = 3

_WINDOW = """
import time
import numpy as np
from snn_perception.types import EventArray, EventWindow
def window(size):
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, 50_000, 5000))
    x, y, p = (rng.integers(0, n, 5000) for n in (size.width, size.height, 2))
    return EventWindow(EventArray(x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), t, size), 0, 50_000)
"""
_WITH_TORCH = """
import sys, torch
torch.set_num_threads(1)
from snn_perception import DetectionPipeline, load_checkpoint
from snn_perception.engine.choose import build_engine
from snn_perception.runtime.stream import StreamState
pipeline = DetectionPipeline(load_checkpoint(sys.argv[1]))
pipeline.engine = build_engine(sys.argv[2], pipeline.detector)
found, _ = pipeline.step(window(pipeline.spec.sensor_size), StreamState())
assert len(found)
print(time.perf_counter())
"""
_PORTABLE = """
import sys
from snn_perception.engine.portable import PortableDetector
detector = PortableDetector(sys.argv[1])
found, _ = detector.step(window(detector.sidecar.sensor))
assert len(found) and "torch" not in sys.modules
print(time.perf_counter())
"""


@dataclass(frozen=True)
class Start:
    """Seconds from the start of a process to its first detection, the best of some; first without a cache.

    The CPU time is that of the whole process, its end included.
    """

    how: str
    first_s: float
    wall_s: float
    cpu_s: float


def networks(names: list[str], seconds: float) -> list[dict[str, Any]]:
    """Return what `bench` tells of each network."""
    found = []
    for name in names:
        print(f"{name} ...", file=sys.stderr)
        command = [sys.executable, "-m", "snn_perception", "bench", name, "--seconds", str(seconds), "--json"]
        command += ["--streams"] * (name == STREAMS_OF)
        command += ["--engines", NETWORKS[name]] if NETWORKS.get(name) else []
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, cwd=ROOT)
        if done.returncode:
            raise SystemExit(f"{name}: not measured: {' '.join(command)} ended with {done.returncode}")
        found.append(json.loads(done.stdout))
    return found


def starts() -> list[Start]:
    """Return how soon the first detection of `st_vgg_ssd_32` is there, by every way to run it."""
    from snn_perception import build_preset, save_checkpoint
    from snn_perception.engine.export import export_onnx
    from snn_perception.engine.probe import synthetic_inputs
    from snn_perception.testing import wake

    with tempfile.TemporaryDirectory() as folder:
        detector = build_preset("st_vgg_ssd_32")
        wake(detector, synthetic_inputs(detector, 6))
        checkpoint, graph = Path(folder) / "model.safetensors", Path(folder) / "model.onnx"
        save_checkpoint(checkpoint, detector)
        export_onnx(detector, graph)
        cache = {"SNN_PERCEPTION_CACHE": str(Path(folder) / "cache")}
        ways = [("exported file alone, no torch", _PORTABLE, [str(graph)])]
        ways += [
            (f"checkpoint, engine {name}", _WITH_TORCH, [str(checkpoint), name])
            for name in ("detector", "native", "onnxruntime", "openvino", "compile")
        ]
        return [_start(how, _WINDOW + program, arguments, cache) for how, program, arguments in ways]


def _start(how: str, program: str, arguments: list[str], cache: dict[str, str]) -> Start:
    print(f"{how} ...", file=sys.stderr)
    times = [_timed([sys.executable, "-c", program, *arguments], cache) for _ in range(STARTS + 1)]
    return Start(how, times[0][0], min(wall for wall, _ in times[1:]), min(cpu for _, cpu in times[1:]))


def _timed(command: list[str], cache: dict[str, str]) -> tuple[float, float]:
    """Return the seconds to the time that a process prints, on the clock that all processes share, and its CPU time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    done = subprocess.run(command, check=True, env=os.environ | cache, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return float(done.stdout.split()[-1]) - begun, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def page(found: list[dict[str, Any]], started: list[Start], picture: str) -> str:
    """Return the figures as a page for people."""
    lines = [
        "# Engines",
        "",
        "Made by `make bench-engine`, which runs the command `bench` for each network. A window's input tensor to the",
        "head's raw outputs: batch 1, one pinned thread, state carried as the model does, windows of moving shapes,",
        "fresh weights scaled so that every layer fires. All engines of a network run in turn in one process on the",
        "same windows. CPU time counts; wall time contains waiting where other work shares the processor. `eager` is",
        "the network by plain operations of torch, unfolded; the floor is its dense arithmetic, norms folded, at the",
        "speed of the best matrix product seen in the same process. Adding weights where neurons fired takes fewer",
        "operations than that floor counts. Flips are the share of neurons that spike otherwise than in `eager`, each",
        "window from the state of `eager`, in layers whose input was the same; 'raw error' is the largest difference",
        "of a raw output in windows without flips, relative to the largest output if that is above 1.",
        "",
        "| machine | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in found[0]["machine"].items()),
        "",
        f"![CPU time of a window over the floor]({picture})",
        "",
        *(line for values in found for line in section(values)),
        "## Start",
        "",
        f"From the start of a process to its first detection by `{STREAMS_OF}`, best of {STARTS} with all that can be",
        "cached in the cache, and the first time, without a cache. Python's own start is in it. CPU time is that of",
        "the whole process, its end included.",
        "",
        *markdown_table(
            ("way", "first, s", "cached: wall s", "cached: CPU s"),
            [[one.how, f"{one.first_s:.1f}", f"{one.wall_s:.2f}", f"{one.cpu_s:.2f}"] for one in started],
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the measurements as a page, or as one JSON object."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="for the windows of each network")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=list(NETWORKS), help="presets to run")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("-o", "--output", type=Path, metavar="PAGE.md", help="write the page here, a picture beside it")
    arguments = parser.parse_args()
    found, started = networks(arguments.only, arguments.seconds), starts()
    picture = f"{arguments.output.stem}.png" if arguments.output else "engine.png"
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        write_picture(arguments.output.with_name(picture), found)
        with whole_file(arguments.output) as partial:
            partial.write_text(page(found, started, picture))
    told = {"networks": found, "starts": [asdict(one) for one in started]}
    print(json.dumps(told) if arguments.json else page(found, started, picture))


if __name__ == "__main__":
    main()
