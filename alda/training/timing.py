"""Where time goes: seconds by what they were spent on."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """`with watch("update"): ...` adds up seconds. What an inner part takes does not count for the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.started = self._since = time.perf_counter()
        self._parts = ["other"]

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        self._settle()
        self._parts.append(part)
        try:
            yield
        finally:
            self._settle()
            self._parts.pop()

    def move(self, seconds: float, source: str, target: str) -> None:
        """What was counted for one part belongs to another."""
        self.seconds[source] -= seconds
        self.seconds[target] += seconds

    def lap(self) -> dict[str, float]:
        """Seconds by part since the last lap, and begins another. Together they are the time that has passed."""
        self._settle()
        taken, self.seconds, self.started = dict(self.seconds), defaultdict(float), self._since
        return taken

    def _settle(self) -> None:
        now = time.perf_counter()
        self.seconds[self._parts[-1]] += now - self._since
        self._since = now
