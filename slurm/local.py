"""Runs on this machine: a limited number at a time, with a live table of their states."""

import os
import shutil
import signal
import subprocess
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue

from rich.console import Console

from common.stopping import leave_terminal, say
from slurm import status
from slurm.job import Job, RunFailed, wait
from slurm.plan import Planned
from slurm.submissions import Submission, this_process


class Runner:
    """Makes the runs of a submission, and stops them on a signal."""

    def __init__(self, submission: Submission, at_once: int):
        self.submission = submission.changed(runner=this_process())
        self.at_once = at_once
        self.stopping = False
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.lock = threading.RLock()  # a second signal may come while the first is handled
        self.gpus = gpus()
        self.printed: dict[str, tuple] = {}
        self.places: SimpleQueue[int] = SimpleQueue()
        for place in range(at_once):
            self.places.put(place)

    def run(self, console: Console) -> list[status.Row]:
        """Make all runs and return their final rows. Ctrl-C, SIGTERM and SIGHUP stop the runs, which save first."""
        stops = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        heard = [number for number in stops if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
        before = {number: signal.signal(number, self.on_signal) for number in heard}
        try:
            for wave in sorted({run.wave for run in self.submission.runs}):
                with ThreadPoolExecutor(self.at_once) as pool:
                    runs = [run for run in self.submission.runs if run.wave == wave]
                    ends = [pool.submit(self.one, run) for run in runs]
                    self.watch(console, ends)
                for end in ends:
                    end.result()  # raises if the launcher itself failed
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        # Nothing starts any more what has not begun.
        return [replace(row, state="cancelled") if row.state == "queued" else row for row in self.rows()]

    def one(self, run: Planned) -> None:
        """Make one run, from start to end."""
        place = self.places.get()
        try:
            ours = Job.of(self.submission, run)
            if self.stopping:
                return
            # In its own session: otherwise the terminal's Ctrl-C would reach it besides our signal, and a second
            # signal keeps it from saving. Without the lock: on a full disk, the start waits for space.
            child = ours.start(start_new_session=True, env=self.environment(run, place))
            with self.lock:
                self.running[run.name] = child
                if self.stopping:  # the signal came meanwhile
                    os.kill(child.pid, signal.SIGTERM)
            code = wait(child)
            with self.lock:
                del self.running[run.name]
            child.wait()
            ours.end(code)
        except RunFailed:
            pass  # recorded by the job
        finally:
            self.places.put(place)

    def environment(self, run: Planned, place: int) -> dict[str, str]:
        """The environment of a run, which assigns it the GPUs of its place; places share GPUs if there are too few."""
        size = max(run.devices for run in self.submission.runs)
        groups = [self.gpus[i : i + size] for i in range(0, len(self.gpus) - size + 1, size)]
        if not groups:
            return dict(os.environ)
        chosen = {"CUDA_VISIBLE_DEVICES": ",".join(groups[place % len(groups)][: run.devices])}
        if self.at_once > len(groups):
            # By default either backend allocates nearly all of a GPU's memory at the start.
            chosen |= {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        return os.environ | chosen

    def on_signal(self, number: int, frame: object) -> None:
        """Start no more runs and stop the running ones: they save at the first signal, and not at a second one."""
        if number == signal.SIGHUP:
            leave_terminal()
        with self.lock:
            again, self.stopping = self.stopping, True
            for child in self.running.values():
                os.kill(child.pid, signal.SIGTERM)
        if not again:
            say("stopping: each run saves at the end of its step; once more stops at once")

    def rows(self) -> list[status.Row]:
        """The current rows of the runs."""
        return status.rows([self.submission])

    def watch(self, console: Console, ends: list[Future]) -> None:
        """Show the runs until all have ended: a table on a terminal, otherwise a line per change."""

        def done() -> bool:
            return all(end.done() for end in ends)

        if console.is_terminal:
            titles = {self.submission.id: self.submission.title}
            status.watch(lambda: status.table(self.rows(), titles, console.width), console, done)
            return
        while True:
            last = done()
            for row in self.rows():
                shown = (row.state, row.epoch if row.state == "running" else None)
                if self.printed.get(row.run, ("queued", None)) != shown:
                    print(status.line(row), flush=True)
                self.printed[row.run] = shown
            if last:
                return
            time.sleep(status.REFRESH)


def gpus() -> list[str]:
    """The GPUs of this machine that may be used, as CUDA_VISIBLE_DEVICES names them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return [str(i) for i in range(sum(line.startswith("GPU ") for line in listing.stdout.splitlines()))]
