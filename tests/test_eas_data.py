"""EAS-SNN's inputs and targets, from written files on: what its paper's pipeline makes of GEN1 and N-Caltech101.

Every expected tensor is made here a second time, pixel by pixel from the published rules.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from snn_perception.data.dataset import open_dataset
from snn_perception.data.labels import write_labels
from snn_perception.data.window_rule import WindowRule
from snn_perception.detector import Detector
from snn_perception.errors import SpecError
from snn_perception.evaluation.protocol import named_protocol
from snn_perception.evaluation.run import evaluate_detector
from snn_perception.events.dat_writer import write_dat
from snn_perception.events.letterbox import fit_into
from snn_perception.spec import ComponentRef
from snn_perception.training.config import AugmentConfig
from snn_perception.training.feed import Feed, Sample
from snn_perception.training.placement import check_placing
from snn_perception.training.survey import survey
from snn_perception.types import EventArray, SensorSize
from tests.dataset_support import GEN1, annotation_file, labels_of, paired
from tests.evaluate_support import tiny_on_gen1
from tests.runtime_support import tiny_registry

REGISTRY = tiny_registry()
NETWORK = (128, 160)  # height and width; published are 640 and 640
NCALTECH = SensorSize(180, 240)
STEPS = 4
# The order of the published checkpoint (section on its classes in the reference), written down apart from the plugin.
ORDER = """scorpion, brontosaurus, ant, emu, ceiling_fan, hedgehog, flamingo, euphonium, crocodile, Motorbikes, okapi,
Faces_easy, chandelier, ibis, water_lilly, anchor, cannon, butterfly, beaver, helicopter, grand_piano, brain, kangaroo,
flamingo_head, stegosaurus, llama, umbrella, strawberry, cup, gerenuk, cellphone, panda, binocular, car_side,
soccer_ball, joshua_tree, sea_horse, snoopy, dalmatian, schooner, pigeon, mandolin, laptop, saxophone, hawksbill,
sunflower, pyramid, camera, cougar_body, ketch, revolver, lobster, bonsai, dollar_bill, rooster, minaret, elephant,
mayfly, Leopards, headphone, windsor_chair, dolphin, platypus, pizza, octopus, watch, lamp, accordion, yin_yang,
electric_guitar, inline_skate, wheelchair, scissors, tick, menorah, airplanes, wild_cat, garfield, dragonfly, rhino,
wrench, stop_sign, bass, ewer, chair, pagoda, crayfish, starfish, cougar_face, lotus, metronome, ferry, buddha, barrel,
gramophone, crab, stapler, crocodile_head, nautilus, trilobite"""


def some_events(size: SensorSize, count: int, span_us: tuple[int, int], seed: int = 0) -> EventArray:
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(*span_us, count)).astype(np.int64)
    x, y = rng.integers(0, size.width, count), rng.integers(0, size.height, count)
    return EventArray(x.astype(np.uint16), y.astype(np.uint16), rng.integers(0, 2, count).astype(np.uint8), t, size)


def micro_sum(events: EventArray) -> np.ndarray:
    """Return [4, 2, H, W]: counts in four bins of whole microseconds from the first event on; what is left is lost."""
    counts = np.zeros((STEPS, 2, events.size.height, events.size.width))
    length = (int(events.t[-1]) - int(events.t[0])) // STEPS if len(events) else 0
    for x, y, p, t in zip(events.x, events.y, events.p, events.t, strict=True):
        k = (int(t) - int(events.t[0])) // length if length else STEPS
        if k < STEPS:
            counts[k, int(p), y, x] += 1
    return counts


def stretched(length: int, scaled: int) -> np.ndarray:
    """Return the weights [scaled, length] of linear interpolation between the middles of pixels, edges repeated.

    The place of a pixel in the source is rounded to float32, as OpenCV has it.
    """
    weights = np.zeros((scaled, length))
    for i in range(scaled):
        at = min(max(float(np.float32((i + 0.5) * length / scaled - 0.5)), 0.0), length - 1.0)
        low = min(int(at), length - 2)
        weights[i, low], weights[i, low + 1] = 1 - (at - low), at - low
    return weights


def error(got: torch.Tensor, want: np.ndarray) -> float:
    """Return the largest difference, as one number: an assertion would print both arrays."""
    return float(np.abs(got.double().numpy() - want).max())


def bilinear(images: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = stretched(images.shape[-2], height), stretched(images.shape[-1], width)
    return rows @ images @ columns.T


def in_corner(images: np.ndarray, network: tuple[int, int] = NETWORK) -> np.ndarray:
    padded = np.zeros((*images.shape[:2], *network))
    padded[..., : images.shape[-2], : images.shape[-1]] = images
    return padded


def model_on(size: SensorSize, classes, *, window_us: int = 200_000, **bins) -> Detector:
    spec = tiny_on_gen1(classes=classes, state_policy="per_window").spec
    options = {"steps": STEPS, "network_size": list(NETWORK), **bins}
    spec = replace(
        spec,
        representation=ComponentRef("micro_bins", options),
        window_us=window_us,
        stride_us=window_us,
        sensor_size=size,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Detector(spec, REGISTRY).eval()


def feed_of(dataset, detector: Detector, rule: WindowRule, **augment) -> Feed:
    data = survey(dataset, detector.spec.window_us, rule)
    return Feed(data, detector, REGISTRY, augment=AugmentConfig(**augment), seed=11)


# ---- GEN1

BOXES = [(20.6, 30.7, 60.5, 40.9, 0, 1), (-8.0, 200.0, 50.0, 70.0, 1, 2), (150.2, 90.1, 90.4, 80.3, 0, 3)]
TIMES = (150_000, 463_217, 900_000)


def gen1_events() -> EventArray:
    """Return events up to 700 ms: a label at 900 ms sees none in the 200 ms before it."""
    return some_events(GEN1, 6_000, (1_000, 700_000))


@pytest.fixture(scope="module")
def gen1(tmp_path_factory):
    root = tmp_path_factory.mktemp("gen1")
    for split in ("train", "val"):
        (root / split).mkdir()
        write_dat(root / split / f"{split}_td.dat", [gen1_events()], GEN1, event_type=0)
        rows = [(t, *box) for t in TIMES for box in BOXES]
        write_labels(root / split / f"{split}_bbox.npy", labels_of(rows), "gen1")
    return root


def between(events: EventArray, start: int, stop: int) -> EventArray:
    return events[(events.t >= start) & (events.t < stop)]


@pytest.mark.parametrize(
    ("lookback", "spans"),
    [
        (False, [(0, 150_000), (263_217, 463_217), (700_000, 900_000)]),
        (True, [(0, 200_000), (263_217, 463_217), (500_000, 700_000)]),
    ],
    ids=["corrected", "published"],
)
def test_gen1_inputs(gen1, lookback, spans):
    dataset = open_dataset(f"gen1:{gen1}", "train", REGISTRY)
    detector = model_on(GEN1, dataset.classes)
    feed = feed_of(dataset, detector, WindowRule("label", lookback=lookback))
    scaled = (126, 160)  # 240 * 160 / 304 = 126.3 rows
    for t_us, span in zip(TIMES, spans, strict=True):
        events = between(gen1_events(), *span)
        counts = micro_sum(events)
        assert counts.sum() == len(events) - tail(events), "the events of the last bin's end are lost"
        got = feed.pick(0, t_us, epoch=0).x
        assert error(got, in_corner(bilinear(counts, *scaled))) < 3e-6
        assert (float(got.sum()) > 100) is bool(len(events))
    assert tail(between(gen1_events(), *spans[1])) >= 1


def tail(events: EventArray) -> int:
    """Return how many events come at or after the end of the last bin."""
    if not len(events):
        return 0
    first, last = int(events.t[0]), int(events.t[-1])
    return int((events.t >= first + (last - first) // STEPS * STEPS).sum())


def test_train_and_val_together(gen1):
    both = open_dataset(f"gen1:{gen1}", "train+val", REGISTRY)
    assert [one.name for one in both] == ["train", "val"] and both.report.found == 2 and both.size == GEN1
    twice = open_dataset(f"gen1:{gen1}", "val+val", REGISTRY)
    assert [one.name for one in twice] == ["val", "val/val"]


def test_the_four_recordings_that_are_left_out(tmp_path):
    names = (
        "17-04-06_09-57-37_6344500000_6404500000",
        "17-04-13_19-17-27_976500000_1036500000",
        "17-04-06_15-14-36_1159500000_1219500000",
        "17-04-11_15-13-23_122500000_182500000",
        "17-04-11_15-13-23_182500000_242500000",
    )
    for name in names:
        paired(tmp_path / "train", name)
    kept = open_dataset(f"gen1:{tmp_path}", "train", REGISTRY, skip_label_free=True)
    assert [one.name for one in kept] == [names[-1]]
    assert len(open_dataset(f"gen1:{tmp_path}", "train", REGISTRY)) == 5


# ---- Augmentation


def drawn(key: list[int], source: SensorSize, jitter: float):
    """Return (height, width, left, top, flipped) as the published augmentation draws them, one draw after the other."""
    draw = np.random.Generator(np.random.PCG64(key)).random
    a, b, scale = 1 - jitter + 2 * jitter * draw(), 1 - jitter + 2 * jitter * draw(), 0.4 + 0.6 * draw()
    ratio = source.width / source.height * a / b
    if ratio < 1:
        height = int(scale * NETWORK[0])
        width = int(height * ratio)
    else:
        width = int(scale * NETWORK[1])
        height = int(width / ratio)
    if height > NETWORK[0]:  # the input is not square: as large as it fits
        height, width = NETWORK[0], int(NETWORK[0] * ratio)
    left, top = int(draw() * (NETWORK[1] - width)), int(draw() * (NETWORK[0] - height))
    return height, width, left, top, draw() < 0.5


def placed_boxes(place, source: SensorSize, *, exact: bool) -> tuple[np.ndarray, list[int]]:
    height, width, left, top, flipped = place
    rows, classes = [], []
    for x, y, w, h, class_id, _ in BOXES:
        x1, y1, x2, y2 = x, y, x + w, y + h
        if exact:
            x1, x2 = max(x1, 0), min(x2, source.width)
            y1, y2 = max(y1, 0), min(y2, source.height)
        else:
            x1, y1, x2, y2 = int(x1), int(y1), int(x2), int(y2)
        fx, fy = width / source.width, height / source.height
        box = [x1 * fx + left, y1 * fy + top, x2 * fx + left, y2 * fy + top]
        if not exact:
            box = [int(side) for side in box]
        if flipped:
            box = [NETWORK[1] - box[2], box[1], NETWORK[1] - box[0], box[3]]
        box = [min(max(side, 0), limit) for side, limit in zip(box, (*NETWORK[::-1], *NETWORK[::-1]), strict=True)]
        if box[2] - box[0] > 1 and box[3] - box[1] > 1:
            rows.append(box)
            classes.append(class_id)
    return np.array(rows), classes


@pytest.mark.parametrize("placing", ["whole_pixels", "exact"])
@pytest.mark.parametrize("jitter", [0.3, 0.1])
def test_the_published_placing(gen1, placing, jitter):
    dataset = open_dataset(f"gen1:{gen1}", "train", REGISTRY)
    detector = model_on(GEN1, dataset.classes)
    feed = feed_of(dataset, detector, WindowRule("label"), placing=placing, placing_jitter=jitter)
    t_us = TIMES[1]
    counts = micro_sum(between(gen1_events(), t_us - 200_000, t_us))
    flips, sizes = set(), set()
    for epoch in range(6):
        sample = feed.pick(0, t_us, epoch)
        place = drawn([11, epoch, 0, t_us + 1, 1], GEN1, jitter)
        height, width, left, top, flipped = place
        want = np.zeros((STEPS, 2, *NETWORK))
        want[..., top : top + height, left : left + width] = bilinear(counts, height, width)
        want = want[..., ::-1] if flipped else want  # every step alike
        assert error(sample.x, want) < 3e-6 and want.sum() > 100
        boxes, classes = placed_boxes(place, GEN1, exact=placing == "exact")
        assert sample.targets is not None and sample.targets.class_id.tolist() == classes
        assert np.abs(sample.targets.xyxy - boxes).max() < 1e-4
        flips.add(flipped)
        sizes.add((height, width))
    assert flips == {False, True} and len(sizes) == 6


def test_a_placing_is_the_same_along_a_recording_and_changes_no_other_draw(gen1):
    dataset = open_dataset(f"gen1:{gen1}", "train", REGISTRY)
    detector = model_on(GEN1, dataset.classes)
    plain, placed = ({"flip": 0.5, "polarity_swap": 0.5, "placing": name} for name in ("none", "exact"))
    a, b = (feed_of(dataset, detector, WindowRule(), **options) for options in (plain, placed))
    for epoch in range(4):
        assert a._changes(epoch, 0, 0)[0] == b._changes(epoch, 0, 0)[0]
    walk: list[Sample] = list(b.follow(0, epoch=2))
    height, width, left, top, flipped = drawn([11, 2, 0, 0, 1], GEN1, 0.3)
    for sample in walk[:3]:
        image = sample.x.flip(-1) if flipped else sample.x
        outside = image.clone()
        outside[..., top : top + height, left : left + width] = 0
        assert not outside.any() and image.any()


def test_a_model_whose_images_cannot_be_placed(gen1):
    config = AugmentConfig(placing="exact")
    check_placing(config, model_on(GEN1, ("car", "pedestrian")).representation, "micro_bins")
    padded = REGISTRY.build("representation", "ternary_image", GEN1, network_size=[64, 64])
    with pytest.raises(SpecError, match="placing: exact needs a representation of images with zeros around.*'ternary"):
        check_placing(config, padded, "ternary_image")
    for wrong in ({"placing": "mosaic"}, {"placing_jitter": 1.0}, {"placing_scale": 0.0}):
        with pytest.raises(SpecError, match="augment.placing"):
            AugmentConfig(**wrong)


def test_boxes_go_back_by_one_factor_or_by_the_true_ones():
    true = fit_into(GEN1, SensorSize(640, 640))
    one = fit_into(GEN1, SensorSize(640, 640), one_factor=True)
    boxes = np.array([[64, 100, 320, 480]], np.float32)
    assert np.allclose(one.boxes_to_source(boxes), boxes / (640 / 304), atol=1e-5)
    assert np.allclose(true.boxes_to_source(boxes), boxes / np.array([640 / 304, 505 / 240] * 2), atol=1e-5)
    gap = np.abs(one.boxes_to_source(boxes) - true.boxes_to_source(boxes)).max()
    assert 0.05 < gap < 0.15
    published = REGISTRY.build("representation", "micro_bins", GEN1, one_factor=True)
    assert published.letterbox == one


# ---- N-Caltech101


def atis_file(path: Path, events: EventArray) -> None:
    """Write events of 5 bytes; the first one beyond 2^13 us comes after a record of overflow, which adds that much."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = bytearray()
    for x, y, p, t in zip(events.x, events.y, events.p, events.t, strict=True):
        t = int(t)
        if t >= 1 << 13:
            if not any(data[i + 1] == 240 for i in range(0, len(data), 5)):
                data += bytes([0, 240, 0, 0, 0])
            t -= 1 << 13
        data += bytes([int(x), int(y), int(p) << 7 | t >> 16 & 0x7F, t >> 8 & 0xFF, t & 0xFF])
    path.write_bytes(bytes(data))


SHOWN = ("ant", "Motorbikes", "trilobite")


@pytest.fixture(scope="module")
def ncaltech(tmp_path_factory):
    root = tmp_path_factory.mktemp("ncaltech")
    for i, name in enumerate(SHOWN):
        atis_file(root / "Caltech101" / name / "image_0001.bin", saccades(i))
        corners = (20 + i, 30, 120, 150)
        annotation_file(root / "Caltech101_annotations" / name / "annotation_0001.bin", corners)
        (root / "test.txt").open("a").write(f"{name}/image_0001.bin\n")
    return root


def saccades(seed: int) -> EventArray:
    events = some_events(NCALTECH, 2_500, (40, 304_321 + 7 * seed), seed=seed)
    t = events.t.copy()
    t[-3:] = t[-1]  # several events at the very last time, all of which the first cut drops
    return replace(events, t=t)


def test_ncaltech_labels_are_in_the_order_of_the_checkpoint(ncaltech):
    order = [name.strip() for name in ORDER.replace("\n", " ").split(",")]
    dataset = open_dataset(f"ncaltech101:{ncaltech}", "test", REGISTRY)
    assert list(dataset.classes) == order and len(set(order)) == 100
    found = {one.name.split("/")[0]: one.labels() for one in dataset}
    assert {name: labels.class_id.tolist() for name, labels in found.items()} == {
        "ant": [2],
        "Motorbikes": [9],
        "trilobite": [99],
    }
    assert found["Motorbikes"].xywh.tolist() == [[21, 30, 99, 120]]


def bicubic(images: np.ndarray, height: int, width: int) -> np.ndarray:
    resize = torch.nn.functional.interpolate
    return resize(torch.from_numpy(images), size=(height, width), mode="bicubic", align_corners=False).numpy()


@pytest.mark.parametrize("kind", ["recording", "recording_end"])
def test_ncaltech_inputs(ncaltech, kind):
    dataset = open_dataset(f"ncaltech101:{ncaltech}", "test", REGISTRY)
    detector = model_on(
        NCALTECH, dataset.classes, window_us=100_000, interpolation="bicubic", macro_slice=True, network_size=[192, 192]
    )
    feed = feed_of(dataset, detector, WindowRule(kind))
    for number, recording in enumerate(dataset):
        events = saccades(SHOWN.index(recording.name.split("/")[0]))
        if kind == "recording_end":
            events = events[events.t > events.t[-1] - 100_000]
        sliced = events[events.t < events.t[-1]]  # one macro slice first, whose end is lost
        assert len(events) - len(sliced) >= 3
        counts = micro_sum(sliced)
        assert counts.sum() < len(sliced)
        sample = feed.pick(number, 300_000, epoch=0)
        want = in_corner(bicubic(counts, 144, 192), (192, 192))
        got = sample.x
        assert error(got, want) < 3e-6
        assert got.min() < -0.01 and got.sum() > 100, "bicubic weights go below zero"
        assert sample.targets is not None
        x1 = 20 + SHOWN.index(recording.name.split("/")[0])
        assert np.allclose(sample.targets.xyxy, np.array([[x1, 30, 120, 150]]) * 0.8, atol=1e-4)


def test_ncaltech_is_evaluated_one_recording_a_sample(ncaltech):
    dataset = open_dataset(f"ncaltech101:{ncaltech}", "test", REGISTRY)
    detector = model_on(NCALTECH, dataset.classes, interpolation="bicubic", macro_slice=True)
    evaluation = evaluate_detector(
        detector, dataset, REGISTRY, named_protocol("none"), rule=WindowRule("recording"), silent=False
    )
    assert [outcome.set_events.tolist() for outcome in evaluation.outcomes] == [[2500]] * 3
    assert evaluation.scores.ground_truths == 3 and sum(len(one.score) for one in evaluation.outcomes) > 10
