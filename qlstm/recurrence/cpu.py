"""The recurrence on the CPU with an explicit backward pass.

A time step (normalization, gates, states and their gradients) is one pass over memory in
``cpu.cpp`` (:mod:`qlstm.recurrence.extension` compiles it). Where the recurrent matrix has 1- or
2-bit codes, in float32, the whole loop runs there, with products that look up sums
(:mod:`qlstm.recurrence.codes`); else matrix products are :mod:`qlstm.recurrence.linear`'s, a step
at a time. The weight gradient is one product after the loop.

Float32 holds no square of a number over 1e19. Where a variance overflows it depends on torch's
formulas what becomes of it, so that the naive backend computes such a pass anew.
"""

import ctypes
import functools

import torch
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd

from qlstm.errors import ConfigError
from qlstm.normalizers import BatchNorm, LayerNorm
from qlstm.recurrence import codes, naive, obstacles
from qlstm.recurrence.codes import Codes
from qlstm.recurrence.extension import instructions, library
from qlstm.recurrence.linear import has_onednn, input_products, multiply
from qlstm.recurrence.obstacles import Fault, kind

KINDS = {"none": 0, "layer": 1, "batch": 2}
"""As cpu.cpp counts those of :mod:`qlstm.recurrence.obstacles`."""

_TWO_PLANES = 256
"""Hidden units up to which training multiplies ternary matrices as codes, without AVX-512: with
AVX2 it took 0.8 to 0.9 of the time of oneDNN's products at d = 128, 1.1 to 1.2 at d = 512."""
PARTS = 8
"""Of the samples, as in cpu.cpp: each has its own sums for the gradients of the parameters."""

PARAMETERS = ["gain_x", "shift_x", "gain_h", "shift_h", "gain_c", "shift_c"]
_POINTERS = ["x", "y", "bias", "gain_x", "shift_x", "gain_h", "shift_h", "gain_c", "shift_c",
             "mean_x", "var_x", "mean_h", "var_h", "mean_c", "var_c", "act", "c", "h", "dh", "dc",
             "dx", "dy", "dz", "dbias", "dgain_x", "dgain_h", "dgain_c", "dshift_c"]


class _Pass(ctypes.Structure):
    """The struct of cpu.cpp, which explains the fields."""

    _fields_ = [
        *[(name, ctypes.c_long) for name in ("N", "d", "gates", "norm", "cell", "threads",
                                             "kept", "training_x", "training_h", "training_c")],
        *[(name, ctypes.c_double) for name in ("eps_x", "eps_h", "eps_c")],
        *[(name, ctypes.c_void_p) for name in _POINTERS]]


def obstacle(x: Tensor, w_h: Tensor, norms) -> str | None:
    """Why this backend cannot run inputs ``x`` through ``w_h`` with the normalizers ``norms``, or
    None."""
    if w_h.device.type != "cpu":
        return f"the weights are on {w_h.device}, not on the CPU"
    if w_h.dtype not in (torch.float32, torch.float64):
        return f"the weights are {w_h.dtype}, not float32 or float64"
    reason = obstacles.obstacle(w_h, norms)
    if reason is not None:
        return reason
    kind_x, kind_h, kind_c = map(kind, norms)
    if kind_x != kind_h:
        return "it normalizes input and recurrent products in one way only"
    if kind_c != "none" and len(w_h) == 3 * w_h.shape[1]:
        return "a GRU has no cell state to normalize"
    if kind_c != "none" and (kind_c, kind_x) != ("batch", "batch"):
        return "it normalizes cell states by batch normalization only"
    return library() if isinstance(library(), Fault) else None


def recurrence(x: Tensor, w_x: Tensor, w_h: Tensor, bias: Tensor, state: tuple[Tensor, Tensor],
               norms, *, coded: bool = False, trace: list | None = None):
    """As :func:`qlstm.recurrence.naive.recurrence`: ``x``, ``w_x``, ``w_h``, ``bias``, ``state``
    and ``norms`` are explained there.

    ``coded`` makes no difference; gradients cannot be differentiated again. Raises ``ConfigError``
    for a ``trace``, which this backend does not keep.
    """
    return _run(naive.recurrence, x, w_x, w_h, bias, state, norms, trace)


def gru_recurrence(x: Tensor, w_x: Tensor, w_h: Tensor, bias: Tensor, state: tuple[Tensor], norms,
                   *, coded: bool = False, trace: list | None = None):
    """As :func:`qlstm.recurrence.naive.gru_recurrence`: ``x``, ``w_x``, ``w_h``, ``bias``,
    ``state`` and ``norms`` are explained there; ``coded`` and ``trace`` as in :func:`recurrence`.
    """
    return _run(naive.gru_recurrence, x, w_x, w_h, bias, state, norms, trace)


def _run(loop, x, w_x, w_h, bias, state, norms, trace):
    """What ``loop``, one of the naive backend, computes."""
    if trace is not None:
        raise ConfigError("backend 'cpu' keeps no trace; take backend='naive'")
    parameters = _parameters(norms)
    obstacles.check_types(w_h.dtype, bias=bias, **dict(zip(("h_0", "c_0"), state, strict=False)))
    tensors = [input_products(x, w_x), w_h, bias, *parameters, *state]
    keep = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors)
    output, *c = _Recurrence.apply(norms, keep, *tensors)
    if output is None:
        return loop(x, w_x, w_h, bias, state, norms)
    return output, (output[-1], *c)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    @custom_fwd(device_type="cpu")
    def forward(ctx, norms, keep, x, w_h, bias, *rest):
        parameters, state = rest[: len(PARAMETERS)], rest[len(PARAMETERS) :]
        (steps, n, rows), d = x.shape, w_h.shape[1]
        packed = codes.find(w_h)
        if packed and len(packed.bits) > 1 and d > _TWO_PLANES and instructions() != "AVX-512":
            packed = None
        sizes, values, own = _arguments(x, bias, state, norms, parameters, kept=keep)
        h, *c = (values[name] for name in "hc" if name in values)
        products = []  # a normalizer's backward pass needs them again
        if packed is None:
            step, product = _stepper("forward", x.dtype, sizes, values), _multiply_by(w_h, n)
            for t in range(steps):
                # y_t = W_h h_{t-1}, then one step
                y = product(h[t])
                step(t, y=y)
                if sizes["norm"] and keep:
                    products.append(y)
        else:
            values["y"] = x.new_empty(steps if sizes["norm"] else 1, n, rows)
            library().forward_codes(ctypes.byref(_argument(sizes, values)), steps,
                                    ctypes.byref(packed.struct()))
        if any(values[f"var_{side}"].isinf().any() for side in own):
            return (None,)
        for side, norm in zip("xhc", norms, strict=True):
            if sizes[f"training_{side}"]:
                norm.update(values[f"mean_{side}"].flatten(1), values[f"var_{side}"].flatten(1), n)
        if keep:
            ctx.sizes, ctx.names, ctx.packed = sizes, list(values), packed
            ctx.save_for_backward(w_h, *values.values(), *products)
            ctx.set_materialize_grads(False)
        return h[1:], *(part[-1].clone() for part in c)

    @staticmethod
    @obstacles.first_order("cpu")
    @custom_bwd(device_type="cpu")  # no autocast: cpu.cpp reads products as of the weights' type
    def backward(ctx, d_output, *d_c):
        w_h, *saved = ctx.saved_tensors
        values = dict(zip(ctx.names, saved, strict=False))
        products = saved[len(values) :]
        x, h, sizes = values["x"], values["h"], ctx.sizes
        (steps, n, _), d = x.shape, h.shape[-1]
        gru = not d_c
        if d_output is None:
            d_output = x.new_zeros(steps, n, d)
        dx = torch.empty_like(x)
        dy = torch.empty_like(x) if sizes["norm"] or gru else dx
        dh, *dc = (x.new_zeros(n, d) if given is None else
                   given.clone(memory_format=torch.contiguous_format)
                   for given in (d_output[-1], *d_c))
        values |= {"dx": dx, "dy": dy, "dz": x.new_empty(n, 4 * d),
                   "dbias": x.new_zeros(PARTS, 4 * d), **dict(zip(["dc"], dc, strict=False))}
        values |= {f"d{name}": x.new_zeros(PARTS, *values[name].shape) for name in PARAMETERS
                   if values[name] is not None}
        if ctx.packed is None:
            step, product = _stepper("backward", x.dtype, sizes, values), _multiply_by(w_h.t(), n)
            for t in range(steps - 1, -1, -1):
                step(t, dh=dh, **({"y": products[t]} if products else {}))
                # d loss / d h_{t-1} = W_h' d loss / d y_t + its own part of the loss, and what a
                # GRU keeps of it in h_t
                rest, dh = dh, product(dy[t])
                if gru:
                    dh += rest
                if t:
                    dh += d_output[t - 1]
        else:
            d_output = d_output.contiguous()
            values["dh"] = dh
            transposed = ctx.packed.transposed()
            library().backward_codes(ctypes.byref(_argument(sizes, values)), steps,
                                     ctypes.byref(transposed.struct()), d_output.data_ptr())
        d_w = multiply(h[:-1].flatten(0, 1).t(), dy.flatten(0, 1).t()).t()
        sums = {name: values[f"d{name}"].sum(0) for name in ("bias", *PARAMETERS)
                if values[name] is not None}
        for name in sums.keys() & {"shift_x", "shift_h"}:  # added where the bias is
            rows = [0, 1, 2 if name == "shift_x" else 3] if gru else [0, 1, 2, 3]
            sums[name] = sums["bias"].view(4, d)[rows]
        return None, None, dx, d_w, sums["bias"], *map(sums.get, PARAMETERS), dh, *dc


def _arguments(x: Tensor, bias: Tensor, state: tuple[Tensor, ...], norms, parameters, *,
               kept: bool) -> tuple[dict[str, float], dict[str, Tensor | None], list[str]]:
    """The fields of :class:`_Pass` before a loop over time: numbers; tensors, of which ``act``, all
    ``c`` and ``h`` and statistics are to be filled; and the sides x, h, c that have statistics of
    their own minibatch."""
    (steps, n, rows), d = x.shape, state[0].shape[-1]
    values = {
        name: None if value is None else value.contiguous()
        for name, value in zip(["x", "bias", *PARAMETERS], [x, bias, *parameters], strict=True)}
    values["act"] = x.new_empty(steps if kept else 1, n, 4 * d)
    for name, part in zip("hc", state, strict=False):
        values[name] = x.new_empty(steps + 1, n, d)
        values[name][0] = part
    sizes = dict(N=n, d=d, gates=rows // d, norm=KINDS[kind(norms[0])],
                 cell=kind(norms[2]) == "batch", kept=kept,
                 threads=torch.get_num_threads() if n * d > 2000 else 1)
    own = []
    for side, norm in zip("xhc", norms, strict=True):
        batch = isinstance(norm, BatchNorm)
        training = batch and norm.training
        if training and n < 2:
            raise ValueError(f"batch normalization in training needs two samples or more, got {n}")
        sizes |= {f"training_{side}": training, f"eps_{side}": getattr(norm, "eps", 0)}
        if batch and not training:
            values[f"mean_{side}"], values[f"var_{side}"] = (
                part.contiguous() for part in norm.running_statistics(steps))
        elif batch or isinstance(norm, LayerNorm):
            shape = (steps, *norm.gain.shape) if batch else (steps, n, *norm.gain.shape[:-1])
            values |= {f"mean_{side}": x.new_empty(shape), f"var_{side}": x.new_empty(shape)}
            own.append(side)
    return sizes, values, own


def _parameters(norms) -> list[Tensor | None]:
    """Gain and shift of each; the gains of weight normalization are in the matrices."""
    return [getattr(norm, name) if isinstance(norm, LayerNorm | BatchNorm) else None
            for norm in norms for name in ("gain", "shift")]


class Evaluation:
    """The loop over time in evaluation, without gradients, with matrices that stay packed; its
    buffers serve call after call.

    Args:
        w_x: (gates d, D), packed or not.
        w_h: (gates d, d).
        bias: (4d).
        state: $h_0$ and $c_0$, each (N, d), or of a GRU $h_0$ alone.
        norms: As in :func:`qlstm.recurrence.naive.recurrence`, in evaluation mode.
        steps: T.
    """

    def __init__(self, w_x: Codes | Tensor, w_h: Codes, bias: Tensor, state: tuple[Tensor, ...],
                 norms, steps: int):
        self.w_x, self.w_h = w_x, w_h
        self.products = bias.new_empty(steps, len(state[0]), w_h.shape[0])
        # copies: pointers into parameters would not see that these move, and see half of a change
        parameters = [part if part is None else part.detach().clone() for part in
                      (bias, *_parameters(norms))]
        sizes, self.values, own = _arguments(self.products, parameters[0], state, norms,
                                             parameters[1:], kept=False)
        self.values["y"] = torch.empty_like(self.products[0])
        self.variances = [self.values[f"var_{side}"] for side in own]
        self.run = functools.partial(
            library().forward_codes, ctypes.byref(_argument(sizes, self.values)), steps,
            ctypes.byref(w_h.struct()))

    def __call__(self, x: Tensor) -> bool:
        """Go through ``x``, (T, N, D) or integers (T, N) for one-hot vectors; False where the
        variance of a row overflows."""
        if isinstance(self.w_x, Codes):
            self.w_x.products(x, self.products)
        else:
            self.products.copy_(input_products(x, self.w_x))
        self.run()
        return not any(variance.isinf().any() for variance in self.variances)

    def start(self, state: tuple[Tensor, ...]):
        """Go on from a ``state`` such as the first."""
        for own, given in zip(self.states, state, strict=True):
            own[0] = given

    def carry(self):
        """Go on from the last state."""
        for own in self.states:
            size = own[0].numel() * own.element_size()
            ctypes.memmove(own.data_ptr(), own.data_ptr() + (len(own) - 1) * size, size)

    @property
    def states(self) -> tuple[Tensor, ...]:
        """All h, and of an LSTM all c, each (T + 1, N, d), the initial ones first."""
        return tuple(self.values[name] for name in "hc" if name in self.values)


def evaluate(x: Tensor, w_x: Codes | Tensor, w_h: Codes, bias: Tensor,
             state: tuple[Tensor, ...], norms) -> tuple[Tensor, tuple[Tensor, ...]] | None:
    """What an :class:`Evaluation`, which explains ``w_x``, ``w_h``, ``bias``, ``state`` and
    ``norms``, makes of ``x``: all hidden states, (T, N, d), and the last state; None where the
    variance of a row overflows."""
    run = Evaluation(w_x, w_h, bias, state, norms, len(x))
    if not run(x):
        return None
    h, *c = run.states
    return h[1:], (h[-1], *(part[-1].clone() for part in c))


def _argument(sizes: dict[str, float], values: dict[str, Tensor | None]) -> _Pass:
    """What cpu.cpp takes; it does not keep the tensors alive."""
    return _Pass(**sizes, **{name: value.data_ptr() for name, value in values.items()
                             if value is not None and name in _POINTERS})


def _stepper(
    direction: str, dtype: torch.dtype, sizes: dict[str, float], values: dict[str, Tensor | None]
):
    """One step of cpu.cpp as a function of t and of the tensors that change with it; it keeps all
    of them alive."""
    function = getattr(library(), f"{direction}_{str(dtype).removeprefix('torch.')}")
    argument = _argument(sizes, values)
    pointer = ctypes.byref(argument)

    def step(t: int, **changing: Tensor):
        for name, value in changing.items():
            setattr(argument, name, value.data_ptr())
        function(pointer, t)

    step.keeps_alive = values
    return step


def _multiply_by(weight: Tensor, rows: int):
    """:func:`qlstm.recurrence.linear.multiply` for many a matrix (rows, n) and one weight, which is
    packed once."""
    if has_onednn(weight):
        weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
    return functools.partial(multiply, weight=weight)
