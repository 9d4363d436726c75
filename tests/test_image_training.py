"""Training on images: how they are changed, what a batch holds, that runs go on exactly, and that networks learn."""

import colorsys
import json
import threading
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from snn_perception import build_preset
from snn_perception.cli import evaluate
from snn_perception.data.dataset import open_dataset
from snn_perception.data.image_augment import (
    GREY,
    Layout,
    Patch,
    change_colours,
    compose,
    draw_layout,
    place_patch_boxes,
)
from snn_perception.data.image_changes import ImageChanges
from snn_perception.data.labels import Labels, write_labels
from snn_perception.errors import SpecError
from snn_perception.events.dat_writer import write_dat
from snn_perception.training.config import DataConfig, EvalConfig, ModelConfig, RunConfig, TrainConfig
from snn_perception.training.engine import Engine
from snn_perception.training.feed import Sample, stack
from snn_perception.training.images import ImageFeed, RandomImages
from snn_perception.training.loop import train
from snn_perception.training.optimizer import OptimizerConfig
from snn_perception.training.prefetch import prefetched
from snn_perception.training.reports import Silent
from snn_perception.training.run_file import load_run
from snn_perception.training.steps import Recurrence
from snn_perception.types import EventArray, SensorSize, Targets
from tests.coco_support import CLASSES, write_set
from tests.training_support import GEN1

PUBLISHED = ImageChanges(
    mosaic=1.0, scale=0.5, translate=0.1, hue=0.015, saturation=0.7, value=0.4, flip=0.5, mosaic_off_epochs=10
)
TARGET = SensorSize(64, 64)
SMALL = {"classes": list(CLASSES), "network_size": [64, 64], "width_factor": 0.125, "depth_factor": 0.1}


@pytest.fixture
def root(tmp_path):
    return write_set(tmp_path / "set", images=5, empty=1)


def feed_of(root, registry, changes=PUBLISHED, *, epochs=20, seed=3):
    data = open_dataset(f"coco:{root}", "train", registry)
    detector = build_preset("spikeyolo_s_coco", registry=registry, **SMALL)
    return ImageFeed(data, detector, registry, changes, epochs=epochs, seed=seed)


def draws(seed: int):
    return np.random.default_rng(seed).random


class TestChanges:
    def test_one_image_without_change_fits_and_lies_in_the_middle(self):
        layout = draw_layout(draws(0), ImageChanges(), [SensorSize(32, 64)], SensorSize(64, 64))
        (patch,) = layout.patches
        assert (patch.factor, patch.left, patch.top) == (1.0, 0.0, 16.0) and not layout.flipped
        image = np.random.default_rng(1).integers(0, 256, (32, 64, 3), dtype=np.uint8)
        made = compose([image], layout, TARGET)
        assert np.array_equal(made[16:48], image) and (made[:16] == GREY).all() and (made[48:] == GREY).all()

    def test_flip_mirrors_pixels_and_boxes(self):
        layout = Layout((Patch(1.0, 0.0, 0.0, (0.0, 0.0, 64.0, 64.0)),), flipped=True)
        image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        assert np.array_equal(compose([image], layout, TARGET), image[:, ::-1])
        boxes, kept = place_patch_boxes(np.array([[4.0, 5, 20, 30]]), layout.patches[0], layout, TARGET, PUBLISHED)
        assert boxes.tolist() == [[44, 5, 60, 30]] and kept.all()

    @pytest.mark.parametrize("seed", range(12))
    def test_boxes_lie_where_their_colours_do(self, seed):
        """In mosaics too, whatever is drawn; each image has one box of a colour that nothing else has."""
        rng = np.random.default_rng(seed)
        sizes, images, boxes = [], [], []
        colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
        for colour in colours:
            size = SensorSize(int(rng.integers(40, 90)), int(rng.integers(40, 90)))
            image = np.full((size.height, size.width, 3), 60, np.uint8)
            x, y = rng.integers(0, 15, 2).tolist()
            w, h = int(rng.integers(16, size.width - 16)), int(rng.integers(16, size.height - 16))
            image[y : y + h, x : x + w] = colour
            sizes.append(size)
            images.append(image)
            boxes.append(np.array([[x, y, x + w, y + h]], np.float64))
        changes = replace(PUBLISHED, hue=0.0, saturation=0.0, value=0.0)
        layout = draw_layout(draws(seed), changes, sizes, TARGET)
        made = compose(images, layout, TARGET).astype(int)
        seen = 0
        for colour, box, patch in zip(colours, boxes, layout.patches, strict=True):
            placed, kept = place_patch_boxes(box, patch, layout, TARGET, changes)
            inside = np.abs(made - colour).sum(axis=-1) < 30
            if not kept[0]:
                x1, y1, x2, y2 = placed[0]
                assert inside.sum() <= max(0.1 * 64 * 64, (x2 - x1 + 2) * (y2 - y1 + 2))
                continue
            rows, columns = np.nonzero(inside)
            seen += 1
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(placed[0], found, atol=1.5 * max(1.0, patch.factor))
        assert seen >= 1

    def test_a_mosaic_shows_four_images_around_a_corner(self):
        sizes = [SensorSize(64, 64)] * 4
        images = [np.full((64, 64, 3), 40 * k + 20, np.uint8) for k in range(4)]
        layout = draw_layout(draws(5), ImageChanges(mosaic=1.0), sizes, TARGET)
        made = compose(images, layout, TARGET)[..., 0]
        values = sorted(set(made.ravel().tolist()) - {GREY})
        assert values == [20, 60, 100, 140], "without scale and shift, the middle of the field holds all four"
        assert made[0, 0] == 20 and made[0, -1] == 60 and made[-1, 0] == 100 and made[-1, -1] == 140

    def test_the_draws_keep_to_their_ranges(self):
        factors, shifts, gains, flips = [], [], [], []
        for seed in range(400):
            layout = draw_layout(draws(seed), PUBLISHED, [TARGET], TARGET)
            (patch,) = layout.patches
            factors.append(patch.factor)
            shifts.append((patch.left + 32 * patch.factor - 32) / 64)
            gains.append(layout.gains)
            flips.append(layout.flipped)
        assert 0.5 <= min(factors) < 0.52 and 1.48 < max(factors) <= 1.5
        assert -0.1 <= min(shifts) < -0.095 and 0.095 < max(shifts) <= 0.1
        for values, most in zip(np.array(gains).T, (0.015, 0.7, 0.4), strict=True):
            assert 0.95 * most < np.abs(values - 1).max() <= most and abs(values.mean() - 1) < 0.1 * most
        assert 0.4 < np.mean(flips) < 0.6

    def test_what_too_little_is_left_of_goes(self):
        layout = Layout((Patch(1.0, 0.0, 0.0, (0.0, 0.0, 64.0, 64.0)),))
        moved = Patch(1.0, -50.0, 0.0, (-50.0, 0.0, 64.0, 64.0))
        boxes = np.array([[0.0, 0, 54, 20], [0, 0, 60, 20], [40, 0, 51.5, 20], [52, 0, 60, 1.5]])
        placed, kept = place_patch_boxes(boxes, moved, layout, TARGET, PUBLISHED)
        assert kept.tolist() == [False, True, False, False], "4 of 54 px; 10 of 60; 1.5 px wide; 1.5 px high"
        assert placed[1].tolist() == [0, 0, 10, 20]

    def test_sampling_equals_that_of_the_letterbox(self):
        from snn_perception.events.letterbox import fit_into

        image = np.random.default_rng(2).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        size = SensorSize(36, 48)
        layout = draw_layout(draws(0), ImageChanges(), [SensorSize(48, 64)], size)
        letterbox = fit_into(SensorSize(48, 64), size, centred=True)
        expected = letterbox.apply(torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32)))
        np.testing.assert_allclose(compose([image], layout, size).transpose(2, 0, 1), expected, atol=0.51)

    def test_colours_change_as_in_the_textbook(self):
        rng = np.random.default_rng(4)
        image = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        image[0, :3] = [[0, 0, 0], [255, 255, 255], [9, 9, 9]]
        gains = (1.01, 1.5, 0.7)
        changed = change_colours(image, gains)
        for old, new in zip(image.reshape(-1, 3) / 255, changed.reshape(-1, 3), strict=True):
            h, s, v = colorsys.rgb_to_hsv(*old)
            wanted = colorsys.hsv_to_rgb(h * gains[0] % 1, min(s * gains[1], 1), min(v * gains[2], 1))
            np.testing.assert_allclose(new, np.array(wanted) * 255, atol=0.51)
        assert np.abs(change_colours(image, (1.0, 1.0, 1.0)).astype(int) - image).max() == 0

    @pytest.mark.parametrize("setting", ["mosaic=2", "scale=1", "translate=-0.1", "hue=1.5", "mosaic_off_epochs=-1"])
    def test_settings_that_cannot_be_are_refused(self, setting):
        with pytest.raises(SpecError, match=f"train.images.{setting.partition('=')[0]}: expected"):
            load_run(None, [f"train.images.{setting}"])


class TestFeed:
    def test_without_changes_it_is_the_model_s_own_input(self, root, registry):
        feed = feed_of(root, registry, ImageChanges())
        image = feed.data[0]
        sample = feed.pick(0, epoch=0)
        assert sample.x.shape == (1, 3, 64, 64) and sample.is_start
        scale = 64 / image.size.height
        labels = image.labels()
        pad = (64 - np.ceil(image.size.width * scale)) // 2
        np.testing.assert_allclose(sample.targets.xyxy[:, 0], labels.xywh[:, 0] * 52 / 51.2 * scale + pad, atol=0.6)
        assert sample.targets.class_id.tolist() == labels.class_id.tolist()
        for (x1, y1, x2, y2), k in zip(sample.targets.xyxy.tolist(), sample.targets.class_id.tolist(), strict=True):
            middle = sample.x[0, :, int((y1 + y2) / 2), int((x1 + x2) / 2)]
            assert middle.argmax() == (0, 2)[k]

    def test_an_image_without_boxes_is_known_to_be_empty(self, root, registry):
        targets = feed_of(root, registry, ImageChanges()).pick(4, epoch=0).targets
        assert targets is not None and not len(targets)

    def test_what_is_drawn_depends_on_seed_pass_and_image_alone(self, root, registry):
        feed = feed_of(root, registry)
        first, again = feed.pick(1, 2), feed.pick(1, 2)
        assert torch.equal(first.x, again.x) and np.array_equal(first.targets.xyxy, again.targets.xyxy)
        for other in (feed.pick(1, 3), feed.pick(2, 2), feed_of(root, registry, seed=4).pick(1, 2)):
            assert not torch.equal(first.x, other.x)

    def test_the_last_passes_have_no_mosaics(self, root, registry):
        changes = ImageChanges(mosaic=1.0, mosaic_off_epochs=3)
        feed = feed_of(root, registry, changes, epochs=10)
        plain = [
            compose([image.image()], draw_layout(draws(0), ImageChanges(), [image.size], TARGET), TARGET)
            for image in feed.data
        ]
        for epoch in (0, 6, 7, 9):
            own = [
                torch.equal(feed.pick(k, epoch).x[0] * 255, torch.from_numpy(one).permute(2, 0, 1).float())
                for k, one in enumerate(plain)
            ]
            assert all(own) if epoch >= 7 else not any(own)

    def test_batches_are_the_same_from_any_step_on_and_for_any_share_of_the_rows(self, root, registry):
        feed = feed_of(root, registry)
        whole = RandomImages(feed, rows=2, own=range(2), seed=1)
        assert whole.steps_per_epoch == 3
        batches = [batch for batch, _ in zip(whole.batches(0), range(5), strict=False)]
        later = next(whole.batches(3))
        assert later.step == 3 and torch.equal(later.x, batches[3].x) and batches[3].x.shape == (1, 2, 3, 64, 64)
        share = next(RandomImages(feed, rows=2, own=range(1, 2), seed=1).batches(2))
        assert torch.equal(share.x, batches[2].x[:, 1:])

    def test_batches_do_not_depend_on_the_threads_that_read(self, root, registry):
        feed = feed_of(root, registry)
        alone = RandomImages(feed, rows=3, own=range(3), seed=1).batches(2)
        several = RandomImages(feed, rows=3, own=range(3), seed=1, threads=4).batches(2)
        with prefetched(several, 2) as ahead:
            for one, other in islice(zip(alone, ahead, strict=False), 6):
                assert one.step == other.step and torch.equal(one.x, other.x) and one.x.std() > 0
                for a, b in zip(one.targets, other.targets, strict=True):
                    assert np.array_equal(a.xyxy, b.xyxy) and np.array_equal(a.class_id, b.class_id)
            assert any(thread.name.startswith("in_order") for thread in threading.enumerate())
        assert not any(thread.name.startswith(("in_order", "prefetch")) for thread in threading.enumerate())


def run_of(root, *, preset="spikeyolo_s_coco", **settings) -> RunConfig:
    options = {"mode": "windows", "lanes": 2, "epochs": 2, "lr": 4e-3, "weight_decay": 5e-5, "clip_norm": 10.0}
    return RunConfig(
        model=ModelConfig(preset=preset, options=SMALL),
        data=DataConfig(train=f"coco:{root}", val_split="train"),
        train=TrainConfig(**{**options, **settings}),
        eval=EvalConfig(protocol="coco"),
    )


class TestRuns:
    def test_a_run_goes_on_exactly_where_it_stopped(self, root, registry, tmp_path):
        from tests.test_training import StopAt, same_run

        optimizer = OptimizerConfig("sgd", 0.9, "weights", accumulate=2, warmup_bias_lr=0.1)
        config = run_of(root, images=PUBLISHED, optimizer=optimizer, warmup_epochs=1.0, ema=0.9, ema_ramp=5.0)
        train(config, registry, tmp_path / "whole")
        stopped = train(config, registry, tmp_path / "parts", observer=StopAt(3))
        assert stopped.stopped and stopped.steps == 3
        train(config, registry, tmp_path / "parts", resume=True)
        same_run(tmp_path / "whole", tmp_path / "parts")

    @pytest.mark.parametrize(
        ("changed", "fault"),
        [
            ({"preset": "st_vgg_ssd_16"}, "the data set holds images, and the model's representation 'voxel_cube'"),
            ({"mode": "lanes"}, "train.mode: lanes does not fit images"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, root, registry, tmp_path, changed, fault):
        config = run_of(root, **{key: value for key, value in changed.items() if key == "mode"})
        if "preset" in changed:
            model = ModelConfig(
                preset=changed["preset"], options={"classes": list(CLASSES)}, overrides={"state_policy": "per_window"}
            )
            config = replace(config, model=model)
        with pytest.raises(SpecError, match=fault):
            train(config, registry, tmp_path / "run")


class TestBackground:
    """Images without objects, and rows without labels."""

    ROWS = 2

    def batch(self, feed, **changed):
        samples = [replace(feed.pick(number, epoch=0), **changed) for number in (3, 4)]
        return stack(samples, step=0)

    def steps(self, preset, registry, feed):
        options = {"classes": list(CLASSES), "network_size": [64, 64], "width_factor": 0.125}
        detector = build_preset(preset, registry=registry, seed=0, **options).train()
        config = TrainConfig(mode="windows", lanes=self.ROWS, lr=0.01)
        engine = Engine(detector, config, torch.device("cpu"))
        return detector, engine, Recurrence(detector, engine, config, feed.head_size)

    @pytest.fixture
    def feed(self, tmp_path, registry):
        root = write_set(tmp_path / "background", images=5, empty=2)
        return feed_of(root, registry, ImageChanges())

    def test_it_lowers_the_scores(self, feed, registry):
        detector, engine, steps = self.steps("spikeyolo_s_coco", registry, feed)
        batch = self.batch(feed)
        assert [len(targets) for targets in batch.targets] == [0, 0]

        def scores() -> float:
            with torch.no_grad():
                raw, _ = detector(batch.x, None)
            return float(torch.cat([level[:, 64:].sigmoid().flatten() for level in raw]).mean())

        before = scores()
        taken = [steps.take(batch, 0, ends_chunk=True, epochs_done=0.0) for _ in range(5)]
        losses = [one.losses for one in taken]
        assert engine.updates == 5 and all(one.grad_norm > 0 for one in taken)
        assert losses[0]["box"] == losses[0]["dfl"] == 0, "there is no box to be wrong about"
        assert 0 < losses[-1]["class"] < 0.8 * losses[0]["class"] and 0 < scores() < 0.8 * before

    def test_rows_without_labels_count_for_nothing(self, feed, registry):
        detector, engine, steps = self.steps("spikeyolo_s_coco", registry, feed)
        weights = [parameter.detach().clone() for parameter in detector.parameters()]
        taken = steps.take(self.batch(feed, targets=None), 0, ends_chunk=True, epochs_done=0.0)
        assert engine.updates == 0 and taken.losses == {} and taken.grad_norm is None
        assert all(torch.equal(a, b) for a, b in zip(weights, detector.parameters(), strict=True))

    def test_heads_that_divide_by_matched_places_pass_over_it(self, feed, registry):
        """EAS-SNN's loss of an empty batch is a sum over all anchor points, hundreds of times its usual size."""
        _, engine, steps = self.steps("eas_snn_s_use_spike", registry, feed)
        samples = [
            Sample(
                torch.rand(4, 2, 64, 64), Targets(np.empty((0, 4), np.float32), np.empty(0, np.int64)), is_start=True
            )
            for _ in range(self.ROWS)
        ]
        taken = steps.take(stack(samples, 0), 0, ends_chunk=True, epochs_done=0.0)
        assert engine.updates == 0 and taken.losses == {}


class Scores(Silent):
    def __init__(self):
        self.seen = []

    def on_validation(self, report):
        self.seen.append(report.scores)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Both start from the same settings; what is trained on is what differs.
BY_HEART = {
    "epochs": 80,
    "optimizer": OptimizerConfig(decays="weights"),
    "schedule": "linear",
    "schedule_by": "step",
    "warmup_epochs": 5.0,
    "ema": 0.98,
    "ema_ramp": 20.0,
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_small_network_learns_a_small_set_of_images_by_heart(registry, tmp_path, capsys, one_thread):
    root = write_set(tmp_path / "set", images=6)
    config = replace(run_of(root, lanes=3, **BY_HEART), eval=EvalConfig(protocol="coco", every_epochs=20))
    scores = Scores()
    result = train(config, registry, tmp_path / "run", observer=scores)
    assert scores.seen[-1]["AP50"] > 0.9 and scores.seen[-1]["AP"] > scores.seen[0]["AP"]
    command = [str(result.best_checkpoint), "--data", f"coco:{root}", "--split", "train", "--json"]
    capsys.readouterr()
    assert evaluate.main([*command, "-o", str(tmp_path / "report")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["scores"]["stats"]["AP50"] > 0.9 and told["scores"]["images"] == 6
    assert told["card"]["protocol"]["name"] == "coco" and not told["firing"]["dead"]
    with Image.open(tmp_path / "report" / "pictures" / "samples.png") as picture:
        assert picture.size[0] > 100


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_small_network_learns_a_small_set_of_events_by_heart(registry, tmp_path, one_thread):
    """On windows that end at the labels, as published, and by the published metric."""
    root = flashing_boxes(tmp_path / "boxes", labels=6)
    config = run_of(root, preset="spikeyolo_s_gen1", lanes=3, **BY_HEART)
    config = replace(
        config,
        model=replace(config.model, options={**SMALL, "classes": ["car", "pedestrian"]}),
        data=DataConfig(train=f"gen1:{root}", val_split="train", windows="label"),
        eval=EvalConfig(protocol="yolo", every_epochs=20),
    )
    scores = Scores()
    train(config, registry, tmp_path / "run", observer=scores)
    assert scores.seen[-1]["AP50"] > 0.9 and scores.seen[-1]["AP50_yolo"] > 0.9
    assert scores.seen[-1]["AP"] > scores.seen[0]["AP"]


def flashing_boxes(root: Path, *, labels: int) -> Path:
    """Write one recording: before each label time, ON events in a box of the first class, OFF in one of the second."""
    rng, every_us = np.random.default_rng(0), 250_000
    rows, parts = [], []
    for t_us in range(every_us, every_us * (labels + 1), every_us):
        columns = []
        for kind in range(2):
            w, h = int(rng.integers(60, 140)), int(rng.integers(70, 150))
            x, y = 152 * kind + int(rng.integers(0, 152 - w)), int(rng.integers(0, 240 - h))
            rows.append((t_us, x, y, w, h, kind, len(rows)))
            count = 20 * w * h  # in both halves of the window nearly every pixel of the box has an event
            columns.append([rng.integers(x, x + w, count), rng.integers(y, y + h, count), np.full(count, 1 - kind)])
        columns.append([rng.integers(0, side, 2000) for side in (304, 240, 2)])
        x, y, p = np.concatenate(columns, axis=1)
        t = np.sort(rng.integers(t_us - every_us, t_us, len(x)))
        mixed = rng.permutation(len(x))
        parts.append(
            EventArray(x[mixed].astype(np.uint16), y[mixed].astype(np.uint16), p[mixed].astype(np.uint8), t, GEN1)
        )
    table = np.array(rows)
    folder = root / "train"
    folder.mkdir(parents=True)
    write_dat(folder / "17-01-10_0_60_td.dat", parts, GEN1, event_type=0)
    ones = np.ones(len(table), np.float32)
    boxes = Labels(table[:, 0], table[:, 1:5].astype(np.float32), table[:, 5], table[:, 6], ones)
    write_labels(folder / "17-01-10_0_60_bbox.npy", boxes, "gen1")
    return root
