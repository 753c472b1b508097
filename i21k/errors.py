"""The one exception that means: the user can fix this."""


class UserError(ValueError):
    """A problem that the user can fix: bad input, a missing file, a value out of range.

    The text says what is wrong (the thing, what was given, what was expected) and what to do.
    The command line prints it without a traceback. Every other exception is a bug or a failure of
    the machine, and keeps its traceback.
    """
