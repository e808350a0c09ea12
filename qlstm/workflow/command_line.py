"""What the commands share: the types of their arguments, and how they are stopped. Imports no
torch."""

import signal


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: as Ctrl-C, but it reaches this process alone and not those it started."""


def stop_when_terminated():
    """From now on SIGTERM, as a cluster sends it, raises :class:`Terminated`."""
    def stop(*_):
        raise Terminated
    signal.signal(signal.SIGTERM, stop)


def names(text: str) -> list[str] | None:
    """The names in ``text``, separated by commas or blanks; ``None`` if there is none.

    >>> names("table_2,figure_01 theory")
    ['table_2', 'figure_01', 'theory']
    """
    return text.replace(",", " ").split() or None


def titles(text: str) -> list[str]:
    """The names in ``text``, separated by semicolons, as they may have commas and blanks inside.

    >>> titles("character; word, d = 300")
    ['character', 'word, d = 300']
    """
    return [name.strip() for name in text.split(";") if name.strip()]
