"""What a reader gets of hinge_svm: the two losses compared, and how they fall by step."""

from pathlib import Path

from common.plots.base import BLUE, LEGEND_BELOW, ORANGE, empty_figure, save_figure
from common.report import Headline, Pair, Report, Runs

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


REPORT = Report(
    pairs=(Pair({"preset": "best", "loss": "weston_watkins"}, {"preset": "best", "loss": "crammer_singer"}),),
    figures=(validation_loss,),
    headline=Headline({"preset": "best", "dataset": "cifar10", "loss": "weston_watkins"}),
)
