"""How a notebook's kernel is spoken to while it is executed."""

import contextlib
from queue import Empty
from typing import Any

from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from traitlets import Type


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
