"""SSD detection head (Liu et al., ECCV 2016) with sigmoid classes, as the no-reset spiking detectors use it.

anchors      default boxes of all feature maps
coder        boxes <-> codes relative to a default box
matching     which default box answers for which ground truth
losses       smooth L1 and focal loss over a batch
connections  an option: spiking connections from each level to the next
head         the convolutions, and codes and scores to detections
"""

from snn_perception.api import Component, hookimpl

from .head import SSDHead


@hookimpl
def snn_heads() -> list[Component]:
    return [Component("ssd", SSDHead, "single-shot detector: default boxes, sigmoid classes, no background class")]
