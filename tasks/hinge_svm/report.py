"""What a reader gets of hinge_svm: the two losses compared, and how they fall by step."""

from pathlib import Path

from common.plots.base import BLUE, LEGEND_BELOW, ORANGE, empty_figure, save_figure
from common.report import Headline, Pair, Part, Pictures, Report, Table
from common.selection import Runs

LOSSES = {"crammer_singer": "Crammer-Singer", "weston_watkins": "Weston-Watkins"}
CURVES = (
    ("train_loss", "training: mean of the steps since the last reading", ORANGE, "--"),
    ("loss", "validation: all of its images", BLUE, "-"),
)


def validation_loss(runs: Runs, path: Path) -> None:
    """Draw the losses of hinge_svm's best setting by step: validation, and training if it was read; a line a seed."""
    best = runs.where(preset="best", dataset="cifar10").as_preset("dataset", "loss")
    figure = empty_figure(10, 5)
    figure.suptitle("The best setting: loss while training, norm included")
    drawn = {}
    for axes, (loss, name) in zip(figure.subplots(1, 2), LOSSES.items(), strict=True):
        own = best.where(loss=loss)
        for key, label, colour, style in CURVES:
            for record in own:
                rows = [row for row in record["metrics"]["iterations"] if key in row]
                steps, losses = ([row[column] for row in rows] for column in ("step", key))
                if rows:
                    (drawn[label],) = axes.plot(steps, losses, style, color=colour, alpha=0.7, label=label)
        axes.set(title=f"{name} (n = {len(own)}, a line a seed)", xlabel="Step", ylabel="Loss")
        axes.set_axisbelow(True)
        axes.grid(color="0.9")
    if drawn:
        figure.legend(drawn.values(), drawn, ncols=2, **LEGEND_BELOW)
        save_figure(figure, path)


# The source's eight settings, in its order: rate, lambda, norm, batch.
SETTINGS = (
    (1e-8, 1e4, "L1", 50),
    (1e-7, 3e4, "L2", 100),
    (3e-7, 5e4, "L1", 200),
    (3e-7, 1e4, "L2", 400),
    (5e-7, 8e4, "L1", 100),
    (8e-7, 1e5, "L2", 200),
    (1e-6, 5e4, "L1", 200),
    (1e-5, 5e5, "L2", 400),
)
BEST, DIVERGES = 3, 7  # places among them
SUM, MAXIMUM = {"loss": "weston_watkins"}, {"loss": "crammer_singer"}
CIFAR10 = {"preset": "best", "dataset": "cifar10"}


def fields(place: int) -> dict[str, object]:
    """A setting as config fields."""
    rate, regularisation, norm, batch = SETTINGS[place]
    return {"rate": rate, "regularisation": regularisation, "norm": norm, "batch_size": batch}


BEST_SETTING = Table(
    "The source's best setting: accuracy (%) at the epoch with the highest validation accuracy",
    of=CIFAR10,
    rows={split: Part(metric=f"{split} accuracy (%)") for split in ("train", "validation", "test")},
    columns={"source": Part(SUM, shows="published"), "summed hinge": Part(SUM), "printed maximum": Part(MAXIMUM)},
)
EIGHT_SETTINGS = Table(
    "The source's eight settings, in its order: validation accuracy (%)",
    of=CIFAR10,
    rows={str(place + 1): Part(fields(place)) for place in range(len(SETTINGS))},
    columns={
        "rate": Part(metric="rate", shows="setting"),
        "lambda": Part(metric="regularisation", shows="setting"),
        "norm": Part(metric="norm", shows="setting"),
        "batch": Part(metric="batch_size", shows="setting"),
        "summed hinge": Part(SUM, metric="validation accuracy (%)"),
        "printed maximum": Part(MAXIMUM, metric="validation accuracy (%)"),
    },
    corner="setting",
    best="summed hinge",
)


REPORT = Report(
    tables=(BEST_SETTING, EIGHT_SETTINGS),
    pairs=(Pair({"preset": "best", **SUM}, {"preset": "best", **MAXIMUM}, words=("summed hinge", "printed maximum")),),
    figures=(validation_loss,),
    pictures=Pictures(
        {"preset": "best", "dataset": "cifar10", "loss": "weston_watkins"},
        {
            "templates": "The weights of each class as an image",
            "confusion": "Confusion matrix of the test images",
            "predictions": "Test images and what the classifier makes of them",
        },
    ),
    headline=Headline({"preset": "best", "dataset": "cifar10", "loss": "weston_watkins"}),
    words={
        "loss": {"weston_watkins": "summed hinge", "crammer_singer": "printed maximum"},
        "norm": "{} norm",
        "regularisation": "lambda {}",
    },
)
