"""Every metric of a run by its name in the tables, with its unit, its digits and which way is better."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal


def whole_or_two(values: Sequence[float]) -> int:
    """Digits after the point of a count, which is whole in every run; of anything else two."""
    return 0 if all(float(value).is_integer() for value in values) else 2


def by_size(values: Sequence[float]) -> int:
    """Digits after the point of a loss, by the largest of its values."""
    largest = max(values)
    if 0 < largest < 1e-4:
        return 1 - math.floor(math.log10(largest))
    return 0 if largest >= 1000 else 4 if largest > 0.1 else 5


@dataclass(frozen=True)
class Metric:
    """A number that runs are compared by."""

    name: str
    """As the tables have it, with its unit. In a task's report a `*` stands for any text, as the name of a class."""
    unit: str = ""
    """% or images/s; none for a count or a loss."""
    better: Literal["higher", "lower"] | None = None
    """None: neither way, as the number of components that hold 95 % of the variance."""
    digits: int | Callable[[Sequence[float]], int] = whole_or_two
    """Digits after the point: a number, or a function of the values of all runs of a row."""
    detail: bool = False
    """Left to the full table by the README, unless a source has published it."""

    def decimals(self, values: Sequence[float]) -> int:
        """Digits after the point of these values."""
        return self.digits if isinstance(self.digits, int) else self.digits(values)


def percent(name: str, *, detail: bool = False) -> Metric:
    """A metric in percent that should be high: an accuracy, an F1."""
    return Metric(name, "%", "higher", 2, detail)


def loss(name: str, *, detail: bool = False) -> Metric:
    """A metric that should be low."""
    return Metric(name, "", "lower", by_size, detail)


TEST_ACCURACY, TEST_LOSS = percent("test accuracy (%)"), loss("test loss")
# Where metrics.json has what every task may measure; fractions there are percent here.
METRICS: Mapping[tuple[str, str], Metric] = {
    ("test", "accuracy"): TEST_ACCURACY,
    ("test", "macro_f1"): percent("test macro F1 (%)", detail=True),
    ("test", "weighted_f1"): percent("test weighted F1 (%)", detail=True),
    ("test", "loss"): TEST_LOSS,
    ("validation", "accuracy"): percent("validation accuracy (%)"),
    ("validation", "loss"): loss("validation loss", detail=True),
    ("train", "accuracy"): percent("train accuracy (%)"),
    ("train", "loss"): loss("train loss"),
    ("running", "loss"): loss("running train loss"),
}
SPEED = Metric("images/s", "images/s", "higher", 1, detail=True)


def measured(metrics: Mapping, own: Sequence[Metric] = ()) -> dict[Metric, float]:
    """Every metric of one run, from its metrics.json; `own` are the metrics that its task declares.

    What no one declares is neither better nor worse.
    """
    values = {}
    for (split, key), metric in METRICS.items():
        if key in metrics.get(split, {}):
            values[metric] = float(metrics[split][key]) * (100 if metric.unit == "%" else 1)
    for name, value in metrics.get("by_name", {}).items():
        values[declared(name, own) or Metric(name)] = float(value)
    return values | dict(of_phases(metrics.get("phases", {})))


def declared(name: str, own: Sequence[Metric]) -> Metric | None:
    """The first of a task's metrics that has this name."""
    return next((replace(metric, name=name) for metric in own if fnmatchcase(name, metric.name)), None)


def of_phases(phases: Mapping[str, Mapping]) -> Iterator[tuple[Metric, float]]:
    """Speed; of several phases also the accuracies after each, or the losses of what is no classifier."""
    if len(phases) == 1:
        (phase,) = phases.values()
        yield SPEED, float(phase["images_per_second"])
        return
    for name, phase in phases.items():
        for split in ("validation", "test"):
            if "accuracy" in phase[split]:
                yield percent(f"{name} {split} accuracy (%)"), 100 * float(phase[split]["accuracy"])
            else:
                yield loss(f"{name} {split} loss"), float(phase[split]["loss"])
        yield replace(SPEED, name=f"{name} {SPEED.name}"), float(phase["images_per_second"])


def by_name(metrics: Mapping) -> dict[str, float]:
    """Every metric of one run by its name in the tables."""
    return {metric.name: value for metric, value in measured(metrics).items()}
