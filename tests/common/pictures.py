"""Pictures and folders of them."""

import numpy as np
from PIL import Image


def picture(height, width, mode="RGB", seed=0):
    """A picture with broad and fine structure, so that cropping and resizing show."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    fine = rng.integers(-20, 21, (height, width, 3))
    image = Image.fromarray(np.clip(np.asarray(coarse) + fine, 0, 255).astype(np.uint8))
    if mode == "RGBA":
        image.putalpha(Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8)))
        return image
    return image.convert(mode)


def write_class(folder, n, first=0, size=(20, 20)):
    folder.mkdir(parents=True)
    for i in range(first, first + n):
        picture(*size, seed=i).save(folder / f"{i:02}.png")
