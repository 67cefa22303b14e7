"""What a model is trained for."""

from dataclasses import dataclass
from typing import Literal

import keras


@dataclass(frozen=True)
class Objective:
    """A loss to train with, and what is measured of a model afterwards.

    `loss` takes targets and the model's outputs. Targets are labels, int (b,), or what a pipeline's transform makes of
    them, such as class probabilities, float (b, classes); validation and test targets are always labels. A model that
    is trained for something else than targets overrides `compute_loss`.

    With `scores_classes` the outputs are a score a class, float (b, classes), and the best epoch is that of the highest
    accuracy on validation images; without, that of the lowest loss on them. `reported` is the loss in metrics.json:
    "cross_entropy" of the labels, or "loss", the one trained with, regularisation included.
    """

    loss: keras.losses.Loss
    scores_classes: bool = True
    reported: Literal["cross_entropy", "loss"] = "cross_entropy"

    def __post_init__(self) -> None:
        if not self.scores_classes and self.reported == "cross_entropy":
            raise ValueError('without a score a class there is no cross-entropy; allowed: reported="loss"')

    def metrics(self) -> list[keras.metrics.Metric]:
        """New metrics to compile with."""
        return [Accuracy(name="accuracy")] if self.scores_classes else []


class Accuracy(keras.metrics.SparseCategoricalAccuracy):
    """Share of images whose highest score is that of their class; of class probabilities the most probable class."""

    def update_state(
        self,
        y_true: keras.KerasTensor,
        y_pred: keras.KerasTensor,
        sample_weight: keras.KerasTensor | None = None,
    ) -> None:
        if len(y_true.shape) == len(y_pred.shape) and y_true.shape[-1] == y_pred.shape[-1]:
            y_true = keras.ops.argmax(y_true, axis=-1)
        super().update_state(y_true, y_pred, sample_weight)


CLASSIFICATION = Objective(keras.losses.SparseCategoricalCrossentropy(from_logits=True))
