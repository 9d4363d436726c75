"""Expects an argument that the hook does not have."""

from snn_perception.api import Component, hookimpl


@hookimpl
def snn_neurons(registry):
    return [Component("asking", object)]
