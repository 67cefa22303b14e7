"""The figures that every classifier has, in its run directory."""

from common import plots
from common.data import pipeline
from common.data.splits import Dataset
from common.result import Result
from common.runs import Run


def classifier(run: Run, data: Dataset, result: Result) -> None:
    """Draw learning curves, class counts, and what the reported state makes of the test images."""
    plots.learning_curves(
        result.rows, run.figures / "learning_curves.png", result.metrics, test_loss=result.reports_trained_loss
    )
    plots.class_counts(data.counts(), data.class_names, run.figures / "classes.png")
    plots.per_class_scores(result.metrics["test"]["per_class"], run.figures / "per_class.png")
    plots.confusion_matrix(result.confusion["test"], data.class_names, run.figures / "confusion.png")
    test = result.predictions["test"]
    plots.predictions_grid(
        lambda places: pipeline.pictures(data.test, places),
        test.labels,
        test.probabilities,
        data.class_names,
        run.figures / "predictions.png",
    )
