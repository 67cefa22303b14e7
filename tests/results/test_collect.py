import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
from made_runs import ACCURACIES, REFERENCE, SETTING, TASK, collect, edit, make_run, rows, table
from matplotlib.container import BarContainer

from common.config import REPOSITORY
from results import drawings
from results.records import group, natural
from results.tables import COLUMNS, compact, csv_text, listed_notes


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


def test_paired_differences_between_consecutive_phases(root):
    for seed in ACCURACIES:
        make_run(root, seed)
    collect(root)
    for metric, gains in (
        ("last_block - head validation accuracy (points)", [10, 9, 15]),
        ("full - last_block validation accuracy (points)", [10, 13, 7]),
        ("full - last_block test accuracy (points)", [10, 13, 7]),
    ):
        (row,) = rows(root, metric=metric)
        mean = sum(gains) / 3
        std = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / 2)
        assert (row["mean"], row["std"], row["n"]) == (f"{mean:.2f}", f"{std:.2f}", "3")


def test_one_seed_has_no_deviation(root):
    make_run(root, 0)
    collect(root)
    assert {(row["std"], row["n"]) for row in table(root)} == {("", "1")}
    assert not [row for row in table(root) if "(points)" in row["metric"]]


@pytest.mark.parametrize(
    ("metric", "values", "told"),
    [
        ("components", (154, 155), "154"),  # counts are whole, and halves go to the even
        ("parts", (1.5, 2.5), "2.00"),
        ("test accuracy (%)", (80, 80), "80.00"),
        ("tiny loss", (3.9e-6, 3.9e-6), "0.0000039"),
        ("small loss", (9.2e-4, 9.2e-4), "0.00092"),
        ("exact loss", (0, 0), "0.00000"),
    ],
)
def test_figures_have_the_digits_that_they_need(root, metric, values, told):
    for seed, value in enumerate(values):
        path = make_run(root, seed) / "metrics.json"
        edit(path, by_name={metric: value})
    collect(root)
    (row,) = rows(root, metric=metric)
    assert row["mean"] == told


@pytest.mark.parametrize(
    ("metric", "published", "margin", "note", "verdict"),
    [
        ("validation accuracy (%)", "73.5", "2.5", "", "reproduced"),
        ("validation accuracy (%)", "73.65", "2.5", "", "reproduced"),  # the deviation, 2.65, is wider
        ("validation accuracy (%)", "73.66", "2.5", "", "worse"),
        ("validation accuracy (%)", "60", "", "", "better"),
        ("test loss", "1", "", "", "worse"),
        ("test loss", "2", "", "", "better"),
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
    remarks = [note] if verdict == "not measured" else [note, "few images"]
    assert row["note"] == "; ".join(filter(None, remarks))
    assert {r["verdict"] for r in table(root) if r["metric"] != metric} == {""}


def test_published_rows_alone(root, capsys):
    (root / "tasks" / TASK / "reference.csv").write_text(REFERENCE + f"two_phase,{SETTING},test loss,1,,007,\n")
    collect(root, TASK)
    (row,) = table(root)
    assert (row["mean"], row["n"], row["verdict"]) == ("", "", "not measured")
    assert "not measured" in capsys.readouterr().out


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
    assert set(first) == {f"{TASK}.csv", f"{TASK}.md", f"{TASK}.tex", f"{TASK}_phases.png", f"{TASK}_curves.png"}


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
    assert list(record) == ["run", "task", "setting", "protocol", "config", "environment", "metrics", "history"]
    assert record["metrics"] == json.loads((run / "metrics.json").read_text())
    assert record["history"][0] == {"phase": "head", "epoch": 1, "rate": 0.001, "loss": 1.5, "val_accuracy": 0.5}
    assert json.loads(texts[1])["setting"] == "dataset=image_folder:flowers backbone=resnet18"
    assert json.loads(texts[1])["metrics"]["notes"] == ["1 unreadable image files skipped: flowers/rose/1.png"]


def test_records_of_an_older_protocol_are_read_and_stand_apart(root):
    old, new = (make_run(root, seed, slug=f"three_phase-cifar10-{seed}aaa1111") for seed in (0, 1))
    edit(new / "config.json", protocol=2)
    task = root / "tasks" / TASK / "train.py"
    task.write_text("    PROTOCOL = 2\n")
    collect(root, "--keep")
    record = json.loads((root / "results/records" / TASK / f"{old.name}.json").read_text())
    assert record["protocol"] is None
    found = {row["setting"]: row["mean"] for row in rows(root, metric="test accuracy (%)")}
    assert found == {f"{SETTING} protocol=1": "60.00", SETTING: "64.00"}
    task.write_text("    PROTOCOL = 3\n")
    collect(root)
    assert {row["setting"] for row in table(root)} == {f"{SETTING} protocol=1", f"{SETTING} protocol=2"}


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


def test_table_in_the_readme(root):
    make_run(root, 0)
    make_run(root, 1)
    readme = root / "tasks" / TASK / "README.md"
    readme.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    collect(root)
    filled = readme.read_text()
    assert filled.startswith("before\n<!-- results -->\n\n")
    assert filled.endswith("\n<!-- /results -->\nafter\n")
    (row,) = [line for line in filled.splitlines() if SETTING in line]
    (head,) = [line for line in filled.splitlines() if line.startswith("| setting |")]
    cells = dict(zip(head.strip("| ").split(" | "), row.strip("| ").split(" | "), strict=True))
    assert cells["full validation accuracy (%)"] == "72.00 ± 2.83 (n=2)"
    assert not any("F1" in name for name in cells)
    collect(root)
    assert readme.read_text() == filled
    readme.write_text("<!-- results --> no end")
    collect(root)
    assert readme.read_text() == "<!-- results --> no end"


def test_a_setting_whose_runs_all_diverged_has_a_row_of_its_own(root):
    folder = make_run(root, 1, slug="gone-cccc3333", setting="rate=9")
    reason = {"reason": "loss is nan at phase head, epoch 1, step 7", "phase": "head", "epoch": 1, "step": 7}
    edit(folder / "metrics.json", status="diverged", diverged=reason)
    collect(root)
    (row,) = table(root)
    assert (row["setting"], row["mean"], row["n"]) == ("rate=9", "", "0")
    assert row["note"] == "1 of 1 runs diverged; loss is nan at phase head, epoch 1, step 7"


def test_figures_across_runs_take_the_settings_of_the_preset_alone(tmp_path, monkeypatch):
    """A trial with other settings, or of uncommitted code, must not stand where the preset's run does."""

    def run(k, loss, **config):
        config = {"preset": "autoencoder", "dataset": "mnist", "k": k, "dropout": 0.0, **config}
        return {"config": config, "metrics": {"test": {"loss": loss}, "by_name": {"PCA test loss": 0.5}}}

    drawn = []
    monkeypatch.setattr(drawings.plots, "save_figure", lambda figure, path: drawn.append(figure))
    settings = ("dataset=mnist k=300", "dataset=mnist k=300 code=uncommitted", "dataset=mnist limit_train=9 k=300")
    groups = {("autoencoder", text): [run(300, float(i))] for i, text in enumerate(settings, start=1)}
    groups |= {("autoencoder", "dataset=mnist k=20"): [run(20, 7.0)]}
    drawings.sweep(groups, tmp_path / "p.png")
    (line, *_) = drawn[0].axes[0].get_lines()
    assert line.get_xydata().tolist() == [[20, 7.0], [300, 1.0]]


def test_a_task_adds_figures_of_its_own(root):
    for seed, value in ((0, 0.25), (1, 0.35)):
        edit(make_run(root, seed) / "metrics.json", by_name={"PCA test loss": value})
    collect(root)
    (row,) = [row for row in table(root) if row["metric"] == "PCA test loss"]
    assert (row["mean"], row["std"], row["n"]) == ("0.3000", "0.0707", "2")


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


def test_the_command_imports_no_framework(root):
    code = (
        "import sys; import results.collect; print({'keras', 'tensorflow', 'matplotlib', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_readme_says_which_settings_a_note_is_about():
    rows = [
        {"setting": setting, "note": note}
        for setting, note in (("k=1", "few; case 1"), ("k=1", "few"), ("k=2", "few; odd"), ("k=3", "few; odd"))
    ]
    assert listed_notes(rows) == ["- few", "- `k=1`: case 1", "- `k=2` and `k=3`: odd"]
    many = [{"setting": f"k={k}", "note": "slow" if k else ""} for k in range(5)]
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
    assert [setting for _, setting in group(found, [])] == ["block=2", "block=14", "block=None"]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that drawings would save."""
    figures = []
    monkeypatch.setattr(drawings.plots, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def test_transfer_is_drawn_by_blocks_frozen_and_trained(drawn, tmp_path):
    def run(train, test):
        return {"metrics": {"train": {"loss": train}, "test": {"loss": test}}}

    groups = {
        ("transfer", f"dataset=cifar10 blocks={blocks} train_blocks={trained}"): [run(blocks + trained, 10.0 * blocks)]
        for blocks in (1, 2, 3)
        for trained in (True, False)
    }
    groups["transfer", "dataset=cifar10 blocks=2 train_blocks=True epochs=1"] = [run(99.0, 99.0)]  # a trial
    groups["base", "dataset=cifar10"] = [run(5.0, 6.0), run(7.0, 8.0)]
    drawings.transferred_blocks(groups, tmp_path / "p.png")
    train, test = drawn[0].axes
    trained, frozen = (container[0].get_xydata().tolist() for container in train.containers)
    assert trained == [[1, 2.0], [2, 3.0], [3, 4.0]]
    assert frozen == [[1, 1.0], [2, 2.0], [3, 3.0]]
    assert test.containers[0][0].get_ydata().tolist() == [10.0, 20.0, 30.0]
    assert [line.get_ydata()[0] for line in (train.lines[-1], test.lines[-1])] == [6.0, 7.0]


def test_nothing_is_drawn_of_nothing(drawn, tmp_path):
    for draw in (drawings.transferred_blocks, drawings.contrastive, drawings.arms, drawings.curves):
        draw({}, tmp_path / "p.png")
    assert drawn == []


def test_arms_are_drawn_by_class_a_panel_a_network(drawn, tmp_path):
    def run(*f1):
        scores = [{"class": name, "f1": value, "support": 9} for name, value in zip("ab", f1, strict=True)]
        return {"metrics": {"test": {"per_class": scores, "macro_f1": sum(f1) / 2}}}

    groups = {
        ("by_depth", "backbone=one"): [run(0.4, 0.6), run(0.6, 0.8)],
        ("frozen", "backbone=one"): [run(0.1, 0.3)],
        ("frozen", "backbone=two"): [run(0.2, 0.2)],
        ("demo", "dataset=digits"): [run(1.0, 1.0)],
    }
    drawings.arms(groups, tmp_path / "p.png")
    one, two = drawn[0].axes
    bars = [container for container in one.containers if isinstance(container, BarContainer)]
    heights = {container.get_label(): [bar.get_height() for bar in container] for container in bars}
    assert heights["backbone frozen (n = 1)"] == pytest.approx([10, 30, 20])
    assert heights["rates by depth (n = 2)"] == pytest.approx([50, 70, 60])
    assert len(two.containers) == 1
    assert [label.get_text() for label in one.get_xticklabels()] == ["a\n9 images", "b\n9 images", "macro\nmean"]


def test_curves_leave_out_what_has_no_accuracy(drawn, tmp_path):
    def run(**row):
        return {"metrics": {"phases": {"train": {}}}, "history": [{"phase": "train", "loss": 1.0, **row}]}

    drawings.curves(
        {("base", "a"): [run(val_accuracy=0.5)], ("contrastive", "a"): [run(val_loss=1.0)]}, tmp_path / "p.png"
    )
    assert len(drawn[0].axes) == 2


def test_curves_of_other_lengths_have_a_row_of_their_own(drawn, tmp_path):
    def run(epochs):
        rows = [{"phase": "train", "loss": 1.0, "val_accuracy": 0.5}] * epochs
        return {"metrics": {"phases": {"train": {}}}, "history": rows}

    drawings.curves(
        {("s", "a"): [run(2)], ("s", "b"): [run(3)], ("s", "c"): [run(2)], ("t", "a"): [run(1)]}, tmp_path / "p.png"
    )
    titles = [part.get_suptitle().partition(":")[0] for part in drawn[0].subfigs]
    assert titles == ["s, 2 epochs", "s, b, 3 epochs", "t, a, 1 epoch"]
    assert [len(axes.get_lines()) for axes in drawn[0].axes] == [2, 2, 1, 1, 1, 1]
    drawings.curves({("s", "phases.0.epochs=2 epochs=2 k=1"): [run(2)]}, tmp_path / "p.png")
    assert drawn[1].subfigs[0].get_suptitle() == "s, phases.0.epochs=2 k=1, 2 epochs: single runs"


def test_regimes_of_batch_norm_are_drawn_a_line_each_with_the_phases_marked(drawn, tmp_path):
    def run(seed, regime, accuracies):
        rows = [
            {"phase": phase, "epoch": epoch, "loss": 1.0, "val_accuracy": accuracies[2 * number + epoch - 1]}
            for number, phase in enumerate(("head", "full"))
            for epoch in (1, 2)
        ]
        return {"config": {"seed": seed, "batch_norm": regime}, "metrics": {}, "history": rows}

    def setting(regime):
        return f"dataset=cifar10 limit_train=5000 batch_norm={regime}"

    groups = {
        ("three_phase", setting("keep")): [run(0, "keep", [0.5, 0.6, 0.7, 0.8]), run(1, "keep", [0.7, 0.8, 0.9, 1.0])],
        ("three_phase", setting("layer")): [run(0, "layer", [0.5, 0.6, 0.3, 0.2])],
        ("three_phase", "dataset=cifar100 limit_train=5000 batch_norm=keep"): [run(0, "keep", [0.1] * 4)],
        ("three_phase", "dataset=cifar10 batch_norm=keep"): [run(0, "keep", [0.1] * 4)],
    }
    drawings.batch_norm(groups, tmp_path / "figure.png")
    _, accuracies = drawn[0].axes
    lines = {line.get_label(): line.get_ydata() for line in accuracies.lines if line.get_label()[0] != "_"}
    assert lines.keys() == {"keep (n = 2)", "layer (n = 1)"}
    np.testing.assert_allclose(lines["keep (n = 2)"], [60, 70, 80, 90])
    assert {text.get_text() for text in accuracies.texts} == {"head", "full"}


def test_a_legend_names_what_tells_settings_apart_and_the_title_the_rest():
    settings = {
        "dataset=d weights=w.h5@sha256:0123456789abcdef block=1": [{}, {}],
        "dataset=d weights=w.h5@sha256:0123456789abcdef block=$2": [{}],
    }
    assert named(settings) == (
        "dataset=d weights=w.h5@012345",
        {"block=1 (n = 2)": [{}, {}], r"block=\$2 (n = 1)": [{}]},
    )
    assert named({"dataset=d": [{}]}) == ("dataset=d", {"n = 1": [{}]})
    assert [*named({"a=1": [{}], "a=1 b=2": [{}]})[1]] == ["as the preset (n = 1)", "b=2 (n = 1)"]


@pytest.mark.parametrize("length", range(85, 100))
def test_a_number_of_seeds_is_not_cut_by_the_end_of_a_line(length):
    legend = named({f"a={'x' * length}": [{}], "b=1": [{}]})[1]
    assert next(iter(legend)).endswith(("x (n = 1)", "x\n(n = 1)"))


def named(settings):
    """What `drawings.named` gives, with spaces that a line may end at for those that none does."""
    common, legend = drawings.named(settings)
    return common, {text.replace("\N{NO-BREAK SPACE}", " "): members for text, members in legend.items()}


def test_locality_has_a_point_a_block(drawn, tmp_path):
    def run(accuracy):
        return {"metrics": {"test": {"accuracy": accuracy}}}

    groups = {
        ("permuted", f"dataset=notmnist network=cnn block={block} epochs=5"): [run(accuracy)]
        for block, accuracy in ((None, 0.9), (1, 0.5), (7, 0.75))
    }
    groups["permuted", "dataset=notmnist network=mlp block=4 epochs=5"] = [run(0.2), run(0.4)]
    drawings.locality({("permuted", "dataset=notmnist network=cnn block=2"): [run(0.1)], **groups}, tmp_path / "p.png")
    network, control = drawn[0].axes[0].containers
    assert network[0].get_xydata().tolist() == [[1, 50.0], [7, 75.0], [28, 90.0]]
    assert control[0].get_xydata().tolist() == [[4, pytest.approx(30.0)]]
    assert [c.get_label() for c in (network, control)] == ["convolutions (n = 1)", "perceptron (n = 2)"]


def table_of(metrics, published=()):
    """A CSV table of one preset with two settings, and so many metrics."""
    rows = [
        dict.fromkeys(COLUMNS, "")
        | {"preset": "s", "setting": setting, "metric": metric, "mean": "1", "n": "2"}
        | ({"published": "3", "verdict": "worse"} if metric in published else {})
        for setting in ("a", "b")
        for metric in metrics
    ]
    return csv_text(rows)


def test_a_readme_has_a_row_a_figure_where_columns_would_be_too_many():
    narrow = compact(table_of([f"m{i}" for i in range(9)]))
    assert "| setting | m0 |" in narrow
    assert "| `a` | 1 (n=2) |" in narrow
    wide = compact(table_of([f"m{i}" for i in range(10)]))
    assert "| metric | `a` | `b` |" in wide
    assert "| m9 | 1 (n=2) | 1 (n=2) |" in wide


def test_a_readme_has_details_that_a_source_has_published():
    metrics = ["test accuracy (%)", "test macro F1 (%)", "test F1 of sad (%)", "images/s"]
    assert "F1" not in compact(table_of(metrics))
    text = compact(table_of(metrics, published=["test F1 of sad (%)"]))
    assert "| setting | test accuracy (%) | test F1 of sad (%) |" in text


def reporting(epoch, loss, **rest):
    """A run of one phase that reports an epoch and its test loss."""
    return {
        "metrics": {"phases": {"train": {"last": {"epoch": epoch}}}, "reported": "last", "test": {"loss": loss}},
        **rest,
    }


def test_contrastive_losses_are_drawn_a_line_a_seed(drawn, tmp_path):
    histories = [[{"loss": 1.0 + i, "val_loss": 2.0 + i}, {"loss": 0.5, "val_loss": 0.7}] for i in range(3)]
    runs = [reporting(1 + (i > 0), 0.1 * i, history=history) for i, history in enumerate(histories)]
    drawings.contrastive(
        {("contrastive", "dataset=cifar10"): runs, ("base", "dataset=cifar10"): []}, tmp_path / "p.png"
    )
    *lines, test = (line.get_xydata().tolist() for line in drawn[0].axes[0].get_lines())
    assert lines == [[[1, a + i], [2, b]] for a, b in ((1.0, 0.5), (2.0, 0.7)) for i in range(3)]
    assert test == [[1, 0.0], [2, 0.1], [2, 0.2]]


def test_transfer_marks_the_test_loss_of_each_case_at_the_reported_epoch(drawn, tmp_path):
    history = [{"loss": 0.9, "val_loss": 0.8}, {"loss": 0.5, "val_loss": 0.6}]
    groups = {
        ("transfer", "dataset=mnist encoder=random train_encoder=True"): [
            reporting(1, 0.11, history=history),
            reporting(2, 0.12, history=history),
        ],
        ("transfer", "dataset=mnist encoder=pretrained train_encoder=False"): [reporting(2, 0.3, history=history)],
    }
    drawings.transfer(groups, tmp_path / "p.png")
    training, validation = (
        [line.get_xydata().tolist() for line in axes.get_lines() if line.get_marker() == "D"] for axes in drawn[0].axes
    )
    assert training == []
    assert validation == [[[1, 0.11], [2, 0.12]], [[2, 0.3]], []]  # and the legend's
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert labels[2] == drawings.TEST_ONCE


def test_losses_by_step_are_drawn_a_panel_a_loss_and_older_runs_have_no_training_loss(drawn, tmp_path):
    new = {"metrics": {"iterations": [{"step": 100, "loss": 5.0, "train_loss": 6.0}]}}
    old = {"metrics": {"iterations": [{"step": 100, "loss": 2.0}, {"step": 200, "loss": 1.0}]}}
    groups = {("best", f"dataset=cifar10 loss={loss}"): [old] for loss in ("crammer_singer", "weston_watkins")}
    drawings.validation_loss(groups, tmp_path / "p.png")
    groups["best", "dataset=cifar10 loss=weston_watkins"] = [old, new]
    drawings.validation_loss(groups, tmp_path / "p.png")
    drawings.validation_loss({}, tmp_path / "p.png")
    before, after = ([[line.get_xydata().tolist() for line in axes.get_lines()] for axes in f.axes] for f in drawn)
    assert before == [[[[100, 2.0], [200, 1.0]]]] * 2
    assert after == [before[0], [[[100, 6.0]], [[100, 2.0], [200, 1.0]], [[100, 5.0]]]]
    assert [len(figure.legends[0].get_texts()) for figure in drawn] == [1, 2]
