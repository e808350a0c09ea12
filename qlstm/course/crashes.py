"""What a student is told of an error in a function of theirs."""

import traceback
from typing import Any

from qlstm.errors import first_line


def raised(error: BaseException, function: Any) -> str:
    """What to tell a student of an ``error``, with the line of theirs that it comes from, as it
    goes on after the function's name.

    Args:
        error: The error, caught where the function was called.
        function: The student's function.
    """
    namespace = getattr(function, "__globals__", None)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    lines = traceback.extract_tb(error.__traceback__)
    own = [line for frame, line in zip(frames, lines, strict=True) if frame.f_globals is namespace]
    where = ""
    if own:
        text = (own[-1].line or "").strip()
        where = f" (line {own[-1].lineno}" + (f": `{text[:100]}`" if text else "") + ")"
    if isinstance(error, KeyboardInterrupt):
        return f"was interrupted{where}"
    try:
        message = first_line(error)
    except Exception:  # whatever a __str__ of the student's raises
        message = ""
    kind = type(error).__name__
    return f"raised {kind}{f': {message}' if message not in ('', kind) else ''}{where}"
