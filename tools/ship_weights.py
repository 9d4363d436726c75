#!/usr/bin/env python3
"""Puts a trained checkpoint among the weights that come with the package, with what `doctor` expects of it.

    python tools/ship_weights.py runs/synthetic/best.safetensors NAME [--data-set synthetic-gen1/1]

Folders of the training machine go out of its run record; the weights stay as they are. The card, NAME.md, is written by
hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from snn_perception import load_registry, zoo
from snn_perception.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from snn_perception.cli import doctor

MOST_BYTES = 4_000_000
FOLDERS = re.compile(r"(?<![^:])[~.\w-]*/(?:[^/]+/)*")  # what leads to the last part of a path, also after NAME:


def without_folders(value: Any) -> Any:
    """Return plain values with every path, also one after ``NAME:``, cut to its last part."""
    if isinstance(value, dict):
        return {name: without_folders(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return FOLDERS.sub("", value.rstrip("/")) if isinstance(value, str) and ":/" in f":{value}" else value


def ship(source: Path, name: str, data_set: str | None) -> Path:
    """Write the weights and their expected results into the package's folder; return the path of the weights."""
    record = without_folders(read_checkpoint(source).run)
    if data_set:
        record.setdefault("data", {})["data_set"] = data_set
    zoo.FOLDER.mkdir(exist_ok=True)
    path = zoo.FOLDER / f"{name}.safetensors"
    save_checkpoint(path, load_checkpoint(source, registry=load_registry()), run=record)
    if path.stat().st_size >= MOST_BYTES:
        size = path.stat().st_size
        path.unlink()
        raise SystemExit(f"error: {source}: {size:,} bytes, at most {MOST_BYTES:,} are shipped")
    if code := doctor.main(["--model", name, "--write-expected", str(zoo.expected_path(name))]):
        raise SystemExit(code)
    return path


def main() -> int:
    """Run the tool; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("name", help="the weights are opened by")
    parser.add_argument("--data-set", help="what they were trained on, where the run record says it wrongly")
    arguments = parser.parse_args()
    print(ship(arguments.checkpoint, arguments.name, arguments.data_set))
    if not zoo.card_path(arguments.name).is_file():
        print(f"write the model card too: {zoo.card_path(arguments.name)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
