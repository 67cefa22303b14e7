"""How far batch normalisation's kept statistics are from those of other images, layer by layer: no time, but a reason.

    python tests/benchmarks/batch_statistics.py --backbone mobilenet_v2 --image-size 96          # flags of cifar_phased
    python tests/benchmarks/batch_statistics.py --weights FILE --image-size 64 --dataset image_folder:tiny-imagenet

512 training images go through the frozen backbone with its own statistics. For the inputs of each normalisation:

- shift: root mean square over channels of (mean - kept mean) / kept deviation; 0 if the images are like those that the
  weights were trained on;
- variance: median over channels of variance / kept variance; 1 if they are.

The table has the means over each fifth of the layers, from the image to the head. About a minute on 2 cores.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import common  # noqa: F401  its settings of TensorFlow, before Keras imports that

if TYPE_CHECKING:
    import keras

IMAGES, PARTS = 512, 5


def main() -> None:
    """Print the table."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    import keras

    from common.backbones import networks
    from common.command_line import parse_strictly
    from common.data import pipeline, sources
    from slurm.plan import load_task

    task = load_task("cifar_phased")
    config = parse_strictly(task.PRESETS, "", sys.argv[1:])
    task.provide(config)
    data = sources.load(config)
    backbone = networks.build(config.backbone, config.image_size, config.weights_source(), config.is_offline)
    images = keras.Input((data.train.size, data.train.size, data.train.channels), dtype="uint8")
    backbone.extract(images, config.image_size)
    norms = [layer for layer in backbone.model.layers if isinstance(layer, networks.BatchNormalization)]
    resized = keras.Model(images, backbone.model._inbound_nodes[-1].input_tensors[0])
    inputs = keras.Model(backbone.model.inputs, [layer.input for layer in norms])
    chosen = np.random.default_rng(0).choice(len(data.train), IMAGES, replace=False)
    batch = resized.predict(pipeline.pictures(data.train, np.sort(chosen)), verbose=0)
    found = [statistics(norm, values) for norm, values in zip(norms, inputs.predict(batch, verbose=0), strict=True)]
    print(f"{config.backbone}, {config.image_size} pixels, {config.dataset}, {len(norms)} normalisations, by fifths")
    for name, values in zip(("shift", "variance"), np.transpose(found), strict=True):
        print(f"{name:<10}" + "".join(f"{part.mean():>7.2f}" for part in np.array_split(values, PARTS)))


def statistics(norm: "keras.layers.Layer", values: np.ndarray) -> tuple[float, float]:
    """Shift and ratio of variances of a layer's inputs, float32 (b, h, w, c)."""
    mean, variance = (np.asarray(each) + 0.0 for each in (norm.moving_mean, norm.moving_variance))
    axes = (0, 1, 2)
    shift = (values.mean(axes) - mean) ** 2 / (variance + norm.epsilon)
    return float(np.sqrt(shift.mean())), float(np.median(values.var(axes) / (variance + norm.epsilon)))


if __name__ == "__main__":
    main()
