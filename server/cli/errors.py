"""Errors that end a command with one line on stderr.

CommandError        exit code 1  the command failed
└── ClientError     exit code 1  the server refused a request, or could not be reached

A wrong command line raises typer.BadParameter, a wrong setting SettingsError: exit code 2.
"""


class CommandError(Exception):
    """The command failed; the message says why and what to do."""


class ClientError(CommandError):
    """The server refused a request, or could not be reached."""
