"""``python -m qlstm COMMAND ...``: the commands of the study."""

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

from qlstm.data.storage import CHECKOUT, ROOT, python_path
from qlstm.errors import MissingError
from qlstm.workflow.command_line import follow

COMMANDS = {
    "run": ("workflow.run", "train runs of a profile's grid, on a bare machine too"),
    "reproduce": ("workflow.reproduce reproduce",
                  "train what is missing, then make all tables, figures and the page"),
    "plan": ("workflow.reproduce plan", "what reproduce would train, and the hours it takes"),
    "report": ("workflow.reproduce report",
               "tables, figures and page from the records that exist"),
    "data": ("workflow.reproduce data", "fetch and check the data sets"),
    "status": ("workflow.progress", "what is done, running, failed"),
    "bench": ("workflow.bench", "time layer, training step and use beside torch.nn.LSTM"),
    "gpu": ("workflow.gpu.command", "the most of a GPU that is lent for minutes"),
    "notebook": ("workflow.notebooks", "execute a notebook with parameters"),
    "site": ("report.site", "lessons, results and API reference as pages to read offline"),
    "clean": ("workflow.clean", "remove what the profiles smoke and quick made"),
    "course": ("course.command", "hand-outs, slides and grades of the lessons"),
}
"""By the command: the module whose ``main`` does it, followed by the words that its arguments begin
with; and what the command does."""
PROFILES = {"status": 1, "site": "*"}
"""Commands without options, and how many names of profiles they take; their modules leave it to
this one to check that and to give help."""
FOLDERS = ("QLSTM_DATA", "QLSTM_MIRROR", "QLSTM_REPORTS")
"""Variables that name folders."""
CHANGING = ("PYTHONINSPECT", "PYTHONOPTIMIZE", "PYTHONWARNINGS")
"""Variables that change how Python ends, what it leaves out and what it raises; no process that is
started here is to have them."""


def settle():
    """See to it that all that this process starts, in whatever folder, is of the same checkout and
    finds the same folders: relative ones are of the folder in which it is started.

    Raises:
        SystemExit: It is started in another checkout than the one that Python imports.
    """
    here = Path("qlstm", "__main__.py")
    if here.exists() and not here.samefile(__file__):
        sys.exit(f"error: this folder is a checkout, but Python imports the one of {CHECKOUT}; "
                 "call make, or unset PYTHONSAFEPATH")
    if CHECKOUT == ROOT:
        if os.pathsep in str(ROOT):
            sys.exit(f"error: the path of the checkout, {ROOT}, has a {os.pathsep!r}, which "
                     "Python's path cannot: rename it")
        os.environ["PYTHONPATH"] = python_path()
    for name in FOLDERS:
        if (folder := os.environ.get(name)) and "://" not in folder:
            os.environ[name] = os.path.abspath(os.path.expanduser(folder))


def main(arguments: list[str]) -> int:
    """Hand the command line to the module of its command.

    Only that module is imported, so that a command needs no package that only others use.

    Args:
        arguments: The words of the command line, the name of the command first.

    Returns:
        The exit status: that of the command, or 2 if there is no such command.
    """
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print("python -m qlstm COMMAND ...     (COMMAND --help says more)\n")
        print("\n".join(f"  {command:10} {about}" for command, (_, about) in COMMANDS.items()))
        return 0
    if name not in COMMANDS:
        print(f"error: unknown command {name!r}; possible: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    place, about = COMMANDS[name]
    if name in PROFILES:
        parser = argparse.ArgumentParser(prog=f"python -m qlstm {name}", description=about)
        parser.add_argument("profile", nargs=PROFILES[name], help="smoke, quick or paper")
        rest = parser.parse_args(rest).profile
    module, *first = place.split()
    return import_module(f"qlstm.{module}").main([*first, *rest])


def plain_streams():
    """Make what is printed arrive, or be gone, but raise nothing: letters that the terminal or file
    does not know become question marks, and a closed stream leads to nowhere."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # >&-; the next file that is opened would get its number
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))
    sys.stdout.reconfigure(errors="replace")


if __name__ == "__main__":
    for variable in CHANGING:
        os.environ.pop(variable, None)
    plain_streams()
    follow()
    settle()
    try:
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has enough, as in make reproduce | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 1
    except (OSError, MissingError) as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        status = 130
    sys.exit(status)
