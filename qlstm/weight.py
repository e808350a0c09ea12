r"""The latent weight: one matrix that trains, and the quantized one that the layer computes with.

A latent matrix $W$ goes this way before the loop over time, once in each forward pass:

$$ W \;\to\; \hat W = \mathrm{quantize}(W) \;\to\; N_W(\hat W) $$

It is quantized gate by gate; its gradient is that of $\hat W$, straight through
(:func:`qlstm.quantizers.straight_through`); weight normalization, where it is chosen, rescales the
rows of $\hat W$.
"""

import functools
import inspect
import weakref
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qlstm.arguments import check_precision
from qlstm.errors import ConfigError
from qlstm.normalizers import Normalizer, WeightNorm, make_normalizer
from qlstm.quantizers import QUANTIZERS, Quantized, straight_through
from qlstm.recurrence.codes import Codes, pack, plane_scales, planes, unpack, words_by_row
from qlstm.tracing import between_graphs, untransformed


class _MadeOf(NamedTuple):
    """What a packed matrix was made of: tensors, and what tells that these have changed."""

    tensors: list[weakref.ref]
    state: tuple

    def is_still(self, other: "_MadeOf") -> bool:
        """Whether the ``other`` has the same tensors, unchanged."""
        return self.state == other.state and all(
            own() is its() for own, its in zip(self.tensors, other.tensors, strict=True))


_KEPT: weakref.WeakKeyDictionary[nn.Module, dict[str, tuple[_MadeOf, Codes | None]]] = (
    weakref.WeakKeyDictionary())
"""Of each layer the packed matrices by name."""


def suffix(k: int, reverse: bool) -> str:
    """What the names of the tensors of layer ``k`` end in, also of its ``reverse`` direction.

    >>> suffix(0, False), suffix(1, True)
    ('l0', 'l1_reverse')
    """
    return f"l{k}_reverse" if reverse else f"l{k}"


class LatentWeight:
    """The matrix of one side of one layer, a view on tensors which the layer owns.

    The layer has them under the names of ``torch.nn.LSTM``: ``weight_hh_l0`` is the latent matrix
    (gates d, n), ``norm_hh_l0`` the normalizer of its products, ``second_moment_hh_l0`` what
    loss-aware quantizers weigh by, ``frozen_codes_hh_l0`` and ``frozen_scales_hh_l0`` what stands
    in for the latent matrix, then None, of a packed model. The names of the reverse direction end
    in ``_reverse``.

    Args:
        layer: The module that owns the tensors, a :class:`qlstm.layer.QuantRNN`.
        side: ``"ih"``, the matrix $W_x$ of the inputs, or ``"hh"``, the recurrent matrix $W_h$.
        k: The number of the layer, from 0.
        reverse: Whether it is of the direction that runs backwards in time.
    """

    def __init__(self, layer: nn.Module, side: str, k: int, reverse: bool = False):
        self.layer, self.is_input = layer, (side, k) == ("ih", 0)
        self.place = f"{side}_{suffix(k, reverse)}"
        self.name, self.number = f"weight_{self.place}", 2 * k + (side == "hh") + 500 * reverse
        # n of the matrices
        self.columns = (layer.hidden_size if side == "hh" else layer.input_size if k == 0
                        else layer.hidden_size * len(layer.directions))

    def register(self):
        """Give the layer the tensors, not yet filled."""
        layer, columns = self.layer, self.columns
        shape = (layer.gates * layer.hidden_size, columns)
        layer.register_parameter(self.name, nn.Parameter(torch.empty(shape)))
        norm = make_normalizer(layer.settings["normalizer"], (layer.gates, layer.hidden_size),
                               columns, layer.settings["max_steps"])
        layer.add_module(f"norm_{self.place}", norm)
        if "second_moment" in optional_arguments(layer.quantizer):
            layer.register_buffer(f"second_moment_{self.place}", torch.empty(shape))

    def reset(self):
        """Forget the second moment: 1 stands for D = 1, no optimizer step yet."""
        if self.second_moment is not None:
            nn.init.ones_(self.second_moment)

    @property
    def latent(self) -> Tensor:
        """The matrices of all gates that train, (gates, d, n); of a frozen weight its values."""
        latent, shape = getattr(self.layer, self.name), (self.layer.gates, self.layer.hidden_size)
        return self.frozen.dense() if latent is None else latent.view(*shape, -1)

    @property
    def norm(self) -> Normalizer:
        """The normalizer of the products that are taken with this matrix."""
        return getattr(self.layer, f"norm_{self.place}")

    @property
    def second_moment(self) -> Tensor | None:
        """Adam's second moment of the gradient, (gates d, n); None if the quantizer takes none."""
        return getattr(self.layer, f"second_moment_{self.place}", None)

    def set_second_moment(self, moment: Tensor):
        """Copy Adam's second moment, of the parameter's shape, if the quantizer takes one.

        Raises:
            ValueError: ``moment`` has another shape.
        """
        if self.second_moment is None:
            return
        if moment.shape != self.second_moment.shape:
            raise ValueError(f"second moment of {self.name}: expected "
                             f"{tuple(self.second_moment.shape)}, got {tuple(moment.shape)}")
        self.second_moment.copy_(moment.detach())

    @property
    def is_quantized(self) -> bool:
        """Whether it is quantized: not in full precision, nor $W_x$ without ``quantize_input``."""
        if self.layer.quantizer is QUANTIZERS["full_precision"]:
            return False
        return self.layer.quantize_input or not self.is_input

    @property
    def frozen(self) -> Quantized | None:
        """The codes and scales that :meth:`freeze` has fixed, else None."""
        codes, scales = self._frozen_parts()
        if codes is None or codes.dtype != torch.int32:
            return None if codes is None else Quantized(codes, scales)
        shape = (self.layer.gates, self.layer.hidden_size, self.columns)
        signs = 2 * unpack(codes, self._shape).to(scales.dtype) - 1
        if len(signs) > len(scales):  # two planes of a ternary one, which differ where it is 0
            signs = signs.view(2, len(scales), *signs.shape[1:]).sum(0) / 2
        return Quantized(signs.view(-1, *shape), scales)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.layer.gates * self.layer.hidden_size, self.columns

    def _frozen_parts(self) -> list[Tensor | None]:
        return [getattr(self.layer, f"frozen_{part}_{self.place}", None)
                for part in Quantized._fields]

    def freeze(self, fixed: Quantized):
        """Fix codes and scales, in place of what the quantizer computes from the latent matrix.

        Args:
            fixed: Codes (planes, gates, d, n) and their scales. Codes of {-1, 0, +1} are kept at a
                bit or two each, the bits of :class:`qlstm.recurrence.codes.Codes`. The latent
                parameter is None then.
        """
        dtype = self.layer.like.dtype
        fixed = Quantized(*(part.detach().to(dtype).contiguous() for part in fixed))
        found = planes(fixed)
        for part, value in (("codes", fixed.codes if found is None else pack(*found).bits),
                            ("scales", fixed.scales)):
            self.layer.register_buffer(f"frozen_{part}_{self.place}", value, persistent=False)
        self.layer.register_parameter(self.name, None)
        if self.second_moment is not None:  # no loss will be weighed by it
            self.layer.register_buffer(f"second_moment_{self.place}", None)

    def quantized(self) -> Quantized:
        """Codes (planes, gates, d, n) and scales; of what is not quantized, itself with scale 1."""
        result = self._quantize()
        if isinstance(result, Quantized):
            return result
        return Quantized(result[None], result.new_ones(1, self.layer.gates, 1, 1))

    def effective(self) -> Tensor:
        """The matrix (gates d, n) that products are taken with: quantized, weight-normalized.

        Returns:
            A tensor that can be differentiated: by the latent matrix, straight through the
            quantizer, and by the gains of weight normalization.

        Raises:
            ConfigError: A quantizer of one's own has returned a matrix of another shape.
        """
        weight = latent = self.latent
        if self.is_quantized and getattr(self.layer, self.name) is not None:
            result = self._quantize()
            weight = result.dense() if isinstance(result, Quantized) else result
            if weight.shape != latent.shape:
                raise ConfigError(f"the quantizer returned {tuple(weight.shape[1:])} "
                                  f"for a {tuple(latent.shape[1:])} matrix")
            if not isinstance(self.layer.quantizer, nn.Module):  # a module defines its own gradient
                weight = straight_through(latent, weight)
        return self.norm.normalize_weight(weight).flatten(0, 1)

    def packed(self) -> Codes | None:
        """The effective matrix in evaluation, packed. It is kept until a tensor that it is made of
        changes, other than by way of ``.data``, or :meth:`forget`.

        What may change without a sign is packed in each call: quantizers of one's own, tensors of
        ``torch.inference_mode``, and parameters with a gradient, as a fused optimizer counts no
        change.

        Returns:
            None where it has no codes of {-1, 0, +1}, as in full precision.
        """
        if not self.is_quantized:
            return None
        latent, norm, quantizer = getattr(self.layer, self.name), self.norm, self.layer.quantizer
        tensors = [latent, *self._frozen_parts(), self.second_moment, *norm.parameters()]
        tensors = [tensor for tensor in tensors if tensor is not None]
        if (any(tensor.is_inference() or tensor.grad is not None for tensor in tensors)
                or (latent is not None and quantizer not in QUANTIZERS.values())):
            self.forget()
            return self._pack()
        made_of = _MadeOf([weakref.ref(tensor) for tensor in tensors], (
            quantizer, self.layer.sample_seed, type(norm), getattr(norm, "eps", None),
            *((tensor.data_ptr(), tensor._version) for tensor in tensors)))
        kept = _KEPT.setdefault(self.layer, {})
        if self.name not in kept or not kept[self.name][0].is_still(made_of):
            kept[self.name] = made_of, self._pack()
        return kept[self.name][1]

    def forget(self):
        """Let :meth:`packed` be made anew."""
        _KEPT.setdefault(self.layer, {}).pop(self.name, None)

    @torch.no_grad()
    def _pack(self) -> Codes | None:
        bits, scales = self._frozen_parts()
        if bits is None or bits.dtype != torch.int32:
            fixed = self.quantized()
            found = planes(fixed)
            if found is None or found[0].shape[1:] != self._shape:
                return None
            codes = pack(*found)
        else:
            fixed = None  # expanded only if it must be
            own = plane_scales(scales, words_by_row(bits, self._shape[0]))
            codes = Codes(bits, own, self._shape)
        if isinstance(self.norm, WeightNorm):
            norms = self.norm.norms((fixed or self.frozen).dense())
            scales = self.norm.rescale(codes.each_scale().view(-1, *norms.shape), norms)
            scales = scales.where(norms > 0, 0)  # a row of zeros stays one: its planes cancel
            codes = codes._replace(scales=scales.flatten(1))
        return codes

    def _quantize(self) -> Quantized | Tensor:
        quantizer, frozen = self.layer.quantizer, self.frozen
        if frozen is not None:
            return frozen
        latent = self.latent
        check_precision(latent)
        if not self.is_quantized:
            return QUANTIZERS["full_precision"](latent.detach())
        if isinstance(quantizer, nn.Module):
            return _gate_by_gate(quantizer, latent, self._optional())
        with torch.no_grad():
            if quantizer in QUANTIZERS.values():  # they take all gates as a batch of matrices
                return quantizer(latent, **self._optional())
            return _gate_by_gate(quantizer, latent, self._optional())

    def _optional(self) -> dict[str, Tensor | torch.Generator]:
        """Values of those optional arguments that the quantizer takes."""
        arguments, values = optional_arguments(self.layer.quantizer), {}
        if not self.layer.training:
            # one fixed sample in all evaluations, another for each matrix
            seed = self.layer.sample_seed * 1000 + self.number
            if "uniform" in arguments:
                values["uniform"] = between_graphs(
                    _sample, seed, self.latent.shape, self.latent.device)
            elif "generator" in arguments:
                values["generator"] = torch.Generator(self.latent.device).manual_seed(seed)
        if "second_moment" in arguments:
            values["second_moment"] = self.second_moment.view_as(self.latent)
        return values


@functools.lru_cache(maxsize=8)
def fixed_sample(seed: int, shape: torch.Size, device: torch.device) -> Tensor:
    """Numbers of U(0, 1) in float64, drawn on the CPU: the same for every precision and device.

    Args:
        seed: Of the numbers; kept in memory, as they are asked for in every evaluation pass.
        shape: Of the tensor.
        device: Where it is to be.
    """
    # what is kept must be no transformation's own tensor
    with untransformed():
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu").to(device)


def _sample(*arguments) -> Tensor:  # torch.compile would look into what is kept
    return fixed_sample(*arguments)


def _gate_by_gate(quantizer: Callable, latent: Tensor, extra: dict) -> Quantized | Tensor:
    """A quantizer of one's own takes one matrix: it is called for each gate. Its result may be in
    another precision, as of constants in float32."""
    results = []
    for g, matrix in enumerate(latent):
        own = {name: value[g] if isinstance(value, Tensor) else value
               for name, value in extra.items()}
        results.append(quantizer(matrix, **own))
    if isinstance(results[0], Quantized):
        return Quantized(*(torch.stack(parts, 1).to(latent.dtype)
                           for parts in zip(*results, strict=True)))
    if not isinstance(results[0], Tensor):
        raise ConfigError(f"the quantizer returned {type(results[0]).__name__}, not a tensor or a "
                          "Quantized")
    return torch.stack(results).to(latent.dtype)


def optional_arguments(quantizer: Callable) -> set[str]:
    """Which of the optional arguments ``second_moment``, ``generator`` and ``uniform`` a quantizer
    takes.

    Args:
        quantizer: A function or module of one matrix, as :class:`qlstm.QuantLSTM` takes it.
    """
    function = quantizer.forward if isinstance(quantizer, nn.Module) else quantizer
    try:
        taken = inspect.signature(function).parameters
    except ValueError:  # a function of torch's own has no signature
        return set()
    return {"second_moment", "generator", "uniform"} & set(taken)
