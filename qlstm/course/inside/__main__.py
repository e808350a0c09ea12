"""Start a submission's process: it is spoken to by its standard input and output.

On Linux three processes come of it. The first one waits and, told to end, ends everything below it;
the second one is the first of a namespace of processes, where there are such; the third one runs
the cells.
"""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

from qlstm.course.inside import sandbox
from qlstm.course.inside.runner import Runner


def main():
    """Run the cells that come, with the settings of the command line."""
    settings = json.loads(sys.argv[1])
    del sys.argv[1:]
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    separate = read_only = False
    if sys.platform == "linux":
        separate = "separate" in settings["protections"] and sandbox.separate()
        sandbox.keep_children()
        if separate:
            _supervise(requests, replies)
            read_only = sandbox.own_view(settings["folder"], settings["readable"])
        _supervise(requests, replies)
    sandbox.limit(settings["memory"])
    confined = "confine" in settings["protections"] and sandbox.confine(
        settings["folder"], settings["readable"])
    Runner(requests, replies).serve(
        {"separate": separate, "read_only": read_only, "confined": confined,
         "version": sandbox.landlock()})


def _supervise(*pipes):
    """Go on in a child; here end with it, and with all that it has started."""
    child = os.fork()
    if child == 0:
        sandbox.end_with_parent()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return
    for pipe in pipes:
        os.close(pipe.fileno())
    signal.signal(signal.SIGTERM, lambda *_: _end(child))
    while os.wait()[0] != child:
        pass
    _end()


def _end(*children):
    """Kill children, and the orphans that become children, until there are none."""
    while True:
        for child in (*children, *_children()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            os._exit(0)


def _children():
    """Those of this process; none where ``/proc`` is that of the namespace below it, which ends
    with its first process."""
    return [int(word) for path in Path("/proc/self/task").glob("*/children")
            for word in path.read_text().split()]


if __name__ == "__main__":
    main()
