"""What a reader gets of hinge_svm: the two losses compared, how they fall by step, and what the templates look like."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from common.claims import Claim, Finding, Judge, compared, named, of_each, positive, tally
from common.comparison import Side
from common.plots.base import (
    BLUE,
    GREEN,
    LEGEND_BELOW,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    empty_figure,
    save_figure,
)
from common.report import Headline, Pair, Part, Pictures, Report, Table
from common.selection import Fields, Runs
from tasks.hinge_svm.train import PRESETS

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
BEST = 3  # its place among them
FIRST = {"rate": 1e-7, "regularisation": 5e4, "norm": "L2", "batch_size": 200}  # of the source's first run
BATCHES = {50: VERMILION, 100: PURPLE, 200: SKY, 400: GREEN}  # those of the eight settings
LOSSES: Mapping[object, str] = {"weston_watkins": "summed hinge", "crammer_singer": "printed maximum"}
SUM, MAXIMUM = {"loss": "weston_watkins"}, {"loss": "crammer_singer"}
CIFAR10 = {"preset": "best", "dataset": "cifar10"}
FROM_ZERO = {"initial_deviation": 0.0}  # then there is no penalty on random weights that decays
VALIDATION = "validation accuracy (%)"


def fields(place: int) -> dict[str, object]:
    """A setting as config fields."""
    rate, regularisation, norm, batch = SETTINGS[place]
    return {"rate": rate, "regularisation": regularisation, "norm": norm, "batch_size": batch}


# --- tables

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
        "summed hinge": Part(SUM, metric=VALIDATION),
        "printed maximum": Part(MAXIMUM, metric=VALIDATION),
    },
    corner="setting",
    best="summed hinge",
)


# --- claims


def best_of_eight(runs: Runs) -> Finding:
    """Whether the validation accuracy of setting 4 is above that of each other setting, with either loss."""
    found = {}
    for loss, name in LOSSES.items():
        settings = [runs.chosen({**CIFAR10, "loss": loss, **fields(place)}) for place in range(len(SETTINGS))]
        for place, other in enumerate(settings):
            if place != BEST:
                found[f"{name}, setting {place + 1}"] = more_accurate(settings[BEST], other)
    return tally(found)


def more_accurate(one: Runs, other: Runs) -> Finding:
    """Whether the validation accuracy of one setting is above the other's; one whose runs all diverged has none."""
    if one and other and bool(one.completed) != bool(other.completed):
        return Finding("holds" if one.completed else "fails", "diverged", 0.0)
    return compared(Side(tuple(one.completed), VALIDATION), Side(tuple(other.completed), VALIDATION))


def with_either_loss(judge: Callable[[Fields], Judge]) -> Judge:
    """A judge of the best setting with either loss; its finding names them."""

    def judge_both(runs: Runs) -> Finding:
        return named({name: judge({**CIFAR10, "loss": loss})(runs) for loss, name in LOSSES.items()})

    return judge_both


def falls(key: str, since: int = 1) -> Callable[[Mapping], float]:
    """By how much a loss falls from an epoch, counted from 1, to the last."""
    return lambda record: record["history"][since - 1][key] - record["history"][-1][key]


def swing(record: Mapping) -> float:
    """Standard deviation of the validation loss over the readings of the second half, where it hardly falls any more.

    A reading is one of all validation images, every 100 steps; 3 of them with batches of 400, 27 with batches of 50.
    The sample standard deviation of n readings is too small by c4(n) on average, for 3 by 11 %: divided by that.
    """
    rows = record["metrics"]["iterations"]
    half = record["config"]["epochs"] / 2 * record["metrics"]["images"]["train"] / record["config"]["batch_size"]
    losses = [row["loss"] for row in rows if row["step"] > half]
    return statistics.stdev(losses) / c4(len(losses))


def c4(n: int) -> float:
    """Mean of the sample standard deviation of n normal values, in units of theirs."""
    return math.sqrt(2 / (n - 1)) * math.gamma(n / 2) / math.gamma((n - 1) / 2)


def steadier(runs: Runs) -> Finding:
    """Whether the validation loss swings less with each doubling of the batch, all else as in the best setting."""
    found = {}
    for loss, name in LOSSES.items():
        by_batch = {batch: swings(runs.chosen({**CIFAR10, "loss": loss, "batch_size": batch})) for batch in BATCHES}
        for small, large in pairwise(BATCHES):
            shared = sorted(by_batch[small].keys() & by_batch[large].keys())
            less = [by_batch[small][seed] - by_batch[large][seed] for seed in shared]
            found[f"{name}, {small} to {large}"] = of_each(less)
    return tally(found)


def swings(runs: Runs) -> dict[int, float]:
    """The swing of each run by its seed."""
    return {record["config"]["seed"]: swing(record) for record in runs.completed}


RED, GREEN_CHANNEL, BLUE_CHANNEL = range(3)


def colour(name: str, channel: int) -> Callable[[Mapping], float | None]:
    """By how much the mean weight of a channel exceeds that of the stronger other one, in standard deviations."""

    def excess(record: Mapping) -> float | None:
        if "templates" not in record["metrics"]:
            return None
        weights: Sequence[float] = record["metrics"]["templates"][name]["colour"]
        return weights[channel] - max(weight for place, weight in enumerate(weights) if place != channel)

    return excess


def two_headed(record: Mapping) -> float | None:
    """By how much more symmetric the horse is than each other class, at least: correlation with its mirror image."""
    if "templates" not in record["metrics"]:
        return None
    mirrors = {name: template["mirror"] for name, template in record["metrics"]["templates"].items()}
    horse = mirrors.pop("horse")
    return float(horse - max(mirrors.values()))


def of_best(text: str, number: Callable[[Mapping], float | None], **start: object) -> Claim:
    """A claim that a number of the best setting, from another start perhaps, is above 0 with either loss."""
    return Claim("004", text, with_either_loss(lambda of: positive(number, {**of, **start})))


CLAIMS = (
    Claim("004", "Setting 4 is the best of the eight (by validation accuracy, with either loss)", best_of_eight),
    of_best(
        "The training loss falls (first epoch less last; here and in the next two from W = 0, as the penalty on a "
        "random W falls whatever is learnt)",
        falls("loss"),
        **FROM_ZERO,
    ),
    of_best("The validation loss falls", falls("val_loss"), **FROM_ZERO),
    of_best(
        "Without overfitting: it falls in the second half too (third of six epochs less last)",
        falls("val_loss", since=3),
        **FROM_ZERO,
    ),
    Claim("004", "Larger batches are steadier (all else as in setting 4)", steadier),
    of_best("The template of a ship is blue (blue less the stronger other channel)", colour("ship", BLUE_CHANNEL)),
    of_best("That of a plane is blue", colour("airplane", BLUE_CHANNEL)),
    of_best("That of a frog is green", colour("frog", GREEN_CHANNEL)),
    of_best("That of a horse has two heads (its symmetry less that of the most symmetric other class)", two_headed),
    of_best("That of a car is red", colour("automobile", RED)),
)


# --- figures


def validation_loss(runs: Runs, path: Path) -> None:
    """Draw the losses of the best setting by step, norm included; a line a seed. Also validation from W = 0."""
    best = runs.chosen({**CIFAR10, "loss": tuple(LOSSES)})
    zero = runs.chosen({**CIFAR10, "loss": tuple(LOSSES), **FROM_ZERO})
    figure = empty_figure(10, 5)
    figure.suptitle("The best setting while it trains. The two losses have scales of their own")
    drawn: dict[str, Line2D] = {}
    for axes, (loss, name) in zip(figure.subplots(1, 2), LOSSES.items(), strict=True):
        own = best.where(loss=loss)
        for record in own:
            drawn |= losses_by_step(axes, record)
        for record in zero.where(loss=loss):
            drawn["validation, from W = 0"] = validation_by_step(axes, record, GREEN)
        axes.set(title=f"{name} (n = {len(own)}, a line a seed)", xlabel="Step", ylabel=f"Loss: {name}, norm included")
        axes.set_xlim(left=0)
        axes.set_axisbelow(True)
        axes.grid(color="0.9")
    if drawn:
        figure.legend(drawn.values(), drawn, ncols=3, **LEGEND_BELOW)
        save_figure(figure, path)


def validation_by_step(axes: Axes, record: Mapping, colour: str) -> Line2D:
    """Draw the validation loss of a run."""
    rows = record["metrics"]["iterations"]
    steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
    (line,) = axes.plot(steps, losses, "o-", markersize=3, color=colour, alpha=0.7)
    return line


def losses_by_step(axes: Axes, record: Mapping) -> dict[str, Line2D]:
    """Draw both losses of a run. Returns a line of each by what it is."""
    every = record["config"]["validate_every"]
    drawn = {"validation, every 100 steps (not read at step 0)": validation_by_step(axes, record, BLUE)}
    rows = [row for row in record["metrics"]["iterations"] if "train_loss" in row]  # which older runs lack
    if rows:
        # A mean of the steps since the last reading belongs in their middle.
        middle, losses = [row["step"] - every / 2 for row in rows], [row["train_loss"] for row in rows]
        (line,) = axes.plot(middle, losses, "s--", markersize=3, color=ORANGE, alpha=0.7)
        drawn["training, the mean of 100 steps, at their middle"] = line
    return drawn


def batches(runs: Runs, path: Path) -> None:
    """Draw the validation loss of the best setting with other batches by epoch, norm included; a line a seed."""
    found = runs.chosen({**CIFAR10, "loss": tuple(LOSSES), "batch_size": tuple(BATCHES)})
    if len(found.by("batch_size")) < 2:
        return
    figure = empty_figure(10, 5)
    figure.suptitle("Setting 4 with other batches: how steady the validation loss is")
    drawn: dict[str, Line2D] = {}
    for axes, (loss, name) in zip(figure.subplots(1, 2), LOSSES.items(), strict=True):
        for batch, colour in BATCHES.items():
            own = found.where(loss=loss, batch_size=batch)
            for record in own:
                rows, images = record["metrics"]["iterations"], record["metrics"]["images"]["train"]
                places = [row["step"] * batch / images for row in rows]
                losses = [row["loss"] for row in rows]
                (drawn[f"batch of {batch}"],) = axes.plot(places, losses, color=colour, alpha=0.7, linewidth=1)
        counts = sorted({len(own) for own in found.where(loss=loss).by("batch_size").values()})
        axes.set(
            title=f"{name} (n = {' and '.join(map(str, counts))}, a line a seed)",
            xlabel="Epoch",
            ylabel=f"Validation loss: {name}, norm included",
        )
        axes.set_xlim(left=0)
        axes.set_axisbelow(True)
        axes.grid(color="0.9")
    figure.legend(drawn.values(), drawn, ncols=4, **LEGEND_BELOW)
    save_figure(figure, path)


REPORT = Report(
    tables=(BEST_SETTING, EIGHT_SETTINGS),
    pairs=tuple(
        Pair(
            {**CIFAR10, **setting, **SUM},
            {**CIFAR10, **setting, **MAXIMUM},
            words=("summed hinge", "printed maximum"),
        )
        for setting in (fields(BEST), FIRST)
    ),
    claims=CLAIMS,
    figures=(validation_loss, batches),
    pictures=Pictures(
        {"preset": "best", "dataset": "cifar10", "loss": "weston_watkins"},
        {
            "templates": "The weights of each class as an image",
            "confusion": "Confusion matrix of the test images",
            "predictions": "Test images and what the classifier makes of them",
        },
    ),
    headline=Headline({"preset": "best", "dataset": "cifar10", "loss": "crammer_singer"}),
    words={"loss": LOSSES, "norm": "{} norm", "regularisation": "lambda {}", "initial_deviation": "W from {}"},
    presets=PRESETS,
)
