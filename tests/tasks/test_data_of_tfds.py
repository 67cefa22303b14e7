"""A task, from its command to its metrics, on a data set of TFDS whose images have different sizes."""

import contextlib
import io
import json

import in_process
import numpy as np
import tensorflow_datasets as tfds

from slurm.plan import load_task

COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))


def write_colours(folder):
    """Prepare 90 images of one colour each, with little noise, which a linear classifier can tell apart."""
    rng = np.random.default_rng(0)

    def image(label):
        size = rng.integers(20, 60, 2)
        return np.clip(COLOURS[label] + rng.integers(-20, 21, (*size, 3)), 0, 255).astype(np.uint8)

    counts = {"train": 60, "val": 15, "test": 15}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        tfds.dataset_builders.store_as_tfds_dataset(
            name="colours",
            version="1.0.0",
            config="plain",
            data_dir=folder,
            features=tfds.features.FeaturesDict(
                {"picture": tfds.features.Image(), "colour": tfds.features.ClassLabel(num_classes=3)}
            ),
            split_datasets={
                split: [(i, {"picture": image(i % 3), "colour": i % 3}) for i in range(n)]
                for split, n in counts.items()
            },
        )


def test_a_task_learns_from_a_set_of_tfds_without_a_network(tmp_path, no_network):
    write_colours(tmp_path / "data")
    flags = ["--preset", "demo", "--dataset", "tfds:colours/plain", "--data-dir", str(tmp_path / "data")]
    flags += ["--epochs", "3", "--batch-size", "20", "--offline", "--out", str(tmp_path / "runs")]
    assert in_process.call(load_task("hinge_svm"), *flags) == 0
    (run,) = (tmp_path / "runs" / "hinge_svm").iterdir()
    assert run.name.startswith("demo-tfds_colours_plain-")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["accuracy"] == 1
    assert metrics["notes"][0] == "version 1.0.0 of TFDS"
    with np.load(run / "predictions.npz") as saved:
        assert saved["class_names"].tolist() == ["0", "1", "2"]
    assert (run / "report.html").is_file()
    assert no_network == []
