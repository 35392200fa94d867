"""What a place to run commands owes the scheduler: a number of slots, each for one command at a time."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path


class Lost(Exception):  # noqa: N818 (not the command's fault)
    """The place where a command ran is gone, and the command with it."""


class Job(ABC):
    """A command on its way."""

    @abstractmethod
    def poll(self) -> int | None:
        """Its exit code as subprocess has it, negative for a signal; None while it runs. Never waits. Raises Lost."""

    @property
    def placed(self) -> bool:
        """Whether it has begun; else it waits for room."""
        return True

    @abstractmethod
    def stop(self) -> None:
        """Asks it to save and end, as Ctrl-C does. Never waits."""

    @abstractmethod
    def kill(self) -> None:
        """Ends it, and what it started, at once; nothing happens where it has ended."""


class Backend(ABC):
    """jobs: slots, which the scheduler fills; may change. workers: processes that play the evaluations of one. about:
    both, with the reason, for people. A backend ends every command when the process of the scheduler is gone."""

    jobs: int
    workers: int
    about: str

    @abstractmethod
    def start(self, words: Sequence[str], log: Path) -> Job:
        """Runs `alda WORDS` in a free slot and adds what it prints to the log. Raises OSError where it cannot."""

    @abstractmethod
    def close(self) -> None:
        """Ends what is still on its way, and gives back what the backend holds."""
