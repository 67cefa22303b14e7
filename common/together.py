"""The command of a task for several seeds, trained as one program: each run is opened, measured and drawn by itself."""

import contextlib
import dataclasses
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

from common import runs
from common.command_line import C
from common.run_folder import RunFolder
from common.runs import Run
from common.seeds import parse_seeds
from common.stopping import StopRequest
from common.turns import Turn


def command(
    config: C, presets: Mapping[str, C], provide: Callable[[C], None], experiment: Callable[[C, Run], None]
) -> None:
    """Train those of the config's seeds that are not finished, and say how each of them ended."""
    from common.devices.together import Together  # seconds

    task = runs.task_of(experiment)
    configs = [dataclasses.replace(config, seed=seed, seeds="") for seed in parse_seeds(config.seeds)]
    folders = [config.out / task / each.name() for each in configs]
    with runs.known_faults(folders, config, Together(1)), contextlib.ExitStack() as stack:
        todo = [each for each, folder in zip(configs, folders, strict=True) if is_to_do(each, folder)]
        for each in todo:
            provide(each)
        opened = [
            stack.enter_context(runs.open_run(each, task, each.setting(presets), Together(len(todo)))) for each in todo
        ]
        # Another process may have finished one meanwhile.
        left = [(each, run) for each, run in zip(todo, opened, strict=True) if not run.result]
        print(f"{len(left)} of {len(configs)} seeds to do", flush=True)
        perform(experiment, left)
        for each, folder in zip(configs, folders, strict=True):
            print(ending(each.seed, RunFolder(folder)), flush=True)


def is_to_do(config: C, folder: Path) -> bool:
    """Whether a run is to be trained."""
    with runs.not_damaged(folder):
        return config.overwrite or not (RunFolder(folder).is_finished and RunFolder(folder).metrics())


def ending(seed: int, folder: RunFolder) -> str:
    """A line of a finished run."""
    result = folder.metrics()
    said = f"test {runs.merit(result['test'])}" if result["status"] == "completed" else result["status"]
    return f"seed {seed:<5} {said:<15} {folder.path}"


def perform(experiment: Callable[[C, Run], None], left: Sequence[tuple[C, Run]]) -> None:
    """Run the experiment for each run, in turns; what they want to have trained is trained as one program.

    All hear of a request to stop at the same step, and so go on from the same one.
    """
    stop = StopRequest()
    stop.deferring = True

    def pass_on() -> None:
        for _, run in left:
            run.stop.signal = stop.signal

    turns = []
    for config, run in left:
        name = f"seed {config.seed}"
        turns.append(Turn(partial(one, experiment, config, run), name, Prefixed(f"{name}  ", sys.stdout)))
    faults = []
    runs.handle_signals(stop.on_signal)
    try:
        for turn in turns:
            stop.heed()
            turn.go()
        while waiting := [turn for turn in turns if turn.asked]:
            train(waiting, pass_on)
            for turn in waiting:
                stop.heed()
                try:
                    turn.go(turn.asked.error)
                except Exception as fault:  # the other seeds go on
                    faults.append(fault)
        if faults:
            raise faults[0]
    finally:
        for turn in turns:
            turn.leave()


def one(experiment: Callable[[C, Run], None], config: C, run: Run) -> None:
    """The experiment of one seed."""
    with runs.not_damaged(run.folder):
        runs.conclude(experiment, config, run)


def train(waiting: Sequence[Turn], pass_on: Callable[[], None]) -> None:
    """Train what these ask for, as one program if they compute the same; after a crash some may be further than others.

    `pass_on` lets the runs know of a request to stop.
    """
    from common.devices import together

    groups: dict[tuple, list[Turn]] = {}
    for turn in waiting:
        groups.setdefault(turn.asked.key(), []).append(turn)
    for group in groups.values():
        print(f"one program: {', '.join(turn.name for turn in group)}", flush=True)
        together.fit([turn.asked for turn in group], pass_on)


class Prefixed(io.StringIO):
    """Writes to another stream, with a prefix before each line."""

    def __init__(self, prefix: str, stream: TextIO):
        super().__init__()
        self.prefix = prefix
        self.stream = stream
        self.is_new_line = True

    def write(self, text: str) -> int:
        for line in text.splitlines(keepends=True):
            self.stream.write(self.prefix * self.is_new_line + line)
            self.is_new_line = line.endswith("\n")
        return len(text)

    def flush(self) -> None:
        self.stream.flush()
