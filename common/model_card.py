"""The model card of an exported classifier: what it is, how well it does, and what it must not be taken for."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import yaml

from common.config import REPOSITORY
from common.data import FOLDER, folder_of
from common.files import Damaged, read_csv
from common.published import stated
from common.run_folder import RunFolder
from common.trained import Trained
from common.weights import REPOSITORIES

LICENCES = {"tv_in1k": "BSD-3-Clause", "ra_in1k": "Apache-2.0"}  # of torchvision's and timm's weights
LOADING = {
    "model.keras": 'import keras\n\nmodel = keras.saving.load_model("model.keras")\n'
    "probabilities = keras.ops.convert_to_numpy(model(images))",
    "saved_model": 'import tensorflow as tf\n\nmodel = tf.saved_model.load("saved_model")\n'
    "probabilities = model.serve(images)",
    "model.onnx": 'import onnxruntime\n\nsession = onnxruntime.InferenceSession("model.onnx")\n'
    "probabilities = session.run(None, {session.get_inputs()[0].name: images})[0]",
    "model.tflite": "from ai_edge_litert.interpreter import Interpreter\n\n"
    'interpreter = Interpreter("model.tflite")\n'
    "(given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()\n"
    'interpreter.resize_tensor_input(given["index"], images.shape)\ninterpreter.allocate_tensors()\n'
    'interpreter.set_tensor(given["index"], images)\ninterpreter.invoke()\n'
    'probabilities = interpreter.get_tensor(made["index"])',
}
PREPARING = """import numpy as np
from PIL import Image, ImageOps

photo = ImageOps.exif_transpose(Image.open("photo.jpg"))
if photo.mode.startswith("I;16"):  # of 16-bit values the high byte, which Pillow would clip
    photo = Image.fromarray((np.asarray(photo) >> 8).astype("uint8"))
shorter = min(photo.size)
left, top = ((length - shorter) // 2 for length in photo.size)
photo = photo.convert("{mode}").crop((left, top, left + shorter, top + shorter))
photo = photo.resize(({side}, {side}), Image.Resampling.BILINEAR)
images = np.asarray(photo).reshape(1, {side}, {side}, -1)"""


def text(folder: Path, classifier: Trained, file: str, phase: str | None = None) -> str:
    """The card in Markdown, with the hub's fields at its head. `file` is the name of the exported file."""
    run = RunFolder(folder)
    about, environment, metrics = run.config(), run.environment(), run.metrics()
    config = about["config"]
    dataset = without_path(config["dataset"])
    setting = about["setting"].replace(config["dataset"], dataset)
    head = {
        **({"library_name": "keras"} if file == "model.keras" else {}),
        "pipeline_tag": "image-classification",
        "license": "other",
        "license_name": slug(licence(config)),
        # The hub takes ids of its own here, which have no colon.
        **({} if ":" in dataset else {"datasets": [dataset]}),
        "metrics": ["accuracy", "f1"],
    }
    test = metrics["phases"][phase]["test"] if phase else metrics["test"]
    scores = f"accuracy {test['accuracy']:.4f}, macro F1 {test['macro_f1']:.4f}"
    flags = " ".join(flag(key, value) for key, value in stated(setting).items())
    command = f"python tasks/{about['task']}/train.py --preset {config['preset']} {flags} --seed {config['seed']}"
    preparing = PREPARING.format(side=classifier.side, mode="RGB" if classifier.channels == 3 else "L")
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {folder.resolve().name}",
        f"An image classifier of {len(classifier.class_names)} classes, trained by the task `{about['task']}`, preset "
        f"`{config['preset']}`, on `{dataset}`{f', after its phase `{phase}`' if phase else ''}.",
        "## Use",
        "A photograph is turned as its EXIF says, cut to a centred square and made "
        f"{classifier.side} pixels wide by bilinear interpolation: as for training, but for one level of grey "
        "(and a few more if JPEG files are decoded by another library):",
        f"```python\n{preparing}\n\n{LOADING[file]}\n```",
        f"`images`: uint8 (batch, {classifier.side}, {classifier.side}, {classifier.channels}), 0 to 255, any batch. "
        f"`probabilities`: float32 (batch, {len(classifier.class_names)}). The classes, in their order, which "
        "`labels.txt` has too:",
        ", ".join(f"`{name}`" for name in classifier.class_names),
        "## Results",
        f"On {test['n']:,} test images, one run (seed {config['seed']}): {scores}.",
        *verdicts(about["task"], config["preset"], about["setting"]),
        "## Limits",
        "It knows the classes above and no other: whatever an image shows, one of them is named. It was trained on "
        f"{metrics['images']['train']:,} images of {classifier.side} pixels; images of another kind (size, light, "
        "source) were not tested. The probabilities are not calibrated.",
        "## Made by",
        f"`{command}`, {code(environment)}, {environment['backend']}, {environment['precision']}."
        f"{first_weights(config)}",
        f"Licence of the weights that training began with: {licence(config)}.",
    ]
    return "\n\n".join(parts) + "\n"


def slug(text: str) -> str:
    """A text as the hub wants names: small letters, digits, dots and dashes."""
    return re.sub("[^a-z0-9.]+", "-", text.lower()).strip("-")


def code(environment: Mapping) -> str:
    """Which code trained the run."""
    if not environment["commit"]:
        return "code of no commit"
    return f"commit `{environment['commit']}`" + " with uncommitted changes" * bool(environment["dirty"])


def without_path(dataset: str) -> str:
    """A data set by its name alone: where a folder lies is nobody else's business."""
    folder = folder_of(dataset)
    return f"{FOLDER}{folder.name}" if folder else dataset


def flag(key: str, value: str) -> str:
    """A part of a setting as on the command line; of weights the name alone."""
    name = key.replace("_", "-")
    if value in ("True", "False"):
        return f"--{'no-' * (value == 'False')}{name}"
    return f"--{name} {shlex.quote(value.partition('@sha256:')[0])}"


def first_weights(config: Mapping) -> str:
    """What the command's `--weights` stands for, if it is no name that everybody has."""
    name, _, digest = config.get("weights", "none").partition("@sha256:")
    return f" `{name}`: a file of weights, or a run's backbone, with the SHA-256 {digest}…" if digest else ""


def licence(config: Mapping) -> str:
    """The licence of a run's first weights, as far as it is known."""
    weights = config.get("weights", "none")
    if weights == "none":
        return "none (random weights)"
    if weights == "imagenet":
        repository = REPOSITORIES[config["backbone"]]
        return f"{LICENCES[repository.rpartition('.')[2]]} ({repository})"
    return f"see the source of {weights.partition('@')[0]}"


def verdicts(task: str, preset: str, setting: str) -> list[str]:
    """How the runs of this setting stand to its published numbers, from the table in git; nothing if none is there."""
    table = REPOSITORY / "results" / "tables" / f"{task}.csv"
    if not table.is_file():
        return []
    try:
        every = read_csv(table, ("preset", "setting", "metric", "mean", "std", "n", "published", "source", "verdict"))
    except Damaged as error:
        print(f"note: results/tables/{error}; the card has no published numbers", flush=True)
        return []
    rows = [row for row in every if (row["preset"], row["setting"]) == (preset, setting)]
    told = [
        f"- {row['metric']}: {row['mean']} ± {row['std'] or '?'} over {row['n']} seeds; published ({row['source']}) "
        f"{row['published']}: {row['verdict']}"
        for row in rows
        if row["published"] and row["mean"]
    ]
    return ["Beside the published numbers:", "\n".join(told)] if told else []
