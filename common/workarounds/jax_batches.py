"""Keras 3.15.1 with JAX lays out all batches of an epoch as the first one.

It fails at a last batch that the devices do not divide; and predictions that lie on other machines cannot be read.
"""

import functools
from collections.abc import Iterator
from typing import Any


@functools.cache
def lay_out_each_batch() -> None:
    """Lay out each batch by its own size, and return predictions whole."""
    import jax
    import keras
    from keras.src.backend.jax.trainer import JAXEpochIterator, JAXTrainer

    def laid_out(self: Any, distribution: Any) -> Iterator:
        mesh = distribution.device_mesh.backend_mesh
        for batch in self.data_adapter.get_jax_iterator():
            n = len(jax.tree.leaves(batch)[-1])
            layout = jax.NamedSharding(mesh, jax.P() if n % mesh.size else jax.P(mesh.axis_names))
            yield jax.tree.map(
                lambda a, n=n, to=layout: jax.make_array_from_process_local_data(to, a, (n, *a.shape[1:])), batch
            )

    def predict_step(self: Any, state: Any, data: Any) -> tuple:
        outputs, rest = predict_part(self, state, data)
        mesh = keras.distribution.distribution().device_mesh.backend_mesh
        return jax.lax.with_sharding_constraint(outputs, jax.NamedSharding(mesh, jax.P())), rest

    predict_part = JAXTrainer.predict_step
    JAXEpochIterator._get_distributed_iterator = laid_out
    JAXTrainer.predict_step = predict_step
