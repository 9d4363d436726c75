"""Offers a neuron under a name that `good` uses too."""

from torch import nn

from snn_perception.api import Component, hookimpl


class Other(nn.Module):
    """Another thing of the same name."""


@hookimpl
def snn_neurons():
    return [Component("good_if", Other)]
