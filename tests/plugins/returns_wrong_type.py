"""Hands over a class where a Component is wanted."""

from snn_perception.api import hookimpl


class Neuron:
    """Not wrapped in a Component."""


@hookimpl
def snn_neurons():
    return [Neuron]
