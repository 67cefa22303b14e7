"""Runs that were killed go on, as long as they get somewhere: SIGKILL (as of the out-of-memory killer), a full disk.

    python -m slurm.again watch SUBMISSION     the end of every batch script: releases jobs that are held after a failed
                                               launch, and submits the keeper if SLURM has lost it
    python -m slurm.again requeue SUBMISSION   then, if srun has failed: requeues the job
    python -m slurm.again keep SUBMISSION      the keeper, a job that begins when all others of the submission have
                                               ended: submits runs again whose batch script was killed too, or whose
                                               job SLURM gave up; and itself, if there are any

What failed through its own fault, and what was cancelled, is left alone.
"""

import argparse
import contextlib
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import ConfigError, fail
from common.words import count
from slurm import cluster, squeue, status, submissions
from slurm.job import TRIES, newest_checkpoint, slurm_job, write_patiently
from slurm.plan import Planned
from slurm.submissions import Submission

HELD = "launch failed requeued held"  # SLURM's reason
PATIENCE = 3600  # seconds for which the end of a batch script waits for SLURM's controller
CANCELLED = "cancelled by scancel, or preempted by a partition that does not requeue"
REFUSALS = 12  # of a controller that is there, after which the run is left to the keeper: some clusters never requeue


def watch(name: str) -> None:
    """Release jobs of a submission that are held after a failed launch; submit its keeper if SLURM does not know it.

    A controller that is killed forgets its newest jobs. A keeper that SLURM had refused stays away.
    """
    squeue.wait_until_back()
    submission, known = submissions.load(name), squeue.listed("--states=all")
    release(submission, known)
    write_down_cancelled(submission, known)
    if not is_lost(submission, known):
        return
    with submissions.load(name).alone():
        submission = submissions.load(name)  # another job may have done it by now
        if not is_lost(submission, squeue.listed("--states=all")) or submission.cancelled or submission.profile is None:
            return
        known = squeue.listed()
        active = [job for job in submission.jobs.values() if known.get(job)]
        if active:
            print(f"job {submission.keeper}, the keeper, is unknown to SLURM; submitting it again", flush=True)
            cluster.keep(submission, cluster.Profile(**submission.profile), active)


def release(submission: Submission, known: squeue.Entries) -> None:
    """Let jobs begin that SLURM holds because a node could not launch them: they would wait for a person."""
    for run, job in submission.jobs.items():
        entry = known.get(job)
        if entry and entry.reason.replace("_", " ") == HELD:
            print(f"{run}: job {job} is held as its launch failed; releasing it", flush=True)
            squeue.call("scontrol", "release", job)


def write_down_cancelled(submission: Submission, known: squeue.Entries) -> None:
    """Write down which runs were cancelled while SLURM says it: it forgets that minutes later, before the keeper looks.

    One that is cancelled while it waits after a requeue leaves no other trace.
    """
    for run in submission.runs:
        entry = known.get(submission.jobs.get(run.name))
        if entry and entry.state == "CANCELLED" and not status.finished(run):
            path = submission.record(run.name)
            record = submissions.recorded(path)
            if record.get("state") not in ("cancelled", "failed"):
                write_patiently(path, record | {"state": "cancelled", "reason": CANCELLED})


def is_lost(submission: Submission, known: squeue.Entries) -> bool:
    """Whether a submission has a keeper that SLURM does not know any more."""
    return submission.keeper is not None and known.answered and known.get(submission.keeper) is None


def requeue(submission: Submission, job: str) -> None:
    """Requeue a run's own job if the run was killed; while SLURM's controller is down, it is tried again."""
    runs = [run for run in submission.runs if submission.jobs.get(run.name) == job]
    if not runs or status.finished(runs[0]) or has_ended(submissions.recorded(submission.record(runs[0].name))):
        return
    end = time.monotonic() + PATIENCE
    while (state := squeue.state(job)) is None and time.monotonic() < end and shutil.which("squeue"):
        time.sleep(squeue.PAUSE)
    # A job that was cancelled, preempted or requeued is not running any more.
    if state == "RUNNING" and count_kill(submission, runs[0]):
        with contextlib.suppress(OSError):  # the log may be on a full disk
            print(f"{runs[0].name} was killed: requeueing job {job}", flush=True)
        refused = 0
        while squeue.call("scontrol", "requeue", job) is None and squeue.state(job) in ("RUNNING", None):
            refused += not squeue.is_away()
            if refused == REFUSALS or time.monotonic() > end:
                raise ConfigError(f"scontrol does not requeue job {job}")
            time.sleep(squeue.PAUSE)


def has_ended(record: Mapping) -> bool:
    """Whether a run has ended through its own fault, or because somebody stopped or cancelled it."""
    state = record.get("state")
    return state in ("failed", "cancelled") or (state == "stopped" and not record.get("terminated"))


def count_kill(submission: Submission, run: Planned) -> bool:
    """Write down that a run was killed; returns whether it may begin again.

    It may not, and counts as failed, if it has got no further in its last starts.
    """
    path = submission.record(run.name)
    record = submissions.recorded(path)
    newest = newest_checkpoint(Path(run.folder))
    killed = [*record.get("killed", []), newest]
    record |= {"killed": killed, "again_after": len(record.get("starts", []))}
    gets_on = killed[-TRIES:] != [newest] * TRIES
    if not gets_on:
        said = "" if record.get("starts") else submissions.last_words(submission.folder, submission.jobs[run.name])
        record |= {"state": "failed", "reason": f"killed in {TRIES} starts without a new checkpoint{said}"}
    write_patiently(path, record)
    return gets_on


def keep(name: str) -> None:
    """Submit killed runs of a submission again, and another keeper for as long as any of it is under way."""
    squeue.wait_until_back()
    with submissions.alone(), submissions.load(name).alone():  # in the order in which `submit` takes them
        submission = submissions.load(name)
        if submission.cancelled or submission.profile is None:
            return
        rows = [row for row in status.rows(submissions.every(), sure=True) if row.submission == name]
        active = [row.job for row in rows if row.job and row.state in status.ACTIVE]
        known = squeue.listed("--states=all")
        before: dict[str, dict] = {}
        for row in rows:
            path = submission.record(row.run)
            record = submissions.recorded(path)
            # `status` takes what ended for no reason for cancelled; SLURM may know better, if it has not forgotten.
            if row.state in ("killed", "lost") or (row.state == "cancelled" and status.ended_for_no_reason(record)):
                if was_cancelled(submission, row, record, known):
                    write_patiently(path, record | {"state": "cancelled", "reason": CANCELLED})
                else:
                    before[row.run] = record
        runs = [run for run in submission.runs if run.name in before and count_kill(submission, run)]
        profile = cluster.Profile(**submission.profile)
        for run in runs:
            print(f"{run.name}  {run.label}: its job was killed; submitting it again", flush=True)
        if runs:
            try:
                submission = cluster.submit(submission, profile, runs)
            except ConfigError:
                forget(submission, runs, before)
                raise
        waited_for = [*active, *(submission.jobs[run.name] for run in runs)]
        if waited_for:
            submission = cluster.keep(submission, profile, waited_for)
    print(f"{count(len(runs), 'run')} submitted again, {len(active)} under way", flush=True)


def forget(submission: Submission, runs: Sequence[Planned], before: Mapping[str, dict]) -> None:
    """Count no start for runs that SLURM did not take: they have got nowhere since nobody let them begin."""
    jobs = submissions.load(submission.id).jobs
    for run in runs:
        if jobs.get(run.name) == submission.jobs.get(run.name):
            write_patiently(submission.record(run.name), before[run.name])


def was_cancelled(submission: Submission, row: status.Row, record: Mapping, known: squeue.Entries) -> bool:
    """Whether somebody cancelled a run whose job is gone; if not, it was killed.

    SLURM forgets a job after minutes. Then the run's record knows: a job that was cancelled has no reason to end.
    """
    job = row.job or ""
    entry = known.get(job)
    state = entry.state if entry else squeue.endings([job]).get(job)
    begun = submission.job_log(job).is_file()
    return state == "CANCELLED" or (state is None and (status.ended_for_no_reason(record) or not begun))


def main() -> None:
    """Do what a batch script asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("watch", "requeue", "keep"))
    parser.add_argument("submission")
    arguments = parser.parse_args()
    job = slurm_job() or ""
    try:
        if arguments.action == "requeue":
            requeue(submissions.load(arguments.submission), job)
            return
        cluster.outside_of_job()
        {"watch": watch, "keep": keep}[arguments.action](arguments.submission)
    except ConfigError as error:
        fail(f"{error}; `python -m slurm resubmit {arguments.submission}` continues what was killed", 1)


if __name__ == "__main__":
    main()
