"""What the commands share: the types of their arguments, and how they are stopped. Imports no
torch."""

import os
import signal
import threading

LEASH = "QLSTM_LEASH"
"""The variable that tells a process to :func:`follow` the one that started it."""


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: as Ctrl-C, but it reaches this process alone and not those it started."""


def stop_when_terminated():
    """From now on SIGTERM, as a cluster sends it, raises :class:`Terminated`."""
    def stop(*_):
        raise Terminated
    signal.signal(signal.SIGTERM, stop)


def follow(number: int = signal.SIGTERM):
    """From now on this process ends when the one that started it asks for that or is gone, however
    it went: its standard input, a pipe that nobody writes to, is then closed. Without :data:`LEASH`
    in the environment nothing happens.

    Args:
        number: The signal that it then sends itself.
    """
    if os.environ.pop(LEASH, None) is None:
        return

    def wait():
        os.read(0, 1)
        if os.name == "posix":
            os.kill(os.getpid(), number)
        else:  # on Windows that would end the process at once
            signal.raise_signal(number)
    threading.Thread(target=wait, daemon=True).start()


def names(text: str) -> list[str] | None:
    """The names in ``text``, separated by commas or blanks, but those in the path of a file that
    is there; ``None`` if there is none.

    >>> names("table_2,figure_01 theory")
    ['table_2', 'figure_01', 'theory']
    """
    if os.path.exists(text):
        return [text]
    return [name for part in text.split(",")
            for name in ([part.strip()] if os.path.exists(part.strip()) else part.split())] or None


def titles(text: str) -> list[str]:
    """The names in ``text``, separated by semicolons, as they may have commas and blanks inside.

    >>> titles("character; word, d = 300")
    ['character', 'word, d = 300']
    """
    return [name.strip() for name in text.split(";") if name.strip()]
