"""Claims about rotation_contrastive are judged, and its figures drawn, from records made by hand."""

from pathlib import Path

import made_groups
import pytest

from common.claims import NOT_TESTED
from common.published import read_references
from results.grids import Source, grids
from tasks.rotation_contrastive import report

CLAIMS = {claim.text: claim for claim in report.REPORT.claims}
# A plane as the source describes it: vehicles left, animals right, cat, bird and dog between frog and horse.
PLANE = {
    "airplane": (-3, 1),
    "ship": (-3, 2),
    "automobile": (-3, -1),
    "truck": (-3, -1.5),
    "frog": (3, -3),
    "bird": (3, -1),
    "cat": (3, 0),
    "dog": (3, 1),
    "deer": (3, 2.5),
    "horse": (3, 3),
}


def claim(start):
    """The judge of the one claim whose text starts so."""
    (found,) = (own for text, own in CLAIMS.items() if text.startswith(start))
    return found.judge


def embedded(**moved):
    """Three runs of an embedding in which some classes lie elsewhere."""
    own = [{"metrics": {"centroids": {n: [x + s / 100, y] for n, (x, y) in (PLANE | moved).items()}}} for s in range(3)]
    return made_groups.runs(made_groups.group("contrastive", "dataset=cifar10", *own, dataset="cifar10"))


SEPARATE, TRUCK, BETWEEN = "Contrastive clusters", "Truck lies", "Cat, bird and dog"


@pytest.mark.parametrize(
    ("moved", "fails"),
    [
        ({}, ()),
        ({"ship": (3.5, 0)}, (SEPARATE,)),  # a vehicle among the animals
        ({"truck": (-3, 1.5)}, (TRUCK,)),
        ({"dog": (3, 4)}, (BETWEEN,)),
        ({"bird": (3, -4)}, (BETWEEN,)),
        ({"bird": (9, 0)}, (BETWEEN,)),  # abreast of the middle, but further off than frog and horse are apart
    ],
)
def test_where_the_clusters_lie(moved, fails):
    runs = embedded(**moved)
    for start in (SEPARATE, TRUCK, BETWEEN):
        assert claim(start)(runs).word == ("fails" if start in fails else "holds"), start


def test_vehicles_may_be_opposite_to_animals_and_not_together():
    spread = {"airplane": (-3, 30), "ship": (-3, -30), "automobile": (-3, 30), "truck": (-3, -30)}
    record = next(iter(embedded(**spread)))
    assert report.apart(record) > 0
    assert report.vehicles_apart_from_animals(record) < 0
    assert claim(SEPARATE)(embedded(**spread)).word == "fails"


def test_older_records_have_no_places():
    old = made_groups.runs(made_groups.group("contrastive", "dataset=cifar10", {}, {}, dataset="cifar10"))
    assert all(claim(start)(old) == NOT_TESTED for start in (SEPARATE, TRUCK, BETWEEN))


def base(losses, test, running):
    own = [
        {
            "history": [{"val_loss": loss} for loss in losses],
            "metrics": {"test": {"loss": test + s}, "running": {"loss": running}},
        }
        for s in (0, 0.001)
    ]
    fields = {"dataset": "cifar10", "weight_decay": 0.001}
    return made_groups.runs(made_groups.group("base", "dataset=cifar10 weight_decay=0.001", *own, **fields))


@pytest.mark.parametrize(
    ("losses", "test", "word"),
    [((0.9, 0.7, 0.71), 0.7, "holds"), ((0.9, 0.7, 0.8), 0.7, "fails"), ((0.9, 0.7, 0.7), 0.75, "fails")],
)
def test_the_base_network_overfits_if_its_loss_rises_or_the_test_loss_is_higher(losses, test, word):
    assert claim("The base network")(base(losses, test, 0.704)).word == word


def transfers(best, others, running=0.5):
    def own(preset, accuracy, loss, **fields):
        setting = " ".join(f"{key}={value}" for key, value in fields.items())
        runs = [
            {"metrics": {"test": {"accuracy": accuracy + d, "loss": loss}, "running": {"loss": loss + running}}}
            for d in (0, 0.001, 0.002)
        ]
        return made_groups.group(preset, setting, *runs, **fields)

    groups = [
        own(
            "transfer",
            best if (blocks, trained) == (2, True) else others,
            0.5 if trained else 0.6,
            dataset="cifar10",
            blocks=blocks,
            train_blocks=trained,
        )
        for blocks in (1, 2, 3)
        for trained in (True, False)
    ]
    return made_groups.runs(*groups, own("base", 0.7, 0.5, dataset="cifar10"))


def test_the_best_transfer_and_the_cost_of_freezing():
    judge = claim("Two blocks, not frozen")
    assert judge(transfers(0.8, 0.6)).word == "holds"
    assert judge(transfers(0.65, 0.6)).word == "fails"  # best of the transfers, and below the base network
    assert judge(transfers(0.75, 0.8)).word == "fails"
    assert claim("Freezing")(transfers(0.8, 0.6)).word == "holds"
    swapped = made_groups.runs(*transfers(0.8, 0.6).where(train_blocks=True).groups)
    assert claim("Freezing")(swapped) == NOT_TESTED


# --- tables


def test_each_batch_and_weight_decay_is_judged_by_the_published_numbers_of_the_base_network():
    def base(batch, decay):
        changed = {"batch_size": batch} if batch != 128 else {}
        changed |= {"weight_decay": decay} if decay else {}
        setting = " ".join(f"{key}={value}" for key, value in {"dataset": "cifar10", **changed}.items())
        run = made_groups.scored(running={"loss": 0.704}, test={"loss": 0.701, "accuracy": 0.7556, "n": 10_000})
        return made_groups.group("base", setting, run, run, dataset="cifar10", batch_size=batch, weight_decay=decay)

    runs = made_groups.runs(*(base(*both) for both in report.PROTOCOLS))
    references = read_references(Path(report.__file__).with_name("reference.csv"))
    table = grids(Source(report.REPORT, runs, references, []))[0]
    printed = [[cell.verdict for cell in cells] for row, cells in table.rows if row in report.AS_PRINTED]
    assert printed == [["", *["reproduced"] * len(report.PROTOCOLS)]] * 3


# --- figures


def test_transfer_is_drawn_by_blocks_frozen_and_trained_with_what_is_published(drawn, tmp_path):
    def run(train, test):
        return made_groups.scored(running={"loss": train}, test={"loss": test})

    def transfer(blocks, trained, run, more=""):
        config = {"dataset": "cifar10", "blocks": blocks, "train_blocks": trained}
        setting = " ".join(f"{key}={value}" for key, value in config.items())
        return made_groups.group("transfer", setting + more, run, **config)

    every = [transfer(n, trained, run(n + trained, 10.0 * n)) for n in (1, 2, 3) for trained in (True, False)]
    trial = transfer(2, True, run(99.0, 99.0), " epochs=1")
    base = made_groups.group("base", "dataset=cifar10", run(5.0, 6.0), run(7.0, 8.0), dataset="cifar10")
    report.transferred_blocks(made_groups.runs(every[0], base), tmp_path / "p.png")
    assert drawn == []  # one transfer compares nothing: those of an older protocol are drawn
    report.transferred_blocks(made_groups.runs(*every, trial, base), tmp_path / "p.png")
    train, test = drawn[0].axes
    trained, frozen = (container[0].get_xydata().tolist() for container in train.containers)
    assert trained == [[1, 2.0], [2, 3.0], [3, 4.0]]
    assert frozen == [[1, 1.0], [2, 2.0], [3, 3.0]]
    assert test.containers[0][0].get_ydata().tolist() == [10.0, 20.0, 30.0]
    assert train.get_ylim() == test.get_ylim()

    def marks(axes):
        return {line.get_label(): line.get_ydata()[0] for line in axes.get_lines() if line.get_label()[0] != "_"}

    told = ("none taken: base (n = 2)", "published: 2 blocks, trained further", "published: none taken")
    assert marks(train) == dict(zip(told, (6.0, 0.5927, 0.7040), strict=True))
    assert marks(test) == dict(zip(told, (7.0, 0.6650, 0.7010), strict=True))


def test_contrastive_losses_are_drawn_a_line_a_seed_with_what_is_published(drawn, tmp_path):
    histories = [[{"loss": 1.0 + i, "val_loss": 2.0 + i}, {"loss": 0.5, "val_loss": 0.7}] for i in range(3)]
    runs = [made_groups.reporting(1 + (i > 0), 0.1 * i, history=history) for i, history in enumerate(histories)]
    own = made_groups.group("contrastive", "dataset=cifar10", *runs, dataset="cifar10")
    report.contrastive(made_groups.runs(own), tmp_path / "p.png")
    *lines, test, train_mark, test_mark = drawn[0].axes[0].get_lines()
    assert [line.get_xydata().tolist() for line in lines] == [
        [[1, a + i], [2, b]] for a, b in ((1.0, 0.5), (2.0, 0.7)) for i in range(3)
    ]
    assert test.get_xydata().tolist() == [[1, 0.0], [2, 0.1], [2, 0.2]]
    assert (train_mark.get_ydata()[0], test_mark.get_ydata()[0]) == (0.5373, 0.5145)


def test_old_records_say_stage_and_are_paired_all_the_same():
    old = {"run": "r", "config": {"preset": "base", "stage": "base", "rotation_run": "own", "seed": 0}}
    renewed = {"preset": "base", "experiment": "base", "pretext_run": "own", "seed": 0}
    assert report.REPORT.renew(old)["config"] == renewed
