"""From a layer of torch to one of the study, and back."""

import torch
from torch import nn

from qlstm.errors import ConfigError
from qlstm.normalizers import Identity, WeightNorm
from qlstm.weight import suffix

SHARED = ("bias", "batch_first", "dropout", "bidirectional")
"""Arguments that pass from one to the other."""


@torch.no_grad()
def from_torch(cls: type[nn.Module], theirs: nn.Module, settings: dict) -> nn.Module:
    """A layer with the weights of one of torch.

    Args:
        cls: ``QuantLSTM`` or ``QuantGRU``.
        theirs: The layer of torch.
        settings: What the new one has beside the arguments of ``theirs``.

    Returns:
        It, in the same mode and precision, on the same device.

    Raises:
        ConfigError: They do not fit.
    """
    if not isinstance(theirs, cls.plain) or theirs.proj_size:
        projected = isinstance(theirs, cls.plain)
        raise ConfigError(f"from_torch takes a torch.nn.{cls.mode} without projection, not "
                          f"{type(theirs).__name__}{' with proj_size' * projected}")
    sizes = {name: getattr(theirs, name) for name in ("input_size", "hidden_size", "num_layers")}
    fixed = sizes | {name: getattr(theirs, name) for name in ("bias", "bidirectional")}
    for name, value in fixed.items():
        if settings.get(name, value) != value:
            raise ConfigError(f"{name}={settings[name]!r}, but the network has {name}={value!r}")
    like = theirs.weight_ih_l0
    settings = {name: getattr(theirs, name) for name in SHARED} | {
        "device": like.device, "dtype": like.dtype} | settings | sizes
    ours = cls(**settings)
    d = ours.hidden_size
    for k, reverse in ours.places:
        place = suffix(k, reverse)
        for side in ("ih", "hh"):
            weight = ours.weight(side, k, reverse)
            given = getattr(theirs, weight.name)
            weight.latent.copy_(given.view_as(weight.latent))
            if isinstance(weight.norm, WeightNorm):
                gain = weight.norm.gain
                gain.copy_(torch.linalg.vector_norm(given, dim=-1).view_as(gain))
        if theirs.bias:
            given = [getattr(theirs, f"bias_{side}_{place}") for side in ("ih", "hh")]
            own = ours.biases(k, reverse)
            if len(own) == 1:
                b_hn = given[1][2 * d :]
                if ours.mode == "GRU" and not b_hn.is_meta and b_hn.any():
                    raise ConfigError("the bias b_hn of a GRU is multiplied by the reset gate, so "
                                      "that it takes a vector of its own: biases=2")
                given = [given[0] + given[1]]
            for bias, value in zip(own, given, strict=True):
                bias.copy_(value)
    return ours.train(theirs.training)


@torch.no_grad()
def to_torch(ours: nn.Module) -> nn.Module:
    """A layer of torch that computes the same, with the effective weights.

    Args:
        ours: A ``QuantLSTM`` or ``QuantGRU`` without normalization, or with weight normalization.

    Returns:
        A ``torch.nn.LSTM`` or ``torch.nn.GRU``, in the same mode and precision, on the same device.

    Raises:
        ConfigError: Products are normalized in a way that it has not.
    """
    norms = [norm for place in ours.places for norm in ours.norms(*place)]
    other = {type(norm).__name__ for norm in norms if not isinstance(norm, Identity | WeightNorm)}
    if other:
        raise ConfigError(f"a torch.nn.{ours.mode} cannot normalize products, as {min(other)} does;"
                          " take qlstm.export_c or torch.export to deploy it")
    like = ours.like
    theirs = ours.plain(
        ours.input_size, ours.hidden_size, ours.num_layers, device=like.device, dtype=like.dtype,
        **{name: getattr(ours, name) for name in SHARED})
    for k, reverse in ours.places:
        place = suffix(k, reverse)
        for side in ("ih", "hh"):
            weight = ours.weight(side, k, reverse)
            getattr(theirs, weight.name).copy_(weight.effective())
        if ours.bias:
            first, *second = ours.biases(k, reverse)
            getattr(theirs, f"bias_ih_{place}").copy_(first)
            getattr(theirs, f"bias_hh_{place}").copy_(*second or [torch.zeros_like(first)])
    return theirs.train(ours.training)
