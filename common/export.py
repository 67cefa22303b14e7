"""A trained classifier, handed on: as a file that needs none of this project's code.

    python -m common.export RUN --to keras        # model.keras, for anyone who has Keras
    python -m common.export RUN --to savedmodel   # a folder, for TensorFlow Serving
    python -m common.export RUN --to onnx         # model.onnx, for ONNX Runtime
    python -m common.export RUN --to litert       # model.tflite, for LiteRT on phones
    python -m common.export RUN --to keras --publish OWNER/NAME   # and to the Hugging Face hub

RUN is the folder of a finished run, or the end of its name in results/runs. The network takes images as the run's data
has them, uint8 (batch, height, width, channels), any batch, and gives probabilities, float32 (batch, classes). All is
float32, of Keras's own layers; augmentation is left out. README.md beside it, the model card, says what it is,
and labels.txt has the names of the classes. Exit codes: 0; 2 for bad input; 1 for what cannot be written or sent.
"""

import argparse
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import files
from common.command_line import Parser
from common.data.listing import few
from common.errors import ConfigError, command, first_line, in_one_line
from common.predict import RUNS, loading
from common.run_folder import find_classifier

if TYPE_CHECKING:  # `--help` does without
    import keras

# What each target is called, and the packages that it needs.
TARGETS = {
    "keras": ("model.keras", ()),
    "savedmodel": ("saved_model", ()),
    "onnx": ("model.onnx", ("tf2onnx", "onnx")),
    "litert": ("model.tflite", ()),
}


LABELS, CARD = "labels.txt", "README.md"


def parser() -> Parser:
    """The parser of the command line."""
    top = Parser(
        prog="python -m common.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("run", metavar="RUN", help="folder of a finished run, or the end of its name")
    top.add_argument("--to", required=True, choices=TARGETS, help="the kind of file")
    top.add_argument("--phase", help="the network in the reported state of this phase (default: the last one)")
    top.add_argument("--out", type=Path, metavar="DIR", help="where to (default: RUN/export/KIND, or KIND-PHASE)")
    top.add_argument("--publish", metavar="OWNER/NAME", help="push the folder to this repository of the hub")
    top.add_argument("--private", action="store_true", help="make that repository, if it is new, a private one")
    return top


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    arguments = parser().parse_args(argv)
    with in_one_line():
        check(arguments.to)
        folder = find_classifier(arguments.run, RUNS, arguments.phase)
        if arguments.private and not arguments.publish:
            raise ConfigError("--private is for a repository; allowed: with --publish OWNER/NAME")
        kind = f"{arguments.to}-{arguments.phase}" if arguments.phase else arguments.to
        out = arguments.out or folder / "export" / kind
        if arguments.out:
            check_folder(out, arguments.to)
        export(folder, arguments.to, out, arguments.phase)
        if arguments.publish:
            publish(out, arguments.publish, arguments.private)
    print(f"{out / TARGETS[arguments.to][0]}")


def check(kind: str) -> None:
    """Raise ConfigError if this machine cannot make a kind of file."""
    missing = [package for package in TARGETS[kind][1] if find_spec(package) is None]
    if missing:
        raise ConfigError(f"--to {kind} needs {' and '.join(missing)}; pip install {' '.join(missing)}")
    if kind != "keras" and os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        raise ConfigError(f"KERAS_BACKEND is {os.environ['KERAS_BACKEND']}; --to {kind} needs tensorflow")


def check_folder(out: Path, kind: str) -> None:
    """Raise ConfigError for a folder with other files than an export of this kind leaves: one of them may be README.md.

    All of the folder is published.
    """
    model = TARGETS[kind][0]
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    ours = {model, LABELS, CARD} if {model, LABELS} <= there else {model, LABELS} if model in there else set()
    if others := sorted(there - ours):
        raise ConfigError(
            f"--out {out} holds other files: {few(others)}; allowed: a new folder, or an earlier export --to {kind}"
        )


def export(folder: Path, kind: str, out: Path, phase: str | None = None) -> None:
    """Write a run's classifier, its model card, and the names of its classes, one a line, as LiteRT's users expect."""
    loading(folder)
    import numpy as np

    from common import model_card, trained
    from common.forecast import leaves

    classifier = trained.load(folder, phase)
    model = with_probabilities(classifier.model, kind)
    if kind == "keras" and (own := [layer.name for layer in leaves(model) if not is_stock(layer)]):
        others = ", ".join(to for to in TARGETS if to != kind)
        raise ConfigError(f"layers of the task's own ({few(own)}) need its code; allowed: --to {others}")
    model(np.zeros((1, *model.input_shape[1:]), "uint8"))  # Keras exports no model that was never called
    out.mkdir(parents=True, exist_ok=True)
    path = out / TARGETS[kind][0]
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out) as aside:  # an earlier export stays if this one fails
        made = Path(aside) / path.name
        try:
            save(model, kind, made)
        except Exception as error:
            if not files.is_full(error):
                raise
            raise files.StorageError(f"cannot write {path}: no space left") from error
        if path.is_dir():
            shutil.rmtree(path)
        made.replace(path)
    files.write(out / LABELS, "".join(f"{name}\n" for name in classifier.class_names).encode())
    files.write(out / CARD, model_card.text(folder, classifier, path.name, phase).encode())


def save(model: "keras.Model", kind: str, path: Path) -> None:
    """Write a network as a kind of file."""
    if kind == "keras":
        model.save(path)
        return
    with warnings.catch_warnings():
        # Keras 3.15.1's patch of tf2onnx asks NumPy for a name that is gone; a user can do nothing about it.
        warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)
        model.export(path, format={"savedmodel": "tf_saved_model"}.get(kind, kind), verbose=False)


def publish(folder: Path, repository: str, private: bool = False) -> None:
    """Push an exported folder to a repository of the Hugging Face hub, which is made if it is not there.

    Raises ConfigError if the hub refuses, and OSError if it cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    hub = HfApi()
    try:
        hub.create_repo(repository, exist_ok=True, private=private or None)
        told = hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Exported classifier")
    except (HfHubHTTPError, ValueError) as error:  # ValueError: a name, or a card, that the hub does not take
        raise ConfigError(f"--publish {repository}: {first_line(error)}") from error
    except HTTPError as error:
        raise OSError(f"--publish {repository}: the hub cannot be reached: {error}") from error
    print(f"published {told.commit_url}")


def with_probabilities(model: "keras.Model", kind: str) -> "keras.Model":
    """A classifier in float32 of Keras's own layers, with a softmax at its end, to be written as a kind of file."""
    import keras

    plain = keras.saving.deserialize_keras_object(in_stock_layers(keras.saving.serialize_keras_object(model), kind))
    plain.set_weights(model.get_weights())
    image = keras.Input(plain.input_shape[1:], dtype="uint8", name="image")
    # Said here for good: exporters call a network without it, and batch norm would use the batch's statistics.
    scores = keras.Model(plain.inputs[0], plain.outputs[0])(image, training=False)
    return keras.Model(image, keras.layers.Softmax(dtype="float32", name="probabilities")(scores))


def is_stock(layer: "keras.layers.Layer") -> bool:
    """Whether a layer is Keras's own."""
    return type(layer).__module__.partition(".")[0] == "keras"


def in_stock_layers(config: Any, kind: str) -> Any:
    """The description of a model with Keras's layers in place of ours, in float32 and without augmentation."""
    if isinstance(config, list):
        return [in_stock_layers(part, kind) for part in config]
    if not isinstance(config, dict):
        return config
    config = {key: in_stock_layers(part, kind) for key, part in config.items()}
    if config.get("class_name") == "DTypePolicy":
        return config | {"config": {"name": "float32"}}
    if str(config.get("registered_name")).startswith("keras_studies>"):
        if config["class_name"] == "Resizing" and shrinks(config):
            if kind != "keras":  # they hold what it computes, and have nothing for Keras's own antialiasing
                return config
            config["config"]["antialias"] = True
        config |= {"module": "keras.layers", "registered_name": None}
        if config["class_name"] == "Augment":
            ours = config["config"]
            config |= {
                "class_name": "Rescaling",
                "config": {"name": ours["name"], "scale": 1.0, "offset": 0.0, "dtype": "float32"},
            }
        if config["class_name"] == "GroupedConv2D":
            config |= {"class_name": "Conv2D"}
    return config


def shrinks(config: Mapping) -> bool:
    """Whether a `Resizing` of this description makes a side smaller."""
    sides = config["build_config"]["input_shape"][1:3]
    return sides[0] > config["config"]["height"] or sides[1] > config["config"]["width"]


if __name__ == "__main__":
    command(main)
