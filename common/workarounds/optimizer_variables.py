"""Keras 3.15.1 loses a variable of Nadam under mixed_float16."""

import keras


def built(optimizer: keras.optimizers.Optimizer, model: keras.Model) -> keras.optimizers.Optimizer:
    """An optimiser with its variables for a model, made before `compile` wraps it in a LossScaleOptimizer.

    Made afterwards, the variable with the product of Nadam's momenta is not among the wrapper's, and so is not in a
    checkpoint.
    """
    optimizer.build(model.trainable_variables)
    return optimizer
