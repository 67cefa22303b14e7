"""Tables as a report lays them out, differences and claims, as a README shows them."""

import numpy as np
import pytest
from made_groups import group, runs
from made_runs import ACCURACIES, REFERENCE, SETTING, TASK, collect, make_run, write_report
from scipy import stats

from common.measured import Metric, loss, percent
from common.report import Pair, Part, Report, Table
from results import pairs, rows
from results.grids import Source, grids, with_deviation
from results.rows import row_of

ACCURACY = "test accuracy (%)"


def scored(accuracy, train_loss=1.0, n=400):
    return {"metrics": {"test": {"accuracy": accuracy, "n": n}, "train": {"loss": train_loss}}}


def made(fields, *accuracies, **more):
    label = " ".join(f"{key}={value}" for key, value in {**fields, **more}.items())
    return group("p", label, *(scored(accuracy) for accuracy in accuracies), **fields)


def filled(table, *groups, references=None):
    complaints = []
    found = grids(Source(Report(tables=(table,)), runs(*groups), references or {}, complaints))
    return found, complaints


def texts(grid):
    return {name: [grid.text(cell) for cell in cells] for name, cells in grid.rows}


ARMS = Table(
    "Two arms",
    of={"preset": "p", "data": "d"},
    rows={"one": Part({"arm": 1}), "two": Part({"arm": 2})},
    columns={"rate": Part(metric="rate", shows="setting"), "accuracy": Part(metric=ACCURACY)},
    best="accuracy",
)


def test_a_cell_has_what_its_row_and_its_column_ask_for():
    one, two = {"data": "d", "arm": 1, "rate": 1e-7}, {"data": "d", "arm": 2, "rate": 0.5}
    groups = [group("p", f"data=d arm={f['arm']}", *map(scored, a), **f) for f, a in ((one, (0.5, 0.6)), (two, (0.7,)))]
    (grid,), complaints = filled(ARMS, *groups)
    assert complaints == []
    assert texts(grid) == {"one": ["1e-7", "55.0 ± 7.1"], "two": ["0.5", "70.0 (n = 1)"]}
    assert [cells[1].bold for _, cells in grid.rows] == [False, True]
    assert grid.caption == (
        "Two arms. Mean ± standard deviation over 2 seeds. 400 test images (standard error of an accuracy: 2.3 to 2.5 "
        "points)."
    )


def test_the_lowest_loss_is_the_best():
    columns = {"loss": Part(metric="train loss")}
    table = Table("Two", of={"data": "d"}, rows=ARMS.rows, columns=columns, best="loss")
    low, high = ({"data": "d", "arm": arm} for arm in (1, 2))
    groups = [
        group("p", f"data=d arm={fields['arm']}", scored(0.5, train_loss=loss), **fields)
        for fields, loss in ((low, 0.25), (high, 0.75))
    ]
    (grid,), _ = filled(table, *groups)
    assert [(cells[0].text[:4], cells[0].bold) for _, cells in grid.rows] == [("0.25", True), ("0.75", False)]


def test_the_smaller_standard_error_comes_first():
    """Of few images: 9.8 and 15.5 points, which as texts are the other way round."""
    groups = [group("p", f"data=d arm={arm}", scored(0.6, n=n), data="d", arm=arm) for arm, n in ((1, 25), (2, 10))]
    (grid,), _ = filled(ARMS, *groups)
    assert grid.caption.endswith("10 or 25 test images (standard error of an accuracy: 9.8 to 15.5 points).")


def test_a_row_shows_no_change_over_others():
    with pytest.raises(ValueError, match="table 'Arms', row 'one': `over` is of a column"):
        Table("Arms", rows={"one": Part(over={"arm": 2})}, columns={})


def test_runs_that_differ_in_what_no_one_names_are_not_shown():
    usual, odd = {"data": "d", "arm": 1}, {"data": "d", "arm": 1, "batch": 9}
    (grid,), complaints = filled(ARMS, made(odd, 0.9), made(usual, 0.5), made({"data": "d", "arm": 2}, 0.4))
    assert [cells[1] for cells in texts(grid).values()] == ["50.0", "40.0"]
    assert complaints == []


def test_two_settings_that_fit_are_complained_of():
    other = group("p", "data=d arm=1", scored(0.1), data="d", arm=1, hidden=2)
    (grid,), complaints = filled(ARMS, made({"data": "d", "arm": 1}, 0.5, 0.6), other)
    assert texts(grid)["one"][1] == "55.0 ± 7.1"
    assert len(complaints) == 1
    assert complaints[0].startswith("ambiguous: Two arms: test accuracy (%): 2 settings fit")


def test_an_older_protocol_stands_in_and_is_marked():
    older = [{**record, "protocol": 1} for record in made({"data": "d", "arm": 1}, 0.5).records]
    (grid,), _ = filled(ARMS, group("p", "data=d arm=1 protocol=1", *older, data="d", arm=1))
    assert texts(grid)["one"][1] == "50.0†"
    assert texts(grid)["two"][1] == "–"
    assert grid.caption.endswith("† measured under an older protocol.")


def test_nothing_is_the_best_of_two_protocols():
    older = [{**record, "protocol": 1} for record in made({"data": "d", "arm": 1}, 0.9).records]
    old = group("p", "data=d arm=1 protocol=1", *older, data="d", arm=1)
    (grid,), _ = filled(ARMS, old, made({"data": "d", "arm": 2}, 0.4))
    assert [cells[1].bold for _, cells in grid.rows] == [False, False]
    (grid,), _ = filled(ARMS, old)
    assert [cells[1].bold for _, cells in grid.rows] == [True, False]


def test_published_numbers_stand_as_they_are_printed():
    table = Table(
        "T",
        of={"preset": "p", "data": "d"},
        rows={"test": Part(metric=ACCURACY)},
        columns={"source": Part(shows="published"), "ours": Part()},
    )
    references = {
        ("p", "data=d", ACCURACY): {"published": "60.30", "margin": "9", "source": "1", "note": ""},
        ("p", "data=d arm=1", ACCURACY): {"published": "7", "margin": "", "source": "1", "note": ""},
    }
    (grid,), _ = filled(table, made({"data": "d"}, 0.6, 0.601, 0.602), references=references)
    assert texts(grid) == {"test": ["60.30", "60.1 ± 0.1"]}
    assert [cell.verdict for _, cells in grid.rows for cell in cells] == ["", "reproduced"]


def test_a_table_of_nothing_is_left_out():
    assert filled(ARMS) == ([], [])


@pytest.mark.parametrize(
    ("metric", "values", "text"),
    [
        (percent("x"), [50.04, 51.0], "50.5 ± 0.7"),
        (percent("x"), [50.0], "50.0"),
        (loss("x"), [0.0020234, 0.0020291], "0.00203 ± 0.00000"),
        (loss("x"), [5.1380, 5.2], "5.17 ± 0.04"),
        (loss("x"), [49155560.0], "4.92 × 10⁷"),
        (loss("x"), [49155560.0, 49155580.0], "(4.92 ± 0.00) × 10⁷"),
        (Metric("parts"), [150.0, 150.0], "150 ± 0"),
    ],
)
def test_numbers_have_as_many_digits_as_a_reader_needs(metric, values, text):
    assert with_deviation(metric, values) == text


ARGUMENTS = """
    tables=(
        Table(
            "Test accuracy (%)",
            of={"preset": "three_phase", "dataset": "cifar10"},
            rows={name: Part({"backbone": name}) for name in ("resnet18", "mobilenet_v2")},
            columns={
                "source": Part(metric="test accuracy (%)", shows="published"),
                "ours": Part(metric="test accuracy (%)"),
            },
        ),
    ),
    pairs=(Pair({"backbone": "mobilenet_v2"}, {"backbone": "resnet18"}, words=("new", "old")),),
    claims=(
        Claim("000", "The new one is better", greater(Pair({"backbone": "mobilenet_v2"}, {"backbone": "resnet18"}))),
    ),
"""


def test_the_readme_has_tables_differences_and_claims_in_words(root):
    other = "dataset=cifar10 backbone=mobilenet_v2"
    for seed in ACCURACIES:
        make_run(root, seed)
        make_run(root, seed, accuracies=(0.5, 0.6, 0.95), slug="o-cifar10-e", setting=other, backbone="mobilenet_v2")
    write_report(root, ARGUMENTS)
    reference = f"three_phase,{SETTING},test accuracy (%),61,20,1,\n"
    (root / "tasks" / TASK / "reference.csv").write_text(REFERENCE + reference)
    readme = root / "tasks" / TASK / "README.md"
    readme.write_text("<!-- results -->\n<!-- /results -->\n")
    collect(root)
    text = readme.read_text()
    assert "| resnet18 | 61 | 61.0 ± 2.6, *reproduced* |" in text
    assert "| mobilenet_v2 | – | 85.0 ± 0.0 |" in text
    assert "- three_phase, CIFAR-10: new minus old: +24.0 (17.4 to 30.6; n = 3, seeds alone), *higher*" in text
    assert "- three_phase, CIFAR-10, ResNet-18: full minus last block: +10.0" in text
    assert "number (1 holds)" in text
    assert "- The new one is better: *holds*: +24 points (17.4 to 30.6; n = 3)" in text
    assert not any(word in text for word in ("dataset=", "backbone=", "@sha256"))


def test_differences_allow_for_the_looks_too():
    """Two arms over 3 seeds, whose difference has p = 0.02: decided by one look, not by the first of three."""
    p = {}
    for looks in (1, 3):
        groups = [
            group("p", f"arm={arm}", *({"looks": looks, "environment": {}} | scored(a) for a in own), arm=arm)
            for arm, own in (("a", (0.50, 0.52, 0.54)), ("b", (0.47, 0.48, 0.49)))
        ]
        (found,) = pairs.comparisons(runs(*groups), [Pair({"arm": "a"}, {"arm": "b"})])
        p[looks] = (found.p, found.verdict)
        assert ("3 looks share the error" in row_of(found).notes[1]) == (looks == 3)
    one = stats.ttest_rel((0.50, 0.52, 0.54), (0.47, 0.48, 0.49)).pvalue
    assert p == {1: (pytest.approx(one), "higher"), 3: (pytest.approx(3 * one), "undecided")}


def arms(shares, protocol=2):
    """A group a setting with these test accuracies, by the name of its arm."""
    mark = f" protocol={protocol}" if protocol < 2 else ""

    def run(share):
        return {"protocol": protocol, "environment": {}, "metrics": {"test": {"accuracy": share, "n": 9}}}

    return [group("p", f"arm={arm}{mark}", *map(run, own), arm=arm) for arm, own in shares.items()]


ONE_OTHER = [Pair({"arm": "a"}, {"arm": "b"})]


def test_differences_of_two_protocols_are_two_families():
    """Each protocol has one difference, so Holm's correction changes neither p-value."""
    shares = {"a": (0.50, 0.52, 0.54), "b": (0.47, 0.48, 0.49)}
    found = pairs.comparisons(runs(*arms(shares, 1), *arms(shares)), ONE_OTHER)
    one = stats.ttest_rel(*shares.values()).pvalue
    assert [(each.p, each.among) for each in found] == [(pytest.approx(one), 1)] * 2


def test_an_older_difference_is_shown_if_there_is_no_newer():
    found = pairs.comparisons(runs(*arms({"a": (0.5, 0.6), "b": (0.5, 0.6)}, 1)), ONE_OTHER)
    assert pairs.for_readers(found) == found != []


def test_a_difference_below_zero_is_lower():
    shares = {"a": (0.47, 0.48, 0.49), "b": (0.50, 0.52, 0.54)}
    (found,) = pairs.comparisons(runs(*arms(shares)), ONE_OTHER)
    assert stats.ttest_rel(*shares.values()).pvalue < 0.05
    assert found.verdict == "lower"


def test_a_difference_that_is_not_zero_does_not_look_like_it():
    (found,) = pairs.comparisons(runs(*arms({"a": (0.47, 0.48, 0.49), "b": (0.4701, 0.4798, 0.4904)})), ONE_OTHER)
    assert found.told.startswith("−0.01 (")


@pytest.mark.parametrize(("whole", "size"), [(400, 400), (None, 100)])
def test_a_part_of_the_test_images_has_its_own_chance_and_the_sources(whole, size):
    """Ours are 100 images: the standard errors are sqrt(p q / 100), and sqrt(p q / size) for the source."""
    values = [60.0, 64.0, 59.0]
    said = {"test_images_of": whole} if whole else {}
    each = [{"metrics": {"test": {"n": 100, "accuracy": value / 100}, **said}} for value in values]
    own = group("p", "a", *each, **({} if whole else {"limit_test": 100}))
    reach = stats.t.ppf(0.95, 2) * np.hypot(
        np.std(values, ddof=1) * np.sqrt(4 / 3), np.sqrt(61 * 39 / 100 + 61 * 39 / size)
    )
    for margin, word in ((reach + 0.1, "reproduced"), (reach - 0.1, "undecided")):
        reference = {"published": "61", "margin": str(margin), "source": "1", "note": ""}
        assert rows.verdict("test accuracy (%)", reference, values, own).word == word


def test_a_mixture_of_backends_is_told_of():
    each = [{"environment": {"backend": name, "precision": "float32", "commit": "a"}} for name in ("jax", "tensorflow")]
    assert rows.doubts([group("p", "a", *each)]) == ["runs differ in backend: jax, tensorflow"]
