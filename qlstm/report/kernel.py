"""The kernel that a notebook is executed in without anybody watching: of this interpreter and this
checkout, whatever the user has set for Jupyter, IPython and Matplotlib.

Started as a module it is the kernel's process.
"""

import contextlib
import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from queue import Empty
from typing import Any, ClassVar

from jupyter_client import AsyncKernelManager
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.kernelspec import KernelSpec
from traitlets import Type

from qlstm.data.storage import python_path

SETTINGS = ("JUPYTER", "JPY_", "IPYTHON", "MPLBACKEND", "MATPLOTLIBRC", "PYTHONSTARTUP")
"""What the names of variables begin with that a kernel is started without."""
IN_A_FOLDER = os.name == "posix"
"""Whether there are sockets in folders."""
LONGEST = 60
"""Characters of the folder that the sockets' folder is made in; their paths have 104 at most."""


class PatientChannel(AsyncZMQSocketChannel):
    """Looks for a reply each second: the socket tells of one once, and what nbclient sends for a
    widget can swallow that.

    Else a cell with widgets is done now and then, and nbclient waits for it forever
    (jupyter/nbclient#312).
    """

    async def get_msg(self, timeout: float | None = None) -> dict[str, Any]:
        """The next message.

        Args:
            timeout: The seconds to wait for one; ``None`` waits forever.

        Raises:
            queue.Empty: There was none in that time.
        """
        while timeout is None:
            with contextlib.suppress(Empty):
                return await super().get_msg(timeout=1)
        return await super().get_msg(timeout)


class KernelClient(AsyncKernelClient):
    """jupyter_client's, with a :class:`PatientChannel`."""

    shell_channel_class = Type(PatientChannel)


class Kernel(AsyncKernelManager):
    """Starts and ends a kernel for nbclient (its ``kernel_manager_class``).

    It is spoken to by sockets in a folder of its own, as kernels that start side by side would race
    for ports (on Windows, which has no such sockets, by ports). Kernels that are installed are not
    looked at.

    Args:
        more: What nbclient gives, which is of no importance here.

    Attributes:
        ended: How the last kernel of this process ended by itself: its exit status, or minus the
            number of the signal that killed it; None if it did not.
    """

    ended: ClassVar[int | None] = None

    def __init__(self, **more: Any):
        short = len(tempfile.gettempdir()) <= LONGEST or not IN_A_FOLDER
        self._folder = tempfile.TemporaryDirectory(
            prefix="qlstm", dir=None if short else "/tmp", ignore_cleanup_errors=True)
        sockets = {"transport": "ipc", "ip": f"{self._folder.name}/k"} if IN_A_FOLDER else {}
        super().__init__(**more, **sockets, connection_file=f"{self._folder.name}/k.json",
                         client_factory=KernelClient)

    @property
    def kernel_spec(self) -> KernelSpec:
        """What is started."""
        return KernelSpec(
            argv=[sys.executable, "-m", __name__, "-f", "{connection_file}"],
            display_name="Python 3", language="python",
            metadata={"kernel_provisioner": {"provisioner_name": "local-provisioner"}})

    async def start_kernel(self, **more: Any):
        """Start the kernel's process.

        Args:
            more: As jupyter_client's.
        """
        await super().start_kernel(env=surroundings(self._folder.name), **more)

    async def cleanup_resources(self, restart: bool = False):
        """Remove what the kernel leaves.

        Args:
            restart: As jupyter_client's.
        """
        Kernel.ended = await self.provisioner.poll() if self.has_kernel else None
        await super().cleanup_resources(restart)
        self._folder.cleanup()


def surroundings(folder: str) -> dict[str, str]:
    """The environment of a kernel's process: this one's, without :data:`SETTINGS`.

    Args:
        folder: An empty one, in place of the user's settings.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    return kept | {"IPYTHONDIR": folder, "JUPYTER_CONFIG_DIR": folder,
                   "JUPYTER_RUNTIME_DIR": folder, "MATPLOTLIBRC": os.devnull,
                   "MPLBACKEND": "module://matplotlib_inline.backend_inline",
                   "PYTHONPATH": python_path(),
                   "PYDEVD_DISABLE_FILE_VALIDATION": "1"}  # of a debugger that kernels import


def main():
    """Be a kernel, without anybody's configuration and startup files."""
    from ipykernel.kernelapp import IPKernelApp

    class App(IPKernelApp):
        def load_config_file(self, *_, **__):
            pass

        def _run_startup_files(self):
            pass

    here = os.getcwd()
    os.chdir(Path(__file__).parent)
    # reads a file of settings in the folder that it is imported in; what it says goes to the log
    import_module("matplotlib.font_manager")
    os.chdir(here)
    App.launch_instance()


if __name__ == "__main__":
    main()
