"""The two multi-class hinge losses, and training and validation loss by step."""

import math
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops

from common.trainer import Trainer


class CrammerSinger(keras.losses.Loss):
    """max(0, 1 + max over j != y of s_j - s_y): Crammer and Singer 2001, with labels int (b,) and scores float (b, c).

    `keras.losses.CategoricalHinge` lets its maximum run over a 0 in the true class's place too, and so differs where
    every wrong score is negative. The subgradient is that of one strongest wrong class, the first of equals; at a
    margin of exactly 1 it is 0.
    """

    def call(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        true = one_hot(y_true, y_pred)
        wrong = ops.argmax(ops.where(true > 0, -math.inf, y_pred), axis=-1)
        strongest = ops.one_hot(wrong, y_pred.shape[-1], dtype=y_pred.dtype)
        return ops.relu(1 + ops.sum((strongest - true) * y_pred, axis=-1))


class WestonWatkins(keras.losses.Loss):
    """Sum over j != y of max(0, 1 + s_j - s_y): Weston and Watkins 1999, with labels int (b,) and scores float (b, c).

    At a margin of exactly 1 the subgradient is 0.
    """

    def call(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        true = one_hot(y_true, y_pred)
        margins = ops.relu(1 + y_pred - ops.sum(true * y_pred, axis=-1, keepdims=True))
        return ops.sum((1 - true) * margins, axis=-1)


def one_hot(labels: keras.KerasTensor, scores: keras.KerasTensor) -> keras.KerasTensor:
    """Labels (b,) or (b, 1), of any number type, as ones and zeros like the scores (b, c)."""
    return ops.one_hot(ops.cast(ops.reshape(labels, (-1,)), "int32"), scores.shape[-1], dtype=scores.dtype)


LOSSES = {"crammer_singer": CrammerSinger, "weston_watkins": WestonWatkins}


def summary(templates: np.ndarray, class_names: Sequence[str]) -> dict[str, dict]:
    """What can be said of the weights of each class without looking at them, by class.

    `templates` are float (classes, h, w, c). `colour` is the mean weight of each channel, less that of all, in standard
    deviations of the template; `mirror` its correlation with its own mirror image, 1 for a symmetric one.
    """
    found = {}
    for name, template in zip(class_names, templates.astype(float), strict=True):
        colour = (template.mean(axis=(0, 1)) - template.mean()) / template.std()
        mirror = np.corrcoef(template.ravel(), template[:, ::-1].ravel())[0, 1]
        found[str(name)] = {"colour": [round(float(each), 4) for each in colour], "mirror": round(float(mirror), 4)}
    return found


class ValidationLoss(keras.callbacks.Callback):
    """Reads the validation loss, norm included, every `every` steps, into the progress, which checkpoints hold.

    Each row has the training loss too: the mean over the images of the steps since the last reading, each step's loss
    taken before its update, norm included.
    """

    def __init__(self, trainer: Trainer, loss: keras.losses.Loss, every: int):
        super().__init__()
        progress, data = trainer.progress, trainer.data
        self.trainer = trainer
        self.rows = progress.extra.setdefault("validation", [])
        # What the epoch's running sums of losses and images lack, or have too much, since the last reading.
        self.since = progress.extra.setdefault("since_reading", [0.0, 0])
        self.progress = progress
        self.loss = loss
        self.split = data.validation
        self.images = len(data.train)
        self.every = every
        self.batch_size = trainer.batch_size
        self.steps = trainer.steps

    def on_epoch_begin(self, epoch: int, logs: Mapping | None = None) -> None:
        self.first = self.progress.step
        self.before = epoch * self.steps + self.first

    def on_train_batch_end(self, batch: int, logs: Mapping) -> None:
        step = self.before + batch + 1
        if step % self.every == 0:
            images = min((self.first + batch + 1) * self.batch_size, self.images)
            losses = float(logs["loss"]) * images  # a running mean over the images of the epoch
            train_loss = (self.since[0] + losses) / (self.since[1] + images)
            self.since[:] = -losses, -images
            self.rows.append({"step": step, "loss": self.read(), "train_loss": train_loss})

    def on_epoch_end(self, epoch: int, logs: Mapping) -> None:
        self.since[0] += float(logs["loss"]) * self.images
        self.since[1] += self.images

    def read(self) -> float:
        """The validation loss now; `evaluate` would reset the running means of the epoch."""
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # during fit the variables are elsewhere
        scores = self.trainer.predict(self.split)
        # Not `self.loss(...)`: on several devices that is divided by their number.
        data_loss = np.mean(ops.convert_to_numpy(self.loss.call(self.split.labels, ops.convert_to_tensor(scores))))
        return float(data_loss + sum(float(ops.convert_to_numpy(term)) for term in self.model.losses))
