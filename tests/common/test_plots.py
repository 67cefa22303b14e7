import subprocess
import sys
import warnings
from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from matplotlib.text import Text
from PIL import Image

from common import plots
from common.plots import base

NAMES = {
    1: ["only"],
    2: ["cat", "dog"],
    10: ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    21: [f"kind_{i}" for i in range(21)],
    100: [f"class_of_fish_{i:02d}" for i in range(100)],
}
HISTORIES = {
    "one epoch": (("full", 1),),
    "three phases": (("head", 5), ("last_block", 5), ("full", 15)),
    "125 epochs": (("head", 10), ("full", 115)),
    "short phases": (("warmup_of_the_head", 1), ("last_block", 1), ("second_to_last_block", 1), ("full", 122)),
    "short last phase": (("full", 122), ("a_last_phase_of_one_epoch", 1)),
}


def make_history(phases):
    rng = np.random.default_rng(0)
    rows = []
    for number, (name, epochs) in enumerate(phases):
        for epoch in range(1, epochs + 1):
            accuracy = 0.9 - 0.6 / (1 + len(rows)) + rng.uniform(0, 0.03)
            row = {"phase": name, "epoch": epoch, "rate": 10.0 ** -(3 + number), "seconds": 1.5}
            row |= {"loss": 2 - 2 * accuracy, "accuracy": accuracy, "images_per_second": 900.0}
            row |= {"val_loss": 2.1 - 2 * accuracy, "val_accuracy": accuracy - rng.uniform(0, 0.05)}
            rows.append(row)
    return rows


def make_confusion(classes):
    rng = np.random.default_rng(classes)
    return np.diag(np.full(classes, 80)) + rng.integers(0, 1 + 40 // classes, (classes, classes))


def make_per_class(classes):
    rng = np.random.default_rng(classes)
    rows = []
    for name in NAMES[classes]:
        precision, recall = rng.uniform(0.3, 1, 2)
        f1 = 2 * precision * recall / (precision + recall)
        rows.append({"class": name, "precision": precision, "recall": recall, "f1": f1, "support": 100})
    return rows


def make_counts(classes):
    return {
        "train": 400 + np.arange(classes),
        "validation": np.full(classes, 50),
        "test": np.full(classes, 100),
    }


def make_predictions(classes, n=40):
    rng = np.random.default_rng(classes)
    images = rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    return images.__getitem__, rng.integers(0, classes, n), rng.dirichlet(np.full(classes, 0.3), n)


PHASES = {
    "head": {"validation": {"accuracy": 0.781, "n": 5000}, "test": {"accuracy": 0.776, "n": 10000}},
    "last_block": {"validation": {"accuracy": 0.888, "n": 5000}, "test": {"accuracy": 0.879, "n": 10000}},
    "full": {"validation": {"accuracy": 0.941, "n": 5000}, "test": {"accuracy": 0.937, "n": 10000}},
}
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)

ROWS = ("original", "reconstructed"), "Test images and what comes back"
SEEN = {
    "original": IMAGES,
    "resized": IMAGES.repeat(14, axis=1).repeat(14, axis=2) / 1.0,
    "augmented (affine_colour_blur)": IMAGES[:, ::-1].repeat(14, axis=1).repeat(14, axis=2) / 1.0,
}
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# The box of a text is a few pixels larger than its ink, and the layout is solved to about a pixel.
SLACK = 2

# Every figure that is drawn: name, then a function of the path.
CASES = {
    "phase_bars": lambda path: plots.phase_bars(PHASES, path),
    "phase_bars one": lambda path: plots.phase_bars({"full": PHASES["full"]}, path),
    "image_pairs": lambda path: plots.image_pairs(IMAGES, IMAGES[:, ::-1] / 255, path, *ROWS),
    "image_pairs grey": lambda path: plots.image_pairs(
        IMAGES[:1, ..., :1], IMAGES[:1, ..., :1] / 60.0 - 2, path, *ROWS
    ),
    "image_steps": lambda path: plots.image_steps(SEEN, "What the network sees of a training image", path),
    "image_steps one grey": lambda path: plots.image_steps(
        {name: images[:1, ..., :1] for name, images in SEEN.items()}, "What the network sees", path
    ),
    "channel_intensities": lambda path: plots.channel_intensities(IMAGES / 60.0 - 2, MEAN, DEVIATION, path),
    "channel_intensities grey": lambda path: plots.channel_intensities(IMAGES[..., :1] / 255, [0.5], [0.5], path),
    "none wrong": lambda path: plots.predictions_grid(
        IMAGES[:4].__getitem__, np.arange(4), np.eye(10)[:4], NAMES[10], path
    ),
    "none right": lambda path: plots.predictions_grid(
        IMAGES[:4].__getitem__, np.arange(4), np.eye(10)[1:5], NAMES[10], path
    ),
}
for label, phases in HISTORIES.items():
    for function in (plots.learning_curves, plots.generalisation_gap, plots.learning_rate):
        CASES[f"{function.__name__} {label}"] = lambda path, f=function, p=phases: f(make_history(p), path)
for size in (1, 2, 10, 100):
    CASES |= {
        f"class_counts {size}": lambda path, k=size: plots.class_counts(make_counts(k), NAMES[k], path),
        f"predictions_grid {size}": lambda path, k=size: plots.predictions_grid(*make_predictions(k), NAMES[k], path),
        f"class_destinations {size}": lambda path, k=size: plots.class_destinations(
            make_confusion(k), NAMES[k], NAMES[k][:4], path
        ),
        f"mistaken_images {size}": lambda path, k=size: plots.mistaken_images(
            *make_predictions(k, 200), NAMES[k], NAMES[k][:2], path
        ),
        f"per_class_scores {size}": lambda path, k=size: plots.per_class_scores(make_per_class(k), path),
        f"confusion_matrix {size}": lambda path, k=size: plots.confusion_matrix(make_confusion(k), NAMES[k], path),
    }


def without_accuracy(history):
    return [{key: value for key, value in row.items() if "accuracy" not in key} for row in history]


def metrics_of(history):
    """What `Trainer.evaluate` says of a history, as far as it is drawn: the last phase's second epoch is reported."""
    (phase, *_) = (row["phase"] for row in reversed(history))
    best = min(2, sum(row["phase"] == phase for row in history))
    return {"phases": {phase: {"best": {"epoch": best}}}, "reported": "best", "test": {"loss": 1.25, "accuracy": 0.5}}


STEPS = [{"step": 100 * i, "loss": 500.0 / i, "train_loss": 700.0 / i} for i in range(1, 12)]
RATES = {"stem": 0.0, "layer1": 1e-5, "layer2": 5e-5, "layer3": 1e-4, "layer4": 5e-4, "head": 1e-3}


def make_embeddings(classes):
    rng = np.random.default_rng(classes)
    titles = ("before training\n20-NN 10.2 %, linear probe 9.8 %", "after training\n20-NN 61.0 %, linear probe 58.3 %")
    return {title: spread * rng.normal(size=(50, 2)) + spread for title, spread in zip(titles, (0.01, 5), strict=True)}


DIGITS_VARIANCE = 1 - 0.9 ** np.arange(1, 65)  # 95 % in 29 components, 99 % in 44
CASES |= {
    "learning_curves of losses": lambda path: plots.learning_curves(
        without_accuracy(make_history(HISTORIES["three phases"])), path
    ),
    "learning_curves with the test": lambda path: plots.learning_curves(
        make_history(HISTORIES["three phases"]), path, metrics_of(make_history(HISTORIES["three phases"]))
    ),
    "learning_curves of losses with the test": lambda path: plots.learning_curves(
        without_accuracy(make_history((("train", 10),))), path, metrics_of(make_history((("train", 10),)))
    ),
    "learning_curves of losses one epoch": lambda path: plots.learning_curves(
        without_accuracy(make_history(HISTORIES["one epoch"])), path
    ),
    "class_images": lambda path: plots.class_images(
        IMAGES[:10], NAMES[10], "Weights of each class, from their least to their greatest (weston_watkins)", path
    ),
    "class_images one": lambda path: plots.class_images(IMAGES[:1], NAMES[1], "An image", path),
    "class_images 12 grey": lambda path: plots.class_images(
        IMAGES[..., :1] / 9.0 - 3, [f"class_of_fish_{i:02d}" for i in range(12)], "A training image of each class", path
    ),
    "loss_by_step": lambda path: plots.loss_by_step(STEPS, path),
    "loss_by_step one": lambda path: plots.loss_by_step(STEPS[:1], path),
    "loss_by_step none": lambda path: plots.loss_by_step([], path),
    "cumulative_variance": lambda path: plots.cumulative_variance(DIGITS_VARIANCE, path),
    "cumulative_variance of noise": lambda path: plots.cumulative_variance(np.arange(1, 785) / 784, path),
    "group_rates": lambda path: plots.group_rates(RATES, path),
    "group_rates frozen": lambda path: plots.group_rates(dict.fromkeys(RATES, 0.0) | {"head": 1e-3}, path),
    "group_rates one": lambda path: plots.group_rates(dict.fromkeys(RATES, 1e-3), path),
    "embeddings": lambda path: plots.embeddings(make_embeddings(10), np.arange(50) % 10, NAMES[10], path),
    "embeddings 2": lambda path: plots.embeddings(make_embeddings(2), np.arange(50) % 2, ["upright", "turned"], path),
    "embeddings of one point": lambda path: plots.embeddings(
        {"all alike": np.ones((50, 2))}, np.zeros(50), ["a"], path
    ),
    "cumulative_variance at once": lambda path: plots.cumulative_variance(np.linspace(0.97, 1, 784), path),
}

CASES |= {
    "mistaken_images none": lambda path: plots.mistaken_images(
        None, np.arange(4), np.eye(10)[:4], NAMES[10], NAMES[10][:2], path
    ),
    "class_destinations of few": lambda path: plots.class_destinations(
        np.diag([36] * 10) + np.eye(10, k=1, dtype=int), NAMES[10], ["frog", "truck"], path
    ),
}

# The smallest matrix without numbers in its cells.
CASES["confusion_matrix 21"] = lambda path: plots.confusion_matrix(make_confusion(21), NAMES[21], path)


@pytest.fixture
def figures(monkeypatch):
    """Every figure saved, in order, so that a test can look at what was drawn and not at pixels."""
    saved = []
    png = base.png
    monkeypatch.setattr(base, "png", lambda figure: saved.append(figure) or png(figure))
    return saved


def drawn_texts(figure):
    """Return the texts that show in a figure, without the labels of ticks outside the axes' limits."""
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if not axes.axison:
                hidden |= set(axis.findobj(Text))
            low, high = sorted(axis.get_view_interval())
            for minor in (False, True):
                places = axis.get_ticklocs(minor=minor)
                labels = axis.get_ticklabels(minor=minor)
                span = 1e-9 * (high - low)
                hidden |= {
                    text for place, text in zip(places, labels, strict=True) if not low - span <= place <= high + span
                }
    texts = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible())
    return [text for text in dict.fromkeys(texts) if text.get_text().strip() and text not in hidden]


def assert_readable(figure):
    """Check that every text lies within the figure and none overlaps another or a legend the axes."""
    boxes = [(text.get_text(), text.get_window_extent()) for text in drawn_texts(figure)]
    assert boxes
    for text, box in boxes:
        assert box.x0 >= -SLACK, text
        assert box.y0 >= -SLACK, text
        assert box.x1 <= figure.bbox.x1 + SLACK, text
        assert box.y1 <= figure.bbox.y1 + SLACK, text
    for (one, first), (other, second) in combinations(boxes, 2):
        wide = min(first.x1, second.x1) - max(first.x0, second.x0)
        high = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert min(wide, high) <= SLACK, f"{one!r} and {other!r} overlap"
    for legend in figure.legends:
        for axes in figure.axes:
            assert not legend.get_window_extent().overlaps(axes.get_window_extent())


@pytest.mark.parametrize("case", CASES)
def test_figure_is_a_readable_png(case, figures, tmp_path):
    path = tmp_path / "figures" / "drawn.png"  # a folder that does not exist yet
    assert CASES[case](path) == path
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert all(300 <= side <= 2200 for side in image.size)
        assert np.asarray(image.convert("L")).std() > 5
    assert_readable(figures[0])


@pytest.mark.parametrize(
    "case",
    [
        "learning_curves three phases",
        "generalisation_gap three phases",
        "learning_rate three phases",
        "phase_bars",
        "image_pairs",
        "image_steps",
        "mistaken_images 10",
        "channel_intensities",
        "class_counts 10",
        "predictions_grid 10",
        "class_destinations 10",
        "per_class_scores 10",
        "confusion_matrix 10",
        "class_images",
        "loss_by_step",
        "cumulative_variance",
        "group_rates",
        "embeddings",
    ],
)
def test_same_input_gives_the_same_bytes(case, tmp_path):
    first, second = (CASES[case](tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first == second
    assert not any(word in first for word in (b"tIME", b"Software", b"Creation"))


def line(axes, label):
    return next(drawn for drawn in axes.get_lines() if drawn.get_label() == label)


def test_learning_curves_show_percent_and_the_best_epoch_of_each_phase(figures, tmp_path):
    history = make_history(HISTORIES["three phases"])
    for row, accuracy, loss in zip(history, [0.1, 0.5, 0.4, 0.5, 0.2] * 5, [1, 1, 1, 0.9, 0.8] * 5, strict=True):
        row["val_accuracy"], row["val_loss"] = accuracy, loss
    plots.learning_curves(history, tmp_path / "p.png")
    losses, accuracies = figures[0].axes
    np.testing.assert_allclose(
        line(accuracies, "validation").get_ydata(), [100 * row["val_accuracy"] for row in history]
    )
    np.testing.assert_allclose(line(losses, "validation").get_ydata(), [row["val_loss"] for row in history])
    best = line(accuracies, "best validation accuracy of the phase")
    assert best.get_xdata().tolist() == [4, 9, 14]  # of equal accuracies the lowest loss, and of those the first
    assert best.get_ydata().tolist() == [50, 50, 50]
    np.testing.assert_allclose(
        line(losses, "best validation accuracy of the phase").get_ydata(),
        [history[i]["val_loss"] for i in (3, 8, 13)],
    )
    assert [text.get_text() for text in accuracies.texts] == ["head", "last block", "full"]
    assert len(figures[0].legends[0].get_texts()) == 3


def test_generalisation_gap_in_percentage_points(figures, tmp_path):
    history = make_history(HISTORIES["one epoch"])
    history[0] |= {"accuracy": 0.9, "val_accuracy": 0.85, "loss": 0.25, "val_loss": 0.75}
    plots.generalisation_gap(history, tmp_path / "p.png")
    accuracies, losses = figures[0].axes
    assert accuracies.get_lines()[0].get_ydata() == pytest.approx([5])
    assert losses.get_lines()[0].get_ydata() == pytest.approx([0.5])
    assert "with any augmentation and dropout" in figures[0].get_suptitle()  # there may be none


def test_learning_rate_survives_a_rate_of_zero(figures, tmp_path):
    history = make_history(HISTORIES["three phases"])
    history[0]["rate"] = 0.0
    plots.learning_rate(history, tmp_path / "p.png")
    assert figures[0].axes[0].get_yscale() == "log"
    plots.learning_rate(history[:1], tmp_path / "p.png")
    assert figures[1].axes[0].get_yscale() == "linear"


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_diverged_history_is_drawn(broken, tmp_path):
    history = make_history(HISTORIES["three phases"])
    for row in history[3:]:
        row |= dict.fromkeys(("loss", "accuracy", "val_loss", "val_accuracy"), broken)
    plots.learning_curves(history, tmp_path / "p.png")
    if np.isnan(broken):
        plots.generalisation_gap(history, tmp_path / "p.png")
    for row in history:
        row |= dict.fromkeys(("loss", "accuracy", "val_loss", "val_accuracy"), broken)
    plots.learning_curves(history, tmp_path / "p.png")


@pytest.mark.parametrize("draw", [plots.learning_curves, plots.generalisation_gap, plots.learning_rate])
def test_an_empty_history_is_an_error(draw, tmp_path):
    with pytest.raises(ValueError, match="no epochs"):
        draw([], tmp_path / "p.png")


def test_phase_bars_hold_the_accuracies(figures, tmp_path):
    plots.phase_bars(PHASES, tmp_path / "p.png")
    validation, test = figures[0].axes[0].containers
    assert [bar.get_height() for bar in validation] == pytest.approx([78.1, 88.8, 94.1])
    assert [bar.get_height() for bar in test] == pytest.approx([77.6, 87.9, 93.7])
    said = ["78.1 %", "88.8 %", "94.1 %", "77.6 %", "87.9 %", "93.7 %"]
    assert [text.get_text() for text in figures[0].axes[0].texts] == said
    assert [bar.get_center()[0] for bar in validation] == pytest.approx([-0.2, 0.8, 1.8])
    labels = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert labels == ["validation (n = 5,000)", "test (n = 10,000)"]


def test_image_pairs_show_eight_images_in_any_range(figures, tmp_path):
    ranges = [IMAGES / 255, IMAGES.astype(np.float32), (IMAGES - 120.0) / 60]
    for after in ranges:
        plots.image_pairs(IMAGES, after, tmp_path / "p.png", *ROWS)
    for figure in figures:
        originals, augmented = ([image.get_array() for image in axes.images] for axes in figure.axes)
        assert len(originals) == 8
        # Random images of 12 times 256 pixels hold both 0 and 255, so that all ranges look alike.
        np.testing.assert_allclose(originals, augmented, atol=0.02)
    with pytest.raises(ValueError, match="3 images before and 2 after"):
        plots.image_pairs(IMAGES[:3], IMAGES[:2], tmp_path / "p.png", *ROWS)
    with pytest.raises(ValueError, match=r"\(n, height, width, 1 or 3\), not \(8, 16, 16, 2\)"):
        plots.image_pairs(IMAGES[..., :2], IMAGES[..., :2], tmp_path / "p.png", *ROWS)


def test_image_pairs_carry_the_names_that_they_are_given(figures, tmp_path):
    plots.image_pairs(IMAGES, IMAGES, tmp_path / "p.png", ("before", "after"), "What became of them")
    (figure,) = figures
    assert figure.get_suptitle() == "What became of them"
    assert [axes.get_ylabel() for axes in figure.axes] == ["before", "after"]


def test_image_steps_lie_side_by_side_with_their_sizes(figures, tmp_path):
    plots.image_steps(SEEN, "Steps", tmp_path / "p.png")
    rows = figures[0].axes
    assert len(rows) == 4
    assert [label.get_text() for label in rows[0].get_xticklabels()] == [
        "original\n16 × 16 pixels",
        "resized\n224 × 224 pixels",
        "augmented (affine_colour_blur)\n224 × 224 pixels",
    ]
    assert not any(axes.get_xticklabels() for axes in rows[1:])
    for number, axes in enumerate(rows):
        original, resized, augmented = (drawn.get_array() for drawn in axes.images)
        np.testing.assert_allclose(original, IMAGES[number] / 255, atol=1e-6)
        np.testing.assert_allclose(resized[::14, ::14], original, atol=1e-6)
        np.testing.assert_allclose(augmented[::14, ::14], original[::-1], atol=1e-6)
        lefts = [drawn.get_extent()[0] for drawn in axes.images]
        widths = [drawn.get_extent()[1] - left for drawn, left in zip(axes.images, lefts, strict=True)]
        assert lefts == [0, 1, 2]
        np.testing.assert_allclose(widths, widths[0])  # as large on paper, whatever their pixels
    with pytest.raises(ValueError, match="steps of 12, 11 images"):
        plots.image_steps({"a": IMAGES, "b": IMAGES[1:]}, "Steps", tmp_path / "p.png")


def test_mistaken_images_are_those_of_the_class_by_confidence(figures, tmp_path):
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7], [0.95, 0.05]])
    labels = np.array([0, 0, 0, 1, 1])
    asked = []

    def images(places):
        asked.append(places.tolist())
        return IMAGES[places]

    plots.mistaken_images(images, labels, probabilities, NAMES[2], ["cat"], tmp_path / "p.png")
    plots.mistaken_images(images, labels, probabilities, NAMES[2], ["dog", "cat"], tmp_path / "p.png")
    assert asked == [[2, 1], [4, 2, 1]]
    titles = [[part.get_suptitle() for part in figure.subfigs] for figure in figures]
    cats = "cat: 2 of 3 test images taken for another class"
    assert titles == [[cats], ["dog: 1 of 2 test images taken for another class", cats]]
    (axes,) = figures[0].axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["taken for\ndog (80 %)", "taken for\ndog (60 %)"]
    np.testing.assert_allclose(axes.images[0].get_array(), IMAGES[2] / 255, atol=1e-6)
    with pytest.raises(ValueError, match="no such class: frog"):
        plots.mistaken_images(images, labels, probabilities, NAMES[2], ["frog"], tmp_path / "p.png")


def test_of_many_mistakes_twelve_are_shown_in_two_rows(figures, tmp_path):
    probabilities = np.tile([0.1, 0.9], (30, 1))
    pixels = np.zeros((30, 8, 8, 3), np.uint8)
    plots.mistaken_images(pixels.__getitem__, np.zeros(30, int), probabilities, NAMES[2], ["cat"], tmp_path / "p.png")
    CASES["mistaken_images none"](tmp_path / "p.png")
    assert [len(axes.images) for axes in figures[0].axes] == [6, 6]
    assert figures[1].axes == []
    titles = [figure.subfigs[0].get_suptitle() for figure in figures]
    assert titles[0] == "cat: 30 of 30 test images taken for another class: the 12 most confident"
    assert titles[1] == "airplane: none of 1 test images taken for another class"


def test_learning_curves_mark_the_test_at_the_reported_epoch(figures, tmp_path):
    history = make_history(HISTORIES["three phases"])
    plots.learning_curves(history, tmp_path / "p.png", metrics_of(history))
    plots.learning_curves(history, tmp_path / "p.png")
    points = [line(axes, base.TEST_REPORTED).get_xydata().tolist() for axes in figures[0].axes]
    assert points == [[[12, 1.25]], [[12, 50.0]]]  # the second epoch after phases of five and five
    assert not any(drawn.get_label() == base.TEST_REPORTED for axes in figures[1].axes for drawn in axes.get_lines())


def test_learning_curves_without_accuracy_ring_the_lowest_validation_loss(figures, tmp_path):
    history = without_accuracy(make_history(HISTORIES["three phases"]))
    for row, loss in zip(history, [3.0, 1.0, 2.0, 1.0, 4.0] * 5, strict=True):
        row["val_loss"] = loss
    history[0]["val_loss"] = np.nan
    plots.learning_curves(history, tmp_path / "p.png")
    (losses,) = figures[0].axes
    assert losses.get_ylabel() == "Loss"
    best = line(losses, "best validation loss of the phase")
    assert best.get_xdata().tolist() == [2, 7, 12]  # the first of equals
    assert best.get_ydata().tolist() == [1, 1, 1]
    np.testing.assert_allclose(line(losses, "validation").get_ydata(), [row["val_loss"] for row in history])
    assert [text.get_text() for text in losses.texts] == ["head", "last block", "full"]


def test_one_phase_needs_no_mark(figures, tmp_path):
    plots.learning_curves(make_history((("train", 5),)), tmp_path / "p.png")
    assert [axes.get_xlabel() for axes in figures[0].axes] == ["Epoch", "Epoch"]
    assert not [text for axes in figures[0].axes for text in axes.texts]


def test_class_images_stretch_floats_one_by_one_and_leave_bytes_alone(figures, tmp_path):
    templates = np.stack([IMAGES[0] * 1e-5 - 3, IMAGES[1] * 7.0, np.full((16, 16, 3), 2.0)])
    plots.class_images(templates, ["a", "b", "c"], "Templates", tmp_path / "p.png")
    dark = IMAGES[:3] // 4
    plots.class_images(dark, ["a", "b", "c"], "Samples", tmp_path / "p.png")
    stretched, bytes_ = figures
    assert [axes.get_title() for axes in stretched.axes] == ["a", "b", "c"]  # and no empty axes beside them
    for axes, image in zip(stretched.axes[:2], IMAGES[:2].astype(float), strict=True):
        expected = (image - image.min()) / (image.max() - image.min())
        np.testing.assert_allclose(axes.images[0].get_array(), expected, atol=1e-5)
    assert np.isfinite(stretched.axes[2].images[0].get_array()).all()  # a constant image has nothing to stretch
    for axes, image in zip(bytes_.axes, dark, strict=True):
        np.testing.assert_allclose(axes.images[0].get_array(), image / 255, atol=1e-6)


def test_class_images_lie_five_in_a_row_in_the_order_of_the_classes(figures, tmp_path):
    plots.class_images(IMAGES, [str(i) for i in range(12)], "Samples", tmp_path / "p.png")
    assert [axes.get_title() for axes in figures[0].axes] == [str(i) for i in range(12)]
    places = [axes.get_position() for axes in figures[0].axes]
    rows = [round(place.y0, 2) for place in places]
    assert [rows.count(row) for row in dict.fromkeys(rows)] == [5, 5, 2]
    with pytest.raises(ValueError, match="12 images of 2 classes"):
        plots.class_images(IMAGES, NAMES[2], "Samples", tmp_path / "p.png")
    with pytest.raises(ValueError, match=r"not \(2, 16, 16, 2\)"):
        plots.class_images(IMAGES[:2, ..., :2], NAMES[2], "Samples", tmp_path / "p.png")


def test_loss_by_step_holds_every_reading(figures, tmp_path):
    plots.loss_by_step(STEPS, tmp_path / "p.png")
    plots.loss_by_step([*STEPS, {"step": 1200, "loss": 0.0, "train_loss": 1.0}], tmp_path / "p.png")
    plots.loss_by_step([], tmp_path / "p.png")
    plots.loss_by_step([{"step": 50, "loss": 2.0}, *STEPS], tmp_path / "p.png")  # begun before both were read
    plots.loss_by_step(STEPS[:5], tmp_path / "p.png")
    axes = [figure.axes[0] for figure in figures]
    for drawn, key in zip(axes[0].get_lines(), ("train_loss", "loss"), strict=True):
        assert drawn.get_xydata().tolist() == [[row["step"], row[key]] for row in STEPS]
    assert [a.get_yscale() for a in axes] == ["log", "linear", "linear", "log", "linear"]  # a log axis has no zero
    assert ["log scale" in a.get_ylabel() for a in axes] == [True, False, False, True, False]
    assert [len(drawn.get_xdata()) for drawn in axes[3].get_lines()] == [11, 12]


def test_cumulative_variance_marks_95_and_99_percent(figures, tmp_path):
    plots.cumulative_variance(DIGITS_VARIANCE, tmp_path / "p.png")
    (axes,) = figures[0].axes
    curve, *marks = axes.get_lines()
    assert curve.get_xdata().tolist() == list(range(1, 65))
    np.testing.assert_allclose(curve.get_ydata(), 100 * DIGITS_VARIANCE)
    counts = [int((share > DIGITS_VARIANCE).sum()) + 1 for share in (0.95, 0.99)]
    assert [mark.get_xdata()[0] for mark in marks] == counts == [29, 44]
    assert [text.get_text() for text in axes.texts] == ["95% in 29", "99% in 44"]


def test_channel_densities_integrate_to_one_without_a_comb(figures, tmp_path):
    levels = np.arange(256.0).reshape(1, 16, 16, 1)
    images = np.concatenate([(levels / 255 - 0.4) / 0.2, levels / 255, levels], axis=-1)
    plots.channel_intensities(images, MEAN, DEVIATION, tmp_path / "p.png")
    for steps in figures[0].axes[0].patches:
        density, edges, _ = steps.get_data()
        assert (density * np.diff(edges)).sum() == pytest.approx(1)
        np.testing.assert_allclose(density, density[0])
    labels = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert labels[1:] == ["green: mean 0.50, std 0.29", "blue: mean 127.50, std 73.90"]
    told = figures[0].axes[0].get_xlabel()
    assert told.endswith("mean 0.485, 0.456, 0.406; std 0.229, 0.224, 0.225 (red, green, blue)")


def test_channel_intensities_of_a_constant_image(tmp_path):
    plots.channel_intensities(np.zeros((2, 4, 4, 1)), [0.5], [0.5], tmp_path / "p.png")


@pytest.mark.parametrize("classes", [10, 100])
def test_class_counts_show_every_class_and_split(classes, figures, tmp_path):
    plots.class_counts(make_counts(classes), NAMES[classes], tmp_path / "p.png")
    axes = figures[0].axes
    labels = [text.get_text() for panel in axes for text in panel.get_yticklabels()]
    assert labels == NAMES[classes]
    for place, values in enumerate(make_counts(classes).values()):
        drawn = [bar.get_width() for panel in axes for bar in panel.containers[place]]
        assert drawn == values.tolist()
    assert len(figures[0].legends[0].get_texts()) == 3


def test_predictions_grid_puts_the_most_confident_wrong_first(figures, tmp_path):
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    asked = []

    def images(places):
        asked.append(places.tolist())
        return IMAGES[places]

    plots.predictions_grid(images, np.array([0, 0, 0, 1]), probabilities, NAMES[2], tmp_path / "p.png")
    assert asked == [[0, 3, 2, 1]]
    right, wrong = figures[0].axes
    texts = [label.get_text() for axes in (right, wrong) for label in axes.get_xticklabels()]
    assert texts == ["cat →\ncat (90 %)", "dog →\ndog (70 %)", "cat →\ndog (80 %)", "cat →\ndog (60 %)"]
    np.testing.assert_allclose(wrong.images[0].get_array(), IMAGES[2] / 255, atol=1e-6)


def test_predictions_grid_says_that_none_is_wrong(figures, tmp_path):
    CASES["none wrong"](tmp_path / "p.png")
    CASES["none right"](tmp_path / "p.png")
    titles = [[half.get_suptitle() for half in figure.subfigs] for figure in figures]
    assert titles[0] == [
        "Right predictions, true → predicted: the first 4 of 4 (4 images)",
        "No prediction is wrong (4 images)",
    ]
    assert titles[1][0] == "No prediction is right (4 images)"


def test_class_destinations_are_shares_of_the_row(figures, tmp_path):
    confusion = np.zeros((100, 100), int)
    confusion[0, :12] = np.arange(3, 15)  # its own class is the least frequent destination: 3 of 102
    confusion[1, 1] = 5
    plots.class_destinations(confusion, NAMES[100], NAMES[100][:3], tmp_path / "p.png")
    first, second, third = figures[0].axes
    shares = [bar.get_width() for bar in first.containers[0]]
    assert shares == pytest.approx([100 * k / 102 for k in (14, 13, 12, 11, 10, 9, 8, 7, 6, 3)])
    colours = [bar.get_facecolor() for bar in first.containers[0]]
    assert colours.count(colours[-1]) == 1
    assert first.get_yticklabels()[-1].get_text() == NAMES[100][0]
    assert first.get_title() == f"{NAMES[100][0]} (102 images, the 10 most frequent of 12 classes)"
    assert [bar.get_width() for bar in second.containers[0]] == [second.get_xlim()[1]]
    assert second.texts[-1].get_text() == "100.0 % (longer than this axis)"
    assert third.get_title() == f"{NAMES[100][2]} (0 images)"
    with pytest.raises(ValueError, match="no such class: frog, newt"):
        plots.class_destinations(confusion, NAMES[100], ["frog", "newt"], tmp_path / "p.png")
    with pytest.raises(ValueError, match="no class was chosen"):
        plots.class_destinations(confusion, NAMES[100], [], tmp_path / "p.png")


def test_class_destinations_have_one_axis_that_fits_the_wrong_classes(figures, tmp_path):
    confusion = np.zeros((100, 100), int)
    confusion[0, [0, 3, 5]] = 90, 6, 4
    confusion[1, [1, 2]] = 80, 20
    plots.class_destinations(confusion, NAMES[100], NAMES[100][:2], tmp_path / "p.png", "the first two")
    first, second = figures[0].axes
    assert figures[0].get_suptitle().endswith(": the first two")
    assert first.get_xlim() == second.get_xlim() == (0, 24)
    assert [round(limit) for limit in first.get_ylim()] == [3, -1]
    assert [bar.get_width() for bar in first.containers[0]] == [24, 6, 4]
    assert [text.get_text() for text in first.texts] == ["", "6.0 %", "4.0 %", "90.0 % (longer than this axis)"]
    assert [text.get_text() for text in second.texts] == ["", "20.0 %", "80.0 % (longer than this axis)"]
    plots.class_destinations(confusion, NAMES[100], NAMES[100][:1], tmp_path / "p.png")
    assert figures[1].axes[0].get_xlim() == pytest.approx((0, 7.2))
    confusion[0, 3] = 40
    plots.class_destinations(confusion, NAMES[100], NAMES[100][:2], tmp_path / "p.png")
    assert figures[2].axes[0].get_xlim() == pytest.approx((0, 1.2 * 80))  # long enough for every bar


def test_per_class_scores_are_sorted_and_none_is_cut_off(figures, tmp_path):
    per_class = make_per_class(100)
    per_class[7] |= {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    per_class[8] |= {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    plots.per_class_scores(per_class, tmp_path / "p.png")
    axes = figures[0].axes
    f1 = np.concatenate([line(panel, "F1").get_xdata() for panel in axes])
    assert (np.diff(f1) <= 0).all()
    names = [text.get_text() for panel in axes for text in panel.get_yticklabels()]
    assert (names[0], names[-1]) == (NAMES[100][8], NAMES[100][7])
    by_name = {entry["class"]: 100 * entry["recall"] for entry in per_class}
    recalls = np.concatenate([line(panel, "recall").get_xdata() for panel in axes])
    np.testing.assert_allclose(recalls, [by_name[name] for name in names])
    for panel in axes:
        assert panel.get_xlim()[0] < 0
        assert panel.get_xlim()[1] > 100


def test_a_class_without_images_has_no_scores_to_draw(figures, tmp_path):
    per_class = make_per_class(10)
    per_class[3] |= dict.fromkeys(("precision", "recall", "f1"))
    plots.per_class_scores(per_class, tmp_path / "p.png")
    names = [text.get_text() for panel in figures[0].axes for text in panel.get_yticklabels()]
    assert sorted(names) == sorted(entry["class"] for entry in per_class if entry["f1"] is not None)
    assert figures[0].get_suptitle().endswith("sorted by F1 (left out, as they have no images: 1)")


def test_of_thousands_of_classes_figures_show_as_many_as_there_is_room_for(drawn, tmp_path):
    names = [f"class {number}" for number in range(3000)]
    scores = [
        {"class": name, "precision": 1 - i / 3000, "recall": 1 - i / 3000, "f1": 1 - i / 3000}
        for i, name in enumerate(names)
    ]
    plots.per_class_scores(scores, tmp_path / "p.png")
    shown = [text.get_text() for panel in drawn[0].axes for text in panel.get_yticklabels()]
    assert shown == [*names[:100], *names[-100:]]
    assert drawn[0].get_suptitle().endswith("(the first and the last 100 of 3,000 classes)")
    plots.confusion_matrix(np.eye(3000, dtype=int), names, tmp_path / "p.png")
    plots.class_images(np.zeros((3000, 2, 2, 1), np.uint8), names, "Samples", tmp_path / "p.png")
    assert drawn[2].get_suptitle() == "Samples (the first 200 of 3,000)"
    assert len(drawn[2].axes) == 200
    for figure in drawn:
        assert (figure.get_size_inches() * figure.dpi).max() < 12_000  # pixels


def test_confusion_matrix_normalises_rows_and_annotates_small_ones(figures, tmp_path):
    confusion = [[3, 1], [0, 0]]
    plots.confusion_matrix(confusion, NAMES[2], tmp_path / "p.png")
    plots.confusion_matrix(make_confusion(100), NAMES[100], tmp_path / "p.png")
    shares, large = (figure.axes[0] for figure in figures)
    assert shares.images[0].get_array().tolist() == [[75, 25], [0, 0]]
    assert [text.get_text() for text in shares.texts] == ["75.0", "25.0", "0.0", "0.0"]
    assert (shares.get_xlabel(), shares.get_ylabel()) == ("Predicted class", "True class")
    assert figures[0].axes[1].get_ylabel() == "Share of the true class (%)"
    assert figures[1].axes[1].get_ylabel() == "Share of the true class (%), square-root colour scale"
    assert not large.texts
    np.testing.assert_allclose(large.images[0].get_array().sum(axis=1), 100)
    assert [text.get_text() for text in large.get_xticklabels()] == NAMES[100]
    assert [text.get_text() for text in large.get_yticklabels()] == NAMES[100]


def test_names_are_cut_and_never_read_as_mathematics(figures, tmp_path):
    names = ["$x$ and $y^2$", "a class name that is far too long to be drawn in full"]
    plots.confusion_matrix([[1, 2], [3, 4]], names, tmp_path / "p.png")
    assert_readable(figures[0])
    drawn = [text.get_text() for text in figures[0].axes[0].get_yticklabels()]
    assert drawn == [r"\$x\$ and \$y^2\$", "a class name…awn in full"]


def test_a_long_name_keeps_both_ends():
    """What tells it from others may stand at either: a class and its number of images, a file and its class."""
    assert base.short("a photograph of something long (1,234)", 24) == "a photograph…ong (1,234)"
    for length in range(1, 40):
        name = "abcdefghijklmnopqrstuvwxyz0123456789ABC"[:length]
        cut = base.short(name)
        assert len(cut) == min(length, 24)
        start, _, end = cut.partition("…")
        assert name.startswith(start)
        assert name.endswith(end)
        assert cut == name if length <= 24 else len(start) - len(end) in (0, 1)


LONG = ["x" * 30, *(f"W{i:02d} wide words of a name" for i in range(99))]
MISSING = "\U000e0fff"  # in a plane that no font fills


@pytest.mark.parametrize("classes", [2, 10, 21, 100])
def test_long_names_have_room(classes, figures, tmp_path):
    plots.confusion_matrix(make_confusion(classes), LONG[:classes], tmp_path / "p.png")
    per_class = [row | {"class": name} for row, name in zip(make_per_class(100)[:classes], LONG, strict=False)]
    plots.per_class_scores(per_class, tmp_path / "p.png")
    plots.class_counts(make_counts(classes), LONG[:classes], tmp_path / "p.png")
    for figure in figures:
        assert_readable(figure)
    matrix = figures[0].axes[0].get_window_extent()
    assert matrix.width >= 0.9 * 0.14 * classes * figures[0].dpi  # the names have not taken the matrix's own room


def drawn_without_boxes(name, figures, path):
    """Names of classes as a confusion matrix shows them, and its title, if matplotlib had a glyph for every sign."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Glyph")
        plots.confusion_matrix([[1, 2], [3, 4]], [name, "cat"], path)
        plots.predictions_grid(
            lambda places: IMAGES[places], np.zeros(4, int), np.eye(2)[[0, 0, 1, 1]], [name, "cat"], path
        )
    for figure in figures:
        assert_readable(figure)
    label, _ = figures[0].axes[0].get_yticklabels()
    return label, figures[0].get_suptitle()


def test_signs_that_the_default_font_lacks_are_drawn_with_one_that_has_them(figures, tmp_path):
    sign = next(
        sign
        for sign in sorted(base.glyphs(findfont("STIXGeneral")))
        if sign not in base.glyphs(findfont("DejaVu Sans"))
    )
    figure = Figure()
    figure.text(0.5, 0.5, sign)
    with pytest.warns(UserWarning, match="Glyph"):  # which shows that the default font lacks it
        figure.draw_without_rendering()
    label, note = drawn_without_boxes(f"a {sign}", figures, tmp_path / "p.png")
    assert (label.get_text(), note) == (f"a {sign}", "")
    assert base.font_with(sign) in label.get_fontfamily()


def test_signs_that_no_font_has_are_spelt_out_and_the_title_says_so(figures, tmp_path):
    label, note = drawn_without_boxes(f"a {MISSING} b", figures, tmp_path / "p.png")
    assert label.get_text() == r"a \ue0fff b"
    assert "code point" in note
    assert base.short(10 * MISSING) == r"\ue0fff\ue0fff…\ue0fff"


def test_neither_keras_nor_pyplot_is_imported():
    code = "import sys, common.plots, common.metrics; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"keras", "tensorflow", "matplotlib.pyplot"} & set(done.stdout.split())


def test_group_rates_are_bars_to_the_rate_and_frozen_groups_are_named(figures, tmp_path):
    plots.group_rates(RATES, tmp_path / "p.png")
    (axes,) = figures[0].axes
    tops = [bar.get_y() + bar.get_height() for bar in axes.patches]
    np.testing.assert_allclose(tops[1:], list(RATES.values())[1:])
    assert axes.patches[0].get_height() == 0
    assert [text.get_text() for text in axes.texts] == ["frozen", "1e-05", "5e-05", "0.0001", "0.0005", "0.001"]


def test_embeddings_show_every_point_at_one_unit_of_both_axes(figures, tmp_path):
    panels = make_embeddings(10)
    plots.embeddings(panels, np.arange(50) % 10, NAMES[10], tmp_path / "p.png")
    for axes, points in zip(figures[0].axes, panels.values(), strict=True):
        drawn = np.concatenate([part.get_offsets() for part in axes.collections])
        assert len(axes.collections) == 10
        assert sorted(map(tuple, drawn)) == sorted(map(tuple, points))
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert right - left == pytest.approx(top - bottom)
        assert (points > [left, bottom]).all()
        assert (points < [right, top]).all()
