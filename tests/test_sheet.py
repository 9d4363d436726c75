"""The page of a recording: which moments, their counts, the plot of the rate, and that the picture shows them."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from snn_perception.errors import SnnPerceptionError
from snn_perception.events.dat import DatRecording
from snn_perception.events.dat_writer import write_dat
from snn_perception.events.rosbag2 import BagRecording, write_bag
from snn_perception.events.walk import EventWalk
from snn_perception.runtime.rate_plot import ASCII_BLOCKS, BLOCKS, Rate, RateStrip, rate_text, text_bars
from snn_perception.runtime.render import THEMES, pillow_of
from snn_perception.runtime.sheet import Boxes, Sheet, Tile, draw_sheet, shortened, tile_shape, write_sheet
from snn_perception.runtime.snapshots import Snapshot, before_labels, shrink, snapshots, spread_evenly
from snn_perception.types import EventArray, SensorSize
from tests import bag_support as support

SIZE = SensorSize(48, 64)


# ---- which moments


@given(
    first=st.integers(-(10**9), 10**12),
    duration=st.integers(0, 10**8),
    window=st.integers(1, 10**6),
    frames=st.integers(1, 50),
)
def test_even_moments_lie_apart_and_inside(first, duration, window, frames):
    last = first + duration
    spans = spread_evenly(first, last, window, frames)
    assert 1 <= len(spans) <= frames
    assert all(end - begin == window for begin, end in spans)
    assert all(one[1] <= two[0] for one, two in pairwise(spans))
    if duration >= window:
        assert spans[0][0] >= first
        assert spans[-1][1] <= last + 1
        # The silence before, between and after them is the same, to rounding.
        starts = [begin - first for begin, _ in spans]
        assert np.ptp(np.diff(starts)) <= 1 if len(spans) > 2 else True
    else:
        assert spans == [(first, first + window)]
    assert len(spans) == frames or len(spans) == max(1, (duration + 1) // window)


def test_moments_before_labels():
    times = np.array([900, 100, 100, 500, -50, 2_000, 300, 700], np.int64)
    assert before_labels(times, 0, 1_000, 50, 3) == [(51, 101), (451, 501), (851, 901)]
    assert len(before_labels(times, 0, 1_000, 50, 10)) == 5
    assert before_labels(times, 0, 1_000, 50, 1) == [(51, 101)]
    assert before_labels(times, 3_000, 4_000, 50, 3) == []
    assert before_labels(times[:0], 0, 1_000, 50, 3) == []


# ---- their events


def random_events(n=4000, last_us=1_000_000, size=SIZE, seed=0) -> EventArray:
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, last_us, n))
    x, y = rng.integers(0, size.width, n, dtype=np.uint16), rng.integers(0, size.height, n, dtype=np.uint16)
    return EventArray(x, y, rng.integers(0, 2, n, dtype=np.uint8), t, size)


def expected_counts(events, begin, end, size=SIZE) -> np.ndarray:
    counts = np.zeros((2, size.height, size.width), np.int64)
    rows = (events.t >= begin) & (events.t < end)
    np.add.at(counts, (events.p[rows], events.y[rows], events.x[rows]), 1)
    return counts


SPANS = [(-5_000, 40_000), (300_000, 350_000), (330_000, 390_000), (380_000, 380_001), (980_000, 1_200_000)]


@pytest.mark.parametrize("chunk", [7, 1 << 16])
def test_snapshots_hold_the_events_of_their_spans(tmp_path, registry, monkeypatch, chunk):
    events = random_events()
    write_dat(tmp_path / "a.dat", [events], SIZE)
    recording = DatRecording(tmp_path / "a.dat")
    whole = recording.chunks
    monkeypatch.setattr(recording, "chunks", lambda **options: whole(chunk, **options))
    found = list(snapshots(EventWalk(recording, registry), SPANS, (48, 64)))
    assert [(s.t_start_us, s.t_end_us) for s in found] == SPANS
    for snapshot, (begin, end) in zip(found, SPANS, strict=True):
        expected = expected_counts(events, begin, end)
        np.testing.assert_array_equal(snapshot.counts, expected)
        assert snapshot.events == expected.sum()


def test_snapshots_of_packets_take_one_pass(tmp_path, registry, monkeypatch):
    write_bag(
        tmp_path / "bag", support.packets(20)
    )  # one packet a millisecond, three events 1 us apart, x = its number
    bag = BagRecording(tmp_path / "bag")
    passes, whole = [], bag.packets
    monkeypatch.setattr(bag, "packets", lambda: passes.append(1) or whole())
    found = list(snapshots(EventWalk(bag, registry), [(0, 2_000), (1_500, 3_000), (10_000, 10_001)], (480, 640)))
    assert [s.events for s in found] == [6, 3, 1]
    assert [np.flatnonzero(s.counts.sum(axis=(0, 1))).tolist() for s in found] == [[0, 1], [2], [10]]
    assert len(passes) == 1


def test_a_span_beyond_the_recording_is_empty(tmp_path, registry):
    write_dat(tmp_path / "a.dat", [random_events()], SIZE)
    (found,) = snapshots(EventWalk(DatRecording(tmp_path / "a.dat"), registry), [(10**9, 10**9 + 5)], (48, 64))
    assert (found.events, found.counts.shape, found.counts.sum()) == (0, (2, 48, 64), 0)
    assert list(snapshots(EventWalk(DatRecording(tmp_path / "a.dat"), registry), [], (48, 64))) == []


def test_counts_saturate_and_huge_sensors_are_counted_in_blocks(tmp_path, registry):
    size = SensorSize(16384, 16384)
    n = 300
    at = np.full(n, 16383, np.uint16)
    events = EventArray(at, at, np.ones(n, np.uint8), np.arange(n, dtype=np.int64), size)
    write_dat(tmp_path / "a.dat", [events], size)
    (found,) = snapshots(EventWalk(DatRecording(tmp_path / "a.dat"), registry), [(0, n)], tile_shape(size))
    assert found.events == n
    assert found.counts.shape == (2, 480, 480)
    assert found.counts[1, -1, -1] == 255
    assert found.counts.sum() == 255


@given(height=st.integers(1, 40), width=st.integers(1, 40), h=st.integers(1, 50), w=st.integers(1, 50))
def test_shrinking_keeps_every_single_event_as_bright_as_it_was(height, width, h, w):
    rng = np.random.default_rng(height * 41 + width)
    counts = rng.integers(0, 3, (2, height, width)).astype(np.uint8) * (rng.random((2, height, width)) < 0.1)
    small = shrink(counts, (h, w))
    assert small.shape == (2, min(h, height), min(w, width))
    for side, y, x in np.argwhere(counts).tolist():
        row = min(y * min(h, height) // height + 1, min(h, height) - 1)
        column = min(x * min(w, width) // width + 1, min(w, width) - 1)
        near = small[side, max(0, row - 1) : row + 1, max(0, column - 1) : column + 1]
        assert near.max() >= counts[side, y, x]
    assert small.max(initial=0) == counts.max(initial=0)
    assert (small > 0).sum() <= (counts > 0).sum()


# ---- the rate as text


def test_rates_for_people():
    told = [rate_text(hz) for hz in (0, 0.5, 12, 999, 999.9, 1234, 45_678, 999_999, 1.25e6, 812e6, 3e9, 5e12)]
    assert told == [
        *("0 /s", "0.5 /s", "12 /s", "999 /s", "1 k/s", "1.23 k/s", "45.7 k/s", "1 M/s", "1.25 M/s", "812 M/s"),
        *("3 G/s", "5,000 G/s"),
    ]


def test_bars_of_text():
    values = np.array([0, 1, 4, 8, 16])
    assert text_bars(values, 5, 2) == ["    █", " ▁▄██"]
    assert text_bars(values, 14, 2, ASCII_BLOCKS) == ["        ||", "  ..::||||"]
    assert text_bars(np.array([0, 8, 0, 0, 8, 8, 4, 4]), 4, 1) == ["▄ █▄"]  # means of two
    assert text_bars(np.array([1, 10**9]), 2, 3) == [" █", " █", "▁█"]  # what is there shows
    assert text_bars(np.zeros(3, np.int64), 3, 1) == ["   "]
    assert text_bars(np.array([], np.int64), 3, 1) == []
    assert text_bars(values, 0, 1) == []


@given(
    values=st.lists(st.integers(0, 10**12), min_size=1, max_size=240),
    columns=st.integers(1, 300),
    rows=st.integers(1, 5),
)
def test_bars_of_any_values_fit(values, columns, rows):
    lines = text_bars(np.array(values), columns, rows)
    assert len(lines) == rows
    assert len({len(line) for line in lines}) == 1
    assert 0 < len(lines[0]) <= columns
    assert set("".join(lines)) <= set(BLOCKS)
    assert ("█" in lines[0]) == any(values)


# ---- the rate as a picture


@pytest.mark.parametrize("theme", THEMES)
def test_the_strip_shows_both_polarities_in_proportion(theme):
    colours = THEMES[theme]
    image, pen = pillow_of(np.full((200, 500, 3), colours.band, np.uint8))
    rate = Rate(1000, 0, np.array([100, 0, 50, 100]), np.array([50, 0, 50, 0]))
    RateStrip(0, 0, 500, 200, colours, 12).draw(pen, rate, [500])
    picture = np.asarray(image)
    on, off = ((picture == colour).all(axis=-1) for colour in (colours.on, colours.off))
    plot = np.flatnonzero((on | off | (picture == colours.background).all(axis=-1)).any(axis=0))
    quarters = [part[3:-3] for part in np.array_split(np.arange(plot[0], plot[-1] + 1), 4)]
    share_on = [on[:, columns].sum() for columns in quarters]
    share_off = [off[:, columns].sum() for columns in quarters]
    whole = share_off[3]
    assert share_on[1] == share_off[1] == 0
    assert share_off[2] < 0.05 * whole
    assert share_on[3] < 0.05 * whole
    for half in (share_on[0], share_off[0], share_on[2]):
        assert 0.4 * whole < half < 0.6 * whole
    rows_on, rows_off = np.flatnonzero(on[:, quarters[0]].any(axis=1)), np.flatnonzero(off[:, quarters[0]].any(axis=1))
    assert rows_off.max() < rows_on.min(), "OFF stands on ON"
    middle = quarters[0][len(quarters[0]) // 2]
    marked = picture[:, middle - 3 : middle + 4]
    assert (marked == colours.text).all(axis=-1).any(axis=1).sum() > 100, "the moment's line"


@pytest.mark.parametrize(
    ("bin_us", "n", "start"), [(125, 1, 0), (1000, 3, -5000), (1 << 50, 240, 0), (256_000, 234, 10**15)]
)
def test_strips_of_any_duration_draw(bin_us, n, start):
    image, pen = pillow_of(np.zeros((150, 400, 3), np.uint8))
    counts = np.arange(n) + 1
    RateStrip(5, 5, 390, 140, THEMES["dark"], 12, zero_us=start).draw(
        pen, Rate(bin_us, start, counts, counts // 2), [0]
    )
    assert (np.asarray(image) == THEMES["dark"].on).all(axis=-1).any() or n == 1
    blank = image.copy()
    RateStrip(5, 5, 390, 140, THEMES["dark"], 12).draw(pen, Rate(0, 0, counts[:0], counts[:0]), [1])
    assert image.tobytes() == blank.tobytes()


# ---- the page


def snapshot(begin=0, end=50_000, shape=(48, 64), at=()) -> Snapshot:
    counts = np.zeros((2, *shape), np.uint8)
    for side, y, x in at:
        counts[side, y, x] += 1
    return Snapshot(begin, end, counts, len(at))


def page(tiles, size=SIZE, title="a.dat", classes=("car",)) -> Sheet:
    rate = Rate(1000, 0, np.array([1, 2, 3]), np.array([1, 1, 1]))
    return Sheet(title, "facts", size, 0, rate, tiles, classes)


def drawn(*arguments, theme="dark") -> np.ndarray:
    return np.asarray(draw_sheet(page(*arguments), theme))


def top_of_tiles(picture: np.ndarray, theme: str = "dark") -> int:
    """Return the first row below the heads of the first tiles."""
    return int(np.argmax((picture == THEMES[theme].background).all(axis=-1).any(axis=1)))


@pytest.mark.parametrize("theme", THEMES)
def test_every_event_shows_in_its_tile(theme):
    plain = drawn([Tile(snapshot()), Tile(snapshot())], theme=theme)
    lit = drawn([Tile(snapshot(at=[(1, 10, 20), (0, 40, 60)])), Tile(snapshot())], theme=theme)
    changed = (plain != lit).any(axis=-1)
    top, scale = top_of_tiles(plain, theme), 610 // 64
    assert changed[:top].any(), "the head tells how many events"
    picture = changed[top:]
    blocks = np.argwhere(picture)
    assert picture.sum() == 2 * scale**2, "two pixels, enlarged"
    (y_on, x_on), (y_off, x_off) = blocks.min(axis=0), blocks.max(axis=0)
    assert ((y_off + 1 - y_on) // scale, (x_off + 1 - x_on) // scale) == (31, 41)
    on, off = lit[top:][y_on, x_on].astype(int), lit[top:][y_off, x_off].astype(int)
    assert on[2] > on[0] and off[0] > off[2], "ON is blue, OFF is orange"


def test_labels_show_with_their_names():
    box = Boxes(np.array([[10, 10, 40, 40]], np.float32), np.array([0]))
    bare = drawn([Tile(snapshot())])
    none = drawn([Tile(snapshot(), Boxes())])
    boxed = drawn([Tile(snapshot(), box)])
    renamed = np.asarray(draw_sheet(page([Tile(snapshot(), box)], classes=("lorry",))))
    top = top_of_tiles(bare)
    assert (bare[:top] != none[:top]).any(), "a recording with labels says how many, also none"
    np.testing.assert_array_equal(bare[top:], none[top:])
    yellow = THEMES["dark"].classes[0]
    assert not (none == yellow).all(axis=-1).any()
    outline = np.argwhere((boxed[top:] == yellow).all(axis=-1))
    (top, left), (bottom, right) = outline.min(axis=0), outline.max(axis=0)
    assert right - left == pytest.approx(30 * 9, abs=2)
    assert bottom - top >= 30 * 9 - 2
    assert (renamed != boxed).any()


def test_boxes_of_a_shrunk_sensor_lie_where_their_events_do():
    size = SensorSize(720, 1280)
    shape = tile_shape(size)
    assert shape == (270, 480)
    box = Boxes(np.array([[640, 360, 1280, 720]], np.float32), np.array([0]))
    picture = np.asarray(draw_sheet(page([Tile(snapshot(shape=shape), box)], size=size)))
    rows, columns = np.nonzero((picture == THEMES["dark"].classes[0]).all(axis=-1))
    assert np.ptp(columns) == pytest.approx(240, abs=4)
    assert np.percentile(rows, 99) - np.percentile(rows, 20) < 135 + 4


@pytest.mark.parametrize(
    ("tiles", "shape"),
    [(100, (48, 64)), *product([1, 2, 5, 12, 30], [(48, 64), (1, 480), (480, 1), (240, 304), (270, 480)])],
)
def test_pages_of_any_number_and_shape_draw(tiles, shape):
    height, width = shape
    image = draw_sheet(page([Tile(snapshot(shape=shape))] * tiles, size=SensorSize(height, width)))
    assert image.width < 8000 and image.height < 8000
    if 4 <= tiles <= 30 and max(shape) < 3 * min(shape):
        assert 0.5 < image.width / image.height < 3


@pytest.mark.parametrize("size", [(240, 304), (720, 1280), (1, 16384), (16384, 1), (480, 640), (34, 34)])
def test_tiles_hold_no_more_than_the_sensor_and_stay_small(size):
    height, width = tile_shape(SensorSize(*size))
    assert 1 <= height <= min(size[0], 1920)
    assert 1 <= width <= min(size[1], 480)
    if width == size[1]:
        assert height == min(size[0], 1920)


def test_long_names_are_shortened_in_the_middle():
    _, pen = pillow_of(np.zeros((20, 400, 3), np.uint8))
    name = "recordings_of_a_whole_year_" * 5 + "17-04-06.dat"
    short = shortened(pen, name, 14, 300)
    assert len(short) < len(name)
    assert short.startswith("recordings") and short.endswith("04-06.dat") and "..." in short
    assert shortened(pen, "short", 14, 300) == "short"
    assert drawn([Tile(snapshot())], SIZE, name).shape == drawn([Tile(snapshot())]).shape


def test_the_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.png"
    write_sheet(page([Tile(snapshot())]), path)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), drawn([Tile(snapshot())]))
    for bad in (tmp_path / "a.jpg", tmp_path / "missing" / "a.png"):
        with pytest.raises(SnnPerceptionError, match=r"ends in \.png|does not exist"):
            write_sheet(page([Tile(snapshot())]), bad)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="dark, light"):
        draw_sheet(page([Tile(snapshot())]), "pink")
    with pytest.raises(ValueError, match="at least one tile"):
        draw_sheet(page([]))
