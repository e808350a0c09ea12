"""Executes the cells of a submission and says what its variables hold, as the grader asks."""

import ast
import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

from qlstm.course.crashes import raised
from qlstm.course.inside import wire


class Runner:
    """A student's notebook while it is run.

    Args:
        requests: Where the grader's messages come from.
        replies: Where the answers go.
    """

    def __init__(self, requests: BinaryIO, replies: BinaryIO):
        from IPython.core.interactiveshell import InteractiveShell
        from traitlets.config import Config

        self.requests, self.replies = requests, replies
        self.functions: list[Callable] = []
        self.shell = InteractiveShell.instance(config=Config(
            {"HistoryManager": {"enabled": False}, "InteractiveShell": {"autocall": 0}}))
        self.shell.system = self.shell.system_raw  # without a terminal
        self.shell.showtraceback = self.shell.showsyntaxerror = lambda *_, **__: None
        self.shell.ask_exit = lambda: None
        sys.path[0] = ""  # as in a kernel

    def serve(self, hello: dict[str, Any]):
        """Do what the grader asks, until it asks no more.

        Args:
            hello: The first message to it.
        """
        wire.send(self.replies, hello)
        process = os.getpid()
        while True:
            try:
                message, body = wire.receive(self.requests)
            except EOFError:
                return
            encoder = wire.Encoder(self._number)
            try:
                with _interruptible():
                    reply = self._reply(message, body, encoder)
            except BaseException as error:  # whatever a student's code raises
                reply = {"error": _brief(error)}
                encoder = wire.Encoder()
            if os.getpid() != process:  # a fork that has not left the cell
                os._exit(0)
            wire.send(self.replies, reply, encoder.parts)

    def _reply(self, message, body, encoder):
        if "run" in message:
            return {"error": self._run(message["run"])}
        if "answers" in message:
            found = self._answers(message["source"], message["exercise"], message["answers"])
            return {"answers": {name: encoder.encode(value) for name, value in found.items()}}
        return self._call(self.functions[message["call"]],
                          [wire.decode(item, body) for item in message["arguments"]], encoder)

    def _run(self, source):
        result = self.shell.run_cell(source, store_history=False, silent=True)
        if pyplot := sys.modules.get("matplotlib.pyplot"):
            pyplot.close("all")  # as in a notebook, where each cell has figures of its own
        error = result.error_before_exec or result.error_in_exec
        return error and _brief(error)

    def _answers(self, source, exercise, names):
        """The answers by their ``names``: what a cell's call of the check has for them, else the
        variables."""
        given = {}
        with contextlib.suppress(SyntaxError, ValueError):
            plain = re.sub(r"\A\s*%%.*\n", "", source)  # as %%time
            for call in ast.walk(ast.parse(self.shell.transform_cell(plain))):
                if isinstance(call, ast.Call) and exercise in map(_constant, call.args):
                    given |= {part.arg: ast.unparse(part.value) for part in call.keywords}
        found = {}
        for name in names:
            with contextlib.suppress(Exception):
                found[name] = eval(given.get(name, name), self.shell.user_ns)
        return found

    def _call(self, function, arguments, encoder):
        try:
            return {"result": encoder.encode(function(*arguments))}
        except BaseException as error:
            return {"error": raised(error, function)}

    def _number(self, function):
        self.functions.append(function)
        return len(self.functions) - 1


def _constant(node):
    return node.value if isinstance(node, ast.Constant) else None


def _brief(error: BaseException) -> str:
    try:
        message = re.sub(r"\s+", " ", str(error))[:300]
    except Exception:
        message = ""
    name = type(error).__name__
    return f"{name}: {message}" if message else name


@contextlib.contextmanager
def _interruptible():
    """Take the grader's interrupts as Python does; outside of this they are not heard."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
