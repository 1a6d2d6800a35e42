"""The one exception that stands for a mistake of the user."""

from __future__ import annotations


class UserError(Exception):
    """A mistake the user can mend: its text is one line that says what is wrong, where, and how to mend it.

    The command line prints it without a traceback and leaves with exit code 2.
    """
