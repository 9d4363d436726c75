"""The field's data sets, as they lie on disk.

paired               recordings with a label file beside each: what GEN1 and 1Mpx share, RVT-preprocessed trees included
gen1                 GEN1 automotive detection (de Tournemire et al., 2020)
one_mpx              1 Mpx automotive detection (Perot et al., NeurIPS 2020)
gen1_classification  crops of GEN1's boxes
rvt                  either of these two as RVT preprocesses them (Gehrig and Scaramuzza, CVPR 2023), nothing else
ncars                N-CARS, cars and background (Sironi et al., CVPR 2018)
ncaltech101          N-Caltech101 with its boxes (Orchard et al., 2015)
coco                 images of ordinary cameras in COCO's format (Lin et al., ECCV 2014)
"""

from snn_perception.api import Component, hookimpl

from .coco_images import coco
from .gen1 import gen1
from .gen1_classification import gen1_classification
from .ncaltech101 import ncaltech101
from .ncars import ncars
from .one_mpx import one_mpx
from .rvt import rvt


@hookimpl
def snn_datasets() -> list[Component]:
    return [
        Component("gen1", gen1, "GEN1 detection: 304x240, cars and pedestrians"),
        Component("one_mpx", one_mpx, "1Mpx detection: 1280x720, pedestrians, two-wheelers and cars of its 7 classes"),
        Component("rvt", rvt, "GEN1 or 1Mpx as RVT preprocesses them: histograms of 50 ms, no events"),
        Component("gen1_classification", gen1_classification, "GEN1 boxes as samples: car or pedestrian"),
        Component("ncars", ncars, "N-CARS classification: car or background"),
        Component("ncaltech101", ncaltech101, "N-Caltech101: 100 classes, one box per recording"),
        Component("coco", coco, "images with boxes in COCO's format; no events"),
    ]
