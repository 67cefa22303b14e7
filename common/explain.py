"""Where a trained classifier looks: Grad-CAM of its last stage beside each image.

    python -m common.explain RUN photo.jpg other.png        # explained.png
    python -m common.explain RUN photos --class cat --out cats.png

RUN is the folder of a finished run, or the end of its name in results/runs. The map says which places of the image
speak for a class: the most probable one, or that of --class. It is as coarse as the network's last stage, of 3 by 3
places for an image of 96 pixels, and smoothed. It works for networks that end in a mean over the image and one dense
layer: ResNets, MobileNetV2, the padded network of convolutions on images as they are. Exit codes: 0; 1 if an image
could not be read, which is named and left out; 2 for bad input.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.command_line import Parser
from common.data.listing import printable
from common.errors import ConfigError, choice, command, in_one_line
from common.predict import RUNS, leave, listed, loading, read
from common.run_folder import find_classifier

if TYPE_CHECKING:  # `--help` does without
    import keras
    import numpy as np

    from common.trained import Trained

MOST = 40  # images in one figure


def parser() -> Parser:
    """The parser of the command line."""
    top = Parser(
        prog="python -m common.explain", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("run", metavar="RUN", help="folder of a finished run, or the end of its name")
    top.add_argument("paths", nargs="+", metavar="PATH", help=f"images, folders, patterns; {MOST} images at most")
    top.add_argument("--class", dest="chosen", metavar="NAME", help="explain this class (default: the most probable)")
    top.add_argument("--phase", help="the network in the reported state of this phase (default: the last one)")
    top.add_argument("--out", type=Path, default=Path("explained.png"), metavar="FILE", help="default: explained.png")
    return top


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    arguments = parser().parse_args(argv)
    with in_one_line():
        folder = find_classifier(arguments.run, RUNS, arguments.phase)
        paths, notes = listed(arguments.paths)
        check_out(arguments.out, paths)
        if len(paths) > MOST:
            raise ConfigError(f"{len(paths)} images are too many for a figure; allowed: {MOST}")
        unreadable = explain(folder, paths, arguments)
    for note in notes:
        print(note, file=sys.stderr)
    leave(unreadable)


def check_out(path: Path, images: Sequence[Path]) -> None:
    """Raise ConfigError for what is no PNG, is one of the images, or lies in a folder that is not there."""
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--out {path}: allowed: a name that ends in .png")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--out {path}: there is no folder {path.parent}")
    if path.resolve() in {image.resolve() for image in images}:
        raise ConfigError(f"--out {path}: this is one of the images to explain; allowed: another name")


def explain(folder: Path, paths: Sequence[Path], arguments: argparse.Namespace) -> dict[Path, str]:
    """Draw images with their maps; returns those that could not be read, and why."""
    loading(folder)
    import numpy as np

    from common import plots, trained

    classifier = trained.load(folder, arguments.phase)
    if arguments.chosen is not None:
        choice("class", arguments.chosen, tuple(classifier.class_names))
    unreadable: dict[Path, str] = {}
    images = read(paths, classifier, unreadable)
    if images:
        pixels = np.stack(list(images.values()))
        maps, probabilities = explained(classifier, pixels, arguments.chosen)
        titles = [
            f"{printable(name)}\n{classifier.class_names[place]} ({share:.0%})"
            for name, (place, share) in zip(short_names(list(images)), probabilities, strict=True)
        ]
        plots.heat_maps(pixels, maps, titles, arguments.out)
        print(arguments.out)
    return unreadable


def short_names(paths: Sequence[Path]) -> list[str]:
    """The names of files; if two have the same, their paths below the folder that holds all of them."""
    names = [path.name for path in paths]
    if len(set(names)) == len(names):
        return names
    folder = os.path.commonpath([path.absolute().parent for path in paths])
    return [str(path.absolute().relative_to(folder)) for path in paths]


def explained(
    classifier: "Trained", images: "np.ndarray", chosen: str | None = None
) -> tuple["np.ndarray", list[tuple[int, float]]]:
    """Maps of images, uint8 (n, h, w, c), for a class or for the most probable one of each.

    Returns floats of 0 and above, (n, rows, columns), and the explained class of each image with its probability.
    """
    import numpy as np

    from common.trained import probabilities

    below, head = last_stage(classifier.model)
    features = below.predict_on_batch(images)
    if features.shape[1:3] == (1, 1):
        raise ConfigError(
            "its last stage has one place for all of an image, so a map would say nothing; a network that is trained "
            "with larger images has more (--image-size)"
        )
    kernel, bias = (np.asarray(value, np.float64) for value in head.get_weights())
    shares = probabilities(features.mean(axis=(1, 2), dtype=np.float64) @ kernel + bias)
    fixed = None if chosen is None else list(classifier.class_names).index(chosen)
    places = [int(row.argmax()) if fixed is None else fixed for row in shares]
    maps = np.stack([grad_cam(own, kernel[:, place]) for own, place in zip(features, places, strict=True)])
    return maps, [(place, float(row[place])) for place, row in zip(places, shares, strict=True)]


def grad_cam(features: "np.ndarray", weights: "np.ndarray") -> "np.ndarray":
    """Grad-CAM of one image: features (rows, columns, channels), a class's weights (channels,), to (rows, columns).

    The score is the mean of the features times the weights, so its gradient by a feature is the weight over the number
    of places. Source: Selvaraju et al. 2017, equations 1 and 2.
    """
    import numpy as np

    gradients = weights / (features.shape[0] * features.shape[1])
    return np.maximum(features @ gradients, 0)


def last_stage(model: "keras.Model") -> tuple["keras.Model", "keras.layers.Dense"]:
    """The network up to what the mean over the image is taken of, and its dense layer. Raises ConfigError."""
    import keras
    from keras import layers

    backbone = next((layer for layer in model.layers if isinstance(layer, keras.Model)), None)
    body = backbone or model
    pool = next((layer for layer in body.layers if isinstance(layer, layers.GlobalAveragePooling2D)), None)
    head = model.layers[-1]
    behind = model.layers[model.layers.index(backbone or pool) + 1 : -1] if pool else []
    if pool and any(isinstance(layer, layers.Reshape) for layer in body.layers[: body.layers.index(pool)]):
        raise ConfigError("its network moves pixels, so a map would not be of the image; others have one")
    if not (pool and isinstance(head, layers.Dense) and all(isinstance(layer, layers.Dropout) for layer in behind)):
        raise ConfigError("its network does not end in a mean over the image and one dense layer; others have no map")
    features = keras.Model(body.inputs[0], pool.input)
    if backbone:
        features = keras.Model(model.inputs[0], features(model.get_layer("normalise").output))
    return features, head


if __name__ == "__main__":
    command(main)
