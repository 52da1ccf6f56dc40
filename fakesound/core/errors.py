"""The errors that a user can mend. Everything else is a bug and keeps its traceback."""


class UserError(Exception):
    """Something the user gave cannot be used. The message says what to do; the CLI exits with code 2."""


class IntegrityError(UserError):
    """Stored data is not what its digest, marker or schema says it is."""
