"""Random augmentation by recipes, in the compiled step (Keras) or in tf.data (KerasCV).

A recipe draws the parameters of every image on its own, then applies them. `layer.Augment` does so inside the model,
before or after the resize to what the network sees; `host.host_augment` gives the recipes to tf.data, before the
resize. Imports no Keras, so that `--help` is quick.
"""

from common.registry import Registry

AUGMENTATIONS = Registry(
    "augmentation",
    {
        "none": "common.augment.recipes:NONE",
        "flip_crop": "common.augment.recipes:FLIP_CROP",
        "affine_colour_blur": "common.augment.recipes:AFFINE_COLOUR_BLUR",
    },
    of="common.augment.recipes:Recipe",
)
