"""A command that is asked to end saves what it has, says so, and can be given again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from samples.stages import RESULTS, inputs_of, spec_of, train, write_tiles

from segue import signals
from segue.cli import main as command
from segue.training import checkpoint
from segue.training.run import train_task
from segue.training.spec import TrainTask

posix = pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without asking it")


@posix
@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGHUP", marks=pytest.mark.slow)])
def test_a_training_saves_a_checkpoint_and_goes_on(tmp_path: Path, name: str) -> None:
    """After a signal the state is that of the step where it stopped, and the same training ends with equal bytes."""
    spec = spec_of(write_tiles(tmp_path / "tiles.h5", groups=12, size=32), 4, epochs=3, batch=2)
    whole = train(spec, tmp_path / "whole")
    task = TrainTask(spec, tmp_path / "run", "k", inputs_of(spec))

    def log(line: str) -> None:
        if line.startswith("epoch 1"):
            os.kill(os.getpid(), getattr(signal, name))

    previous = signal.signal(getattr(signal, name), signal.SIG_DFL)  # ignored where the tests run under nohup
    try:
        with signals.ending_on_signals(), pytest.raises(signals.Terminated) as ended:
            train_task(task, log=log)
    finally:
        signal.signal(getattr(signal, name), previous)
    assert ended.value.exit_code == {"SIGTERM": 143, "SIGHUP": 129}[name]
    progress = checkpoint.newest_progress(tmp_path / "run.running" / "state")
    assert progress is not None and (progress.epoch, progress.step) == (1, 1)
    train_task(task)
    for file in RESULTS:
        assert (tmp_path / "run" / file).read_bytes() == (whole / file).read_bytes()


@posix
def test_a_command_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With the exit code of the signal; afterwards the process has its own handlers again."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(command, "app", lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 143
    assert capsys.readouterr().err == "segue: ended by SIGTERM; run the same command again to resume.\n"
    assert signal.getsignal(signal.SIGTERM) == before and not signals.received()


@posix
def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As after `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.ending_on_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not signals.received()
    finally:
        signal.signal(signal.SIGHUP, before)
