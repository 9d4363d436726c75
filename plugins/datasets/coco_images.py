"""Images with boxes in COCO's format (Lin et al., ECCV 2014): ``annotations/instances_*.json`` and folders of images.

Classes are numbered in the order of the file's categories, 0, 1, 2, ..., whatever the categories' own ids are: COCO's
run to 90 and leave gaps, and a model that takes them for class numbers is off by one after a dozen classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from snn_perception.api import (
    Dataset,
    DatasetReport,
    EventDataError,
    LabelledRecording,
    LabelRules,
    Labels,
    SensorSize,
    checked_root,
    checked_split,
    named_filter,
)

PREFIX = "instances_"


def coco(
    root: str | Path,
    split: str,
    *,
    limit: int | None = None,
    filter: str = "none",
    skip_faulty: bool = True,
) -> Dataset:
    """Return the images of a split, each with its boxes at time 0, in the order of the annotation file.

    Args:
        root: folder with ``annotations/instances_NAME.json`` and images in ``NAME/``, ``images/NAME/`` or ``images/``.
        split: that NAME, or the beginning of one, such as ``val`` for ``val2017``.
        limit: at most so many images.
        filter: which boxes count, by the name of a preset.
        skip_faulty: leave images out whose files are not there.

    Raises:
        EventDataError: for an annotation file that is damaged, or names a category or image that it does not list.
    """
    root = checked_root(root)
    checked_split(split)
    if limit is not None and limit < 1:
        raise EventDataError(f"a data set's limit must be at least 1 image, got {limit}")
    rules = LabelRules(filter=named_filter(filter))
    path = _annotation_file(root, split)
    looked_for = f"{root} for annotations/{PREFIX}{split}*.json and a folder of images"
    if path is None:
        report = DatasetReport(looked_for, missing=(f"annotations/{PREFIX}{split}*.json",))
        return Dataset("coco", split, (), None, (), report)
    content = _read(path)
    images = _image_folder(root, path.stem.removeprefix(PREFIX))
    here = {entry.name for entry in images.iterdir()} if images is not None else set()
    names, boxes = _classes(content["categories"], path), _boxes_of_images(content, path)
    chosen: list[LabelledRecording] = []
    missing, unseen = [], 0
    for number, image in enumerate(content["images"]):
        name, size = _name_and_size(image, path, number)
        if limit is not None and len(chosen) == limit:
            unseen += 1
            continue
        where = (images or root) / name
        if skip_faulty and not (name in here or where.is_file()):
            missing.append(f"image {name}")
            continue
        chosen.append(
            LabelledRecording(
                Path(name).with_suffix("").as_posix(),
                where,
                sensor_size=size,
                label_source=partial(_labels, boxes.get(image["id"])),
                labels_path=path,
                rules=rules,
                is_image=True,
            )
        )
    left_out = (f"{unseen} beyond the limit of {limit}",) if unseen else ()
    report = DatasetReport(looked_for, found=len(chosen), missing=tuple(missing), left_out=left_out)
    return Dataset("coco", split, names, None, tuple(chosen), report)


def _annotation_file(root: Path, split: str) -> Path | None:
    """Return the file of a split; of several that begin with its name none is guessed."""
    folder = root / "annotations"
    exact = folder / f"{PREFIX}{split}.json"
    if exact.is_file():
        return exact
    found = sorted(folder.glob(f"{PREFIX}{split}*.json")) if folder.is_dir() else []
    if len(found) > 1:
        names = ", ".join(path.stem.removeprefix(PREFIX) for path in found)
        raise EventDataError(f"{folder}: several splits begin with '{split}'; give one of {names}")
    return found[0] if found else None


def _image_folder(root: Path, name: str) -> Path | None:
    return next((path for path in (root / name, root / "images" / name, root / "images") if path.is_dir()), None)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise EventDataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise EventDataError(f"{path}: expected annotations as JSON, got a damaged or other file: {error}") from error
    for key in ("images", "annotations", "categories"):
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            got = f"the keys {sorted(content)}" if isinstance(content, dict) else f"a {type(content).__name__}"
            raise EventDataError(f"{path}: expected a list of objects under '{key}', got {got:.120}")
    return content  # type: ignore[no-any-return]  # an object, as looked at above


def _classes(categories: list[dict[str, Any]], path: Path) -> tuple[str, ...]:
    names = tuple(category.get("name") for category in categories)
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
        raise EventDataError(f"{path}: expected categories with names of their own, got {names!r:.120}")
    return names  # type: ignore[return-value]  # texts, as looked at above


def _name_and_size(image: dict[str, Any], path: Path, number: int) -> tuple[str, SensorSize]:
    name, sides = image.get("file_name"), (image.get("height"), image.get("width"))
    try:
        size = SensorSize(*sides)  # type: ignore[arg-type]  # whatever else it is, it says so
    except ValueError as error:
        raise EventDataError(f"{path}: image {number} ({name!r:.80}): {error}") from None
    if not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise EventDataError(f"{path}: image {number}: expected a file_name inside the set's folder, got {name!r:.80}")
    return name, size


def _boxes_of_images(content: dict[str, Any], path: Path) -> dict[Any, Labels]:
    """Return the boxes of each image that has any, by the image's id."""
    images = _numbers((image.get("id") for image in content["images"]), "image", path)
    classes = _numbers((category.get("id") for category in content["categories"]), "category", path)
    annotations = content["annotations"]
    for key, known, what in (("image_id", images, "an image"), ("category_id", classes, "a category")):
        foreign = next((one for one in annotations if one.get(key) not in known), None)
        if foreign is not None:
            raise EventDataError(
                f"{path}: annotation {foreign.get('id')!r:.40}: expected the {key} of {what} that the file lists, "
                f"got {foreign.get(key)!r:.40}"
            )
    if not annotations:
        return {}
    xywh = _boxes(annotations, path)
    area = np.array([_area(one, box) for one, box in zip(annotations, xywh.tolist(), strict=True)], np.float32)
    crowd = np.array([bool(one.get("iscrowd", 0)) for one in annotations])
    class_id = np.array([classes[one["category_id"]] for one in annotations], np.int64)
    image = np.array([images[one["image_id"]] for one in annotations], np.int64)
    order = np.argsort(image, kind="stable")
    starts = np.searchsorted(image[order], np.arange(len(images) + 1))
    ids = list(images)
    found = {}
    for number in np.unique(image).tolist():
        rows = order[starts[number] : starts[number + 1]]
        zeros = np.zeros(len(rows), np.int64)
        track = np.arange(len(rows), dtype=np.int64)
        ones = np.ones(len(rows), np.float32)
        found[ids[number]] = Labels(zeros, xywh[rows], class_id[rows], track, ones, area[rows], crowd[rows])
    return found


def _numbers(ids: Iterable[Any], what: str, path: Path) -> dict[Any, int]:
    """Return id -> place in the file."""
    listed = list(ids)
    wrong = next((one for one in listed if isinstance(one, bool) or not isinstance(one, (int, str))), None)
    if wrong is not None or None in listed:
        raise EventDataError(f"{path}: expected every {what} to have an id, got {wrong!r:.40}")
    numbers = {one: number for number, one in enumerate(listed)}
    if len(numbers) != len(listed):
        raise EventDataError(f"{path}: expected every {what} to have an id of its own, got some twice")
    return numbers


def _boxes(annotations: list[dict[str, Any]], path: Path) -> np.ndarray:
    """Return xywh float32 [M, 4]."""
    for one in annotations:
        box: Any = one.get("bbox")
        fits = isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))
        if not fits or box[2] < 0 or box[3] < 0:
            raise EventDataError(
                f"{path}: annotation {one.get('id')!r:.40}: expected a bbox of left, top, width and height in pixels, "
                f"got {box!r:.80}"
            )
    return np.array([one["bbox"] for one in annotations], np.float32)


def _area(annotation: dict[str, Any], box: list[float]) -> float:
    area: Any = annotation.get("area")
    return float(area) if _is_number(area) else box[2] * box[3]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _labels(labels: Labels | None) -> tuple[Labels, tuple[str, ...]]:
    return Labels.empty() if labels is None else labels, ()
