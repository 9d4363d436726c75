"""What the tests of `doctor`, the demo and the shipped weights share: a folder of weights, and fake distributions."""

from __future__ import annotations

from pathlib import Path

from snn_perception.checkpoint import save_checkpoint
from snn_perception.detector import build_preset
from snn_perception.doctor.finding import Bench
from snn_perception.registry import Registry
from snn_perception.runtime.waking import wake_on_recording

PRESET = "st_vgg_ssd_16"
RECORD = {"config": {"model": {"preset": PRESET}}, "data": {"data_set": "synthetic-gen1/1"}}


def woken_checkpoint(path: Path, recording: Path, registry: Registry) -> Path:
    """Write an untrained model that fires on a recording as if it had been trained."""
    detector = build_preset(PRESET, registry=registry)
    wake_on_recording(detector, recording, registry)
    save_checkpoint(path, detector, run=RECORD)
    return path


def distribution(site: Path, name: str, *, requires: tuple[str, ...] = (), plugin: str = "") -> None:
    """Write an installed distribution, with requirements, or with a plugin of that source code."""
    folder = site / f"{name}-1.0.dist-info"
    folder.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {line}" for line in requires)]
    (folder / "METADATA").write_text("\n".join(lines) + "\n")
    if plugin:
        (site / f"{name}.py").write_text(plugin)
        (folder / "entry_points.txt").write_text(f"[snn_perception.plugins]\n{name} = {name}\n")


def looked_at(bench: Bench, folder: Path) -> Bench:
    """Return a bench with the registry and drive of another, in a folder of its own."""
    return Bench(folder, bench.model, registry=bench.registry, drive=bench.drive)
