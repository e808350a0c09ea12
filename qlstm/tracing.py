"""What ``torch.compile``, ``torch.export`` and ``torch.func`` cannot take as one would write it."""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

try:
    from torch.utils._python_dispatch import _disable_current_modes
except ImportError:  # it is not public
    _disable_current_modes = contextlib.nullcontext


def is_transformed() -> bool:
    """Whether ``torch.func`` transforms what is computed (``vmap``, ``grad``), or it is recorded
    for export; also where torch does not say, as the name is not public."""
    transformed = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
    return transformed() or torch.compiler.is_exporting()


def between_graphs(function: Callable, *arguments, **keywords):
    """What the ``function`` returns for its ``arguments`` and ``keywords``; ``torch.compile`` runs
    it between two graphs, as it is."""
    if not torch.compiler.is_compiling():
        return function(*arguments, **keywords)
    from qlstm.uncompiled import call

    return call(function, *arguments, **keywords)


@contextlib.contextmanager
def untransformed():
    """A context in which tensors are made that no transformation and no mode knows."""
    disabled = getattr(torch._C, "_DisableFuncTorch", contextlib.nullcontext)
    with _disable_current_modes(), disabled(), torch.inference_mode(False):
        yield


def repeat(step: Callable, state: tuple[Tensor, ...], times: int) -> tuple[Tensor, ...]:
    """``step``, from a state to the next, again and again.

    Args:
        step: A function of the tensors of a state, which returns the next state.
        state: The first one. It ends where nothing is True in its last tensor, a boolean one.
        times: Steps at most.

    Returns:
        The last state.

    >>> repeat(lambda n, more: (2 * n, 2 * n < 9), (torch.tensor(3), torch.tensor(True)), 100)
    (tensor(12), tensor(False))
    """
    if not torch.compiler.is_compiling():  # under vmap a tensor has no truth of its own
        for _ in range(times):
            state = step(*state)
            if not is_transformed() and not state[-1].any():
                break
        return state
    from torch._higher_order_ops import while_loop  # seconds of imports, that it makes anyway

    def goes_on(count, *state):
        return state[-1].any() & (count < times)

    def once_more(count, *state):
        return count + 1, *step(*state)

    count = torch.zeros((), dtype=torch.int64, device=state[0].device)
    return while_loop(goes_on, once_more, (count, *state))[1:]


def without_autocast(device: str):
    """A context in which products are in the precision of their factors; an exported program, which
    could not be stored with it, has none.

    Args:
        device: The type of device.
    """
    if torch.compiler.is_exporting():
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)


def pseudo_inverse(gram: Tensor) -> Tensor:
    r"""Of symmetric matrices (..., k, k), $B' B$ of k columns of $\pm 1$.

    An exported program of two planes has the formula, as ONNX has no such operator: with n on the
    diagonal and s beside it the eigenvalues are $n + s$ and $n - s$.

    Args:
        gram: The matrices.

    >>> pseudo_inverse(torch.tensor([[3.0, 3.0], [3.0, 3.0]]))
    tensor([[0.0833, 0.0833],
            [0.0833, 0.0833]])
    """
    if gram.shape[-1] != 2 or not torch.compiler.is_exporting():
        return torch.linalg.pinv(gram, hermitian=True)
    n, s = gram[..., :1, :1], gram[..., :1, 1:]
    both, apart = (torch.where(value == 0, value, 0.5 / value) for value in (n + s, n - s))
    return torch.cat([torch.cat([both + apart, both - apart], -1),
                      torch.cat([both - apart, both + apart], -1)], -2)
