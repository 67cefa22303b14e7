"""Requests to stop: heeded at once, or at the end of a step that can save itself."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common import stopping
from common.stopping import Interrupted, StopRequest

ROOT = Path(__file__).resolve().parents[2]


def test_a_request_is_heeded_at_once_if_nothing_can_be_saved():
    with pytest.raises(Interrupted, match=r"^SIGTERM$") as caught:
        StopRequest().on_signal(signal.SIGTERM, None)
    assert caught.value.number == signal.SIGTERM
    assert not isinstance(caught.value, Exception)  # which libraries catch, and Keras makes again from its text


def test_a_deferred_request_waits_until_it_is_heeded(capfd, monkeypatch):
    stop = StopRequest()
    stop.heed()  # of which there is none
    monkeypatch.setattr(sys, "stdout", None)  # a signal may interrupt a print, so the handler must not print
    with stop.deferred():
        stop.on_signal(signal.SIGINT, None)
    monkeypatch.undo()
    assert stop.signal == signal.SIGINT
    assert capfd.readouterr().out == "\nSIGINT: saving at the end of this step\n"
    with pytest.raises(Interrupted, match=r"^SIGINT$"):
        stop.heed()


def test_after_the_block_nothing_is_deferred():
    stop = StopRequest()
    with pytest.raises(RuntimeError), stop.deferred():
        raise RuntimeError
    with pytest.raises(Interrupted):
        stop.on_signal(signal.SIGTERM, None)


def test_the_second_signal_does_not_wait():
    stop = StopRequest()
    with stop.deferred():
        stop.on_signal(signal.SIGINT, None)
        stop.on_signal(signal.SIGTERM, None)  # at once: SLURM sends several, and means one
        assert stop.signal == signal.SIGINT
        stop.time -= 2 * stopping.SAME_REQUEST
        with pytest.raises(Interrupted, match=r"^SIGINT$"):
            stop.on_signal(signal.SIGINT, None)


def test_a_signal_of_the_system_is_a_request():
    stop = StopRequest()
    before = signal.signal(signal.SIGTERM, stop.on_signal)
    try:
        with stop.deferred():
            signal.raise_signal(signal.SIGTERM)
            assert stop.signal == signal.SIGTERM
        stop.time -= 2 * stopping.SAME_REQUEST
        with pytest.raises(Interrupted, match=r"^SIGTERM$"):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_reader_that_has_gone_does_not_keep_a_run_from_saving(monkeypatch):
    def gone(*_):
        raise BrokenPipeError

    stop = StopRequest()
    monkeypatch.setattr(os, "write", gone)
    with stop.deferred():
        stop.on_signal(signal.SIGTERM, None)
    assert stop.signal == signal.SIGTERM


def test_a_terminal_that_was_closed_does_not_keep_a_run_from_saving(tmp_path):
    """Each write to it fails; SIGHUP says that it is gone."""
    code = """
import pathlib, signal, sys, time
from common.stopping import StopRequest
stop = StopRequest()
signal.signal(signal.SIGHUP, stop.on_signal)
with stop.deferred():
    print("ready", flush=True)
    while not stop.signal:
        time.sleep(0.01)
    print("saving", flush=True)
    print("saving", file=sys.stderr, flush=True)
pathlib.Path(sys.argv[1]).write_text(stop.signal.name)
"""
    terminal, stream = os.openpty()
    command = [sys.executable, "-c", code, str(tmp_path / "saved")]
    with subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream) as process:
        os.close(stream)
        assert os.read(terminal, 5) == b"ready"
        os.close(terminal)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 0
    assert (tmp_path / "saved").read_text() == "SIGHUP"
