"""Forgets the decorator, so that nothing is declared."""

from snn_perception.api import Component


def snn_neurons():
    return [Component("forgotten", object)]
