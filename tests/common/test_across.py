"""Figures across runs that several tasks draw: what a line, a panel and a legend hold."""

import numpy as np
import pytest
from made_groups import group, runs

from common.plots import across


def trained(epochs=1, **row):
    """A run of one phase."""
    rows = [{"phase": "train", "loss": 1.0, "val_loss": 1.5, **row}] * epochs
    return {"metrics": {"phases": {"train": {"images_per_second": 1.0}}}, "history": rows}


def test_nothing_is_drawn_of_nothing(drawn, tmp_path):
    for draw in (across.curves, across.regimes):
        draw(runs(), tmp_path / "p.png")
    assert drawn == []


def test_curves_leave_out_what_has_no_accuracy(drawn, tmp_path):
    both = runs(group("base", "a", trained(val_accuracy=0.5)), group("contrastive", "a", trained(val_loss=1.0)))
    across.curves(both, tmp_path / "p.png")
    assert len(drawn[0].axes) == 3


def test_curves_have_a_panel_a_metric_with_one_range_of_losses_and_the_phases_marked(drawn, tmp_path):
    rows = [
        {"phase": phase, "loss": 3.0 - n, "val_loss": 4.0 - n, "val_accuracy": 0.2 * n} for n, phase in enumerate("ab")
    ]
    own = group("s", "dataset=cifar10", {"history": rows}, dataset="cifar10")
    across.curves(runs(own), tmp_path / "p.png")
    training, validation, accuracy = drawn[0].axes
    assert [axes.get_lines()[-1].get_ydata().tolist() for axes in drawn[0].axes] == [[3, 2], [4, 3], [0, 20]]
    assert training.get_ylim() == validation.get_ylim()
    assert [[text.get_text() for text in axes.texts] for axes in drawn[0].axes] == [["a", "b"]] * 3
    assert accuracy.get_xlabel() == "Epoch, counted through all phases"


def test_a_metric_that_was_not_recorded_has_no_panel(drawn, tmp_path):
    run = {"history": [{"phase": "train", "loss": 1.0, "val_accuracy": 0.5}]}
    across.curves(runs(group("s", "a", run)), tmp_path / "p.png")
    assert [axes.get_ylabel() for axes in drawn[0].axes] == ["Training loss", "Validation accuracy (%)"]


def test_data_sets_have_rows_of_their_own_and_one_seed_has_no_band(drawn, tmp_path):
    run = trained(2, val_accuracy=0.5)
    every = [group("s", f"dataset={data}", *[run] * n, dataset=data) for data, n in (("cifar10", 1), ("mnist", 2))]
    across.curves(runs(*every), tmp_path / "p.png")
    assert [part.get_suptitle() for part in drawn[0].subfigs] == [
        "s, CIFAR-10, 2 epochs: single runs (n = 1)",
        "s, MNIST, 2 epochs: mean of n seeds, band of one standard deviation",
    ]
    assert [len(axes.collections) for axes in drawn[0].axes] == [0, 0, 0, 1, 1, 1]


def test_a_published_test_accuracy_is_marked_in_its_lines_colour(drawn, tmp_path):
    every = [group("s", f"k={k}", trained(2, val_accuracy=0.5), k=k) for k in (1, 2)]
    across.curves(runs(*every), tmp_path / "p.png", {("s", "k=2", "test accuracy (%)"): {"published": "75.5"}})
    one, two, mark = drawn[0].axes[2].get_lines()
    assert set(mark.get_ydata()) == {75.5}
    assert mark.get_color() == two.get_color() != one.get_color()
    assert [text.get_text() for text in drawn[0].subfigs[0].legends[0].get_texts()][-1] == across.PUBLISHED


def test_curves_of_other_lengths_have_a_row_of_their_own(drawn, tmp_path):
    every = [("s", "a", 2), ("s", "b", 3), ("s", "c", 2), ("t", "a", 1)]
    groups = [group(preset, setting, trained(epochs, val_accuracy=0.5)) for preset, setting, epochs in every]
    across.curves(runs(*groups), tmp_path / "p.png")
    titles = [part.get_suptitle().partition(":")[0] for part in drawn[0].subfigs]
    assert titles == ["s, 2 epochs", "s, b, 3 epochs", "t, a, 1 epoch"]
    assert [len(axes.get_lines()) for axes in drawn[0].axes] == [2, 2, 2, 1, 1, 1, 1, 1, 1]
    one = group("s", "epochs=1 k=1", trained(1, val_accuracy=0.5))
    across.curves(runs(one), tmp_path / "p.png")
    assert drawn[1].subfigs[0].get_suptitle() == "s, k 1, 1 epoch: single runs (n = 1)"
    own = group("s", "phases.0.epochs=2 epochs=2 k=1", trained(2, val_accuracy=0.5))
    across.curves(runs(own), tmp_path / "p.png")
    assert drawn[2].subfigs[0].get_suptitle() == "s, phases 0 epochs 2, k 1, 2 epochs: single runs (n = 1)"


def test_regimes_of_batch_norm_are_drawn_a_line_each_with_the_phases_marked(drawn, tmp_path):
    def run(*accuracies):
        rows = [
            {
                "phase": phase,
                "epoch": epoch,
                "loss": 1.0,
                "val_loss": 1.0,
                "val_accuracy": accuracies[2 * number + epoch - 1],
            }
            for number, phase in enumerate(("head", "full"))
            for epoch in (1, 2)
        ]
        return {"history": rows}

    def regime(norm, *own, dataset="cifar10"):
        setting = f"dataset={dataset} limit_train=5000 batch_norm={norm}"
        return group("three_phase", setting, *own, dataset=dataset, batch_norm=norm)

    every = runs(
        regime("keep", run(0.5, 0.6, 0.7, 0.8), run(0.7, 0.8, 0.9, 1.0)),
        regime("layer", run(0.5, 0.6, 0.3, 0.2)),
        regime("keep", run(0.1, 0.1, 0.1, 0.1), dataset="cifar100"),
        group("three_phase", "dataset=cifar10", run(0.1, 0.1, 0.1, 0.1), dataset="cifar10"),  # of older code
    )
    across.regimes(every, tmp_path / "p.png")
    (part,) = drawn[0].subfigs
    shared = "three_phase, CIFAR-10, 5,000 training images: mean of n seeds, band of one standard deviation"
    assert part.get_suptitle() == shared
    _, _, accuracies = drawn[0].axes
    found = {line.get_label(): line.get_ydata() for line in accuracies.lines if line.get_label()[0] != "_"}
    lines = {label.replace("\N{NO-BREAK SPACE}", " "): values for label, values in found.items()}
    assert lines.keys() == {"batch norm keeps its statistics (n = 2)", "batch norm by layer (n = 1)"}
    np.testing.assert_allclose(lines["batch norm keeps its statistics (n = 2)"], [60, 70, 80, 90])
    assert {text.get_text() for text in accuracies.texts} == {"head", "full"}


def named(**settings):
    """What `across.named` gives, with numbers of runs and plain spaces."""
    groups = [group("p", setting, *[{}] * count) for setting, count in settings.items()]
    common, legend = across.named(groups)
    return common, [text.replace("\N{NO-BREAK SPACE}", " ") for text in legend]


def test_a_legend_names_what_tells_settings_apart_and_the_title_the_rest():
    weights = "dataset=d weights=w.h5@sha256:0123456789abcdef"
    assert named(**{f"{weights} block=1": 2, f"{weights} block=$2": 1}) == (
        "d, weights w",
        ["block 1 (n = 2)", r"block \$2 (n = 1)"],
    )
    assert named(**{"dataset=d": 1}) == ("d", ["n = 1"])
    assert named(**{"a=1": 1, "a=1 b=2": 1})[1] == ["as the preset (n = 1)", "b 2 (n = 1)"]


def test_what_one_setting_says_is_said_of_all():
    """Also of one that has it from its preset: who reads of 64 pixels beside nothing would not know of 96."""
    small = group("p", "backbone=resnet18 image_size=64", {}, backbone="resnet18", image_size=64)
    usual = group("p", "backbone=mobilenet_v2", {}, backbone="mobilenet_v2", image_size=96)
    legend = [text.partition(" (")[0] for text in across.named([small, usual])[1]]
    assert legend == ["ResNet-18, 64 pixels", "MobileNetV2, 96 pixels"]


@pytest.mark.parametrize("length", range(85, 100))
def test_a_number_of_seeds_is_not_cut_by_the_end_of_a_line(length):
    legend = named(**{f"a={'x' * length}": 1, "b=1": 1})[1]
    assert legend[0].endswith(("x (n = 1)", "x\n(n = 1)"))
