import pytest

from alda import progress as console
from alda.progress import Display, clock


@pytest.fixture
def at(monkeypatch):
    """Sets the clock."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, seconds)


def test_time_left_is_told_by_the_speed_of_learning(at, capsys):
    """Random steps are fast and say nothing about the updates that are due after them."""
    display = Display(steps=1_000, updates=1_000)
    for second in range(30):
        at(float(second))
        display.advance(step=10 * second, updates=0, doing="acting at random", news="")
    assert "10.0 steps/s, 0.0 updates/s" in display._speed()
    assert "left" not in display._speed()
    for second in range(30, 45):
        at(float(second))
        display.advance(step=300, updates=2 * (second - 29), doing="catching up", news="train 3")
    assert display._speed() == f"{300 / 44:.1f} steps/s, 2.0 updates/s, 0:08:05 left"  # 970 updates at 2 a second
    printed = capsys.readouterr().out
    assert printed.count("catching up") == 1  # one plain line in half a minute
    assert "step 300/1,000" in printed
    assert "train 3" in printed


def test_old_speeds_are_forgotten(at):
    display = Display(steps=1_000, updates=1_000)
    for second in range(200):
        at(float(second))
        rate = 1 if second < 100 else 5
        display.advance(second, second if rate == 1 else 100 + 5 * (second - 100), "training", "")
    assert "5.0 updates/s" in display._speed()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0:00:00"), (61.4, "0:01:01"), (7_322.0, "2:02:02"), (4e5, "111:06:40")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text
