"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """A mistake the user can mend: shown as its message alone, without a traceback.

    The message names the file, line or key, says what was found, and what to write instead.
    """
