"""The launcher's commands; each returns an exit code."""

import argparse
import contextlib
import dataclasses
import gc
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from rich.console import Console, Group

from common.config import REPOSITORY
from common.environment import backend, git_state
from common.errors import ConfigError
from common.files import CheckpointError, Damaged, StorageError
from common.run_folder import RunFolder
from common.seeds import parse_seeds
from common.words import count
from slurm import cluster, plan, squeue, status, submissions, sweeps
from slurm.local import Runner
from slurm.mistakes import Mistakes
from slurm.plan import Planned
from slurm.submissions import Submission
from slurm.sweeps import LOOKS, Sweep

WIDE = 220  # columns if the output is not a terminal
PROFILE_FLAGS = ("time", "cpus", "memory", "gpus", "partition", "account", "qos", "constraint", "max_parallel")
TO_REPEAT = ("failed", "killed", "lost")


def submit(arguments: argparse.Namespace) -> int:
    """Expand a sweep or a grid, check every run, and submit them or run them here."""
    if arguments.most and not arguments.until_decided:
        raise ConfigError("--most goes with --until-decided")
    if arguments.until_decided and arguments.seeds:
        raise ConfigError(
            f"--until-decided chooses the seeds ({', '.join(f'0:{n}' for n in LOOKS)}): leave out --seeds"
        )
    fixed, grid = sweeps.pairs(arguments.set, "--set"), sweeps.pairs(arguments.grid, "--grid")
    if arguments.sweep:
        sweep = sweeps.load(arguments.task, arguments.sweep)
    else:
        if both := sorted(fixed.keys() & grid.keys()):
            raise ConfigError(f"{both[0]} is in --set and in --grid; leave it out of one of them")
        sweep = Sweep(grid={key: sweeps.listed(values) for key, values in grid.items()})
    asked = [*([f"sweep {arguments.sweep}"] if arguments.sweep else []), *arguments.grid, *arguments.set]
    title = " ".join(asked) or "default"
    try:
        if arguments.until_decided:
            return until_decided(arguments, title, sweep, fixed)
        runs = expand(arguments.task, sweep, fixed, parse_seeds(arguments.seeds or sweep.seeds))
    except Mistakes as mistakes:
        if has_split_path(mistakes, grid):
            remedy = r"a comma within a value is written \, and in quotes: --grid 'KEY=/a\,b,/c'"
            raise Mistakes([*mistakes.found, (remedy, {})]) from None
        raise
    return hand_over(arguments, arguments.task, arguments.cluster or "slurm", title, runs)[0]


def has_split_path(mistakes: Mistakes, grid: Mapping[str, str]) -> bool:
    """Whether a key to blame has a path among values that commas separate: one of these may belong to the path."""
    blamed = (grid.get(key, "") for _, values in mistakes.found for key in values)
    return any("/" in text and len(sweeps.listed(text)) > 1 for text in blamed)


def expand(task: str, sweep: Sweep, fixed: Mapping[str, str], seeds: Sequence[int]) -> list[Planned]:
    """Every run of a sweep and of those that it needs, checked."""
    gc.disable()  # it takes a fifth of the time for hundreds of configurations, and finds nothing
    try:
        return plan.in_waves(task, sweep, fixed, seeds)
    finally:
        gc.enable()


def until_decided(arguments: argparse.Namespace, title: str, sweep: Sweep, fixed: Mapping[str, str]) -> int:
    """Submit a sweep with more and more seeds, as far as the verdicts on its published numbers ask for them."""
    from slurm import looks  # here, as no other command needs the results

    task, where = arguments.task, arguments.cluster or "slurm"
    if "looks" in fixed:
        raise ConfigError("--until-decided sets looks itself: leave it out of --set")
    fixed = {**fixed, "looks": str(len(LOOKS))}
    published = looks.Published.of(task, REPOSITORY)
    most = arguments.most or LOOKS[-1]
    every = expand(task, sweep, fixed, range(most))
    own = {run.run_of_seeds for run in plan.plan(task, sweep, fixed, (0,))}
    folder = Path(every[0].folder).parents[1]  # of all runs
    console = console_of()
    kept = published.kept()
    code: Path | None = None  # the copy of the first submission: all looks train the same code
    told: set[str] = set()

    def train(seeds: int, settings: Collection[str]) -> int:
        nonlocal code
        print(f"look at {seeds} seeds: {len(settings)} of {len(own)} settings")
        asked = [run for run in every if run.seed < seeds and run.run_of_seeds in settings]
        missing = [run for run in asked if run.name not in kept]
        if len(missing) < len(asked):
            print(f"left out: {len(asked) - len(missing)} with a record")
        if not missing:
            return 0
        without = {run.seed for run in missing}
        needed = [run for run in every if run.run_of_seeds not in own and run.seed in without]
        if code is None and (state := git_state(task))["dirty"] is not False:
            said = state.get("git", "commit first")
            raise ConfigError(f"--until-decided needs committed code: the tables set other runs apart; {said}")
        ended, made = hand_over(arguments, task, where, f"{title} until decided", [*needed, *missing], code=code)
        code = code or (made.code if made else None)
        if not (ended or arguments.dry_run):
            ended = wait_for([*needed, *missing], console)
        if ended == 1:
            print("not judged: runs of this look have not finished; the same command goes on from there")
        return ended

    def judge() -> looks.Look:
        complaints: list[str] = []
        look = published.look(folder, own, complaints)
        for complaint in complaints:
            if complaint not in told and any(name in complaint for name in own):
                print(complaint, file=sys.stderr, flush=True)
            told.add(complaint)
        console.print(looks.table(look, published.report.words))
        return look

    if arguments.dry_run:
        return train(LOOKS[0], own)
    return looks.until_decided(most, own, train, judge)


def wait_for(runs: Sequence[Planned], console: Console) -> int:
    """Wait until none of these runs is queued or running; exit code 1 if one has not finished, 130 after Ctrl-C."""
    latest = submissions.latest_runs(submissions.every())
    left = [latest[submissions.place(run.folder)] for run in runs if not RunFolder(Path(run.folder)).has_metrics]
    if not left:
        return 0
    chosen = list({submission.id: submission for submission, _ in left}.values())
    try:
        rows = watch(chosen, console, [run.folder for _, run in left])
    except KeyboardInterrupt:
        print("the runs go on; the same command goes on from there: what is finished, queued or running is left out")
        return 128 + signal.SIGINT
    return int(bool(unfinished(rows)))


def unfinished(rows: Sequence[status.Row]) -> list[status.Row]:
    """Those of these runs that have not finished, which are also printed."""
    found = [row for row in rows if row.state not in status.FINISHED]
    for row in found:
        print(f"  {row.run}  {row.label}  {row.state}  {row.reason}")
    return found


def resubmit(arguments: argparse.Namespace) -> int:
    """Submit again the runs of a submission that are not finished."""
    before = submissions.load(arguments.submission)
    submissions.check_root(before)
    states = {row.run: row.state for row in status.rows([before], accounts=True)}
    if arguments.snapshot and not before.code.is_dir():
        raise ConfigError(f"the copy of the code of {before.id} no longer exists; without --snapshot: the current code")
    if arguments.failed:
        runs = [run for run in before.runs if states[run.name] in TO_REPEAT]
    else:
        runs = [run for run in before.runs if states[run.name] not in status.FINISHED]
    code = before.code if arguments.snapshot else None
    return hand_over(arguments, before.task, arguments.cluster or before.cluster, before.title, runs, before, code)[0]


def hand_over(
    arguments: argparse.Namespace,
    task: str,
    where: str,
    title: str,
    runs: Sequence[Planned],
    before: Submission | None = None,
    code: Path | None = None,
) -> tuple[int, Submission | None]:
    """Print what will run, skip what need not, and submit the rest to SLURM or run it here.

    `before` is the submission that the runs come from, if they are submitted again; `code` a copy of the code to use
    in place of today's. Returns the exit code, and the submission if there is one.
    """
    profile = profile_of(arguments, before) if where == "slurm" else None
    check_place(arguments, profile, runs)
    library = backend()
    if before and before.backend != library:
        library = before.backend
        print(f"with KERAS_BACKEND={library}, as in {before.id}")
    with contextlib.nullcontext() if arguments.dry_run else submissions.alone():
        left = leave_out(runs, library)
        check_waves(before.runs if before else runs, left, "resubmit without --failed" if before else "submit again")
        for run in left:
            print(f"  {run.name}  {run.label}")
        print(f"{len(left)} of {len(runs)} runs to do" if runs else "no run to do: all have finished")
        if left and before:
            check_as_before(before, left, code)
        if arguments.dry_run:
            return show_scripts(task, profile, left) if profile else 0, None
        if not left:
            return 0, None
        if before:
            os.chdir(before.directory)  # so that relative paths in the flags still hold
        fields = dataclasses.asdict(profile) if profile else None
        submission = submissions.create(task, where, title, left, library, fields, code)
        if profile:
            return 0, to_slurm(submission, profile)
        print(f"submission {submission.id}", flush=True)
        runner = Runner(submission, arguments.jobs or 1)
    return run_here(runner), submission


def check_as_before(before: Submission, runs: Sequence[Planned], code: Path | None) -> None:
    """Raise ConfigError if a submission's folder is gone, or if today's code would begin some runs from scratch."""
    if not Path(before.directory).is_dir():
        raise ConfigError(f"folder {before.directory}, from which {before.id} was submitted, no longer exists")
    with contextlib.chdir(before.directory):
        renamed = [] if code else plan.renamed(before.task, runs)
    if renamed:
        raise ConfigError(
            f"today's code, or a file of weights, gives {count(len(renamed), 'run')} another name, so it would start "
            f"from scratch: {renamed[0].name}; submit it again, or resubmit --snapshot goes on with the code that it "
            "was submitted with"
        )


def check_place(arguments: argparse.Namespace, profile: cluster.Profile | None, runs: Sequence[Planned]) -> None:
    """Raise ConfigError if the runs cannot be made there: on SLURM if there is a profile, otherwise here."""
    if profile and not arguments.dry_run:
        if shutil.which("sbatch") is None:
            raise ConfigError("no sbatch on this machine: submit on the cluster's login node, or --cluster local")
        squeue.wait_until_back()
    if not profile and any(run.nodes > 1 for run in runs):
        raise ConfigError("nodes is above 1, but this is one machine; use --cluster slurm")
    if arguments.jobs is not None and arguments.jobs < 1:
        raise ConfigError(f"jobs is {arguments.jobs}; it must be above zero")
    if arguments.jobs is not None and profile:
        raise ConfigError("--jobs goes with --cluster local; on SLURM --max-parallel says how many run at once")
    if not profile:
        for flag in ("profile", *PROFILE_FLAGS):
            if getattr(arguments, flag) is not None:
                raise ConfigError(f"--{flag.replace('_', '-')} goes with --cluster slurm; this is for --cluster local")


def check_waves(runs: Sequence[Planned], left: Sequence[Planned], remedy: str) -> None:
    """Raise ConfigError, with a remedy, if runs that are left need others that are neither finished nor among them."""
    last = max((run.wave for run in left), default=0)
    busy = [run for run in runs if run not in left and run.wave < last and not status.finished(run)]
    if busy:
        raise ConfigError(
            f"not finished yet, and needed by others of these: {count(len(busy), 'run')}; "
            f"{remedy} once none of them is under way"
        )


def to_slurm(submission: Submission, profile: cluster.Profile) -> Submission:
    """Submit the jobs of a submission and their keeper, and print what they are."""
    cluster.outside_of_job()
    with submission.alone():
        try:
            submission = cluster.submit(submission, profile)
            submission = cluster.keep(submission, profile, list(submission.jobs.values()))
        except KeyboardInterrupt:
            if taken := submissions.load(submission.id).jobs:
                what = f"{count(len(taken), 'run')} submitted before that, without a job that submits killed ones again"
                print(f"{what}; `python -m slurm cancel {submission.id}` ends them", flush=True)
            raise
    arrays = cluster.array_ids(list(submission.jobs.values()))
    print(f"jobs {' '.join(arrays)}; `python -m slurm status {submission.id}` shows their state")
    print(f"submission {submission.id}")
    return submission


def profile_of(arguments: argparse.Namespace, before: Submission | None) -> cluster.Profile:
    """The profile that is asked for, else that of the earlier submission, with the changes by flags, checked."""
    if before and before.profile and not arguments.profile:
        cluster.check_keys(before.profile, f"the profile of {before.id}")
        known = before.profile
    else:
        known = cluster.load_profile(arguments.profile or "default")
    changes = {key: getattr(arguments, key) for key in PROFILE_FLAGS if getattr(arguments, key) is not None}
    profile = cluster.Profile(**{**known, **changes})
    profile.check()
    return profile


def leave_out(runs: Sequence[Planned], library: str) -> list[Planned]:
    """The runs that are not finished, queued or running; prints how many others there are, and why.

    `library` is the backend that is asked for.
    """
    folders = {submissions.place(run.folder) for run in runs}
    # Others may have jobs of a SLURM that cannot be asked here.
    known = [every for every in submissions.every() if folders & {submissions.place(run.folder) for run in every.runs}]
    states = {submissions.place(row.folder): row for row in status.rows(known, sure=True) if row.state in status.ACTIVE}
    left = []
    skipped: dict[str, int] = {}
    for run in runs:
        if RunFolder(Path(run.folder)).has_metrics:
            why = f"finished{of_another_backend(run, library)}"
        elif row := states.get(submissions.place(run.folder)):
            why = f"{row.state} in {row.submission}"
        else:
            left.append(run)
            continue
        skipped[why] = skipped.get(why, 0) + 1
    for why, number in skipped.items():
        print(f"left out: {number} {why}")
    return left


def of_another_backend(run: Planned, library: str) -> str:
    """What is to be said of a finished run that another backend has trained; nothing of others."""
    folder = RunFolder(Path(run.folder))
    try:
        trained = folder.environment().get("backend") if folder.environment_file.is_file() else None
    except Damaged:  # of which other commands speak
        trained = None
    return f" with {trained}; --set out=FOLDER makes them with {library}" if trained not in (None, library) else ""


def show_scripts(task: str, profile: cluster.Profile, runs: Sequence[Planned]) -> int:
    """Print the batch scripts as they would be submitted."""
    folder = submissions.FOLDER / f"{task}-DATE-TIME"
    for array in cluster.arrays(runs, profile, folder / "code", task):
        print(f"\n# {count(len(array.runs), 'run')}\n{cluster.script(array, folder / 'submitit')}")
    return 0


def run_here(runner: Runner) -> int:
    """Run a submission on this machine; exit code 1 if a run failed, 130 if it was stopped."""
    rows = runner.run(Console(markup=False))
    print(status.counts(rows))
    left = unfinished(rows)
    if runner.stopping:
        print(f"`python -m slurm resubmit {runner.submission.id}`, or the same command, continues")
        return 128 + signal.SIGINT
    return int(bool(left))


def show(what: str | None) -> list[Submission]:
    """All submissions, those of one task, or one by its id."""
    every = submissions.every()
    if what is None:
        return every
    of_task = [submission for submission in every if submission.task == what]
    if of_task:
        return of_task
    if what in plan.tasks():
        raise ConfigError(f"nothing of {what} was submitted")
    return [submissions.load(what)]


def status_(arguments: argparse.Namespace) -> int:
    """Show the state of runs."""
    chosen = show(arguments.what)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(row) for row in status.rows(chosen, accounts=True)], indent=2))
        return 0
    console = console_of()
    if not chosen:
        is_there = any(submissions.FOLDER.glob("*/submission.json"))
        console.print("no submission can be read" if is_there else "nothing was submitted yet")
    elif arguments.watch:
        watch(chosen, console)
    else:
        console.print(status.table(status.rows(chosen, accounts=True), titles(chosen), console.width))
    return 0


def prune_(arguments: argparse.Namespace) -> int:
    """Show what finished runs hold and need no more, and remove it with --yes."""
    from slurm import prune  # here, as no other command needs NumPy

    if arguments.what is None or arguments.what in plan.tasks():
        folders = sorted((REPOSITORY / "results" / "runs").glob(f"{arguments.what or '*'}/*"))
    else:
        submission = submissions.load(arguments.what)
        submissions.check_root(submission)
        folders = [Path(run.folder) for run in submission.runs]
    found = prune.held(folders)
    if not found:
        print("nothing to remove: no finished run holds checkpoints of its training")
        return 0
    console = console_of()
    console.print(prune.table(found))
    total = f"{sum(one.removable for one in found) / prune.MEGABYTE:,.0f} MB of {count(len(found), 'run')}"
    if not arguments.yes:
        print(f"{total} would be removed; the same command with --yes removes them")
        return 0
    failed = 0
    for one in found:
        try:
            prune.remove(one.run)
        except (CheckpointError, StorageError) as error:
            failed += 1
            print(f"left as it is: {one.run.parent.name}/{one.run.name}: {error}", file=sys.stderr, flush=True)
    if failed:
        print(f"removed, but for {failed} of {len(found)} runs")
        return 1
    print(f"{total} removed; predict, evaluate, explain, export and --weights work as before")
    return 0


def console_of() -> Console:
    """Where tables go; names may contain what looks like rich's markup."""
    return Console(markup=False, width=None if sys.stdout.isatty() else WIDE)


def titles(chosen: Sequence[Submission]) -> dict[str, str]:
    """What was asked for in each submission."""
    return {submission.id: submission.title for submission in chosen}


def watch(chosen: Sequence[Submission], console: Console, folders: Collection[str] | None = None) -> list[status.Row]:
    """Show the runs of submissions, or only those with these folders, until none is active; returns their last rows."""
    rows: list[status.Row] = []

    def look() -> Group:
        found = status.rows([submissions.load(submission.id) for submission in chosen])
        rows[:] = [row for row in found if folders is None or row.folder in folders]
        return status.table(rows, titles(chosen), console.width)

    pause = status.refresh(chosen)
    status.watch(look, console, lambda: not any(row.state in status.UNDER_WAY for row in rows), pause)
    return rows


def logs(arguments: argparse.Namespace) -> int:
    """Print the output of a run."""
    submission, run = submissions.find_run(arguments.run)
    path = submission.log(run.name)
    position = 0
    while True:
        submission = submissions.load(submission.id)  # its keeper may have submitted the run again
        (row,) = [row for row in status.rows([submission]) if row.run == run.name]
        if path.exists():
            with path.open("rb") as log:
                log.seek(position)
                sys.stdout.buffer.write(log.read())
                position = log.tell()
            sys.stdout.flush()
        if not arguments.follow or row.state not in status.NOT_ENDED:
            break
        time.sleep(status.refresh([submission]))
    if not path.exists():
        raise ConfigError(f"{run.name} has no output yet: it is {row.state}{f' ({row.reason})' * bool(row.reason)}")
    return 0


def cancel(arguments: argparse.Namespace) -> int:
    """Stop the runs of a submission."""
    submissions.check_root(submissions.load(arguments.submission))
    try:
        return stop(arguments.submission)
    except PermissionError as error:
        owner = (submissions.FOLDER / arguments.submission).owner()
        raise ConfigError(
            f"{arguments.submission} belongs to {owner}, who alone can cancel it ({error.strerror})"
        ) from error


def stop(name: str) -> int:
    """Stop the runs of a submission, by its id."""
    with submissions.load(name).alone():
        submission = submissions.load(name)
        active = [row for row in status.rows([submission]) if row.state in status.NOT_ENDED]
        if not active:
            host = submissions.elsewhere(submission.runner)
            print("nothing of it is queued or running" + (f" here; it was started on {host}" if host else ""))
            return 0
        if submission.cluster == "slurm":
            cluster.cancel([row.job for row in active if row.job and row.state in status.ACTIVE], submission.keeper)
            submission.changed(cancelled=True)
        elif submission.runner is not None and submissions.is_alive(submission.runner):
            os.kill(submission.runner["pid"], signal.SIGTERM)
        else:
            for row in active:
                with contextlib.suppress(ProcessLookupError, Damaged):  # it has already ended
                    start = submissions.read_record(submission.record(row.run))["starts"][-1]
                    if submissions.is_alive(start):  # otherwise the number may be another process's by now
                        os.kill(start["pid"], signal.SIGTERM)
    print(f"cancelled: {status.counts(active)}; `python -m slurm resubmit {submission.id}` continues")
    return 0
