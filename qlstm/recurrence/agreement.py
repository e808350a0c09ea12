"""Whether a backend computes on this machine what the naive one does, tried on one small layer."""

import functools
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from qlstm.errors import first_line
from qlstm.recurrence import naive

T, N, D = 3, 5, 4
"""Steps, samples and inputs of that layer: no size of a tile."""
UNITS = 132
"""Its hidden units at most: with more than 128 some kernels are others."""
LIMIT = 1e-4
"""The largest relative error. Float32 came to 1.2e-5 on an H200, and TF32 would to 3e-4."""


@functools.cache
def disagreement(name: str, device: torch.device, norms: tuple[type, ...],
                 units: int) -> str | None:
    """Why a backend is not to be trusted; tried once a process.

    Args:
        name: The backend's module in :mod:`qlstm.recurrence`.
        device: Where it is tried, in float32.
        norms: The classes of the normalizers of the input product, the recurrent product and the
            cell state.
        units: d of the layer that is to run; it is tried with :data:`UNITS` at most.

    Returns:
        Which of the outputs, last states, gradients and running statistics differs most from the
        naive backend's in float64, or what went wrong; None if all agree.
    """
    backend, units = import_module(f"qlstm.recurrence.{name}"), min(units, UNITS)
    try:
        ours = _results(backend, device, torch.float32, norms, units)
    except Exception as error:  # of the compiler, say: whatever it is, another backend can go on
        return f"a small layer ends with {type(error).__name__}: {first_line(error)}"
    exact = _results(naive, device, torch.float64, norms, units)
    errors = {what: ((ours[what].double() - value).norm() / value.norm()).nan_to_num(torch.inf)
              for what, value in exact.items()}
    worst = max(errors, key=errors.get)
    return None if errors[worst] <= LIMIT else (
        f"in a small layer its {worst} is {errors[worst].item():.1e} from naive's, relatively")


def _results(backend: ModuleType, device: torch.device, dtype: torch.dtype,
             norms: tuple[type, ...], d: int) -> dict[str, Tensor]:
    """All that a layer of random codes and inputs comes to, by name; the same in each call."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        modules = [norm(features, d) for norm, features in
                   zip(norms, ((4, d), (4, d), (d,)), strict=True)]
        shapes = {"x": (T, N, D), "W_x": (4 * d, D), "W_h": (4 * d, d), "b": (4 * d,),
                  "h_0": (N, d), "c_0": (N, d)}
        inputs = {name: torch.randn(shape) for name, shape in shapes.items()}
        inputs["W_h"] = inputs["W_h"].sign() * torch.rand(4 * d, 1) / d**0.5
        weights = torch.randn(T, N, d).to(device, dtype)
    modules = [module.to(device, dtype) for module in modules]
    inputs = {name: tensor.to(device, dtype).requires_grad_() for name, tensor in inputs.items()}
    x, w_x, w_h, bias, *state = inputs.values()
    with torch.enable_grad():
        output, last = backend.recurrence(x, w_x, w_h, bias, tuple(state), modules, coded=True)
        loss = (output * weights).sum() + (last[0] * last[1]).sum()
    inputs |= {f"parameter {name}": parameter for n, module in enumerate(modules)
               for name, parameter in module.named_parameters(prefix=str(n))}
    gradients = torch.autograd.grad(loss, list(inputs.values()))
    results = {"output": output.detach(), "h_T": last[0].detach(), "c_T": last[1].detach()}
    results |= {f"gradient of {name}": value
                for name, value in zip(inputs, gradients, strict=True)}
    return results | {f"running {n}: {name}": buffer for n, module in enumerate(modules)
                      for name, buffer in module.named_buffers()}
