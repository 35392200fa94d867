"""Errors that are addressed to people."""


class UserError(Exception):
    """Something the user can put right. The message says what was wrong and what to do; the command
    line prints it without a traceback and exits with code 2."""


class LearningError(Exception):
    """Learning cannot go on in a way that makes sense: the message says why, and what to do; exits with code 1.

    sound: whether what was learned so far is worth a checkpoint.
    """

    def __init__(self, message: str, *, sound: bool) -> None:
        super().__init__(message)
        self.sound = sound


class WorkerError(Exception):
    """A process that plays environments or measures failed, for good or for a reason of its own; exits with code 1."""
