"""Labels of a window to targets."""

import numpy as np
import pytest

from snn_perception.data.targets import window_targets
from snn_perception.types import SensorSize

SIZE = SensorSize(240, 304)


def labels(*rows):
    """Return the columns of rows (t_us, x, y, w, h, class_id, track_id)."""
    table = np.array(rows, np.float64).reshape(-1, 7)
    return table[:, 0].astype(np.int64), table[:, 1:5], table[:, 5].astype(np.int64), table[:, 6].astype(np.int64)


def test_the_last_label_of_each_track_counts_whatever_the_order_of_rows():
    rows = [(30, 3, 0, 10, 10, 0, 5), (10, 1, 0, 10, 10, 0, 5), (20, 2, 0, 10, 10, 1, 8), (5, 4, 0, 10, 10, 0, 8)]
    targets = window_targets(*labels(*rows), SIZE, window_t_us=100)
    assert targets.xyxy.tolist() == [[2, 0, 12, 10], [3, 0, 13, 10]]
    assert targets.class_id.tolist() == [1, 0] and targets.t_us == 100


def test_of_two_labels_at_the_same_time_the_later_row_counts():
    targets = window_targets(*labels((7, 1, 1, 5, 5, 0, 2), (7, 9, 9, 5, 5, 1, 2)), SIZE)
    assert targets.xyxy.tolist() == [[9, 9, 14, 14]] and targets.class_id.tolist() == [1]


def test_boxes_are_cut_to_the_image_and_dropped_if_nothing_is_left():
    rows = [
        (0, -10, 230, 20, 40, 0, 4),
        (0, 304, 5, 10, 10, 0, 3),  # starts at the border
        (0, 5, -20, 10, 20, 0, 2),  # ends at the border
        (0, 5, 5, 0, 10, 0, 1),
        (0, 303.5, 0, 10, 0.25, 1, 0),  # a sliver stays: no minimum size
    ]
    targets = window_targets(*labels(*rows), SIZE)
    assert targets.xyxy.tolist() == [[0, 230, 10, 240], [303.5, 0, 304, 0.25]]
    assert targets.class_id.tolist() == [0, 1]


def test_a_dropped_box_hides_the_earlier_ones_of_its_track():
    assert len(window_targets(*labels((1, 5, 5, 9, 9, 0, 1), (2, 400, 5, 9, 9, 0, 1)), SIZE)) == 0


def test_no_labels_give_no_targets():
    targets = window_targets(*labels(), SIZE)
    assert targets.xyxy.shape == (0, 4) and targets.xyxy.dtype == np.float32 and targets.class_id.dtype == np.int64


def test_unsigned_ids_and_float32_boxes_of_label_files_are_accepted():
    t, xywh, class_id, track_id = labels((1, 5, 6, 7, 8, 1, 3), (1, 5, 6, 7, 8, 0, 9))
    targets = window_targets(
        t.astype(np.uint64), xywh.astype(np.float32), class_id.astype(np.uint8), track_id.astype(np.uint32), SIZE
    )
    assert targets.xyxy.tolist() == [[5, 6, 12, 14]] * 2 and targets.class_id.tolist() == [0, 1]


def test_inputs_stay_as_they_were():
    columns = labels((1, -5, 6, 7, 8, 1, 3))
    kept = [column.copy() for column in columns]
    window_targets(*columns, SIZE)
    assert all(np.array_equal(one, other) for one, other in zip(columns, kept, strict=True))


def test_columns_of_different_lengths_are_refused():
    t, xywh, class_id, track_id = labels((1, 5, 6, 7, 8, 1, 3))
    with pytest.raises(ValueError, match="1 rows of 4 box terms"):
        window_targets(t, xywh[:, :3], class_id, track_id, SIZE)
    with pytest.raises(ValueError, match="and 0"):
        window_targets(t, xywh, class_id, track_id[:0], SIZE)
