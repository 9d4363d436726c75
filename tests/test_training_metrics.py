"""Figures of a run: the file of JSON lines, the TensorBoard file behind a stand-in, and the estimate of memory."""

import logging
import sys
from types import ModuleType

import pytest
import torch

from snn_perception.errors import SnnPerceptionError
from snn_perception.training.config import ModelConfig, TrainConfig
from snn_perception.training.memory import estimate_memory, saved_for_backward
from snn_perception.training.metrics import MetricsLog, TensorBoardSink, read_metrics
from snn_perception.training.model import make_detector
from tests.runtime_support import file_size_limit

# JSON lines


def test_lines_are_in_the_file_as_soon_as_they_are_written(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write({"step": 1, "losses": {"box": 0.5}})
        assert read_metrics(path) == [{"step": 1, "losses": {"box": 0.5}}]
        log.write({"step": 2, "bad": [float("nan"), float("inf")], "tuple": (1, 2.5)})
        assert log.lines == 2
    log.close()
    with MetricsLog(path) as log:
        log.write({"step": 3})
    assert read_metrics(path)[1:] == [{"step": 2, "bad": [None, None], "tuple": [1, 2.5]}, {"step": 3}]


def test_half_a_line_of_a_killed_process_is_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"ste')
    assert [line["step"] for line in read_metrics(path)] == [1, 2]
    with MetricsLog(path) as log:
        assert log.lines == 2
        log.write({"step": 3})
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n{"step": 3}\n'


def test_what_came_after_a_saved_state_is_taken_back(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        for step in range(10):
            log.write({"step": step, "text": "x" * step})
        log.truncate_to(4)
        assert log.lines == 4 and [line["step"] for line in read_metrics(path)] == [0, 1, 2, 3]
        log.write({"step": "four"})
        assert [line["step"] for line in read_metrics(path)] == [0, 1, 2, 3, "four"]
        with caplog.at_level(logging.WARNING):
            log.truncate_to(9)
        assert "expected 9 lines of earlier figures, there are 5" in caplog.text and log.lines == 5
        log.truncate_to(0)
        assert path.read_bytes() == b""


def test_a_full_disk_leaves_whole_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write({"step": 1})
        with file_size_limit(20), pytest.raises(SnnPerceptionError, match=r"metrics\.jsonl: cannot be written"):
            log.write({"step": 2, "text": "x" * 50})
        assert path.read_bytes() == b'{"step": 1}\n' and log.lines == 1
        log.write({"step": 2})
    assert [line["step"] for line in read_metrics(path)] == [1, 2]


def test_metrics_that_cannot_be_read_or_made_are_told(tmp_path):
    (tmp_path / "file").write_text("not json\n")
    with pytest.raises(SnnPerceptionError, match=r"file:1: expected a line of JSON"):
        read_metrics(tmp_path / "file")
    (tmp_path / "list").write_text('{"a": 1}\n[1]\n')
    with pytest.raises(SnnPerceptionError, match=r"list:2: expected a JSON object, got list"):
        read_metrics(tmp_path / "list")
    with pytest.raises(SnnPerceptionError, match="cannot be read: No such file"):
        read_metrics(tmp_path / "absent")
    with pytest.raises(SnnPerceptionError, match="cannot be written"):
        MetricsLog(tmp_path / "file" / "metrics.jsonl")


# TensorBoard


def test_a_missing_tensorboard_gives_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SnnPerceptionError, match=r"--tensorboard needs .*; pip install tensorboard$"):
        TensorBoardSink(tmp_path)


def test_figures_reach_the_event_file_under_their_names(tmp_path, monkeypatch):
    calls = []

    class SummaryWriter:
        def __init__(self, **options):
            calls.append(("open", options))

        def add_scalar(self, tag, value, global_step):
            calls.append((tag, value, global_step))

        def close(self):
            calls.append("close")

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    sink = TensorBoardSink(tmp_path)
    sink.scalars(5, {"loss": 0.5, "lr": 1e-3})
    sink.close()
    assert calls == [("open", {"log_dir": str(tmp_path)}), ("loss", 0.5, 5), ("lr", 1e-3, 5), "close"]
    TensorBoardSink(tmp_path, 40)
    assert calls[-1] == ("open", {"log_dir": str(tmp_path), "purge_step": 41}), "a resumed run hides what it redoes"


def test_a_real_event_file_holds_the_figures(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is an extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = TensorBoardSink(tmp_path)
    sink.scalars(3, {"loss": 0.25})
    sink.close()
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert [(event.step, event.value) for event in read.Scalars("loss")] == [(3, 0.25)]


# Memory


@pytest.fixture(scope="module")
def detector(registry):
    small = {"height": 60, "width": 76}
    config = ModelConfig("st_vgg_ssd_16", small, {"backbone": {"width": 4, "extras": [16, 16, 16]}})
    return make_detector(config, registry, seed=0)


def test_what_the_backward_pass_keeps_grows_by_row_and_holds_every_map(detector):
    two, four, eight = (saved_for_backward(detector, rows) for rows in (2, 4, 8))
    per_row = (four - two) / 2
    assert abs((eight - four) / 4 / per_row - 1) < 0.01
    maps = []
    handles = [
        module.register_forward_hook(lambda module, inputs, output: maps.append(output.numel() * 4))
        for module in detector.modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    detector(torch.zeros(1, 1, 2, 60, 76).expand(-1, 2, -1, -1, -1).contiguous(), None)
    for handle in handles:
        handle.remove()
    assert per_row >= sum(maps) / 2, "a neuron needs its input again: at least every convolution's output is kept"


def test_the_estimate_counts_what_a_run_holds(detector):
    held = sum(tensor.numel() * tensor.element_size() for tensor in detector.state_dict().values())
    learning = sum(parameter.numel() * 4 for parameter in detector.parameters())
    plain = estimate_memory(detector, TrainConfig(lanes=6, grad_windows=4))
    assert (plain.weights, plain.gradients, plain.moments, plain.average) == (2 * held, learning, 2 * learning, 0)
    assert plain.windows == 5
    assert plain.activations == saved_for_backward(detector, 2) // 2 * 6 * 5
    assert plain.total == sum(plain.as_dict().values()) - plain.total - plain.windows
    assert estimate_memory(detector, TrainConfig(lanes=6, ema=0.9)).average == held
    assert estimate_memory(detector, TrainConfig(lanes=6, update="chunk", chunk_windows=3)).windows == 3
    assert estimate_memory(detector, TrainConfig(lanes=6), windows=7).windows == 7


def test_a_trial_leaves_the_mode_as_it_was(detector):
    detector.eval()
    try:
        assert saved_for_backward(detector, 2) > 0
        assert not detector.training
    finally:
        detector.train()
