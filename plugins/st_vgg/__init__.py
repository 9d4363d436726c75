"""ST-VGG, a spiking VGG trained without membrane resets between windows (Cordone, PhD thesis, 2022, ch. 5).

backbone   the network
presets    the published detectors
layout     names and shapes of the authors' tensors, and ours
importer   the authors' checkpoints
"""

from functools import partial

from snn_perception.api import Component, hookimpl

from .backbone import STVGG
from .importer import no_reset_ssd
from .presets import WIDTHS, st_vgg_ssd


@hookimpl
def snn_backbones() -> list[Component]:
    return [Component("st_vgg", STVGG, "thin spiking VGG, norm before convolution, strides 8 to 256")]


@hookimpl
def snn_presets() -> list[Component]:
    return [
        Component(f"st_vgg_ssd_{width}", partial(st_vgg_ssd, width), f"{width}-ST-VGG+SSD on GEN1, 50 ms windows")
        for width in WIDTHS
    ]


@hookimpl
def snn_checkpoint_importers() -> list[Component]:
    return [Component("no_reset_ssd", no_reset_ssd, "detectors of loiccordone/no-reset-object-detection-with-snn")]
