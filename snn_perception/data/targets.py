"""Labels on disk to the targets of one window."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from snn_perception.types import I64, SensorSize, Targets


def window_targets(
    t_us: I64,
    xywh: npt.NDArray[np.floating],
    class_id: npt.NDArray[np.integer],
    track_id: npt.NDArray[np.integer],
    size: SensorSize,
    *,
    window_t_us: int = 0,
) -> Targets:
    """Return the targets of a window from the labels whose time falls into it.

    Of each track only the last label counts (the later row of two at the same time); tracks come in descending order.
    Boxes are cut to the image, and those of which nothing is left are dropped. No minimum size (Cordone, PhD thesis,
    2022, ch. 5).

    Args:
        t_us: label times [M]. xywh: [M, 4] left, top, width and height in pixels. class_id, track_id: [M].
        size: of the image the labels are in.
        window_t_us: time that the targets state.

    Raises:
        ValueError: if the columns differ in length.
    """
    if xywh.shape != (len(t_us), 4) or not len(t_us) == len(class_id) == len(track_id):
        raise ValueError(
            f"labels: expected {len(t_us)} rows of 4 box terms and as many ids, "
            f"got {list(xywh.shape)}, {len(class_id)} and {len(track_id)}"
        )
    track = np.asarray(track_id, np.int64)
    order = np.lexsort((t_us, track))[::-1]  # last label of the highest track first
    track = track[order]
    first = np.ones(len(track), bool)
    first[1:] = track[1:] != track[:-1]
    kept = order[first]
    xyxy = np.asarray(xywh, np.float32)[kept]
    xyxy[:, 2:] += xyxy[:, :2]
    xyxy = xyxy.clip(0, np.array([size.width, size.height] * 2, np.float32))
    solid = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
    return Targets(xyxy[solid], np.asarray(class_id, np.int64)[kept][solid], window_t_us)


def time_targets(
    xywh: npt.NDArray[np.floating], class_id: npt.NDArray[np.integer], size: SensorSize | None, *, t_us: int = 0
) -> Targets:
    """Return the targets of one label time: every box, in its order.

    Args:
        xywh: [M, 4] left, top, width and height in pixels. class_id: [M].
        size: of the image that boxes are cut to, those of which nothing is left dropped; None leaves them as they are.
        t_us: time that the targets state.
    """
    xyxy = np.asarray(xywh, np.float32).copy()
    xyxy[:, 2:] += xyxy[:, :2]
    classes = np.asarray(class_id, np.int64)
    if size is None:
        return Targets(xyxy, classes, t_us)
    xyxy = xyxy.clip(0, np.array([size.width, size.height] * 2, np.float32))
    solid = (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)
    return Targets(xyxy[solid], classes[solid], t_us)
