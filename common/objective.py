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
    "cross_entropy" of the labels, or "loss", the one trained with, regularisation included. The losses in history.csv
    and in the terminal are always those trained with. `probabilities` is false of a loss that does not train the
    softmax of the scores to be the classes' probabilities, such as a hinge.
    """

    loss: keras.losses.Loss
    scores_classes: bool = True
    reported: Literal["cross_entropy", "loss"] = "cross_entropy"
    probabilities: bool = True

    def __post_init__(self) -> None:
        if not self.scores_classes and self.reported == "cross_entropy":
            raise ValueError('without a score a class there is no cross-entropy; allowed: reported="loss"')

    def reports_trained_loss(self, model: keras.Model) -> bool:
        """Whether the loss in metrics.json is the one that history.csv has of validation images."""
        plain = isinstance(self.loss, keras.losses.SparseCategoricalCrossentropy)
        plain = plain or (isinstance(self.loss, CrossEntropy) and not self.loss.smoothing)
        return self.reported == "loss" or (plain and not model.losses)  # which are penalties of weights, say

    def metrics(self) -> list[keras.metrics.Metric]:
        """New metrics to compile with."""
        return [Accuracy(name="accuracy")] if self.scores_classes else []


class CrossEntropy(keras.losses.Loss):
    """Cross-entropy of scores, with label smoothing (Szegedy et al. 2016, arXiv:1512.00567, section 7).

    Targets are labels, int (b,), as validation and test images have them, or class probabilities, float (b, classes).
    """

    def __init__(self, smoothing: float = 0.0):
        super().__init__(name="cross_entropy")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing is {smoothing}; allowed: 0 <= smoothing < 1")
        self.smoothing = smoothing

    def call(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        """Targets and scores (b, classes) to the loss of each image (b,)."""
        classes = y_pred.shape[-1]
        if len(y_true.shape) < 2 or y_true.shape[-1] != classes:
            y_true = keras.ops.one_hot(keras.ops.cast(keras.ops.reshape(y_true, (-1,)), "int32"), classes)
        return keras.losses.categorical_crossentropy(y_true, y_pred, from_logits=True, label_smoothing=self.smoothing)


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
