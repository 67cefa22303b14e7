"""Claims about cifar_phased are judged, and its figures drawn, from records made by hand."""

import dataclasses

import made_groups
import numpy as np
import pytest

from common.claims import NOT_TESTED
from common.command_line import parse_strictly
from common.config import flat
from common.outcomes import packed
from results import grids
from slurm import plan, sweeps
from tasks.cifar_phased import judges, report

CLAIMS = {claim.text: claim for claim in report.REPORT.claims}
IMAGENET, TINY = "mobilenet_v2_imagenet.safetensors@sha256:00", "resnet18_tiny_imagenet.safetensors@sha256:11"


def claim(start):
    """The judge of the one claim whose text starts so."""
    (found,) = (own for text, own in CLAIMS.items() if text.startswith(start))
    return found.judge


def run(test=(0.5, 0.6, 0.7), validation=0.7, gap=0.1, loss=1.0, first=0.5, last=None, **metrics):
    """A run of three phases; the last has six epochs, with these validation accuracies or one that stays."""
    phases = {
        name: {
            "images_per_second": 1,
            "validation": {"accuracy": validation},
            "test": {"accuracy": accuracy},
            "best": {"epoch": 1},
        }
        for name, accuracy in zip(report.PHASES, test, strict=True)
    }
    history = [{"phase": name, "epoch": 1, "loss": 3.0, "val_accuracy": first} for name in ("head", "last_block")]
    history += [
        {
            "phase": "full",
            "epoch": n,
            "loss": loss,
            "accuracy": value + gap * (n if gap > 0.5 else 1),
            "val_accuracy": value,
        }
        for n, value in enumerate(last or [validation] * 6, start=1)
    ]
    measured = {
        "phases": phases,
        "reported": "best",
        "test": {"accuracy": test[-1]},
        "validation": {"accuracy": validation},
    }
    return {"history": history, "metrics": measured | metrics}


def group(backbone, dataset, *own, size=64, weights="imagenet", preset="laptop"):
    config = {"dataset": dataset, "weights": weights, "backbone": backbone, "image_size": size, "batch_norm": "keep"}
    setting = " ".join(f"{key}={value}" for key, value in config.items())
    return made_groups.group(preset, setting, *own, **config)


def both(ours, theirs, dataset="cifar100", ours_from="imagenet", **theirs_have):
    one = group("resnet18", dataset, *ours, weights=ours_from)
    return made_groups.runs(one, group("mobilenet_v2", dataset, *theirs, **theirs_have))


HIGH = [run((0.5, 0.6, 0.8 + d)) for d in (0, 0.001, 0.002)]
LOW = [run((0.4, 0.5, 0.6 - d)) for d in (0, 0.001, 0.002)]


def test_resnet_above_mobilenet_holds_and_fails():
    judge = claim("ResNet-18 is above MobileNetV2 on CIFAR-100")
    # In two phases the lead has no spread at all, which leaves no doubt.
    assert judge(both(HIGH, LOW)).word == "holds"
    assert judge(both(LOW, HIGH)).word == "fails"
    assert claim("The same on CIFAR-10")(both(HIGH, LOW, "cifar10")).word == "holds"
    smaller_at_last = [run((0.9, 0.9, 0.62 + d)) for d in (0, 0.001, 0.002)]
    assert judge(both(smaller_at_last, LOW)).word == "fails"  # ahead in every phase, but not most under full


@pytest.mark.parametrize("other", [{"size": 96}, {"weights": TINY}, {"weights": TINY, "size": 96}])
def test_networks_of_other_images_or_weights_are_not_compared(other):
    assert claim("ResNet-18 is above MobileNetV2 on CIFAR-100")(both(HIGH, LOW, **other)) == NOT_TESTED


def test_networks_from_a_pretraining_that_was_not_equally_good_are_shown_but_not_comparable():
    judge = claim("ResNet-18 is above MobileNetV2 on CIFAR-100")
    by_hand = {"ours_from": TINY, "weights": "pretrain-mobilenet_v2-s0-on-tiny_imagenet@sha256:22"}
    found = judge(both(HIGH, LOW, **by_hand))
    assert found.word == "not comparable"
    assert "head: +10 points" in found.told
    mixed = made_groups.runs(*both(HIGH, LOW).groups, *both(LOW, HIGH, **by_hand).groups)
    assert judge(mixed) == judge(both(HIGH, LOW))  # if there are runs from ImageNet's weights, they decide alone
    elsewhere = "pretrain-mobilenet_v2-s0-on-cifar100@sha256:22"
    assert judge(both(HIGH, LOW, ours_from=TINY, weights=elsewhere)) == NOT_TESTED
    rows = report.LAPTOP.rows["CIFAR-100, MobileNetV2, 64 pixels, keep"]
    assert len(both(HIGH, LOW, **by_hand).chosen({**report.LAPTOP.of, **rows.fields})) == len(LOW)


def test_random_weights_are_no_fine_tuning():
    every = made_groups.runs(*(group(b, "cifar10", *HIGH, weights="none") for b in report.BACKBONES))
    assert all(own.judge(every) == NOT_TESTED for own in CLAIMS.values())


def test_full_is_best_holds_for_all_four_or_not():
    judge = claim("Full fine-tuning is best")
    four = [group(b, d, *HIGH) for b in report.BACKBONES for d in ("cifar10", "cifar100")]
    worse = group("resnet18", "cifar10", *(run((0.5, 0.7, 0.6 + d)) for d in (0, 0.001, 0.002)))
    assert judge(made_groups.runs(*four)).word == "holds"
    assert judge(made_groups.runs(*four[:3])).word == "undecided"  # one is missing
    assert judge(made_groups.runs(worse, *four[1:])).word == "fails"


def test_last_block_above_head_for_all_four_or_not():
    judge = claim("The last block is above the head")
    four = [group(b, d, *HIGH) for b in report.BACKBONES for d in ("cifar10", "cifar100")]
    worse = group("resnet18", "cifar10", *(run((0.5, 0.4 + d, 0.6)) for d in (0, 0.001, 0.002)))
    assert judge(made_groups.runs(*four)).word == "holds"
    assert judge(made_groups.runs(worse, *four[1:])).word == "fails"


def test_faster_in_the_first_epochs():
    judge = claim("MobileNetV2 is faster")
    slow, fast = ([run(first=first + d) for d in (0, 0.01)] for first in (0.3, 0.6))
    two = [both(slow, fast, dataset).groups for dataset in ("cifar10", "cifar100")]
    assert judge(made_groups.runs(*two[0], *two[1])).word == "holds"
    two = [both(fast, slow, dataset).groups for dataset in ("cifar10", "cifar100")]
    assert judge(made_groups.runs(*two[0], *two[1])).word == "fails"


def test_the_first_epochs_are_three():
    accuracies = [0.1, 0.2, 0.6, 0.9, 0.9]
    assert judges.first_epochs({"history": [{"val_accuracy": value} for value in accuracies]}) == pytest.approx(30)


def test_the_fall_of_the_loss_is_that_within_ten_epochs_of_the_first_phase():
    history = [{"phase": "head", "loss": loss} for loss in (5.0, *[4.0] * 8, 3.0, 1.0)] + [{"phase": "full", "loss": 0}]
    assert judges.fall_of_loss({"history": history}) == 2.0
    assert judges.fall_of_loss({"history": [*history[:3], history[-1]]}) == 1.0


def test_lower_loss_but_larger_gap_needs_both():
    judge = claim("On CIFAR-100 under full ResNet-18")
    wide, narrow = ([run(loss=loss + d, gap=gap + d) for d in (0, 0.001)] for loss, gap in ((0.1, 0.3), (0.5, 0.1)))
    loose = [run(loss=0.1 + d, gap=0.05 + d) for d in (0, 0.001)]
    assert judge(both(wide, narrow)).word == "holds"
    assert judge(both(loose, narrow)).word == "fails"  # a lower loss with a smaller gap


def test_a_gap_is_stable_if_it_varies_little():
    judge = claim("MobileNetV2's gap is more stable")
    steady, growing = ([run(gap=gap + d) for d in (0, 0.01)] for gap in (0.1, 0.6))
    assert judge(both(growing, steady)).word == "holds"
    assert judge(both(steady, growing)).word == "fails"


def test_cifar10_above_cifar100_with_smaller_gaps():
    judge = claim("Accuracy on CIFAR-10")
    easy, hard = ([run((0.5, 0.6, top + d), gap=gap + d) for d in (0, 0.001)] for top, gap in ((0.9, 0.1), (0.6, 0.3)))

    def sides(one, other):
        return made_groups.runs(group("resnet18", "cifar10", *one), group("resnet18", "cifar100", *other))

    assert judge(sides(easy, hard)).word == "holds"
    assert judge(sides(hard, easy)).word == "fails"


# --- numbers of one record

NAMES = ["frog", "cat", "deer", "bird", "truck", "ship", "horse", "dog", "car", "plane"]


def confused(predicted):
    """A record in which the ten images of the first class are predicted so."""
    scores = [{"class": name, "f1": 0.5, "support": 10} for name in NAMES]
    predicted = np.array(predicted)
    return {
        "metrics": {"test": {"per_class": scores}},
        "outcomes": packed(np.zeros(len(predicted), int), predicted, {}),
    }


@pytest.mark.parametrize(
    ("predicted", "share"),
    [([0, 0, 1, 2, 3, 4], 1.0), ([0, 5, 6, 7, 8], 0.0), ([0, 1, 5], 0.5), ([1, 1, 1, 9], 0.75)],
)
def test_confusions_above_chance(predicted, share):
    number = judges.confusions_above_chance("frog", ("cat", "deer", "bird", "truck"))
    assert number(confused(predicted)) == pytest.approx(100 * (share - 4 / 9))


def test_confusions_need_mistakes_outcomes_and_the_class():
    number = judges.confusions_above_chance("frog", ("cat",))
    assert number(confused([0, 0])) is None
    assert number({"metrics": confused([1])["metrics"]}) is None
    assert judges.confusions_above_chance("apple", ("pear",))(confused([1])) is None


def test_weakest_classes():
    def scored(**f1):
        return {"metrics": {"test": {"per_class": [{"class": name, "f1": own} for name, own in f1.items()]}}}

    number = judges.weakest("cat", "deer")
    assert number(scored(cat=0.5, deer=0.6, dog=0.7, ship=0.9)) == pytest.approx(10)
    assert number(scored(cat=0.5, deer=0.8, dog=0.7, ship=0.9)) == pytest.approx(-10)
    assert number(scored(upright=0.5, turned=0.6)) is None


def test_rise_at_the_end_compares_the_last_third_with_the_one_before():
    assert judges.rise_at_the_end(run(last=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6])) == pytest.approx(20)
    assert judges.rise_at_the_end(run(last=[0.1, 0.2, 0.6, 0.6, 0.5, 0.5])) == pytest.approx(-10)


def channels(means, deviations):
    return {"metrics": {"channels": {"mean": means, "deviation": deviations}}}


def test_channels_are_judged_by_all_images_and_once_a_data_set_and_seed():
    judge = claim("Channel intensities are alike")
    alike, apart = (channels([0, 0, reach], [1, 1, 1]) for reach in (0.1, 0.3))
    found = judge(both([alike, apart], [alike, apart]))  # both networks of a seed saw the same images
    assert (found.word, found.told) == ("undecided", "true of 1 of 2 runs")
    sampled = {"metrics": {"intensities": {"mean": [0, 0, 0.3], "deviation": [1, 1, 1]}}}  # of 256 images
    assert judge(both([sampled], [sampled])) == NOT_TESTED
    assert judge(both([sampled], [alike])).told == "true of 1 of 1 runs"


def test_channels_alike():
    assert judges.channels_alike(channels([0.0, 0.1, 0.19], [1.0, 1.1, 1.1]))
    assert not judges.channels_alike(channels([0.0, 0.1, 0.21], [1.0, 1.1, 1.1]))
    assert not judges.channels_alike(channels([0.0, 0.1, 0.1], [1.0, 1.1, 1.3]))
    assert judges.channels_alike({"metrics": {}}) is None


def test_classes_are_balanced_in_all_three_splits():
    def sizes(train=(80, 80, 81), validation=(10, 10, 11), test=(10, 10, 10)):
        return {"metrics": {"class_counts": {"train": train, "validation": validation, "test": test}}}

    assert judges.balanced(sizes())
    for split in ("train", "validation", "test"):
        assert not judges.balanced(sizes(**{split: (10, 10, 12)}))
    assert judges.balanced({"metrics": {}}) is None
    assert claim("Classes are balanced")(both([sizes()], [sizes()])).told == "true of 1 of 1 runs"


# --- source 001


def of_001(backbone, *shares, validation=0.5, history=None, **more):
    rows = history or [{"phase": "head", "epoch": 1, "loss": 1.0, "val_accuracy": 0.5}]
    own = [
        {"history": rows, "metrics": {"test": {"accuracy": s}, "validation": {"accuracy": validation}}} for s in shares
    ]
    config = {"dataset": "cifar100", "backbone": backbone, "batch_norm": "follow", "weights": "imagenet"} | more
    setting = " ".join(f"{key}={value}" for key, value in config.items() if key != "phases")
    return made_groups.group("two_phase", setting, *own, **config)


def by_optimiser(optimiser, *shares, **more):
    own = {"phases.1.optimizer": optimiser, "phases.1.momentum": 0.9 * (optimiser == "sgd")}
    return of_001("wide_resnet50_2", *shares, **own | more)


def test_backbones_of_001():
    def judged(start, **shares):
        return claim(start)(made_groups.runs(*(of_001(name, *own) for name, own in shares.items()))).word

    like, worse, best = (0.5, 0.501, 0.502), (0.4, 0.401, 0.402), (0.9, 0.901, 0.902)
    assert judged("ResNet-101 is about", resnet101=like, resnet50=like) == "holds"
    assert judged("ResNet-101 is about", resnet101=like, resnet50=worse) == "fails"
    assert judged("ResNet-101 is about", resnet101=(0.5, 0.51), resnet50=(0.51, 0.5)) == "undecided"
    assert judged("ResNeXt-50 is above both", resnext50_32x4d=best, resnet50=like, resnet101=like) == "holds"
    assert judged("ResNeXt-50 is above both", resnext50_32x4d=worse, resnet50=like, resnet101=like) == "fails"
    four = dict.fromkeys(("resnext50_32x4d", "resnet101", "resnet50", "resnet34"), like)
    assert judged("Wide ResNet-50-2 is best", wide_resnet50_2=best, **four) == "holds"
    assert (
        judged("Wide ResNet-50-2 is best", wide_resnet50_2=best, **{**four, "resnet34": (0.95, 0.95, 0.95)}) == "fails"
    )


def test_optimisers_of_001():
    def four(nadam):
        own = {"sgd": (0.5, 0.51), "adam": (0.5, 0.51), "adamw": (0.5, 0.51), "nadam": nadam}
        return made_groups.runs(*(by_optimiser(name, *shares) for name, shares in own.items()))

    assert claim("NAdam is the best")(four((0.9, 0.91))).word == "holds"
    assert claim("NAdam is the best")(four((0.1, 0.11))).word == "fails"


@pytest.mark.parametrize(
    "other", [{"batch_norm": "keep"}, {"weights": "wide_resnet50_2_tiny_imagenet.safetensors@sha256:00"}]
)
def test_of_001_only_runs_of_one_regime_and_one_data_set_of_weights_are_compared(other):
    low, high = (0.4, 0.401, 0.402), (0.9, 0.901, 0.902)
    for start, best in (
        ("ResNet-101 is about", "resnet101"),
        ("ResNeXt-50 is above both", "resnext50_32x4d"),
        ("Wide ResNet-50-2 is best", "wide_resnet50_2"),
    ):
        backbones = [of_001(name, *low) for name in report.FIVE.values() if name != best]
        assert claim(start)(made_groups.runs(*backbones, of_001(best, *high, **other))) == NOT_TESTED, start
    optimisers = [by_optimiser(name, *low) for name in ("sgd", "adam", "adamw")]
    assert (
        claim("NAdam is the best")(made_groups.runs(*optimisers, by_optimiser("nadam", *high, **other))) == NOT_TESTED
    )


def sweep(name):
    """Groups of a sweep as they would be labelled, each with one run."""
    presets, planned = plan.load_task("cifar_phased").PRESETS, sweeps.load("cifar_phased", name)
    found = []
    for run in plan.in_waves("cifar_phased", planned, {}, [0]):
        config = parse_strictly(presets, "", run.flags)
        shares = {"test": {"accuracy": 0.7, "n": 100}, "validation": {"accuracy": 0.6}}
        fields = {key: value for key, value in flat(config.identity()).items() if key not in ("preset", "seed")}
        epochs = [(phase.name, n + 1) for phase in config.phases for n in range(phase.epochs)]
        rows = [{"phase": name, "epoch": n, "loss": 1.0, "val_loss": 1.0, "val_accuracy": 0.5} for name, n in epochs]
        own = {"metrics": shares, "history": rows}
        group = made_groups.group(config.preset, config.setting(presets), own, **fields)
        found.append(dataclasses.replace(group, words=report.REPORT.words))
    return made_groups.runs(*found)


@pytest.mark.parametrize(("name", "caption"), [("backbones", "Five backbones"), ("optimisers", "Four optimisers")])
def test_tables_of_001_show_the_published_length_and_a_fifth_of_it_apart(name, caption):
    table = next(own for own in report.REPORT.tables if own.caption.startswith(caption))

    def filled(runs):
        grid = grids.fill(table, grids.Source(report.REPORT, runs, {}, []))
        return {column for _, cells in grid.rows for column, one in zip(grid.columns, cells, strict=True) if one.n}

    whole, short = filled(sweep(name)), filled(sweep(f"{name}_short"))
    assert whole
    assert short == {f"{column}, a fifth of the epochs" for column in whole}


def test_a_shorter_second_phase_is_judged_and_random_weights_are_not():
    rows = [{"phase": "head", "epoch": n, "loss": 10.0 - n, "val_accuracy": 0.5} for n in range(10)]
    short = {"phases.1.epochs": 25, "phases.1.warmup_epochs": 1, "phases.1.cosine_epochs": 9}
    for start in ("The loss falls", "Test accuracy is above"):
        tested = of_001("wide_resnet50_2", 0.7, 0.71, history=rows, **short)
        assert claim(start)(made_groups.runs(tested)).word == "holds"
        random = of_001("wide_resnet50_2", 0.7, 0.71, history=rows, weights="none")
        assert claim(start)(made_groups.runs(random)) == NOT_TESTED
    low, high = (0.4, 0.401), (0.9, 0.901)
    five = [of_001(name, *(high if name.startswith("wide") else low), weights="none") for name in report.FIVE.values()]
    assert claim("Wide ResNet-50-2 is best")(made_groups.runs(*five)) == NOT_TESTED


def test_losses_fall_and_accuracy_rises_steadily_in_001():
    def trained(losses, accuracies):
        rows = [
            {"phase": "head", "epoch": n, "loss": a, "val_accuracy": b}
            for n, (a, b) in enumerate(zip(losses, accuracies, strict=True))
        ]
        phases = [{"epochs": 2}, {"epochs": len(rows) - 2, "warmup_epochs": 1, "cosine_epochs": None}]
        return made_groups.runs(of_001("wide_resnet50_2", 0.7, 0.71, validation=0.6, history=rows, phases=phases))

    rising, dipping = [0.1, 0.2, 0.3, 0.4, 0.5] * 2, [0.1, 0.1, 0.2, 0.2, 0.15, 0.15, 0.3, 0.3, 0.4, 0.4]
    up, down = list(range(1, 11)), list(range(10, 0, -1))
    assert claim("The loss falls")(trained(down, rising)).word == "holds"
    assert claim("The loss falls")(trained(up, rising)).word == "fails"
    assert claim("Validation accuracy rises steadily")(trained(up, sorted(rising))).word == "holds"
    assert claim("Validation accuracy rises steadily")(trained(up, dipping)).word == "fails"
    assert claim("Test accuracy is above")(trained(up, rising)).word in ("holds", "undecided")


@pytest.mark.parametrize(("length", "second"), [("", 60), ("_short", 20)])
def test_accuracy_after_the_first_floor_of_the_rate_does_not_count(length, second):
    flags = next(iter(plan.in_waves("cifar_phased", sweeps.load("cifar_phased", f"optimisers{length}"), {}, [0])))
    config = parse_strictly(plan.load_task("cifar_phased").PRESETS, "", flags.flags).identity()
    epochs = sum(phase["epochs"] for phase in config["phases"])
    rising = [{"val_accuracy": 0.005 * epoch} for epoch in range(second)]
    falling = [{"val_accuracy": 0.0}] * (epochs - second)  # while the rate is high again
    assert judges.least_rise({"config": config, "history": rising + falling}) == pytest.approx(0.1 * second)
    too_early = rising[:-1] + falling[:1]
    assert judges.least_rise({"config": config, "history": too_early + falling}) < 0.1 * second


# --- figures


def test_phases_are_drawn_a_panel_a_data_set_and_a_colour_a_network(drawn, tmp_path):
    every = made_groups.runs(
        group("mobilenet_v2", "cifar10", *HIGH, size=96, weights=IMAGENET),
        group("resnet18", "cifar10", LOW[0], weights=TINY),
        group("resnet18", "cifar100", LOW[0], weights=TINY),
        group("resnet18", "cifar10", LOW[0], weights="none"),  # no fine-tuning
    )
    report.phases(every, tmp_path / "p.png")
    ten, hundred = drawn[0].axes
    heights = [bar.get_height() for bar in ten.patches]
    assert heights == pytest.approx([50, 60, 80.1, 40, 50, 60])
    assert ten.patches[3].get_facecolor() == hundred.patches[0].get_facecolor() != ten.patches[0].get_facecolor()
    legends = [[text.get_text() for text in part.legends[0].get_texts()] for part in drawn[0].subfigs]
    said = [[text.replace("\N{NO-BREAK SPACE}", " ") for text in own] for own in legends]
    assert said == [
        ["MobileNetV2, ImageNet weights, 96 pixels (n = 3)", "ResNet-18, Tiny-ImageNet weights, 64 pixels (n = 1)"],
        ["ResNet-18, Tiny-ImageNet weights, 64 pixels (n = 1)"],
    ]
    whiskers = [container.errorbar for container in ten.containers if hasattr(container, "errorbar")]
    assert [bar is not None for bar in whiskers] == [True, False]  # none of a single run


def test_one_budget_is_a_row_a_data_set_and_a_line_an_arm(drawn, tmp_path):
    arms = [*sweep("equal_budget").groups, *sweep("longer").groups]
    trial = dataclasses.replace(arms[0], setting=f"{arms[0].setting} phases.0.epochs=5")  # is left out
    report.equal_budget(made_groups.runs(*sweep("laptop").groups, *arms, trial), tmp_path / "e")
    assert [plain(own.legends[0].get_texts()) for own in drawn[0].subfigs] == [
        [f"{arm} (n = 1)" for arm in report.EQUAL_BUDGET.columns]
    ] * 2
    assert [own.get_suptitle().partition(",")[0] for own in drawn[0].subfigs] == ["CIFAR-10", "CIFAR-100"]
    drawn.clear()
    report.equal_budget(sweep("laptop"), tmp_path / "e")
    assert not drawn  # one arm compares nothing


def plain(texts):
    return [text.get_text().replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ") for text in texts]


def test_backbones_of_001_are_bars_a_panel_a_length(drawn, tmp_path):
    report.backbones(made_groups.runs(of_001("resnet18", 0.5), of_001("resnet34", 0.5, weights="none")), tmp_path / "b")
    assert not drawn  # no backbone of the source, and no pretrained one
    report.backbones(made_groups.runs(*sweep("backbones").groups, *sweep("backbones_short").groups), tmp_path / "b")
    assert len(drawn[0].axes) == 2
    for axes, is_short in zip(drawn[0].axes, (False, True), strict=True):
        assert ("25 epochs in phase 2" in axes.get_title().replace("\n", " ")) == is_short
        assert {name.partition(" (")[0] for name in plain(axes.get_xticklabels())} == set(report.FIVE)
        assert [bar.get_height() for bar in axes.patches] == pytest.approx([70] * 5)


def test_seeds_of_a_backbone_of_001_are_a_bar_with_a_whisker(drawn, tmp_path):
    report.backbones(made_groups.runs(of_001("resnet50", 0.5, 0.6), of_001("resnet101", 0.7)), tmp_path / "b")
    (axes,) = drawn[0].axes
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([55, 70])
    whiskers = [container.errorbar for container in axes.containers if hasattr(container, "errorbar")]
    assert [bar is not None for bar in whiskers] == [True, False]


def test_optimisers_of_001_are_lines_a_row_a_length(drawn, tmp_path):
    others = sweep("backbones").where(backbone="resnet50").groups
    every = made_groups.runs(*sweep("optimisers").groups, *sweep("optimisers_short").groups, *others)
    report.optimisers(every, tmp_path / "o")
    whole, short = (
        [text.partition(" in phase 2")[0] for text in plain(own.legends[0].get_texts())] for own in drawn[0].subfigs
    )
    assert whole == short == list(report.OPTIMISERS)


def test_the_gap_is_that_of_the_epoch_that_is_reported():
    history = [
        {"phase": "full", "epoch": epoch, "loss": loss, "accuracy": own, "val_accuracy": validation}
        for epoch, loss, own, validation in ((1, 2.0, 0.5, 0.4), (2, 1.0, 0.8, 0.6), (3, 0.5, 0.9, 0.55))
    ]
    epochs = {"best": {"epoch": 2}, "last": {"epoch": 3}}
    for kind, gap, loss in (("best", 20, 1.0), ("last", 35, 0.5)):
        record = {"history": history, "metrics": {"reported": kind, "phases": {"full": epochs}}}
        assert judges.generalisation_gap(record) == pytest.approx(gap)
        assert judges.training_loss(record) == loss
    assert judges.unsteadiness_of_gap(record) == pytest.approx(np.std([10, 20, 35], ddof=1))
    old = {"history": history, "metrics": {"phases": {"full": {"best_epoch": 2}}}}
    assert judges.generalisation_gap(old) == pytest.approx(20)


def test_test_above_validation_is_in_points():
    metrics = {"test": {"accuracy": 0.75}, "validation": {"accuracy": 0.7}}
    assert judges.test_above_validation({"metrics": metrics}) == pytest.approx(5)
