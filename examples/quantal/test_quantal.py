"""The contract of a neuron, from the host's own checks, and what is special about this one."""

import torch
from snn_perception_quantal import Quantal

from snn_perception.testing import check_neuron


def test_contract():
    check_neuron(Quantal)


def test_release_is_random_in_training_and_its_mean_in_evaluation():
    torch.manual_seed(0)
    neuron, current = Quantal(release=0.5, v_threshold=100.0), torch.ones(10, 1, 1000)
    _, v = neuron.train()(current)
    assert abs(v.mean() - 5) < 0.2 and v.std() > 1
    _, v = neuron.eval()(current)
    assert (v == 5).all()
