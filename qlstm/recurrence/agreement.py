"""Whether a backend computes on this machine what the naive one does, tried on a few steps."""

import functools
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from qlstm.errors import first_line
from qlstm.recurrence import naive
from qlstm.recurrence.obstacles import Fault

T, D = 3, 4
"""Steps and inputs of that layer."""
LIMIT = 1e-4
"""The largest relative error. Float32 came to 1.2e-5 on an H200, and TF32 would to 3e-4."""


class Layer(NamedTuple):
    """What decides which code a backend runs.

    ``norms``: the classes of the normalizers of the input product, the recurrent product and the
    cell state; ``training``: whether they are in training mode; ``samples``, ``units``: N and d;
    ``coded``: as in :func:`qlstm.recurrence.naive.recurrence`; ``loop``: the function of the
    backend, ``recurrence`` or ``gru_recurrence``.
    """

    norms: tuple[type, ...]
    training: bool
    samples: int
    units: int
    coded: bool
    loop: str


@functools.cache
@torch.inference_mode(False)
def disagreement(name: str, device: torch.device, layer: Layer) -> Fault | None:
    """Why a backend is not to be trusted with a layer: it is tried on :data:`T` steps of one.

    Args:
        name: The backend's module in :mod:`qlstm.recurrence`.
        device: Where it is tried, in float32, once a process.
        layer: What is tried.

    Returns:
        Which of the outputs, last states, gradients and running statistics differs most from the
        naive backend's in float64, or what went wrong; None if all agree.
    """
    backend = import_module(f"qlstm.recurrence.{name}")
    try:
        ours = _results(backend, device, torch.float32, layer)
    except torch.OutOfMemoryError:
        raise  # that passes, and is none of the backend's faults
    except Exception as error:  # of the compiler, say: whatever it is, another backend can go on
        return Fault(f"a layer of {T} steps ends with {type(error).__name__}: {first_line(error)}")
    exact = _results(naive, device, torch.float64, layer)
    # what should be zero may be rounding of ones
    errors = {what: ((ours[what].double() - value).norm() / value.norm().clamp(min=0.1))
              .nan_to_num(torch.inf) for what, value in exact.items()}
    worst = max(errors, key=errors.get)
    return None if errors[worst] <= LIMIT else Fault(
        f"in a layer of {T} steps its {worst} is {errors[worst].item():.1e} from naive's, "
        "relatively")


def _results(backend: ModuleType, device: torch.device, dtype: torch.dtype,
             layer: Layer) -> dict[str, Tensor]:
    """All that random weights and inputs come to, by name; the same in each call."""
    n, d, gates = layer.samples, layer.units, 4 if layer.loop == "recurrence" else 3
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(0)  # and leave those of GPUs alone
        norms = [norm(features, d) for norm, features in
                 zip(layer.norms, ((gates, d), (gates, d), (d,)), strict=True)]
        shapes = {"x": (T, n, D), "W_x": (gates * d, D), "W_h": (gates * d, d), "b": (4 * d,),
                  "h_0": (n, d)} | ({"c_0": (n, d)} if gates == 4 else {})
        inputs = {name: torch.randn(shape) for name, shape in shapes.items()}
        if layer.coded:
            inputs["W_h"] = inputs["W_h"].sign() * torch.rand(gates * d, 1)
        inputs["W_h"] /= d**0.5
        weights = torch.randn(T, n, d).to(device, dtype)
    norms = [norm.to(device, dtype).train(layer.training) for norm in norms]
    inputs = {name: tensor.to(device, dtype).requires_grad_() for name, tensor in inputs.items()}
    x, w_x, w_h, bias, *state = inputs.values()
    with torch.enable_grad():
        output, last = getattr(backend, layer.loop)(
            x, w_x, w_h, bias, tuple(state), norms, coded=layer.coded)
        loss = (output * weights).sum() + (last[0] * last[-1]).sum()
    inputs |= {f"parameter {name}": parameter for k, norm in enumerate(norms)
               for name, parameter in norm.named_parameters(prefix=str(k))}
    gradients = torch.autograd.grad(loss, list(inputs.values()))
    results = {"output": output.detach()} | {
        f"{name}_T": part.detach() for name, part in zip("hc", last, strict=False)}
    results |= {f"gradient of {name}": value
                for name, value in zip(inputs, gradients, strict=True)}
    return results | {f"buffer {name}": buffer for k, norm in enumerate(norms)
                      for name, buffer in norm.named_buffers(prefix=str(k))}
