"""The error that ends a command."""


class UsageError(Exception):
    """The user must change something; the message is one line that says what and where."""
