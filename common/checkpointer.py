"""The checkpoints of a run: written beside the training, and read when it goes on."""

import copy
import time
from collections.abc import Mapping, Sequence
from concurrent import futures
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np

from common import checkpoints
from common.phase import Phase
from common.progress import Diverged, Progress
from common.run_folder import RunFolder
from common.runs import Run


class Checkpointer:
    """Saves a training model's state, with the weights of each phase's best and last epoch.

    Files are written beside the training; when its `with` block ends, they are there. The primary process alone writes.
    `model` is the whole one; what is trained may be a part of it.
    """

    def __init__(self, run: Run, model: keras.Model, phases: Sequence[Phase], steps: int):
        self.run = run
        self.model = model
        self.phases = phases
        self.steps = steps
        self.saved_at = time.monotonic()
        self.writer = futures.ThreadPoolExecutor(1)
        self.written: futures.Future | None = None
        # The best epoch of a phase that this process has trained; of another one the file is read.
        self.best: dict[str, Mapping[str, np.ndarray]] = {}

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind: object, fault: BaseException | None, traceback: object) -> None:
        """Wait for the files. If another exception is on its way, a failed write is only a warning."""
        try:
            with self.run.stop.deferred():
                self.wait()
        except OSError as error:
            if fault is None:
                raise
            print(f"warning: {error}", flush=True)
        finally:
            self.writer.shutdown(wait=False)
        if fault is None:
            self.run.stop.heed()

    def latest(self) -> checkpoints.Checkpoint | None:
        """The checkpoint to go on from: the one that the primary process finds, for all."""
        devices = self.run.devices
        found = checkpoints.latest(self.run.checkpoints) if devices.is_primary else None
        if found and not found.arrays:
            raise checkpoints.CheckpointError(
                f"{self.run.folder} was finished and pruned, so training cannot go on; --overwrite starts from scratch"
            )
        name = devices.broadcast(found.path.name if found else "")
        return checkpoints.load(self.run.checkpoints / name) if name and not found else found

    def is_due(self) -> bool:
        """Whether `checkpoint_minutes` have passed since the last one, or the last one could not be written."""
        if self.written and self.written.done() and self.written.exception():
            return True  # what would be lost now is one interval; later it is two
        return time.monotonic() - self.saved_at > 60 * self.run.config.checkpoint_minutes

    def save_step(self, trained: keras.Model, progress: Progress) -> None:
        """Begin to save the state within an epoch, its running metrics included."""
        name = self.phases[progress.phase].name
        self.save(self.state(trained, progress.where(name)) | self.metrics(trained), progress)

    def save_epoch(self, trained: keras.Model, progress: Progress, row: Mapping) -> None:
        """Begin to save the state at the end of an epoch, and its weights if it is a phase's best or last."""
        phase = self.phases[progress.phase]
        state = self.state(trained, progress.where(phase.name))
        kinds = progress.end_epoch(row, row["epoch"] == phase.epochs)
        weights = self.weights(state) if kinds else None
        if weights and "best" in kinds:
            self.best = {phase.name: weights}
        self.save(state, progress, weights, kinds)

    def load_best(self, progress: Progress, phase: str) -> None:
        """Put the weights of a phase's best epoch into the model, from memory or from their file."""
        load_weights(self.run, self.model, progress.best[phase], self.best.pop(phase, None))

    def weights(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The model's weights, as a part of `state`."""
        variables, weights = self.model.variables, self.model.weights
        arrays = {id(v): state[name] for name, v in zip(checkpoints.names("model", variables), variables, strict=True)}
        return {name: arrays[id(v)] for name, v in zip(checkpoints.names("weights", weights), weights, strict=True)}

    def state(self, trained: keras.Model, where: Mapping) -> dict[str, np.ndarray]:
        """All variables as they are now, when none is left to be written. Raises Diverged if one is not finite."""
        self.wait()
        if keras.backend.backend() == "jax":
            trained.jax_state_sync()  # during fit the variables are elsewhere
        arrays = checkpoints.gather("model", self.model.variables)
        arrays |= checkpoints.gather("optimizer", trained.optimizer.variables)
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise Diverged(f"variable {name} is not finite", where)
        return arrays

    def metrics(self, trained: keras.Model) -> dict[str, np.ndarray]:
        """Running sums of the epoch; if replicas have their own, theirs too, since rounding depends on them."""
        variables = trained.metrics_variables
        arrays = checkpoints.gather("metrics", variables)
        for number, own in enumerate(self.run.devices.replica_values(variables)):
            arrays |= checkpoints.gather(f"metrics-{number}", own)
        return arrays

    def assign_metrics(self, trained: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
        """The reverse of `metrics`, from the same number of replicas as well as from another."""
        variables = trained.metrics_variables
        checkpoints.assign("metrics", variables, arrays)
        replicas = self.run.devices.replica_values(variables)
        if len({name.split("/")[0] for name in arrays if name.startswith("metrics-")}) == len(replicas):
            for number, own in enumerate(replicas):
                checkpoints.assign(f"metrics-{number}", own, arrays)

    def save(
        self,
        arrays: Mapping[str, np.ndarray],
        progress: Progress,
        weights: Mapping[str, np.ndarray] | None = None,
        kinds: Sequence[str] = (),
    ) -> None:
        """Begin to write these arrays with the position in training.

        `weights` are the best or the last of the phase, or both, as `kinds` says.
        """
        if self.run.devices.is_primary:
            self.written = self.writer.submit(self.write, arrays, progress, copy.deepcopy(progress), weights, kinds)
        self.saved_at = time.monotonic()

    def write(
        self,
        arrays: Mapping[str, np.ndarray],
        progress: Progress,
        saved: Progress,
        weights: Mapping[str, np.ndarray] | None,
        kinds: Sequence[str],
    ) -> None:
        """What `save` begins: the weights, then the checkpoint that names them, then history.csv."""
        self.run.check_held()
        phase = self.phases[saved.phase].name
        if weights:
            # No times in its data: the file of a run that was stopped and resumed has the same digest.
            data = {key: value for key, value in getattr(saved, kinds[0])[phase].items() if key != "file"}
            file = checkpoints.save(self.run.checkpoints, f"{kinds[0]}-{phase}", weights, data).name
            for kind in kinds:
                getattr(progress, kind)[phase]["file"] = getattr(saved, kind)[phase]["file"] = file
        epochs = sum(phase.epochs for phase in self.phases[: saved.phase]) + saved.epoch
        checkpoints.save_step(self.run.checkpoints, epochs * self.steps + saved.step, arrays, asdict(saved))
        if saved.rows:
            self.run.write_history(saved.rows)

    def wait(self) -> None:
        """Until all that was saved is written. Raises StorageError if it could not be."""
        if self.written:
            futures.wait([self.written])  # which a signal may end
            written, self.written = self.written, None
            written.result()


def load_weights(run: Run, model: keras.Model, entry: Mapping, arrays: Mapping[str, np.ndarray] | None = None) -> None:
    """Put the weights of an epoch, an entry of the progress, into the model; random generators stay.

    From their file if they are not given.
    """
    if arrays is None:
        arrays = checkpoints.load(run.checkpoints / run.devices.broadcast(entry["file"])).arrays
    checkpoints.assign("weights", model.weights, arrays)


def load_layers(model: keras.Model, folder: Path, phase: str, names: Sequence[str], kind: str) -> None:
    """Put layers of a finished run into another model, by their names, as they were at an epoch of a phase.

    `kind` is best or last. Raises CheckpointError if a layer is not there, or does not fit.
    """
    kept = RunFolder(folder).checkpoints
    newest = checkpoints.latest(kept)
    if newest is None or phase not in newest.data.get(kind, {}):
        raise checkpoints.CheckpointError(f"{folder} has no checkpoint of its phase {phase}")
    arrays = checkpoints.load(kept / newest.data[kind][phase]["file"]).arrays
    for name in names:
        for variable in model.get_layer(name).weights:
            found = [array for key, array in arrays.items() if key.endswith(f"/{name}/{variable.name}")]
            if [array.shape for array in found] != [tuple(variable.shape)]:
                raise checkpoints.CheckpointError(
                    f"{folder} has no {variable.name} of shape {tuple(variable.shape)} for the layer {name}"
                )
            variable.assign(found[0])
