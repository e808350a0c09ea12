"""Normalizers in states of which a backend that does not call them may know nothing."""

import random

import torch
from torch import nn

from qlstm.normalizers import BatchNorm, Identity, LayerNorm, WeightNorm

PLACES = ["norm_ih_l0", "norm_hh_l0", "norm_c_l0"]


def mix(layer, seed, odd=0.04):
    """Changes the normalizers of a ``layer`` of one layer at random, always alike for a ``seed``.

    ``odd``: how likely each is that naive alone can do.
    """
    rng, d = random.Random(seed), layer.hidden_size
    torch.manual_seed(seed)
    kinds = [Identity, WeightNorm, LayerNorm, BatchNorm, BatchNorm, BatchNorm]
    steps = rng.choice([None, 1, 2])
    kind = rng.choice(kinds)
    for place in PLACES:
        features = (d,) if place == "norm_c_l0" else (layer.gates, d)
        own = kind if len(features) == 2 else rng.choice([Identity, BatchNorm][: layer.states])
        norm = (rng.choice(kinds) if rng.random() < odd else own)(features, d, steps)
        for name, value in norm.state_dict().items():
            value.uniform_(0.5, 2) if name == "running_var" else value.normal_()
        setattr(layer, place, norm.train(rng.random() < 0.5))
        norm.momentum, norm.biased = rng.choice([0.0, 0.1, 0.5, 1.0]), rng.random() < 0.5
        if rng.random() < odd:
            norm.eps = rng.choice([1e-12, 0.1])
        if isinstance(norm, BatchNorm) and rng.random() < 0.3:
            norm.fix_shift()
        norm.to(layer.weight_hh_l0)
        if isinstance(norm, LayerNorm | BatchNorm):
            norm.gain.requires_grad_(rng.random() < 0.7)
        # not for batch normalization, whose gradient torch takes for that of contiguous gains
        if isinstance(norm, LayerNorm) and rng.random() < 0.5:
            norm.gain = nn.Parameter(stretched(norm.gain.detach()))
        if isinstance(norm, LayerNorm) and rng.random() < odd:
            norm.gain = nn.Parameter(norm.gain.detach()[..., :1].clone())
        if rng.random() < odd:
            norm.register_forward_hook(_double)
        if rng.random() < odd:
            norm.forward = _third
    if kind is BatchNorm and rng.random() < odd:
        layer.norm_hh_l0 = layer.norm_ih_l0
    return layer


def _double(norm, arguments, output):
    return 2 * output


def _third(product, t):
    return product / 3


def stretched(tensor):
    """The same numbers, not next to each other."""
    return tensor.repeat_interleave(2, -1)[..., ::2]
