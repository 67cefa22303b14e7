import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from made_runs import (
    ACCURACIES,
    REFERENCE,
    SETTING,
    TASK,
    collect,
    edit,
    every_row,
    make_run,
    rows,
    table,
    write_report,
)
from PIL import Image
from scipy import stats

from common.config import REPOSITORY
from common.measured import SPEED, TEST_ACCURACY, Metric, percent
from results import pictures
from results.collect import current_protocol
from results.records import group, natural, read_record
from results.rows import COLUMNS, Row
from results.tables import compact, listed_notes

TRIPS = """
import dataclasses

def of_width(record):
    return record["config"]["width"] + 1

class Trips(Report):
    def renew(self, record):
        of_width(record)
        return super().renew(record)

REPORT = Trips(**{field.name: getattr(REPORT, field.name) for field in dataclasses.fields(REPORT)})
"""


def outputs(root):
    folders = [root / "results" / name for name in ("tables", "figures")]
    return {path.name: path.read_bytes() for folder in folders for path in folder.iterdir()}


def test_means_and_deviations_over_seeds(root, capsys):
    for seed in ACCURACIES:
        make_run(root, seed)
    collect(root)
    (row,) = rows(root, metric="full validation accuracy (%)")
    accuracies = [100 * a[2] for a in ACCURACIES.values()]
    assert tuple(row) == COLUMNS
    assert (row["preset"], row["setting"], row["n"]) == ("three_phase", SETTING, "3")
    assert (row["mean"], row["std"]) == (f"{np.mean(accuracies):.2f}", f"{np.std(accuracies, ddof=1):.2f}")
    by_metric = {row["metric"]: row["mean"] for row in table(root)}
    assert by_metric["test accuracy (%)"] == "61.00"
    assert by_metric["test macro F1 (%)"] == "30.50"
    assert by_metric["test weighted F1 (%)"] == "15.25"
    assert by_metric["test loss"] == "1.3900"
    assert by_metric["validation accuracy (%)"] == "71.00"
    assert by_metric["head test accuracy (%)"] == "39.67"
    assert by_metric["head images/s"] == "200.0"
    assert capsys.readouterr().err == ""


def test_phases_of_a_run_are_compared(root):
    for seed in ACCURACIES:
        make_run(root, seed)
    collect(root)
    found = [row for row in every_row(root) if row not in table(root)]
    for label, gains in (("full minus last_block", [10, 13, 7]), ("last_block minus head", [10, 9, 15])):
        (row,) = [row for row in found if row["setting"] == f"{SETTING}: {label}"]
        assert (row["mean"], row["n"]) == (f"{np.mean(gains):.2f}", "3")
        assert float(row["std"]) == pytest.approx(np.std(gains, ddof=1), abs=0.005)
        low, high = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
        assert f"95 % interval {low:.2f} to {high:.2f}, over seeds, paired by seed" in row["note"]


def test_one_seed_has_no_deviation(root):
    make_run(root, 0)
    collect(root)
    assert {(row["std"], row["n"]) for row in table(root)} == {("", "1")}
    assert every_row(root) == table(root)


@pytest.mark.parametrize(
    ("metric", "published", "margin", "note", "verdict"),
    [
        ("validation accuracy (%)", "71", "9", "", "reproduced"),  # 2.92 x 2.65 x sqrt(1 + 1/3) = 8.92
        ("validation accuracy (%)", "71", "8.9", "", "undecided"),
        ("validation accuracy (%)", "84.2", "2.5", "", "lower"),  # 4.30 x 2.65 x sqrt(1 + 1/3) = 13.15
        ("validation accuracy (%)", "57.8", "", "", "higher"),
        ("test loss", "1", "", "", "higher"),
        ("test loss", "2", "", "", "lower"),
        ("test loss", "2", "", "not comparable: other data", "not comparable"),
        ("top speed", "2", "", "not comparable: other data", "not measured"),
    ],
)
def test_verdicts(root, metric, published, margin, note, verdict):
    for seed in ACCURACIES:
        make_run(root, seed, notes=["few images"])
    reference = f"three_phase,{SETTING},{metric},{published},{margin},007,{note}\n"
    (root / "tasks" / TASK / "reference.csv").write_text(REFERENCE + reference)
    collect(root)
    (row,) = rows(root, metric=metric)
    assert (row["published"], row["source"], row["verdict"]) == (published, "007", verdict)
    remedy = "about 4 seeds would settle it" if verdict == "undecided" else ""
    remarks = [note] if verdict == "not measured" else [note, remedy, "few images"]
    assert row["note"] == "; ".join(filter(None, remarks))
    assert {r["verdict"] for r in table(root) if r["metric"] != metric} == {""}


@pytest.mark.parametrize("written", [True, False])
def test_the_choice_of_test_images_counts_if_they_are_a_part_of_the_sources(root, written):
    """Test accuracies 60, 64 and 59: within 20 points of 61 unless 100 of 10,000 images were chosen by chance.

    Runs have the number; of older ones a note says it.
    """
    for seed in ACCURACIES:
        run = make_run(root, seed, notes=["a part of the images"] if written else ["100 of 10,000 test images"])
        if written:
            edit(run / "metrics.json", test_images_of=10_000)
    lines = [f"three_phase,{SETTING},{metric},{value},{margin},007,\n" for metric, value, margin in PARTLY_SEEN]
    (root / "tasks" / TASK / "reference.csv").write_text(REFERENCE + "".join(lines))
    collect(root)
    deviation, images = np.std([60, 64, 59], ddof=1), np.sqrt(61 * 39 / 100 + 61 * 39 / 10_000)
    reach = stats.t.ppf(0.95, 2) * np.sqrt(deviation**2 * 4 / 3 + images**2)
    assert 15 < reach < 20
    found = {row["metric"]: row for row in table(root) if row["published"]}
    assert found["test accuracy (%)"]["verdict"] == found["full test accuracy (%)"]["verdict"] == "undecided"
    assert found["validation accuracy (%)"]["verdict"] == "reproduced"  # another split by every seed
    assert found["test loss"]["verdict"] == "undecided"
    assert found["test loss"]["note"].startswith("on 100 test images, whose chance is known of an accuracy alone")
    (root / "tasks" / TASK / "reference.csv").write_text(
        REFERENCE + f"three_phase,{SETTING},test accuracy (%),61,20,007,\n"
    )
    collect(root)
    assert rows(root, metric="test accuracy (%)")[0]["verdict"] == "reproduced"


PARTLY_SEEN = (
    ("test accuracy (%)", 61, 15),
    ("full test accuracy (%)", 61, 15),
    ("validation accuracy (%)", 71, 15),
    ("test loss", 1.39, 9),
)


def test_published_rows_alone(root, capsys):
    (root / "tasks" / TASK / "reference.csv").write_text(REFERENCE + f"two_phase,{SETTING},test loss,1,,007,\n")
    collect(root, TASK)
    (row,) = table(root)
    assert (row["mean"], row["n"], row["verdict"]) == ("", "", "not measured")
    assert "not measured" in capsys.readouterr().out


def test_the_terminal_has_a_line_for_each_setting_of_ones_own_runs(root, capsys):
    for seed in ACCURACIES:
        make_run(root, seed)
    collect(root, "--keep")
    own, line, *rest = capsys.readouterr().out.splitlines()
    assert own == f"{TASK}: 0 settings in the records alone"
    assert line.startswith("  three_phase, CIFAR-10")
    assert ": test accuracy (%) 61.00 ± " in line
    assert line.endswith(" (n=3)")
    assert rest == [f"tables      {root}/results/tables", f"page        {root}/results/index.html"]
    shutil.rmtree(root / "results" / "runs" / TASK)
    collect(root)
    assert capsys.readouterr().out.splitlines()[0] == f"{TASK}: 1 setting in the records alone"


def test_unusable_runs_are_listed_and_left_out(root, capsys):
    names = ["unfinished", "cut", "nan", "hollow", "moved", "short", "diverged"]
    cut, nan, hollow, moved, short, diverged = (
        make_run(root, 1, accuracies=(0, 0, 0), slug=f"{name}-aaaa1111") for name in names[1:]
    )
    unfinished = make_run(root, 1, slug="unfinished-aaaa1111")
    make_run(root, 0)
    (unfinished / "metrics.json").unlink()
    (cut / "metrics.json").write_text('{"status": "comp')
    (nan / "metrics.json").write_text((nan / "metrics.json").read_text().replace("0.0", "NaN"))
    edit(hollow / "metrics.json", test={"accuracy": None})
    moved.rename(moved.with_name("moved-aaaa1111-s1 (copy)"))
    (short / "history.csv").write_text("phase,epoch\nhead\n")
    edit(diverged / "metrics.json", status="diverged", diverged={"reason": "loss is nan at phase head"})
    collect(root)
    assert {row["n"] for row in table(root) if row["setting"] == SETTING} == {"1"}
    (row,) = rows(root, metric="test accuracy (%)")
    assert row["mean"] == "60.00"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(names)
    for name, kind in zip(names, ["unfinished", *["damaged"] * 5, "diverged"], strict=True):
        (line,) = [line for line in lines if f"{TASK}/{name}" in line]
        assert line.startswith(f"{kind}: ")
    assert any("metrics.json" in line and "cut-" in line for line in lines)
    assert any("loss is nan at phase head" in line for line in lines)


def test_a_diverged_seed_is_told_of_beside_the_others(root):
    make_run(root, 0)
    edit(make_run(root, 1) / "metrics.json", status="diverged", diverged={"reason": "loss is nan"})
    collect(root)
    assert {(row["n"], row["note"]) for row in table(root)} == {("1", "1 of 2 runs diverged and are left out")}


@pytest.mark.parametrize("state", [{"dirty": True}, {"commit": None}])
@pytest.mark.parametrize("where", ["last", "first start"])
def test_uncommitted_code_stands_apart_and_is_not_kept(root, capsys, state, where):
    make_run(root, 0)
    path = make_run(root, 1) / "environment.json"
    environment = json.loads(path.read_text())
    edit(path, **(state if where == "last" else {"starts": [environment["starts"][0] | state]}))
    collect(root, "--keep")
    assert {row["setting"]: row["n"] for row in table(root)} == {SETTING: "1", f"{SETTING} code=uncommitted": "1"}
    assert [path.name[-8:] for path in (root / "results" / "records" / TASK).iterdir()] == ["-s0.json"]
    err = capsys.readouterr().err
    assert "not kept: " in err
    assert "uncommitted: " in err


def test_other_configurations_of_one_setting_are_kept_apart(root, capsys):
    make_run(root, 0)
    make_run(root, 1)
    make_run(root, 2, slug="three_phase-cifar10-bbbb2222", batch_size=32)
    collect(root)
    found = {row["setting"]: row["n"] for row in table(root)}
    assert found == {f"{SETTING} batch_size=32": "1", f"{SETTING} batch_size=64": "2"}
    assert "kept apart" in capsys.readouterr().err


def test_runs_on_other_numbers_of_images_are_kept_apart(root, capsys):
    """Of one configuration: a copy of the data may be a part of it. A diverged run does not say which."""
    for seed, test in ((0, 1000), (1, 1000), (2, 10_000)):
        edit(make_run(root, seed) / "metrics.json", images={"train": 10, "test": test})
    path = make_run(root, 3, accuracies=ACCURACIES[0]) / "metrics.json"
    path.write_text(json.dumps({"status": "diverged", "task": TASK, "seed": 3, "diverged": {"reason": "loss is nan"}}))
    collect(root)
    found = {row["setting"]: row["n"] for row in rows(root, metric="test accuracy (%)")}
    assert found == {f"{SETTING} images.test=10000": "1", f"{SETTING} images.test=1000": "2"}
    assert "2 configurations, differing in images.test" in capsys.readouterr().err


def test_a_mixture_of_precisions_is_told_of(root):
    make_run(root, 0, notes=["few images"])
    edit(make_run(root, 1, notes=["few images"]) / "environment.json", precision="mixed_float16")
    collect(root)
    assert {row["note"] for row in table(root)} == {"runs differ in precision: float32, mixed_float16; few images"}


def test_records_alone_give_the_same_bytes(root):
    for seed in (2, 0, 1):
        make_run(root, seed, notes=[f"note {seed}"])
        if seed == 2:  # this one is a record alone from here on
            collect(root, "--keep")
            shutil.rmtree(root / "results" / "runs")
    edit(make_run(root, 1, slug="gone-cccc3333") / "metrics.json", status="diverged", diverged={"reason": "nan"})
    collect(root, "--keep")
    first = outputs(root)
    collect(root, TASK)  # run directories and records at once
    assert outputs(root) == first
    assert {row["n"] for row in table(root)} == {"3", "0"}  # 0: of the setting whose one run diverged
    shutil.rmtree(root / "results" / "runs")
    for name in ("tables", "figures"):
        shutil.rmtree(root / "results" / name)
    collect(root)
    assert outputs(root) == first
    assert set(first) == {f"{TASK}.csv", f"{TASK}.md", f"{TASK}.tex", f"{TASK}_curves.png"}


def test_other_order_of_files_gives_the_same_bytes(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(root, other, dirs_exist_ok=True)
    for place, seeds in ((root, (0, 1, 2)), (other, (2, 1, 0))):
        for seed in seeds:
            make_run(place, seed)
            make_run(place, seed, slug="three_phase-mnist-dddd4444", setting="dataset=mnist", dataset="mnist")
        collect(place)
    assert outputs(root) == outputs(other)


def test_run_directory_wins_over_another_record(root, capsys):
    run = make_run(root, 0)
    collect(root, "--keep")
    edit(run / "metrics.json", test={"accuracy": 0.9})
    collect(root)
    assert rows(root, metric="test accuracy (%)")[0]["mean"] == "90.00"
    assert "the run directory counts" in capsys.readouterr().err
    edit(run / "environment.json", dirty=True)
    collect(root)
    assert rows(root, metric="test accuracy (%)")[0]["mean"] == "60.00"
    assert "the record counts" in capsys.readouterr().err
    (run / "metrics.json").unlink()
    collect(root)
    assert rows(root, metric="test accuracy (%)")[0]["mean"] == "60.00"


def test_records_hold_what_tables_rest_on_and_nothing_of_the_machine(root):
    run = make_run(root, 0)
    dataset = "image_folder:/data/me/flowers"
    images = make_run(
        root,
        1,
        slug="three_phase-flowers-eeee5555",
        setting=f"dataset={dataset} backbone=resnet18",
        notes=["1 unreadable image files skipped: /data/me/flowers/rose/1.png"],
        dataset=dataset,
    )
    collect(root, "--keep")
    texts = [(root / "results/records" / TASK / f"{folder.name}.json").read_text() for folder in (run, images)]
    for text in texts:
        for secret in ("options", "host", "/home", "/data", str(root)):
            assert secret not in text
        assert len(text) < 2**20
    record = json.loads(texts[0])
    assert list(record) == [
        "run",
        "task",
        "setting",
        "protocol",
        "config",
        "environment",
        "metrics",
        "history",
        "digest",
    ]
    assert record["metrics"] == json.loads((run / "metrics.json").read_text())
    assert record["history"][0] == {"phase": "head", "epoch": 1, "rate": 0.001, "loss": 1.5, "val_accuracy": 0.5}
    assert json.loads(texts[1])["setting"] == "dataset=image_folder:flowers backbone=resnet18"
    assert json.loads(texts[1])["metrics"]["notes"] == ["1 unreadable image files skipped: flowers/rose/1.png"]


def test_one_run_of_three_looks_has_its_whole_row_judged_at_a_third_of_the_error(root):
    """Test accuracies 60, 64 and 59: their interval is within 10 points at 5 %, not at a third of it."""
    path = root / "tasks" / TASK / "reference.csv"
    path.write_text(f"{REFERENCE}three_phase,{SETTING},test accuracy (%),61,10,007,\n")
    folders = [make_run(root, seed) for seed in range(3)]

    def judged():
        (row,) = rows(root, metric="test accuracy (%)")
        return row["verdict"], "seeds are added until decided: 3 looks share the error" in row["note"]

    collect(root)
    assert judged() == ("reproduced", False)
    edit(folders[1] / "config.json", options={"looks": 3})
    collect(root, "--keep")
    assert judged() == ("undecided", True)
    kept = [json.loads((root / "results/records" / TASK / f"{f.name}.json").read_text()) for f in folders]
    assert ["looks" in record for record in kept] == [False, True, False]
    shutil.rmtree(root / "results" / "runs")
    collect(root)
    assert judged() == ("undecided", True)


@pytest.mark.parametrize("options", [[], None, {"looks": "3"}])
def test_damaged_options_are_named(root, capsys, options):
    edit(make_run(root, 0) / "config.json", options=options)
    collect(root)
    assert "damaged: cifar_phased/three_phase-cifar10-aaaa1111-s0: options in config.json " in capsys.readouterr().err


@pytest.mark.parametrize("looks", [0, "3"])
def test_a_record_with_damaged_looks_is_named(root, capsys, looks):
    name = make_run(root, 0).name
    collect(root, "--keep")
    shutil.rmtree(root / "results" / "runs")
    edit(root / "results/records" / TASK / f"{name}.json", looks=looks)
    collect(root)
    assert f"damaged: records/{TASK}/{name}.json: " in capsys.readouterr().err


def test_records_of_an_older_protocol_are_read_and_stand_apart(root):
    old, new = (make_run(root, seed, slug=f"three_phase-cifar10-{seed}aaa1111") for seed in (0, 1))
    edit(new / "config.json", protocol=2)
    task = root / "tasks" / TASK / "train.py"
    task.write_text("class Config:\n    PROTOCOL = 2\n")
    collect(root, "--keep")
    record = json.loads((root / "results/records" / TASK / f"{old.name}.json").read_text())
    assert record["protocol"] is None
    found = {row["setting"]: row["mean"] for row in rows(root, metric="test accuracy (%)")}
    assert found == {f"{SETTING} protocol=1": "60.00", SETTING: "64.00"}
    task.write_text("class Config:\n    PROTOCOL = 3\n")
    collect(root)
    assert {row["setting"] for row in table(root)} == {f"{SETTING} protocol=1", f"{SETTING} protocol=2"}


@pytest.mark.parametrize(
    ("body", "number"),
    [
        ("    PROTOCOL: ClassVar[int] = 3\n", 3),
        ("    PROTOCOL = 3  # why\n", 3),
        ('    """Text.\n\n    PROTOCOL = 2\n    """\n\n    PROTOCOL = (\n        3\n    )\n', 3),
        ("    width: int = 1\n", 1),
    ],
)
def test_the_protocol_of_a_task_is_read_however_it_is_written(tmp_path, body, number):
    (tmp_path / "a.py").write_text("PROTOCOL = 7  # of a module\n")
    (tmp_path / "train.py").write_text(f"class Config:\n{body}")
    assert current_protocol(tmp_path) == number


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("class Config:\n    PROTOCOL = Base.PROTOCOL + 1\n", "its PROTOCOL cannot be read, which must be a number"),
        ("class Config\n", "its PROTOCOL cannot be read, which must be a number"),
        ("class Config:\n    PROTOCOL = 2\nclass Other:\n    PROTOCOL = 3\n", "has PROTOCOL = 2 and 3; allowed: one"),
    ],
)
def test_a_protocol_that_cannot_be_read_is_one_line(root, capsys, body, said):
    (root / "tasks" / TASK / "train.py").write_text(body)
    with pytest.raises(SystemExit) as stop:
        collect(root)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_records_from_before_a_field_was_added_join_newer_ones(root):
    make_run(root, 0)
    make_run(root, 1, new_field="its default")
    collect(root)
    assert {row["n"] for row in rows(root, metric="test accuracy (%)")} == {"2"}


def test_damaged_record_is_named(root, capsys):
    make_run(root, 0)
    collect(root, "--keep")
    (root / "results" / "records" / TASK / "broken-s1.json").write_text("{")
    collect(root)
    assert capsys.readouterr().err.startswith(f"damaged: records/{TASK}/broken-s1.json: ")


def test_a_damaged_record_of_a_task_that_was_not_asked_for_is_named_too(root, capsys):
    """The overviews and the page are made without it."""
    make_run(root, 0)
    collect(root, "--keep")
    (root / "results" / "records" / TASK / "broken-s1.json").write_text("{")
    (root / "tasks" / "another").mkdir()
    (root / "tasks" / "another" / "train.py").touch()
    collect(root, "another")
    assert f"damaged: records/{TASK}/broken-s1.json: " in capsys.readouterr().err


def test_table_in_the_readme(root, capsys):
    make_run(root, 0)
    make_run(root, 1)
    readme = root / "tasks" / TASK / "README.md"
    readme.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    collect(root)
    filled = readme.read_text()
    assert filled.startswith("before\n<!-- results -->\n\n")
    assert filled.endswith("\n<!-- /results -->\nafter\n")
    (row,) = [line for line in filled.splitlines() if line.startswith(f"| `{SETTING}`")]
    (head,) = [line for line in filled.splitlines() if line.startswith("| setting |")]
    cells = dict(zip(head.strip("| ").split(" | "), row.strip("| ").split(" | "), strict=True))
    assert cells["full validation accuracy (%)"] == "72.00 ± 2.83 (n=2)"
    assert not any("F1" in name for name in cells)
    collect(root)
    assert readme.read_text() == filled
    assert "no place" not in capsys.readouterr().err
    readme.write_text("<!-- results --> no end")
    collect(root)
    assert readme.read_text() == "<!-- results --> no end"
    assert f"no place for the table: {TASK}/README.md lacks the lines" in capsys.readouterr().err


def test_a_setting_whose_runs_all_diverged_has_a_row_of_its_own(root):
    folder = make_run(root, 1, slug="gone-cccc3333", setting="rate=9")
    reason = {"reason": "loss is nan at phase head, epoch 1, step 7", "phase": "head", "epoch": 1, "step": 7}
    edit(folder / "metrics.json", status="diverged", diverged=reason)
    collect(root)
    (row,) = table(root)
    assert (row["setting"], row["mean"], row["n"]) == ("rate=9", "", "0")
    assert row["note"] == "1 of 1 runs diverged; loss is nan at phase head, epoch 1, step 7"


def test_a_task_declares_metrics_of_its_own(root, capsys):
    for seed, value in ((0, 0.25), (1, 0.35)):
        edit(make_run(root, seed) / "metrics.json", by_name={"PCA test loss": value, "parts of a": 2})
    collect(root)
    assert capsys.readouterr().err.splitlines() == [
        f"not declared: {TASK}: metric {name!r} is neither better nor worse, until report.py names it in `metrics`"
        for name in ("PCA test loss", "parts of a")
    ]
    write_report(root, "metrics=(loss('PCA test loss'), percent('parts of *'))")
    collect(root)
    assert capsys.readouterr().err == ""
    (row,) = rows(root, metric="PCA test loss")
    assert (row["mean"], row["std"], row["n"]) == ("0.3000", "0.0707", "2")
    assert rows(root, metric="parts of a")[0]["mean"] == "2.00"


def test_a_metric_of_the_tasks_own_is_judged_too(root):
    for seed in (0, 1):
        edit(make_run(root, seed) / "metrics.json", by_name={"components": 154, "parts": 3})
    lines = "".join(f"three_phase,{SETTING},{name},10,,007,\n" for name in ("components", "parts"))
    (root / "tasks" / TASK / "reference.csv").write_text(REFERENCE + lines)
    collect(root)
    assert [rows(root, metric=name)[0]["verdict"] for name in ("components", "parts")] == ["higher", "lower"]
    assert "1 higher, 1 lower" in (root / "results" / "README.md").read_text()


def test_a_figure_that_is_drawn_no_more_is_complained_of(root, capsys):
    write_report(root, "figures=(losses,)")
    collect(root)
    run = make_run(root, 0, draw=True)
    collect(root, "--strict")
    figure = root / "results" / "figures" / f"{TASK}_losses.png"
    assert figure.is_file()
    assert "What a test asks for" in (root / "results" / "index.html").read_text()
    capsys.readouterr()
    shutil.rmtree(run)
    make_run(root, 0, draw=False)
    with pytest.raises(SystemExit) as stop:
        collect(root, "--strict")
    assert stop.value.code == 1
    assert not figure.exists()
    complaint, error = capsys.readouterr().err.splitlines()
    assert complaint == f"not drawn: figures/{TASK}_losses.png: it was there, and no run has what it shows now"
    assert error == "error: 1 complaint, and --strict"


def test_a_figure_shows_the_newest_protocol_that_has_what_it_shows(root, monkeypatch):
    old, new = make_run(root, 0, draw=True), make_run(root, 1, draw=False, slug="three_phase-cifar10-bbbb1111")
    edit(new / "config.json", protocol=2)
    write_report(root, "figures=(losses,)")
    shown = []
    monkeypatch.setattr("common.plots.across.curves", lambda runs, path: shown.extend(run["run"] for run in runs))
    collect(root)
    assert shown == [old.name]
    edit(new / "config.json", config=json.loads((new / "config.json").read_text())["config"] | {"draw": True})
    collect(root)
    assert shown == [old.name, new.name, old.name]  # nothing was drawn of the newest, so the next was asked


def pixels_of(path):
    """A grey image's values."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def test_a_figure_of_an_older_protocol_says_so(root, monkeypatch):
    make_run(root, 0, draw=True)
    write_report(root, "figures=(losses,)")
    monkeypatch.setattr("common.plots.across.curves", lambda runs, path: Image.new("L", (300, 50), 99).save(path))
    path = root / "results" / "figures" / f"{TASK}_losses.png"
    collect(root)
    assert pixels_of(path).shape == (50, 300)
    (root / "tasks" / TASK / "train.py").write_text("class Config:\n    PROTOCOL = 9\n")
    collect(root)
    image = pixels_of(path)
    assert image.shape == (50 + pictures.LINE, 300)
    assert (image[:50] == 99).all()
    assert 0 < (image[50:] < 128).mean() < 0.5  # letters


def test_a_task_without_a_report_has_a_table_and_no_figures(root):
    (root / "tasks" / TASK / "report.py").unlink()
    make_run(root, 0)
    collect(root)
    assert table(root)
    assert not (root / "results" / "figures").exists()


def test_a_report_file_without_a_report_is_one_line(root, capsys):
    (root / "tasks" / TASK / "report.py").write_text("REPORT = 1\n")
    with pytest.raises(SystemExit) as stop:
        collect(root)
    assert stop.value.code == 2
    assert "report.py: it must have REPORT = Report(...), from common.report\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cifar_phase"], "unknown task 'cifar_phase'; allowed: cifar_phased; did you mean cifar_phased?"),
        (["--kep"], "unrecognized arguments: --kep; see results/collect.py --help"),
        (["--runs", "nowhere"], "folder of runs nowhere is not there"),
    ],
)
def test_bad_arguments_are_one_line(root, capsys, arguments, words):
    with pytest.raises(SystemExit) as stop:
        collect(root, *arguments)
    err = capsys.readouterr().err
    assert (stop.value.code, err) == (2, f"error: {words}\n")


@pytest.mark.parametrize("text", ["preset,published\n", REFERENCE + "a,b,c,about 90,,007,\n", REFERENCE + "a,b\n"])
def test_bad_reference_is_one_line(root, capsys, text):
    (root / "tasks" / TASK / "reference.csv").write_text(text)
    with pytest.raises(SystemExit) as stop:
        collect(root)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_other_folder_of_runs(root):
    make_run(root, 0)
    (root / "results" / "runs").rename(root / "elsewhere")
    collect(root, "--runs", str(root / "elsewhere"))
    assert table(root)


def test_a_copy_of_a_run_is_no_second_seed(root, capsys):
    folder = make_run(root, 0)
    copy = folder.with_name(f"backup-{folder.name}")
    shutil.copytree(folder, copy)
    make_run(root, 1)
    capsys.readouterr()
    collect(root)
    said = f"twice: {TASK}/{copy.name} and {folder.name} are one configuration and seed; the second counts"
    assert capsys.readouterr().err.splitlines() == [said]
    assert "(n=2)" in (root / "results" / "README.md").read_text()


def test_folders_in_which_nobody_looks_for_runs_are_named(root, capsys):
    make_run(root, 0)
    runs = root / "results" / "runs"
    (runs / TASK.replace("_", "-")).mkdir()
    with pytest.raises(SystemExit):
        collect(root, "--strict")
    assert f"not looked at: {TASK.replace('_', '-')} in {runs}: " in capsys.readouterr().err
    collect(root, "--runs", str(runs / TASK))  # one level too deep
    assert f"not looked at: {next((runs / TASK).iterdir()).name} in {runs / TASK}: " in capsys.readouterr().err


def test_the_command_imports_no_framework(root):
    code = (
        "import sys; import results.collect; print({'keras', 'tensorflow', 'matplotlib', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_readme_says_which_settings_a_note_is_about():
    rows = [
        Row("s", setting, "m", notes=notes)
        for setting, notes in (
            ("k=1", ("few", "case 1")),
            ("k=1", ("few",)),
            *((k, ("few", "odd")) for k in ("k=2", "k=3")),
        )
    ]
    assert listed_notes(rows) == ["- few", "- `k=1`: case 1", "- `k=2` and `k=3`: odd"]
    many = [Row("s", f"k={k}", "m", notes=("slow",) if k else ()) for k in range(5)]
    assert listed_notes(many) == ["- 4 settings: slow"]


def test_settings_are_sorted_by_the_size_of_their_numbers():
    settings = ["k=10 rate=0.5", "k=200", "k=10 rate=1e-06", "k=2", "k=10", "k=10 rate=3e-7"]
    assert sorted(settings, key=natural) == [
        "k=2",
        "k=10",
        "k=10 rate=3e-7",
        "k=10 rate=1e-06",
        "k=10 rate=0.5",
        "k=200",
    ]


def test_groups_come_in_the_order_of_the_tables():
    """The figures' legends go by it; they once had 14 before 2."""
    found = [
        {
            "run": f"r{size}-s0",
            "setting": f"block={size}",
            "config": {"preset": "p", "seed": 0},
            "environment": {"commit": "abc", "dirty": False, "starts": []},
            "metrics": {},
        }
        for size in (14, 2, None)
    ]
    assert [own.setting for own in group(found, []).groups] == ["block=2", "block=14", "block=None"]


def table_of(metrics, published=()):
    """Rows of one preset with two settings, and these metrics."""
    return [
        Row("s", setting, metric.name, "1", n=2, detail=metric.detail)
        if metric.name not in published
        else Row("s", setting, metric.name, "1", n=2, published="3", verdict="worse", detail=metric.detail)
        for setting in ("a", "b")
        for metric in metrics
    ]


def test_a_readme_has_a_row_a_metric_where_columns_would_be_too_many():
    narrow = compact(table_of([Metric(f"m{i}") for i in range(9)]))
    assert "| setting | m0 |" in narrow
    assert "| `a` | 1 (n=2) |" in narrow
    wide = compact(table_of([Metric(f"m{i}") for i in range(10)]))
    assert "| metric | `a` | `b` |" in wide
    assert "| m9 | 1 (n=2) | 1 (n=2) |" in wide


def test_a_readme_has_details_that_a_source_has_published():
    details = (percent(name, detail=True) for name in ("test macro F1 (%)", "test F1 of sad (%)"))
    metrics = [TEST_ACCURACY, *details, SPEED]
    assert "F1" not in compact(table_of(metrics))
    text = compact(table_of(metrics, published=["test F1 of sad (%)"]))
    assert "| setting | test accuracy (%) | test F1 of sad (%) |" in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it has no column preset; needed: preset,setting,"),
        (REFERENCE.encode() + b"p,x,test loss,1,1,Caf\xe9,n\n", "must be UTF-8"),
    ],
)
def test_a_reference_that_is_empty_or_in_another_encoding_is_one_line(root, capsys, content, said):
    make_run(root, 0)
    (root / "tasks" / TASK / "reference.csv").write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        collect(root)
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


def test_a_reference_that_a_spreadsheet_wrote_is_read(root):
    make_run(root, 0)
    reference = f"{REFERENCE}three_phase,{SETTING},test loss,1,1,007,n\n"
    (root / "tasks" / TASK / "reference.csv").write_bytes(b"\xef\xbb\xbf" + reference.encode())
    collect(root)
    assert [row["published"] for row in rows(root, metric="test loss")] == ["1"]


def kept_alone(root):
    """A record by hand, whose run is gone; its file."""
    name = make_run(root, 0).name
    collect(root, "--keep")
    shutil.rmtree(root / "results" / "runs")
    return root / "results" / "records" / TASK / f"{name}.json"


def test_a_changed_number_in_a_record_is_caught_by_its_digest(root, capsys):
    path = kept_alone(root)
    record = json.loads(path.read_text())
    record["metrics"]["test"]["accuracy"] += 0.01
    path.write_text(json.dumps(record))
    collect(root)
    assert f"damaged: records/{TASK}/{path.name}: {path.name} was changed after" in capsys.readouterr().err


def test_a_record_that_is_laid_out_otherwise_is_the_same(root, capsys):
    path = kept_alone(root)
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items())), ensure_ascii=True))
    collect(root, "--strict")
    assert table(root)


def test_a_record_from_before_there_were_digests_is_read_and_stays(root):
    make_run(root, 0)
    collect(root, "--keep")
    (path,) = (root / "results" / "records" / TASK).iterdir()
    record = json.loads(path.read_text())
    del record["digest"]
    path.write_text(json.dumps(record))
    collect(root, "--keep", "--strict")
    assert json.loads(path.read_text()) == record
    shutil.rmtree(root / "results" / "runs")
    collect(root, "--strict")
    assert table(root)


def test_records_of_this_repository_are_whole():
    """None has lost a value, whatever is checked today."""
    paths = sorted((REPOSITORY / "results" / "records").glob("*/*.json"))
    assert paths
    for path in paths:
        read_record(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("reference.csv", "preset\n", "it has no column setting"),
        ("reference.csv", REFERENCE + "p,s,test loss,1,,000,\n" * 2, "row 3: p s test loss is there twice"),
        (
            "report.py",
            "from common.report import Report\n\nREPORT = Report(claims=7)\n",
            "its report fails: TypeError: ",
        ),
        ("report.py", "import nothing_of_this_name\n", "its report fails: ModuleNotFoundError: "),
    ],
)
def test_files_of_one_task_leave_the_tables_of_others_alone(root, capsys, name, content, said):
    make_run(root, 0)
    (root / "tasks" / "another").mkdir()
    (root / "tasks" / "another" / "train.py").touch()
    (root / "tasks" / "another" / name).write_text(content)
    with pytest.raises(SystemExit) as stop:
        collect(root)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: another is left out, and the overviews stay as they are: ")
    assert said in line
    assert table(root)
    assert not (root / "results" / "index.html").exists()


def test_a_record_that_a_report_trips_over_is_left_out_alone(root, capsys):
    """What is of a task's own in a record is known to its report alone."""
    write_report(root, "renamed={}, figures=()")
    text = (root / "tasks" / TASK / "report.py").read_text()
    (root / "tasks" / TASK / "report.py").write_text(text + TRIPS)
    for seed in range(3):
        make_run(root, seed, **({"width": "wide"} if seed == 1 else {"width": seed}))
    collect(root)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"damaged: {TASK}/three_phase-cifar10-aaaa1111-s1: the task's report cannot read it: TypeErr"
    )
    assert {row["n"] for row in table(root)} == {"2"}


def test_what_is_wrong_is_said_once_if_a_claim_trips_over_a_record(root, capsys):
    """The rows are made twice then, and each time two runs of one seed are found."""
    judge = "always(lambda record: record['config']['width'] + 1 > 0, of={'dataset': ..., 'backbone': ...})"
    write_report(root, f"claims=(Claim('000', 'It is wide', {judge}),), figures=()")
    for seed in range(2):
        make_run(root, seed, width="wide" if seed else 0)
    make_run(root, 0, slug="copy-of-three_phase-cifar10-aaaa1111", width=0)
    collect(root)
    damaged, twice = sorted(capsys.readouterr().err.splitlines())
    assert damaged.startswith(f"damaged: {TASK}/three_phase-cifar10-aaaa1111-s1: ")
    assert twice.startswith("twice: ")


def test_overview_and_page_have_todays_rows_of_a_task_that_was_not_asked_for(root):
    """Its table stays as it is."""
    make_run(root, 0)
    (root / "tasks" / "another").mkdir()
    (root / "tasks" / "another" / "train.py").touch()
    collect(root)
    before = table(root)
    make_run(root, 1)
    collect(root, "another")
    assert table(root) == before
    for name in ("README.md", "index.html"):
        assert "62.00 ± 2.83 (n=2)" in (root / "results" / name).read_text(), name
