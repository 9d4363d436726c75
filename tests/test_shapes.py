from itertools import pairwise

import numpy as np
import pytest

from snn_perception.data.shapes import SHAPE_CLASSES, MovingShapes, moving_shapes
from snn_perception.types import EventArray, SensorSize

SIZE = SensorSize(height=240, width=304)
SECOND_US = 1_000_000
LATE_US = 5_000  # events of a crossing come within this, save one in very many


def all_events(scene):
    return EventArray.concatenate(list(scene), scene.size)


def same(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in "xypt")


@pytest.mark.parametrize("seed", range(4))
def test_rate_is_that_of_a_busy_scene(seed):
    scene = MovingShapes(SIZE, SECOND_US, seed)
    assert 200_000 < len(all_events(scene)) < 1_000_000


@pytest.mark.parametrize("size", [SIZE, SensorSize(480, 640), SensorSize(3, 2), SensorSize(1, 1)])
def test_events_are_valid_in_order_and_within_the_scene(size):
    chunks = list(moving_shapes(size, 300_000, seed=2, t_start_us=50, noise_hz=100.0))
    for chunk in chunks:
        chunk.validate()
        assert len(chunk)
    for earlier, later in pairwise(chunks):
        assert earlier.t[-1] <= later.t[0]
    assert chunks[0].t[0] >= 50
    assert chunks[-1].t[-1] < 300_050


def test_the_same_seed_gives_the_same_events_and_another_one_others():
    one, again, other = (all_events(MovingShapes(SIZE, 300_000, seed)) for seed in (1, 1, 2))
    assert same(one, again)
    assert not same(one, other)


def test_chunks_do_not_show():
    scenes = [MovingShapes(SIZE, 333_333, 1, chunk_us=chunk_us) for chunk_us in (1_000, 7_777, 50_000, 10**9)]
    chunks = [list(scene) for scene in scenes]
    assert len({len(parts) for parts in chunks}) > 2
    assert all(same(EventArray.concatenate(parts, SIZE), all_events(scenes[0])) for parts in chunks)
    assert all(part.t[-1] - part.t[0] < 1_000 for part in chunks[0])


def test_nothing_but_noise_fires_in_the_pause():
    scene = MovingShapes(SIZE, SECOND_US, 1, noise_hz=0)
    begin, end = scene.pause_us
    assert (begin, end) == (550_000, 650_000)
    t = all_events(scene).t
    assert not ((t >= begin + LATE_US) & (t < end)).any()
    for before, after in ((0, begin), (end, SECOND_US)):
        assert ((t >= before) & (t < after)).sum() > 10_000
    noisy = all_events(MovingShapes(SIZE, SECOND_US, 1, noise_hz=1.0)).t
    in_pause = ((noisy >= begin + LATE_US) & (noisy < end)).sum()
    assert in_pause == pytest.approx(1.0 * 240 * 304 * 0.095, rel=0.1)


def test_without_a_pause_every_window_has_motion():
    t = all_events(MovingShapes(SIZE, SECOND_US, 1, noise_hz=0, pause=None)).t
    assert np.histogram(t, bins=20, range=(0, SECOND_US))[0].min() > 1_000


def test_boxes_stay_on_the_sensor_and_stand_still_in_the_pause():
    scene = MovingShapes(SIZE, 5 * SECOND_US, 3, shapes=5)
    times = np.linspace(0, 5 * SECOND_US, 2000)
    begin, end = scene.pause_us
    for track in scene.tracks():
        boxes = track.box_at(times)
        assert boxes.dtype == np.float32
        assert boxes.min() >= -1e-3
        assert boxes[:, 2].max() <= 304.001 and boxes[:, 3].max() <= 240.001
        np.testing.assert_allclose(boxes[:, 2] - boxes[:, 0], track.width_px, rtol=1e-5)
        np.testing.assert_allclose(boxes[:, 3] - boxes[:, 1], track.height_px, rtol=1e-5)
        np.testing.assert_array_equal(track.box_at(begin), track.box_at(end))
        assert np.abs(track.box_at(0.0) - track.box_at(200_000.0)).max() > 5, "it moves"
        assert SHAPE_CLASSES[track.class_id] == track.kind
    assert {track.kind for track in scene.tracks()} == set(SHAPE_CLASSES)


@pytest.mark.parametrize("seed", range(3))
def test_events_lie_on_the_outline_of_a_shape(seed):
    """With latency taken off by looking at the first event of each crossing, an event is on an edge at its time."""
    scene = MovingShapes(SIZE, SECOND_US, seed, noise_hz=0)
    events, tracks = all_events(scene), scene.tracks()
    pixel = np.stack([events.x, events.y], axis=-1) + 0.5
    nearest = np.full(len(events), np.inf)
    for track in tracks:
        offset = np.abs(pixel - track.centre_at(events.t))
        if track.kind == "disc":
            distance = np.abs(np.hypot(*offset.T) - track.width_px / 2)
        else:
            beyond = offset - np.array([track.width_px, track.height_px]) / 2
            outside = np.hypot(*np.maximum(beyond, 0).T)
            distance = np.where(outside > 0, outside, np.abs(np.minimum(beyond.max(axis=1), 0)))
        nearest = np.minimum(nearest, distance)
    assert np.median(nearest) < 0.5
    assert nearest.max() < 3.0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shapes", [1, 2, 4])
def test_events_add_up_to_where_the_shapes_went(shapes, seed):
    """ON less OFF of each pixel is the shapes' contrast where they cover it, now less at the start; exactly so."""
    scene = MovingShapes(SIZE, SECOND_US, seed, shapes=shapes, noise_hz=0)
    in_pause = scene.pause_us[1] - 1
    events = all_events(scene)
    events = events[: int(np.searchsorted(events.t, in_pause))]
    change = np.zeros((240, 304), int)
    np.add.at(change, (events.y, events.x), events.p.astype(int) * 2 - 1)
    expected = sum(_coverage(track, in_pause) - _coverage(track, 0) for track in scene.tracks())
    assert np.abs(expected).sum() > 1_000
    np.testing.assert_array_equal(change, expected)


def _coverage(track, t_us):
    y, x = np.mgrid[:240, :304] + 0.5
    cx, cy = track.centre_at(t_us)
    if track.kind == "disc":
        covered = np.hypot(x - cx, y - cy) < track.width_px / 2
    else:
        covered = (np.abs(x - cx) < track.width_px / 2) & (np.abs(y - cy) < track.height_px / 2)
    return covered.astype(int) * track.contrast * (1 if track.is_bright else -1)


def test_only_noise_without_shapes():
    scene = MovingShapes(SIZE, SECOND_US, 1, shapes=0, noise_hz=0.5)
    events = all_events(scene)
    assert scene.tracks() == ()
    assert len(events) == pytest.approx(0.5 * 240 * 304, rel=0.05)
    assert events.p.mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    "options",
    [
        {"duration_us": 0},
        {"chunk_us": 0},
        {"shapes": -1},
        {"noise_hz": -1.0},
        {"pause": (0.7, 0.6)},
        {"pause": (0.5, 1.2)},
    ],
)
def test_nonsense_is_refused(options):
    with pytest.raises(ValueError):
        MovingShapes(SIZE, **{"duration_us": SECOND_US, **options})
