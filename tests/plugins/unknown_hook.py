"""Misspells a hook."""

from snn_perception.api import Component, hookimpl


@hookimpl
def snn_neuron():
    return [Component("lost", object)]
