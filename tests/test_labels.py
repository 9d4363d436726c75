"""Label files in every variant, damaged ones, filters and label health."""

import io
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn_perception.data.label_filters import (
    FILTERS,
    LabelFilter,
    clip_labels,
    downsample_labels,
    filter_labels,
    named_filter,
    select_classes,
    thin_labels,
)
from snn_perception.data.label_health import check_labels
from snn_perception.data.labels import LAYOUTS, Labels, count_labels, labels_from_rows, read_labels, write_labels
from snn_perception.data.npy import parse_npy, read_npy
from snn_perception.errors import EventDataError, SnnPerceptionError
from snn_perception.types import SensorSize
from tests.dataset_support import GEN1, SOME_LABELS, labels_of

COLUMNS = ("t_us", "xywh", "class_id", "track_id", "confidence")


def assert_same(a: Labels, b: Labels) -> None:
    for name in COLUMNS:
        one, two = getattr(a, name), getattr(b, name)
        assert one.dtype == two.dtype and np.array_equal(one, two), name


def rows_of(dtype) -> np.ndarray:
    """Return three rows of some label dtype, given by field names of any spelling."""
    rows = np.zeros(3, dtype)
    values = {
        "t": [100, 200, 200],
        "ts": [100, 200, 200],
        "x": [1.5, -3, 300],
        "y": [2, 4, 230],
        "w": [10, 20, 30],
        "h": [11, 21, 31],
        "class_id": [0, 1, 0],
        "track_id": [7, 9, 8],
        "confidence": [1, 0.5, 0.25],
        "class_confidence": [1, 0.5, 0.25],
    }
    for name in rows.dtype.names:
        if name in values:
            rows[name] = values[name]
    return rows


def saved(path, rows) -> object:
    np.save(path, rows)
    return path


FULL = labels_of([(100, 1.5, 2, 10, 11, 0, 7), (200, -3, 4, 20, 21, 1, 9), (200, 300, 230, 30, 31, 0, 8)])
FULL = Labels(FULL.t_us, FULL.xywh, FULL.class_id, FULL.track_id, np.array([1, 0.5, 0.25], np.float32))
BOX = [("x", "<f4"), ("y", "<f4"), ("w", "<f4"), ("h", "<f4")]
VARIANTS = {
    "gen1": LAYOUTS["gen1"],
    "one_mpx": LAYOUTS["one_mpx"],
    "gen1, t in place of ts": [("t", "<u8"), *BOX, ("class_id", "u1"), ("confidence", "<f4"), ("track_id", "<u4")],
    "other order": [("class_id", "<u4"), ("track_id", "<u4"), ("class_confidence", "<f4"), *BOX[::-1], ("t", "<i8")],
    "more fields": [("id", "S4"), *LAYOUTS["gen1"].descr, ("corners", "<f4", (2, 2)), ("invalid", "?")],
    "big endian": [
        ("ts", ">u8"),
        *((name, ">f4") for name in "xywh"),
        ("class_id", ">u2"),
        ("confidence", ">f4"),
        ("track_id", ">u4"),
    ],
    "doubles and signed": [("t", "<i8"), *((name, "<f8") for name in "xywh"), ("class_id", "<i8"), ("track_id", "<i8")]
    + [("confidence", "<f8")],
    "time as a float": [("t", "<f8"), *BOX, ("class_id", "<f4"), ("track_id", "<f4"), ("confidence", "<f4")],
    "aligned": np.dtype(LAYOUTS["gen1"].descr, align=True),
}


# ---- reading


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_reads_the_same(variant, tmp_path):
    path = saved(tmp_path / "a_bbox.npy", rows_of(VARIANTS[variant]))
    labels, notes = read_labels(path)
    assert_same(labels, FULL)
    assert notes == () and count_labels(path) == 3


def test_the_layouts_are_as_published():
    assert LAYOUTS["gen1"].itemsize == 33 and LAYOUTS["one_mpx"].itemsize == 40
    assert [LAYOUTS["one_mpx"].fields[name][1] for name in LAYOUTS["one_mpx"].names] == [0, 8, 12, 16, 20, 24, 28, 32]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_writing_then_reading_is_the_identity(layout, tmp_path):
    write_labels(tmp_path / "a.npy", FULL, layout)
    assert_same(read_labels(tmp_path / "a.npy")[0], FULL)
    assert np.load(tmp_path / "a.npy").dtype.itemsize == LAYOUTS[layout].itemsize, "as other readers see it"
    write_labels(tmp_path / "a.npy", Labels.empty(), layout)
    assert_same(read_labels(tmp_path / "a.npy")[0], Labels.empty())


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_npy(version, tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, rows_of(LAYOUTS["gen1"]), version=version)
    assert_same(read_labels(tmp_path / "a.npy")[0], FULL)


def test_invalid_and_broken_rows_are_dropped_and_told(tmp_path):
    rows = np.zeros(6, [*LAYOUTS["one_mpx"].descr[:-1], ("invalid", "?")])
    rows["t"] = [60, 50, 40, 30, 20, 10]
    rows["w"] = rows["h"] = 5
    rows["invalid"][0] = True
    rows["x"][1], rows["h"][2] = np.nan, np.inf
    rows["class_confidence"] = [1, 1, 1, 1, 1, np.nan]
    rows["track_id"] = [0, 1, 2, 3, 4, 5]
    labels, notes = read_labels(saved(tmp_path / "a.npy", rows))
    assert labels.t_us.tolist() == [10, 20, 30] and labels.track_id.tolist() == [5, 4, 3]
    assert labels.confidence.tolist() == [1, 1, 1]
    assert list(notes) == [
        "1 label(s) marked invalid: dropped",
        "2 label(s) with a box that is not finite: dropped",
        "1 confidence(s) not finite: taken as 1",
        "labels were not in time order: sorted",
    ]


def test_sorting_is_stable():
    rows = rows_of(LAYOUTS["gen1"])
    rows["ts"] = [5, 3, 3]
    labels, _ = labels_from_rows(rows, "a.npy")
    assert labels.t_us.tolist() == [3, 3, 5] and labels.track_id.tolist() == [9, 8, 7]


def test_missing_optional_fields_have_defaults():
    rows = rows_of([("t", "<i8"), *BOX, ("class_id", "<u4")])
    labels, notes = labels_from_rows(rows, "a.npy")
    assert labels.confidence.tolist() == [1, 1, 1] and labels.track_id.tolist() == [0, 1, 2]
    assert notes == ("no field track_id: every label is a track of its own",)


def test_numbers_beyond_int64_are_dropped():
    rows = rows_of([("t", "<f8"), *BOX, ("class_id", "<u8"), ("track_id", "<u4")])
    rows["t"][0] = 1e30
    rows["class_id"][1] = np.iinfo(np.uint64).max
    labels, notes = labels_from_rows(rows, "a.npy")
    assert labels.track_id.tolist() == [8]
    assert notes[0].startswith("1 label(s) whose t is") and notes[1].startswith("1 label(s) whose class_id is")


def test_boxes_too_large_for_float32_are_dropped():
    rows = rows_of([("t", "<i8"), *((name, "<f8") for name in "xywh"), ("class_id", "<u4"), ("track_id", "<u4")])
    rows["w"][0] = 1e200
    assert labels_from_rows(rows, "a.npy")[0].track_id.tolist() == [9, 8]


REFUSED = {
    "a missing field": (
        [("t", "<i8"), *BOX[1:], ("class_id", "u1")],
        r"fields t\|ts, x, .* got t, y, .*'x' is missing",
    ),
    "a box field": ([("t", "<i8"), *BOX, ("class_id", "<f4", (4,))], "one number in field 'class_id'"),
    "text": ([("t", "S8"), *BOX, ("class_id", "u1")], "one number in field 't'"),
    "plain numbers": ("<f4", "fields .* got plain float32 numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_label_file_is_refused(case, tmp_path):
    dtype, message = REFUSED[case]
    path = saved(tmp_path / "odd.npy", np.zeros(3, dtype))
    for read in (read_labels, count_labels):
        with pytest.raises(EventDataError, match=rf"odd\.npy: .*{message}"):
            read(path)


def test_no_pickle_is_read(tmp_path):
    class Trap:
        def __reduce__(self):
            return (exec, ("raise SystemExit('executed')",))

    for rows in (np.array([Trap()], object), np.array([(1, Trap())], [("t", "<i8"), ("x", "O")])):
        np.save(tmp_path / "trap.npy", rows, allow_pickle=True)
        with pytest.raises(EventDataError, match="expected numbers or text, got a field of format .*O"):
            read_labels(tmp_path / "trap.npy")


def header(text: str, version: int = 1) -> bytes:
    length = len(text).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode("latin1")


GOOD_DESCR = repr([("t", "<i8"), *BOX, ("class_id", "u1")])
HOSTILE = {
    "nothing": b"",
    "other bytes": b"PK\x03\x04 and more",
    "version 9": header("{}").replace(b"Y\x01", b"Y\x09"),
    "header of 4 GB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
    "header cut off": header("{'descr': '<i8', 'fortran_order': False, 'shape': (1,)}")[:-20],
    "no dictionary": header("[1, 2]"),
    "no keys": header("{'descr': '<i8'}"),
    "unhashable": header("{[]: 1}"),
    "code": header("{'descr': __import__('os'), 'fortran_order': False, 'shape': ()}"),
    "deep": header("(" * 9000),
    "deep signs": header("-" * 9000 + "1"),
    "huge shape": header(f"{{'descr': {GOOD_DESCR}, 'fortran_order': False, 'shape': (999999999999,)}}"),
    "overflowing shape": header(f"{{'descr': {GOOD_DESCR}, 'fortran_order': False, 'shape': ({10**11},) * 1}}"),
    "endless shape": header(f"{{'descr': {GOOD_DESCR}, 'fortran_order': False, 'shape': ({10**30},)}}"),
    "product overflow": header(f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({2**39}, {2**39})}}"),
    "negative shape": header(f"{{'descr': {GOOD_DESCR}, 'fortran_order': False, 'shape': (-1,)}}"),
    "shape of text": header(f"{{'descr': {GOOD_DESCR}, 'fortran_order': False, 'shape': ('3',)}}"),
    "shape of truths": header(f"{{'descr': {GOOD_DESCR}, 'fortran_order': False, 'shape': (True,)}}"),
    "format of nonsense": header("{'descr': '<q7', 'fortran_order': False, 'shape': (1,)}"),
    "format of 16 GB": header("{'descr': 'V9999999999', 'fortran_order': False, 'shape': (1,)}"),
    "empty items": header("{'descr': 'S0', 'fortran_order': False, 'shape': (99999999,)}"),
    "same name twice": header("{'descr': [('t', '<i8'), ('t', '<i8')], 'fortran_order': False, 'shape': (0,)}"),
    "field of 3": header("{'descr': [('t', '<i8', (9999, 9999))], 'fortran_order': False, 'shape': (0,)}"),
    "field without format": header("{'descr': [('t',)], 'fortran_order': False, 'shape': (0,)}"),
    "fields of numbers": header("{'descr': [3, 4], 'fortran_order': False, 'shape': (0,)}"),
    "nested fields": header("{'descr': [('t', [('a', '<i8')])], 'fortran_order': False, 'shape': (0,)}"),
    "dictionary for a dtype": header("{'descr': {'names': ['t']}, 'fortran_order': False, 'shape': (0,)}"),
    "no fields": header("{'descr': [], 'fortran_order': False, 'shape': (0,)}"),
    "only padding": header("{'descr': [('', '|V8')], 'fortran_order': False, 'shape': (0,)}"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers_are_refused_without_allocating(case, tmp_path):
    path = tmp_path / "hostile.npy"
    path.write_bytes(HOSTILE[case])
    tracemalloc.start()
    try:
        with pytest.raises(EventDataError, match=r"hostile\.npy: ") as caught:
            read_labels(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


def test_damaged_headers_are_refused_in_silence(tmp_path, recwarn):
    path = tmp_path / "damaged.npy"
    path.write_bytes(header(f"{{'descr': {GOOD_DESCR}, 'fortran_order': False, 'shape': (30or 1,)}}"))
    with pytest.raises(EventDataError, match="the file is damaged"):
        read_labels(path)
    assert not recwarn.list


@given(data=st.data())
def test_any_damage_gives_labels_or_one_error(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "damaged.npy"
    buffer = io.BytesIO()
    np.save(buffer, rows_of(data.draw(st.sampled_from([LAYOUTS["gen1"], LAYOUTS["one_mpx"]]))))
    whole = bytearray(buffer.getvalue())
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=6)):
        whole[at] = value
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        labels, _ = read_labels(path)
    except EventDataError as error:
        assert "damaged.npy" in str(error)
        return
    assert np.isfinite(labels.xywh).all() and (np.diff(labels.t_us) >= 0).all()


def test_a_cut_file_says_how_much_is_there(tmp_path):
    path = saved(tmp_path / "cut.npy", rows_of(LAYOUTS["gen1"]))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(EventDataError, match=r"cut\.npy: .*3 rows of 33 bytes, got 98 of 99 bytes"):
        read_labels(path)


def test_bytes_after_the_last_row_are_noted(tmp_path):
    path = saved(tmp_path / "a.npy", rows_of(LAYOUTS["gen1"]))
    path.write_bytes(path.read_bytes() + b"xx")
    labels, notes = read_labels(path)
    assert_same(labels, FULL)
    assert notes == ("2 bytes after the last row ignored",)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(EventDataError, match="got nothing there"):
        read_labels(tmp_path / "none.npy")
    with pytest.raises(EventDataError, match="got a folder"):
        read_labels(tmp_path)


def test_plain_arrays_read_too(tmp_path):
    for array in (np.arange(6, dtype=">i4").reshape(2, 3), np.asfortranarray(np.eye(3)), np.float32(4)):
        np.save(tmp_path / "a.npy", array)
        read, _ = read_npy(tmp_path / "a.npy")
        assert read.dtype == array.dtype and np.array_equal(read, array) and read.shape == np.shape(array)
    buffer = io.BytesIO(b"before" + (tmp_path / "a.npy").read_bytes())
    buffer.seek(6)
    assert parse_npy(buffer, len(buffer.getvalue()) - 6, "member")[0] == 4


# ---- values and writing


def test_labels_check_their_columns():
    with pytest.raises(ValueError, match=r"xywh: expected float32\[2, 4\], got float64\[2, 4\]"):
        Labels(FULL.t_us[:2], FULL.xywh[:2].astype(float), FULL.class_id[:2], FULL.track_id[:2], FULL.confidence[:2])
    with pytest.raises(ValueError, match=r"track_id: expected int64\[3\], got int64\[2\]"):
        Labels(FULL.t_us, FULL.xywh, FULL.class_id, FULL.track_id[:2], FULL.confidence)


def test_slices_and_concatenation():
    assert_same(Labels.concatenate([FULL[:1], FULL[1:2], FULL[2:]]), FULL)
    assert_same(Labels.concatenate([]), Labels.empty())
    assert FULL[np.array([True, False, True])].track_id.tolist() == [7, 8] and len(FULL[:0]) == 0


@pytest.mark.parametrize(
    ("column", "value", "layout"), [("class_id", 256, "gen1"), ("track_id", -1, "one_mpx"), ("t_us", -1, "gen1")]
)
def test_what_a_layout_cannot_hold_is_refused(column, value, layout, tmp_path):
    columns = {name: getattr(FULL, name).copy() for name in COLUMNS}
    columns[column][1] = value
    with pytest.raises(EventDataError, match=rf"label 1: {column.removesuffix('_us')} {value} does not fit"):
        write_labels(tmp_path / "a.npy", Labels(**columns), layout)
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_writing_says_what_is_wrong(tmp_path):
    with pytest.raises(EventDataError, match="layout 'gen2' is unknown; layouts: gen1, one_mpx"):
        write_labels(tmp_path / "a.npy", FULL, "gen2")
    with pytest.raises(SnnPerceptionError, match="does not exist"):
        write_labels(tmp_path / "none" / "a.npy", FULL)


# ---- filters


def one(w, h, t=600_000, x=10.0, y=10.0) -> Labels:
    return labels_of([(t, x, y, w, h, 0, 0)])


def keeps(rule, labels, size=GEN1) -> bool:
    return len(filter_labels(labels, rule, size)) == 1


@pytest.mark.parametrize(
    ("rule", "labels", "kept"),
    [
        ("gen1", one(40, 10), True),
        ("gen1", one(40, 9.999), False),
        ("gen1", one(18, 24), True),  # diagonal exactly 30
        ("gen1", one(18, 23.999), False),
        ("gen1", one(40, 40, t=500_000), False),  # strictly later
        ("gen1", one(40, 40, t=500_001), True),
        ("gen1", one(40, 40, x=-39), True),  # unclipped
        ("one_mpx", one(57, 20), True),
        ("one_mpx", one(56, 20), False),
        ("one_mpx", one(90, 19.9), False),
        ("one_mpx_half", one(29, 10), True),
        ("one_mpx_half", one(28, 10), False),
        ("stvgg", one(40, 19.9), False),
        ("stvgg", one(40, 20, t=0), True),
        ("toolbox", one(40, 20, t=100_000), False),
        ("toolbox", one(40, 20, t=100_001), True),
        ("toolbox", one(40, 10), False),
        ("toolbox_one_mpx", one(60, 10), True),
        ("none", one(0, -3, t=-5), True),
        ("rvt_train_gen1", one(273, 40), True),
        ("rvt_train_gen1", one(274, 40), False),  # over 90 % of 304
        ("rvt_eval_gen1", one(274, 40), True),
        ("rvt_train_gen1", one(40, 40, x=-31), False),  # 9 px are left of it
        ("rvt_train_one_mpx", one(5, 5), True),
        ("rvt_train_one_mpx", one(4.9, 5), False),
    ],
)
def test_filter_presets(rule, labels, kept):
    assert keeps(rule, labels) is kept


def test_sizes_are_compared_in_float32():
    w, h = 15.507226943969727, 25.681236267089844  # both exact in float32; the squares add up to 900 only there
    assert w * w + h * h < 900
    assert keeps("gen1", one(w, h))


def test_presets_name_themselves_and_their_source():
    assert all(name == rule.name and rule.source for name, rule in FILTERS.items())
    assert named_filter("gen1") is FILTERS["gen1"] and named_filter(FILTERS["gen1"]) is FILTERS["gen1"]
    with pytest.raises(
        EventDataError, match="unknown label filter 'gen_1'; filters: none, gen1, .*did you mean 'gen1'"
    ):
        named_filter("gen_1")
    with pytest.raises(EventDataError, match="'rvt_train_gen1' needs the size"):
        filter_labels(FULL, "rvt_train_gen1")
    assert len(filter_labels(FULL, LabelFilter("mine", "me", min_side_px=21))) == 1


def test_clipping_is_to_the_last_pixel():
    labels = labels_of([(0, -5, 230, 20, 20, 0, 0), (0, 310, 0, 9, 9, 0, 1), (0, 3, 3, -2, 5, 0, 2)])
    clipped = clip_labels(labels, GEN1)
    assert clipped.xywh.tolist() == [[0, 230, 15, 9]] and clipped.track_id.tolist() == [0]


def test_classes_are_chosen_and_renumbered():
    labels = labels_of([(0, 0, 0, 1, 1, k, k) for k in (2, 0, 6, 3, 1, -1)])
    same = select_classes(labels, {0: 0, 1: 1, 2: 2})
    assert same.class_id.tolist() == [2, 0, 1] and same.track_id.tolist() == [2, 0, 1], "3 to 6 dropped, not merged"
    moved = select_classes(labels, {6: 0, 2: 1})
    assert moved.class_id.tolist() == [1, 0] and moved.track_id.tolist() == [2, 6]
    assert len(select_classes(labels, {})) == 0 and len(select_classes(Labels.empty(), {0: 0})) == 0


def test_thinning_keeps_whole_label_times():
    times = np.repeat(np.arange(0, 1_000_000, 16_667), 2)
    labels = labels_of([(t, 0, 0, 1, 1, 0, i) for i, t in enumerate(times)])
    thin = thin_labels(labels, 100_000)
    kept, counts = np.unique(thin.t_us, return_counts=True)
    assert len(kept) == 10 and set(counts) == {2} and len(set(kept // 100_000)) == 10
    assert all(t == times[times // 100_000 == t // 100_000].min() for t in kept)
    assert len(thin_labels(Labels.empty(), 5)) == 0
    with pytest.raises(EventDataError, match="positive interval, got 0"):
        thin_labels(labels, 0)


def test_downsampled_boxes():
    labels = labels_of([(0, 10, 20, 31, 40, 0, 0), (0, 1270, 700, 40, 40, 0, 1), (0, 1300, 0, 5, 5, 0, 2)])
    half = downsample_labels(labels, 2, SensorSize(720, 1280))
    assert half.xywh.tolist() == [[5, 10, 15.5, 20], [635, 350, 4, 9]]


# ---- health


def test_label_health_counts_each_fault():
    labels = labels_of(
        [
            (-5, 10, 10, 40, 40, 0, 1),
            (100_000, 10, 10, 40, 40, 0, 1),
            (100_000, 10, 10, 40, 40, 0, 1),  # again
            (200_000, -10, 10, 40, 40, 1, 2),  # partly outside
            (200_000, 304, 10, 40, 40, 1, 3),  # outside
            (200_000, 10, 10, 0, 40, 1, 4),
            (300_000, 10, 10, 305, 40, 5, 5),
            (700_000, 10, 10, 40, 12, 1, 6),
        ]
    )
    health = check_labels(labels, GEN1, ("car", "pedestrian"), duration_us=600_000)
    assert (health.boxes, health.frames, health.tracks) == (8, 5, 6)
    assert health.per_class == {"car": 3, "pedestrian": 4}
    assert health.faults == {
        "unknown_class": 1,
        "outside": 1,
        "non_positive": 1,
        "too_large": 1,
        "duplicated": 1,
        "before_start": 1,
        "after_end": 1,
    }
    assert health.partly_outside == 2 and health.rate_hz == pytest.approx(10, rel=1e-3)
    assert health.kept["none"] == 8 and health.kept["gen1"] == 1 and health.kept["stvgg"] == 6
    assert set(health.kept) == set(FILTERS)
    assert json.loads(json.dumps(health.as_dict()))["per_class"] == {"car": 3, "pedestrian": 4}


def test_health_of_good_and_of_no_labels():
    good = check_labels(SOME_LABELS, GEN1, ("car", "pedestrian"), duration_us=10**6)
    assert good.faults == {} and good.partly_outside == 1 and good.boxes == 5
    none = check_labels(Labels.empty(), GEN1, ("car",))
    assert none.boxes == none.frames == 0 and none.rate_hz is None and none.per_class == {"car": 0}
    assert check_labels(SOME_LABELS, GEN1, ("car", "pedestrian")).after_end == 0, "the end is not known"


def test_a_field_with_a_broken_name_gives_one_short_line(tmp_path):
    np.save(tmp_path / "a_bbox.npy", np.zeros(3, [("ts\n" + "x" * 400, "<u8"), ("x", "<f4")]))
    with pytest.raises(EventDataError, match="is missing") as caught:
        read_labels(tmp_path / "a_bbox.npy")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400 + len(str(tmp_path))
