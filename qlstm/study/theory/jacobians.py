r"""What one step does to a gradient: its Jacobian on the pair (h, c), measured.

A gradient travels back as a product: with $s_t = (h_t, c_t)$ and a loss $\xi_T$ of the last step,

$$
\frac{\partial \xi_T}{\partial s_t} = \frac{\partial \xi_T}{\partial s_T} J_T J_{T-1} \cdots
J_{t+1}, \qquad J_t = \frac{\partial (h_t, c_t)}{\partial (h_{t-1}, c_{t-1})}.
$$

$\|J_t\|_2$ is the most that step t can multiply it by. Where that is below 1 at every step, the
gradient shrinks; where it is above, it may grow or not: the norm of the product decides.

No $\lambda_1$ of :mod:`~qlstm.study.theory.propositions` does, as it leaves out the gradient that
stays on the cell state: :func:`open_gates` is a network with $\lambda_1 = 1/2$ whose gradient
grows. What $\lambda_1$ and $\lambda_2$ can say of many steps, :func:`limit` says.
"""

import itertools

import torch
from torch import Tensor, nn

from qlstm.layer import State
from qlstm.models import LanguageModel
from qlstm.study.theory.forward import forward
from qlstm.study.theory.slips import example


@torch.enable_grad()
def step_jacobians(model: nn.Module, inputs: Tensor, sample: int = 0,
                   state: State | None = None) -> Tensor:
    r"""$J_t$ of the top layer for one sample at the time steps t = 1 .. T, in float64.

    With batch normalization a sample's next state depends on the other samples' states too. They
    are held as they are: $J_t$ says what a change of this sample alone does to it, its share in the
    statistics of the minibatch included.

    Args:
        model: A network with its layer as ``model.rnn``, or such a layer; it is not changed.
        inputs: What it takes, (T, N, ...).
        sample: Which of the N samples.
        state: The initial state, (layers, N, d) each, if not the model's own.

    Returns:
        (T, 2d, 2d), the rows those of $(h_t, c_t)$; of a GRU, which has no c, (T, d, d).
    """
    steps = list(zip(*forward(model, inputs, state).states, strict=True))
    kinds, (samples, d) = len(steps[0]), steps[0][0].shape
    rows = torch.zeros(kinds, kinds, d, samples, d, dtype=torch.float64, device=inputs.device)
    for kind in range(kinds):  # a row for each number of a state
        rows[kind, kind, :, sample].fill_diagonal_(1)
    rows = rows.flatten(1, 2)
    found = []
    for t, (before, after) in enumerate(itertools.pairwise(steps)):
        blocks = _back(after, before, rows)
        if kinds == 2 and t:  # h_{t-1}, which is held, is made of c_{t-1}
            blocks[1] = blocks[1] - _back(before[:1], before[1:], blocks[:1])[0]
        found.append(torch.cat([block[:, sample] for block in blocks], -1))
    return torch.stack(found)


def _back(outputs, inputs, rows):
    """Each of the ``rows``, gradients of the outputs, as gradients of the inputs."""
    return list(torch.autograd.grad(outputs, inputs, list(rows), retain_graph=True,
                                    is_grads_batched=True, materialize_grads=True))


def growth(jacobians: Tensor) -> Tensor:
    r"""The growth a step of products of Jacobians, $\|J_T J_{T-1} \cdots J_{T-k+1}\|_2^{1/k}$.

    Args:
        jacobians: $J_1, \ldots, J_T$, of shape (T, n, n).

    Returns:
        (T,), for k = 1 .. T.

    Example:
        >>> growth(2.0 * torch.eye(3).expand(4, 3, 3)).tolist()
        [2.0, 2.0, 2.0, 2.0]
    """
    product, logarithm, found = torch.eye(jacobians.shape[-1]).to(jacobians), 0.0, []
    for k, jacobian in enumerate(jacobians.flip(0), 1):
        product = product @ jacobian
        norm = torch.linalg.matrix_norm(product, 2)
        product, logarithm = product / norm, logarithm + norm.log()
        found.append((logarithm / k).exp())
    return torch.stack(found)


def limit(lambda_1: Tensor, lambda_2: Tensor, forget: Tensor) -> Tensor:
    r"""The growth a step that $\lambda_1$ and $\lambda_2$ allow an LSTM's gradient in the long run.

    Beside the proposition there is the cell state's own way: $\partial \xi / \partial c_t$ is
    $\partial \xi / \partial h_t$ times factors of at most 1, plus
    $\partial \xi / \partial c_{t+1} \odot \sigma(\tilde f_{t+1})$. So with $p_t$ and $q_t$, the
    norms of the gradients of $h_t$ and $c_t$, and $\varphi$, the largest value of a forget gate,

    $$
    \begin{pmatrix} p_{t-1} \\ q_t \end{pmatrix} \le
    \begin{pmatrix} \lambda_1 & \lambda_2 \\ 1 & \varphi \end{pmatrix}
    \begin{pmatrix} p_t \\ q_{t+1} \end{pmatrix} ,
    $$

    and over many steps neither norm grows faster than by the spectral radius of the matrix. That is
    above 1 if and only if $\lambda_1 + \lambda_2 / (1 - \varphi) > 1$ (for $\varphi < 1$): this,
    not $\lambda_1 > 1$, is necessary for a gradient that keeps growing. (All three are the largest
    along the run.)

    Args:
        lambda_1: The factor $\lambda_1$.
        lambda_2: The factor $\lambda_2$, of the same shape.
        forget: $\varphi$, of the same shape.

    Returns:
        The spectral radius, of the same shape.

    Example:
        >>> half = torch.tensor(0.5)
        >>> limit(half, torch.tensor(0.0), half).item()
        0.5
    """
    mean = (lambda_1 + forget) / 2
    return mean + (((lambda_1 - forget) / 2).square() + lambda_2).sqrt()


def open_gates(steps: int = 50, bias: float = 4.0) -> tuple[LanguageModel, Tensor, Tensor]:
    r"""A network with $\lambda_1 = \lambda_2 = 1/2$ whose gradient grows.

    $W_{ha} = I/2$, all other recurrent matrices are 0, and large biases hold the gates open. So
    $\partial \xi / \partial c_t = \partial \xi / \partial h_t + \partial \xi / \partial c_{t+1}$
    and $\partial \xi / \partial h_{t-1} = \frac12\, \partial \xi / \partial c_t$, up to factors
    $\sigma(b) \approx 1$: both grow nearly 3/2 times a step. Input has no effect, and h = c = 0.

    Args:
        steps: Time steps T.
        bias: The bias b of the three gates.

    Returns:
        The model in float64, of three units, the inputs and the targets, (T, 3) each.
    """
    matrices = [[[0.0] * 3] * 3] * 4
    matrices[2] = [[0.5, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.5]]
    return example(steps=steps, weight_ih_l0=0.0, weight_hh_l0=[row for m in matrices for row in m],
                   bias_l0=[bias] * 6 + [0.0] * 3 + [bias] * 3)
