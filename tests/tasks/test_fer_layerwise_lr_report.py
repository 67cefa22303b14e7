"""The claim about fer_layerwise_lr is judged, and its figures drawn, from records made by hand."""

import made_groups
import pytest
from matplotlib.container import BarContainer

from common.claims import NOT_TESTED
from tasks.fer_layerwise_lr import report

(CLAIM,) = report.REPORT.claims


def run(*f1):
    """A run with this F1 of each class."""
    scores = [{"class": name, "f1": own, "support": 9} for name, own in zip(report.CLASSES, f1, strict=True)]
    test = {"per_class": scores, "macro_f1": sum(f1) / len(f1), "accuracy": 0.5, "loss": 1.0}
    rows = [{"phase": "train", "loss": 1.0, "val_loss": 1.0, "val_accuracy": 0.5}]
    by_name = {report.f1_of(name): 100 * own for name, own in zip(report.CLASSES, f1, strict=True)}
    return {
        "history": rows,
        "metrics": {"test": test, "by_name": by_name, "phases": {"train": {"images_per_second": 1}}},
    }


def arm(preset, *own, weights="imagenet", backbone="resnet18", size=224, more="", **rest):
    config = {"dataset": "fer2013", "weights": weights, "backbone": backbone, "image_size": size, "batch_norm": "keep"}
    setting = " ".join(f"{key}={value}" for key, value in config.items())
    return made_groups.group(preset, f"{setting} {more}".strip(), *own, **config, **rest)


def judged(by_depth, frozen, **fields):
    own = (arm("by_depth", *by_depth, **fields), arm("frozen", *frozen, **fields))
    return CLAIM.judge(made_groups.runs(*own))


def test_one_class_that_loses_makes_the_claim_fail():
    frozen = [run(*[0.4 + d] * 7) for d in (0, 0.01, 0.02)]
    better = [run(*[0.6 + d] * 7) for d in (0, 0.011, 0.02)]
    worse_on_one = [run(*[0.6 + d] * 6, 0.3 + d) for d in (0, 0.011, 0.02)]
    assert judged(better, frozen).word == "holds"
    assert judged(worse_on_one, frozen).word == "fails"
    assert judged(better[:1], frozen[:1]).word == "undecided"
    assert judged(better, frozen).told.count("n = 3") == 7


def test_random_weights_do_not_test_it():
    runs = [run(*[0.4] * 7)]
    assert judged(runs, runs, weights="none") == NOT_TESTED


def test_arms_are_drawn_by_class_a_panel_a_network_with_what_is_published(drawn, tmp_path):
    runs = made_groups.runs(
        arm("by_depth", run(*[0.4] * 7), run(*[0.6] * 7)),
        made_groups.group("demo", "dataset=digits", run(*[1.0] * 7), dataset="digits"),
        arm("frozen", run(*[0.1] * 6, 0.8)),
        arm("frozen", run(*[0.2] * 7), weights="none"),
        arm("one_rate", run(*[0.3] * 7), weights="none"),
        arm("frozen", run(*[0.9] * 7), more="epochs=1", epochs=1),  # a trial
        arm("frozen", run(*[0.5] * 7), backbone="resnet50"),  # compares nothing
    )
    report.arms(runs, tmp_path / "p.png")
    pretrained, random = drawn[0].axes
    bars = [container for container in pretrained.containers if isinstance(container, BarContainer)]
    heights = {c.get_label().replace("\N{NO-BREAK SPACE}", " "): [bar.get_height() for bar in c] for c in bars}
    assert heights["backbone frozen (n = 1)"] == pytest.approx([10] * 6 + [80, 20])
    assert heights["rates by depth (n = 2)"] == pytest.approx([50] * 8)
    (marks,) = (line for line in pretrained.get_lines() if line.get_label() == report.SOURCE)
    assert marks.get_ydata().tolist() == [32, 6, 25, 60, 46, 40, 59, 38, 54, 49, 46, 83, 58, 51, 77, 59]
    assert report.SOURCE not in [line.get_label() for line in random.get_lines()]
    ticks = [label.get_text() for label in pretrained.get_xticklabels()]
    assert (ticks[0], ticks[-1]) == ("angry\n9 images", "macro\nmean")


def test_curves_have_the_arms_as_lines_and_published_accuracies_in_their_colours(drawn, tmp_path):
    runs = made_groups.runs(
        arm("frozen", run(*[0.1] * 7)), arm("one_rate", run(*[0.2] * 7)), arm("by_depth", run(*[0.3] * 7))
    )
    report.curves(runs, tmp_path / "p.png")
    _, _, accuracies = drawn[0].axes
    assert len(accuracies.get_lines()) == 5
    marks = {line.get_color(): line.get_ydata()[0] for line in accuracies.get_lines()[3:]}
    assert marks == {report.ARMS["frozen"][1]: 45.46, report.ARMS["by_depth"][1]: 62.69}
