"""Windows that end where labels lie: which events they hold, in training and in evaluation."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from snn_perception.checkpoint import save_checkpoint
from snn_perception.cli.evaluate import main
from snn_perception.data.dataset import open_dataset
from snn_perception.data.label_windows import LabelWindows, label_window, recording_window
from snn_perception.data.labels import write_labels
from snn_perception.data.window_rule import WindowRule
from snn_perception.errors import EventDataError, SpecError
from snn_perception.evaluation.protocol import named_protocol
from snn_perception.evaluation.run import evaluate_detector
from snn_perception.evaluation.window_choice import BY_DEFAULT, BY_HAND, OF_DATA, OF_IMPORT, OF_RUN, choose_rule
from snn_perception.events.dat import DatRecording
from snn_perception.events.dat_writer import write_dat
from snn_perception.events.recording import Recording
from snn_perception.training.config import AugmentConfig
from snn_perception.training.feed import Feed
from snn_perception.training.loop import train
from snn_perception.training.reports import Silent
from snn_perception.training.run_file import run_digest
from snn_perception.training.survey import survey
from snn_perception.types import EventArray, EventWindow
from snn_perception.work import Ledger
from tests.dataset_support import GEN1, labels_of
from tests.evaluate_support import tiny_on_gen1
from tests.runtime_support import TINY, tiny_registry
from tests.training_support import moving_boxes, small_run

REGISTRY = tiny_registry()
WINDOW_US = 200_000
# Events everywhere but in [600, 1 300) ms and after 2 s.
TIMES = (120_000, 460_123, 700_000, 850_001, 1_150_000, 1_290_000, 1_800_000, 2_900_000)
LABEL, LOOKBACK = WindowRule("label"), WindowRule("label", lookback=True)


def drive() -> EventArray:
    rng = np.random.default_rng(5)
    t = np.sort(np.concatenate([rng.integers(0, 600_000, 20_000), rng.integers(1_300_000, 2_000_000, 20_000)]))
    x, y = rng.integers(40, 90, len(t)), rng.integers(60, 140, len(t))
    p = rng.integers(0, 2, len(t))
    return EventArray(x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), t.astype(np.int64), GEN1)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """One recording with two boxes at each of the times, of the same track where two boxes are of one object."""
    folder = tmp_path_factory.mktemp("labels") / "test"
    folder.mkdir()
    write_dat(folder / "drive_td.dat", [drive()], GEN1, event_type=0)
    rows = [(t, 30 + k, 50, 60, 40 + k, k, 7) for t in TIMES for k in range(2)]
    write_labels(folder / "drive_bbox.npy", labels_of(rows), "gen1")
    return folder.parent


@pytest.fixture(scope="module")
def dataset(root):
    return open_dataset(f"gen1:{root}", "test", REGISTRY)


@pytest.fixture(scope="module")
def detector():
    detector = tiny_on_gen1(state_policy="per_window", dtype=torch.float64)
    spec = replace(detector.spec, window_us=WINDOW_US, stride_us=WINDOW_US, sensor_size=GEN1)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return type(detector)(spec, REGISTRY).double().eval()


def spans(rule: WindowRule) -> list[tuple[int, int]]:
    """Return where the windows of the times begin and end, in numbers."""
    if not rule.lookback:
        return [(t - WINDOW_US, t) for t in TIMES]
    return [
        (0, 200_000),  # cut off nowhere: 80 ms lie after the label
        (260_123, 460_123),
        (500_000, 700_000),
        (450_001, 650_001),  # [650, 850) is empty
        (550_000, 750_000),  # [950, 1150) and [750, 950) are
        (1_090_000, 1_290_000),  # so are all three that end at 1 290, 1 090 and 890 ms
        (1_600_000, 1_800_000),
        (2_700_000, 2_900_000),
    ]


def within(span: tuple[int, int]) -> EventArray:
    events = drive()
    return events[(events.t >= span[0]) & (events.t < span[1])]


def same_events(a: EventArray, b: EventArray) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in "xypt")


@pytest.mark.parametrize("rule", [LABEL, LOOKBACK], ids=["corrected", "published"])
def test_a_window_holds_what_its_definition_says(dataset, rule):
    windows = LabelWindows(dataset[0].open(REGISTRY), REGISTRY, WINDOW_US, rule)
    filled = 0
    for t_us, span in zip(TIMES, spans(rule), strict=True):
        window = windows.at(t_us)
        assert (window.t_start_us, window.t_end_us) == span
        assert same_events(window.events, within(span)), t_us
        filled += len(window.events) > 0
    assert filled == (6 if rule.lookback else 4)


def test_windows_are_read_by_themselves(dataset, monkeypatch):
    """No pass over the file: each is sought, and reading ends behind it."""
    read = []
    plain = DatRecording.chunks

    def watched(self, max_events=65536, *, start_us=None, align_us=None):
        for chunk in plain(self, 500, start_us=start_us, align_us=align_us):
            read.append((start_us, len(chunk)))
            yield chunk

    monkeypatch.setattr(DatRecording, "chunks", watched)
    windows = LabelWindows(dataset[0].open(REGISTRY), REGISTRY, 10_000, LABEL)
    window = windows.at(1_800_000)
    assert len(window.events) > 100
    assert {start for start, _ in read} == {1_790_000}
    assert sum(count for _, count in read) < len(window.events) + 2 * 500


def test_targets_are_all_boxes_of_the_time(dataset, detector):
    data = survey(dataset, WINDOW_US, LABEL)
    assert [times.tolist() for times in data.labelled] == [list(TIMES)]
    feed = Feed(data, detector, REGISTRY, augment=AugmentConfig(), seed=0)
    for t_us in TIMES:
        sample = feed.pick(0, t_us, epoch=0)
        span = (t_us - WINDOW_US, t_us)
        expected = detector.representation(EventWindow(within(span), *span))
        assert torch.equal(sample.x, expected) and sample.is_start
        assert sample.targets is not None  # both boxes, although they are of one track
        assert sample.targets.xyxy[:, 2:].tolist() == [[90, 90], [91, 91]]
        assert sample.targets.class_id.tolist() == [0, 1]
    assert float(feed.pick(0, TIMES[0], epoch=0).x.sum()) > 100


def test_what_is_seen_is_what_the_model_makes_of_these_windows(dataset, detector):
    for rule in (LABEL, LOOKBACK):
        (outcome,) = evaluate_detector(detector, dataset, REGISTRY, named_protocol("none"), rule=rule).outcomes
        assert outcome.at_labels and outcome.set_end_us.tolist() == list(TIMES) and not outcome.resets
        result = outcome.result(named_protocol("none"))
        found = 0
        for t_us, span, events in zip(TIMES, spans(rule), outcome.set_events, strict=True):
            seen, _ = detector.infer(detector.represent(EventWindow(within(span), *span)))
            rows = result.t_us == t_us
            assert np.array_equal(result.score[rows], seen[0].score) and events == len(within(span))
            assert np.array_equal(result.xywh[rows][:, :2], seen[0].xyxy[:, :2])
            found += len(seen[0])
        assert found > 10
    grid = evaluate_detector(detector, dataset, REGISTRY, named_protocol("none")).outcomes[0]
    assert not np.array_equal(grid.set_events, outcome.set_events), "the grid shows other events"


def test_rows_a_limit_and_an_earlier_run(dataset, detector, tmp_path):
    options = {"rule": LABEL, "ledger": Ledger(tmp_path)}
    two = replace(dataset, recordings=(dataset[0], replace(dataset[0], name="again")))
    alone = evaluate_detector(detector, two, REGISTRY, named_protocol("none"), **options)
    side = evaluate_detector(detector, two, REGISTRY, named_protocol("none"), rule=LABEL, rows=2)
    for a, b in zip(alone.outcomes, side.outcomes, strict=True):
        assert np.array_equal(a.score, b.score) and len(a.score) and np.array_equal(a.end_us, b.end_us)
    again = evaluate_detector(detector, two, REGISTRY, named_protocol("none"), **options)
    assert again.reused == 2 and again.outcomes[0].at_labels
    assert np.array_equal(again.outcomes[1].score, alone.outcomes[1].score)
    other = evaluate_detector(detector, two, REGISTRY, named_protocol("none"), ledger=Ledger(tmp_path))
    assert other.reused == 0 and not other.outcomes[0].at_labels
    few = evaluate_detector(detector, dataset, REGISTRY, named_protocol("none"), rule=LABEL, max_windows=3).outcomes[0]
    assert few.set_end_us.tolist() == list(TIMES[:3]) and len(few.truth) == 6


def test_whole_recordings_and_their_ends():
    events = drive()
    last = int(events.t[-1])
    whole = recording_window(events)
    assert same_events(whole.events, events) and (whole.t_start_us, whole.t_end_us) == (0, last + 1)
    end = recording_window(events, 50_000)
    assert same_events(end.events, within((last - 49_999, last + 1))) and len(end.events) > 100
    assert end.t_end_us - end.t_start_us == 50_000
    nothing = recording_window(events[:0])
    assert len(nothing.events) == 0 and nothing.t_end_us > nothing.t_start_us
    assert label_window(lambda start, stop: events[:0], 0, 10).t_end_us == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "labels"}, "windows: expected grid, label, recording, recording_end, got 'labels'"),
        ({"kind": "recording", "lookback": True}, "lookback: expected windows: label"),
    ],
)
def test_rules_that_there_are_not(options, words):
    with pytest.raises(SpecError, match=words):
        WindowRule(**options)


def test_what_does_not_fit_is_refused(dataset, detector, root, tmp_path):
    with pytest.raises(SpecError, match="windows: label cuts windows that do not follow one another.*is carry"):
        evaluate_detector(tiny_on_gen1(), dataset, REGISTRY, named_protocol("none"), rule=LABEL)
    with pytest.raises(EventDataError, match="drive: windows: recording takes a recording as one sample.*8 times"):
        survey(dataset, WINDOW_US, WindowRule("recording"))
    with pytest.raises(EventDataError, match="8 times"):
        rule = WindowRule("recording_end")
        evaluate_detector(detector, dataset, REGISTRY, named_protocol("none"), rule=rule)
    config = small_run(root)
    with pytest.raises(SpecError, match="windows: label .*state_policy is carry"):
        train(replace(config, data=replace(config.data, windows="label")), REGISTRY, tmp_path / "run")


def test_packets_are_refused():
    class Bag(Recording):
        path, size, is_packets = "a_bag", GEN1, True

        @staticmethod
        def claims(path):
            return False

    with pytest.raises(EventDataError, match="a_bag: windows: label needs a recording that can be read from any time"):
        LabelWindows(Bag(), REGISTRY, WINDOW_US, LABEL)


@pytest.fixture
def _threads_as_before(monkeypatch):
    """Commands bound the threads of their process; the next test has its own."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads_as_before")
def test_the_command_says_how_windows_were_cut(root, detector, tmp_path, capsys):
    save_checkpoint(tmp_path / "tiny.safetensors", detector)
    options = ["--plugin", str(TINY), "--data", f"gen1:{root}", "--protocol", "none", "--quick", "--json"]

    def told(*more: str) -> dict:
        capsys.readouterr()
        assert main([str(tmp_path / "tiny.safetensors"), *options, *more]) == 0
        return json.loads(capsys.readouterr().out)

    plain, label = told(), told("--windows", "label", "--lookback")
    assert rule_told(label) == ("label", True, "asked for") and rule_told(plain) == ("grid", False, "by default")
    assert label["data"]["events"] == sum(len(within(span)) for span in spans(LOOKBACK)) != plain["data"]["events"]
    assert label["scores"]["detections"] > 10
    assert main([str(tmp_path / "tiny.safetensors"), *options, "--lookback"]) == 1
    assert "lookback: expected windows: label" in capsys.readouterr().err
    assert main(["--detections", "some.jsonl", "--windows", "label", *options]) == 2
    assert "--windows is for a MODEL" in capsys.readouterr().err


def rule_told(values: dict) -> tuple:
    return tuple(values["settings"][name] for name in ("windows", "lookback", "windows_from"))


@pytest.mark.usefixtures("_threads_as_before")
@pytest.mark.slow
def test_the_command_cuts_windows_as_the_weights_were_trained(root, detector, tmp_path, capsys):
    trained = {"config": {"data": {"windows": "label", "lookback": True}}}
    path = tmp_path / "trained.safetensors"
    save_checkpoint(path, detector, run=trained)
    options = ["--plugin", str(TINY), "--data", f"gen1:{root}", "--protocol", "none", "--quick"]

    def told(*more: str) -> dict:
        capsys.readouterr()
        assert main([str(path), *options, "--json", *more]) == 0
        return json.loads(capsys.readouterr().out)

    own, grid, plain = told("-o", str(tmp_path / "report")), told("--windows", "grid"), told("--no-lookback")
    assert rule_told(own) == ("label", True, "as the checkpoint was trained")
    assert rule_told(grid) == ("grid", False, "asked for") and rule_told(plain) == ("label", False, "asked for")
    assert own["data"]["events"] == sum(len(within(span)) for span in spans(LOOKBACK)) != grid["data"]["events"]
    assert plain["data"]["events"] == sum(len(within(span)) for span in spans(LABEL)) != own["data"]["events"]
    report = (tmp_path / "report" / "report.md").read_text("utf-8")
    assert "Windows: ending at each label time with look-back (as the checkpoint was trained)." in report
    capsys.readouterr()
    assert main([str(path), *options]) == 0
    assert "ending at each label time with look-back (as the checkpoint was trained)" in capsys.readouterr().out


IMPORTED = {"report": {"windows": {"windows": "label"}}}


@pytest.mark.parametrize(
    ("run", "policy", "asked", "expected"),
    [
        ({}, "per_window", {}, ("grid", False, BY_DEFAULT)),
        ({"config": {"data": {"windows": "recording"}}}, "per_window", {}, ("recording", False, OF_RUN)),
        (
            {"config": {"data": {"windows": "label"}}},
            "carry",
            {},
            ("grid", False, "trained with windows: label, which"),
        ),
        ({"config": {"data": {"windows": "grid"}}, **IMPORTED}, "per_window", {}, ("grid", False, OF_RUN)),
        (IMPORTED, "per_window", {}, ("label", False, OF_IMPORT)),
        (IMPORTED, "per_window", {"lookback": True}, ("label", True, BY_HAND)),
        (IMPORTED, "per_window", {"kind": "grid"}, ("grid", False, BY_HAND)),
        (IMPORTED, "per_window", {"has_windows": True}, ("grid", False, OF_DATA)),
        ({"config": "text", "report": {"windows": []}}, "per_window", {}, ("grid", False, BY_DEFAULT)),
        ({"config": {"data": {"windows": "of a later version"}}}, "per_window", {}, ("grid", False, BY_DEFAULT)),
        ({"config": {"data": {"windows": 7}}}, "per_window", {}, ("grid", False, BY_DEFAULT)),
    ],
)
def test_which_rule_is_in_force(run, policy, asked, expected):
    chosen = choose_rule(run, policy, **asked)
    assert (chosen.rule.kind, chosen.rule.lookback) == expected[:2] and chosen.origin.startswith(expected[2])


def test_look_back_without_labels_is_refused():
    with pytest.raises(SpecError, match="lookback: expected windows: label"):
        choose_rule({}, "per_window", lookback=True)


class Losses(Silent):
    def __init__(self):
        self.seen = []

    def on_step(self, report):
        self.seen.append(sum(report.losses.values()))


def test_training_on_windows_that_end_at_labels_learns(registry, tmp_path):
    moving_boxes(tmp_path, "train", recordings=3, length_us=1_000_000)
    moving_boxes(tmp_path, "val", recordings=1, length_us=500_000, seed=3)
    config = small_run(tmp_path, mode="windows", lanes=2, epochs=10, lr=5e-3)
    config = replace(config, data=replace(config.data, windows="label"))
    assert run_digest(config) != run_digest(replace(config, data=replace(config.data, windows="grid")))
    losses = Losses()
    result = train(config, registry, tmp_path / "run", observer=losses)
    assert len(losses.seen) == 60
    assert sum(losses.seen[-8:]) < 0.5 * sum(losses.seen[:8])
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert any(line["kind"] == "validation" for line in lines)
