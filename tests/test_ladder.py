"""The sanity ladder: each rung on a set whose answer is known, what it prints, and what it refuses."""

import json
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch

from snn_perception import load_registry
from snn_perception.checkpoint import load_checkpoint
from snn_perception.cli import synth as command
from snn_perception.cli.train import main as train_command
from snn_perception.data.dataset import open_dataset
from snn_perception.data.label_filters import FILTERS
from snn_perception.data.labels import Labels
from snn_perception.errors import EventDataError
from snn_perception.evaluation.coco import coco_scores
from snn_perception.evaluation.ladder import BOUNDS, Bounds, measure_ladder
from snn_perception.evaluation.ladder_blobs import contrast, find_blobs, smoothed
from snn_perception.evaluation.ladder_boxes import FoundBoxes, overlaps, without_doubles
from snn_perception.evaluation.ladder_components import component_boxes
from snn_perception.evaluation.ladder_oracle import redraw
from snn_perception.evaluation.ladder_prior import learn_prior
from snn_perception.evaluation.ladder_table import summary_of
from snn_perception.evaluation.protocol import PROTOCOLS
from snn_perception.evaluation.results import RecordingResult
from snn_perception.evaluation.run import evaluate_detector
from snn_perception.types import EventArray
from snn_perception.work import make_executor
from tests.dataset_support import labels_of
from tests.paths import ROOT
from tests.training_support import GEN1, moving_boxes

CLASSES = ("car", "pedestrian")
PROTOCOL = PROTOCOLS["gen1"]
DENSE = ROOT / "tools" / "dense_neuron.py"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Two boxes that bounce about, a wide one (car) and a tall one (pedestrian); only their edges give events."""
    folder = tmp_path_factory.mktemp("boxes")
    for split, recordings, seed in (("train", 3, 0), ("val", 1, 3), ("test", 2, 5)):
        moving_boxes(folder, split, recordings=recordings, length_us=2_000_000, seed=seed)
    return folder


@pytest.fixture(scope="module")
def registry():
    return load_registry()


@pytest.fixture(scope="module")
def sets(root, registry):
    return tuple(open_dataset(f"gen1:{root}", split, registry) for split in ("test", "train"))


@pytest.fixture(scope="module")
def ladder(sets, registry):
    return measure_ladder(*sets, registry)


@pytest.fixture(scope="module")
def dense(root, tmp_path_factory) -> Path:
    """A checkpoint of the dense CNN, trained for a few steps by the command of the docs, in small."""
    folder = tmp_path_factory.mktemp("dense")
    settings = (
        'model.options={"height": 60, "width": 76}',
        "model.overrides.neuron=relu",
        "model.overrides.state_policy=per_window",
        'model.overrides.backbone={"width": 4, "layers": [4, 8, 8, "8s2", 8, "16s2", 16, "16s2"], "extras": [8, 8, 8]}',
        *("train.mode=windows", "train.lanes=4", "train.epochs=1", "train.lr=2e-3", "eval.every_epochs=0"),
    )
    words = ["--plugin", str(DENSE), "--preset", "st_vgg_ssd_16", "--data", f"gen1:{root}", "-o", str(folder), "--json"]
    assert train_command([*words, *(word for each in settings for word in ("--set", each))]) == 0
    return folder / "last.safetensors"


def rung(ladder, name):
    return next(one for one in ladder.rungs if one.name == name)


def events_at(x, y, size=GEN1) -> EventArray:
    x, y = np.asarray(x, np.uint16), np.asarray(y, np.uint16)
    return EventArray(x, y, np.ones(len(x), np.uint8), np.arange(len(x), dtype=np.int64), size)


def filled(left, top, right, bottom, share, rng):
    """Return the pixels of a rectangle of which a share saw an event."""
    y, x = np.nonzero(rng.random((bottom - top, right - left)) < share)
    return x + left, y + top


# Connected regions


def flood(mask):
    """Return the boxes of all regions by flooding, in the order of their first pixel."""
    seen, boxes = np.zeros_like(mask), []
    for y, x in zip(*np.nonzero(mask), strict=True):
        if seen[y, x]:
            continue
        queue, pixels = deque([(y, x)]), []
        seen[y, x] = True
        while queue:
            at = queue.popleft()
            pixels.append(at)
            for near in ((at[0] + dy, at[1] + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                inside = 0 <= near[0] < mask.shape[0] and 0 <= near[1] < mask.shape[1]
                if inside and mask[near] and not seen[near]:
                    seen[near] = True
                    queue.append(near)
        rows, columns = zip(*pixels, strict=True)
        boxes.append((min(columns), min(rows), max(columns) + 1, max(rows) + 1, len(pixels)))
    return boxes


@pytest.mark.parametrize("shape", [(1, 1), (1, 17), (17, 1), (24, 31)])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.6, 1.0])
def test_regions_are_those_of_a_flood(shape, share):
    for seed in range(20):
        mask = np.random.default_rng(seed).random(shape) < share
        assert [tuple(box) for box in component_boxes(mask).tolist()] == flood(mask)


def test_a_region_that_winds_is_one():
    comb = np.zeros((9, 21), bool)
    comb[:, ::2] = True  # teeth that only the last row joins
    comb[8] = True
    assert component_boxes(comb).tolist() == [[0, 0, 21, 9, int(comb.sum())]]
    assert component_boxes(np.zeros((4, 5), bool)).shape == (0, 5)
    most = np.zeros((9, 9), bool)
    most[::2, ::2] = True  # as many regions as there can be
    assert len(component_boxes(most)) == 25


# Blobs


def test_a_dense_rectangle_is_found_where_it_is_and_by_its_shape():
    rng = np.random.default_rng(1)
    boxes = ((60, 100, 130, 150), (200, 80, 222, 150))  # left, top, right, bottom: one wide, one tall
    parts = [filled(*box, 0.6, rng) for box in boxes] + [filled(0, 0, 304, 240, 0.02, rng)]
    found = find_blobs(events_at(*map(np.concatenate, zip(*parts, strict=True))), CLASSES)
    for class_id, (left, top, right, bottom) in enumerate(boxes):
        own = found[found.class_id == class_id]
        truth = np.array([[left, top, right - left, bottom - top]], np.float32)
        assert own.score[0] > 0.8 and overlaps(own.xywh[:1], truth)[0, 0] > 0.8
    assert (np.diff(found.score) <= 0).all()


def test_no_blobs_without_events_and_none_of_a_class_that_is_not_asked_for():
    assert len(find_blobs(EventArray.empty(GEN1), CLASSES)) == 0
    tall = events_at(*filled(100, 80, 120, 150, 0.6, np.random.default_rng(0)))
    assert len(find_blobs(tall, CLASSES)) and not len(find_blobs(tall, ("car",)))


def test_contrast_orders_dense_even_and_empty_places():
    counts = np.full((60, 60), 0.1, np.float32)
    counts[20:40, 20:40] = 1.0
    boxes = np.array([[20, 20, 40, 40], [2, 2, 14, 14], [24, 24, 36, 36]], np.int64)  # dense, even, inside the dense
    dense, even, middle = contrast(counts, boxes, 0.25).tolist()
    assert dense > 0.6 and abs(even) < 0.1 and abs(middle) < 0.1, "the middle of a dense place is no contrast"
    holes = 1.1 - counts
    assert contrast(holes, boxes[:1], 0.25)[0] < -0.4


def test_smoothing_keeps_the_sum_and_is_a_gaussian():
    image = np.zeros((41, 41), np.float32)
    image[20, 20] = 3.0
    smooth = smoothed(image, 2.0)
    assert smooth.sum() == pytest.approx(3.0, rel=1e-5)
    offset = np.arange(41) - 20
    spread = (smooth.sum(axis=0) * offset**2).sum() / smooth.sum()
    assert spread == pytest.approx(4.0, rel=0.05) and np.allclose(smooth, smooth.T)


def test_of_two_boxes_in_one_place_the_better_stays_in_each_class():
    xywh = np.array([[10, 10, 40, 20], [11, 10, 40, 20], [11, 10, 40, 20], [100, 100, 20, 20]], np.float32)
    found = FoundBoxes(xywh, np.array([0.5, 0.9, 0.7, 0.1], np.float32), np.array([0, 0, 1, 0]))
    kept = without_doubles(found, 0.5, 10)
    assert kept.score.tolist() == pytest.approx([0.9, 0.7, 0.1]) and kept.class_id.tolist() == [0, 1, 0]
    assert len(without_doubles(found, 0.5, 1)) == 2


# Constant prior


def constant_labels(times=8):
    """Return cars that always stand in two places, the first twice as often, and a pedestrian now and then."""
    rows = []
    for k in range(times):
        t_us = 600_000 + 250_000 * k
        rows.append((t_us, 20 + k % 2, 100, 60, 40, 0, 1))
        rows += [(t_us, 200, 120, 50, 35, 0, 2)] if k % 2 else []
        rows += [(t_us, 150, 90, 20, 60, 1, 3)] if k % 4 == 0 else []
    return labels_of(rows)


def test_the_prior_knows_where_things_always_are():
    labels = constant_labels()
    prior = learn_prior([labels], 2, FILTERS["gen1"])
    assert prior.class_id.tolist() == [0, 0, 1] and prior.score.tolist() == pytest.approx([1.0, 0.5, 0.25])
    times = np.unique(labels.t_us)
    rows = np.tile(np.arange(3), len(times))
    result = RecordingResult(
        "drive", labels, np.repeat(times, 3), prior.xywh[rows], prior.score[rows], prior.class_id[rows]
    )
    assert coco_scores([result], CLASSES, GEN1, PROTOCOL).per_class["car"]["AP50"] > 0.8


def test_the_prior_learns_nothing_from_labels_that_do_not_count():
    small = labels_of([(600_000, 20, 100, 9, 9, 0, 1)])
    early = labels_of([(100_000, 20, 100, 60, 40, 0, 1)])
    with pytest.raises(EventDataError, match="none of 2 training labels passes the filter 'gen1'"):
        learn_prior([small, early], 2, FILTERS["gen1"])


# Oracle


def test_the_oracle_draws_as_the_annotator_does():
    rng = np.random.default_rng(0)
    count = 4_000
    xywh = np.concatenate([rng.integers(60, 100, (count, 2)), rng.integers(20, 120, (count, 2))], axis=1)
    rows = [(600_000 + k, *box, 0, k) for k, box in enumerate(xywh.tolist())]
    labels = labels_of(rows)
    t_us, found = redraw(labels, GEN1, "drive")
    assert np.array_equal(t_us, labels.t_us) and np.array_equal(found.xywh, np.rint(found.xywh))
    sides = labels.xywh[:, 2:]
    sigma = np.sqrt((0.6 + 0.012 * sides) ** 2 + 1 / 12)  # rounding adds the variance of a uniform number
    for moved in (
        (found.xywh[:, :2] - labels.xywh[:, :2]) / sigma,
        (found.xywh[:, :2] + found.xywh[:, 2:] - labels.xywh[:, :2] - sides) / sigma,
    ):
        assert abs(moved.mean()) < 0.05 and moved.std() == pytest.approx(1.0, abs=0.04)
    assert np.array_equal(np.argsort(found.score, kind="stable"), np.argsort(sides.min(axis=1), kind="stable"))


def test_the_oracle_draws_the_same_for_the_same_name_and_stays_in_the_image():
    labels = labels_of([(600_000 + k, 274, 200, 30, 40, 0, k) for k in range(200)])
    (_, one), (_, again), (_, other) = (redraw(labels, GEN1, name) for name in ("a", "a", "b"))
    assert np.array_equal(one.xywh, again.xywh) and not np.array_equal(one.xywh, other.xywh)
    right, bottom = (one.xywh[:, :2] + one.xywh[:, 2:]).T
    assert right.max() == 304 and bottom.max() == 240
    assert len(redraw(Labels.empty(), GEN1, "a")[1]) == 0


# The whole ladder


def test_rungs_come_out_as_the_set_demands(ladder):
    prior, blobs, oracle = (one.scores for one in ladder.rungs)
    assert [one.name for one in ladder.rungs] == ["constant prior", "event blobs", "oracle"]
    assert prior["AP50"] < 0.1, "boxes bounce about: no place is usual"
    # Nothing but the boxes emits: blobs find all of them, and a side of one now and then first.
    assert blobs["AP50"] > 0.5 and all(blobs.per_class[name]["AP50"] > 0.25 for name in CLASSES)
    assert oracle["AP50"] > 0.99 and 0.75 < oracle["AP"] < 0.97
    assert ladder.boxes == prior.ground_truths > 0 and ladder.images == prior.images > 0
    assert (ladder.recordings, ladder.prior_recordings, ladder.silent) == (2, 3, 0)
    assert rung(ladder, "event blobs").verdict == "above", "a set this easy must not pass"


def test_the_ladder_is_the_same_for_any_number_of_workers(ladder, sets, registry):
    with make_executor("processes", 2) as executor:
        again = measure_ladder(*sets, registry, executor=executor)
    assert [one.scores.as_dict() for one in again.rungs] == [one.scores.as_dict() for one in ladder.rungs]
    assert again.hash == ladder.hash


def test_models_stand_beside_the_ladder_with_the_scores_of_an_evaluation(sets, registry, dense):
    registry = load_registry([str(DENSE)])
    detector = load_checkpoint(dense, registry=registry)
    told = []
    measured = measure_ladder(
        *sets,
        registry,
        dense=detector,
        models=[("mine", detector)],
        on_progress=lambda done, total: told.append((done, total)),
    )
    own = evaluate_detector(detector, sets[0], registry, PROTOCOL)
    assert own.scores.detections > 0
    for name in ("dense CNN", "mine"):
        assert rung(measured, name).scores.as_dict() == own.scores.as_dict()
    assert rung(measured, "dense CNN").bounds == BOUNDS["dense CNN"] and rung(measured, "mine").verdict == ""
    assert told[-1] == (6, 6) and [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.parametrize(
    ("bounds", "ap", "verdict"),
    [
        (BOUNDS["event blobs"], 0.05, "within"),
        (BOUNDS["event blobs"], 0.0501, "above"),
        (BOUNDS["oracle"], 0.749, "below"),
        (BOUNDS["oracle"], 0.8, "within"),
        (BOUNDS["dense CNN"], 0.19, "below"),
        (BOUNDS["dense CNN"], 0.3, "within"),
        (BOUNDS["dense CNN"], 0.6, "within, not as expected"),
        (BOUNDS["dense CNN"], 0.71, "above"),
        (Bounds(), 0.5, ""),
    ],
)
def test_verdicts(bounds, ap, verdict):
    assert bounds.verdict(ap) == verdict


# The neuron of the dense rung


def test_the_dense_neuron_passes_real_numbers_on_and_remembers_nothing():
    relu = load_registry([str(DENSE)]).build("neuron", "relu")
    current = torch.randn(6, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    out, state = relu(current, None)
    assert torch.equal(out, current.clamp(min=0)) and state is None
    assert len(out.unique()) > 0 and (out % 1 != 0).any()
    pieces = torch.cat([relu(current[:4], None)[0], relu(current[4:], state)[0]])
    assert torch.equal(pieces, out)


def test_the_dense_network_is_that_of_the_spiking_one(dense):
    spec = load_checkpoint(dense, registry=load_registry([str(DENSE)])).spec
    assert (spec.neuron.name, spec.backbone.name, spec.head.name) == ("relu", "st_vgg", "ssd")
    assert spec.state_policy == "per_window"


# The command


def test_the_command_prints_what_it_writes(root, tmp_path, capsys, ladder, dense):
    words = ["--ladder", str(root), "--workers", "1", "--plugin", str(DENSE)]
    page, table = tmp_path / "ladder.md", tmp_path / "ladder.json"
    models = ["--dense", str(dense), "--model", str(dense)]
    assert command.main([*words, *models, "--json", "-o", str(table)]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values == json.loads(table.read_text("utf-8")) and values["hash"] == ladder.hash
    beside = f"{dense.parent.name}/last"
    assert [one["name"] for one in values["rungs"]] == [one.name for one in ladder.rungs] + ["dense CNN", beside]
    assert [one["AP"] for one in values["rungs"][:3]] == [one.scores["AP"] for one in ladder.rungs]
    assert command.main([*words, "-o", str(page)]) == 0
    printed, written = capsys.readouterr().out, page.read_text("utf-8")
    for one in ladder.rungs:
        pair = f"{one.scores['AP']:.3f} / {one.scores['AP50']:.3f}"
        assert any(line.startswith(one.name) and pair in line for line in printed.splitlines())
        assert any(line.startswith(f"| {one.name} | {pair} |") for line in written.splitlines())
    assert ladder.hash in printed and ladder.hash in written
    assert values["images"] < 100 and "too few label times" in printed and "too few label times" in written
    assert "too few" not in summary_of({**values, "images": 100})


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--ladder", "{root}", "--size", "tiny"], 2, "--ladder takes no --size"),
        (["--split", "val", "-o", "{tmp}/set"], 2, "--split go with --ladder"),
        (["--ladder", "{root}", "-o", "{tmp}/ladder.txt"], 1, "ends in .json or .md"),
        (["--ladder", "{root}", "-o", "{tmp}/none/ladder.md"], 1, "does not exist"),
        (["--ladder", "{tmp}/none"], 1, "expected the folder of a data set"),
        (["--ladder", "{root}", "--split", "other"], 1, "other"),
        (["--ladder", "{root}", "--dense", "{tmp}/none.safetensors"], 1, "none.safetensors"),
        (["--ladder", "{large}"], 1, "this set is 'synthetic-one_mpx/1'"),
    ],
)
def test_what_the_command_refuses(root, tmp_path, capsys, words, code, message):
    large = tmp_path / "large"
    large.mkdir()
    (large / "manifest.json").write_text('{"generator": "synthetic-one_mpx/1"}', "utf-8")
    places = {"root": root, "tmp": tmp_path, "large": large}
    assert command.main([word.format(**places) for word in words]) == code
    error = capsys.readouterr().err
    assert message in error and error.startswith("error:") and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large"], "nothing is left behind"
