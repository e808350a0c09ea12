"""``python -m qlstm COMMAND ...``: the commands of the study."""

import sys
from importlib import import_module

COMMANDS = {
    "run": ("workflow.run", "train runs of a profile's grid, on a bare machine too"),
    "reproduce": ("workflow.reproduce",
                  "train what is missing, then make all tables, figures and the page"),
    "plan": ("workflow.reproduce", "what reproduce would train, and the hours it takes"),
    "report": ("workflow.reproduce", "tables, figures and page from the records that exist"),
    "data": ("workflow.reproduce", "fetch and check the data sets"),
    "status": ("workflow.progress", "what is done, running, failed"),
    "bench": ("workflow.bench", "time layer and training step beside torch.nn.LSTM"),
    "notebook": ("workflow.notebooks", "execute a notebook with parameters"),
    "page": ("report.profile_page", "the page of a profile"),
    "site": ("report.site", "lessons, results and API reference as pages to read offline"),
    "course": ("course.handouts", "hand-outs, solutions and grades of the lessons"),
}
"""The module of each command, whose ``main`` takes the arguments, and what the command does."""


def main(arguments: list[str]) -> int:
    """Hand the ``arguments`` to the command that the first of them names; returns its exit
    status."""
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print("python -m qlstm COMMAND ...\n")
        print("\n".join(f"  {command:10} {about}" for command, (_, about) in COMMANDS.items()))
        return 0
    if name not in COMMANDS:
        print(f"error: unknown command {name!r}; possible: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module = import_module(f"qlstm.{COMMANDS[name][0]}")
    if COMMANDS[name][0] == "workflow.reproduce":
        rest = [name, *rest]
    return module.main(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
