import itertools
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from snn_perception.data.dataset import open_dataset
from snn_perception.training.config import AugmentConfig
from snn_perception.training.feed import Feed
from snn_perception.training.model import make_detector
from snn_perception.training.prefetch import prefetched
from snn_perception.training.sources import Lanes, RandomWindows
from snn_perception.training.survey import survey
from tests.training_support import moving_boxes, small_run

LENGTHS = [750_000, 500_000, 1_000_000]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return moving_boxes(tmp_path_factory.mktemp("boxes"), "train", recordings=3, length_us=LENGTHS)


@pytest.fixture(scope="module")
def detector(data, registry):
    return make_detector(small_run(data).model, registry, seed=0)


def feed_of(data, detector, registry, **augment):
    dataset = open_dataset(f"gen1:{data}", "train", registry)
    found = survey(dataset, detector.spec.window_us)
    return Feed(found, detector, registry, augment=AugmentConfig(**augment), seed=7)


def same(a, b):
    assert torch.equal(a.x, b.x) and a.is_start == b.is_start
    assert (a.targets is None) == (b.targets is None)
    if a.targets is not None:
        assert np.array_equal(a.targets.xyxy, b.targets.xyxy)
        assert np.array_equal(a.targets.class_id, b.targets.class_id)


@pytest.mark.parametrize("augment", [{}, {"flip": 0.5, "zoom_min": 0.7, "zoom_max": 1.5, "drop": 0.3, "noise_hz": 0.5}])
def test_a_recording_followed_from_the_middle_gives_what_it_gives_from_the_start(data, detector, registry, augment):
    feed = feed_of(data, detector, registry, **augment)
    whole = list(feed.follow(1, epoch=4))
    assert len(whole) == feed.data.lengths[1] and whole[0].is_start and not whole[3].is_start
    assert sum(float(sample.x.sum()) for sample in whole) > 100
    for first in (1, 6):
        for a, b in zip(whole[first:], feed.follow(1, 4, first), strict=True):
            same(a, b)


def test_a_window_picked_alone_is_the_one_that_a_lane_sees(data, detector, registry):
    feed = feed_of(data, detector, registry)
    for number, sample in enumerate(feed.follow(0, epoch=0)):
        same(replace(sample, is_start=True), feed.pick(0, number, epoch=0))


def test_targets_are_the_labels_scaled_to_the_networks_input(data, detector, registry):
    feed = feed_of(data, detector, registry)
    labels = feed.data.recordings[2].labels()
    samples = list(feed.follow(2, epoch=0))
    assert [k for k, s in enumerate(samples) if s.targets is not None] == feed.data.labelled[2].tolist()
    k = int(feed.data.labelled[2][1])
    rows = labels[(labels.t_us // feed.data.window_us) == k]
    want = np.concatenate([rows.xywh[:, :2], rows.xywh[:, :2] + rows.xywh[:, 2:]], axis=1).clip(0, [304, 240] * 2) / 4
    got = samples[k].targets
    order = np.argsort(-rows.track_id)  # highest track first
    assert np.allclose(got.xyxy, want[order]) and np.array_equal(got.class_id, rows.class_id[order])


def test_windows_after_the_last_event_are_empty_and_there(data, detector, registry, tmp_path):
    """The annotators saw grey images: a scene without events is labelled all the same."""
    from snn_perception.data.labels import read_labels, write_labels

    root = moving_boxes(tmp_path, "train", recordings=1, length_us=500_000)
    (path,) = (root / "train").glob("*_bbox.npy")
    labels, _ = read_labels(path)
    write_labels(path, replace(labels, t_us=labels.t_us + 1_000_000), "gen1")
    feed = feed_of(root, detector, registry)
    samples = list(feed.follow(0, epoch=0))
    assert len(samples) == feed.data.lengths[0] == 30
    assert [float(s.x.sum()) > 0 for s in samples] == [True] * 10 + [False] * 20
    assert samples[-1].targets is not None


def test_a_row_whose_boxes_all_left_the_image_is_labelled_all_the_same(data, detector, registry):
    from snn_perception.training.feed import stack
    from snn_perception.types import Targets

    sample = next(s for s in feed_of(data, detector, registry).follow(0, epoch=0) if s.targets is not None)
    nothing = Targets(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    batch = stack([sample, replace(sample, targets=nothing), replace(sample, targets=None)], step=0)
    assert [None if targets is None else len(targets) for targets in batch.targets] == [len(sample.targets), 0, None]
    assert len(sample.targets) > 0


@pytest.mark.parametrize("kind", [Lanes, RandomWindows])
def test_batches_are_the_same_from_any_step_on_and_for_any_share_of_the_rows(data, detector, registry, kind):
    feed = feed_of(data, detector, registry, flip=0.5)
    whole = list(itertools.islice(kind(feed, rows=4, own=range(4), seed=1).batches(0), 12))
    later = next(kind(feed, rows=4, own=range(4), seed=1).batches(9))
    half = list(itertools.islice(kind(feed, rows=4, own=range(2, 4), seed=1).batches(0), 12))
    assert torch.equal(whole[9].x, later.x) and torch.equal(whole[9].is_start, later.is_start)
    for a, b in zip(whole, half, strict=True):
        assert torch.equal(a.x[:, 2:], b.x)
    labelled = itertools.islice(kind(feed, rows=4, own=range(2), seed=1).labelled(0), 12)
    assert list(labelled) == [any(t is not None for t in batch.targets) for batch in whole]


def test_memory_does_not_grow_with_the_length_of_the_lanes(data, detector, registry):
    """A source holds a window of each lane, not what it has seen."""
    import tracemalloc

    feed = feed_of(data, detector, registry)
    batches = Lanes(feed, rows=2, own=range(2), seed=0).batches(0)
    for _ in range(40):
        next(batches)
    tracemalloc.start()
    try:
        sizes = []
        for _ in range(2):
            for _ in range(60):
                next(batches)
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert sizes[1] < sizes[0] + 200_000


def test_prefetching_gives_the_same_and_ends_its_thread():
    with prefetched(iter(range(100)), 3) as items:
        assert list(itertools.islice(items, 50)) == list(range(50))
    assert not [t for t in threading.enumerate() if t.name == "prefetch"]
    with prefetched(iter(range(5)), 2) as items:
        assert list(items) == list(range(5))


def test_an_error_comes_out_where_the_item_is_asked_for():
    def items():
        yield 1
        raise ValueError("no second")

    with prefetched(items(), 2) as made:
        assert next(made) == 1
        with pytest.raises(ValueError, match="no second"):
            next(made)
