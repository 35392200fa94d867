"""Errors that are addressed to people."""


class UserError(Exception):
    """Something the user can put right. The message says what was wrong and what to do; the command
    line prints it without a traceback and exits with code 2."""
