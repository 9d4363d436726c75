"""Values at the borders: what is accepted, what is refused with which words, and what comes out of their methods."""

import copy
import dataclasses
import pickle
from contextlib import nullcontext

import numpy as np
import pytest

from snn_perception.types import (
    DecodedEvents,
    Detections,
    EventArray,
    EventWindow,
    FeatureInfo,
    Losses,
    SensorSize,
    Targets,
    Triggers,
)

SIZE = SensorSize(4, 6)


def events(t, x=None, y=None, p=None, size=SIZE) -> EventArray:
    count = len(t)
    return EventArray(
        np.array(x if x is not None else [0] * count, np.uint16),
        np.array(y if y is not None else [0] * count, np.uint16),
        np.array(p if p is not None else [0] * count, np.uint8),
        np.array(t, np.int64),
        size,
    )


def detections(scores, t_us=0) -> Detections:
    count = len(scores)
    boxes = np.arange(4 * count, dtype=np.float32).reshape(count, 4)
    return Detections(boxes, np.array(scores, np.float32), np.arange(count), t_us)


@pytest.mark.parametrize(
    ("height", "width", "error"),
    [
        (1, 1, nullcontext()),
        (np.int64(240), np.uint16(304), nullcontext()),
        (16384, 16384, nullcontext()),
        (0, 4, pytest.raises(ValueError, match=r"height must be 1\.\.16384 px, got 0")),
        (4, -1, pytest.raises(ValueError, match=r"width must be 1\.\.16384 px, got -1")),
        (4, 16385, pytest.raises(ValueError, match="width")),
        (4.0, 4, pytest.raises(ValueError, match=r"height must be 1\.\.16384 px, got 4\.0")),
        ("4", 4, pytest.raises(ValueError, match="height")),
    ],
)
def test_sensor_size(height, width, error):
    with error:
        size = SensorSize(height, width)
        assert (type(size.height), type(size.width)) == (int, int)
        assert str(size) == f"{width}x{height}"
        assert size == SensorSize(int(height), int(width)) and hash(size) == hash(SensorSize(int(height), int(width)))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("x", np.zeros(2, np.int16), r"x: expected uint16\[N\], got int16\[2\]"),
        ("y", np.zeros((2, 1), np.uint16), r"y: expected uint16\[N\], got uint16\[2, 1\]"),
        ("p", np.zeros(2, bool), r"p: expected uint8\[N\], got bool\[2\]"),
        ("t", np.zeros(2, np.uint64), r"t: expected int64\[N\], got uint64\[2\]"),
        ("t", [0, 1], r"t: expected a NumPy array int64\[N\], got list"),
        ("t", np.zeros(3, np.int64), r"columns differ in length: \{'x': 2, 'y': 2, 'p': 2, 't': 3\}"),
    ],
)
def test_event_array_refuses_other_columns(column, value, message):
    columns = {name: getattr(events([1, 2]), name) for name in "xypt"} | {column: value}
    with pytest.raises(ValueError, match=message):
        EventArray(**columns, size=SIZE)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (events([]), nullcontext()),
        (events([5, 5, 6], x=[5, 0, 1], y=[3, 0, 1], p=[1, 0, 1]), nullcontext()),
        (events([-5, -1]), nullcontext()),
        (events([1, 2, 3], x=[0, 6, 7]), pytest.raises(ValueError, match=r"event 1: x=6 lies outside 0\.\.5 \(6x4\)")),
        (events([1, 2], y=[0, 4]), pytest.raises(ValueError, match=r"event 1: y=4 lies outside 0\.\.3 \(6x4\)")),
        (events([1], p=[2]), pytest.raises(ValueError, match=r"event 0: p=2 lies outside 0\.\.1")),
        (events([1, 9, 8, 7]), pytest.raises(ValueError, match="event 2 at t=8 us precedes t=9 us")),
    ],
)
def test_validate_names_the_event(given, error):
    with error:
        assert given.validate() is given


def test_rows_of_events_are_chosen_in_every_column():
    whole = events([1, 2, 3], x=[1, 2, 3], y=[0, 1, 2], p=[1, 0, 1])
    part = whole[1:]
    assert (part.x.tolist(), part.y.tolist(), part.p.tolist(), part.t.tolist()) == ([2, 3], [1, 2], [0, 1], [2, 3])
    assert part.t.base is whole.t, "a slice is a view"
    assert whole[whole.p == 1].t.tolist() == [1, 3]
    assert part.size == SIZE


def test_concatenating_events():
    one, two = events([1, 2], x=[1, 2]), events([3], x=[3])
    joined = EventArray.concatenate([one, EventArray.empty(SIZE), two], SIZE)
    assert joined.t.tolist() == [1, 2, 3] and joined.x.tolist() == [1, 2, 3] and len(joined) == 3
    assert EventArray.concatenate([EventArray.empty(SIZE), two], SIZE) is two
    assert len(EventArray.concatenate([], SIZE)) == 0


def test_values_are_frozen():
    for value, field in [(events([1]), "t"), (detections([0.5]), "score"), (SIZE, "height")]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field, None)


def test_a_window_has_a_length():
    assert EventWindow(events([1]), 0, 10).stream == ""
    with pytest.raises(ValueError, match=r"positive length, got \[10, 10\) us"):
        EventWindow(events([]), 10, 10)


@pytest.mark.parametrize("kind", ["xyxy", "score", "class_id", "length"])
def test_detections_refuse_other_arrays(kind):
    good = {"xyxy": np.zeros((2, 4), np.float32), "score": np.zeros(2, np.float32), "class_id": np.zeros(2, np.int64)}
    bad = {
        "xyxy": ({"xyxy": np.zeros((2, 4))}, r"xyxy: expected float32\[N, 4\], got float64\[2, 4\]"),
        "score": ({"score": np.zeros((2, 1), np.float32)}, r"score: expected float32\[N\], got float32\[2, 1\]"),
        "class_id": ({"class_id": np.zeros(2, np.int32)}, r"class_id: expected int64\[N\], got int32\[2\]"),
        "length": ({"score": np.zeros(3, np.float32)}, "columns differ in length"),
    }
    change, message = bad[kind]
    with pytest.raises(ValueError, match=message):
        Detections(**(good | change))


def test_detections_are_equal_when_every_bit_is():
    one = detections([0.9, 0.5])
    assert one == detections([0.9, 0.5]) and one != detections([0.9, 0.5], t_us=1)
    assert one != detections([0.9]) and one != "detections"
    moved = Detections(one.xyxy + np.float32(1e-6), one.score, one.class_id)
    assert one != moved
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)


def test_rows_of_detections():
    chosen = detections([0.9, 0.5, 0.1], t_us=7)[:2]
    assert len(chosen) == 2 and chosen.t_us == 7 and chosen.class_id.tolist() == [0, 1]
    assert len(Detections.empty(3)) == 0 and Detections.empty(3).t_us == 3


def test_targets_and_features_are_checked():
    with pytest.raises(ValueError, match="columns differ in length"):
        Targets(np.zeros((2, 4), np.float32), np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="one stride per map"):
        FeatureInfo((8, 16), (4,))
    with pytest.raises(ValueError, match="one stride per map"):
        FeatureInfo((), ())


def test_decoded_events_in_microseconds():
    columns = {name: getattr(events([1_999, 2_000]), name) for name in "xyp"}
    nano = DecodedEvents(**columns, t=np.array([1_999, 2_000]), size=SIZE, time_unit="ns")
    assert nano.to_event_array().t.tolist() == [1, 2] and nano.us_divisor == 1000
    micro = DecodedEvents(**columns, t=np.array([1_999, 2_000]), size=SIZE)
    assert micro.to_event_array().t is micro.t and micro.us_divisor == 1
    with pytest.raises(ValueError, match="time_unit must be 'us' or 'ns', got 'ms'"):
        DecodedEvents(**columns, t=np.zeros(2, np.int64), size=SIZE, time_unit="ms")


def test_losses_add_up():
    assert Losses(1, 2, 3, 4) + Losses(10, 20, 30, 40) == Losses(11, 22, 33, 44)
    assert Losses(1, 2, 3, 4).total == 10
    assert len(Triggers.empty()) == 0


def test_splitting_decoded_events_loses_nothing():
    n = 10
    t = np.arange(n, dtype=np.int64) * 10
    column = np.zeros(n, np.uint16)
    triggers = Triggers(np.array([5, 50, 95], np.int64), np.zeros(3, np.uint8), np.zeros(3, np.uint8))
    leaps = np.array([[0, -1, 0], [5, 40, 50], [9, 80, 90]], np.int64)
    size = SensorSize(4, 4)
    whole = DecodedEvents(
        column, column, column.astype(np.uint8), t, size, "us", 95, leaps, triggers, Losses(outside=3)
    )
    for at in range(n + 1):
        front, rest = whole.split(at)
        assert (len(front), len(rest)) == (at, n - at)
        assert [*front.t, *rest.t] == t.tolist()
        moved = rest.leaps + [at, 0, 0]
        assert np.concatenate([front.leaps, moved]).tolist() == leaps.tolist()
        assert [*front.triggers.t, *rest.triggers.t] == [5, 50, 95]
        assert (front.losses.total, rest.losses.total) == (3, 0)
        assert (front.t_reached, rest.t_reached) == (t[at - 1] if at else None, 95)


def test_joined_events_behave_as_events():
    parts = [events([1, 2]), events([3]), events([4, 9])]
    joined, plain = EventArray.joined(parts, SIZE), EventArray.concatenate(parts, SIZE)
    assert len(joined) == 5
    for made in (
        joined,
        dataclasses.replace(joined, t=joined.t + 0),
        dataclasses.replace(EventArray.joined(parts, SIZE)),
        pickle.loads(pickle.dumps(EventArray.joined(parts, SIZE))),
        copy.deepcopy(EventArray.joined(parts, SIZE)),
        EventArray.joined(parts, SIZE)[:],
    ):
        assert len(made) == 5 and made.validate() is made
        for name in "xypt":
            np.testing.assert_array_equal(getattr(made, name), getattr(plain, name))
    assert len(EventArray.joined([], SIZE)) == 0 and EventArray.joined([], SIZE).t.dtype == np.int64
    with pytest.raises(AttributeError, match="z"):
        joined.z  # noqa: B018
