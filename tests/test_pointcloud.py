"""Events in point clouds: layouts, fields of all types, times, and damage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn_perception.errors import EventDataError
from snn_perception.events.pointcloud import PointCloudDecoder, fields_of, layout_from_fields, pack_points
from snn_perception.types import LEAP_US, EventArray, Losses, Packet, PointLayout, SensorSize

SIZE = SensorSize(480, 640)
STAMP = 1_700_000_000_123_456_789
FIELDS = [("x", 0, 4, 1), ("y", 2, 4, 1), ("t", 4, 6, 1), ("p", 8, 2, 1)]


def cloud(points: np.ndarray, *, stamp_ns=STAMP, size=SIZE, **layout) -> Packet:
    described = {"width": len(points), "height": 1, "row_step": points.nbytes} | layout
    data = np.frombuffer(points.tobytes(), np.uint8)
    return Packet(data, "pointcloud2", size, stamp_ns=stamp_ns, layout=PointLayout(points.dtype, **described))


def points(rows, **types) -> np.ndarray:
    names = {"x": "<u2", "y": "<u2", "t": "<u4", "p": "u1"} | types
    return np.array([tuple(row) for row in rows], list(names.items()))


def rows(decoded):
    return list(zip(*(getattr(decoded, name).tolist() for name in "txyp"), strict=True))


events = st.lists(
    st.tuples(st.integers(0, 639), st.integers(0, 479), st.integers(0, 1), st.integers(0, 4_000_000)), max_size=50
)


@given(events, st.integers(0, 2**50))
def test_packed_events_come_back(columns, start_us):
    x, y, p, t = np.array(sorted(columns, key=lambda row: row[3]), np.int64).reshape(-1, 4).T
    sent = EventArray(x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), start_us + t, SIZE)
    layout, data = pack_points(sent, start_us * 1000)
    packet = Packet(np.frombuffer(data, np.uint8), "pointcloud2", None, stamp_ns=start_us * 1000, layout=layout)
    back = PointCloudDecoder(size=SIZE).decode(packet)
    assert back.time_unit == "ns" and back.losses == Losses()
    assert len(back.leaps) == np.count_nonzero(np.diff(sent.t) > LEAP_US)
    for name in "xypt":
        np.testing.assert_array_equal(getattr(back.to_event_array(), name), getattr(sent, name))


def test_packing_refuses_what_32_bits_of_ns_cannot_hold():
    late = EventArray(*[np.zeros(1, d) for d in (np.uint16, np.uint16, np.uint8)], np.array([4_294_968]), SIZE)
    with pytest.raises(EventDataError, match=r"0\.\.4294967295 ns after the stamp"):
        pack_points(late, 0)
    with pytest.raises(EventDataError, match="after the stamp"):
        pack_points(late, 4_294_968_001)


@pytest.mark.filterwarnings("error")
def test_signalling_nans_are_counted_in_silence():
    sent = points([(3, 4, 0, 1), (3, 4, 0.5, 1)], t="<f4")
    sent["t"].view("<u4")[0] = 0x7FA00000
    decoded = PointCloudDecoder().decode(cloud(sent))
    assert len(decoded) == 1 and decoded.losses == Losses(unknown=1)


def test_fields_describe_the_layout_both_ways():
    layout = layout_from_fields(FIELDS, 12, 7, 1, 0, is_bigendian=False)
    assert layout.row_step == 84 and layout.dtype.itemsize == 12 and fields_of(layout) == FIELDS
    assert fields_of(pack_points(EventArray.empty(SIZE), 0)[0]) == FIELDS


@pytest.mark.parametrize("code", range(1, 9))
@pytest.mark.parametrize("big", [False, True])
def test_coordinates_of_every_type_and_byte_order(code, big):
    fields = [("polarity", 0, 2, 1), ("y", 3, code, 1), ("ignored", 11, 1, 4), ("x", 16, code, 1), ("ts", 25, 6, 1)]
    layout = layout_from_fields(fields, 32, 3, 1, 96, is_bigendian=big)
    raw = np.zeros(3, layout.dtype)
    raw["x"], raw["y"], raw["ts"], raw["polarity"] = [1, 2, 100], [4, 5, 6], [7, 8, 9], [1, 0, 1]
    data = np.frombuffer(raw.tobytes(), np.uint8)
    packet = Packet(data, "pointcloud2", SIZE, stamp_ns=STAMP, layout=layout, is_bigendian=big)
    assert rows(PointCloudDecoder().decode(packet)) == [
        (STAMP + 7, 1, 4, 1),
        (STAMP + 8, 2, 5, 0),
        (STAMP + 9, 100, 6, 1),
    ]


@pytest.mark.parametrize(
    ("dtype", "times", "expected"),
    [
        ("<u4", [0, 4_000_000_000], [STAMP, STAMP + 4_000_000_000]),
        ("<i4", [-5, 5], [STAMP - 5, STAMP + 5]),
        ("<f4", [0.0, 0.25], [STAMP, STAMP + 250_000_000]),
        ("<f8", [0.0, 1e-6], [STAMP, STAMP + 1000]),
        ("<f8", [1_700_000_000.5, 1_700_000_000.75], [1_700_000_000_500_000_000, 1_700_000_000_750_000_000]),
    ],
)
def test_times_by_type(dtype, times, expected):
    decoded = PointCloudDecoder().decode(cloud(points([(1, 2, t, 1) for t in times], t=dtype)))
    assert decoded.t.tolist() == expected and decoded.t_reached == expected[-1]


@pytest.mark.parametrize(("dtype", "off"), [("u1", 0), ("i1", -1), ("<f4", 0.0), ("<f8", -1.0)])
def test_polarity_by_type(dtype, off):
    decoded = PointCloudDecoder().decode(cloud(points([(1, 2, 0, 1), (1, 2, 0, off)], p=dtype)))
    assert decoded.p.tolist() == [1, 0]


def test_damaged_points_are_dropped_and_counted():
    nan, inf = float("nan"), float("inf")
    raw = [
        (nan, 0, 0, 1),
        (0, inf, 0, 1),
        (-1, 0, 0, 1),
        (640, 0, 0, 1),
        (3, 4, nan, 1),
        (3, 4, 1e300, 1),
        (3, 4, 0, nan),
    ]
    raw += [(639.9, 479.5, 1, 1)]
    decoded = PointCloudDecoder().decode(cloud(points(raw, x="<f4", y="<f8", t="<f8", p="<f4")))
    assert rows(decoded) == [(STAMP + 10**9, 639, 479, 1)]
    assert decoded.losses == Losses(outside=4, unknown=3)


def test_one_damaged_time_does_not_turn_a_cloud_into_an_absolute_one():
    decoded = PointCloudDecoder().decode(cloud(points([(1, 1, 1e-6, 1), (1, 1, 2e8, 1), (1, 1, 2e-6, 1)], t="<f8")))
    assert decoded.t[[0, 2]].tolist() == [STAMP + 1000, STAMP + 2000]


def test_rows_with_padding_and_a_short_payload():
    dtype = points([]).dtype
    raw = np.zeros((2, 40), np.uint8)
    for row in range(2):
        raw[row, :36] = points([(row, k, 10 * row + k, 1) for k in range(4)]).view(np.uint8)
    layout = PointLayout(dtype, width=4, height=2, row_step=40)

    def decode(data):
        return PointCloudDecoder().decode(Packet(data, "pointcloud2", SIZE, layout=layout))

    assert [row[1:3] for row in rows(decode(raw.reshape(-1)))] == [(r, k) for r in range(2) for k in range(4)]
    assert decode(raw.reshape(-1)).losses == Losses()
    short = decode(raw.reshape(-1)[:60])
    assert len(short) == 6 and short.losses == Losses(ragged=2)
    assert decode(np.concatenate([raw.reshape(-1), np.zeros(3, np.uint8)])).losses == Losses(ragged=3)


def test_an_empty_cloud_tells_its_stamp():
    decoder = PointCloudDecoder()
    assert decoder.decode(cloud(points([]))).t_reached == STAMP
    assert decoder.decode(cloud(points([]), stamp_ns=STAMP - 1)).t_reached == STAMP
    gap = decoder.decode(cloud(points([(1, 1, 0, 1)]), stamp_ns=STAMP + 10**9))
    assert gap.leaps.tolist() == [[0, STAMP, STAMP + 10**9]]
    assert PointCloudDecoder().decode(cloud(points([], t="<f8"))).t_reached is None


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        ([("x", 0, 9, 1)], {}, "datatype in 1..8, got 9"),
        ([("x", 10, 7, 1)], {}, "leaves the point"),
        ([("x", -1, 2, 1)], {}, "leaves the point"),
        ([("x", 0, 2, 1 << 40)], {}, "leaves the point"),
        ([("x", 0, 7, 1), ("y", 2, 7, 1)], {}, "'x' and 'y' overlap"),
        ([("x", 0, 4, 1), ("x", 4, 4, 1)], {}, "names of their own"),
        ([("", 0, 4, 1)], {}, "names of their own"),
        (FIELDS * 100, {}, "at most 256 fields"),
        (FIELDS, {"point_step": 0}, "point_step"),
        (FIELDS, {"height": 2, "row_step": 20}, "row_step"),
        (FIELDS, {"width": -1}, "width and height"),
    ],
)
def test_impossible_layouts_are_refused(fields, shape, message):
    shape = {"point_step": 12, "width": 4, "height": 1, "row_step": 48} | shape
    with pytest.raises(EventDataError, match=message):
        layout_from_fields(fields, **shape, is_bigendian=False)


def test_what_is_missing_is_named():
    with pytest.raises(EventDataError, match="named t or timestamp or ts or time, got the fields x, y, z"):
        PointCloudDecoder().decode(cloud(np.zeros(1, [("x", "<u2"), ("y", "<u2"), ("z", "<f4")])))
    with pytest.raises(EventDataError, match="expected a layout"):
        PointCloudDecoder().decode(Packet(np.zeros(9, np.uint8), "pointcloud2", SIZE))
    with pytest.raises(EventDataError, match="set the size of the sensor"):
        PointCloudDecoder().decode(cloud(points([(1, 1, 0, 1)]), size=None))
    with pytest.raises(EventDataError, match="'x': expected count 1, got 2"):
        PointCloudDecoder().decode(cloud(np.zeros(1, [("x", "<u2", (2,)), ("y", "u1"), ("t", "<u4"), ("p", "u1")])))
