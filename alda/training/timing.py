"""Where time goes: seconds by what they were spent on."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """`with watch("update"): ...` adds up seconds; those of an inner part do not count for the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.elsewhere: dict[str, float] = defaultdict(float)
        self._since = time.perf_counter()
        self._parts = ["other"]

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        self._count()
        self._parts.append(part)
        try:
            yield
        finally:
            self._count()
            self._parts.pop()

    def move(self, seconds: float, source: str, target: str) -> None:
        """Count seconds for one part that were counted for another."""
        self.seconds[source] -= seconds
        self.seconds[target] += seconds

    def add_elsewhere(self, seconds: float, part: str) -> None:
        """Count seconds that another process spent meanwhile; they come on top of the time that passed here."""
        self.elsewhere[part] += seconds

    def lap(self) -> tuple[float, dict[str, float]]:
        """Return the seconds since the last lap and the seconds of each part, and begin another lap."""
        self._count()
        passed = sum(self.seconds.values())
        parts = {part: self.seconds[part] + self.elsewhere[part] for part in {**self.seconds, **self.elsewhere}}
        self.seconds.clear()
        self.elsewhere.clear()
        return passed, parts

    def _count(self) -> None:
        now = time.perf_counter()
        self.seconds[self._parts[-1]] += now - self._since
        self._since = now
