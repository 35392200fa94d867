"""What a run prints: speeds, the time left, and nothing that a closed terminal or a full disk could end."""

import os
import pty
import subprocess
import sys
from contextlib import suppress

import pytest
from conftest import file_limit

from alda import progress
from alda.progress import Display, clock, lasting_console


@pytest.fixture
def at(monkeypatch):
    """Sets the clock."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, float(seconds))


def test_time_left_is_told_by_the_speed_of_learning(at, capsys):
    """Random steps are fast and say nothing about the updates that are due after them."""
    display = Display(steps=1_000, updates=1_000)
    for second in range(1, 31):
        at(second)
        display.advance(step=10 * second, updates=0, doing="acting at random", news="")
    assert display._speed() == "10.0 steps/s, 0.0 updates/s"
    for second in range(31, 46):
        at(second)
        display.advance(step=300, updates=2 * (second - 30), doing="catching up", news="train 3")
    assert display._speed() == "10.0 steps/s, 2.0 updates/s, 0:08:05 left"  # 970 updates at 2 a second
    printed = capsys.readouterr().out
    assert printed.count("catching up") == 1  # one plain line in half a minute
    assert "step 300/1,000" in printed
    assert "train 3" in printed


@pytest.mark.parametrize(("seconds", "text"), [(61.4, "0:01:01"), (7_322.0, "2:02:02"), (4e5, "111:06:40")])
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize("kind", ["terminal", "pipe", "disk"])
def test_words_that_nobody_can_read_end_nothing(monkeypatch, kind):
    """The terminal is closed, the reader has ended, or the disk is full."""
    if kind == "disk":
        stream = open("/dev/full", "w")  # noqa: SIM115 (closed below)
    else:
        other, end = pty.openpty() if kind == "terminal" else os.pipe()
        stream = os.fdopen(end, "w")
        os.close(other)
    with pytest.raises(OSError, match="Errno"):
        print("this is lost", file=stream, flush=True)
    monkeypatch.setattr(sys, "stdout", stream)
    display = Display(10, 10)
    with display.live:
        display.say("hello")
        display.advance(1, 0, "training", "")
    for _ in range(200):  # more than is kept for later
        lasting_console(width=50).print("x" * 50, highlight=False)
    with suppress(OSError):  # as it tries once more
        stream.close()


def test_words_come_again_when_there_is_room_again(tmp_path, monkeypatch):
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stdout", log)
        console = lasting_console()
        with file_limit(0):
            console.print("first")
        console.print("second")
    assert (tmp_path / "log").read_text() == "first\nsecond\n"


def test_unwritten_words_are_no_failure():
    code = "import alda.cli; from alda.progress import lasting_console as c; c().print('a'); c().print('b')"
    with open("/dev/full", "w") as full:
        ended = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (0, b"")
