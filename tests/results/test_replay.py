"""Replays of made-up runs, whose train.py takes a moment, and of two real ones."""

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from common.config import REPOSITORY
from results import records, replay, sameness

# The record of `python tasks/hinge_svm/train.py --preset demo --seed 3 --loss crammer_singer --norm L1 --epochs 4`,
# as `python results/collect.py --keep` leaves it. A change of what that computes needs a new one.
KEPT = next((Path(__file__).parent / "fixtures").glob("*/*.json"))
NAME = "stub-s0"
KERAS = metadata.version("keras")
# A task as the replay sees it: presets that name their fields, flags, and a run directory below --out.
TRAIN = """
import csv, hashlib, json, os, pathlib, sys, time
from importlib import metadata

class Preset:
    def identity(self):
        weights = {"preset": "default", "dataset": "digits", "weights": "none"}
        return weights | {"seed": 0, "rate": 0.5, "shuffle": True, "limit": 7, "phases": [{"clip": 1.0, "epochs": 2}]}

PRESETS = {"default": Preset()}

def value(text):
    return None if text == "None" else json.loads(text) if text[0].isdigit() else text

def main():
    config = PRESETS["default"].identity()
    given = dict(word.removeprefix("--").partition("=")[::2] for word in sys.argv[1:])
    out = pathlib.Path(given.pop("out"))
    for flag, text in given.items():
        if flag.startswith("phases.0."):
            config["phases"][0][flag.removeprefix("phases.0.")] = value(text)
        elif flag.startswith("no-"):
            config[flag.removeprefix("no-")] = False
        elif flag not in ("offline", "data-dir"):
            config[flag] = value(text)
    if "/" in config["weights"]:
        path = pathlib.Path(config["weights"])
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        config["weights"] = f"{path.name}@sha256:{digest}"
    if config["dataset"] == "nowhere":
        print("a warning", file=sys.stderr)
        sys.exit("error: data set nowhere is not in /data; where there is a network, fetch it")
    if config["dataset"] == "endless":
        print("training", os.getpid(), flush=True)
        while True:
            time.sleep(0.01)  # not one long sleep: a signal just before it is heard after it
    if config["dataset"] == "derived" and not (out / "stub" / "stub-s0" / "metrics.json").is_file():
        sys.exit("error: no finished run stub-s0")
    if config["dataset"] == "unfinished":
        (out / "stub" / "stub-s0").mkdir(parents=True)
        return
    config["phases"][0]["epochs"] += config["dataset"] == "other"
    rate, epochs = config["rate"], config["phases"][0]["epochs"]
    rows = [
        {"phase": "train", "epoch": n + 1, "rate": rate, "loss": 1 / (n + 2), "val_loss": 1.5, "val_accuracy": 0.9}
        | {"seconds": time.time(), "images_per_second": 1 / time.time()}
        for n in range(epochs)
    ]
    scores = {"n": 100, "loss": rate, "accuracy": 0.75}
    phase = {"epochs": epochs, "validation": scores, "test": scores, "seconds": time.time(), "images_per_second": 1.5}
    metrics = {"status": "completed", "seed": config["seed"], "test": scores, "phases": {"train": phase}}
    metrics |= {"images": {"train": 80, "test": 100}, "figures": {"parts": 12}}
    if rate > 1:
        metrics, rows = {"status": "diverged", "seed": config["seed"], "diverged": {"reason": "loss is inf"}}, []
    state = {"commit": None, "dirty": None}
    environment = {"backend": os.environ["KERAS_BACKEND"], "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "1"}
    environment |= {"precision": "float32", "devices": ["cpu:0"], "gpus": [], "op_determinism": True, "cpus": 2}
    environment |= {"processor": {"name": "this", "instruction_sets": ["avx"]}, "versions": VERSIONS, "starts": [state]}
    folder = out / "stub" / f"stub-s{config['seed']}"
    folder.mkdir(parents=True)
    head = {"task": "stub", "setting": "", "config": config}
    for name, content in ("config", head), ("environment", environment | state), ("metrics", metrics):
        (folder / f"{name}.json").write_text(json.dumps(content))
    if rows:
        with (folder / "history.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)

VERSIONS = {"keras": metadata.version("keras"), "jax": "0.0.1"}
if __name__ == "__main__":
    main()
"""


def git(folder, *words):
    """What git prints."""
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True, text=True).stdout


def committed(folder):
    """The commit that holds all files of a folder, a new repository."""
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "All of it")
    return git(folder, "rev-parse", "HEAD").strip()


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """The folder for what is temporary, which must be empty at the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(replay.tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    """A repository with one task, and its commit."""
    folder = tmp_path_factory.mktemp("stub")
    (folder / "tasks" / "stub").mkdir(parents=True)
    (folder / "tasks" / "stub" / "train.py").write_text(TRAIN)
    return folder, committed(folder)


@pytest.fixture
def root(stub, tmp_path):
    """A copy of that repository."""
    shutil.copytree(stub[0], tmp_path / "repository")
    return tmp_path / "repository"


@pytest.fixture
def record(root, stub, tmp_path, monkeypatch):
    """A function from flags to the record of the run that they make, which is written to its place."""

    def made(*words, backend="tensorflow", onednn="1"):
        with monkeypatch.context() as patch:
            patch.setenv("KERAS_BACKEND", backend)
            patch.setenv("TF_ENABLE_ONEDNN_OPTS", onednn)
            out = tmp_path / "made"
            command = [sys.executable, "tasks/stub/train.py", f"--out={out}", *words]
            subprocess.run(command, cwd=root, check=True)
        (folder,) = out.glob("*/*")
        found = records.read_run(folder)
        shutil.rmtree(out)
        return kept(root, made_by(stub[1], found))

    return made


def kept(root, found):
    """Write a record to its place, and return it."""
    path = root / "results" / "records" / found["task"] / f"{found['run']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    return found


def made_by(commit, found):
    """The record with another commit, and so without its digest."""
    found.pop("digest", None)
    for state in (found["environment"], *found["environment"]["starts"]):
        state |= {"commit": commit, "dirty": False}
    return found


def called(root, *words):
    """Exit code of the command."""
    try:
        replay.main(list(map(str, words)), root)
    except SystemExit as stop:
        return stop.code
    return 0


def put(data, path, value):
    """Change a value in nested data, at a dotted path."""
    *before, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    for key in before:
        data = data[key]
    data[last] = value


def test_the_same_comes_out_bit_for_bit_and_nothing_is_left(root, record, capfd):
    record()
    before = git(root, "status", "--porcelain", "--ignored"), sorted(root.glob("**/*"))
    assert called(root, NAME) == 0
    printed = capfd.readouterr()
    assert printed.out.splitlines()[-1] == f"{NAME}: the same, bit for bit (27 values)"
    assert "KERAS_BACKEND=tensorflow python tasks/stub/train.py --preset=default --out=" in printed.out
    assert [line for line in printed.out.splitlines() if "test loss" in line and "none" in line]
    assert [line for line in printed.out.splitlines() if "history loss, all 2 epochs" in line]
    assert printed.err == ""
    assert (git(root, "status", "--porcelain", "--ignored"), sorted(root.glob("**/*"))) == before


@pytest.mark.parametrize("name", [NAME, "tub-s0", "results/records/stub/stub-s0.json"])
def test_a_record_goes_by_its_name_the_end_of_it_or_its_file(root, record, name, monkeypatch):
    record()
    monkeypatch.chdir(root)
    assert called(root, name) == 0


def test_the_example_of_the_documents_is_a_record():
    for text in (replay.__doc__, (REPOSITORY / "results" / "README.md").read_text()):
        (name,) = re.findall(r"python results/replay\.py (\S+-s\d+)", text)
        assert replay.named(name, REPOSITORY / "results" / "records")["run"] == name


def test_the_committed_code_runs_not_that_of_the_working_tree(root, record):
    record()
    (root / "tasks" / "stub" / "train.py").write_text("raise SystemExit(3)")
    assert called(root, NAME) == 0


def test_the_config_is_that_of_the_record(root, record, capfd):
    flags = ["--rate=0.25", "--no-shuffle", "--limit=None", "--phases.0.clip=None", "--phases.0.epochs=3"]
    made = record(*flags)
    assert made["config"]["phases"] == [{"clip": None, "epochs": 3}]
    assert called(root, NAME) == 0
    assert f"--preset=default {' '.join(flags)} --out=" in capfd.readouterr().out


def test_backend_and_kernels_are_those_of_the_record(root, record, monkeypatch, capfd):
    monkeypatch.setattr(replay, "installed", lambda: {"keras": KERAS, "jax": "0.0.1"})
    record(backend="jax", onednn="0")
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
    assert called(root, NAME) == 0
    assert "bit for bit" in capfd.readouterr().out


@pytest.mark.parametrize("recorded", [{}, {"onednn": True, "onednn_max_cpu_isa": "AVX2"}])
def test_surroundings_are_those_of_the_record_alone(monkeypatch, recorded):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    theirs = replay.surroundings({"backend": "jax"} | recorded)
    names = ("KERAS_BACKEND", "TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA")
    assert [theirs.get(name) for name in names] == ["jax", *(["1", "AVX2"] if recorded else [None, None])]


def test_a_record_may_have_words_of_its_time(root, record):
    found = record()
    found["metrics"]["figures"] = found["metrics"].pop("by_name")
    kept(root, found)
    assert called(root, NAME) == 0


def test_a_diverged_run_diverges_again(root, record, capfd):
    assert record("--rate=2")["metrics"]["status"] == "diverged"
    assert called(root, NAME) == 0
    assert "the same, bit for bit" in capfd.readouterr().out


# --- what is compared


@pytest.fixture(scope="module")
def finished(stub, tmp_path_factory):
    """A function to two copies of the record of a run; the first gets other values at dotted paths."""
    out = tmp_path_factory.mktemp("finished")
    command = [sys.executable, "tasks/stub/train.py", f"--out={out}"]
    subprocess.run(command, cwd=stub[0], check=True, env=os.environ | {"KERAS_BACKEND": "tensorflow"})
    found = records.read_run(next(out.glob("*/*")))

    def changed(changes):
        first = copy.deepcopy(found)
        for path, value in changes.items():
            put(first, path, value)
        return first, found

    return changed


def verdict(pair, tolerance=sameness.TOLERANCE):
    """The line that is printed, and whether it is the same."""
    comparison = sameness.compare(*pair, tolerance)
    sameness.show(NAME, comparison, tolerance)
    return sameness.verdict(NAME, comparison, tolerance), comparison.is_same


def test_times_and_speeds_are_left_out(finished):
    others = {"metrics.phases.train.seconds": 1, "history.1.images_per_second": 1, "history.0.seconds": 1}
    assert verdict(finished(others)) == (f"{NAME}: the same, bit for bit (27 values)", True)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metrics.test.loss", 0.5000000000000001),
        ("metrics.test.n", 99),
        ("metrics.status", "diverged"),
        ("history.1.val_accuracy", 0.9000000000000001),
        ("history.1.rate", None),
        ("outcomes", "abc"),
    ],
)
def test_where_bits_must_be_equal_one_is_too_many(finished, path, value):
    line, same = verdict(finished({path: value}))
    assert not same
    assert re.fullmatch(
        rf"{NAME}: NOT THE SAME, and it should be bit for bit: 1 of 2[78] values differ, first {path}", line
    )


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        ("processor", {"name": "another", "instruction_sets": ["avx"]}, "processor not as recorded"),
        ("processor", None, "the record names no processor"),
        ("cpus", 64, "cpus not as recorded"),
        ("devices", ["cpu:0", "cpu:1"], "devices not as recorded"),
        ("seeds_together", 16, "seeds_together not as recorded"),
        ("precision", "mixed_float16", "precision not as recorded"),
        ("versions", {"keras": "1.0"}, "versions not as recorded"),
        ("op_determinism", False, "its operations were not deterministic"),
    ],
)
def test_bits_need_not_be_equal_elsewhere(finished, path, value, why):
    line, same = verdict(finished({f"environment.{path}": value, "metrics.test.loss": 0.501}))
    assert same
    assert line.startswith(f"{NAME}: the same within 0.02, where bits need not be: {why}")
    assert line.endswith("(1 of 27 values differ)")


def test_a_version_of_jax_does_not_count_where_it_is_not_the_backend(finished):
    _, same = verdict(finished({"environment.versions.jax": "1.0", "metrics.test.loss": 0.501}))
    assert not same


@pytest.mark.parametrize(
    ("changes", "far"),
    [
        ({"metrics.test.loss": 0.509}, ""),
        ({"metrics.test.loss": 0.511}, "test loss"),
        ({"metrics.test.accuracy": 0.769}, ""),
        ({"metrics.test.accuracy": 0.771}, "test accuracy (%)"),
        ({"history.0.val_loss": 1.52, "history.1.val_loss": 1.51}, ""),
        ({"history.0.val_loss": 1.54, "history.1.val_loss": 1.51}, "history val_loss, epoch 1 of 2"),
        ({"history.1.val_accuracy": 0.93}, "history val_accuracy, epoch 2 of 2"),
        ({"history.1.loss": None}, "history loss, epoch 2 of 2"),
        ({"history.1.epoch": 3}, "epochs"),
        ({"history.1.epoch": 3, "metrics.test.loss": 1}, "test loss, epochs"),
        ({"metrics.images.test": 99}, "test images"),
        ({"metrics.by_name.parts": 13}, "parts"),
        ({"metrics.by_name.more": 13}, "more"),
        ({"metrics.status": "diverged"}, "status"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_is_beyond_the_tolerance_is_named(finished, changes, far):
    line, same = verdict(finished({"environment.cpus": 64} | changes))
    assert same == (not far)
    assert line.startswith(f"{NAME}: NOT THE SAME within 0.02: {far} (" if far else f"{NAME}: the same within 0.02,")


def test_a_run_that_went_on_on_another_processor_need_not_have_the_same_bits():
    environment = {"processor": {"name": "b"}, "op_determinism": True, "backend": "jax"}
    starts = [{"processor": "a"}, {"processor": "b"}]
    assert sameness.reasons({**environment, "starts": starts[1:]}, environment) == []
    assert sameness.reasons({**environment, "starts": starts}, environment) == ["it went on on another processor"]


@pytest.mark.parametrize(("backend", "said"), [("jax", ["it went on with other versions"]), ("tensorflow", [])])
def test_a_run_that_went_on_with_another_backend_of_its_own_need_not_have_the_same_bits(backend, said):
    environment = {"processor": {"name": "a"}, "op_determinism": True, "backend": backend, "versions": {}}
    starts = [{"versions": {"keras": "3.1", "jax": version}} for version in ("0.1", "0.2")]
    assert sameness.reasons({**environment, "starts": starts}, environment) == said


@pytest.mark.parametrize(("one", "other"), [(1.0, 1.25), (1.25, 1.0), (-1.25, -1.0)])
def test_a_difference_is_a_share_of_the_larger_number_or_of_a_whole(one, other):
    assert sameness.distance(one, other, None) == pytest.approx(0.2)
    assert sameness.distance(one, other, 1.0) == pytest.approx(0.25)
    assert sameness.distance(one, None, None) == float("inf")
    assert sameness.distance(one, one, None) == 0


def test_the_tolerance_can_be_chosen(finished):
    pair = finished({"environment.cpus": 64, "metrics.test.loss": 0.52, "metrics.test.accuracy": 0.79})
    assert [verdict(pair, tolerance)[1] for tolerance in (0, 0.02, 0.05)] == [False, False, True]


# --- weights, and runs that start from others


def test_weights_are_found_by_their_digest(root, record, tmp_path, capfd):
    (tmp_path / "first.bin").write_bytes(b"weights")
    (tmp_path / "other.bin").write_bytes(b"others")
    assert record(f"--weights={tmp_path / 'first.bin'}")["config"]["weights"].startswith("first.bin@sha256:")
    copy = (tmp_path / "first.bin").rename(tmp_path / "copy.bin")
    assert called(root, NAME, "--weights", tmp_path / "other.bin", "--weights", copy) == 0
    capfd.readouterr()
    for flags, said in (
        ([], "starts from first.bin with the SHA-256"),
        (["--weights", tmp_path / "other.bin"], f"which is none of {tmp_path / 'other.bin'}"),
        (["--weights", tmp_path / "absent.bin"], f"no weights file {tmp_path / 'absent.bin'}"),
    ):
        assert called(root, NAME, *flags) == 2
        assert said in one_error(capfd)


def test_a_run_that_starts_from_another_is_replayed_after_it(root, record, capfd):
    record()
    found = record("--seed=1")
    put(found, "config.dataset", "derived")
    kept(root, found)
    assert called(root, "stub-s0", "stub-s1") == 0
    assert capfd.readouterr().out.count("the same, bit for bit") == 2
    assert called(root, "stub-s1") == 1
    assert "error: stub-s1: train.py ended with exit code 1: no finished run stub-s0\n" in capfd.readouterr().err


# --- what cannot be replayed


def one_error(capfd):
    """The one line that is on stderr."""
    printed = capfd.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    return printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing-like-it"], "record 'nothing-like-it': not found; allowed: a record: its file"),
        (["0"], "record '0' fits 2 runs: stub/other-0, stub/stub-s0"),
        ([NAME, "tub-s0"], f"record stub/{NAME} is named twice"),
        ([NAME, "--tolerance", "-1"], "tolerance is -1.0; allowed: 0 <= tolerance < 1"),
        ([NAME, "--tolerance", "nan"], "tolerance is nan"),
        ([NAME, "--tolerance", "little"], "little"),
        ([NAME, "--data-dir", "nowhere"], "data folder nowhere is not there"),
        ([], "RECORD"),
        (["stub-s1"], "record stub-s1.json is damaged: stub-s1.json: "),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(root, record, words, said, capfd):
    record()
    (root / "results" / "records" / "stub" / "stub-s1.json").write_text("{")
    (root / "results" / "records" / "stub" / "other-0.json").write_text("{")
    assert called(root, *words) == 2
    assert said in one_error(capfd)


MISSING = "a1" * 20


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"environment.dirty": True}, "its code had changes that were not committed"),
        ({"environment.commit": None}, "its code has no commit"),
        ({"environment.commit": MISSING}, "more than one commit made it: "),
        (
            {"environment.commit": "HEAD", "environment.starts": []},
            "its commit is 'HEAD', which is not the name of one",
        ),
        ({"environment.commit": MISSING, "environment.starts": []}, "commit a1a1a1a1 is not in "),
        ({"environment.versions": {"keras": "1.0"}}, f"other versions are installed: keras {KERAS} in place of 1.0"),
        ({"environment.versions": {"no-such": "1.0"}}, "no-such none in place of 1.0"),
        ({"environment.backend": "jax"}, "in place of 0.0.1; --any-versions replays it all the same"),
        ({"config.dataset": "image_folder:photos"}, "a folder of images, and a record does not say where they lie"),
        ({"config.preset": "gone"}, "its commit has no preset gone"),
        ({"config.dataset": "nowhere"}, "ended with exit code 1: data set nowhere is not in /data; where there is"),
        ({"config.dataset": "unfinished"}, "what it left is unfinished"),
        ({"config.dataset": "other"}, "its command leads to another config; differing in phases.0.epochs"),
    ],
    ids=lambda value: " ".join(f"{k}={v}" for k, v in value.items())[:60] if isinstance(value, dict) else "",
)
def test_a_record_that_cannot_be_replayed_says_why_on_one_line(root, record, changes, said, capfd):
    found = record()
    for path, value in changes.items():
        put(found, path, value)
    kept(root, found)
    assert called(root, NAME) == 1
    errors = [line for line in capfd.readouterr().err.splitlines() if line != "a warning"]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {NAME}: ")
    assert said in errors[0]


def test_a_train_py_that_is_not_there_or_cannot_be_loaded(root, record, capfd):
    found = record()
    for words, said in (
        (["mv", "tasks/stub", "tasks/stab"], "its commit has no train.py of stub"),
        (["mv", "tasks/stab", "tasks/stub"], "its train.py cannot be loaded: SyntaxError: "),
    ):
        git(root, *words)
        if "cannot" in said:
            (root / "tasks" / "stub" / "train.py").write_text("(")
        commit = committed(root)
        put(found, "environment.commit", commit)
        put(found, "environment.starts", [])
        kept(root, found)
        assert called(root, NAME) == 1
        assert f"error: {NAME}: {said}" in capfd.readouterr().err


def test_without_git_or_a_repository(root, record, monkeypatch, capfd):
    record()
    shutil.rmtree(root / ".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent))
    assert called(root, NAME) == 1
    assert "a shallow clone gets it by `git fetch --unshallow` (fatal: not a git repository" in one_error(capfd)
    monkeypatch.setenv("PATH", str(root))
    assert called(root, NAME) == 1
    assert "git is not installed" in one_error(capfd)


def test_the_others_are_replayed_all_the_same(root, record, capfd):
    record("--seed=1")
    found = record()
    put(found, "environment.dirty", True)
    kept(root, found)
    assert called(root, "stub-s0", "stub-s1") == 1
    printed = capfd.readouterr()
    assert printed.err == "error: stub-s0: its code had changes that were not committed\n"
    assert "stub-s1: the same, bit for bit" in printed.out


def test_other_versions_if_asked_for(root, record, capfd):
    found = record()
    put(found, "environment.versions.keras", "1.0")
    kept(root, found)
    assert called(root, NAME, "--any-versions") == 0
    assert "bit for bit" in capfd.readouterr().out
    put(found, "metrics.test.loss", 0.501)
    kept(root, found)
    assert called(root, NAME, "--any-versions") == 0
    assert "the same within 0.02, where bits need not be: versions not as recorded" in capfd.readouterr().out


def test_a_run_that_went_on_with_other_versions(root, record, capfd):
    found = record()
    state = {key: found["environment"][key] for key in ("commit", "dirty")}
    put(found, "environment.starts", [state | {"versions": {"keras": keras}} for keras in ("1.0", KERAS)])
    kept(root, found)
    assert called(root, NAME) == 1
    assert "its starts had different versions; --any-versions replays it all the same" in one_error(capfd)
    assert called(root, NAME, "--any-versions") == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_and_cleans_up(root, record, number):
    found = record()
    put(found, "config.dataset", "endless")
    kept(root, found)
    # A test run in the background may have handed down that Ctrl-C is ignored.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from pathlib import Path; "
    code += f"from results import replay; replay.main(['{NAME}'], Path({str(root)!r}))"
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    child = next(int(line.split()[1]) for line in process.stdout if line.startswith("training"))
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (128 + number, f"stopped by {number.name}; nothing is kept\n")
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


# --- real runs, of today's code


@pytest.fixture(scope="module")
def today(tmp_path_factory):
    """A repository of one commit, which holds the code that trains as it is now, and that commit."""
    # The history of this checkout may be cut short, or its working tree changed.
    folder = tmp_path_factory.mktemp("today")
    for name in ("common", "tasks"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder, committed(folder)


def test_a_kept_record_comes_out_again_and_what_came_out_does_bit_for_bit(today, monkeypatch, capfd):
    folder, commit = today
    replayed, run = [], replay.run
    monkeypatch.setattr(replay, "run", lambda *given: replayed.append(run(*given)) or replayed[-1])
    found = json.loads(KEPT.read_text())
    found["environment"]["processor"]["name"] = "one that asks for no bits"
    kept(folder, made_by(commit, found))
    assert called(folder, found["run"], "--any-versions") == 0
    assert f"{found['run']}: the same" in capfd.readouterr().out
    kept(folder, made_by(commit, replayed[0]))
    assert called(folder, found["run"]) == 0
    assert f"{found['run']}: the same, bit for bit" in capfd.readouterr().out
