"""Small sets in COCO's format: coloured boxes on noise, and category ids with gaps, as COCO's own have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("red", "blue")
CATEGORY_IDS = (3, 91)  # in the order of the file, which numbers the classes
_COLOURS = ((230, 40, 30), (30, 50, 240))


def write_set(root: Path, split: str = "train", *, images: int = 6, seed: int = 0, empty: int = 0) -> Path:
    """Write images of several sizes with one box of each colour; the last `empty` have none."""
    folder = root / f"{split}2017"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    listed, annotations = [], []
    for number in range(images):
        height, width = (90, 120) if number % 2 else (110, 88)
        pixels = rng.integers(90, 150, (height, width, 3), dtype=np.uint8)
        for kind in () if number >= images - empty else range(2):
            box = _box(rng, kind, height, width)
            x, y, w, h = box
            pixels[y : y + h, x : x + w] = _COLOURS[kind]
            annotations.append(annotation(len(annotations) + 1, number, CATEGORY_IDS[kind], box))
        name = f"{number:012d}.png"
        Image.fromarray(pixels).save(folder / name)
        listed.append({"id": number + 500, "file_name": name, "height": height, "width": width})
    write_annotations(root, split, listed, annotations)
    return root


def _box(rng: np.random.Generator, kind: int, height: int, width: int) -> list[int]:
    """Return a box in the left half for the first class, in the right half for the second: they do not overlap."""
    w, h = int(rng.integers(20, width // 2 - 4)), int(rng.integers(24, height // 2))
    left = kind * (width // 2) + int(rng.integers(0, width // 2 - w))
    return [left, int(rng.integers(0, height - h)), w, h]


def annotation(number: int, image: int, category: int, box: list, **more) -> dict:
    area = box[2] * box[3]
    return {
        "id": number,
        "image_id": image + 500,
        "category_id": category,
        "bbox": box,
        "area": area,
        "iscrowd": 0,
    } | more


def categories() -> list[dict]:
    return [{"id": number, "name": name} for number, name in zip(CATEGORY_IDS, CLASSES, strict=True)]


def write_annotations(root: Path, split: str, images: list, annotations: list, **more) -> Path:
    path = root / "annotations" / f"instances_{split}2017.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories(), **more}))
    return path


def annotations_of(root: Path, split: str = "train") -> dict:
    return json.loads((root / "annotations" / f"instances_{split}2017.json").read_text())
