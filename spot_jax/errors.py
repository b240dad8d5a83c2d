"""The one exception that a user's mistake raises, and the one kind of warning."""


class SpotError(Exception):
    """A mistake in what the user gave: one line with what was expected, what was found, what to do.

    The command line prints the message without a traceback and exits with code 2; code that uses
    the library catches it like any exception.
    """


class SpotWarning(UserWarning):
    """A problem that was worked around and that the user should know of, in one line."""
