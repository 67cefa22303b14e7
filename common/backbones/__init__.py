"""Backbones by name, cut into the same five stages. Imports no Keras, so that `--help` is quick."""

from common.registry import Registry

STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")
MIN_IMAGE_SIZE = 32  # five halvings

# Each has `build`, from the image's side (None: any) to a network without its classifier, and `stage_of`, from the name
# of a layer to its stage.
BACKBONES = Registry(
    "backbone",
    {
        "resnet18": "common.backbones.resnet:RESNET18",
        "resnet34": "common.backbones.resnet:RESNET34",
        "resnet50": "common.backbones.resnet:RESNET50",
        "resnet101": "common.backbones.resnet:RESNET101",
        "resnext50_32x4d": "common.backbones.resnet:RESNEXT50_32X4D",
        "wide_resnet50_2": "common.backbones.resnet:WIDE_RESNET50_2",
        "mobilenet_v2": "common.backbones.mobilenet:MOBILENET_V2",
    },
)
