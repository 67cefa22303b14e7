"""What a training says while it goes on: a bar in a terminal, elsewhere lines."""

import contextlib
import functools
import io
import re
import signal
from types import SimpleNamespace

import pytest
from small_training import PHASES, train
from tqdm import tqdm

from common import loop
from common.config import Config
from common.data import sources
from common.phase import Phase
from common.stopping import Interrupted

pytestmark = pytest.mark.usefixtures("float32_afterwards")

EPOCHS = [f"{phase.name} {epoch}/{phase.epochs}" for phase in PHASES for epoch in range(1, phase.epochs + 1)]
STEPS = 6  # of 180 images in batches of 32


class Terminal(io.StringIO):
    """What a process writes to a terminal, and what stands on its lines in the end."""

    def isatty(self):
        return True

    def lines(self):
        """A carriage return begins a line again, and what is written then covers what was there."""
        shown = []
        for line in self.getvalue().split("\n"):
            seen = ""
            for part in line.split("\r"):
                seen = part + seen[len(part) :]
            shown.append(seen.rstrip())
        return shown


@pytest.fixture(scope="module")
def data():
    return sources.load(Config(dataset="digits", limit_train=200))


def in_a_terminal(monkeypatch, act):
    """What the terminal gets; of the bar every change."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(loop, "tqdm", functools.partial(tqdm, mininterval=0))
    with contextlib.redirect_stdout(Terminal()) as terminal:
        act()
    return terminal


def test_a_terminal_has_a_bar_that_goes_and_a_line_an_epoch(data, tmp_path, monkeypatch):
    terminal = in_a_terminal(monkeypatch, lambda: train(tmp_path, data))
    for name in EPOCHS:
        assert re.search(rf"\r{name}: .* {STEPS}/{STEPS} \[.*loss \d+\.\d{{4}}\]", terminal.getvalue())
    begins = [line for line in terminal.lines() if line.startswith(tuple(EPOCHS))]
    assert [line.partition("  ")[0] for line in begins] == EPOCHS
    assert all(re.fullmatch(r"\w+ ./.  loss [\d.]+ accuracy .* left", line) for line in begins)
    assert "Epoch" not in terminal.getvalue()


def test_the_bar_is_gone_when_a_run_is_stopped(data, tmp_path, monkeypatch):
    def stop(trainer):
        trainer.run.stop.signal = signal.SIGTERM
        return ()

    def act():
        with pytest.raises(Interrupted):
            train(tmp_path, data, more={"callbacks": stop})
        print("stopped")

    terminal = in_a_terminal(monkeypatch, act)
    assert f"\r{EPOCHS[0]}: " in terminal.getvalue()
    assert terminal.lines()[-2:] == ["stopped", ""]


def test_elsewhere_lines_within_an_epoch_are_due_once_a_minute(data, tmp_path, capsys, monkeypatch):
    train(tmp_path / "quick", data)
    assert "  step " not in capsys.readouterr().out
    monkeypatch.setattr(loop, "LINE_EVERY", 0.0)
    train(tmp_path / "slow", data)
    said = capsys.readouterr().out
    assert "\r" not in said
    for name in EPOCHS:
        steps = re.findall(rf"^{name}  step (\d) of {STEPS}  loss [\d.]+$", said, re.MULTILINE)
        assert steps == [str(step) for step in range(1, STEPS + 1)]


def test_what_is_left_is_the_epochs_that_follow_without_what_is_done_once(capsys):
    lines = loop.PhaseLines(Phase("train", 5, "adam", 0.1), epochs=5, once=40.0)
    for number, seconds, compiling in ((1, 160.0, 20.0), (2, 100.0, 0.0), (5, 100.0, 0.0)):
        row = {
            "phase": "train",
            "epoch": number,
            "loss": 1.0,
            "val_loss": 1.0,
            "seconds": seconds,
            "images_per_second": 10.0,
        }
        lines.epoch(row, compiling)
    assert re.findall(r"[\d:]+ left", capsys.readouterr().out) == ["6:40 left", "5:00 left", "0:00 left"]


@pytest.mark.parametrize(
    ("images", "first_step", "ends", "rate", "compiling"),
    [
        # Steps of 1 s for 64 images; the first takes 5 s, a last batch of 8 images 9 s: neither is in the rate.
        (264, 0, {1: 5, 2: 6, 3: 7, 4: 8, 5: 17}, 64, 17 - 264 / 64),
        (256, 0, {1: 5, 2: 6, 3: 7, 4: 8}, 64, 4),
        (264, 2, {1: 5, 2: 6, 3: 15}, 64, 15 - 136 / 64),  # resumed after two steps
        (520, 0, {4: 7, 8: 11, 9: 20}, 64, 20 - 520 / 64),  # four steps at a time
        (264, 3, {1: 5, 2: 14}, 8 / 9, 0),  # nothing else is left to measure by
        (264, 4, {1: 4}, 2, 0),
    ],
)
def test_the_rate_of_an_epoch_leaves_out_what_compiles(monkeypatch, images, first_step, ends, rate, compiling):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock.now)
    ours = loop.Clock(first_step, 0.0)
    for steps, clock.now in ends.items():
        ours.tick(steps)
    assert ours.images_per_second(images, 64) == pytest.approx(rate)
    assert ours.compiling(images, 64) == pytest.approx(compiling)
