"""Proof that training teaches: small networks learn small sets by heart, in about a minute each."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from snn_perception.cli import evaluate
from snn_perception.training.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from snn_perception.training.loop import train
from snn_perception.training.reports import Silent, ValidationReport
from tests.training_support import moving_boxes, small_run


class Scores(Silent):
    def __init__(self):
        self.seen = []

    def on_validation(self, report: ValidationReport) -> None:
        self.seen.append(report.scores)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return moving_boxes(tmp_path_factory.mktemp("boxes"), "train", recordings=2, length_us=2_000_000)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("preset", ["st_vgg_ssd_16", "rescat_ssd_16"])
@pytest.mark.parametrize("mode", ["lanes", "windows"])
def test_a_small_detector_learns_a_small_set_by_heart(data, registry, tmp_path, preset, mode):
    options = {"lanes": 2, "epochs": 140} if mode == "lanes" else {"lanes": 4, "epochs": 150}
    config = small_run(data, mode=mode, lr=3e-3, **options)
    overrides = {**config.model.overrides, "backbone": {"width": 8, "extras": [32, 32, 32]}}
    config = replace(
        config,
        model=replace(config.model, preset=preset, overrides=overrides),
        data=replace(config.data, val_split="train"),
        eval=replace(config.eval, every_epochs=config.train.epochs // 2),
    )
    scores = Scores()
    train(config, registry, tmp_path / "run", observer=scores)
    assert scores.seen[-1]["AP50"] > 0.9
    assert scores.seen[-1]["AP"] > scores.seen[0]["AP"]


def classification(data, preset: str, **options) -> RunConfig:
    return RunConfig(
        model=ModelConfig(
            preset=preset, options={"classes": ["car", "pedestrian"]}, overrides={"backbone": {"width": 8}}
        ),
        data=DataConfig(train=f"gen1_classification:{data}", val_split="train"),
        train=TrainConfig(**{"mode": "classification", "lanes": 8, "epochs": 12, "lr": 3e-3, **options}),
    )


@pytest.mark.parametrize(
    "preset", ["st_vgg_classifier_16", pytest.param("rescat_classifier_16", marks=pytest.mark.slow)]
)
def test_a_small_classifier_learns(data, registry, tmp_path, capsys, preset):
    scores = Scores()
    result = train(classification(data, preset), registry, tmp_path / "run", observer=scores)
    assert result.metric == "accuracy"
    assert result.best > 0.9
    assert scores.seen[-1]["samples"] == 32
    assert set(scores.seen[-1]["accuracy_per_class"]) == {"car", "pedestrian"}
    capsys.readouterr()
    command = [str(result.best_checkpoint), "--data", f"gen1_classification:{data}", "--split", "train", "--json"]
    assert evaluate.main([*command, "-o", str(tmp_path / "report")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["scores"]["accuracy"] == result.best
    assert 0.01 < told["firing"]["sparsity"] < 0.9 and not told["firing"]["dead"]
    assert json.loads((tmp_path / "report" / "metrics.json").read_text()) == told


def test_a_classifier_goes_on_where_it_stopped(data, registry, tmp_path):
    from tests.test_training import StopAt, same_run

    config = classification(data, "st_vgg_classifier_16", epochs=2)
    train(config, registry, tmp_path / "whole")
    stopped = train(config, registry, tmp_path / "parts", observer=StopAt(3))
    assert stopped.stopped and stopped.steps == 3
    train(config, registry, tmp_path / "parts", resume=True)
    same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_detector_is_no_classifier_and_samples_are_no_boxes(data, registry, tmp_path):
    from snn_perception.errors import SpecError

    config = classification(data, "st_vgg_ssd_16")
    with pytest.raises(SpecError, match="this model's head finds boxes"):
        train(replace(config, model=ModelConfig(preset="st_vgg_ssd_16")), registry, tmp_path / "run")
    with pytest.raises(SpecError, match="train.mode: lanes does not fit data set 'gen1_classification'"):
        train(replace(config, train=TrainConfig()), registry, tmp_path / "other")


@pytest.mark.parametrize("preset", ["st_vgg_classifier_16"])
def test_a_samples_logits_do_not_depend_on_its_neighbours(data, registry, preset):
    from snn_perception.data.dataset import open_dataset
    from snn_perception.evaluation.classification import SampleReader, summed_logits
    from snn_perception.training.model import make_detector

    detector = make_detector(classification(data, preset).model, registry, seed=0).eval()
    dataset = open_dataset(f"gen1_classification:{data}", "train", registry)
    short = replace(dataset[0], piece=replace(dataset[0].piece, t_end_us=dataset[0].piece.t_start_us + 40_000))
    empty = replace(dataset[1], piece=replace(dataset[1].piece, crop_xyxy=(0, 0, 1, 1)))
    reader = SampleReader(replace(dataset, recordings=(short, empty, *dataset.recordings[2:5])), detector, registry)
    batch = reader.batch(range(5))
    assert batch.counts.tolist() == [2, 5, 5, 5, 5] and len(batch.windows) == 5
    together = summed_logits(detector, batch.windows, batch.counts)
    for row in range(5):
        alone = reader.batch([row])
        assert torch.allclose(summed_logits(detector, alone.windows, alone.counts)[0], together[row], atol=1e-5)
    longer = batch.lengthened(9)
    assert torch.equal(summed_logits(detector, longer.windows, longer.counts), together)
