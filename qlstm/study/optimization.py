"""How the weights of a run are optimized: the optimizer, and the learning rate of each epoch.

``config`` holds the settings of the run; ``optimizer`` is what :func:`make_optimizer` returns.
"""

import math

import torch
from torch import Tensor, nn

from qlstm.study.config import ExperimentConfig


def make_optimizer(config: ExperimentConfig, model: nn.Module) -> torch.optim.Optimizer:
    r"""Make the optimizer of a run: SGD for words, Adam for characters and images.

    The parameters form two groups, the latent matrices and everything else. A group has two
    entries beside torch's own: ``scale``, a factor on its learning rate, and ``decays``, which
    tells whether its rate follows the schedule at all. For words BinaryConnect and TerConnect
    scale the rate of the matrices by $2 / a$ with $a = 1 / \sqrt{d}$.

    Args:
        config: The settings of the run.
        model: The network of the run, whose parameters are to be optimized.

    Returns:
        The optimizer. A network without quantized matrices has one group alone.
    """
    words = config.task == "word_lm"
    scaled = words and config.quantizer in ("binary_connect", "ter_connect")
    names = [f"weight_{side}_l{k}" for side in ("ih", "hh") for k in range(config.num_layers)]
    latent = {f"rnn.{name}" for name in names if model.rnn.quantizes(name)}
    named = list(model.named_parameters())
    groups = [
        {"params": [p for name, p in named if name in latent],
         "scale": 2 * math.sqrt(config.hidden_size) if scaled else 1.0, "decays": True},
        {"params": [p for name, p in named if name not in latent],
         "scale": 1.0, "decays": config.decay == "all"},
    ]
    kind = torch.optim.SGD if words else torch.optim.Adam
    return kind([group for group in groups if group["params"]], lr=config.learning_rate, fused=True)


def learning_rate(config: ExperimentConfig, epoch: int, valid_losses: list[float]) -> float:
    r"""Return the learning rate of an epoch.

    With the first rate $\eta$ and the decay $\gamma$, epoch $e$ of $E$ has, for characters, images
    and words in turn,

    $$ \eta \gamma^{\max(0, e - 11)}, \qquad \eta \gamma^{(e - 1) / E}, \qquad \eta \gamma^k $$

    where $k$ counts the epochs whose validation loss was not below the best one before them. The
    rate of characters is thus lowered for the first time in epoch 12.

    Args:
        config: The settings of the run.
        epoch: The epoch, counted from 1.
        valid_losses: The validation loss of each epoch before this one; words alone use it.

    Returns:
        The rate, to be applied with :func:`set_learning_rate`.
    """
    rate, decay = config.learning_rate, config.lr_decay
    if config.task == "char_lm":
        return rate * decay ** max(0, epoch - 11)
    if config.task == "sequential_image":
        return rate * decay ** ((epoch - 1) / config.epochs)
    best, rises = math.inf, 0
    for loss in valid_losses:
        rises += not loss < best
        best = min(best, loss)
    return rate * decay**rises


def set_learning_rate(config: ExperimentConfig, optimizer: torch.optim.Optimizer, rate: float):
    """Give each group of parameters its learning rate for an epoch.

    Args:
        config: The settings of the run, whose first rate goes to the groups that do not decay.
        optimizer: The optimizer whose groups are changed.
        rate: The rate of the epoch, which the groups that decay take, times their scale.
    """
    for group in optimizer.param_groups:
        own = group["scale"] * (rate if group["decays"] else config.learning_rate)
        if isinstance(group["lr"], Tensor):  # a CUDA graph reads this very tensor
            group["lr"].fill_(own)
        else:
            group["lr"] = own


def rate_is_spent(
    config: ExperimentConfig, optimizer: torch.optim.Optimizer, rate: float
) -> bool:
    """Return whether training may end as all parameters have come below the least learning rate.

    Args:
        config: The settings of the run, with the least learning rate.
        optimizer: The optimizer; a group that does not decay is never spent.
        rate: The rate of the epoch to come.
    """
    return (rate < config.min_learning_rate
            and all(group["decays"] for group in optimizer.param_groups))
