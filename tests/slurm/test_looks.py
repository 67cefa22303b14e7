"""`submit --until-decided`: how often it errs, by simulation; who gets more seeds; the command; a real sweep."""

import csv
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from made_groups import group, runs
from scipy import stats

from common import files
from common.comparison import LEVEL
from common.measured import loss
from common.report import Report
from results import records
from results.rows import tabulate
from slurm import commands, looks, status, submissions
from slurm.sweeps import LOOKS

ROOT = Path(__file__).resolve().parents[2]
STUDIES = 2000
MARGIN = 1.0
# Three Monte Carlo errors of a share of 5 %.
LIMIT = LEVEL + 3 * (LEVEL * (1 - LEVEL) / STUDIES) ** 0.5
REPORT = Report(metrics=(loss("a"), loss("b")))


def reference(published, margin=MARGIN, note=""):
    return {"published": str(published), "margin": str(margin), "source": "000", "note": note}


def run(name, **metrics):
    """What a run leaves, for `group`."""
    return {"run": name, "environment": {}, "metrics": {"by_name": metrics}}


def simulate(gap, deviation, other=None):
    """Verdict and seeds of metric `a` in tables of made-up settings, each the whole procedure: one run is published.

    `other` is the deviation of a second published metric of every setting, for which it may get seeds as well.
    """
    rng = np.random.default_rng([round(100 * gap), round(100 * deviation)])
    drawn = {"a": rng.normal(0.0, deviation, (STUDIES, max(LOOKS)))}
    references = {("p", f"x={i}", "a"): reference(y) for i, y in enumerate(rng.normal(-gap, deviation, STUDIES))}
    if other:
        drawn["b"] = rng.normal(0.0, other, (STUDIES, max(LOOKS)))
        references |= {("p", f"x={i}", "b"): reference(y) for i, y in enumerate(rng.normal(0.0, other, STUDIES))}
    groups, found = {}, {}

    def train(n, settings):
        groups.clear()  # what gets no more seeds stands as it does
        for i in map(int, settings):
            each = [run(f"{i}-s{s}", **{key: float(draw[i, s]) for key, draw in drawn.items()}) for s in range(n)]
            groups[str(i)] = group("p", f"x={i}", *(one | {"looks": len(LOOKS)} for one in each))
        return 0

    def judge():
        made = runs(*groups.values())
        look = looks.standing(made, groups.keys(), references, REPORT)
        found.update({row.setting: (row.verdict, row.n) for row in look.rows if row.metric == "a"})
        tables = tabulate(runs(made.groups[0]), references, REPORT)
        assert {row for row in tables if row.mean} <= set(look.rows)
        return look

    assert looks.until_decided(10, {str(i) for i in range(STUDIES)}, train, judge) == 0
    assert len(found) == STUDIES
    return list(found.values())


def share(found, *wanted):
    return sum(verdict in wanted for verdict, _ in found) / len(found)


@pytest.mark.parametrize("deviation", [0.1, 0.3, 1.0, 3.0, 10.0])
def test_no_gap_is_seldom_higher_or_lower(deviation):
    assert share(simulate(0.0, deviation), "higher", "lower") <= LIMIT


@pytest.mark.parametrize("deviation", [0.1, 0.3, 1.0, 3.0, 10.0])
def test_a_gap_of_the_margin_is_seldom_reproduced(deviation):
    assert share(simulate(MARGIN, deviation), "reproduced") <= LIMIT


def test_a_second_metric_that_asks_for_seeds_adds_no_errors():
    """The first is judged again with them, so it is looked at more often than it asks for."""
    found = simulate(MARGIN, 0.1, other=0.4)
    assert share(found, "reproduced") <= LIMIT
    assert any(n > 3 for _, n in found)


def test_few_seeds_for_what_is_clear_and_more_for_what_is_not():
    clear, spread = (simulate(0.0, deviation) for deviation in (0.1, 0.3))
    assert share(clear, "reproduced") > 0.9
    assert sum(n == 3 for _, n in clear) > 0.8 * STUDIES
    assert sum(n > 3 for _, n in spread) > 0.5 * STUDIES


# Which settings get more seeds


def settle(values, known, **fields):
    """The look at one setting with these values, and these published numbers by metric."""
    made = group("p", "x=1", *(run(f"one-s{seed}", a=value) | fields for seed, value in enumerate(values)))
    references = {("p", "x=1", metric): entry for metric, entry in known.items()}
    return looks.standing(runs(made), {"one"}, references, REPORT)


@pytest.mark.parametrize(
    ("values", "known", "unsettled", "verdict"),
    [
        ([0.0, 0.3, -0.3], {"a": reference(0.0)}, True, "undecided"),
        ([0.0, 0.1, -0.1], {"a": reference(0.0)}, False, "reproduced"),
        ([0.0, 0.1, -0.1], {"a": reference(3.0)}, False, "lower"),
        ([0.0, 3.0, -3.0], {"a": reference(0.0)}, False, "undecided"),  # no number of seeds would do
        ([0.0, 0.3, -0.3], {"a": reference(0.0, note="not comparable: half the data")}, False, "not comparable"),
        ([0.0], {"a": reference(0.0)}, True, "undecided"),  # of the others all diverged
        ([0.0, 0.3, -0.3], {"b": reference(0.0)}, False, "not measured"),
    ],
)
def test_only_what_more_seeds_may_decide_gets_them(values, known, unsettled, verdict):
    look = settle(values, known)
    assert look.unsettled == ({"one"} if unsettled else set())
    (row,) = [row for row in look.rows if row.published]
    assert row.verdict == verdict


def test_a_loss_on_a_part_of_the_test_images_gets_no_more_seeds():
    """It is undecided whatever they say."""
    metrics = {"test": {"n": 9, "loss": 0.3}, "test_images_of": 10}
    made = group("p", "x=1", *(run(f"one-s{seed}") | {"metrics": metrics} for seed in (0, 1, 2)))
    references = {("p", "x=1", "test loss"): reference(0.3)}
    look = looks.standing(runs(made), {"one"}, references, REPORT)
    (row,) = look.rows
    assert (row.verdict, look.unsettled) == ("undecided", frozenset())


def test_a_look_has_a_third_of_the_error_whatever_the_runs_say():
    """The first runs may be there already; without the mark they would be judged at the whole error."""
    values = [0.0, 0.2, -0.2]
    reach = {error: stats.t.ppf(1 - error, 2) * 0.2 * (1 + 1 / 3) ** 0.5 for error in (LEVEL, LEVEL / 3)}
    assert reach[LEVEL] < 1 < reach[LEVEL / 3]
    assert settle(values, {"a": reference(0.0)}).unsettled == {"one"}
    made = group("p", "x=1", *(run(f"one-s{seed}", a=value) for seed, value in enumerate(values)))
    (row,) = tabulate(runs(made), {("p", "x=1", "a"): reference(0.0)}, REPORT)
    assert row.verdict == "reproduced"


def test_a_setting_without_a_published_number_gets_no_more():
    look = settle([0.0, 0.3, -0.3], {})
    assert look.unsettled == set()
    assert [(row.setting, row.published) for row in look.rows] == [("x=1", "")]


def test_a_setting_that_diverged_gets_no_more():
    diverged = {"environment": {}, "metrics": {"status": "diverged", "diverged": {"reason": "loss is nan"}}}
    made = group("p", "x=1", *({"run": f"one-s{seed}"} | diverged for seed in range(3)))
    look = looks.standing(runs(made), {"one"}, {("p", "x=1", "a"): reference(0.0)}, REPORT)
    assert look.unsettled == set()
    assert [row.verdict for row in look.rows] == ["diverged"]


def test_other_settings_of_the_task_are_left_alone():
    other = group("p", "x=2", *(run(f"two-s{seed}", a=value) for seed, value in enumerate([0.0, 0.3, -0.3])))
    made = group("p", "x=1", *(run(f"one-s{seed}", a=value) for seed, value in enumerate([0.0, 0.3, -0.3])))
    references = {("p", setting, "a"): reference(0.0) for setting in ("x=1", "x=2", "x=3")}
    look = looks.standing(runs(made, other), {"one"}, references, REPORT)
    assert look.unsettled == {"one"}
    assert [row.setting for row in look.rows] == ["x=1"]


@pytest.mark.parametrize("most", LOOKS)
def test_no_setting_gets_more_seeds_than_asked_for(most):
    asked = []

    def train(n, settings):
        asked.append((n, settings))
        return 0

    look = looks.Look((), frozenset({"one"}))
    assert looks.until_decided(most, {"one", "two"}, train, lambda: look) == 0
    seeds = [n for n in LOOKS if n <= most]
    assert asked == list(zip(seeds, [{"one", "two"}, {"one"}, {"one"}], strict=False))


def test_a_look_that_did_not_end_is_not_judged():
    def judge():
        raise AssertionError("judged")

    assert looks.until_decided(10, {"one"}, lambda *_: 130, judge) == 130


# The command


@pytest.fixture
def committed(tree, launch, monkeypatch):
    """The stand-in's tree, with a published number of either of two settings; its code is in a commit."""
    monkeypatch.setattr(commands, "REPOSITORY", tree)
    monkeypatch.setattr(commands, "git_state", lambda task: {"commit": "abc", "dirty": False})
    lines = ["preset,setting,metric,published,margin,source,note"]
    lines += [f"small,dataset=digits width={width},score,0,1,000," for width in (1, 2)]
    (tree / "tasks" / "toy" / "reference.csv").write_text("\n".join(lines) + "\n")
    return tree


GRID = ("submit", "toy", "--grid", "width=1,2,5", "--until-decided")
# By width and seed: decided with three seeds, and with five. Of width 5 nothing is published.
SCORES = {1: (0.0, 0.1, -0.1), 2: (0.0, 0.3, -0.3, 0.1, -0.1), 5: (0.0, 0.3, -0.3)}


def finish(planned):
    """Leave what a finished run leaves."""
    folder, width = Path(planned.folder), int(planned.label.removeprefix("width="))
    folder.mkdir(parents=True, exist_ok=True)
    config = {"preset": "small", "dataset": "digits", "width": width, "seed": planned.seed}
    config = {"task": "toy", "setting": f"dataset=digits width={width}", "config": config, "options": {"looks": 3}}
    environment = {"commit": "abc", "dirty": False, "starts": [{"commit": "abc", "dirty": False}]}
    metrics = {"status": "completed", "seed": planned.seed, "by_name": {"score": SCORES[width][planned.seed]}}
    phases = {"phases": {"one": {"images_per_second": 1.0}}}
    (folder / "history.csv").write_text("phase,loss,val_loss\none,1.0,1.0\n")
    for name, content in (("config", config), ("environment", environment), ("metrics", metrics | phases)):
        files.write_json(folder / f"{name}.json", content)  # whole, as others look at it meanwhile


@pytest.fixture
def working_cluster(fake_slurm, wait_for):
    """A cluster that finishes the jobs of each of two submissions some time after it has listed them as running."""
    fake_slurm.queue(**{f"_{job}_{i}": "RUNNING|None" for job in (100, 101) for i in range(9)})

    def work():
        for job in ("100", "101"):
            (made,) = wait_for(lambda job=job: [one for one in submissions.every() if began(one, job)])
            seen = len(fake_slurm.calls("squeue"))
            wait_for(lambda seen=seen: len(fake_slurm.calls("squeue")) > seen + 1)
            for planned in made.runs:
                finish(planned)

    def began(submission, job):
        return any(one.split("_")[0] == job for one in submission.jobs.values())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield fake_slurm
    thread.join(60)


def seeds_of(submission):
    """Width and seed of each run."""
    return [(int(planned.label.removeprefix("width=")), planned.seed) for planned in submission.runs]


def test_on_slurm_it_waits_judges_and_goes_on(committed, launch, working_cluster):
    told = launch(*GRID)
    assert (told.code, told.err) == (0, "")
    first, second = submissions.every()
    assert seeds_of(first) == [(width, seed) for seed in (0, 1, 2) for width in (1, 2, 5)]
    assert seeds_of(second) == [(2, 3), (2, 4)]
    assert all("--looks=3" in planned.flags for planned in (*first.runs, *second.runs))
    lines = [" ".join(line.split()) for line in told.out.splitlines() if line.startswith("small, ")]
    assert lines == [
        "small, digits, width 1 score 0.00 ± 0.10 (n=3) 0 reproduced",
        "small, digits, width 2 score 0.00 ± 0.30 (n=3) 0 undecided",
        "small, digits, width 5 none published",
        "small, digits, width 1 score 0.00 ± 0.10 (n=3) 0 reproduced",
        "small, digits, width 2 score 0.00 ± 0.22 (n=5) 0 reproduced",
        "small, digits, width 5 none published",
    ]


def test_later_looks_train_the_code_of_the_first(committed, launch, working_cluster, monkeypatch):
    train, wait = committed / "tasks" / "toy" / "train.py", commands.wait_for

    def edited_meanwhile(*arguments):
        train.write_text("raise SystemExit('edited')")
        return wait(*arguments)

    monkeypatch.setattr(commands, "wait_for", edited_meanwhile)
    assert launch(*GRID).code == 0
    first, second = submissions.every()
    assert train.read_text() == "raise SystemExit('edited')"
    assert (second.code / "tasks" / "toy" / "train.py").read_text() == (
        first.code / "tasks" / "toy" / "train.py"
    ).read_text()


def test_ctrl_c_leaves_the_jobs_and_the_same_command_goes_on(committed, launch, fake_slurm, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    fake_slurm.queue(**{f"_100_{i}": "RUNNING|None" for i in range(9)})
    with monkeypatch.context() as patch:
        patch.setattr(status, "watch", interrupted)
        told = launch(*GRID)
    assert told.code == 130
    assert "the same command goes on from there" in told.out
    assert fake_slurm.calls("scancel") == []
    (submission,) = submissions.every()
    for planned in submission.runs:
        finish(planned)
    with monkeypatch.context() as patch:
        patch.setattr(status, "watch", interrupted)
        again = launch(*GRID)
    assert "left out: 9 finished" in again.out
    assert seeds_of(submissions.every()[1]) == [(2, 3), (2, 4)]


def test_runs_that_have_a_record_are_not_made_again(committed, launch, fake_slurm):
    launch(*GRID)
    (first,) = submissions.every()
    for planned in first.runs:
        finish(planned)
    kept = committed / "results" / "records"
    records.keep(records.find("toy", committed / "results" / "runs", kept, [])[1], kept, [])
    for folder in ("runs", "submissions"):
        shutil.rmtree(committed / "results" / folder)
    told = launch(*GRID)
    assert "left out: 9 with a record" in told.out
    assert [seeds_of(submission) for submission in submissions.every()] == [[(2, 3), (2, 4)]]


def test_a_look_with_a_lost_run_ends_in_one_line(committed, launch, fake_slurm):
    fake_slurm.queue()
    told = launch(*GRID)
    assert told.code == 1
    assert "not judged: runs of this look have not finished; the same command goes on from there" in told.out
    assert sum("lost" in line for line in told.out.splitlines() if line.startswith("  small-")) == 9
    assert len(submissions.every()) == 1


def test_a_failed_run_ends_it_here_too(committed, launch):
    told = launch(*GRID, "--cluster", "local", "--set", "does=raise SystemExit('error: too bad')")
    assert told.code == 1
    assert told.out.splitlines()[-1].startswith("not judged: ")
    assert told.out.count("too bad") == 18  # as it happens, and at the end
    assert len(submissions.every()) == 1


def test_a_dry_run_shows_the_first_look(committed, launch):
    told = launch(*GRID, "--cluster", "local", "--dry-run")
    assert (told.code, told.err) == (0, "")
    assert "9 of 9 runs to do" in told.out
    assert submissions.every() == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--until-decided", "--seeds", "0:3"),
            "--until-decided chooses the seeds (0:3, 0:5, 0:10): leave out --seeds",
        ),
        (("--until-decided", "--most", "4"), "argument --most: invalid choice: 4 (choose from 3, 5, 10)"),
        (("--most", "5"), "--most goes with --until-decided"),
        (("--until-decided", "--set", "looks=1"), "--until-decided sets looks itself: leave it out of --set"),
        (("--until-decided", "--set", "width=0"), "width is 0; it must be above zero"),
    ],
)
def test_mistakes_are_one_line(committed, launch, words, says):
    told = launch("submit", "toy", *words, "--cluster", "local")
    assert told.code == 2
    assert says in told.line
    assert submissions.every() == []


@pytest.mark.parametrize("dirty", [True, None])
def test_code_that_is_in_no_commit_is_refused(committed, launch, monkeypatch, dirty):
    monkeypatch.setattr(commands, "git_state", lambda task: {"commit": None, "dirty": dirty})
    told = launch(*GRID, "--cluster", "local")
    assert told.code == 2
    assert "--until-decided needs committed code" in told.line


def test_code_edited_before_the_first_submission_of_the_command_is_refused(committed, launch, fake_slurm, monkeypatch):
    """The first look is there already; the copy of the code would be made for the second."""
    fake_slurm.queue()
    launch(*GRID)
    (submission,) = submissions.every()
    for planned in submission.runs:
        finish(planned)
    states = iter([False, True])
    monkeypatch.setattr(commands, "git_state", lambda task: {"commit": "abc", "dirty": next(states)})
    told = launch(*GRID)
    assert told.code == 2
    assert "--until-decided needs committed code" in told.line
    assert "left out: 9 finished" in told.out
    assert submissions.every() == [submission]


# A real one


@pytest.fixture
def repository(tmp_path):
    """A repository with one task, hinge_svm, and made-up published numbers for the embedded digits."""
    root = tmp_path / "repository"
    for name in ("common", "slurm", "tasks/hinge_svm"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "results").mkdir()
    for path in (ROOT / "results").glob("*.py"):
        shutil.copy(path, root / "results")
    shutil.copytree(ROOT / "results" / "templates", root / "results" / "templates")
    rows = [
        ("test accuracy (%)", 50, 1),  # far off: three seeds show it
        ("test loss", 0.206, 0.022),  # five do, of a deviation of 0.004
    ]
    with (root / "tasks" / "hinge_svm" / "reference.csv").open("a") as file:
        for metric, published, margin in rows:
            file.write(f"demo,dataset=digits loss=crammer_singer epochs=2,{metric},{published},{margin},000,,\n")
    git = ("git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(root))
    (root / ".gitignore").write_text("__pycache__/\nresults/runs/\nresults/submissions/\n")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "all")):
        subprocess.run([*git, *words], check=True)
    return root


def test_seeds_are_added_until_decided(repository):
    def python(*words):
        done = subprocess.run(
            [sys.executable, *words], cwd=repository, env=os.environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    command = ("-m", "slurm", "submit", "hinge_svm", "--until-decided", "--cluster", "local", "--jobs", "2")
    command += ("--set", "preset=demo", "epochs=2", "loss=crammer_singer")
    out = python(*command)
    assert "look at 3 seeds: 1 of 1 settings" in out
    assert "look at 5 seeds: 1 of 1 settings" in out
    assert "look at 10 seeds" not in out

    python("results/collect.py", "hinge_svm")
    with (repository / "results" / "tables" / "hinge_svm.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["preset"] == "demo" and row["published"]]
    assert [(row["metric"], row["n"], row["verdict"]) for row in rows] == [
        ("test accuracy (%)", "5", "higher"),
        ("test loss", "5", "reproduced"),
    ]
    assert all("3 looks share the error" in row["note"] for row in rows)

    losses = {}
    for path in (repository / "results" / "runs" / "hinge_svm").glob("demo-digits-crammer_singer-*/metrics.json"):
        content = json.loads(path.read_text())
        losses[content["seed"]] = content["test"]["loss"]
    for n, decided in ((3, False), (5, True)):
        each = [losses[seed] for seed in range(n)]
        low, high = stats.t.interval(  # 90 %, with a third of the error
            1 - 2 * LEVEL / 3, n - 1, np.mean(each) - 0.206, np.std(each, ddof=1) * (1 + 1 / n) ** 0.5
        )
        assert (max(-low, high) <= 0.022) == decided

    again = python(*command)
    assert "0 of 3 runs to do" in again
    assert "\nsubmission " not in again
