"""What every engine owes, as checks of (engine, oracle, inputs); and small detectors whose every layer fires."""

import pytest
import torch
from torch import nn

from snn_perception import build_preset, load_registry
from snn_perception.engine.engines import EagerEngine, Settings
from snn_perception.engine.parity import compare
from snn_perception.engine.probe import synthetic_inputs
from snn_perception.state import clone, named_leaves, split_rows, stack_rows
from snn_perception.testing import wake
from tests.paths import ROOT

WINDOWS = 30
# Small forms of the families with several steps in a window, as (preset, options).
STEPPED = [
    ("spikeyolo_s_gen1", {"network_size": [64, 64], "width_factor": 0.125, "steps": 2}),
    ("eas_snn_s_use_spike", {"network_size": [64, 64], "steps": 2}),
]
ST_VGG = ("st_vgg_ssd_16", {"height": 48, "width": 64})


class WithTuple(nn.Module):
    """The tiny head, whose raw output is a tuple as the engines need it."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, maps, state):
        raw, state = self.head(maps, state)
        return tuple(raw), state


def awake(detector):
    """Return a detector of which every spiking layer fires in every window, and windows for it."""
    inputs = synthetic_inputs(detector, WINDOWS)
    wake(detector, inputs[:6])
    return detector, inputs


def tiny_detector():
    """Return the tiny detector and windows for it."""
    registry = load_registry([ROOT / "tests" / "plugins" / "tiny.py"], environment=False)
    detector = build_preset("tiny", registry=registry, window_us=50_000)
    detector.head = WithTuple(detector.head)
    return awake(detector)


def awake_preset(preset, options, registry):
    """Return a preset's detector of which every layer fires, and windows for it."""
    return awake(build_preset(preset, registry=registry, **options))


def exported(detector, path):
    """Return the path of a detector's exported step."""
    from snn_perception.engine.export import export_onnx

    export_onnx(detector, path)
    return path


def assert_has_the_detectors_numbers(engine, detector, inputs):
    """Rounding alone tells an engine from the network itself, each window from the network's own state."""
    parity = compare(engine, EagerEngine(detector), inputs)
    assert parity.windows == len(inputs) and parity.clean >= len(inputs) - 2
    assert parity.flips < 1e-5 and parity.raw_error < 1e-3


def check_a_second_start_makes_nothing(build, settings, inputs, forbidden, monkeypatch):
    """An engine whose parts are in the cache is built without making them, and gives the same bits.

    Args:
        build: makes the engine from settings. forbidden: dotted name of what would make the parts.
    """
    first = build(settings)
    monkeypatch.setattr(forbidden, lambda *given, **more: pytest.fail("made again"))
    told = []
    again = build(Settings(cache=settings.cache, on_stage=told.append))
    assert told == [] and equal(first(inputs[0])[1], again(inputs[0])[1])
    left = [path.name for path in settings.cache.iterdir()]
    assert left and not [name for name in left if name.startswith(".")], "what was being made is gone"


def oracle(detector, x):
    return EagerEngine(detector)


def leaves(tree):
    return [leaf for _, leaf in named_leaves(tree)]


def run(engine, inputs, state=None):
    raw = None
    for x in inputs:
        raw, state = engine(x, state)
    return raw, state


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


def close(a, b, tolerance=1e-4):
    return all(torch.allclose(x, y, atol=tolerance) for x, y in zip(leaves(a), leaves(b), strict=True))


def largest_difference(a, b):
    return max(float((x - y).abs().max()) for x, y in zip(leaves(a), leaves(b), strict=True))


def check_carried_windows_have_the_detectors_numbers(engine, eager, inputs):
    parity = compare(engine, eager, inputs)
    assert parity.windows == WINDOWS and parity.clean >= WINDOWS - 1
    assert parity.flips < 1e-6 and parity.membrane_error < 1e-4 and parity.raw_error < 1e-3


def check_the_state_counts(engine, _, inputs):
    _, state = run(engine, inputs[:5])
    assert largest_difference(engine(inputs[5], state)[0], engine(inputs[5], None)[0]) > 1e-2


def check_a_state_from_another_engine_is_taken_over_and_given_back(engine, eager, inputs):
    _, before = run(eager, inputs[:4])
    kept = clone(before)
    _, ours = run(engine, inputs[4:6], before)
    assert equal(before, kept), "a state that is given in is left as it was"
    _, theirs = run(eager, inputs[4:6], before)
    assert close(ours, theirs)
    assert close(eager(inputs[6], ours)[0], eager(inputs[6], theirs)[0], 1e-3)


def check_what_is_given_out_stays_as_it_is(engine, _, inputs):
    raw, state = run(engine, inputs[:2])
    kept = clone(raw), clone(state)
    run(engine, inputs[2:5], state)
    assert equal(raw, kept[0]) and equal(state, kept[1])


def check_resets_have_the_same_bits(engine, _, inputs):
    raw, state = engine(inputs[3], None)
    _, other = run(engine, inputs[5:9])
    again, again_state = engine(inputs[3], None)
    assert equal(raw, again) and equal(state, again_state)
    by_keep, by_keep_state = engine(inputs[3], other, torch.zeros(1))
    assert equal(raw, by_keep) and equal(state, by_keep_state)
    assert not equal(state, engine(inputs[3], other)[1])


def check_leaks_and_idle_rows_are_numbers(engine, eager, inputs):
    x = torch.cat(inputs[6:9], dim=1)
    state = stack_rows([run(eager, inputs[k : k + 3])[1] for k in (0, 3, 9)])
    keep, active = torch.tensor([0.5, -2.0, 1.0]), torch.tensor([True, True, False])
    (_, expected), (_, got) = eager(x, state, keep, active), engine(x, state, keep, active)
    assert close(expected, got)
    assert not close(got, engine(x, state)[1])
    for before, after in zip(leaves(state), leaves(got), strict=True):
        assert torch.equal(before[2], after[2]), "an idle row keeps its membranes to the bit"


def check_three_streams_in_a_batch_are_three_streams(engine, _, inputs):
    singles = [run(engine, inputs[k : k + 4]) for k in (0, 4, 8)]
    raw, together = run(engine, [torch.cat([inputs[k + t] for k in (0, 4, 8)], dim=1) for t in range(4)])
    for (_, own), row in zip(singles, split_rows(together, 3), strict=True):
        assert close(own, row)
    assert close(raw, stack_rows([own_raw for own_raw, _ in singles]), 1e-3)


def check_states_of_another_model_or_batch_are_refused(engine, _, inputs):
    _, state = engine(inputs[0], None)
    with pytest.raises(ValueError, match="does not fit"):
        engine(torch.cat(inputs[:2], dim=1), state)
    with pytest.raises(ValueError, match="does not fit"):
        engine(inputs[0], {"backbone": state["backbone"][:-1], "head": None})


def check_inputs_of_another_size_are_refused(engine, _, inputs):
    with pytest.raises(ValueError, match="x: expected float32"):
        engine(inputs[0][..., :-1])
    with pytest.raises(ValueError, match=r"x: expected"):
        engine(torch.cat([inputs[0]] * 17, dim=1))
    with pytest.raises(ValueError, match="keep, active"):
        engine(inputs[0], None, torch.ones(2))


CHECKS = [
    check_carried_windows_have_the_detectors_numbers,
    check_the_state_counts,
    check_a_state_from_another_engine_is_taken_over_and_given_back,
    check_what_is_given_out_stays_as_it_is,
    check_resets_have_the_same_bits,
    check_leaks_and_idle_rows_are_numbers,
    check_three_streams_in_a_batch_are_three_streams,
    check_states_of_another_model_or_batch_are_refused,
    check_inputs_of_another_size_are_refused,
]
