"""The report of hinge_svm: its claims judged, and its figures drawn, by runs made by hand."""

import made_groups
import numpy as np
import pytest

from tasks.hinge_svm import report


def judged(text, *groups):
    """What the runs say of the claim that begins with a text."""
    (claim,) = (claim for claim in report.CLAIMS if claim.text.startswith(text))
    return claim.judge(made_groups.runs(*groups))


def of_loss(loss, *runs, place=report.BEST, **more):
    """Runs of one of the eight settings, with a label as a record has it."""
    own = report.fields(place)
    named = {} if place == report.BEST else own
    config = {"dataset": "cifar10", "loss": loss, **own, "epochs": 6, "validate_every": 100, **more}
    setting = " ".join(f"{key}={config[key]}" for key in ("dataset", "loss", *named, *more))
    return made_groups.group("best", setting, *runs, **config)


def eight_settings(*accuracies, diverging=7):
    """Three seeds of every setting with either loss."""
    groups = []
    for loss in report.LOSSES:
        for place, accuracy in enumerate(accuracies):
            runs = [made_groups.scored(validation={"accuracy": accuracy + 0.001 * seed**2}) for seed in range(3)]
            runs = [{"metrics": {"status": "diverged"}}] * 3 if place == diverging else runs
            groups.append(of_loss(loss, *runs, place=place))
    return groups


def test_setting_4_is_best_of_eight_and_one_that_diverges_has_lost():
    accuracies = [0.12, 0.35, 0.24, 0.37, 0.25, 0.28, 0.25, 0.0]
    assert judged("Setting 4", *eight_settings(*accuracies)).told == "14 of 14 hold"
    beaten = [*accuracies[:5], 0.39, *accuracies[6:]]
    found = judged("Setting 4", *eight_settings(*beaten))
    assert found.word == "fails"
    assert "summed hinge, setting 6: fails, -2 points" in found.told
    assert judged("Setting 4", *eight_settings(*accuracies, diverging=3)).word == "fails"
    partly = [group for group in eight_settings(*accuracies) if group.config["batch_size"] != 50]
    found = judged("Setting 4", *partly)
    assert (found.word, found.told[:13]) == ("undecided", "12 of 14 hold")
    assert judged("Setting 4").word == "not tested"


def epochs(*losses):
    """A run with these validation losses by epoch, and training losses that fall from 2 to 1."""
    return {"history": [{"loss": 2 - step / 5, "val_loss": loss} for step, loss in enumerate(losses)]}


def test_overfitting_is_a_validation_loss_that_rises_in_the_second_half():
    for runs, word in (
        ([epochs(9, 6, 5, 4, 4, last) for last in (3, 3.1)], "holds"),
        ([epochs(9, 6, 5, 6, 7, last) for last in (8, 8.1)], "fails"),
    ):
        groups = [of_loss(loss, *runs) for loss in report.LOSSES]
        assert judged("Without overfitting", *groups).word == "not tested"  # the penalty on a random W falls by itself
        from_zero = [of_loss(loss, *runs, initial_deviation=0.0) for loss in report.LOSSES]
        assert judged("Without overfitting", *groups, *from_zero).word == word
        assert judged("The training loss", *groups).word == "not tested"
        assert judged("The training loss", *from_zero).told.startswith("summed hinge: +1 (1 to 1; n = 2); pri")


def test_losses_fall_from_the_first_epoch_to_the_last():
    for losses, word in (((2, 1), "holds"), ((1, 2), "fails")):
        runs = [epochs(*losses), epochs(losses[0], losses[1] + 0.01)]
        groups = [of_loss(loss, *runs, initial_deviation=0.0) for loss in report.LOSSES]
        assert judged("The validation loss", *groups).word == word


def readings(batch, swing):
    """A run whose validation loss falls in the first half and then goes up and down by `swing`."""
    steps = range(100, 6 * 45_000 // batch + 1, 100)
    half = 3 * 45_000 / batch
    rows = [{"step": s, "loss": 5 + (swing * (-1) ** (s // 100) if s > half else 100)} for s in steps]
    return {"metrics": {"iterations": rows, "images": {"train": 45_000}}}


@pytest.mark.parametrize("batch", report.BATCHES)
def test_the_swing_does_not_depend_on_how_many_readings_there_are(batch):
    rng = np.random.default_rng(0)
    images, epochs = 45_000, 6
    steps = range(100, epochs * images // batch + 1, 100)
    config = {"batch_size": batch, "epochs": epochs}
    swings = []
    for _ in range(4000):
        rows = [{"step": step, "loss": loss} for step, loss in zip(steps, rng.normal(5, 0.3, len(steps)), strict=True)]
        swings.append(report.swing({"metrics": {"iterations": rows, "images": {"train": images}}, "config": config}))
    assert np.mean(swings) == pytest.approx(0.3, rel=0.03)


def test_larger_batches_are_steadier_if_the_second_half_swings_less():
    def of_swings(swings):
        return [
            of_loss(loss, *(readings(batch, swing + seed / 100) for seed in range(3)), batch_size=batch)
            for loss in report.LOSSES
            for batch, swing in swings.items()
        ]

    assert report.swing({**readings(50, 0.5), "config": {"batch_size": 50, "epochs": 6}}) == pytest.approx(
        0.5, rel=0.03
    )
    assert judged("Larger", *of_swings({50: 0.8, 100: 0.4, 200: 0.2, 400: 0.05})).told == "6 of 6 hold"
    found = judged("Larger", *of_swings({50: 0.4, 100: 0.8, 200: 0.2, 400: 0.05}))
    assert found.word == "fails"
    assert "summed hinge, 50 to 100: fails" in found.told
    assert judged("Larger", *of_swings({400: 0.1})).word == "not tested"


def templates(**own):
    """Two seeds whose templates are grey and not symmetric, but for these."""
    names = ("airplane", "automobile", "frog", "horse", "ship")
    grey = {name: {"colour": [0.0, 0.0, 0.0], "mirror": 0.1} for name in names}
    return [of_loss(loss, *[{"metrics": {"templates": grey | own}}] * 2) for loss in report.LOSSES]


@pytest.mark.parametrize(
    ("text", "name", "colour"),
    [
        ("The template of a ship", "ship", [-0.5, -0.1, 0.6]),
        ("That of a plane", "airplane", [-0.5, -0.1, 0.6]),
        ("That of a frog", "frog", [0.2, 0.4, -0.6]),
        ("That of a car", "automobile", [0.5, -0.3, -0.2]),
    ],
)
def test_a_template_has_a_colour_if_that_channel_is_above_both_others(text, name, colour):
    for weights, word in ((colour, "holds"), ([-weight for weight in colour], "fails"), ([0.0] * 3, "undecided")):
        assert judged(text, *templates(**{name: {"colour": weights, "mirror": 0.1}})).word == word
    second = [0.3, 0.3, -0.6] if name != "automobile" else [0.1, -0.5, 0.4]  # not the strongest
    if name in ("frog", "automobile"):
        assert judged(text, *templates(**{name: {"colour": second, "mirror": 0.1}})).word != "holds"
    assert judged(text, *[of_loss(loss, {}, {}) for loss in report.LOSSES]).word == "not tested"  # of older code


def test_a_horse_has_two_heads_if_it_is_more_symmetric_than_the_others():
    for mirror, word in ((0.4, "holds"), (0.0, "fails"), (0.1, "undecided")):
        found = judged("That of a horse", *templates(horse={"colour": [0, 0, 0], "mirror": mirror}))
        assert found.word == word, mirror
    (record, *_), *_ = (group.records for group in templates(ship={"colour": [0, 0, 0], "mirror": 0.5}))
    assert report.two_headed(record) == pytest.approx(0.1 - 0.5)


# --- figures across runs


def test_losses_by_step_are_drawn_a_panel_a_loss_and_older_runs_have_no_training_loss(drawn, tmp_path):
    new = {"metrics": {"iterations": [{"step": 100, "loss": 5.0, "train_loss": 6.0}]}}
    old = {"metrics": {"iterations": [{"step": 100, "loss": 2.0}, {"step": 200, "loss": 1.0}]}}
    for own in ((old,), (old, new)):
        runs = made_groups.runs(of_loss("weston_watkins", *own), of_loss("crammer_singer", old))
        report.validation_loss(runs, tmp_path / "p.png")
    before, after = ([[line.get_xydata().tolist() for line in axes.get_lines()] for axes in f.axes] for f in drawn)
    assert before == [[[[100, 2.0], [200, 1.0]]]] * 2
    assert after == [
        [[[100, 2.0], [200, 1.0]], [[100, 5.0]], [[50, 6.0]]],
        before[0],
    ]  # a mean of 100 steps: its middle
    assert [len(figure.legends[0].get_texts()) for figure in drawn] == [1, 2]
    assert {axes.get_xlim()[0] for figure in drawn for axes in figure.axes} == {0}


def test_runs_from_zero_are_drawn_in_the_panel_of_their_loss(drawn, tmp_path):
    run = {"metrics": {"iterations": [{"step": 100, "loss": 2.0}]}}
    zero = {"metrics": {"iterations": [{"step": 100, "loss": 1.0}]}}
    groups = [of_loss(loss, run) for loss in report.LOSSES]
    runs = made_groups.runs(*groups, of_loss("weston_watkins", zero, initial_deviation=0.0))
    report.validation_loss(runs, tmp_path / "p.png")
    lines = [[line.get_xydata().tolist() for line in axes.get_lines()] for axes in drawn[0].axes]
    assert lines == [[[[100, 2.0]], [[100, 1.0]]], [[[100, 2.0]]]]
    assert drawn[0].legends[0].get_texts()[-1].get_text() == "validation, from W = 0"


def test_batches_are_drawn_by_epoch(drawn, tmp_path):
    alone = of_loss("weston_watkins", readings(400, 0.1))
    report.batches(made_groups.runs(alone), tmp_path / "p.png")
    assert drawn == []
    small = of_loss("weston_watkins", readings(50, 0.5), readings(50, 0.6), batch_size=50)
    report.batches(made_groups.runs(alone, small), tmp_path / "p.png")
    first, other = drawn[0].axes
    assert [line.get_xdata()[-1] for line in first.get_lines()] == pytest.approx([6, 6, 600 * 400 / 45_000])
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["batch of 50", "batch of 400"]
    assert first.get_title() == "summed hinge (n = 1 and 2, a line a seed)"
    assert not other.get_lines()
