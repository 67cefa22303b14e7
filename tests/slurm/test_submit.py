"""`submit`, `resubmit` and `cancel`: what SLURM gets, and what the user reads."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from common import files
from common.errors import ConfigError
from common.files import StorageError
from slurm import cluster, commands, submissions
from slurm.__main__ import parser
from slurm.cluster import Profile, minutes

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("submit", "status", "logs", "cancel", "resubmit")
# Every key, none with its default.
PROFILE = """
time = "2-12:30"
cpus = 6
memory = "48G"
gpus = 2
partition = "gpu"
account = "my project"
qos = "high"
constraint = "a100|h100"
max_parallel = 3
signal_seconds = 300
setup = ["module load cuda/12.6", "export NAME='a b'"]

[sbatch]
mail-type = "FAIL"
exclude = "node[01-03]"
nice = 100
exclusive = true
"""


@pytest.fixture
def profile(tree):
    """The path of a profile that has everything."""
    path = tree / "mine.toml"
    path.write_text(PROFILE)
    return str(path)


@pytest.fixture
def script(launch, fake_slurm, read_directives):
    """Submits, and returns the directives and the other lines of the one batch script."""

    def submit(*arguments):
        told = launch("submit", "toy", *arguments)
        assert (told.code, told.err) == (0, "")
        (text,) = fake_slurm.scripts
        return read_directives(text), [line for line in text.splitlines() if not line.startswith("#")]

    return submit


# The batch script


def test_profile_reaches_sbatch(script, profile, tree):
    found, lines = script("--sweep", "colours", "--profile", profile)
    (submission,) = submissions.every()
    logs = f"{submission.folder}/submitit/%A_%a_0_log"
    assert {key: value.strip("'") for key, value in found.items() if key not in ("output", "error")} == {
        "job-name": "toy",
        "time": "3630",  # 2 days, 12 hours and 30 minutes
        "cpus-per-task": "6",
        "mem": "48G",
        "gpus-per-node": "2",
        "nodes": "1",
        "ntasks-per-node": "1",
        "partition": "gpu",
        "account": "my project",
        "qos": "high",
        "constraint": "a100|h100",
        "array": "0-7%3",
        "signal": "USR2@300",
        "requeue": "",
        "open-mode": "append",
        "wckey": "submitit",
        "mail-type": "FAIL",
        "exclude": "node[01-03]",
        "nice": "100",
        "exclusive": "",
    }
    assert unquote(found["output"]) == f"{logs}.out"
    assert unquote(found["error"]) == f"{logs}.err"
    setup, name, path, start = (
        lines.index("module load cuda/12.6"),
        *(find(lines, t) for t in ("NAME", "PYTHONPATH", "srun")),
    )
    assert setup < name < path < start
    assert "--cpus-per-task 6 " in lines[start]


def unquote(text):
    """A word of shell as the shell takes it."""
    return subprocess.run(["/bin/sh", "-c", f"printf %s {text}"], capture_output=True, text=True, check=True).stdout


def find(lines, text):
    """The place of the one line with this text."""
    (place,) = [place for place, line in enumerate(lines) if text in line]
    return place


def test_default_profile_is_what_its_file_says():
    """The commented example says that a key that is left out has the value that stands there."""
    assert Profile(**cluster.load_profile("default")) == Profile()


def test_commented_lines_of_the_default_profile_are_right(tmp_path):
    text = (ROOT / "slurm" / "clusters" / "default.toml").read_text()
    path = tmp_path / "all.toml"
    path.write_text(re.sub(r"^# (?=\[?[a-z_-]+(\]| = ))", "", text, flags=re.MULTILINE))
    profile = Profile(**cluster.load_profile(str(path)))
    assert None not in (profile.partition, profile.account, profile.qos, profile.constraint)
    assert profile.setup
    assert profile.sbatch
    assert (profile.gpu_type, profile.keeper) == ("a100", {"partition": "cpu"})


def test_flags_override_the_profile(script, profile):
    flags = {
        "time": "90",
        "partition": "cpu",
        "account": "other",
        "qos": "low",
        "constraint": "epyc",
        "cpus": "2",
        "memory": "4G",
        "gpus": "1",
        "max-parallel": "5",
    }
    words = [word for key, value in flags.items() for word in (f"--{key}", value)]
    found, lines = script("--sweep", "colours", "--profile", profile, *words)
    names = ("time", "partition", "account", "qos", "constraint", "cpus-per-task", "mem", "gpus-per-node")
    assert [found[name] for name in names] == ["90", "cpu", "other", "low", "epyc", "2", "4G", "1"]
    assert found["array"].strip("'") == "0-7%5"
    assert "--cpus-per-task 2 " in lines[find(lines, "srun")]


def test_no_gpus_asks_for_none(script):
    found, _ = script("--set", "width=1", "--gpus", "0")
    assert not [name for name in found if "gpu" in name or "gres" in name]


def test_kind_of_gpu_and_memory_of_the_cluster(script, tree):
    (tree / "mine.toml").write_text("gpu_type = 'a100'\nmemory = ''\ngpus = 2")
    found, lines = script("--set", "width=1", "--profile", "mine.toml")
    assert unquote(found["gpus-per-node"]) == "a100:2"
    assert "mem" not in found
    export, start = find(lines, "SLURM_EXPORT_ENV=ALL"), find(lines, "srun")
    assert export < start  # srun would hand on nothing at a site where sbatch does not


def test_one_run_is_no_array(script):
    found, _ = script("--set", "width=1")
    assert "array" not in found
    assert unquote(found["output"]).endswith("/submitit/%j_0_log.out")
    (submission,) = submissions.every()
    assert list(submission.jobs.values()) == ["100"]


def test_array_is_no_wider_than_its_runs(script):
    found, _ = script("--grid", "width=1,2", "--max-parallel", "16")
    assert found["array"].strip("'") == "0-1%2"


@pytest.mark.parametrize(
    ("limit", "seconds", "signal"),
    [("24:00:00", 120, 120), ("10", 120, 120), ("5", 120, 120), ("2", 120, 30), ("1", 120, 5), ("60", 3600, 1770)],
)
def test_signal_leaves_half_of_the_limit_and_a_minute(limit, seconds, signal):
    """SLURM may signal up to a minute before it is told to: a start must get somewhere nevertheless."""
    assert Profile(time=limit, signal_seconds=seconds).signal_before() == signal


def test_jobs_of_arrays_are_written_down(launch, fake_slurm):
    told = launch("submit", "toy", "--sweep", "colours")
    (submission,) = submissions.every()
    assert told.submission == submission.id
    assert [submission.jobs[run.name] for run in submission.runs] == [f"100_{i}" for i in range(8)]
    assert told.out.splitlines()[-2].startswith("jobs 100;")


# Splitting


def afters(slurm, read_directives):
    """`dependency` of each script."""
    return [read_directives(text).get("dependency") for text in slurm.scripts]


def test_arrays_are_split_at_the_limit_of_the_cluster(launch, fake_slurm, read_directives):
    fake_slurm.limit(3)
    launch("submit", "toy", "--sweep", "colours", "--max-parallel", "2")
    arrays = [read_directives(text)["array"].strip("'") for text in fake_slurm.scripts]
    assert arrays == ["0-2%2", "0-2%2", "0-1%2"]
    # Of the middle one alone the last would begin if that is cancelled, beside the first.
    assert afters(fake_slurm, read_directives) == [None, "afterany:100", "afterany:100:101"]
    (submission,) = submissions.every()
    assert list(submission.jobs.values()) == ["100_0", "100_1", "100_2", "101_0", "101_1", "101_2", "102_0", "102_1"]


def test_rest_of_one_run_is_no_array(launch, fake_slurm, read_directives):
    fake_slurm.limit(2)
    launch("submit", "toy", "--grid", "width=1,2,3")
    assert ["array" in read_directives(text) for text in fake_slurm.scripts] == [True, False]
    (submission,) = submissions.every()
    assert list(submission.jobs.values()) == ["100_0", "100_1", "101"]


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        ("MaxArraySize = 0", 1),  # arrays are turned off
        ("MaxArraySize = 1001\nSchedulerParameters = bf_continue,max_array_tasks=50,defer", 50),
        ("MaxArraySize = 20\nSchedulerParameters = max_array_tasks=50", 20),
        ("MaxArraySize = 1001\nSchedulerParameters = (null)", 1001),
    ],
)
def test_the_limit_is_the_lower_of_two(fake_slurm, config, longest):
    fake_slurm.add("scontrol", f"echo '{config}'")
    assert cluster.max_array_size() == longest


def test_without_arrays_each_run_is_a_job(launch, fake_slurm, read_directives):
    fake_slurm.limit(0)
    launch("submit", "toy", "--grid", "width=1,2")
    assert ["array" in read_directives(text) for text in fake_slurm.scripts] == [False, False]


@pytest.mark.parametrize("body", ["exit 1", "echo nothing of use"])
def test_if_the_cluster_does_not_say_its_limit_it_is_slurms_default(fake_slurm, body):
    fake_slurm.add("scontrol", body)
    assert cluster.max_array_size() == 1001


def test_sizes_do_not_share_an_array(fake_slurm, make_run, read_directives):
    sizes = [(1, 1), (2, 4), (1, 2), (2, 4), (1, 1)]
    runs = [make_run(f"r{i}", nodes=nodes, devices=devices) for i, (nodes, devices) in enumerate(sizes)]
    arrays = list(cluster.arrays(runs, Profile(gpus=1), Path("/code"), "toy"))
    assert [[run.name for run in array.runs] for array in arrays] == [["r0", "r4"], ["r2"], ["r1", "r3"]]
    found = [read_directives(cluster.script(array, Path("/folder"))) for array in arrays]
    assert [one["nodes"] for one in found] == ["1", "1", "2"]
    assert [one["ntasks-per-node"] for one in found] == ["1", "1", "1"]


def test_waves_wait_for_one_another(launch, fake_slurm, read_directives, tree):
    sweeps = "first: {grid: {width: [1, 2]}}\nsecond: {grid: {colour: [blue, green]}, after: first}\n"
    (tree / "tasks" / "toy" / "sweeps.yaml").write_text(sweeps)
    launch("submit", "toy", "--sweep", "second")
    assert afters(fake_slurm, read_directives) == [None, "afterany:100"]
    (submission,) = submissions.every()
    assert [(run.wave, submission.jobs[run.name].split("_")[0]) for run in submission.runs] == [
        (0, "100"),
        (0, "100"),
        (1, "101"),
        (1, "101"),
    ]


# What runs in the end: the script, by a shell, in a folder with a space and a quote in its name


SRUN = f"""
while [ "$1" != "{sys.executable}" ]; do shift; done
exec "$@"
"""


def execute(slurm, number, **variables):
    """Run a batch script as SLURM's daemon would, with SLURM's variables."""
    slurm.add("srun", SRUN)
    variables = {"SLURM_JOB_ID": str(number), "SLURM_PROCID": "0"} | variables
    return subprocess.run(
        ["/bin/bash", str(slurm.folder / f"{number}.sh")],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_batch_script_runs_the_code_as_it_was_submitted(launch, fake_slurm, tree, read_json):
    launch("submit", "toy", "--grid", "width=4,5", "--set", "does=print('in', os.getcwd())")
    train = tree / "tasks" / "toy" / "train.py"
    for path in (train, tree / "common" / "config.py", tree / "slurm" / "job.py"):
        path.write_text("raise SystemExit('edited')")
    done = execute(fake_slurm, 100, SLURM_ARRAY_JOB_ID="100", SLURM_ARRAY_TASK_ID="1")
    assert done.returncode == 0, done.stderr
    (submission,) = submissions.every()
    first, second = submission.runs
    assert not Path(first.folder).exists()
    assert read_json(Path(second.folder) / "metrics.json") == {"status": "completed"}
    assert submission.log(second.name).read_text() == f"in {tree}\nfinished {second.name}\n"
    (start,) = read_json(submission.record(second.name))["starts"]
    assert start["job"] == "100_1"


def test_failing_run_fails_as_a_job_too(launch, fake_slurm):
    launch("submit", "toy", "--set", "does=raise SystemExit('error: no such thing')")
    done = execute(fake_slurm, 100)
    assert done.returncode != 0
    assert "RunFailed: no such thing" in done.stderr


# Refusals


def test_refusal_is_one_line_in_slurms_words(launch, fake_slurm):
    words = "sbatch: error: Batch job submission failed: Invalid qos specification"
    fake_slurm.refuse(after=0, words=words)
    told = launch("submit", "toy", "--sweep", "colours", "--qos", "gold")
    assert told.code == 2
    assert words in told.line
    assert told.line.startswith("error: ")


def test_refused_submission_leaves_nothing_behind(launch, fake_slurm):
    fake_slurm.refuse(after=0, words="no")
    launch("submit", "toy", "--sweep", "colours")
    assert "lost" not in launch("status").out
    fake_slurm.refuse(after=9, words="yes")  # mended
    assert "8 of 8 runs to do" in launch("submit", "toy", "--sweep", "colours", "--dry-run").out


def test_runs_that_slurm_took_before_it_refused_are_kept(launch, fake_slurm, read_json):
    fake_slurm.limit(3)
    fake_slurm.refuse(after=2, words="job limit")
    told = launch("submit", "toy", "--sweep", "colours")
    (submission,) = submissions.every()
    assert told.code == 2
    assert "job limit" in told.line
    assert submission.id in told.line
    assert submission.keeper == "9000"
    assert "afterany:100:101" in fake_slurm.keeper
    content = read_json(submission.folder / "submission.json")
    assert list(content["jobs"].values()) == ["100_0", "100_1", "100_2", "101_0", "101_1", "101_2"]


def test_runs_that_slurm_never_took_are_submitted_again(launch, fake_slurm):
    fake_slurm.limit(3)
    fake_slurm.refuse(after=2, words="job limit")
    launch("submit", "toy", "--sweep", "colours")
    fake_slurm.queue(**{f"_{job}_{i}": "RUNNING|None" for job in (100, 101) for i in range(3)})
    told = launch("submit", "toy", "--sweep", "colours", "--dry-run")
    assert "2 of 8 runs to do" in told.out
    rows = json.loads(launch("status", "--json").out)
    assert [row["state"] for row in rows[:6]] == ["running"] * 6
    # They have never been in the queue: "not in SLURM's queue any more" would be wrong.
    assert not [row for row in rows if "any more" in row["reason"]]


@pytest.mark.parametrize(("content", "to_do"), [('{"status": "completed"}', 0), ("{", 1)])
def test_a_run_with_damaged_metrics_is_no_finished_one(launch, fake_slurm, content, to_do):
    """Its next start says what to do."""
    first = submissions.load(launch("submit", "toy", "--set", "width=1").submission)
    fake_slurm.queue()
    Path(first.runs[0].folder).mkdir(parents=True)
    (Path(first.runs[0].folder) / "metrics.json").write_text(content)
    assert f"{to_do} of 1 runs to do" in launch("submit", "toy", "--set", "width=1").out


def test_jobs_that_cannot_be_written_down_are_cancelled(make_submission, make_run, fake_slurm, monkeypatch):
    """Else they would train what the next `submit` trains too."""
    made = make_submission(make_run("a-s0"), cluster="slurm")

    def full(*_):
        raise StorageError("cannot write submission.json: no space left")

    monkeypatch.setattr(files, "write_json", full)
    with pytest.raises(StorageError):
        cluster.with_jobs(made, {"a-s0": "100_0", "a-s1": "100_1"})
    assert fake_slurm.calls("scancel") == [["100"]]


@pytest.mark.parametrize("more", [" on cluster gpu2", "\nBalance: 5000 GPUh"])
def test_the_keepers_number_is_that_of_its_job(launch, fake_slurm, more):
    sbatch = fake_slurm.bin / "sbatch"
    sbatch.write_text(sbatch.read_text().replace("job 9000", f"job 9000{more}"))
    launch("submit", "toy", "--set", "width=1")
    assert submissions.every()[0].keeper == "9000"


def test_variables_of_sbatch_do_not_override_what_is_asked_for(launch, fake_slurm, tree, monkeypatch):
    """For sbatch they rank above the options in a script."""
    asked = {
        "ACCOUNT": "theirs",
        "ARRAY_INX": "0-9",
        "GPUS_PER_NODE": "8",
        "MEM_PER_CPU": "1G",
        "NO_REQUEUE": "1",
        "SIGNAL": "KILL@1",
        "TIMELIMIT": "5",
        "WAIT": "1",
        "MAIL_TYPE": "NONE",
    }
    left = {"PARTITION": "small", "RESERVATION": "course"}  # of which nothing is said
    for name, value in (asked | left).items():
        monkeypatch.setenv(f"SBATCH_{name}", value)
    sbatch = fake_slurm.bin / "sbatch"
    sbatch.write_text(sbatch.read_text().replace("cd '", f"(echo begins; env) >>'{fake_slurm.folder}/seen'; cd '", 1))
    (tree / "mine.toml").write_text("account = 'ours'\n[sbatch]\nmail-type = 'FAIL'\n")
    assert launch("submit", "toy", "--profile", "mine.toml").code == 0
    runs, keeper = (fake_slurm.folder / "seen").read_text().split("begins\n")[1:]
    for seen, heeded in (runs, left), (keeper, left | {"MAIL_TYPE": "NONE"}):  # which is the profile's for runs alone
        found = {line for line in seen.splitlines() if line.startswith("SBATCH_")}
        assert found == {f"SBATCH_{name}={value}" for name, value in heeded.items()}
    # The next look of `--until-decided` is of the same process.
    assert {name: os.environ.get(f"SBATCH_{name}") for name in asked} == asked


def test_ctrl_c_while_sbatch_answers_leaves_no_job_that_nobody_knows(tree, fake_slurm, monkeypatch):
    """It would wait for what submitit writes once sbatch has answered, and nothing could cancel it."""
    sbatch = fake_slurm.bin / "sbatch"
    sbatch.write_text(sbatch.read_text().replace("cd '", "kill -INT $PPID; sleep 0.5; cd '", 1))
    # A test run in the background may have handed down that Ctrl-C is ignored.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from slurm.__main__ import main; "
    code += "import sys; sys.argv = ['slurm', 'submit', 'toy', '--set', 'width=1']; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "1 run submitted before that, without a job that submits killed ones again" in done.stdout
    assert len(fake_slurm.scripts) == 1
    (path,) = (tree / "results" / "submissions").glob("*/submission.json")
    assert list(json.loads(path.read_text())["jobs"].values()) == ["100"]


def test_another_way_to_the_same_folder_is_the_same_run(launch, fake_slurm, tree):
    (tree / "link").symlink_to(tree / "out")
    assert launch("submit", "toy", "--set", "out=out/runs").code == 0
    fake_slurm.queue(_100="RUNNING|None")
    for way in ("link/runs", f"../{tree.name}/out/runs"):
        assert "left out: 1 running in toy-" in launch("submit", "toy", "--set", f"out={way}").out


def test_runs_are_waited_for_whatever_the_way_to_their_folder(make_submission, make_run, fake_slurm, tmp_path, capsys):
    run = make_run("demo-s0")
    make_submission(run, jobs={run.name: "100"})
    (tmp_path / "link").symlink_to(Path(run.folder).parent)
    other = replace(run, folder=str(tmp_path / "link" / run.name))
    assert commands.wait_for([other], Console()) == 1  # it has left the queue unfinished
    assert f"  {run.name}  " in capsys.readouterr().out


def test_the_keeper_asks_for_no_memory_if_the_runs_do_not(launch, fake_slurm, tree, read_directives):
    (tree / "mine.toml").write_text("memory = ''\n[keeper]\nqos = ''\n")
    launch("submit", "toy", "--profile", "mine.toml", "--qos", "long")
    assert not read_directives(fake_slurm.keeper).keys() & {"mem", "qos"}


def test_the_keeper_has_options_of_its_own(launch, fake_slurm, tree, read_directives):
    (tree / "mine.toml").write_text("partition = 'gpu'\n[keeper]\npartition = 'cpu'\ntime = 5\nwckey = 'mine'")
    launch("submit", "toy", "--set", "width=1", "--profile", "mine.toml")
    (script,) = fake_slurm.scripts
    assert read_directives(script)["partition"] == "gpu"
    found = read_directives(fake_slurm.keeper)
    assert {key: found[key] for key in ("partition", "time", "wckey", "mem", "cpus-per-task", "nodes")} == {
        "partition": "cpu",
        "time": "5",
        "wckey": "mine",
        "mem": "1G",
        "cpus-per-task": "1",
        "nodes": "1",
    }


def test_a_job_that_submits_others_passes_on_nothing_of_its_size(launch, fake_slurm, monkeypatch):
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "4000")
    monkeypatch.setenv("SLURM_CLUSTERS", "gpu2")
    sbatch = fake_slurm.bin / "sbatch"
    sbatch.write_text(sbatch.read_text().replace("n=$", "env >environment\nn=$", 1))
    launch("submit", "toy", "--set", "width=1")
    passed_on = (fake_slurm.folder / "environment").read_text()
    assert "SLURM_MEM_PER_CPU" not in passed_on
    assert "SLURM_CLUSTERS=gpu2" in passed_on


def test_answer_that_is_no_answer_is_one_line(launch, fake_slurm):
    fake_slurm.add("sbatch", "echo maintenance today")
    told = launch("submit", "toy", "--set", "width=1")
    assert told.code != 0
    assert told.line.startswith("error: ")


def test_without_sbatch_it_says_where_to_submit(launch, programs, tree):
    told = launch("submit", "toy", "--set", "width=1")
    assert told.code == 2
    assert "no sbatch on this machine" in told.line
    assert not (tree / "results").exists()


def test_without_srun_it_is_one_line(launch, fake_slurm):
    (fake_slurm.bin / "srun").unlink()
    told = launch("submit", "toy", "--set", "width=1")
    assert told.code == 2
    assert "srun" in told.line


# Profiles


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tme = '1'", "did you mean time?"),
        ("time = 'soon'", "time is 'soon'"),
        ("time = 0", "above zero"),
        ("time = 1.5", "time is 1.5"),
        ("time = 08:00:00", "time is 08:00:00; allowed: minutes, or a text in quotes"),
        ("time = true", "time is True"),
        ("memory = 'much'", "memory is 'much'"),
        ("memory = '3.5G'", "memory"),
        ("cpus = 0", "cpus is 0"),
        ("cpus = '8'", "cpus is '8'"),
        ("cpus = true", "cpus"),
        ("gpus = -1", "gpus is -1"),
        ("max_parallel = 0", "max_parallel is 0"),
        ("signal_seconds = 0", "signal_seconds is 0"),
        ("setup = 'module load cuda'", "setup"),
        ("setup = [1]", "setup"),
        ("sbatch = 'x'", "sbatch"),
        ("[sbatch]\ngpus_per_node = 2", "[sbatch] has gpus_per_node, which the launcher sets itself"),
        ("[sbatch]\ndependency = 'singleton'", "[sbatch] has dependency, which the launcher sets itself"),
        ("[keeper]\noutput = 'x'", "[keeper] has output, which the launcher sets itself"),
        ("[keeper]\npartition = []", "keeper is"),
        ("[sbatch]\nrequeue = false", "[sbatch] has requeue, which the launcher sets itself"),
        ("[sbatch]\nno-requeue = true", "[sbatch] has no-requeue, which the launcher sets itself"),
        ("[sbatch]\nexclusive = false", "[sbatch] has exclusive = false, which sbatch does not know; leave it out"),
        ("[sbatch]\nclusters = 'other'", "export SLURM_CLUSTERS"),
        ("gpu_type = 1", "gpu_type is 1"),
        ("[sbatch]\ngres = 'gpu:a100:1'", "[sbatch] has gres, and gpus is 1: use gpus and gpu_type, or gpus = 0"),
        ("[sbatch]\ngpus = 2", "[sbatch] has gpus, and gpus is 1"),
        ("partition = ['a', 'b']", "partition"),
        ("time =", "mine.toml"),
        ("[sbatch", "mine.toml"),
    ],
)
def test_mistake_in_a_profile_is_one_line(launch, tree, text, told):
    (tree / "mine.toml").write_text(text)
    answer = launch("submit", "toy", "--profile", "mine.toml", "--dry-run")
    assert answer.code == 2
    assert answer.line.startswith("error: ")
    assert told in answer.line


def test_setup_that_this_locale_cannot_write_is_one_line(launch, tree, monkeypatch):
    """Scripts are written in the locale's encoding."""
    (tree / "mine.toml").write_text("setup = ['cd /Łódź']", "utf-8")
    monkeypatch.setattr(cluster.locale, "getpreferredencoding", lambda _: "UTF-8")
    assert launch("submit", "toy", "--profile", "mine.toml", "--dry-run").code == 0
    monkeypatch.setattr(cluster.locale, "getpreferredencoding", lambda _: "ISO-8859-1")
    answer = launch("submit", "toy", "--profile", "mine.toml", "--dry-run")
    assert answer.code == 2
    assert "it needs a locale of UTF-8, not of ISO-8859-1" in answer.line


def test_profile_that_is_no_text_is_one_line(launch, tree):
    (tree / "mine.toml").write_bytes(b"time = '\xff'")
    answer = launch("submit", "toy", "--profile", "mine.toml", "--dry-run")
    assert (answer.code, answer.line[:7]) == (2, "error: ")


@pytest.mark.parametrize("name", ["nowhere", "nowhere.toml"])
def test_profile_that_is_not_there_names_those_that_are(launch, name):
    answer = launch("submit", "toy", "--profile", name, "--dry-run")
    assert answer.code == 2
    assert "allowed: default" in answer.line


# sbatch(1): "Acceptable time formats include minutes, minutes:seconds, hours:minutes:seconds, days-hours,
# days-hours:minutes and days-hours:minutes:seconds."
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        ("90", 90),
        (90, 90),
        ("90:00", 90),
        ("90:01", 91),
        ("0:30", 1),
        ("1:00:00", 60),
        ("24:00:00", 1440),
        ("100:00:00", 6000),
        ("0:00:01", 1),
        ("1-0", 1440),
        ("1-12", 2160),
        ("2-12:30", 3630),
        ("0-0:5", None),
        ("0-00:05", 5),
        ("1-00:00:30", 1441),
        ("10-00:00:00", 14400),
        ("0", None),
        ("0:00", None),
        ("0-00:00:00", None),
        ("", None),
        ("-5", None),
        ("1:00:00:00", None),
        ("1-", None),
        ("-1:00", None),
        ("1h", None),
        ("1.5", None),
        ("UNLIMITED", None),
        ("1:00 ", None),
    ],
)
def test_time_is_spelt_as_sbatch_has_it(text, expected):
    if expected is None:
        with pytest.raises(ConfigError, match="time"):
            minutes(text)
    else:
        assert minutes(text) == expected


@pytest.mark.parametrize("memory", ["512", "512K", "4000M", "32G", "1T"])
def test_memory_is_spelt_as_sbatch_has_it(script, memory):
    found, _ = script("--set", "width=1", "--memory", memory)
    assert found["mem"] == memory


# The command line


def test_dry_run_shows_runs_and_scripts_and_does_nothing(launch, fake_slurm, tree, profile, read_directives):
    before = sorted(path for path in tree.glob("**/*") if "__pycache__" not in path.parts)
    fake_slurm.limit(5)
    told = launch("submit", "toy", "--sweep", "colours", "--profile", profile, "--dry-run")
    assert told.code == 0
    assert fake_slurm.calls("sbatch") == []
    assert sorted(path for path in tree.glob("**/*") if "__pycache__" not in path.parts) == before
    assert "8 of 8 runs to do" in told.out
    assert told.out.count("colour=red width=2") == 2  # two seeds
    _, *shown = told.out.split("#!/bin/bash")
    assert [read_directives(text)["array"].strip("'") for text in shown] == ["0-4%3", "0-2%3"]


def test_dry_run_shows_the_script_that_is_submitted(launch, fake_slurm, profile):
    shown = launch("submit", "toy", "--sweep", "colours", "--profile", profile, "--dry-run").out
    told = launch("submit", "toy", "--sweep", "colours", "--profile", profile)
    (script,) = fake_slurm.scripts
    _, _, shown = shown.partition("#!/bin/bash")
    assert f"#!/bin/bash{shown}".replace("toy-DATE-TIME", told.submission).split() == script.split()


def test_dry_run_needs_no_slurm(launch, programs, tree):
    told = launch("submit", "toy", "--sweep", "colours", "--dry-run")
    assert (told.code, told.err) == (0, "")
    assert "#SBATCH --array=" in told.out
    assert not (tree / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "COMMAND"),
        (("sumbit",), "sumbit"),
        (("submit",), "TASK"),
        (("submit", "tyo"), "did you mean toy?"),
        (("submit", "toy", "--sweep", "colour"), "did you mean colours?"),
        (("submit", "toy", "--sweep", "colours", "--grid", "width=1"), "not allowed with"),
        (("submit", "toy", "--grid", "width"), "--grid 'width'"),
        (("submit", "toy", "--grid", "width=1", "width=2"), "width twice"),
        (("submit", "toy", "--grid"), "--grid"),
        (("submit", "toy", "--set", "width"), "--set 'width'"),
        (("submit", "toy", "--set", "seed=1"), "--seeds"),
        (("submit", "toy", "--seeds", "5:0"), "seeds '5:0'"),
        (("submit", "toy", "--set", "width=0"), "width is 0"),
        (("submit", "toy", "--set", "wdith=2"), "did you mean --width?"),
        (("submit", "toy", "--cluster", "cloud"), "cloud"),
        (("submit", "toy", "--jobs", "two", "--cluster", "local"), "two"),
        (("submit", "toy", "--jobs", "0", "--cluster", "local"), "jobs is 0"),
        (("submit", "toy", "--jobs", "2"), "--jobs goes with --cluster local"),
        (("submit", "toy", "--cluster", "local", "--time", "10"), "--time goes with --cluster slurm"),
        (("submit", "toy", "--cluster", "local", "--profile", "x"), "--profile goes with --cluster slurm"),
        (("submit", "toy", "--cluster", "local", "--max-parallel", "3"), "--max-parallel goes with --cluster slurm"),
        (("submit", "toy", "--time", "soon"), "time is 'soon'"),
        (("submit", "toy", "--cpus", "0"), "cpus is 0"),
        (("submit", "toy", "--memory", "big"), "memory is 'big'"),
        (("submit", "toy", "--gpus", "-1"), "gpus"),
        (("submit", "toy", "--max-parallel", "0"), "max_parallel is 0"),
        (("submit", "toy", "--nosuch"), "--nosuch"),
        (("submit", "toy", "--preset", "demo"), "the flags of train.py go through --set KEY=VALUE"),
        (("status", "tyo"), "tyo"),
        (("status", "toy"), "nothing of toy was submitted"),
        (("logs",), "RUN"),
        (("logs", "abc-s0"), "abc-s0"),
        (("cancel", "abc"), "abc"),
        (("cancel", ""), "no submission"),
        (("cancel", "../.."), "no submission"),
        (("resubmit", "abc"), "abc"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(launch, fake_slurm, tree, arguments, told):
    answer = launch(*arguments)
    assert answer.code == 2
    assert answer.line.startswith("error: ")
    assert told in answer.line
    assert fake_slurm.calls("sbatch") == []
    assert not (tree / "results").exists()


def test_grid_and_fixed_values_both_count(launch):
    told = launch("submit", "toy", "--grid", "width=1,2", "--set", "colour=blue", "--cluster", "local", "--dry-run")
    assert "2 of 2 runs to do" in told.out
    assert "small-digits-" in told.out


def test_flag_given_twice_adds_to_the_first(launch):
    """`--set a=1 --set b=2` once kept only the second, and submitted runs that nobody had asked for."""
    twice = ("--grid", "width=1,2", "--grid", "colour=red,blue", "--set", "preset=large", "--set", "rate=0.25")
    once = ("--grid", "width=1,2", "colour=red,blue", "--set", "preset=large", "rate=0.25")
    assert (
        launch("submit", "toy", *twice, "--cluster", "local", "--dry-run").out
        == launch("submit", "toy", *once, "--cluster", "local", "--dry-run").out
    )


def test_mistakes_of_a_grid_are_a_line_each(launch):
    told = launch("submit", "toy", "--grid", "colour=red,pink", "width=0,1", "--cluster", "local")
    assert told.code == 2
    assert len(told.err.splitlines()) == 2
    assert all(line.startswith("error: ") for line in told.err.splitlines())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_that_are_right(launch, command):
    """Each example is read by the launcher's own parser."""
    told = launch(command, "--help")
    assert told.code == 0
    examples = re.findall(r"^  python -m slurm (.*?)(?:  .*| \| .*)?$", told.out, re.MULTILINE)
    assert examples
    for example in examples:
        assert parser().parse_args(example.split()).command == command


def test_help_imports_no_keras():
    code = "import sys; from slurm import __main__\nsys.argv = ['slurm', 'submit', '--help']\ntry: __main__.main()\n"
    code += "except SystemExit: print({'keras', 'tensorflow', 'submitit'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


# What is left out


def test_finished_runs_are_left_out(launch, fake_slurm):
    launch("submit", "toy", "--sweep", "colours")
    (submission,) = submissions.every()
    for run in submission.runs[:3]:
        Path(run.folder).mkdir(parents=True)
        (Path(run.folder) / "metrics.json").write_text('{"status": "completed"}')
    told = launch("submit", "toy", "--sweep", "colours", "--dry-run")
    assert "left out: 3 finished" in told.out
    assert "5 of 8 runs to do" in told.out


def test_queued_and_running_runs_are_left_out(launch, fake_slurm):
    told = launch("submit", "toy", "--sweep", "colours")
    fake_slurm.queue(_100_0="RUNNING|None", _100_1="PENDING|Priority", _100_2="PENDING|Priority")
    again = launch("submit", "toy", "--sweep", "colours", "--dry-run")
    assert f"left out: 1 running in {told.submission}" in again.out
    assert f"left out: 2 queued in {told.submission}" in again.out
    assert "5 of 8 runs to do" in again.out


def test_nothing_to_do_submits_nothing(launch, fake_slurm):
    launch("submit", "toy", "--set", "width=1")
    fake_slurm.queue(_100="RUNNING|None")
    told = launch("submit", "toy", "--set", "width=1")
    assert (told.code, told.err) == (0, "")
    assert "0 of 1 runs to do" in told.out
    assert len(fake_slurm.scripts) == len(submissions.every()) == 1


def test_later_wave_does_not_overtake_runs_that_are_under_way(launch, fake_slurm, tree):
    sweeps = "first: {grid: {width: [1, 2]}}\nsecond: {grid: {colour: [blue]}, after: first}\n"
    (tree / "tasks" / "toy" / "sweeps.yaml").write_text(sweeps)
    launch("submit", "toy", "--sweep", "first")
    fake_slurm.queue(_100_0="RUNNING|None", _100_1="RUNNING|None")
    told = launch("submit", "toy", "--sweep", "second")
    assert told.code == 2
    assert "2 runs" in told.line
    assert len(fake_slurm.scripts) == 1


def test_runs_that_another_backend_has_finished_are_named_as_such(launch, fake_slurm, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    (run,) = submissions.load(launch("submit", "toy", "--set", "width=1").submission).runs
    Path(run.folder).mkdir(parents=True)
    (Path(run.folder) / "metrics.json").write_text('{"status": "completed"}')
    (Path(run.folder) / "environment.json").write_text('{"starts": [], "backend": "tensorflow"}')
    told = launch("submit", "toy", "--set", "width=1")
    assert "left out: 1 finished with tensorflow; --set out=FOLDER makes them with jax\n" in told.out


def test_two_submissions_at_once_do_not_take_the_same_runs(launch, fake_slurm, start_launcher, monkeypatch, wait_for):
    create, others = submissions.create, []

    def with_another_beside(*arguments):
        others.append(start_launcher("submit", "toy", "--grid", "width=1,2"))
        assert "waiting for another process" in others[0].stdout.readline()
        return create(*arguments)

    monkeypatch.setattr(submissions, "create", with_another_beside)
    fake_slurm.queue(_100_0="PENDING|Priority", _100_1="PENDING|Priority")
    told = launch("submit", "toy", "--grid", "width=1,2")
    output, _ = others[0].communicate(timeout=60)
    assert f"left out: 2 queued in {told.submission}" in output
    assert len(submissions.every()) == 1


# cancel and resubmit


def test_cancel_names_the_arrays_that_have_something_left(launch, fake_slurm):
    """For scancel fails for jobs that SLURM has forgotten."""
    fake_slurm.limit(3)
    told = launch("submit", "toy", "--sweep", "colours")
    fake_slurm.queue(_101_2="RUNNING|None", _102_0="PENDING|Priority", _102_1="PENDING|Priority", _7="RUNNING|None")
    answer = launch("cancel", told.submission)
    assert (answer.code, answer.err) == (0, "")
    call, keeper = fake_slurm.calls("scancel")
    assert keeper == ["9000"]
    assert sorted({job.split("_")[0] for job in call if not job.startswith("-")}) == ["101", "102"]
    assert "2 queued" in answer.out
    assert "1 running" in answer.out
    assert submissions.load(told.submission).cancelled


@pytest.mark.parametrize("variable", ["INTERACTIVE", "STATE", "PARTITION"])
def test_cancel_heeds_no_variable_of_scancel_and_asks_nobody(launch, fake_slurm, monkeypatch, variable):
    """It would wait for an answer, or report success and leave the jobs that the variable excludes."""
    told = launch("submit", "toy", "--set", "width=1")
    fake_slurm.queue(_100="RUNNING|None")
    monkeypatch.setenv(f"SCANCEL_{variable}", "true")
    fake_slurm.add("scancel", "env >>seen; readlink /proc/self/fd/0 >>input")
    own, terminal = os.dup(0), os.pipe()
    os.dup2(terminal[0], 0)  # what this process reads is no /dev/null
    try:
        assert launch("cancel", told.submission).code == 0
    finally:
        os.dup2(own, 0)
        for file in (own, *terminal):
            os.close(file)
    assert "SCANCEL_" not in (fake_slurm.folder / "seen").read_text()
    assert (fake_slurm.folder / "input").read_text() == "/dev/null\n" * 2


def test_cancelled_runs_are_shown_as_cancelled(launch, fake_slurm):
    told = launch("submit", "toy", "--grid", "width=1,2")
    fake_slurm.queue(_100_0="PENDING|Priority", _100_1="PENDING|Priority")
    launch("cancel", told.submission)
    fake_slurm.queue()
    rows = json.loads(launch("status", "--json").out)
    assert [row["state"] for row in rows] == ["cancelled", "cancelled"]


def test_cancel_of_what_has_ended_calls_nothing(launch, fake_slurm):
    told = launch("submit", "toy", "--set", "width=1")
    answer = launch("cancel", told.submission)
    assert answer.code == 0
    assert "nothing" in answer.out
    assert fake_slurm.calls("scancel") == []


def test_refused_cancel_is_one_line_and_nothing_counts_as_cancelled(launch, fake_slurm):
    told = launch("submit", "toy", "--set", "width=1")
    fake_slurm.queue(_100="RUNNING|None")
    fake_slurm.add("scancel", "echo 'scancel: error: Access denied' >&2; exit 1")
    answer = launch("cancel", told.submission)
    assert answer.code == 2
    assert "Access denied" in answer.line
    assert not submissions.load(told.submission).cancelled


def prepare_mixed(launch, fake_slurm):
    """A submission with a run in each of five states; its runs by state."""
    told = launch("submit", "toy", "--grid", "width=1,2,3,4,5", "--time", "7")
    submission = submissions.load(told.submission)
    done, failed, lost, running, stopped = submission.runs
    Path(done.folder).mkdir(parents=True)
    (Path(done.folder) / "metrics.json").write_text('{"status": "completed"}')
    for run, state in ((failed, "failed"), (stopped, "stopped")):
        start = {"time": "2026-01-31T12:00:00+00:00", "host": "n1", "pid": 1, "began": 0.0, "checkpoint": ""}
        submission.record(run.name).write_text(json.dumps({"state": state, "reason": "x", "starts": [start]}))
    fake_slurm.queue(_100_3="RUNNING|None")
    return submission, {"failed": failed, "lost": lost, "running": running, "stopped": stopped}


def test_resubmit_takes_what_is_not_finished_and_not_running(launch, fake_slurm):
    submission, runs = prepare_mixed(launch, fake_slurm)
    told = launch("resubmit", submission.id)
    assert told.code == 0
    assert {run.name for run in submissions.load(told.submission).runs} == {
        runs[state].name for state in ("failed", "lost", "stopped")
    }


def test_resubmit_failed_takes_failed_and_lost_ones(launch, fake_slurm):
    submission, runs = prepare_mixed(launch, fake_slurm)
    told = launch("resubmit", submission.id, "--failed")
    again = submissions.load(told.submission)
    assert {run.name for run in again.runs} == {runs["failed"].name, runs["lost"].name}
    assert {run.flags for run in again.runs} == {runs["failed"].flags, runs["lost"].flags}


def test_resubmit_goes_on_with_the_backend_of_the_submission(launch, fake_slurm, monkeypatch):
    """From a shell that names another, or none."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    told = launch("submit", "toy", "--set", "width=1")
    assert submissions.load(told.submission).backend == "jax"
    fake_slurm.queue()
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    again = launch("resubmit", told.submission)
    assert f"with KERAS_BACKEND=jax, as in {told.submission}\n" in again.out
    assert submissions.load(again.submission).backend == "jax"


@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_an_unknown_backend_is_refused_before_anything_is_submitted(launch, fake_slurm, monkeypatch, flags):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    told = launch("submit", "toy", "--set", "width=1", *flags)
    assert (told.code, told.err) == (2, "error: unknown KERAS_BACKEND 'torch'; allowed: tensorflow, jax\n")
    assert submissions.every() == []


def test_resubmit_refuses_runs_that_the_code_now_calls_otherwise(launch, fake_slurm, tree):
    """They would start from scratch, in another folder than the one that is shown."""
    told = launch("submit", "toy", "--grid", "width=1,2", "--seeds", "0:2")
    first = submissions.load(told.submission)
    train = tree / "tasks" / "toy" / "train.py"
    train.write_text(train.read_text().replace("    dataset: str", "    PROTOCOL = 2\n    dataset: str"))
    fake_slurm.queue()
    again = launch("resubmit", told.submission)
    assert again.code == 2
    assert "gives 4 runs another name" in again.line
    assert first.runs[0].name in again.line
    assert len(submissions.every()) == 1
    on = submissions.load(launch("resubmit", told.submission, "--snapshot").submission)
    assert on.runs == first.runs


@pytest.mark.parametrize("command", ["resubmit", "cancel", "prune"])
def test_a_submission_of_a_copy_of_the_project_is_refused(launch, fake_slurm, command):
    """Its runs are in the folders of the original."""
    told = launch("submit", "toy", "--set", "width=1")
    submissions.load(told.submission).changed(root="/there/v1")
    answer = launch(command, told.submission)
    assert answer.code == 2
    assert f"{told.submission} was submitted in /there/v1, of which this is a copy" in answer.line
    assert fake_slurm.calls("scancel") == []


def test_code_that_finds_no_room_is_one_line_and_leaves_no_folder(launch, fake_slurm, monkeypatch):
    def full(*arguments, **more):
        raise shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'"), ("c", "d", "the same")])

    monkeypatch.setattr(shutil, "copytree", full)
    told = launch("submit", "toy", "--set", "width=1")
    assert told.code == 1
    assert told.line.endswith("[Errno 28] No space left on device: 'b'")
    assert [path.name for path in submissions.FOLDER.iterdir()] == [".lock"]


def test_resubmit_failed_does_not_overtake_what_its_runs_need(launch, fake_slurm, tree):
    sweeps = "first: {grid: {width: [1]}}\nsecond: {grid: {width: [2]}, after: first}\n"
    (tree / "tasks" / "toy" / "sweeps.yaml").write_text(sweeps)
    told = launch("submit", "toy", "--sweep", "second")
    submission = submissions.load(told.submission)
    start = {"time": "2026-01-31T12:00:00+00:00", "host": "n1", "pid": 1, "began": 0.0, "checkpoint": ""}
    failed = {"state": "failed", "reason": "x", "starts": [start]}
    submission.record(submission.runs[1].name).write_text(json.dumps(failed))
    fake_slurm.queue(_100="RUNNING|None")
    again = launch("resubmit", told.submission, "--failed")
    assert again.code == 2
    assert again.line.endswith(
        "needed by others of these: 1 run; resubmit without --failed once none of them is under way"
    )


def test_resubmit_snapshot_goes_on_with_the_code_that_it_began_with(launch, fake_slurm, tree):
    told = launch("submit", "toy", "--set", "width=1")
    first = submissions.load(told.submission)
    (first.code / "snapshot.json").write_text('{"commit": "abc", "dirty": false}')
    (tree / "common" / "edited_since.py").touch()
    fake_slurm.queue()
    again, today = (
        submissions.load(launch("resubmit", told.submission, *flag).submission) for flag in (("--snapshot",), ())
    )
    assert json.loads((again.code / "snapshot.json").read_text()) == {"commit": "abc", "dirty": False}
    assert not (again.code / "common" / "edited_since.py").exists()
    assert (today.code / "common" / "edited_since.py").exists()


def test_resubmit_snapshot_without_the_copy_is_one_line(launch, fake_slurm):
    told = launch("submit", "toy", "--set", "width=1")
    shutil.rmtree(submissions.load(told.submission).code)
    again = launch("resubmit", told.submission, "--snapshot")
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "no longer exists; without --snapshot" in again.err


def test_resubmit_dry_run_submits_nothing(launch, fake_slurm):
    submission, _ = prepare_mixed(launch, fake_slurm)
    told = launch("resubmit", submission.id, "--dry-run")
    assert "3 of 4 runs to do" in told.out
    assert "#SBATCH --array=" in told.out
    assert len(fake_slurm.scripts) == 1


def test_resubmit_keeps_the_directory_that_flags_are_relative_to(launch, fake_slurm, tree, monkeypatch, tmp_path):
    told = launch("submit", "toy", "--set", "width=1")
    monkeypatch.chdir(tmp_path)
    again = launch("resubmit", told.submission)
    assert submissions.load(again.submission).directory == str(tree)


def test_resubmit_from_a_deleted_directory_is_one_line(launch, fake_slurm, tree, monkeypatch, tmp_path):
    (tree / "passing").mkdir()
    monkeypatch.chdir(tree / "passing")
    told = launch("submit", "toy", "--set", "width=1")
    monkeypatch.chdir(tmp_path)
    (tree / "passing").rmdir()
    again = launch("resubmit", told.submission)
    assert again.code == 2
    assert "passing, from which" in again.err
    assert again.err.count("\n") == 1


def test_resubmit_asks_slurm_for_what_the_submission_asked_for(launch, fake_slurm, read_directives, tmp_path):
    profile = tmp_path / "mine.toml"
    profile.write_text('partition = "big"\naccount = "us"\nmemory = "7G"\ngpus = 0\nsetup = ["module load x"]\n')
    told = launch("submit", "toy", "--set", "width=1", "--profile", str(profile), "--time", "77")
    profile.unlink()
    launch("resubmit", told.submission)
    launch("resubmit", told.submission, "--time", "88")
    first, again, longer = (read_directives(text) for text in fake_slurm.scripts)
    same = ("partition", "account", "mem", "cpus-per-task", "signal")
    assert [again[key] for key in same] == [first[key] for key in same] == [longer[key] for key in same]
    assert (first["partition"], first["time"], again["time"], longer["time"]) == ("big", "77", "77", "88")
    assert all("module load x" in text for text in fake_slurm.scripts)


def test_several_nodes_are_refused_on_one_machine(launch, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    told = launch("submit", "toy", "--set", "nodes=2", "batch_size=64", "--cluster", "local")
    assert told.code == 2
    assert "nodes is above 1, but this is one machine" in told.line


def test_resubmit_uses_the_code_as_it_is_now(launch, fake_slurm, tree):
    told = launch("submit", "toy", "--set", "width=1")
    train = tree / "tasks" / "toy" / "train.py"
    train.write_text(train.read_text() + "# new\n")
    again = launch("resubmit", told.submission)
    texts = [
        (submissions.load(name).code / "tasks" / "toy" / "train.py").read_text()
        for name in (told.submission, again.submission)
    ]
    assert ["# new" in text for text in texts] == [False, True]


@pytest.mark.parametrize("where", ["slurm", "local"])
def test_folder_that_cannot_be_written_is_one_line(launch, fake_slurm, tree, where):
    (tree / "results").write_text("a file where the folder should be")
    told = launch("submit", "toy", "--set", "width=1", "--cluster", where)
    assert told.code != 0
    assert told.line.startswith("error: ")


# The real task, from the command to its results


def test_submit_here_end_to_end(tmp_path):
    """A run of hinge_svm by a copy of the tree."""
    tree = tmp_path / "a tree"
    for name in ("common", "tasks", "slurm"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    fixed = ["preset=demo", "limit_train=120", "limit_test=60", "batch_size=30", "epochs=3"]
    command = [sys.executable, "-m", "slurm", "submit", "hinge_svm", "--cluster", "local", "--set", *fixed]
    environment = os.environ | {"KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    (folder,) = (tree / "results" / "runs" / "hinge_svm").iterdir()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["status"], metrics["test"]["n"]) == ("completed", 60)
    shown = subprocess.run(
        [sys.executable, "-m", "slurm", "status", "--json"], cwd=tree, capture_output=True, text=True, check=True
    )
    (row,) = json.loads(shown.stdout)
    assert (row["run"], row["state"], row["phase"], row["epoch"], row["epochs"]) == (
        folder.name,
        "completed",
        "train",
        3,
        3,
    )
    again = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=True)
    assert "left out: 1 finished" in again.stdout
