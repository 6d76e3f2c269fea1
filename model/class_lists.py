"""The class lists of the paper's three datasets, in the order of their label files."""

from typing import Final

from model.classes import ClassInfo, named_classes

VOC_CLASSES: Final[tuple[ClassInfo, ...]] = named_classes(
    (
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ),
    background_first=True,
)
"""PASCAL VOC: background and 20 objects, by index in the devkit's masks, with their colours.

Names are spelled as in the devkit's `VOCinit.m`; colours are its `VOClabelcolormap`. SBD
(Hariharan et al., ICCV 2011) labels the same classes with the same indices.
"""

NYUD_CLASSES: Final[tuple[ClassInfo, ...]] = named_classes(
    (
        "wall",
        "floor",
        "cabinet",
        "bed",
        "chair",
        "sofa",
        "table",
        "door",
        "window",
        "bookshelf",
        "picture",
        "counter",
        "blinds",
        "desk",
        "shelves",
        "curtain",
        "dresser",
        "pillow",
        "mirror",
        "floor mat",
        "clothes",
        "ceiling",
        "books",
        "refrigerator",
        "television",
        "paper",
        "towel",
        "shower curtain",
        "box",
        "whiteboard",
        "person",
        "night stand",
        "toilet",
        "sink",
        "lamp",
        "bathtub",
        "bag",
        "otherstructure",
        "otherfurniture",
        "otherprop",
    )
)
"""NYUDv2: the 40 classes of Gupta, Arbelaez and Malik (CVPR 2013), as the paper trains on.

In the order of their `classMapping40.mat`, where wall is 1 and 0 is unlabelled: class index here
is the label there minus one. The authors name no colours; these are VOC's, without black.
"""

SIFT_FLOW_CLASSES: Final[tuple[ClassInfo, ...]] = named_classes(
    (
        "awning",
        "balcony",
        "bird",
        "boat",
        "bridge",
        "building",
        "bus",
        "car",
        "cow",
        "crosswalk",
        "desert",
        "door",
        "fence",
        "field",
        "grass",
        "moon",
        "mountain",
        "person",
        "plant",
        "pole",
        "river",
        "road",
        "rock",
        "sand",
        "sea",
        "sidewalk",
        "sign",
        "sky",
        "staircase",
        "streetlight",
        "sun",
        "tree",
        "window",
    )
)
"""SIFT Flow: the 33 semantic classes of Liu, Yuen and Torralba (CVPR 2009), in alphabetical order.

As in the `SemanticLabels` files, where awning is 1 and 0 is unlabelled: class index here is the
label there minus one. The authors name no colours; these are VOC's, without black.
"""
