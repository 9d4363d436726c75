"""Data sets found on disk: what is there, what is missing or broken, and how pieces of recordings read."""

import functools
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn_perception.data.dataset import Dataset, LabelledRecording, LabelRules, open_dataset
from snn_perception.data.dataset_report import DatasetReport
from snn_perception.data.folders import header_fault, in_turn, list_files, pair_files
from snn_perception.data.labels import write_labels
from snn_perception.data.pieces import Piece, PieceRecording, crop_events, downsample_events, read_events, select_time
from snn_perception.errors import EventDataError, PluginError
from snn_perception.events.dat import DatRecording
from snn_perception.events.dat_writer import write_dat
from snn_perception.events.recording import Recording
from snn_perception.testing import check_dataset
from snn_perception.types import DecodedEvents, EventArray, SensorSize
from tests.dataset_support import (
    GEN1,
    ONE_MPX,
    SOME_LABELS,
    TREES,
    annotation_file,
    gen1_tree,
    labels_of,
    ncaltech_tree,
    ncars_tree,
    one_mpx_tree,
    paired,
    rvt_sequence,
    some_events,
)

LABEL_FREE = "17-04-13_19-17-27_976500000_1036500000"


def assert_same_events(a: EventArray, b: EventArray) -> None:
    assert a.size == b.size
    for name in "xypt":
        assert getattr(a, name).dtype == getattr(b, name).dtype
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


def names(dataset: Dataset) -> list[str]:
    return [recording.name for recording in dataset]


@pytest.fixture
def make(registry):
    """Return a function ``(name, root, split, **options) -> Dataset``."""
    return functools.partial(registry.build, "dataset")


# ---- GEN1


def test_gen1_reports_what_is_there(make, tmp_path):
    gen1_tree(tmp_path)
    dataset = make("gen1", tmp_path, "train")
    assert names(dataset) == ["17-03-30_0_60", "17-04-04_0_60", "17-04-13_0_60", LABEL_FREE]
    assert (dataset.classes, dataset.size, len(dataset)) == (("car", "pedestrian"), GEN1, 4)
    report = dataset.report
    assert report.found == 4 and str(tmp_path / "train") in report.looked_in
    assert report.missing == ("labels of lonely", "events of orphan", "split 'val': no such folder")
    cut, zeros = report.faulty
    assert "cut_labels_bbox.npy: its header announces 5 rows" in cut and "zeros_td.dat: has no DAT header" in zeros
    assert report.left_out == () and report.notes == (
        f"{LABEL_FREE}: known to lose all its labels under the usual filter",
    )


def test_a_report_is_one_table(make, tmp_path):
    gen1_tree(tmp_path)
    lines = make("gen1", tmp_path, "train").report.table().splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [
        "looked",
        "found",
        "missing",
        "faulty",
        "notes",
    ]
    assert lines[1].split() == ["found", "4"] and lines[2].split()[:2] == ["missing", "3"]
    many = DatasetReport("here", missing=tuple(f"labels of {i}" for i in range(9)))
    assert many.table().splitlines()[-1].split() == ["...", "and", "6", "more"]


def test_gen1_opens_and_filters(make, registry, tmp_path):
    gen1_tree(tmp_path)
    (recording, *_) = make("gen1", tmp_path, "train", filter="gen1")
    assert_same_events(recording.events(registry), some_events(GEN1))
    assert recording.labels().track_id.tolist() == [1, 1, 2], "not the small one, nor the one before 0.5 s"
    assert len(make("gen1", tmp_path, "train")[0].labels()) == len(SOME_LABELS)
    assert len(make("gen1", tmp_path, "train", label_every_us=500_000)[0].labels()) == 3
    assert sum(len(piece) for piece in recording.open(registry).chunks()) == 400


def test_gen1_drops_classes_that_it_does_not_have(make, tmp_path):
    paired(tmp_path / "train", "a", labels=labels_of([(0, 1, 1, 9, 9, 2, 0), (1, 1, 1, 9, 9, 1, 1)]))
    (recording,) = make("gen1", tmp_path, "train")
    assert recording.labels().class_id.tolist() == [1]
    assert recording.label_source()[0].class_id.tolist() == [2, 1], "label health looks at all"


def test_limit_faulty_and_label_free(make, tmp_path):
    gen1_tree(tmp_path)
    few = make("gen1", tmp_path, "train", limit=2)
    assert names(few) == ["17-03-30_0_60", "17-04-04_0_60"]
    assert few.report.left_out == ("4 beyond the limit of 2",) and few.report.faulty == (), "not looked at"
    free = make("gen1", tmp_path, "train", skip_label_free=True)
    assert LABEL_FREE not in names(free) and free.report.left_out[0].startswith(LABEL_FREE)
    with_faulty = make("gen1", tmp_path, "train", skip_faulty=False)
    assert len(with_faulty) == 6 and sum(bool(recording.faults) for recording in with_faulty) == 2
    bad = next(recording for recording in with_faulty if recording.name == "cut_labels")
    with pytest.raises(EventDataError, match="cut_labels_bbox"):
        bad.labels()
    with pytest.raises(EventDataError, match="limit must be at least 1 recording, got 0"):
        make("gen1", tmp_path, "train", limit=0)


@pytest.mark.parametrize("inner", ["train", "detection_dataset_duration_60s_ratio_1.0/train", "train/deeper/still"])
def test_gen1_layouts(inner, make, tmp_path):
    paired(tmp_path / inner, "a")
    assert names(make("gen1", tmp_path, "train")) == ["a"]


def test_the_root_may_be_the_split_itself(make, tmp_path):
    paired(tmp_path / "train", "a")
    assert names(make("gen1", tmp_path / "train", "train")) == ["a"]
    other = make("gen1", tmp_path / "train", "test")
    assert len(other) == 0 and "the folder given is that of split 'train'" in other.report.missing
    (tmp_path / "train").rename(tmp_path / "drives")
    assert names(make("gen1", tmp_path / "drives", "test")) == ["a"], "a folder of another name is any split"


def test_files_of_several_forms(make, tmp_path):
    paired(tmp_path / "train", "a")
    shutil.copy(tmp_path / "train" / "a_td.dat", tmp_path / "train" / "a_td.raw")
    dataset = make("gen1", tmp_path, "train")
    assert dataset[0].path.name == "a_td.dat" and "a_td.raw: not used" in dataset.report.notes[0]


def test_a_recording_of_another_camera_is_refused(make, registry, tmp_path):
    paired(tmp_path / "train", "a", size=SensorSize(100, 120))
    (recording,) = make("gen1", tmp_path, "train", skip_faulty=False)
    with pytest.raises(EventDataError, match=r"a_td\.dat: expected 304x240 px, as its data set has, got 120x100"):
        recording.open(registry)


def test_a_header_without_a_size_means_that_of_the_set(make, registry, tmp_path):
    paired(tmp_path / "train", "a")
    path = tmp_path / "train" / "a_td.dat"
    path.write_bytes(b"% Version 2\n" + path.read_bytes().partition(b"% end\n")[2])
    (recording,) = make("gen1", tmp_path, "train")
    assert recording.open(registry).size == GEN1


# ---- RVT-preprocessed


@pytest.mark.parametrize(("name", "half", "size"), [("gen1", False, GEN1), ("one_mpx", True, ONE_MPX)])
def test_preprocessed_sequences(name, half, size, make, registry, tmp_path):
    rvt_sequence(tmp_path / "train" / "drive", half=half, size=size)
    (tmp_path / "train" / "empty" / "labels_v2").mkdir(parents=True)
    dataset = make(name, tmp_path, "train", filter="none")
    (recording,) = dataset
    assert dataset.report.missing[:2] == ("representations of empty", "labels of empty")
    assert dataset.size == (SensorSize(360, 640) if half else GEN1)
    sequence = recording.sequence()
    assert sequence.size == dataset.size and sequence.is_halved is half
    labels = recording.labels()
    expected = LabelRules(downsample=2 if half else 1).apply(SOME_LABELS, size)
    assert np.array_equal(labels.xywh, expected.xywh) and np.array_equal(labels.t_us, expected.t_us)
    with pytest.raises(EventDataError, match="holds representations, not events"):
        recording.open(registry)


def test_events_and_sequences_side_by_side(make, registry, tmp_path):
    paired(tmp_path / "train", "b")
    for name in ("a", "c"):
        rvt_sequence(tmp_path / "train" / name)
    dataset = check_dataset(functools.partial(make, "gen1"), tmp_path, registry=registry)
    assert names(dataset) == ["a", "b", "c"] and [r.is_sequence for r in dataset] == [True, False, True]
    crops = make("gen1_classification", tmp_path, "train")
    assert {sample.name.partition("/")[0] for sample in crops} == {"b"}, "crops need events"
    assert "a: holds representations, not events" in crops.report.left_out


def test_a_damaged_sequence_is_faulty(make, tmp_path):
    rvt_sequence(tmp_path / "train" / "good")
    rvt_sequence(tmp_path / "train" / "bad")
    (broken,) = (tmp_path / "train" / "bad").rglob("*.h5")
    broken.write_bytes(b"not HDF5")
    dataset = make("gen1", tmp_path, "train")
    assert names(dataset) == ["good"] and "expected an HDF5 file, got" in dataset.report.faulty[0]


def test_events_go_before_a_sequence_of_the_same_name(make, tmp_path):
    paired(tmp_path / "train", "a")
    rvt_sequence(tmp_path / "train" / "a")
    dataset = make("gen1", tmp_path, "train")
    assert len(dataset) == 1 and not dataset[0].is_sequence and "its events are there" in dataset.report.notes[0]


def test_events_are_no_sequence(make, tmp_path):
    paired(tmp_path / "train", "a")
    with pytest.raises(EventDataError, match="holds events, not representations"):
        make("gen1", tmp_path, "train")[0].sequence()


# ---- 1Mpx


def test_one_mpx_keeps_three_of_seven_classes(make, tmp_path):
    one_mpx_tree(tmp_path)
    dataset = make("one_mpx", tmp_path, "train")
    assert dataset.classes == ("pedestrian", "two-wheeler", "car") and dataset.size == ONE_MPX
    labels = dataset[0].labels()
    assert set(labels.class_id.tolist()) == {0, 1, 2} and len(labels) == 3 * 40, "trucks and buses are not cars"
    thin = make("one_mpx", tmp_path, "train", label_every_us=100_000)[0].labels()
    assert len(np.unique(thin.t_us)) == len(np.unique(labels.t_us // 100_000)) == 7


@pytest.mark.parametrize("mode", ["merge", "nearest"])
def test_one_mpx_at_half_size(mode, make, registry, tmp_path):
    one_mpx_tree(tmp_path)
    dataset = make("one_mpx", tmp_path, "train", downsample=2, downsample_mode=mode, filter="one_mpx_half")
    assert dataset.size == SensorSize(360, 640)
    events, whole = dataset[0].events(registry), some_events(ONE_MPX)
    kept = np.ones(len(whole), bool) if mode == "merge" else (whole.x % 2 == 1) & (whole.y % 2 == 1)
    assert kept.any() and np.array_equal(events.x, whole.x[kept] // 2)
    assert np.array_equal(events.t, whole.t[kept]) and events.size == dataset.size
    labels = dataset[0].labels()
    assert len(labels) and labels.t_us.min() > 500_000 and set(labels.xywh[:, 2].tolist()) == {40.5}


def test_one_mpx_refuses_odd_options(make, tmp_path):
    one_mpx_tree(tmp_path)
    with pytest.raises(EventDataError, match="takes a factor from 1 and merge or nearest, got 0"):
        make("one_mpx", tmp_path, "train", downsample=0)
    with pytest.raises(EventDataError, match="unknown label filter 'fine'"):
        make("one_mpx", tmp_path, "train", filter="fine")


# ---- classification


def test_gen1_crops(make, registry, tmp_path):
    gen1_tree(tmp_path)
    dataset = make("gen1_classification", tmp_path, "train")
    assert dataset.is_classification and dataset.classes == ("car", "pedestrian") and dataset.size is None
    assert len(dataset) == 16 and dataset.report.left_out == ("4 labels before 100000 us or outside the image",)
    sample = dataset[2]
    assert sample.name == "17-03-30_0_60/850000_3" and sample.class_id == 0 and len(sample.labels()) == 0
    assert sample.piece == Piece(750_000, 850_000, (30, 20, 91, 61)) and sample.size == SensorSize(41, 61)
    whole = some_events(GEN1)
    expected = crop_events(select_time(whole, 750_000, 850_000), (30, 20, 91, 61))
    assert len(expected), "an empty crop would prove nothing"
    assert_same_events(sample.events(registry), expected)
    left = dataset[0]
    assert left.piece.crop_xyxy == (0, 20, 60, 60), "cut to the image"
    assert [s.class_id for s in dataset][:4] == [0, 1, 0, 1]


def test_gen1_crops_by_option(make, tmp_path):
    gen1_tree(tmp_path)
    few = make("gen1_classification", tmp_path, "train", limit=6)
    assert len(few) == few.report.found == 6, "of two recordings' eight"
    assert few.report.left_out[0] == "what 2 more recordings hold, beyond the limit of 6 samples"
    assert names(few) == names(make("gen1_classification", tmp_path, "train"))[:6]
    filtered = make("gen1_classification", tmp_path, "train", filter="stvgg", window_us=40_000)
    assert len(filtered) == 16 and filtered[0].piece.t_start_us == 10_000, "the small one gone, the early one there"
    assert len(make("gen1_classification", tmp_path, "train", label_every_us=10**6)) == 0
    with pytest.raises(EventDataError, match="at least 1, got 0"):
        make("gen1_classification", tmp_path, "train", window_us=0)


def test_damaged_labels_give_no_samples_and_no_error(make, tmp_path):
    gen1_tree(tmp_path)
    dataset = make("gen1_classification", tmp_path, "train", skip_faulty=False)
    assert len(dataset) == 20, "the file of zeros has labels"
    assert sum("cut_labels" in fault for fault in dataset.report.faulty) == 1


def test_ncars(make, registry, tmp_path):
    ncars_tree(tmp_path)
    dataset = make("ncars", tmp_path, "train")
    assert names(dataset)[:3] == ["background/obj_000000_td", "cars/obj_000000_td", "background/obj_000001_td"]
    assert [recording.class_id for recording in dataset] == [0, 1] * 3 and dataset.classes == ("background", "car")
    assert dataset[1].events(registry).size == dataset.size == SensorSize(100, 120)
    assert [recording.class_id for recording in make("ncars", tmp_path, "train", limit=2)] == [0, 1]
    inferred = make("ncars", tmp_path, "train", infer_size=True)[0]
    events = inferred.events(registry)
    assert events.size == SensorSize(int(events.y.max()) + 1, int(events.x.max()) + 1) and inferred.size is None
    assert len(make("ncars", tmp_path, "test")) == 2
    assert len(make("ncars", tmp_path / "n-cars_test", "test")) == 2
    assert len(make("ncars", tmp_path / "n-cars_test", "train")) == 0
    with pytest.raises(EventDataError, match="unknown split 'val'; splits: train, test"):
        make("ncars", tmp_path, "val")


def test_ncars_in_part(make, tmp_path):
    ncars_tree(tmp_path)
    shutil.rmtree(tmp_path / "n-cars_train" / "cars")
    (tmp_path / "n-cars_train" / "background" / "obj_000001_td.dat").write_bytes(b"")
    dataset = make("ncars", tmp_path, "train")
    assert len(dataset) == 2 and dataset.report.missing == ("cars: no .dat files",)
    assert "obj_000001_td.dat: is empty" in dataset.report.faulty[0]


def test_ncaltech101_splits_by_name(make, tmp_path):
    ncaltech_tree(tmp_path)
    train, val = make("ncaltech101", tmp_path, "train"), make("ncaltech101", tmp_path, "val")
    assert (len(train), len(val)) == (15, 5) and not set(names(train)) & set(names(val))
    assert names(make("ncaltech101", tmp_path, "test")) == names(val)
    assert {name.split("/")[0] for name in names(train)[:2]} == {"ant", "lotus"}, "classes in turn"
    assert names(make("ncaltech101", tmp_path, "train", seed=1)) != names(train)
    assert "folder unicorn: not a class of this set" in train.report.notes
    assert len(train.classes) == 100 and train.classes[2] == "ant" and train.classes[-1] == "trilobite"
    # Which images a seed chooses is a promise: results of other machines and years depend on it.
    assert sorted(name for name in names(val) if "ant" in name) == [
        "ant/image_0004",
        "ant/image_0006",
        "ant/image_0008",
        "ant/image_0010",
    ]


def test_ncaltech101_by_lists(make, tmp_path):
    ncaltech_tree(tmp_path)
    (tmp_path / "train.txt").write_text("Caltech101/ant/image_0002.bin\nlotus/image_0003\n")
    (tmp_path / "val.txt").write_text("ant/image_0001.bin\nant/image_9999.bin\n")
    assert names(make("ncaltech101", tmp_path, "train")) == ["ant/image_0002", "lotus/image_0003"]
    val = make("ncaltech101", tmp_path, "val")
    assert names(val) == ["ant/image_0001"] and "listed, but not there: ant/image_9999" in val.report.notes
    test = make("ncaltech101", tmp_path, "test")
    assert len(test) == 0 and "no test.txt beside train.txt, val.txt" in test.report.notes
    (tmp_path / "val.txt").write_text("image_0001.bin\n")
    with pytest.raises(EventDataError, match=r"val\.txt: expected lines such as ant/image_0001\.bin"):
        make("ncaltech101", tmp_path, "val")


def test_ncaltech101_boxes_and_events(make, registry, tmp_path):
    ncaltech_tree(tmp_path)
    annotation_file(tmp_path / "Caltech101_annotations" / "ant" / "annotation_0002.bin", (7, 8, 101, 93))
    (tmp_path / "Caltech101_annotations" / "ant" / "annotation_0003.bin").unlink()
    dataset = make("ncaltech101", tmp_path, "train", seed=0)
    assert "annotation of ant/image_0003" in dataset.report.missing
    ant = next(recording for recording in dataset if recording.name == "ant/image_0002")
    labels = ant.labels()
    assert labels.xywh.tolist() == [[7, 8, 94, 85]] and labels.class_id.tolist() == [2]
    assert labels.t_us.tolist() == [300_000]
    assert_same_events(ant.events(registry), some_events(SensorSize(180, 240), count=200, length_us=300_000, seed=2))
    beside = make("ncaltech101", tmp_path / "Caltech101", "train")
    assert names(beside) == names(dataset), "the root may be either of the two folders"


# ---- opening by name


def test_open_dataset(registry, tmp_path):
    gen1_tree(tmp_path)
    dataset = open_dataset(f"gen1:{tmp_path}", "train", registry, limit=1, filter="gen1")
    assert names(dataset) == ["17-03-30_0_60"]
    assert names(open_dataset(f"datasets:gen1:{tmp_path}", "test", registry)) == ["17-05-01_0_60"]


@pytest.mark.parametrize(
    ("text", "split", "kind", "message"),
    [
        ("gem1:{root}", "train", PluginError, "unknown dataset 'gem1' in .*; datasets: .*gen1, .*did you mean 'gen1'"),
        ("gen1", "train", EventDataError, "'gen1': expected NAME:PATH, such as"),
        ("gen1:", "train", EventDataError, "'gen1:': expected NAME:PATH"),
        ("{root}", "train", EventDataError, "expected NAME:PATH"),
        ("gen1:{root}/none", "train", EventDataError, "none: expected the folder of a data set, got nothing there"),
        ("gen1:{root}/train/lonely_td.dat", "train", EventDataError, "folder of a data set, got a file"),
        ("gen1:{root}", "val", EventDataError, "nothing to use in split 'val'; looked in .*/val, .*for NAME_td.dat.*"),
        ("gen1:{root}", "../train", EventDataError, "a split is the name of a folder, .* got '../train'"),
        ("ncars:{root}", "train", EventDataError, "nothing to use in split 'train'; .*cars: no .dat files"),
        ("ncaltech101:{root}", "train", EventDataError, "nothing to use .*Caltech101: no such folder"),
    ],
)
def test_open_dataset_says_what_is_wrong(text, split, kind, message, registry, tmp_path):
    gen1_tree(tmp_path)
    with pytest.raises(kind, match=message) as caught:
        open_dataset(text.format(root=tmp_path), split, registry)
    assert "\n" not in str(caught.value)


def test_open_dataset_refuses_unknown_options(registry, tmp_path):
    gen1_tree(tmp_path)
    with pytest.raises(PluginError, match="did you mean 'limit'"):
        open_dataset(f"gen1:{tmp_path}", "train", registry, limits=3)


def test_loading_opens_no_events(make, tmp_path, monkeypatch):
    for name, build in TREES.items():
        build(tmp_path / name) if (tmp_path / name).mkdir() is None else None
    monkeypatch.setattr(Recording, "chunks", _forbidden)
    monkeypatch.setattr(DatRecording, "__init__", _forbidden)
    for name in TREES:
        assert len(make(name, tmp_path / name, "train")) >= 3


def _forbidden(*_args, **_options):
    raise AssertionError("a data set was loaded and opened a recording")


# ---- files and folders


def test_listing_is_sorted_bounded_and_leaves_hidden_files_out(tmp_path):
    for name in ("b/2", "b/1", "a/x/y/deep", ".hidden/1", "c", ".d"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    found = [str(path.relative_to(tmp_path)) for path in list_files(tmp_path, depth=2)]
    assert [name for name in found if not name.startswith("loop")] == ["b/1", "b/2", "c"]
    units = list_files(tmp_path, is_unit=lambda path: path.name in ("a", "loop"))
    assert [path.name for path in units] == ["a", "1", "2", "c", "loop"]


def test_pairs():
    files = [Path(name) for name in ("x/a_td.dat", "y/a_bbox.npy", "b_td.h5", "c_bbox.npy", "_td.dat", "d_td.dat.h5")]
    pairs = pair_files(files, ("_td.dat", "_td.dat.h5", "_td.h5"))
    assert pairs.pairs == (("a", Path("x/a_td.dat"), Path("y/a_bbox.npy")),)
    assert pairs.without_labels == ("b", "d") and pairs.without_events == ("c",) and pairs.notes == ()


def test_header_faults(tmp_path):
    write_dat(tmp_path / "good.dat", [some_events(GEN1)], GEN1)
    write_labels(tmp_path / "good.npy", SOME_LABELS)
    (tmp_path / "old.dat").write_bytes(b"% Version 1\n\x00\x08")
    (tmp_path / "odd.npy").write_bytes(b"nothing of the kind")
    (tmp_path / "folder.dat").mkdir()
    assert header_fault(tmp_path / "good.dat") is header_fault(tmp_path / "good.npy") is None
    for name, what in (
        ("old.dat", "expected DAT version 2"),
        ("odd.npy", "expected an .npy file"),
        ("folder.dat", "expected a file, got something else"),
        ("none.dat", "expected a file, got nothing there"),
    ):
        fault = header_fault(tmp_path / name)
        assert fault is not None and what in fault and name in fault


def test_groups_in_turn():
    groups = {"a": [Path("1"), Path("2"), Path("3")], "b": [Path("4")], "c": []}
    assert [path.name for _, path in in_turn(groups)] == ["1", "4", "2", "3"]


# ---- pieces of recordings


SENSOR = SensorSize(24, 32)


class Held(Recording):
    """A recording in memory, in chunks of a given length."""

    format = encoding = "held"

    def __init__(self, events: EventArray, leaps=None) -> None:
        self.path, self.size = Path("held"), events.size
        self.events = DecodedEvents(events.x, events.y, events.p, events.t, events.size)
        if leaps is not None:
            self.events = DecodedEvents(events.x, events.y, events.p, events.t, events.size, leaps=np.array(leaps))

    @staticmethod
    def claims(path):
        return False

    def chunks(self, max_events=1 << 16, *, start_us=None, align_us=None):
        first = 0
        if start_us is not None:
            reached = np.flatnonzero(self.events.t >= start_us)
            first = int(reached[0]) if len(reached) else len(self.events)
        for at in range(first, len(self.events), max_events):
            yield self.events.split(at)[1].split(max_events)[0]


@st.composite
def streams(draw) -> EventArray:
    rows = draw(st.lists(st.tuples(st.integers(0, 31), st.integers(0, 23), st.integers(0, 1), st.integers(0, 99))))
    x, y, p, t = np.array(rows, np.int64).reshape(-1, 4).T
    return EventArray(x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), np.sort(t), SENSOR)


@st.composite
def pieces(draw) -> Piece:
    start = draw(st.none() | st.integers(0, 99))
    end = draw(st.none() | st.integers((start or 0) + 1, 120))
    x1, y1 = draw(st.integers(0, 28)), draw(st.integers(0, 20))
    crop = draw(st.none() | st.just((x1, y1, draw(st.integers(x1 + 3, 32)), draw(st.integers(y1 + 3, 24)))))
    return Piece(start, end, crop, draw(st.integers(1, 3)), draw(st.sampled_from(["merge", "nearest"])))


@given(events=streams(), piece=pieces(), chunk=st.integers(1, 9))
def test_a_piece_is_what_its_definition_says(events, piece, chunk):
    """Event by event, in plain Python, against chunks of any length."""
    x1, y1, x2, y2 = piece.crop_xyxy or (0, 0, 32, 24)
    n = piece.downsample
    width, height = (x2 - x1) // n, (y2 - y1) // n
    expected = []
    for x, y, p, t in zip(*(getattr(events, name).tolist() for name in "xypt"), strict=True):
        in_time = (piece.t_start_us is None or t >= piece.t_start_us) and (piece.t_end_us is None or t < piece.t_end_us)
        sampled = piece.downsample_mode == "merge" or ((x - x1) % n == n // 2 and (y - y1) % n == n // 2)
        if in_time and x >= x1 and y >= y1 and (x - x1) // n < width and (y - y1) // n < height and sampled:
            expected.append(((x - x1) // n, (y - y1) // n, p, t))
    recording = PieceRecording(Held(events), piece)
    assert recording.size == SensorSize(height, width)
    found = [row for part in recording.chunks(chunk) for row in zip(part.x, part.y, part.p, part.t, strict=True)]
    assert found == expected
    assert all(part.size == recording.size for part in recording.chunks(chunk))
    assert len(read_events(recording).validate()) == len(expected)


def test_downsampling_is_that_of_the_tensor():
    """Nearest: counts of the coarse grid are every second count of the fine one, from the second (RVT's 1::2)."""
    events = some_events(SensorSize(24, 32), count=3000)
    fine = np.zeros((24, 32), int)
    np.add.at(fine, (events.y, events.x), 1)
    for mode, expected in (("nearest", fine[1::2, 1::2]), ("merge", fine.reshape(12, 2, 16, 2).sum((1, 3)))):
        small = downsample_events(events, 2, mode)
        coarse = np.zeros((12, 16), int)
        np.add.at(coarse, (small.y, small.x), 1)
        assert np.array_equal(coarse, expected) and coarse.any()


def test_a_crop_keeps_leaps_in_place():
    x = np.array([0, 9, 0, 9, 0], np.uint16)
    events = EventArray(x, x * 0, np.ones(5, np.uint8), np.array([0, 1, 500_000, 500_001, 500_002]), SENSOR)
    recording = PieceRecording(Held(events, leaps=[[2, 1, 500_000]]), Piece(crop_xyxy=(5, 0, 15, 9)))
    (piece,) = recording.chunks()
    assert piece.t.tolist() == [1, 500_001] and piece.leaps.tolist() == [[1, 1, 500_000]]


def test_late_events_take_the_time_reached():
    t = np.array([10, 30, 29, 40])
    zeros = np.zeros(4, np.uint16)
    events = read_events(Held(EventArray(zeros, zeros, zeros.astype(np.uint8), t, SENSOR)))
    assert events.t.tolist() == [10, 30, 30, 40]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t_start_us": 5, "t_end_us": 5}, "positive length"),
        ({"crop_xyxy": (3, 3, 3, 9)}, "whole pixels of the sensor"),
        ({"crop_xyxy": (-1, 3, 3, 9)}, "whole pixels of the sensor"),
        ({"crop_xyxy": (0, 0, 33, 9)}, "reaches beyond the sensor, 32x24"),
        ({"downsample": 25}, "cannot be made 25 times smaller"),
        ({"downsample_mode": "mean"}, "merge or nearest"),
    ],
)
def test_impossible_pieces_are_refused(options, message):
    with pytest.raises(EventDataError, match=message):
        Piece(**options).size_of(SENSOR)


def test_no_piece_is_cut_from_packets():
    whole = Held(some_events(SENSOR))
    whole.is_packets = True
    with pytest.raises(EventDataError, match="held: holds packets"):
        PieceRecording(whole, Piece(t_start_us=3))
    with pytest.raises(EventDataError, match="held: holds packets"):
        read_events(whole)


def test_recordings_travel_to_worker_processes(make, tmp_path):
    gen1_tree(tmp_path)
    sample = make("gen1_classification", tmp_path, "train")[5]
    again: LabelledRecording = pickle.loads(pickle.dumps(sample))
    assert (again.name, again.piece, again.path) == (sample.name, sample.piece, sample.path)


def test_a_set_of_another_size_is_seen_before_anything_is_opened(make, tmp_path):
    TREES["gen1"](tmp_path)
    report = make("one_mpx", tmp_path, "train").report
    wrong = [fault for fault in report.faulty if "expected 1280x720 px, as its data set has, got 304x240" in fault]
    assert len(wrong) >= 3 and report.found == 0
