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
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group

from common.errors import ConfigError
from slurm import cluster, plan, status, submissions
from slurm.local import Runner
from slurm.plan import Planned
from slurm.submissions import Submission

WIDE = 220  # columns if the output is not a terminal
PROFILE_FLAGS = ("time", "cpus", "memory", "gpus", "partition", "account", "qos", "constraint", "max_parallel")
TO_REPEAT = ("failed", "lost")


def submit(arguments: argparse.Namespace) -> int:
    """Expand a sweep or a grid, check every run, and submit them or run them here."""
    fixed = plan.pairs(arguments.set, "--set")
    if arguments.sweep:
        sweep = plan.load_sweep(arguments.task, arguments.sweep)
    else:
        grid = plan.pairs(arguments.grid, "--grid")
        sweep = plan.Sweep(grid={key: values.split(",") for key, values in grid.items()})
    gc.disable()  # it takes a fifth of the time for hundreds of configurations, and finds nothing
    runs = plan.in_waves(arguments.task, sweep, fixed, plan.seeds(arguments.seeds or sweep.seeds))
    gc.enable()
    asked = [*([f"sweep {arguments.sweep}"] if arguments.sweep else []), *arguments.grid, *arguments.set]
    return hand_over(arguments, arguments.task, arguments.cluster or "slurm", " ".join(asked) or "default", runs)


def resubmit(arguments: argparse.Namespace) -> int:
    """Submit again the runs of a submission that are not finished."""
    before = submissions.load(arguments.submission)
    states = {row.run: row.state for row in status.rows([before], accounts=True)}
    if arguments.snapshot and not before.code.is_dir():
        raise ConfigError(f"the copy of the code of {before.id} no longer exists; without --snapshot: the current code")
    if arguments.failed:
        runs = [run for run in before.runs if states[run.name] in TO_REPEAT]
    else:
        runs = [run for run in before.runs if states[run.name] not in status.FINISHED]
    return hand_over(arguments, before.task, arguments.cluster or before.cluster, before.title, runs, before)


def hand_over(
    arguments: argparse.Namespace,
    task: str,
    where: str,
    title: str,
    runs: Sequence[Planned],
    before: Submission | None = None,
) -> int:
    """Print what will run, skip what need not, and submit the rest to SLURM or run it here.

    `before` is the submission that the runs come from, if they are submitted again.
    """
    profile = None
    if where == "slurm":
        known = before.profile if before and before.profile and not arguments.profile else None
        changes = {key: getattr(arguments, key) for key in PROFILE_FLAGS if getattr(arguments, key) is not None}
        profile = cluster.Profile(**{**(known or cluster.load_profile(arguments.profile or "default")), **changes})
        profile.check()
        if not arguments.dry_run and shutil.which("sbatch") is None:
            raise ConfigError("no sbatch on this machine: submit on the cluster's login node, or use --cluster local")
    elif any(run.nodes > 1 for run in runs):
        raise ConfigError("nodes is above 1, but this is one machine; use --cluster slurm")
    at_once = 1 if arguments.jobs is None else arguments.jobs
    if at_once < 1:
        raise ConfigError(f"jobs is {at_once}; it must be above zero")
    left = leave_out(runs)
    waves = {run.wave for run in left}
    busy = [run for run in runs if run not in left and run.wave < max(waves, default=0) and not status.finished(run)]
    if busy:
        raise ConfigError(
            f"{len(busy)} runs that others of these need are not finished yet; submit again when they have ended"
        )
    for run in left:
        print(f"  {run.name}  {run.label}")
    print(f"{len(left)} of {len(runs)} runs to do")
    if arguments.dry_run:
        return show_scripts(task, profile, left) if profile else 0
    if not left:
        return 0
    if before:
        if not Path(before.directory).is_dir():
            raise ConfigError(f"folder {before.directory}, from which {before.id} was submitted, no longer exists")
        os.chdir(before.directory)  # so that relative paths in the flags still hold
    code = before.code if before and arguments.snapshot else None
    submission = submissions.create(task, where, title, left, dataclasses.asdict(profile) if profile else None, code)
    if profile is None:
        print(f"submission {submission.id}", flush=True)
        return run_here(submission, at_once)
    submission = cluster.submit(submission, profile)
    arrays = sorted({job.split("_")[0] for job in submission.jobs.values()}, key=int)
    print(f"jobs {' '.join(arrays)}; `python -m slurm status {submission.id}` shows their state")
    print(f"submission {submission.id}")
    return 0


def leave_out(runs: Sequence[Planned]) -> list[Planned]:
    """The runs that are not finished, queued or running; prints how many others there are, and why."""
    states = {row.folder: row for row in status.rows(submissions.every()) if row.state in status.ACTIVE}
    left = []
    skipped: dict[str, int] = {}
    for run in runs:
        if status.finished(run):
            why = "finished"
        elif run.folder in states:
            why = f"{states[run.folder].state} in {states[run.folder].submission}"
        else:
            left.append(run)
            continue
        skipped[why] = skipped.get(why, 0) + 1
    for why, count in skipped.items():
        print(f"left out: {count} {why}")
    return left


def show_scripts(task: str, profile: cluster.Profile, runs: Sequence[Planned]) -> int:
    """Print the batch scripts as they would be submitted."""
    folder = submissions.FOLDER / f"{task}-DATE-TIME"
    for array in cluster.arrays(runs, profile, folder / "code", task):
        print(f"\n# {len(array.runs)} runs\n{cluster.script(array, folder / 'submitit')}")
    return 0


def run_here(submission: Submission, at_once: int) -> int:
    """Run a submission on this machine; exit code 1 if a run failed, 130 if it was stopped."""
    runner = Runner(submission, at_once)
    rows = runner.run(Console())
    print(status.counts(rows))
    for row in rows:
        if row.state not in status.FINISHED:
            print(f"  {row.run}  {row.label}  {row.state}  {row.reason}")
    if runner.stopping:
        print(f"`python -m slurm resubmit {submission.id}`, or the same command, continues")
        return 128 + signal.SIGINT
    return int(any(row.state not in status.FINISHED for row in rows))


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
    titles = {submission.id: submission.title for submission in chosen}
    if arguments.json:
        print(json.dumps([dataclasses.asdict(row) for row in status.rows(chosen, accounts=True)], indent=2))
        return 0
    console = Console() if sys.stdout.isatty() else Console(width=WIDE)
    if not chosen:
        console.print("nothing was submitted yet")
    elif arguments.watch:
        rows: list[status.Row] = []

        def look() -> Group:
            rows[:] = status.rows([submissions.load(submission.id) for submission in chosen])
            return status.table(rows, titles, console.width)

        status.watch(look, console, lambda: not any(row.state in status.ACTIVE for row in rows))
    else:
        console.print(status.table(status.rows(chosen, accounts=True), titles, console.width))
    return 0


def logs(arguments: argparse.Namespace) -> int:
    """Print the output of a run."""
    submission, run = submissions.find_run(arguments.run)
    path = submission.log(run.name)
    position = 0
    while True:
        (row,) = [row for row in status.rows([submission]) if row.run == run.name]
        if path.exists():
            with path.open("rb") as log:
                log.seek(position)
                sys.stdout.buffer.write(log.read())
                position = log.tell()
            sys.stdout.flush()
        if not arguments.follow or row.state not in status.ACTIVE:
            break
        time.sleep(status.REFRESH)
    if not path.exists():
        raise ConfigError(f"{run.name} has no output yet: it is {row.state}{f' ({row.reason})' * bool(row.reason)}")
    return 0


def cancel(arguments: argparse.Namespace) -> int:
    """Stop the runs of a submission."""
    submission = submissions.load(arguments.submission)
    active = [row for row in status.rows([submission]) if row.state in status.ACTIVE]
    if not active:
        print("nothing of it is queued or running")
        return 0
    if submission.cluster == "slurm":
        cluster.cancel([row.job for row in active if row.job])
        submission.changed(cancelled=True)
    elif submission.runner is not None and submissions.is_alive(submission.runner):
        os.kill(submission.runner["pid"], signal.SIGTERM)
    else:
        for row in active:
            with contextlib.suppress(ProcessLookupError):  # it has already ended
                os.kill(status.read(submission.record(row.run))["starts"][-1]["pid"], signal.SIGTERM)
    print(f"cancelled: {status.counts(active)}; `python -m slurm resubmit {submission.id}` continues")
    return 0
