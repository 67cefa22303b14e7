"""Tables: paired differences, the overview, LaTeX; and that what is committed agrees with the records."""

import csv
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from made_groups import group
from made_runs import ACCURACIES, REFERENCE, SETTING, TASK, collect, edit, make_run, table, write_report
from PIL import Image
from scipy import stats

from common.comparison import Difference
from common.config import REPOSITORY
from common.measured import TEST_ACCURACY
from results.collect import main
from results.pairs import Compared
from results.rows import DIFFERENCE

OTHER = "dataset=cifar10 backbone=resnet34"
TASKS = sorted(path.parent.name for path in REPOSITORY.glob("tasks/*/train.py"))


# --- paired differences


@pytest.fixture
def rule(root):
    """The one rule: resnet34 minus resnet18."""
    write_report(root, "pairs=(Pair({'backbone': 'resnet34'}, {'backbone': 'resnet18'}),)")


def test_an_interval_that_leaves_out_zero_does_not_end_there():
    def told(low, high):
        found = Difference(((low + high) / 2,), low, high, 0.03, 10_000)
        return Compared(group("p", ""), group("p", ""), "", "", TEST_ACCURACY, found).told

    assert told(-0.62, -0.04) == "−0.33 (−0.62 to −0.04; n = 1)"
    assert told(-0.62, 0.04) == "−0.29 (−0.62 to 0.04; n = 1)"
    assert told(-0.62, -0.06) == "−0.3 (−0.6 to −0.1; n = 1)"


def make_pair(root, others, seeds=(0, 1, 2)):
    """Runs of two settings that differ in the backbone; accuracies of the last phase of the second, by seed."""
    for seed in (0, 1, 2):
        make_run(root, seed)
    for seed, accuracy in zip(seeds, others, strict=True):
        make_run(
            root, seed, accuracies=(0.5, 0.6, accuracy), slug="o-cifar10-eeee5555", setting=OTHER, backbone="resnet34"
        )


def differences_in(root):
    return [row for row in table(root) if row["metric"].startswith(DIFFERENCE)]


def test_paired_difference_and_interval_are_those_of_scipy(root, rule):
    others = (0.75, 0.80, 0.70)
    make_pair(root, others)
    collect(root)
    (row,) = differences_in(root)
    assert row["setting"] == "dataset=cifar10: backbone=resnet34 minus backbone=resnet18"
    assert row["metric"] == "difference in test accuracy (points)"
    each = 100 * (np.array(others) - [ACCURACIES[seed][2] for seed in range(3)])
    assert float(row["mean"]) == pytest.approx(each.mean(), abs=0.005)
    assert float(row["std"]) == pytest.approx(each.std(ddof=1), abs=0.005)
    low, high = stats.ttest_1samp(each, 0).confidence_interval(0.95)
    found = re.match(
        r"95 % interval (\S+) to (\S+), over seeds, paired by seed; p = (\S+) among 5 differences", row["note"]
    )
    assert [float(end) for end in found.groups()[:2]] == pytest.approx([low, high], abs=0.005)
    text = (root / "results" / "tables" / f"{TASK}.tex").read_text()
    assert "95 \\% interval" in text


def test_seeds_are_paired_and_not_their_means(root, rule):
    """Settings with different seeds: those that both have count."""
    make_pair(root, (0.71, 0.72), seeds=(2, 1))
    collect(root)
    (row,) = differences_in(root)
    assert row["n"] == "2"
    each = 100 * np.array([0.71 - ACCURACIES[2][2], 0.72 - ACCURACIES[1][2]])
    assert float(row["mean"]) == pytest.approx(each.mean(), abs=0.005)


@pytest.mark.parametrize("why", ["one seed", "diverged", "other data", "uncommitted"])
def test_no_difference_where_there_is_nothing_to_pair(root, rule, why):
    make_pair(root, (0.7,) if why == "one seed" else (0.7, 0.7, 0.7), seeds=(0,) if why == "one seed" else (0, 1, 2))
    for folder in (root / "results" / "runs" / TASK).glob("o-*"):
        if why == "diverged" and not folder.name.endswith("s0"):
            edit(folder / "metrics.json", status="diverged", diverged={"reason": "nan"})
        if why == "other data":
            config = json.loads((folder / "config.json").read_text())["config"] | {"dataset": "mnist"}
            edit(folder / "config.json", setting="dataset=mnist backbone=resnet34", config=config)
        if why == "uncommitted":
            edit(folder / "environment.json", dirty=True)
    collect(root)
    assert differences_in(root) == []


def test_differences_of_uncommitted_code_do_not_count_among_the_others(root, rule):
    make_pair(root, (0.75, 0.80, 0.70))
    collect(root)
    before = differences_in(root)
    for path in list((root / "results" / "runs" / TASK).iterdir()):
        copy = path.with_name(path.name.replace("-cifar10-", "-cifar10-trial-"))
        shutil.copytree(path, copy)
        edit(copy / "environment.json", dirty=True)
    collect(root)
    after = differences_in(root)
    assert len(after) == 2 * len(before)
    assert [row for row in after if "uncommitted" not in row["setting"]] == before


@pytest.mark.parametrize("dirty", [False, True])
def test_uncommitted_code_counts_for_no_claim(root, dirty):
    judge = "greater(Pair({'backbone': 'resnet34'}, {'backbone': 'resnet18'}))"
    write_report(root, f"claims=(Claim('000', 'It is better', {judge}),)")
    readme = root / "tasks" / TASK / "README.md"
    readme.write_text("<!-- results -->\n<!-- /results -->\n")
    make_pair(root, (0.75, 0.80, 0.70))
    for path in (root / "results" / "runs" / TASK).iterdir():
        edit(path / "environment.json", dirty=dirty)
    collect(root)
    assert ("It is better: *not tested*" in readme.read_text()) == dirty


def test_only_what_a_rule_names_is_compared(root, rule):
    for seed in (0, 1):
        make_run(root, seed)
        make_run(root, seed, slug="o-cifar10-eeee5555", setting=f"{SETTING} limit_test=9", limit_test=9)
    collect(root)
    assert differences_in(root) == []


def test_arms_that_are_presets_are_paired(root):
    one, other = "{'preset': 'two_phase', 'blocks': 2}", "{'preset': 'three_phase'}"
    write_report(root, f"pairs=(Pair({one}, {other}), Pair({other}, {one}))")
    for seed in (0, 1):
        make_run(root, seed)
        make_run(
            root,
            seed,
            slug="two_phase-cifar10-ffff6666",
            preset="two_phase",
            setting=f"{SETTING} blocks=2",
            accuracies=(0.5, 0.6, 0.9),
            blocks=2,
        )
    collect(root)
    one, other = differences_in(root)
    assert one["setting"] == f"{SETTING}: three_phase minus two_phase blocks=2"
    assert other["setting"] == f"{SETTING}: two_phase blocks=2 minus three_phase"
    assert float(one["mean"]) == -float(other["mean"])


def test_without_accuracy_the_difference_is_one_of_losses(root, rule):
    make_pair(root, (0.7, 0.7, 0.7))
    phases = {"a": {"images_per_second": 1.0, "validation": {"accuracy": 1}}}
    folders = sorted((root / "results" / "runs" / TASK).glob("*"))
    for folder in folders:
        loss = 0.25 if folder.name.startswith("o-") else 0.2
        edit(folder / "metrics.json", test={"loss": loss}, phases=phases)
        (folder / "history.csv").write_text("phase,epoch,loss,val_loss\na,1,1.0,1.0\n")
    collect(root)
    (row,) = differences_in(root)
    assert (row["metric"], row["mean"], row["std"]) == ("difference in test loss", "0.05000", "0.00000")
    edit(folders[0] / "metrics.json", test={"loss": 0.2, "accuracy": 0.5})  # a loss of another kind
    collect(root)
    assert differences_in(root) == []


def test_a_difference_says_what_was_left_out(root, rule):
    make_pair(root, (0.7, 0.7, 0.8))
    runs = root / "results" / "runs" / TASK
    edit(next(runs.glob("o-*-s0")) / "metrics.json", status="diverged", diverged={"reason": "nan"})
    edit(next(runs.glob("o-*-s1")) / "environment.json", precision="mixed_float16")
    collect(root)
    (row,) = differences_in(root)
    assert "1 of 6 runs diverged and are left out" in row["note"]
    assert "runs differ in precision: float32, mixed_float16" in row["note"]


# --- what a reader should know of runs


def test_other_commits_are_told_of(root):
    make_run(root, 0)
    edit(make_run(root, 1) / "environment.json", commit="1234567890abcdef")
    collect(root)
    assert {row["note"] for row in table(root)} == {"runs differ in commit: 1234567890, abc"}


def test_a_mixed_precision_is_told_of(root):
    edit(make_run(root, 0) / "environment.json", precision="mixed_bfloat16")
    collect(root)
    assert {row["note"] for row in table(root)} == {"trained in mixed_bfloat16"}


def test_strict_fails_on_any_complaint(root, capsys):
    make_run(root, 0)
    main(["--strict"], root)
    (make_run(root, 1) / "metrics.json").unlink()
    main([], root)
    with pytest.raises(SystemExit) as stop:
        main(["--strict"], root)
    assert stop.value.code == 1
    printed = capsys.readouterr().err
    assert "unfinished: " in printed
    assert printed.endswith("error: 1 complaint, and --strict\n")


# --- side by side


def compared(root, *names):
    main(["--compare", *names], root)


def test_comparison_shows_what_differs_and_every_figure(root, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    make_run(root, 0)
    other = make_run(root, 1, batch_size=128)
    edit(other / "environment.json", backend="jax")
    compared(root, "aaaa1111-s0", str(other))
    text = capsys.readouterr().out
    assert re.search(r"batch_size\W+64\W+128", text)
    assert re.search(r"backend\W+tensorflow\W+jax", text)
    assert re.search(r"test accuracy \(%\)\W+60\W+64", text)
    assert "backbone" not in text
    assert "secret-host" not in text
    assert not (root / "results" / "tables").exists()


def test_runs_are_compared_with_records(root, capsys):
    make_run(root, 0)
    collect(root, "--keep")
    shutil.rmtree(root / "results" / "runs")
    make_run(root, 1)
    compared(root, "1111-s0", "1111-s1")
    assert re.search(r"seed\W+0\W+1", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["1111-s0"], "--compare needs two runs or more"),
        (["1111-s0", "nothing"], "run 'nothing': not found; allowed: a finished run or a record"),
        (
            ["1111-s0", ""],
            "run '': not found",
        ),
        (["1111-s0", "1111-s1"], "unfinished: cifar_phased/three_phase-cifar10-aaaa1111-s1"),
    ],
)
def test_runs_that_cannot_be_compared_are_one_line(root, capsys, names, said):
    make_run(root, 0)
    (make_run(root, 1) / "metrics.json").unlink()
    with pytest.raises(SystemExit) as stop:
        compared(root, *names)
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


# --- the overview


def test_the_overview_counts_verdicts_and_names_a_headline(root):
    for seed in (0, 1, 2):
        make_run(root, seed)
    published_ones = (
        ("validation accuracy (%)", 71),
        ("test loss", 0.1),
        ("test accuracy (%)", 40),
        ("test macro F1 (%)", 99),
    )
    lines = [f"three_phase,{SETTING},{metric},{published},0.1,000,\n" for metric, published in published_ones]
    lines += ["three_phase,dataset=cifar100 backbone=resnet18,test loss,1,,000,\n"]
    (root / "tasks" / TASK / "reference.csv").write_text(REFERENCE + "".join(lines))
    marks = "The marks `<!-- results -->` and `<!-- /results -->`.\n"
    (root / "README.md").write_text(f"{marks}<!-- results -->\n<!-- /results -->\n")
    collect(root)
    overview = (root / "results" / "README.md").read_text()
    (line,) = [line for line in overview.splitlines() if line.startswith(f"| [`{TASK}`]")]
    told = "2 higher, 1 lower, 1 undecided, 1 not measured"
    assert line == (
        f"| [`{TASK}`](../tasks/{TASK}/README.md) | three_phase, CIFAR-10, ResNet-18: test accuracy (%) | "
        f"61.00 ± 2.65 (n=3) | 40 | {told} |  |"
    )
    readme = (root / "README.md").read_text()
    assert line.replace("../", "") in readme
    assert readme.startswith(marks)
    before = (root / "results" / "README.md").read_bytes()
    collect(root)
    assert (root / "results" / "README.md").read_bytes() == before


def test_a_number_that_arms_are_judged_by_too_is_counted_once(root):
    make_run(root, 0)
    make_run(root, 1)
    number = "test loss,0.1,0.01,000,"
    settings = (SETTING, ""), ("dataset=cifar10 backbone=resnet18 batch_size=7", "yes"), ("dataset=cifar100", "yes")
    lines = [f"three_phase,{setting},{number},{arm}\n" for setting, arm in settings]
    (root / "tasks" / TASK / "reference.csv").write_text(REFERENCE.replace("note\n", "note,arm\n") + "".join(lines))
    collect(root)
    (line,) = [line for line in (root / "results" / "README.md").read_text().splitlines() if f"[`{TASK}`]" in line]
    assert re.search(r"\| 1 (reproduced|higher|lower|undecided) \|", line)
    with (root / "results" / "tables" / f"{TASK}.csv").open() as file:
        assert [row["published"] for row in csv.DictReader(file) if row["published"]] == ["0.1"] * 3


def test_a_headline_that_is_wanted_stands_for_its_task_once_it_is_measured(root):
    make_run(root, 0)
    (root / "tasks" / TASK / "reference.csv").write_text(f"{REFERENCE}three_phase,later,test loss,1,,000,\n")
    collect(root)
    overview = root / "results" / "README.md"
    chosen = overview.read_text()
    assert "| three_phase, CIFAR-10, ResNet-18: test accuracy (%) | 60.00 (n=1) |" in chosen
    write_report(root, "headline=Headline({'backbone': 'resnet18'}, 'test macro F1 (%)')")
    collect(root)
    assert "| three_phase, CIFAR-10, ResNet-18: test macro F1 (%) | 30.00 (n=1) |" in overview.read_text()
    write_report(root, "headline=Headline({'backbone': 'resnet34'})")
    collect(root)
    assert overview.read_text() == chosen


def test_a_pair_stands_for_its_task(root):
    make_pair(root, (0.75, 0.80, 0.70))
    pair = "Pair({'backbone': 'resnet34'}, {'backbone': 'resnet18'})"
    write_report(root, f"pairs=({pair},), headline=Headline({pair})")
    collect(root)
    text = (root / "results" / "README.md").read_text()
    assert "three_phase, CIFAR-10: ResNet-34 minus ResNet-18: difference in test accuracy (points)" in text
    (root / "tasks" / TASK / "train.py").write_text("class Config:\n    PROTOCOL = 2\n")
    collect(root)
    assert "ResNet-34 minus ResNet-18, protocol 1: difference" in (root / "results" / "README.md").read_text()


def test_the_overview_keeps_tasks_that_were_not_asked_for(root):
    make_run(root, 0)
    collect(root)
    (root / "tasks" / "another").mkdir()
    (root / "tasks" / "another" / "train.py").touch()
    (root / "tasks" / "another" / "reference.csv").write_text(REFERENCE + "p,dataset=a,test loss,1,,000,\n")
    collect(root, "another")
    overview = (root / "results" / "README.md").read_text()
    assert "`another`" in overview
    assert f"`{TASK}`" in overview


# --- LaTeX


def test_latex_escapes_what_it_must(root):
    make_run(root, 0, setting="dataset=cifar10 a_b=50% #1 {x} $y & ~^\\")
    collect(root)
    text = (root / "results" / "tables" / f"{TASK}.tex").read_text()
    assert (
        r"a\_\allowbreak{}b=\allowbreak{}50\% \#1 \{x\} \$y \& \textasciitilde{}\textasciicircum{}\textbackslash{}"
        in text
    )
    for rule in ("toprule", "midrule", "bottomrule"):
        assert f"\\{rule}" in text
    assert all(line.count(" & ") == 3 for line in text.splitlines() if line.endswith(r"\\") and " & " in line)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
@pytest.mark.parametrize("task", TASKS)
def test_latex_compiles(task, tmp_path):
    table = (REPOSITORY / "results" / "tables" / f"{task}.tex").read_text()
    packages = "\\usepackage[utf8]{inputenc}\\usepackage[T1]{fontenc}\\usepackage{array,booktabs,longtable}"
    text = f"\\documentclass{{article}}{packages}\\begin{{document}}\n{table}\\end{{document}}\n"
    (tmp_path / "table.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "table.pdf").stat().st_size > 1000


# --- what is committed


@pytest.mark.parametrize("folder", ["common", "slurm", "results"])
def test_nothing_but_a_task_names_it(folder):
    below = "*.py" if folder == "results" else "**/*.py"  # results/submissions/ holds copies of the code
    for path in (REPOSITORY / folder).glob(below):
        text = path.read_text()
        assert [task for task in TASKS if task in text] == [], path


def test_records_that_are_committed_give_what_is(tmp_path):
    """A copy of what git has, without any runs: the same tables, READMEs and page, byte by byte, the same figures."""
    pictures = [f"results/figures/{path.name}" for path in (REPOSITORY / "results/figures").iterdir() if path.is_dir()]
    for name in ("tasks", "results/records", *pictures):  # a record has no figures: those are kept beside it
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    shutil.copy(REPOSITORY / "README.md", tmp_path)
    main([], tmp_path)
    places = ["README.md", "results/README.md", "results/index.html", *(f"tasks/{task}/README.md" for task in TASKS)]
    places += [f"results/tables/{path.name}" for path in (tmp_path / "results" / "tables").iterdir()]
    assert [place for place in places if (tmp_path / place).read_bytes() != (REPOSITORY / place).read_bytes()] == []
    shown, committed = (
        {
            path.name: np.asarray(Image.open(path).convert("L"), float)
            for path in (root / "results/figures").glob("*.png")
        }
        for root in (tmp_path, REPOSITORY)
    )
    assert shown.keys() == committed.keys()
    for name, picture in shown.items():  # to a grey level: another processor may round otherwise
        assert picture.shape == committed[name].shape, name
        assert np.abs(picture - committed[name]).mean() < 1, name
