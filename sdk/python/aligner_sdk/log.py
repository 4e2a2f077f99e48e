"""The plugin's voice: lines that reach the host's log under the plugin's name.

The host takes a number of bytes in each call. In tests the lines go to stderr.
"""

import sys
from typing import Callable


def _to_stderr(level: str, message: str) -> None:
    print(f"{level}: {message}", file=sys.stderr)


#: Where lines go; a component puts the host's log here.
_write: Callable[[str, str], None] = _to_stderr


def debug(message: str) -> None:
    """Writes a line that only somebody who debugs the plugin wants to see."""
    _write("debug", message)


def info(message: str) -> None:
    """Writes a line for the run's log."""
    _write("info", message)


def warn(message: str) -> None:
    """Writes a line that the user should see."""
    _write("warn", message)


def error(message: str) -> None:
    """Writes what went wrong. Raise an error to stop the work."""
    _write("error", message)
