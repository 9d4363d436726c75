"""Contract checks for plugin authors, and small inputs to run them on.

A test of a plugin is one line, ``check_neuron(MyNeuron)``; this package runs the same checks on every component that
is registered. They raise AssertionError with a sentence that says what is expected and what came.

What they check is that state is a value: two pieces equal one, rows and streams do not touch each other, rest is zero,
nothing is kept between calls, membranes are at least float32, and gradients pass every spiking layer. All of it while
every spiking layer fires, since a silent network would pass anything.

    firing   which layers spike, how often, and how to wake them
    inputs   small event windows and sparse tensors
    steps    the checks that hold for any ``(input, state) -> (output, state)``
    checks   one check for each kind of component of a model
    datasets the check of a data set
"""

from snn_perception.testing.checks import check_backbone, check_head, check_neuron, check_representation
from snn_perception.testing.datasets import check_dataset
from snn_perception.testing.firing import FiringMeter, spiking_layers, wake
from snn_perception.testing.inputs import event_window, sparse_input
from snn_perception.testing.steps import check_step

__all__ = [
    "FiringMeter",
    "check_backbone",
    "check_dataset",
    "check_head",
    "check_neuron",
    "check_representation",
    "check_step",
    "event_window",
    "sparse_input",
    "spiking_layers",
    "wake",
]
