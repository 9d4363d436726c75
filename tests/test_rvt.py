"""Sequences as RVT preprocesses them: histograms, times, labels by window, half size, and what folders may lack."""

import pickle
import zipfile

import h5py
import numpy as np
import pytest

from snn_perception.data.labels import Labels
from snn_perception.data.npz import read_npz
from snn_perception.data.rvt import RvtSequence, halve
from snn_perception.errors import EventDataError
from snn_perception.events.representations import StackedHistogram
from snn_perception.types import SensorSize
from tests.rvt_support import WINDOW_US, label_rows, labels_at, random_events, stacked_histogram, write_sequence

SIZE = SensorSize(24, 32)
WINDOWS = 8
FRAMES_US = [100_000, 200_000, 350_000]
PLACE = "event_representations_v2/stacked_histogram_dt=50_nbins=10"


def sequence(folder, **options):
    events = random_events(4000, WINDOWS * WINDOW_US, SIZE)
    labels = options.pop("labels", labels_at(FRAMES_US, 2, SIZE))
    return write_sequence(folder / "seq", events, labels, windows=WINDOWS, **options), events, labels


def assert_same_labels(one: Labels, other: Labels):
    for name in ("t_us", "xywh", "class_id", "track_id", "confidence"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_gen1_sequence(tmp_path):
    path, events, labels = sequence(tmp_path)
    assert RvtSequence.claims(path)
    one = RvtSequence(path)
    assert (one.size, one.sensor_size, one.bins, one.window_us, one.is_halved) == (SIZE, SIZE, 10, 50_000, False)
    assert (len(one), one.t_end_us.dtype, one.notes) == (WINDOWS, np.int64, [])
    assert one.t_end_us.tolist() == [50_000 * (k + 1) for k in range(WINDOWS)]
    assert_same_labels(one.labels(), labels)
    for k, histogram in enumerate(one.histograms()):
        inside = (events.t >= k * WINDOW_US) & (events.t <= (k + 1) * WINDOW_US)
        np.testing.assert_array_equal(histogram, stacked_histogram(events[inside]))
        assert histogram.dtype == np.uint8
        assert histogram.any()


def test_histograms_are_what_our_representation_makes_of_the_events(tmp_path):
    path, events, _ = sequence(tmp_path)
    ours = StackedHistogram(SIZE)
    window = events[(events.t >= 2 * WINDOW_US) & (events.t <= 3 * WINDOW_US)]
    reference = stacked_histogram(window)
    np.testing.assert_array_equal(RvtSequence(path).histogram(2), reference)
    np.testing.assert_array_equal(ours.of_histogram(RvtSequence(path).histogram(2))[0].numpy(), reference)


def test_histograms_in_ranges(tmp_path):
    one = RvtSequence(sequence(tmp_path)[0])
    whole = np.stack(list(one.histograms()))
    np.testing.assert_array_equal(np.stack(list(one.histograms(2, 5))), whole[2:5])
    np.testing.assert_array_equal(np.stack(list(one.histograms(6))), whole[6:])
    np.testing.assert_array_equal(one.histogram(-1), whole[-1])
    assert list(one.histograms(5, 5)) == []
    for window in (WINDOWS, -WINDOWS - 1):
        with pytest.raises(IndexError, match=str(window)):
            one.histogram(window)


def test_two_readers_at_once_and_writable_copies(tmp_path):
    one = RvtSequence(sequence(tmp_path)[0])
    first, second = one.histograms(), one.histograms()
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
        a[:] = 0
        assert b.any()


def test_it_travels_to_other_processes(tmp_path):
    one = RvtSequence(sequence(tmp_path)[0])
    other = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(other.histogram(3), one.histogram(3))
    assert_same_labels(other.labels(), one.labels())


def test_labels_of_windows(tmp_path):
    path, _, labels = sequence(tmp_path)
    one = RvtSequence(path)
    assert one.labelled_windows().tolist() == one.frame_window.tolist() == [1, 3, 6]
    assert one.frame_start.tolist() == [0, 2, 4, 6]
    for k in range(WINDOWS):
        assert_same_labels(one.labels_of_window(k), labels[labels.t_us == (k + 1) * WINDOW_US])
    with pytest.raises(IndexError):
        one.labels_of_window(WINDOWS)


def test_half_size_keeps_labels_at_full_size(tmp_path):
    path, events, labels = sequence(tmp_path, halved=True)
    one = RvtSequence(path)
    assert (one.is_halved, one.size, one.sensor_size) == (True, SensorSize(12, 16), SIZE)
    assert_same_labels(one.labels(), labels)
    inside = events[events.t <= WINDOW_US]
    np.testing.assert_array_equal(one.histogram(0), stacked_histogram(inside)[..., 1::2, 1::2])


def test_halve():
    boxes = [[4, 6, 10, 8], [30, 20, 50, 50], [-8, -8, 6, 6], [31.5, 2, 9, 9], [62, 4, 8, 4]]
    labels = Labels(
        np.arange(5, dtype=np.int64),
        np.array(boxes, np.float32),
        np.zeros(5, np.int64),
        np.arange(5, dtype=np.int64),
        np.ones(5, np.float32),
    )
    half = halve(labels, SensorSize(48, 64))  # 32 x 24 after: limits 31 and 23
    assert half.track_id.tolist() == [0, 1, 3]  # above and left of the image, and beyond its last column: nothing left
    assert half.xywh.tolist() == [[2, 3, 5, 4], [15, 10, 16, 13], [15.75, 1, 4.5, 4.5]]


@pytest.mark.parametrize(("dt", "bins"), [(50, 10), (25, 5), (100, 1)])
def test_the_folder_name_tells_time_and_bins(tmp_path, dt, bins):
    path, _, _ = sequence(tmp_path, name=f"stacked_histogram_dt={dt}_nbins={bins}")
    if bins == 10:
        assert RvtSequence(path).window_us == dt * 1000
        return
    with pytest.raises(EventDataError, match=f"expected {2 * bins} channels.*got 20"):
        RvtSequence(path)


@pytest.mark.parametrize("options", [{"chunks": (3, 20, 24, 32)}, {"chunks": (2, 7, 24, 9)}, {"chunks": (1, 1, 5, 32)}])
@pytest.mark.parametrize("compression", ["blosc", "gzip", None])
def test_other_chunks_and_compressions(tmp_path, options, compression):
    plain = {"compression": compression, "compression_opts": None}
    path, events, _ = sequence(tmp_path, **options, **({} if compression == "blosc" else plain))
    one = RvtSequence(path)
    for k in (0, 5, 7, 2):
        inside = (events.t >= k * WINDOW_US) & (events.t <= (k + 1) * WINDOW_US)
        np.testing.assert_array_equal(one.histogram(k), stacked_histogram(events[inside]))


# ---- labels that are not as they should be


def test_dropped_and_disordered_rows_stay_with_their_frames(tmp_path):
    labels = labels_at(FRAMES_US, 3, SIZE)
    rows = label_rows(labels)
    rows["w"][4] = np.nan  # of the second frame
    rows["t"][7] -= 1  # of the third, out of order within it
    path, _, _ = sequence(tmp_path, labels=labels, rows=rows)
    one = RvtSequence(path)
    assert one.frame_start.tolist() == [0, 3, 5, 8]
    assert one.labels_of_window(3).track_id.tolist() == [3, 5]
    assert one.labels_of_window(6).track_id.tolist() == [7, 6, 8]
    assert any("not finite" in note for note in one.notes)


def test_gen1_field_names(tmp_path):
    labels = labels_at(FRAMES_US, 2, SIZE)
    path, _, _ = sequence(tmp_path, labels=labels, rows=label_rows(labels, "gen1"))
    assert_same_labels(RvtSequence(path).labels(), labels)


def test_without_labels(tmp_path):
    path, _, _ = sequence(tmp_path)
    (path / "labels_v2/labels.npz").unlink()
    one = RvtSequence(path)
    assert len(one.labels()) == len(one.labels_of_window(3)) == len(one.labelled_windows()) == 0
    assert "no labels" in one.notes[0]
    assert one.histogram(0).any()


def test_without_the_mapping_times_decide(tmp_path):
    path, _, labels = sequence(tmp_path)
    (path / PLACE / "objframe_idx_2_repr_idx.npy").unlink()
    one = RvtSequence(path)
    assert one.frame_window.tolist() == [1, 3, 6]
    assert_same_labels(one.labels_of_window(6), labels[4:])
    assert "objframe_idx_2_repr_idx.npy is missing" in one.notes[0]


@pytest.mark.parametrize("times", [True, False])
def test_without_frame_starts_runs_of_one_time_are_frames(tmp_path, times):
    path, _, labels = sequence(tmp_path)
    np.savez(path / "labels_v2/labels.npz", labels=label_rows(labels))
    if not times:
        (path / "labels_v2/timestamps_us.npy").unlink()
    one = RvtSequence(path)
    assert one.frame_start.tolist() == [0, 2, 4, 6]
    assert "objframe_idx_2_label_idx is missing" in one.notes[0]


def test_frames_outside_their_windows_are_told_of(tmp_path):
    path, _, _ = sequence(tmp_path)
    np.save(path / PLACE / "objframe_idx_2_repr_idx.npy", np.array([1, 4, 6]))
    assert "1 labelled frame(s) lie outside" in RvtSequence(path).notes[0]


def test_fewer_histograms_than_times_and_labels(tmp_path):
    path, _, _ = sequence(tmp_path)
    with h5py.File(path / PLACE / "event_representations.h5", "r+") as file:
        data = file["data"][:5]
        del file["data"]
        file.create_dataset("data", data=data, chunks=(1, *data.shape[1:]))
    one = RvtSequence(path)
    assert (len(one), one.labelled_windows().tolist(), len(one.labels())) == (5, [1, 3], 4)
    assert ["5 histograms and 8 times" in one.notes[0], "1 labelled frame(s) after" in one.notes[1]] == [True, True]


STARTS = {"beyond the labels": [0, 2, 9], "falls": [0, 4, 2], "not from 0": [1, 2, 4], "no numbers": [0.0, 2.0, 4.0]}
STARTS["differ by more than int64 holds"] = [0, 2**63 // 3 * 2, -(2**63) // 3 * 2]
HUGE = 2**63 - 1


@pytest.mark.parametrize("name", STARTS)
def test_impossible_frame_starts(tmp_path, name):
    path, _, labels = sequence(tmp_path)
    start = np.array(STARTS[name])
    np.savez(path / "labels_v2/labels.npz", labels=label_rows(labels), objframe_idx_2_label_idx=start)
    with pytest.raises(EventDataError, match="labels.npz"):
        RvtSequence(path)


@pytest.mark.parametrize("window", [[1, 6, 3], [1, HUGE, 5 - HUGE], [-1, 3, 6], [1, 3], [[1, 3, 6]], [1.0, 3.0, 6.0]])
def test_impossible_mappings(tmp_path, window):
    path, _, _ = sequence(tmp_path)
    np.save(path / PLACE / "objframe_idx_2_repr_idx.npy", np.array(window))
    with pytest.raises(EventDataError, match=r"objframe_idx_2_repr_idx\.npy: expected"):
        RvtSequence(path)


# ---- folders and files that are not as they should be


def test_no_sequence(tmp_path):
    path, _, _ = sequence(tmp_path)
    assert not RvtSequence.claims(tmp_path)
    with pytest.raises(EventDataError, match="expected one sequence.*nothing there"):
        RvtSequence(tmp_path)
    (path / PLACE / "event_representations_ds2_nearest.h5").write_bytes(b"")
    assert not RvtSequence.claims(path)
    with pytest.raises(EventDataError, match=r"got .*event_representations\.h5, .*ds2_nearest\.h5"):
        RvtSequence(path)


@pytest.mark.parametrize("name", ["timestamps_us.npy", "event_representations.h5"])
def test_missing_essentials(tmp_path, name):
    path, _, _ = sequence(tmp_path)
    (path / PLACE / name).unlink()
    with pytest.raises(EventDataError, match=name if name.endswith(".npy") else "expected one sequence"):
        RvtSequence(path)


def test_truncated_histograms(tmp_path):
    path, _, _ = sequence(tmp_path)
    file = path / PLACE / "event_representations.h5"
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(EventDataError, match=r"event_representations\.h5: it cannot be read"):
        RvtSequence(path)


def test_a_damaged_histogram_names_its_place(tmp_path):
    path, _, _ = sequence(tmp_path)
    name = path / PLACE / "event_representations.h5"
    with h5py.File(name, "r+") as file:
        file["data"].id.write_direct_chunk((3, 0, 0, 0), b"\x02\x01" + bytes(200))
    one = RvtSequence(path)
    assert one.histogram(2).any()
    with pytest.raises(EventDataError, match="data, rows 3 to 4 cannot be decoded"):
        one.histogram(3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((8, 20, 24), np.uint8), r"expected uint8 \[N, 2 x nbins, H, W\]"),
        (np.zeros((8, 20, 24, 32), np.int16), "got int16"),
        (np.zeros((8, 20, 0, 32), np.uint8), r"\[8, 20, 0, 32\]"),
        (np.zeros((2, 20, 1, 16385), np.uint8), "at most 16384 px a side, got histograms of 16385x1"),
        (None, "expected a data set 'data'"),
    ],
)
def test_other_data(tmp_path, data, message):
    path, _, _ = sequence(tmp_path)
    with h5py.File(path / PLACE / "event_representations.h5", "w") as file:
        file.create_dataset("data" if data is not None else "other", data=data if data is not None else [1])
    with pytest.raises(EventDataError, match=message):
        RvtSequence(path)


@pytest.mark.parametrize("third", [100_000, 5 - HUGE])
def test_times_that_fall(tmp_path, third):
    path, _, _ = sequence(tmp_path)
    second = 100_000 if third > 0 else HUGE
    later = [200_000, 250_000, 300_000, 350_000, 400_000]
    np.save(path / PLACE / "timestamps_us.npy", np.array([50_000, second, third, *later]))
    with pytest.raises(EventDataError, match="expected ascending times"):
        RvtSequence(path)


# ---- hostile archives


def npz_with(path, name: str, content: bytes, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(f"{name}.npy", content)
    return path


def npy_header(shape: str) -> bytes:
    text = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def test_npz_that_lies_about_its_shape(tmp_path):
    path = npz_with(tmp_path / "a.npz", "labels", npy_header("(1099511627775,)") + bytes(80))
    with pytest.raises(EventDataError, match=r"labels: its header announces 1099511627775"):
        read_npz(path, ("labels",))


def test_npz_that_unpacks_without_end(tmp_path):
    path = npz_with(tmp_path / "a.npz", "labels", bytes((1 << 28) + 1))
    assert path.stat().st_size < 1 << 19
    with pytest.raises(EventDataError, match="at most 256 MiB"):
        read_npz(path, ("labels",))


def test_npz_of_objects_and_other_things(tmp_path):
    np.savez(tmp_path / "a.npz", labels=np.array([{}, []], object))
    with pytest.raises(EventDataError, match="no objects"):
        read_npz(tmp_path / "a.npz", ("labels",))
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(EventDataError, match="expected an .npz archive"):
        read_npz(tmp_path / "b.npz", ("labels",))
    with pytest.raises(EventDataError, match="got nothing there"):
        read_npz(tmp_path / "c.npz", ("labels",))


def test_npz_damaged_anywhere(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", labels=np.arange(100), other=np.arange(3.0))
    data = (tmp_path / "a.npz").read_bytes()
    assert read_npz(tmp_path / "a.npz", ("labels", "more"))[0]["labels"].tolist() == list(range(100))
    refused = 0
    for at in range(len(data)):
        for damaged in (data[:at], data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :]):
            (tmp_path / "a.npz").write_bytes(damaged)
            try:
                read_npz(tmp_path / "a.npz", ("labels",))
            except EventDataError:
                refused += 1
    assert refused > len(data)
