"""EAS-SNN (Wang et al., ECCV 2024): a learned, adaptive sampler of events and a spiking YOLOX behind it.

samplers    micro-bins to frames (with sampler_*, thin_conv)
layers      units of convolution, norm and neuron, and the blocks that they form
darknet     the trunk
pafpn       the neck
backbone    sampler, trunk and neck as one backbone
head        predictions
points      cells of the maps, and the boxes that codes mean at them
decoding    predictions to detections
assignment  which cell answers for which object (SimOTA)
losses      the losses of a batch
presets     the published networks
classes     names of their classes
keys        names and shapes of the authors' tensors, and ours
reading     what a checkpoint's names and shapes tell of its network
importer    the authors' checkpoints
"""

from functools import partial

from snn_perception.api import Component, hookimpl

from .backbone import EASBackbone
from .head import YOLOXHead
from .importer import eas_snn_importer
from .presets import SIZES, gen1_preset, ncaltech_preset, one_mpx_preset


@hookimpl
def snn_backbones() -> list[Component]:
    return [Component("eas_snn", EASBackbone, "adaptive sampler, spiking CSPDarknet and PAFPN, strides 8, 16 and 32")]


@hookimpl
def snn_heads() -> list[Component]:
    return [Component("yolox", YOLOXHead, "decoupled anchor-free head, with or without neurons; SimOTA in training")]


@hookimpl
def snn_presets() -> list[Component]:
    reaches = {"use_spike": "trunk", "full_spike": "trunk and neck", "full_spike_v2": "trunk, neck and head"}
    presets = []
    for size in ("s", "m"):
        depth, width = SIZES[size]["depth_factor"], SIZES[size]["width_factor"]
        for mode, reach in reaches.items():
            factory = partial(gen1_preset, mode=mode, depth_factor=depth, width_factor=width)
            summary = f"EAS-SNN-{size.upper()} on GEN1, 200 ms windows, neurons in {reach}"
            presets.append(Component(f"eas_snn_{size}_{mode}", factory, summary))
    summary = "EAS-SNN-M on 1Mpx at half size (full by option), 200 ms windows, neurons in trunk"
    presets.append(Component("eas_snn_m_1mpx", one_mpx_preset, summary))
    summary = "EAS-SNN-M on N-Caltech101, 300 ms windows, neurons in stem and trunk"
    presets.append(Component("eas_snn_m_ncaltech", ncaltech_preset, summary))
    return presets


@hookimpl
def snn_checkpoint_importers() -> list[Component]:
    return [Component("eas_snn", eas_snn_importer, "detectors of Windere/EAS-SNN, branches main and ncaltech-rep")]
