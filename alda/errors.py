"""Errors that are addressed to people."""


class UserError(Exception):
    """Something the user can put right. The message says what was wrong and what to do; the command
    line prints it without a traceback and exits with code 2."""


class WorkerError(Exception):
    """A process that plays environments or measures failed, for good or for a reason of its own; exits with code 1."""
