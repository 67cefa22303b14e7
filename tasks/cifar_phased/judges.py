"""What the claims about cifar_phased rest on: numbers of a run's record, and which runs may be compared."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from common.claims import Finding, Judge, by_setting, named, of_each
from common.comparison import Side
from common.measured import TEST_ACCURACY
from common.outcomes import unpacked
from common.report import Pair
from common.selection import Group, Runs
from common.words import weights


@dataclass(frozen=True)
class FromTheSameData:
    """Groups that a pair puts side by side, and whose weights were trained on the same data."""

    pair: Pair

    def matches(self, runs: Runs) -> list[tuple[Group, Group]]:
        """Every two groups to compare."""
        found = self.pair.matches(runs)
        return [both for both in found if len({weights(group.config.get("weights")) for group in both}) == 1]


# --- comparing groups


def most_in_the_last(pair: FromTheSameData, phases: Sequence[str]) -> Judge:
    """One side's lead in test accuracy is larger after the last phase than after each one before."""

    def judge(runs: Runs) -> Finding:
        settings, found = pair.matches(runs.completed), []
        for both in settings:
            last, more = leads(both, phases[-1]), {}
            for phase in phases[:-1]:
                before = leads(both, phase)
                each = [last[seed] - before[seed] for seed in sorted(last.keys() & before.keys())]
                more[f"more than after {phase.replace('_', ' ')}"] = of_each(each, " points")
            found.append(named(more))
        return by_setting(settings, found)

    return judge


def leads(both: tuple[Group, Group], phase: str) -> dict[int, float]:
    """One side's test accuracy minus the other's after a phase, in points, by seed."""
    one, other = (Side(group.completed, f"{phase} {TEST_ACCURACY.name}").values for group in both)
    return {seed: one[seed] - other[seed] for seed in one.keys() & other.keys()}


# --- numbers of one run's record


def rows_of(record: Mapping, phase: str) -> list[Mapping]:
    """The epochs of a phase."""
    return [row for row in record["history"] if row["phase"] == phase]


def last_phase(record: Mapping) -> list[Mapping]:
    """The epochs of the phase that is reported."""
    return rows_of(record, list(record["metrics"]["phases"])[-1])


def reported(record: Mapping) -> Mapping:
    """The epoch that is reported. Records of the first protocol know the best one alone."""
    phase = list(record["metrics"]["phases"].values())[-1]
    kind = record["metrics"].get("reported")
    epoch = phase[kind]["epoch"] if kind else phase["best_epoch"]
    return next(row for row in last_phase(record) if row["epoch"] == epoch)


def gap_of(row: Mapping) -> float:
    """Training minus validation accuracy in points. That of training has dropout and augmentation on."""
    return 100 * (row["accuracy"] - row["val_accuracy"])


def generalisation_gap(record: Mapping) -> float:
    """Training minus validation accuracy in the reported epoch, in points."""
    return gap_of(reported(record))


def training_loss(record: Mapping) -> float:
    """In the reported epoch, with dropout and augmentation on."""
    return float(reported(record)["loss"])


def unsteadiness_of_gap(record: Mapping) -> float:
    """Standard deviation of the generalisation gap over the epochs of the last phase, in points."""
    return statistics.stdev(map(gap_of, last_phase(record)))


def first_epochs(record: Mapping) -> float:
    """Mean validation accuracy (%) of the first three epochs: most of the five in which the head alone trains."""
    return 100 * statistics.fmean(row["val_accuracy"] for row in record["history"][:3])


def rise_at_the_end(record: Mapping) -> float:
    """Mean validation accuracy of the last third of the last phase minus that of the third before, in points."""
    accuracies = [100 * row["val_accuracy"] for row in last_phase(record)]
    third = len(accuracies) // 3  # of 15 epochs 5, so that one lucky epoch does not decide
    return statistics.fmean(accuracies[-third:]) - statistics.fmean(accuracies[-2 * third : -third])


def fall_of_loss(record: Mapping) -> float:
    """Training loss of the first epoch of the first phase minus that of its tenth."""
    losses = [row["loss"] for row in first_phase(record)]
    return float(losses[0] - losses[:10][-1])


def first_phase(record: Mapping) -> list[Mapping]:
    """The epochs of the first phase."""
    return rows_of(record, record["history"][0]["phase"])


def until_the_floor(record: Mapping) -> list[Mapping]:
    """The epochs until the last phase's rate first reaches its floor, from which a cosine may rise again."""
    *before, last = record["config"]["phases"]
    descent = last["cosine_epochs"] or last["epochs"] - last["warmup_epochs"]
    return record["history"][: sum(phase["epochs"] for phase in before) + last["warmup_epochs"] + descent]


def least_rise(record: Mapping) -> float:
    """The least rise in mean validation accuracy from one fifth of the epochs to the next, in points.

    Of those until the rate's floor. Later fifths differ in their rate by up to six times, which would decide.
    """
    accuracies = np.array([100 * row["val_accuracy"] for row in until_the_floor(record)])
    means = [part.mean() for part in np.array_split(accuracies, 5)]  # of 60 epochs 12 each
    return float(min(after - before for before, after in pairwise(means)))


def test_above_validation(record: Mapping) -> float:
    """Test minus validation accuracy, in points."""
    return 100 * (record["metrics"]["test"]["accuracy"] - record["metrics"]["validation"]["accuracy"])


def scores(record: Mapping, split: str) -> Sequence[Mapping]:
    """The scores of each class on a split, in the order of the classes."""
    return record["metrics"][split]["per_class"]


def confusions_above_chance(true: str, others: Sequence[str]) -> Callable[[Mapping], float | None]:
    """Of a class's wrong predictions the share within some classes, minus what chance would give, in points."""

    def number(record: Mapping) -> float | None:
        names = [own["class"] for own in scores(record, "test")]
        if "outcomes" not in record or true not in names:
            return None
        labels, predicted, _ = unpacked(record["outcomes"])
        wrong = predicted[(labels == names.index(true)) & (predicted != labels)]
        if not len(wrong):
            return None
        within = np.isin(wrong, [names.index(other) for other in others]).mean()
        return float(100 * (within - len(others) / (len(names) - 1)))

    return number


def weakest(*classes: str) -> Callable[[Mapping], float | None]:
    """The lowest F1 among the other classes minus the highest among these, in points."""

    def number(record: Mapping) -> float | None:
        f1 = {own["class"]: 100 * own["f1"] for own in scores(record, "test")}
        if not set(classes) < set(f1):
            return None
        return min(f1[name] for name in f1 if name not in classes) - max(f1[name] for name in classes)

    return number


def channels_alike(record: Mapping) -> bool | None:
    """Means and deviations of the normalised channels differ by less than 0.2, which Cohen (1988) calls small.

    Both are in units of ImageNet's standard deviation, by which pixels are divided. Older records have `intensities` of
    256 images, whose channels differ by chance: too few to judge by.
    """
    found = record["metrics"].get("channels")
    return None if found is None else all(max(values) - min(values) < 0.2 for values in found.values())


def balanced(record: Mapping) -> bool | None:
    """Classes have equally many training, validation and test images, but for one: a share may not be whole."""
    counts = record["metrics"].get("class_counts")
    return None if counts is None else all(max(own) - min(own) <= 1 for own in counts.values())
