import itertools

import numpy as np
import pytest

from snn_perception.training.plan import LanePlan, SamplePlan, look_ahead


def walk(plan: LanePlan, lane: int, steps: int) -> list[tuple[int, int, int]]:
    entries = [plan.at(lane, step) for step in range(steps)]
    return [(entry.recording, entry.epoch, step - entry.start) for step, entry in enumerate(entries)]


def test_each_recording_is_followed_whole_and_once_in_each_pass():
    lengths = [7, 3, 5, 9, 2]
    plan = LanePlan(lengths, lanes=2, seed=1)
    seen = list(itertools.chain.from_iterable(walk(plan, lane, 200) for lane in range(2)))
    for epoch in range(3):
        for recording, length in enumerate(lengths):
            windows = [w for r, e, w in seen if (r, e) == (recording, epoch)]
            assert windows == list(range(length))


def test_lanes_never_wait_and_an_epoch_is_as_long_as_the_set():
    plan = LanePlan([10, 20, 30], lanes=4, seed=0)
    assert plan.steps_per_epoch == 15
    for lane in range(4):
        rows = walk(plan, lane, 100)
        for (r, e, w), (r2, e2, w2) in itertools.pairwise(rows):
            assert (r2, e2, w2) == (r, e, w + 1) or w2 == 0


def test_a_later_start_sees_the_same():
    whole = walk(LanePlan([4, 6, 3], lanes=2, seed=5), 1, 60)
    later = LanePlan([4, 6, 3], lanes=2, seed=5)
    assert [(e.recording, e.epoch, 37 - e.start) for e in [later.at(1, 37)]] == [whole[37]]


def test_the_order_depends_on_the_seed_and_the_pass():
    orders = [[r for r, _, w in walk(LanePlan([1] * 20, lanes=1, seed=seed), 0, 40) if w == 0] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][:20] != orders[0][20:]


def test_a_step_that_lies_behind_is_refused():
    plan = LanePlan([2, 2], lanes=1, seed=0)
    plan.at(0, 9)
    with pytest.raises(ValueError, match="lies behind"):
        plan.at(0, 1)


@pytest.mark.parametrize("lengths", [[], [3, 0]])
def test_nothing_to_follow_is_refused(lengths):
    with pytest.raises(ValueError, match="at least one window"):
        LanePlan(lengths, lanes=1, seed=0)


def test_samples_come_once_in_each_pass():
    plan = SamplePlan(10, rows=4, seed=3)
    drawn = [plan.at(row, step) for step in range(15) for row in range(4)]
    for epoch in range(6):
        assert sorted(sample for sample, e in drawn if e == epoch) == list(range(10))
    again = SamplePlan(10, rows=4, seed=3)
    assert [again.at(row, 9) for row in range(4)] == drawn[36:40]


def test_look_ahead_tells_the_distance_to_the_next_label_within_reach():
    labelled = [False, False, False, True, False, True]
    seen = list(look_ahead(iter(labelled), 2))
    assert seen == [(False, None), (False, 2), (False, 1), (True, 0), (False, 1), (True, 0)]


def test_look_ahead_agrees_with_a_plain_search():
    rng = np.random.default_rng(0)
    labelled = (rng.random(200) < 0.1).tolist()
    for reach in (0, 1, 10):
        for at, (is_labelled, distance) in enumerate(look_ahead(iter(labelled), reach)):
            ahead = [k for k in range(reach + 1) if at + k < 200 and labelled[at + k]]
            assert (is_labelled, distance) == (labelled[at], ahead[0] if ahead else None)
