"""RVT-preprocessed sequences as a source: from stored histograms to what a model is trained and scored on."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from snn_perception.cli.evaluate import main as evaluate_main
from snn_perception.cli.train import main as train_main
from snn_perception.data.dataset import open_dataset
from snn_perception.data.labels import Labels
from snn_perception.data.rvt import RvtSequence
from snn_perception.data.stored import StoredWindows
from snn_perception.data.window_rule import WindowRule
from snn_perception.detector import Detector
from snn_perception.errors import EventDataError, SpecError
from snn_perception.evaluation.protocol import named_protocol
from snn_perception.evaluation.run import evaluate_detector
from snn_perception.spec import ComponentRef
from snn_perception.training.config import AugmentConfig, RunConfig
from snn_perception.training.feed import Feed
from snn_perception.training.loop import train
from snn_perception.training.run_file import dump_run
from snn_perception.training.survey import survey
from snn_perception.types import EventArray, EventWindow, SensorSize
from tests.dataset_support import GEN1, ONE_MPX, labels_of, paired
from tests.evaluate_support import tiny_on_gen1
from tests.runtime_support import tiny_registry
from tests.rvt_support import WINDOW_US, random_events, stacked_histogram, write_sequence
from tests.training_support import _recording, small_run

REGISTRY = tiny_registry()
STEPS = 4


@pytest.fixture(autouse=True)
def _threads_as_before(monkeypatch):
    """Commands bound the threads of their process; the next test has its own."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def summed(events: EventArray, end_us: int, *, halved: bool = False) -> np.ndarray:
    """Return [4, 2, H, W]: of each of the last four stretches of 50 ms, the stored counts of a pixel added up."""
    frames = []
    for begin in range(end_us - STEPS * WINDOW_US, end_us, WINDOW_US):
        inside = events[(events.t >= begin) & (events.t <= begin + WINDOW_US)] if begin >= 0 else events[:0]
        stored = stacked_histogram(inside)
        stored = stored[:, 1::2, 1::2] if halved else stored
        frames.append([stored[:10].sum(axis=0, dtype=np.int64), stored[10:].sum(axis=0, dtype=np.int64)])
    return np.array(frames, np.float64)


def micro_bins_on(size: SensorSize, classes, *, network=None, registry=REGISTRY, **bins) -> Detector:
    spec = tiny_on_gen1(classes=classes, state_policy="per_window").spec
    representation = ComponentRef("micro_bins", {"steps": STEPS, "network_size": network, **bins})
    length = STEPS * WINDOW_US
    spec = replace(spec, representation=representation, window_us=length, stride_us=length, sensor_size=size)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Detector(spec, registry).double().eval()


LABELS = labels_of(
    [
        (90_000, 10, 20, 60, 40, 0, 1),  # its window begins before the recording
        (300_000, -5, 20, 65, 40, 0, 1),
        (300_000, 200, 100, 40, 30, 1, 1),
        (480_000, 30.5, 20.25, 60, 40, 1, 2),
    ]
)
ENDS = {90_000: 100_000, 300_000: 300_000, 480_000: 500_000}


@pytest.fixture(scope="module")
def gen1(tmp_path_factory):
    root = tmp_path_factory.mktemp("rvt")
    write_sequence(root / "test" / "drive", random_events(60_000, 600_000, GEN1), LABELS, windows=12)
    return root


def test_inputs_of_gen1_are_the_frames_before_the_label(gen1):
    dataset = open_dataset(f"rvt:{gen1}", "test", REGISTRY)
    assert (dataset.name, dataset.classes, dataset.size) == ("rvt", ("car", "pedestrian"), GEN1)
    detector = micro_bins_on(GEN1, dataset.classes)
    data = survey(dataset, detector.spec.window_us)
    assert [times.tolist() for times in data.labelled] == [list(ENDS)]
    feed = Feed(data, detector, REGISTRY, augment=AugmentConfig(), seed=0)
    events = random_events(60_000, 600_000, GEN1)
    for t_us, end_us in ENDS.items():
        sample = feed.pick(0, t_us, epoch=0)
        assert np.array_equal(sample.x.numpy(), summed(events, end_us)) and sample.is_start
    early = feed.pick(0, 90_000, epoch=0).x
    assert not early[:2].any() and early[2:].sum() > 1000, "frames before the start are zero"
    boxes = feed.pick(0, 300_000, epoch=0).targets
    assert boxes is not None and boxes.xyxy.tolist() == [[0, 20, 60, 60], [200, 100, 240, 130]]


def test_inputs_of_1mpx_are_of_half_size_and_padded(tmp_path):
    events = random_events(40_000, 300_000, ONE_MPX)
    labels = labels_of(
        [
            (260_000, 100, 60, 81, 61, 2, 1),
            (260_000, 1100, 700, 400, 100, 0, 2),  # beyond the frame
            (260_000, 1279, 10, 40, 40, 1, 3),  # of which nothing is left
            (260_000, 10, 10, 40, 40, 5, 4),  # a traffic sign
        ]
    )
    write_sequence(tmp_path / "train" / "moorea", events, labels, windows=6, halved=True)
    dataset = open_dataset(f"rvt:{tmp_path}", "train", REGISTRY)
    assert dataset.classes == ("pedestrian", "two-wheeler", "car") and dataset.size == SensorSize(360, 640)
    detector = micro_bins_on(SensorSize(360, 640), dataset.classes, network=[640, 640])
    feed = Feed(survey(dataset, detector.spec.window_us), detector, REGISTRY, augment=AugmentConfig(), seed=0)
    sample = feed.pick(0, 260_000, epoch=0)
    want = np.zeros((STEPS, 2, 640, 640))
    want[:, :, :360] = summed(events, 300_000, halved=True)
    assert np.array_equal(sample.x.numpy(), want) and want.sum() > 1000
    assert sample.targets is not None
    assert sample.targets.xyxy.tolist() == [[50, 30, 90.5, 60.5], [550, 350, 639, 359]]
    assert sample.targets.class_id.tolist() == [2, 0]


def test_stored_frames_of_1mpx_are_the_parts_of_a_window_of_events(tmp_path, registry):
    """The preset sees in events of half size what it sees in RVT's frames of them, the last bin's edge included."""
    preset = registry.build("preset", "eas_snn_m_1mpx")
    assert preset.representation.options["bins"] == "window"
    represent = registry.build("representation", "micro_bins", preset.sensor_size, **preset.representation.options)
    by_events = registry.build("representation", "micro_bins", preset.sensor_size, steps=STEPS)
    events = random_events(60_000, 300_000, preset.sensor_size)
    events = events[events.t % WINDOW_US != 0]  # which RVT counts into both frames
    labels = labels_of([(260_000, 100, 60, 81, 61, 2, 1)])
    folder = write_sequence(tmp_path / "train" / "moorea", events, labels, windows=6)
    stored = RvtSequence(folder)
    histograms = np.stack(list(stored.histograms(2, 6)))
    assert histograms.max() < 10, "nothing is cut"
    seen = represent.of_histograms(histograms)
    inside = events[(events.t >= 100_000) & (events.t < 300_000)]
    window = EventWindow(inside, 100_000, 300_000)
    assert torch.equal(represent(window), seen) and seen.sum() == len(inside) > 30_000
    assert not torch.equal(by_events(window), seen), "slices of the events lie elsewhere, and lose the last one"
    quiet = EventWindow(inside[inside.t < 150_000], 100_000, 300_000)
    assert not represent(quiet)[1:].any() and torch.equal(represent(quiet)[0], seen[0]), "silence moves no edge"


def test_what_is_seen_is_what_the_model_makes_of_the_histograms(gen1, tmp_path):
    dataset = open_dataset(f"rvt:{gen1}", "test", REGISTRY)
    detector = micro_bins_on(GEN1, dataset.classes)
    events, found = random_events(60_000, 600_000, GEN1), 0
    (outcome,) = evaluate_detector(detector, dataset, REGISTRY, named_protocol("none"), measure=True).outcomes
    assert outcome.at_labels and outcome.silent is None and outcome.activity.windows == 3
    result = outcome.result(named_protocol("none"))
    for row, (t_us, end_us) in enumerate(ENDS.items()):
        counts = summed(events, end_us)
        seen, _ = detector.infer(torch.from_numpy(counts)[:, None])
        assert np.array_equal(result.score[result.t_us == t_us], seen[0].score)
        assert outcome.set_events[row] == counts.sum()
        found += len(seen[0])
    assert found > 10
    side = evaluate_detector(
        detector, replace(dataset, recordings=dataset.recordings * 2), REGISTRY, named_protocol("none"), rows=2
    )
    assert np.array_equal(side.outcomes[1].score, outcome.score)


def test_a_stacked_histogram_is_fed_as_it_is(gen1):
    sequence = open_dataset(f"rvt:{gen1}", "test", REGISTRY)[0].sequence()
    spec = tiny_on_gen1(state_policy="per_window").spec
    spec = replace(spec, representation=ComponentRef("stacked_histogram", {}), sensor_size=GEN1)
    detector = Detector(spec, REGISTRY)
    window = StoredWindows(sequence, detector.representation, detector.spec).at(300_000)
    got = detector.representation.of_histograms(window.histograms)
    events = random_events(60_000, 600_000, GEN1)
    closed = events[(events.t >= 250_000) & (events.t <= 300_000)]  # RVT's windows include their end
    assert torch.equal(got, detector.representation(EventWindow(closed, 250_000, 300_001)))
    assert float(got.sum()) > 1000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {},
            "drive: holds representations made elsewhere .stacked_histogram_dt=50_nbins=10.*'voxel_cube' is made from",
        ),
        (
            {"representation": ComponentRef("micro_bins", {"steps": 4, "network_size": None})},
            "holds histograms of 304x240 px, 50 ms and 10 bins; the model's 'micro_bins' takes 4 of 304x240 px, 12.5",
        ),
        ({"representation": ComponentRef("stacked_histogram", {"bins": 5})}, "takes 1 of 304x240 px, 50 ms and 5 bins"),
        (
            {"representation": ComponentRef("stacked_histogram", {}), "state_policy": "carry"},
            "'stacked_histogram' with carried state is made from events",
        ),
        (
            {"representation": ComponentRef("stacked_histogram", {}), "sensor_size": SensorSize(120, 152)},
            "takes 1 of 152x120 px",
        ),
    ],
)
def test_other_models_are_told_what_the_set_holds(gen1, tmp_path, change, words):
    dataset = open_dataset(f"rvt:{gen1}", "test", REGISTRY)
    spec = replace(tiny_on_gen1(state_policy="per_window").spec, **{"sensor_size": GEN1, **change})
    with pytest.raises(EventDataError, match=words):
        evaluate_detector(Detector(spec, REGISTRY), dataset, REGISTRY, named_protocol("none"))


def test_settings_that_need_events_are_refused(gen1, tmp_path, registry):
    config = boxes_run(gen1)
    config = replace(config, data=replace(config.data, train_split="test", val_split="test"))
    moved = replace(config, train=replace(config.train, augment=AugmentConfig(flip=0.5)))
    with pytest.raises(SpecError, match=r"drive: holds histograms.*augment: flip.*augment\.placing works"):
        train(moved, registry, tmp_path / "a")
    with pytest.raises(SpecError, match=r"drive: holds histograms.*data\.windows"):
        train(replace(config, data=replace(config.data, windows="label", lookback=True)), registry, tmp_path / "b")
    dataset = open_dataset(f"rvt:{gen1}", "test", registry)
    detector = micro_bins_on(GEN1, dataset.classes)
    with pytest.raises(EventDataError, match="drive: holds histograms of labelled windows; windows: recording"):
        evaluate_detector(detector, dataset, REGISTRY, named_protocol("none"), rule=WindowRule("recording"))


def test_the_set_itself(gen1, tmp_path):
    assert open_dataset(f"gen1:{gen1}", "test", REGISTRY)[0].is_sequence  # gen1 finds them too
    with pytest.raises(EventDataError, match="camera: expected auto, gen1 or one_mpx, got 'davis'"):
        open_dataset(f"rvt:{gen1}", "test", REGISTRY, camera="davis")
    wrong = open_dataset(f"rvt:{gen1}", "test", REGISTRY, camera="one_mpx")
    with pytest.raises(EventDataError, match="expected histograms of 1280x720 px.*got 304x240; wrong set"):
        wrong[0].sequence()
    paired(tmp_path / "train", "17-03-30_0_60")
    with pytest.raises(EventDataError, match="nothing to use in split 'train'.*RVT-preprocessed sequences"):
        open_dataset(f"rvt:{tmp_path}", "train", REGISTRY)


# From one end to the other


def boxes_run(root) -> RunConfig:
    """Return a run of a narrow network on single stored frames, shrunk to a quarter; its head takes one time step."""
    config = small_run(root, mode="windows", lanes=2, epochs=6, lr=5e-3)
    overrides = {
        **config.model.overrides,
        "representation": {"name": "micro_bins", "steps": 1, "network_size": [60, 76]},
        "sensor_size": {"height": 240, "width": 304},
    }
    return replace(
        config,
        model=replace(config.model, options={}, overrides={"state_policy": "per_window", **overrides}),
        data=replace(config.data, train=f"rvt:{root}"),
    )


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    """Sequences of the moving boxes that training is tested on."""
    root = tmp_path_factory.mktemp("boxes")
    for split, names in (("train", "abc"), ("val", "d")):
        for i, name in enumerate(names):
            events, labels = _recording(1_000_000, np.random.default_rng([ord(name), i]))
            assert isinstance(labels, Labels)
            write_sequence(root / split / name, events, labels, windows=20)
    return root


def test_the_commands_train_and_evaluate_on_sequences(boxes, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(dump_run(boxes_run(boxes)))
    code = train_main([str(tmp_path / "run.yaml"), "--data", f"rvt:{boxes}", "-o", str(tmp_path / "run"), "--json"])
    assert code == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [sum(line["losses"].values()) for line in lines if line["kind"] == "train"]
    assert losses[-1] < 0.8 * losses[0]
    capsys.readouterr()
    model = str(tmp_path / "run" / "last.safetensors")
    report = ["-o", str(tmp_path / "report"), "--save-detections", "--score-threshold", "0.01"]
    code = evaluate_main([model, "--data", f"rvt:{boxes}", "--split", "val", "--protocol", "none", "--json", *report])
    values = json.loads(capsys.readouterr().out)
    assert code == 0 and values["latency"] is None
    validated = next(line for line in reversed(lines) if line["kind"] == "validation")
    assert values["scores"]["stats"]["AP"] == pytest.approx(validated["scores"]["AP"], abs=1e-6)
    written = (tmp_path / "report" / "detections" / "d.jsonl").read_text().splitlines()
    assert len(written) == 4 and sum(len(json.loads(line)["score"]) for line in written) > 0
