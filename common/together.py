"""The command of a task for several seeds, trained as one program: each run is opened, measured and drawn by itself."""

import contextlib
import dataclasses
import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TextIO

from common import command
from common.command_line import C
from common.config import Config
from common.devices import Devices
from common.files import CheckpointError, is_full
from common.run_folder import RunFolder
from common.runs import InUse, Run, RunError, check_config, open_run
from common.seeds import parse_seeds
from common.stopping import Interrupted, StopRequest
from common.turns import Turn


def carry_out(
    config: C, presets: Mapping[str, C], provide: Callable[[C], None], experiment: Callable[[C, Run], None]
) -> None:
    """Train those of the config's seeds that are not finished, and say how each of them ended."""
    task = command.task_of(experiment)
    configs = [dataclasses.replace(config, seed=seed, seeds="") for seed in parse_seeds(config.seeds)]
    every = [Run(config.out / task / each.name(), task, each) for each in configs]
    with command.known_faults([run.folder for run in every], config, Devices()), contextlib.ExitStack() as stack:
        todo = [each for each, run in zip(configs, every, strict=True) if is_to_do(run)]
        print(f"{len(todo)} of {len(configs)} seeds to do", flush=True)
        if done := [run for run in every if run.config not in todo]:
            images = command.images_of(config)
            for run in done:
                for change in command.since(run, images):
                    print(f"warning: seed {run.config.seed} {change}", flush=True)
        for each in todo:
            provide(each)
        opened = []
        for each in todo:
            with alone(each):
                opened.append(stack.enter_context(open_run(each, task, each.setting(presets), together(len(todo)))))
        # Another process may have finished one meanwhile.
        left = [(each, run) for each, run in zip(todo, opened, strict=True) if not run.result]
        faults = perform(experiment, left) if left else []
        for run in every:
            print(ending(run.config.seed, run.files), flush=True)
        if faults:
            raise next(filter(is_full, faults), faults[0])


def together(seeds: int) -> Devices:
    """The device as each of so many seeds sees it."""
    from common.devices.together import Together  # seconds

    return Together(seeds)


def is_to_do(run: Run) -> bool:
    """Whether a run is to be trained. Raises RunError if it is finished, and damaged or of another config."""
    with alone(run.config), command.not_damaged(run.folder):
        if run.config.overwrite or run.result is None:
            return True
        check_config(run)
        return False


@contextlib.contextmanager
def alone(config: Config) -> Iterator[None]:
    """Say of a fault of one seed's folder how to start that seed from scratch, and no other."""
    try:
        yield
    except InUse:
        raise
    except (RunError, CheckpointError) as error:
        if "--overwrite" not in str(error):
            raise
        raise RunError(f"{error} (with --seed {config.seed} in place of --seeds: that seed alone)") from error


def ending(seed: int, folder: RunFolder) -> str:
    """A line of a run."""
    if not folder.is_finished:
        return f"seed {seed:<5} not finished    {folder.path}"
    result = folder.metrics()
    said = f"test {command.merit(result['test'])}" if result["status"] == "completed" else result["status"]
    return f"seed {seed:<5} {said:<15} {folder.path}"


def perform(experiment: Callable[[C, Run], None], left: Sequence[tuple[C, Run]]) -> list[Exception]:
    """Run the experiment for each run, in turns; what they want to have trained is trained as one program.

    All hear of a request to stop at the same step, and so go on from the same one. Returns the faults of seeds whose
    training or measuring failed, while the others went on; what fails before is raised.
    """
    stop = StopRequest()
    stop.deferring = True
    turns = []
    for config, run in left:
        name = f"seed {config.seed}"
        turns.append(Turn(partial(one, experiment, config, run), name, Prefixed(f"{name}  ", sys.stdout)))
    faults = []
    command.handle_signals(stop.on_signal)
    try:
        for turn in turns:
            stop.heed()
            turn.go()
        while waiting := [turn for turn in turns if turn.asked]:
            train(waiting, stop, [run for _, run in left])
            for turn in sorted(waiting, key=has_failed, reverse=True):  # which are written down before a stop
                if not has_failed(turn):
                    stop.heed()
                try:
                    turn.go(turn.asked.error)
                except Exception as fault:
                    print(f"{turn.name}  failed: {fault}", flush=True)
                    faults.append(fault)
        stop.heed()
    finally:
        for turn in turns:
            turn.leave()
    return faults


def has_failed(turn: Turn) -> bool:
    """Whether the training of a seed ended with a fault, or diverged."""
    return turn.asked.error is not None and not isinstance(turn.asked.error, Interrupted)


def one(experiment: Callable[[C, Run], None], config: C, run: Run) -> None:
    """The experiment of one seed."""
    with alone(config), command.not_damaged(run.folder):
        command.conclude(experiment, config, run)


def train(waiting: Sequence[Turn], stop: StopRequest, opened: Sequence[Run]) -> None:
    """Train what these ask for, as one program if they compute the same; after a crash some may be further than others.

    Ends early after a request to stop.
    """
    from common.devices.together import fit

    def pass_on() -> None:
        for run in opened:
            run.stop.signal = stop.signal

    groups: dict[tuple, list[Turn]] = {}
    for turn in waiting:
        groups.setdefault(turn.asked.key(), []).append(turn)
    for group in groups.values():
        if stop.signal:
            return
        print(f"one program: {', '.join(turn.name for turn in group)}", flush=True)
        fit([turn.asked for turn in group], pass_on)


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
