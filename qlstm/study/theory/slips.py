"""The slips of the paper's appendix F, and networks outside the propositions' conditions.

Each is evaluated on an explicit small network, so that everybody can see which side is larger; see
:mod:`qlstm.study.theory.propositions` for the propositions themselves. Tildes mark pre-activations;
a product of gradient and Jacobian is written as in the paper.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from qlstm.models import LanguageModel
from qlstm.study.theory.propositions import Bounds, bounds, scale_invariance, sides

NEGATIVE_GAINS = [0.01, -2.0, -2.0]
r"""The gain of largest magnitude is negative, so that $\max g_j$ is not $\max |g_j|$."""


def example(normalizer: str = "none", hidden: int = 3, layers: int = 1, steps: int = 3,
            **values) -> tuple[LanguageModel, Tensor, Tensor]:
    """A language model of explicit numbers, with inputs and targets for three samples.

    Every parameter is cos 1, cos 2, ... in order, so nothing depends on a random generator.

    Args:
        normalizer: Name of the layer's normalizer.
        hidden: Units d of a layer.
        layers: Number of layers.
        steps: Time steps T of the sequences.
        values: Other numbers for parameters of the layer, broadcast to their shape, e.g.
            ``weight_hh_l0=0.1`` or ``norm_hh_l0__gain=[0.1, 0.2, 0.3]``.

    Returns:
        The model in float64, the inputs and the targets, (T, 3) each.
    """
    with torch.random.fork_rng(devices=[]):
        model = LanguageModel(3, hidden, layers, normalizer=normalizer).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = values.get(name.removeprefix("rnn.").replace(".", "__"))
            if value is None:
                numbers = torch.arange(1.0, 1 + parameter.numel(), dtype=torch.float64).cos()
                parameter.copy_(numbers.view_as(parameter))
            else:
                parameter.copy_(torch.tensor(value, dtype=torch.float64).expand_as(parameter))
    symbols = (torch.arange(steps)[:, None] + torch.arange(3)) % 3
    return model, symbols, (symbols + 1) % 3


class Numbers(NamedTuple):
    """A claim, ``left`` <= right or ``left`` = right, the right side as ``printed`` and as
    ``corrected``."""

    left: float
    printed: float
    corrected: float


def _proposition(normalizer: str, name: str | None = None, **values) -> Numbers:
    """Both sides of a proposition at t = m = 3 of an example."""
    model, inputs, targets = example(normalizer, **values)
    printed, corrected = (bounds(model, inputs, targets, None, name, printed=p)
                          for p in (True, False))
    return Numbers(*(side.flatten()[-1].item()
                     for side in (corrected.lhs, printed.rhs, corrected.rhs)))


_negative_gains = partial(_proposition, "layer", norm_hh_l0__gain=NEGATIVE_GAINS)


def _product_for_sum() -> Numbers:
    """Without the plus sign the right side is a product, one factor of which is 0 at t = m."""
    return _proposition("none", "3.3")._replace(printed=0.0)


def _d_sigmoid(x: Tensor) -> Tensor:
    return x.sigmoid() * (1 - x.sigmoid())


def _one_unit() -> tuple[Numbers, Numbers]:
    """Of one unit (d = 1): d h_t / d h_{t-1} with and without the prime; s_t^i and its bounds."""
    h, c = torch.tensor(0.1, dtype=torch.float64, requires_grad=True), 0.5
    w = torch.tensor([8.0, 4.0, 6.0, 2.0])
    i, f, a, o = w * h
    c_t = i.sigmoid() * a.tanh() + f.sigmoid() * c
    (exact,) = torch.autograd.grad(o.sigmoid() * c_t.tanh(), h)
    with torch.no_grad():
        to_c = o.sigmoid() * (1 - c_t.tanh() ** 2)
        s_i = to_c * a.tanh() * _d_sigmoid(i) * w[0]
        others = (s_i + to_c * i.sigmoid() * (1 - a.tanh() ** 2) * w[2]
                  + c_t.tanh() * _d_sigmoid(o) * w[3])
        printed, corrected = (others + to_c * c * factor * w[1]
                              for factor in (f.sigmoid(), _d_sigmoid(f)))
    return (Numbers(*map(float, (exact, printed, corrected))),
            Numbers(*map(float, (s_i, 1 / 4, w[0] / 4))))


def _forget_gate_without_prime() -> Numbers:
    return _one_unit()[0]


def _input_gate_without_weight() -> Numbers:
    return _one_unit()[1]


class _BatchNormJacobian(NamedTuple):
    r"""$\|J^T u\|^2$ of the batch normalization of (-0.1, 0, 0.1) by autograd, and the terms of its
    formula; N = 3, g = 1."""

    exact: float
    factor: float  # $g^2 / \sigma^2$
    along_ones: float  # $\langle 1, u \rangle^2$
    along_z: float  # $\langle u, z \rangle^2$


def _batch_norm_jacobian(u: list[float]) -> _BatchNormJacobian:
    y = torch.tensor([-0.1, 0.0, 0.1], dtype=torch.float64, requires_grad=True)
    u = torch.tensor(u, dtype=torch.float64)
    sigma = y.std(correction=0)
    z = (y - y.mean()) / sigma
    (back,) = torch.autograd.grad(z, y, u)
    return _BatchNormJacobian(
        *(x.item() for x in (back @ back, sigma**-2, u.sum() ** 2, (z @ u) ** 2)))


def _root_of_n() -> Numbers:
    """u = (0, 0, 1), so ||u||^2 = 1."""
    exact, factor, along_ones, along_z = _batch_norm_jacobian([0.0, 0.0, 1.0])
    return Numbers(exact, *(factor * (1 - along_ones / 3 - along_z / n)
                            for n in (math.sqrt(3), 3)))


def _tildes() -> Numbers:
    """W = 1 for one gate, 0 for the others; u, the gradient of its normalized product, has
    ||u||^2 = 6."""
    exact, factor, *_ = _batch_norm_jacobian([1.0, -2.0, 1.0])
    return Numbers(exact, 4 * 6 * 1.0, 4 * 6 * factor)


def _c_twice(c: float = 0.1) -> Numbers:
    """The same network, with c_{t-1} = c for each unit."""
    exact, factor, *_ = _batch_norm_jacobian([1.0, -2.0, 1.0])
    return Numbers(exact, 4 * 6 * (factor * c**2), 4 * 6 * factor)


def _standardized(x: Tensor) -> Tensor:
    return (x - x.mean()) / x.std(correction=0)


def _layer_norm_jacobian() -> Numbers:
    """Its element i = 1, j = 2 for x = (0, 1, 5), g = 1, with z_j z_j as printed and z_i z_j."""
    x = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64)
    z, sigma = _standardized(x), x.std(correction=0)
    exact = torch.autograd.functional.jacobian(_standardized, x)[1, 0]
    printed, corrected = (-1 - z[1] * z[1]) / 3 / sigma, (-1 - z[0] * z[1]) / 3 / sigma
    return Numbers(*map(float, (exact, printed, corrected)))


def _smallest_eigenvalue() -> Numbers:
    """Of (1 1^T + z z^T) / d for d = 2, against the bounds 0 (printed) and 1."""
    one, z = torch.ones(2, 1), torch.tensor([[1.0], [-1.0]])
    return Numbers(torch.linalg.eigvalsh((one @ one.T + z @ z.T) / 2)[0].item(), 0.0, 1.0)


class Slip(NamedTuple):
    """A slip of the appendix.

    ``name``: what it is called here. ``where``: its place in the appendix. ``printed``,
    ``corrected``: the formula as it stands there and as it should. ``wrong``: what is wrong with
    it. ``harmless``: whether the propositions stand nevertheless. ``relation``: of the two sides of
    the claim, "<=" or "=". ``evaluate``: gives the claim in :class:`Numbers`; None where there is
    nothing to evaluate.
    """

    name: str
    where: str
    printed: str
    corrected: str
    wrong: str
    harmless: bool = True
    relation: str = "<="
    evaluate: Callable[[], Numbers] | None = None

    def as_row(self) -> dict[str, str]:
        """A line of a table, the last two columns with the numbers of both forms."""
        row = {"slip": self.name, "where": self.where, "printed": self.printed,
               "corrected": self.corrected, "wrong": self.wrong,
               "with numbers, printed": "", "with numbers, corrected": ""}
        if self.evaluate:
            numbers = self.evaluate()
            for form in ("printed", "corrected"):
                right = getattr(numbers, form)
                row[f"with numbers, {form}"] = f"{numbers.left:.4g} {self.relation} {right:.4g}"
        return row


SLIPS = (
    Slip("forget gate of 3.4", "F.5, last two lines",
         printed="1/2 γ₂² (2 g_f²/σ_f²) ‖W_hf‖²", corrected="1/2 γ₂² (g_f²/σ_f²) ‖W_hf‖²",
         wrong="a factor of 2 that the derivation does not have; loosens a true bound",
         evaluate=partial(_proposition, "batch_shared", norm_hh_l0__gain=1.0)),
    Slip("output gate of 3.3", "F.4, last display, first line",
         printed="1/2 ‖W_ho‖²", corrected="1/4 ‖W_ho‖²",
         wrong="the display above it has 1/4; loosens a true bound",
         evaluate=partial(_proposition, "none", "3.3")),
    Slip("negative gains", "F.3, norm of the Jacobian; all g_*",
         printed="‖Diag(g)‖ = max_j g_j", corrected="‖Diag(g)‖ = max_j |g_j|",
         wrong="false as soon as the gain of largest magnitude is negative; "
               "with all of them negative the bound is negative",
         harmless=False, evaluate=_negative_gains),
    Slip("Jacobian of batch normalization", "F.5, step 2, first display (cited from [25])",
         printed="(g²/σ²) (‖u‖² - 1/N ⟨1, u⟩² - 1/√N  ⟨u, z⟩²)",
         corrected="(g²/σ²) (‖u‖² - 1/N ⟨1, u⟩² - 1/N ⟨u, z⟩²)",
         wrong="||z||^2 = N; false as printed (negative for u near z), "
               "an equality with 1/N and eps = 0; what follows survives",
         evaluate=_root_of_n),
    Slip("derivative of the forget gate", 'F.1, under "Combining", first line',
         printed="Diag(c_{t-1} ⊙ σ(f_t)) W_hf", corrected="Diag(c_{t-1} ⊙ σ'(f_t)) W_hf",
         wrong="the prime is missing; it is back in the next line",
         relation="=", evaluate=_forget_gate_without_prime),
    Slip("bounds of s and u without W", 'F.1, "It is easy to verify"',
         printed="‖s_t^i‖ < 1/4, ‖s_t^f‖ < 1/4, …",
         corrected="‖s_t^i‖ ≤ 1/4 ‖W_hi‖, ‖s_t^f‖ ≤ 1/4 γ₁ ‖W_hf‖, …",
         wrong="s and u are defined with W (and c_{t-1}), their norms are taken without; "
               "the last line has both",
         evaluate=_input_gate_without_weight),
    Slip("strictness", 'F.1, "It is easy to verify", last two lines',
         printed="< 1 × 1 × 1 × 1/4 < 1/4", corrected="< 1 × 1 × 1 × 1/4 = 1/4",
         wrong="1/4 is not less than 1/4"),
    Slip("one index twice", "F.3, second line of the derivative",
         printed="Σ_i (x_i - μ)(1[i=j] - 1/d)", corrected="Σ_k (x_k - μ)(1[k=i] - 1/d)",
         wrong="i is both the input's index and the sum's: read as printed it gives z_j z_j, "
               "the next line has z_i z_j",
         relation="=", evaluate=_layer_norm_jacobian),
    Slip("smallest eigenvalue", "F.3, below (14)",
         printed="λ_min ≤ 0", corrected="0 ≤ λ_min",
         wrong="the last step needs 1 - lambda_min <= 1; d = 2: lambda_min = 1 (d > 2: 0). "
               "lambda_max is 1, not up to 2",
         evaluate=_smallest_eigenvalue),
    Slip("a plus sign", 'F.4, between the last two lines before "Summing"',
         printed="(…) ‖∂ξ_m / ∂h_t‖²  (…) ‖∂ξ_m / ∂c_{t+1}‖²",
         corrected="(…) ‖∂ξ_m / ∂h_t‖² + (…) ‖∂ξ_m / ∂c_{t+1}‖²",
         wrong="a product as printed, which is 0 at t = m",
         evaluate=_product_for_sum),
    Slip("normalized before the norm", "F.5, end of step 2, first inequality",
         printed="4 ‖W_hi‖² Σ_k ‖∂ξ_m / ∂ĩ_t^k‖² + …",
         corrected="4 ‖W_hi‖² Σ_k ‖∂ξ_m / ∂i_t^k‖² + …",
         wrong="three tildes too many: g^2 / sigma^2 enters two lines later only; "
               "false for g > 2 sigma",
         evaluate=_tildes),
    Slip("c twice", "F.5, step 3, last display but one, first line",
         printed="4 ‖W_hf‖² (g_f²/σ_f²) Σ_k ‖∂ξ_m / ∂f̃_t^k‖² ‖Diag(c_{t-1}^k)‖²",
         corrected="4 ‖W_hf‖² (g_f²/σ_f²) Σ_k ‖∂ξ_m / ∂f̃_t^k‖²",
         wrong="the gradient of f~ contains c_{t-1} already; false for |c_{t-1}| < 1/2 (here 0.1), "
               "right again in the next line",
         evaluate=_c_twice),
    Slip("rows of zeros", "F.2, (9)",
         printed="D⁻¹ W", corrected="(D + ε I)⁻¹ W",
         wrong="a ternary row can be all zero, and D has no inverse then; "
               "with eps = 1e-8 the row stays 0 and the bound holds"),
    Slip("superscripts", "F.5, first two displays; step 3 of the list",
         printed="σ(õ_t),  ∂ξ_m / ∂c_{t+1},  ∂ξ_m / ∂i_t^k",
         corrected="σ(õ_t^k),  ∂ξ_m / ∂c_{t+1}^k,  ∂ξ_m / ∂ĩ_t^k",
         wrong="k and tildes left out"),
    Slip("a parenthesis", "F.2, (11), and F.3, (16), third line",
         printed="Diag(σ(õ_t) ⊙ tanh'(c_t)) ⊙ σ(ĩ_t) ⊙ tanh'(ã_t))",
         corrected="Diag(σ(õ_t) ⊙ tanh'(c_t) ⊙ σ(ĩ_t) ⊙ tanh'(ã_t))",
         wrong="closed too early"),
)
"""The slips of appendix F. Only the negative gains touch what the propositions say."""


def _at(t: int, found: Bounds) -> tuple[float, float]:
    """Left and right side of time step t, for the first sample."""
    return found.lhs[t - 1, 0].item(), found.rhs[t - 1, 0].item()


def _lower_layer():
    """Its h_{t-1} reaches the loss through the upper layer's step t - 1 too."""
    return _at(2, sides(*example(layers=2, weight_hh_l0=0.01), layer=0))


def _signed_gain():
    """With negative gains, max g_j is not the norm of Diag(g)."""
    left, printed, _ = _negative_gains()
    return left, printed


def _step_after_m():
    """The loss itself reads h_m, and nothing of it arrives at t = m + 1: the right side is 0."""
    return _at(3, sides(*example(), m=2))


def _summed_loss():
    """Each h_{t-1} has a loss of its own."""
    return _at(2, sides(*example(weight_hh_l0=0.01), total=True))


COUNTEREXAMPLES: dict[str, Callable[[], tuple[float, float]]] = {
    "the lower layer of two": _lower_layer,
    "max g_j without absolute value": _signed_gain,
    "the step after m": _step_after_m,
    "the loss summed over all steps": _summed_loss,
}
"""Networks outside the conditions, where the bounds fail: functions that give both sides,
left > right."""


def invariance_table(gate: int = 1, s: float = 10.0):
    """:func:`~qlstm.study.theory.propositions.scale_invariance` of an example by normalizer.

    Args:
        gate: Index of the gate whose recurrent matrix is scaled, in the order i, f, a, o.
        s: The factor.

    Returns:
        A pandas table: a row for each normalizer, the largest change of outputs and gradients.
    """
    import pandas as pd

    changes = {name: scale_invariance(*example(name), gate, s)
               for name in ("none", "weight", "layer", "batch_shared")}
    return pd.DataFrame.from_dict(changes, orient="index", columns=["outputs", "gradients"])
