"""A plugin of several files."""

from snn_perception.api import Component, hookimpl

from .part import Part


@hookimpl
def snn_neurons():
    return [Component("packaged", Part, "from a package folder")]
