"""The home of the errors that a user can mend: main.py prints their message and leaves without a traceback."""


class InputError(Exception):
    """Bad input; the message names the file or field, what was wrong with it and the way out."""
