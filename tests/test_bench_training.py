"""The benchmark of training measures what it says, on a small scale; its figures are not judged here."""

import torch

from tools.bench_training import ENGINES, FUSED, PLAIN, Job, _child, bench, page
from tools.training_loops import Loop, active_share, awake, windows

PRESET = "st_vgg_ssd_16"


def test_every_section_is_measured_and_told():
    threads = torch.get_num_threads()
    try:
        report = bench((PRESET,), (1,), (1, 2), repeats=1, long=0)
    finally:
        torch.set_num_threads(threads)
    assert [step.job.engine for step in report.steps] == list(ENGINES)
    kept = {(step.job.engine, step.job.kept): step.kept_mb for step in report.growth}
    assert kept[FUSED, 1] < kept[PLAIN, 1] and kept[FUSED, 1] < kept[FUSED, 2] < kept[PLAIN, 2]
    assert min(report.firing[f"{PRESET}, batch 1"].values()) > 0.005
    text = page(report)
    assert all(f"| {engine} |" in text for engine in ENGINES) and all(f"| {row.name} |" in text for row in report.parts)


def test_loops_train_alike():
    """From the same weights and windows the losses agree: only the way to compute them differs."""
    inputs = windows(1, 240, 304)
    assert 0.06 < active_share(inputs) < 0.1 and set(inputs[0].unique().tolist()) == {0.0, 1.0}
    weights = awake(PRESET, inputs)
    loops = [Loop(engine, weights, inputs) for engine in ENGINES]
    losses = torch.tensor([[loop.run() for loop in loops] for _ in range(2)])
    torch.testing.assert_close(losses, losses[:, :1].expand_as(losses), rtol=1e-3, atol=0)
    assert all(loop.state is not None for loop in loops)


def test_a_long_run_tells_its_peak():
    threads = torch.get_num_threads()
    try:
        found = _child(Job(PRESET, 1, windows=52))
    finally:
        torch.set_num_threads(threads)
    assert 0 < found["early_mib"] <= found["peak_mib"] and found["cpu_ms"] > 0
