"""The state of runs, from their directories, their records and SLURM's queue."""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from common import words
from common.errors import ConfigError
from common.files import Damaged
from common.run_folder import RunFolder
from slurm import squeue, submissions
from slurm.plan import Planned
from slurm.submissions import Submission, elsewhere, is_alive, latest_runs

REFRESH = 2.0  # seconds
REFRESH_SLURM = 15.0  # its controller answers all users of a cluster
COLOURS = {
    "completed": "green",
    "running": "cyan",
    "queued": "",
    "held": "yellow",
    "requeued": "yellow",
    "killed": "yellow",
    "diverged": "magenta",
    "failed": "red",
    "lost": "red",
    "damaged": "red",
    "stopped": "yellow",
    "cancelled": "yellow",
}
LEAST_IMPORTANT = (
    "host",
    "restarts",
    "images/s",
    "phase",
    "elapsed",
)  # dropped in this order if the terminal is narrow
MOVED = "it had finished; its folder holds no results any more"
FOLDED = 20  # least width of a label
FINISHED = ("completed", "diverged")
ACTIVE = ("queued", "held", "running", "requeued")
UNDER_WAY = ("queued", "running", "requeued", "killed")  # states that end by themselves
NOT_ENDED = (*UNDER_WAY, "held")  # and the one that ends as somebody releases the job


@dataclass(frozen=True)
class Row:
    """One run's current state; times in seconds."""

    run: str
    submission: str
    label: str
    seed: int
    state: str
    reason: str = ""
    phase: str | None = None
    epoch: int | None = None
    """Epochs done, over all phases."""
    epochs: int | None = None
    val_accuracy: float | None = None
    images_per_second: float | None = None
    elapsed: float | None = None
    """Time in train.py, over all starts of this submission."""
    eta: float | None = None
    """Time left, at the pace of the last epoch."""
    host: str | None = None
    restarts: int = 0
    job: str | None = None
    folder: str = ""


def rows(chosen: Sequence[Submission], accounts: bool = False, sure: bool = False) -> list[Row]:
    """A row for each run of these submissions; a run in several of them belongs to the last one.

    `accounts`: ask sacct about lost runs, which is too expensive for SLURM to repeat at every refresh. `sure`: raise
    ConfigError if squeue does not answer.
    """
    pairs = list(latest_runs(chosen).values())
    jobs = [s.jobs[run.name] for s, run in pairs if run.name in s.jobs and not finished(run)]
    entries = squeue.ask({submission.owner for submission, _ in pairs}) if jobs else squeue.Entries()
    if sure and not entries.answered:
        raise ConfigError("squeue does not answer, so nobody knows which runs are queued; try again later")
    found = [row(submission, run, entries) for submission, run in pairs]
    lost = [r for r in found if r.state == "lost" and r.job]
    endings = squeue.endings([r.job for r in lost if r.job]) if lost and accounts else {}
    return [ended(r, endings) if r in lost else r for r in found]


def finished(run: Planned) -> bool:
    """Whether a run is finished: it has its metrics.json."""
    return RunFolder(Path(run.folder)).is_finished


def row(submission: Submission, run: Planned, entries: squeue.Entries) -> Row:
    """The row of one run."""
    files = RunFolder(Path(run.folder))
    try:
        record = submissions.read_record(submission.record(run.name))
        environment = files.environment() if files.environment_file.is_file() else {}
        result = files.metrics() if files.is_finished else {}
        history = files.history()
    except (Damaged, PermissionError) as error:  # the folder of another user may be closed
        reason = f"damaged: {error}"
        return Row(run.name, submission.id, run.label, run.seed, "damaged", reason, folder=run.folder)
    last = history[-1] if history else {}
    job = submission.jobs.get(run.name)
    state, reason = state_of(submission, job, record, result, entries)
    starts = record.get("starts", [])
    epochs = environment.get("epochs")
    left = epochs - len(history) if epochs and state in ("running", "requeued") else None
    return Row(
        run=run.name,
        submission=submission.id,
        label=run.label,
        seed=run.seed,
        state=state,
        reason=reason,
        phase=last.get("phase"),
        epoch=len(history) if history else None,
        epochs=epochs,
        val_accuracy=last.get("val_accuracy"),
        images_per_second=last.get("images_per_second"),
        elapsed=elapsed(starts, state),
        eta=left * last["seconds"] if left is not None and last.get("seconds") is not None else None,
        host=starts[-1]["host"] if starts else None,
        restarts=max(0, len(environment.get("starts", [])) - 1),
        job=job,
        folder=run.folder,
    )


def state_of(
    submission: Submission, job: str | None, record: Mapping, result: Mapping, entries: squeue.Entries
) -> tuple[str, str]:
    """State of a run and the reason for it, from the most reliable source to the least."""
    if result:
        return result["status"], result.get("diverged", {}).get("reason") or ""
    written, reason = record.get("state"), record.get("reason", "")
    if submission.cluster == "local":
        return local_state(submission, record)
    entry = entries.get(job)
    waits = entry is not None and (entry.state == "PENDING" or entry.is_held)
    if written == "failed" and not waits:  # after a node failure SLURM may have requeued it
        return written, reason
    if entry and entry.is_held:
        return "held", f"{entry.reason}; `scontrol release {job}` lets it go on"
    if entry and waits:
        return ("requeued" if written else "queued"), entry.reason
    if entry:
        return "running", "" if entry.state == "RUNNING" else entry.state.lower()
    if not job:
        return "failed", "SLURM did not take it"
    if submission.cancelled:
        return "cancelled", reason
    if not entries.answered:
        return written or "queued", "squeue does not answer; this is the last state that the run wrote"
    if written == "completed":
        return "stopped", MOVED
    if ended_for_no_reason(record):
        return "cancelled", reason
    by_itself = written == "cancelled" or (written == "stopped" and not record.get("terminated"))
    keeper = entries.get(submission.keeper)
    if keeper and submission.job_log(job).is_file() and not by_itself:
        waits_for = "" if keeper.reason in ("Dependency", "None", "") else f", and waits for {keeper.reason}"
        after = f"job {submission.keeper} looks after it when the others have ended{waits_for}"
        return "killed", f"{reason or 'its job is gone'}; {after}"
    if written in ("stopped", "cancelled"):
        return written, reason
    return "lost", "no longer in SLURM's queue, and it wrote no reason"


def ended_for_no_reason(record: Mapping) -> bool:
    """Whether SLURM has ended a run for no reason that it gives, as it does if somebody cancels the job.

    One that its batch script requeues since it was killed has none either, if the controller then forgets that.
    """
    requeued = record.get("again_after") == len(record.get("starts", []))
    return record.get("state") == "stopped" and record.get("why") == "None" and not requeued


def local_state(submission: Submission, record: Mapping) -> tuple[str, str]:
    """State and reason of a run of the local runner."""
    written, reason = record.get("state"), record.get("reason", "")
    if is_alive(submission.runner):
        return written or "queued", reason
    if written == "running":
        if host := elsewhere(record["starts"][-1]):
            return "lost", f"it was started on {host}; only that host can tell whether it still runs"
        alive = is_alive(record["starts"][-1])
        return ("running", "the launcher has ended") if alive else ("lost", "its process ended and wrote no reason")
    if not written and (host := elsewhere(submission.runner)):
        return "cancelled", f"it had not begun; its launcher was started on {host}, and may still run there"
    if written == "completed":
        return "stopped", MOVED
    if written == "killed":  # within a SLURM allocation; but nobody requeues what runs here
        return "failed", reason
    return written or "cancelled", reason or "the launcher ended before it started this run"


def ended(lost: Row, endings: Mapping[str, str]) -> Row:
    """A lost run with the reason from SLURM's accounting, otherwise with the last line of the job's own log."""
    if lost.job and (ending := endings.get(lost.job)):
        state = "cancelled" if ending == "CANCELLED" else "failed" if ending in squeue.OWN_FAULT else "lost"
        return dataclasses.replace(lost, state=state, reason=f"SLURM says {ending}")
    said = submissions.last_words(submissions.FOLDER / lost.submission, lost.job or "")
    return dataclasses.replace(lost, reason=f"{lost.reason}{said}")


def elapsed(starts: Sequence[Mapping], state: str) -> float | None:
    """Seconds of all starts together; a start without a recorded end counts only if it is still running."""
    if not starts:
        return None
    now = datetime.now(UTC).isoformat()
    spans = [(start["time"], start.get("ended", start["time"])) for start in starts]
    if state == "running":
        spans[-1] = (starts[-1]["time"], starts[-1].get("ended", now))
    return sum((datetime.fromisoformat(end) - datetime.fromisoformat(begun)).total_seconds() for begun, end in spans)


def table(chosen: Sequence[Row], titles: Mapping[str, str], width: int) -> Group:
    """The rows for a terminal of `width` columns: a table per submission, with the reasons of its runs below it."""
    parts: list = []
    for submission in dict.fromkeys(row.submission for row in chosen):
        ours = [row for row in chosen if row.submission == submission]
        parts += [Text(f"{submission}  {titles[submission]}: {counts(ours)}", style="bold"), one_table(ours, width)]
        parts += [Text(f"{short(row.run)}: {row.reason}", style="dim") for row in ours if row.reason]
        parts.append(Text())
    return Group(*parts)


def counts(chosen: Sequence[Row]) -> str:
    """Number of runs by state, such as `3 completed, 9 queued`."""
    found = Counter(row.state for row in chosen)
    return words.counts({state: found[state] for state in COLOURS})


def one_table(chosen: Sequence[Row], width: int) -> Table:
    """The table of one submission, without columns that are empty, the same in every row, or too wide."""
    cells: dict[str, list[str] | list[Text]] = {
        "run": [short(row.run) for row in chosen],
        "what": [row.label for row in chosen],
        "state": [Text(row.state, style=COLOURS[row.state]) for row in chosen],
        "phase": [row.phase or "" for row in chosen],
        "epoch": [f"{row.epoch or 0}/{row.epochs}" if row.epochs else "" for row in chosen],
        "val. acc.": ["" if row.val_accuracy is None else f"{row.val_accuracy:.2%}" for row in chosen],
        "images/s": ["" if row.images_per_second is None else f"{row.images_per_second:,.0f}" for row in chosen],
        "elapsed": ["" if row.elapsed is None else words.duration(row.elapsed) for row in chosen],
        "left": ["" if row.eta is None else words.duration(row.eta) for row in chosen],
        "host": [row.host or "" for row in chosen],
        "restarts": [str(row.restarts or "") for row in chosen],
    }
    for name in ("what", "host"):
        if len(set(cells[name])) == 1:
            del cells[name]
    shown = {name: values for name, values in cells.items() if any(values)}
    for name in LEAST_IMPORTANT:
        if needed_width(shown) > width:
            shown.pop(name, None)
    view = Table(box=None, pad_edge=False, header_style="dim")
    for name in shown:
        right = name in ("epoch", "val. acc.", "images/s", "elapsed", "left", "restarts")
        least = FOLDED if name == "what" else None
        view.add_column(
            name, justify="right" if right else "left", no_wrap=name != "what", overflow="fold", min_width=least
        )
    for values in zip(*shown.values(), strict=True):
        view.add_row(*values)
    return view


def needed_width(cells: Mapping[str, Sequence]) -> int:
    """Width of the columns, with two spaces between them; labels may be folded."""
    widest = {name: max(len(text) for text in (name, *values)) for name, values in cells.items()}
    widest["what"] = min(widest.get("what", 0), FOLDED)
    return sum(widest.values()) + 2 * len(cells)


def line(row: Row) -> str:
    """A run as one line of a log."""
    accuracy = "" if row.val_accuracy is None else f"  validation accuracy {row.val_accuracy:.2%}"
    epoch = f"  {row.phase} {row.epoch}/{row.epochs}" if row.epoch else ""
    reason = f"  {row.reason}" if row.reason else ""
    return f"{datetime.now():%H:%M:%S}  {short(row.run)}  {row.label}  {row.state}{epoch}{accuracy}{reason}"


def short(run: str) -> str:
    """The end of a run's name, which identifies it: hash and seed."""
    return "-".join(run.split("-")[-2:])


def refresh(chosen: Sequence[Submission]) -> float:
    """Seconds between two looks at these submissions."""
    return REFRESH_SLURM if any(submission.cluster == "slurm" for submission in chosen) else REFRESH


def watch(look: Callable[[], Group], console: Console, done: Callable[[], bool], pause: float = REFRESH) -> None:
    """Show what `look` returns, refreshed every `pause` seconds, until `done`."""
    with Live(look(), console=console, auto_refresh=False, vertical_overflow="visible") as live:
        while not done():
            time.sleep(pause)
            live.update(look(), refresh=True)
        live.update(look(), refresh=True)
