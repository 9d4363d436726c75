"""Evaluation through an engine: the detector's scores, by whichever engine runs its network."""

import json

import numpy as np
import pytest
import torch

from snn_perception.checkpoint import load_checkpoint, save_checkpoint
from snn_perception.cli.evaluate import main
from snn_perception.engine.choose import build_engine, engine_label
from snn_perception.engine.engines import DetectorEngine, Settings
from snn_perception.errors import SpecError
from snn_perception.evaluation.protocol import named_protocol
from snn_perception.evaluation.run import evaluate_detector
from snn_perception.runtime.rows import step_rows
from snn_perception.work import Ledger, make_executor
from tests.engine_support import leaves, tiny_detector
from tests.evaluate_support import shapes_set, shapes_tree, tiny_on_gen1
from tests.runtime_support import TINY, tiny_registry

REGISTRY = tiny_registry()
PROTOCOL = named_protocol("gen1")
GATE = 0.005  # of AP


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a set, a checkpoint and its evaluation by the detector itself."""
    folder = tmp_path_factory.mktemp("engines")
    shapes_tree(folder / "set")
    save_checkpoint(folder / "tiny.safetensors", tiny_on_gen1())
    return folder


@pytest.fixture(scope="module")
def dataset(place):
    return shapes_set(place / "set", REGISTRY)


@pytest.fixture(scope="module")
def detector(place):
    return load_checkpoint(place / "tiny.safetensors", registry=REGISTRY).eval()


@pytest.fixture(scope="module")
def plain(detector, dataset):
    return evaluate_detector(detector, dataset, REGISTRY, PROTOCOL)


class Forgetful(DetectorEngine):
    """Starts every window from rest."""

    def __call__(self, x, state=None, keep=None, active=None):
        return super().__call__(x, None, keep, active)


def command(folder, *arguments):
    chosen = ["--plugin", str(TINY), str(folder / "tiny.safetensors"), "--data", f"gen1:{folder / 'set'}"]
    return main([*chosen, *map(str, arguments)])


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("name", ["eager", "native"])
def test_scores_are_the_detectors(name, rows, detector, dataset, plain, tmp_path):
    engine = build_engine(name, detector, Settings(cache=tmp_path))
    found = evaluate_detector(detector, dataset, REGISTRY, PROTOCOL, engine=engine, rows=rows)
    assert found.engine == name and plain.engine == "detector"
    assert abs(found.scores.stats["AP"] - plain.scores.stats["AP"]) < GATE
    for one, other in zip(found.outcomes, plain.outcomes, strict=True):
        assert one.windows == other.windows and abs(len(one.score) - len(other.score)) <= 0.02 * len(other.score)
        assert len(other.score) > 100 and abs(float(one.score.sum() - other.score.sum())) < 0.01 * other.score.sum()


def test_the_engine_runs_every_window_with_the_streams_own_state(detector, dataset, plain):
    forgetful = evaluate_detector(detector, dataset, REGISTRY, PROTOCOL, engine=Forgetful(detector, "eager"), rows=2)
    same = [
        len(one.score) == len(other.score) and np.allclose(one.score, other.score)
        for one, other in zip(forgetful.outcomes, plain.outcomes, strict=True)
    ]
    assert not any(same), "membranes are of no account here, or the engine was not asked"


def test_workers_build_their_own_by_its_name(detector, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("SNN_PERCEPTION_CACHE", str(tmp_path))
    engine = build_engine("eager", detector)
    here = evaluate_detector(detector, dataset, REGISTRY, PROTOCOL, engine=engine)
    with make_executor("serial", 1) as executor:
        there = evaluate_detector(detector, dataset, REGISTRY, PROTOCOL, engine=engine, executor=executor)
    assert here.engine == there.engine == "eager" and here.scores.stats == there.scores.stats
    for one, other in zip(here.outcomes, there.outcomes, strict=True):
        assert len(one.score) > 100
        np.testing.assert_array_equal(one.score, other.score)


def test_outcomes_of_another_engine_are_not_taken_for_the_detectors(detector, dataset, tmp_path):
    ledger = Ledger(tmp_path)
    engine = build_engine("eager", detector)
    reused = [
        evaluate_detector(detector, dataset, REGISTRY, PROTOCOL, ledger=ledger, engine=one).reused
        for one in (None, engine, DetectorEngine(detector), engine)
    ]
    assert reused == [0, 0, 3, 3]


def test_what_an_engine_does_not_do_is_refused(detector, dataset):
    class Other:
        name, precision = "onnxruntime", "fp32"

    assert engine_label(Other()) == "onnxruntime"
    with pytest.raises(SpecError, match="engine onnxruntime: takes up to 16 rows in a batch, got 17"):
        evaluate_detector(detector, dataset, REGISTRY, PROTOCOL, engine=Other(), rows=17)
    with pytest.raises(SpecError, match="layers are not counted"):
        evaluate_detector(detector, dataset, REGISTRY, PROTOCOL, engine=Other(), measure=True)


def test_the_command_names_the_engine_and_counts_what_it_can(place, capsys, caplog):
    assert command(place, "--engine", "native", "--limit", 1, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["settings"]["engine"] == "native" and values["latency"]["windows"] > 0
    assert values["firing"] is None and "no firing rates" in caplog.text
    assert command(place, "--engine", "eager", "--limit", 1) == 0
    out = capsys.readouterr().out
    assert "engine: eager\n" in out and "sparsity: " in out


def test_the_report_names_the_engine(place, tmp_path, capsys):
    assert command(place, "--engine", "eager", "--limit", 1, "--quick", "-o", tmp_path / "report") == 0
    assert "Engine: `eager`." in (tmp_path / "report" / "report.md").read_text("utf-8")


def test_an_unknown_engine_is_one_clear_error(place, capsys):
    assert command(place, "--engine", "steam") == 1
    assert "engine: expected one of eager, detector" in capsys.readouterr().err


def test_detections_of_a_file_need_no_engine(place, capsys):
    arguments = ["--detections", str(place / "x.jsonl"), "--engine", "native", "--data", f"gen1:{place / 'set'}"]
    assert main(arguments) == 2
    assert "--engine is for a MODEL" in capsys.readouterr().err


def test_rows_of_a_batch_own_their_memory():
    """Rows that share memory would keep the membranes of all streams for as long as one of them stands still."""
    detector, inputs = tiny_detector()
    engine = DetectorEngine(detector)
    _, (one, other) = step_rows(engine, inputs[:2], [None, None], carries=True)
    for leaf, beside, x in zip(leaves(one), leaves(other), leaves(engine(inputs[0])[1]), strict=True):
        assert leaf.untyped_storage().nbytes() == leaf.numel() * leaf.element_size()
        assert leaf.untyped_storage().data_ptr() != beside.untyped_storage().data_ptr()
        assert leaf.abs().sum() > 0 and torch.allclose(leaf, x, atol=1e-6)
    assert step_rows(engine, inputs[:2], [None, None], carries=False)[1] == [None, None]
