"""SpikeYOLO: integer-valued training and spike-driven inference (Luo et al., ECCV 2024), on events and on images.

neuron      I-LIF, in both published forms
units       convolutions with their norms, and a neuron with a convolution
blocks      what the layers are made of
backbone    layers 1 to 25, the neck included
head        the branches, and their output to losses and detections
decoding    raw outputs to boxes, and suppression
assignment  which anchor answers for which ground truth
losses      complete IoU, distribution focal loss and cross-entropy
presets     the published networks
keys        names of the authors' tensors, and ours
shapes      what the tensors of a file tell of its network
trees       which of the two source trees a file comes from, and so which neuron
importer    the authors' checkpoints
probing     a check that a network fires as its weights need it
"""

from functools import partial

from snn_perception.api import Component, hookimpl

from .backbone import SpikeYOLO
from .head import SpikeYOLOHead
from .importer import NAME, Importer
from .neuron import ILIF
from .presets import SCALES, coco_preset, gen1_preset


@hookimpl
def snn_neurons() -> list[Component]:
    return [Component("ilif", ILIF, "integer leaky integrate-and-fire: up to D spikes in one step (SpikeYOLO)")]


@hookimpl
def snn_backbones() -> list[Component]:
    return [Component("spikeyolo", SpikeYOLO, "SpikeYOLO with its neck, strides 8 to 32, sides in multiples of 32")]


@hookimpl
def snn_heads() -> list[Component]:
    return [Component("spikeyolo", SpikeYOLOHead, "anchor-free: distributions of distances to the sides (YOLOv8)")]


@hookimpl
def snn_presets() -> list[Component]:
    images = [
        Component(
            f"spikeyolo_{scale}_coco", partial(coco_preset, **options), f"SpikeYOLO-{scale.upper()} on COCO images"
        )
        for scale, options in SCALES.items()
    ]
    events = Component("spikeyolo_s_gen1", gen1_preset, "SpikeYOLO-S on GEN1, 250 ms in two ternary images")
    return [*images, events]


@hookimpl
def snn_checkpoint_importers() -> list[Component]:
    return [Component(NAME, Importer, "checkpoints of BICLab/SpikeYOLO, COCO and GEN1 tree")]
