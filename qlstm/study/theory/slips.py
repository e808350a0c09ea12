"""The slips of the paper's appendix, and counterexamples outside the propositions' conditions, with
their numbers.

Each is evaluated on an explicit small network, so that everybody can see which side is larger; see
:mod:`qlstm.study.theory.propositions` for the propositions themselves.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from qlstm.models import LanguageModel
from qlstm.study.theory import propositions
from qlstm.study.theory.propositions import bounds, scale_invariance


def example(
    normalizer: str = "none", hidden: int = 3, layers: int = 1, steps: int = 3, **values
) -> tuple:
    """A language model of explicit numbers, inputs and targets (T, 3), for the slips and
    counterexamples below.

    A network of ``layers`` with ``hidden`` units and a ``normalizer``, run for T = ``steps``. Every
    parameter is cos 1, cos 2, ... in order, but for the ``values`` of the layer's, e.g.
    ``weight_hh_l0=0.1`` or ``norm_hh_l0__gain=[...]``, broadcast to its shape.
    """
    with torch.random.fork_rng(devices=[]):
        model = LanguageModel(3, hidden, layers, normalizer=normalizer).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = values.get(name.removeprefix("rnn.").replace(".", "__"))
            numbers = (torch.arange(1.0, 1 + parameter.numel(), dtype=torch.float64) .cos()
                       .view_as(parameter))
            parameter.copy_(numbers if value is None
                            else torch.tensor(value, dtype=torch.float64).expand_as(parameter))
    symbols = (torch.arange(steps)[:, None] + torch.arange(3)) % 3
    return model, symbols, (symbols + 1) % 3


def _compare(normalizer, proposition=None, **values) -> tuple[float, float, float]:
    """Both sides of a proposition at t = m = 3: the left one, the right one as printed, the right
    one corrected."""
    model, inputs, targets = example(normalizer, **values)
    printed, corrected = (
        bounds(model, inputs, targets, None, proposition, printed=p) for p in (True, False))
    return tuple(side.flatten()[-1].item() for side in (corrected.lhs, printed.rhs, corrected.rhs))


def _one_unit() -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """d h_t / d h_{t-1} of one unit (d = 1) by autograd, as printed, corrected; and s_t^i with its
    bounds likewise."""
    h, c, w = (torch.tensor(0.1, dtype=torch.float64, requires_grad=True), 0.5,
               torch.tensor([8.0, 4.0, 6.0, 2.0]))
    (i, f, a, o), d_sigmoid = w * h, lambda x: x.sigmoid() * (1 - x.sigmoid())
    c_t = i.sigmoid() * a.tanh() + f.sigmoid() * c
    (exact,) = torch.autograd.grad(o.sigmoid() * c_t.tanh(), h)
    with torch.no_grad():
        to_c = o.sigmoid() * (1 - c_t.tanh() ** 2)
        s_i = to_c * a.tanh() * d_sigmoid(i) * w[0]
        rest = (
            s_i + to_c * i.sigmoid() * (1 - a.tanh() ** 2) * w[2] + c_t.tanh() * d_sigmoid(o) * w[3]
        )
        printed, corrected = (
            rest + to_c * c * factor * w[1] for factor in (f.sigmoid(), d_sigmoid(f)))
    return tuple(x.item() for x in (exact, printed, corrected)), (
        s_i.item(), 1 / 4, w[0].item() / 4)


def _batch(u: list[float]) -> tuple[float, float, float, float]:
    """||J^T u||^2 for batch normalization of (-0.1, 0, 0.1), g = 1, by autograd; g^2/sigma^2; <1,
    u>^2; <z, u>^2."""
    y, u = (torch.tensor([-0.1, 0.0, 0.1], dtype=torch.float64, requires_grad=True),
            torch.tensor(u, dtype=torch.float64))
    sigma = y.std(correction=0)
    z = (y - y.mean()) / sigma
    (back,) = torch.autograd.grad(z, y, u)
    return tuple(x.item() for x in (back @ back, sigma**-2, u.sum() ** 2, (z @ u) ** 2))


def _batch_jacobian() -> tuple[float, float, float]:
    lhs, factor, ones, along_z = _batch([0.0, 0.0, 1.0])
    printed, corrected = (factor * (1 - ones / 3 - along_z / n) for n in (math.sqrt(3), 3))
    return lhs, printed, corrected


def _step_2_or_3(printed_factor: float | None) -> tuple[float, float, float]:
    """W = 1 for one gate, 0 for the others; u, the gradient with respect to its normalized product,
    ||u||^2 = 6."""
    lhs, factor, *_ = _batch([1.0, -2.0, 1.0])
    return lhs, 4 * 6 * (factor * printed_factor if printed_factor else 1.0), 4 * 6 * factor


def _layer_jacobian() -> tuple[float, float, float]:
    """The element i = 1, j = 2 for x = (0, 1, 5), g = 1."""
    x = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64)
    sigma = x.std(correction=0)
    z = (x - x.mean()) / sigma
    jacobian = torch.autograd.functional.jacobian(lambda y: (y - y.mean()) / y.std(correction=0), x)
    return tuple(
        v.item()
        for v in (jacobian[1, 0], (-1 - z[1] * z[1]) / 3 / sigma, (-1 - z[0] * z[1]) / 3 / sigma))


def _smallest_eigenvalue() -> tuple[float, float, float]:
    one, z = torch.ones(2, 1), torch.tensor([[1.0], [-1.0]])
    return torch.linalg.eigvalsh((one @ one.T + z @ z.T) / 2)[0].item(), 0.0, 1.0


class Slip(NamedTuple):
    """A slip of the appendix. ``evaluate()``: the left side of a claim "left ``relation`` right",
    the right side as printed and the corrected one; None where nothing can be evaluated.
    ``harmless``: the propositions stand as printed.
    """

    name: str
    where: str
    printed: str
    corrected: str
    wrong: str
    harmless: bool = True
    relation: str = "<="
    evaluate: Callable[[], tuple[float, float, float]] | None = None

    def as_row(self) -> dict[str, str]:
        """A line of a table, the last two columns with the numbers of both forms."""
        row = dict(slip=self.name, where=self.where, printed=self.printed, corrected=self.corrected,
                   wrong=self.wrong)
        left, *right = self.evaluate() if self.evaluate else (None, None, None)
        shown = ("" if side is None else f"{left:.4g} {self.relation} {side:.4g}" for side in right)
        return row | dict(
            zip(("with numbers, printed", "with numbers, corrected"), shown, strict=True))


SLIPS = (
    Slip("forget gate of 3.4", "F.5, last two lines", "1/2 γ₂² (2 g_f²/σ_f²) ‖W_hf‖²",
         "1/2 γ₂² (g_f²/σ_f²) ‖W_hf‖²",
         "a factor of 2 that the derivation does not have; loosens a true bound",
         evaluate=lambda: _compare("batch_shared", norm_hh_l0__gain=1.0)),
    Slip("output gate of 3.3", "F.4, last display, first line", "1/2 ‖W_ho‖²", "1/4 ‖W_ho‖²",
         "the display above it has 1/4; loosens a true bound",
         evaluate=lambda: _compare("none", "3.3")),
    Slip(
        "negative gains",
        "F.3, norm of the Jacobian; all g_*",
        "‖Diag(g)‖ = max_j g_j",
        "‖Diag(g)‖ = max_j |g_j|",
        "false as soon as the gain of largest magnitude is negative; with all of them negative the bound is negative",
        harmless=False,
        evaluate=lambda: _compare("layer", norm_hh_l0__gain=[0.01, -2.0, -2.0]),
    ),
    Slip(
        "Jacobian of batch normalization",
        "F.5, step 2, first display (cited from [25])",
        "(g²/σ²) (‖u‖² - 1/N ⟨1, u⟩² - 1/√N  ⟨u, z⟩²)",
        "(g²/σ²) (‖u‖² - 1/N ⟨1, u⟩² - 1/N ⟨u, z⟩²)",
        "||z||^2 = N; false as printed (negative for u near z), an equality with 1/N and eps = 0; what follows survives",
        evaluate=_batch_jacobian,
    ),
    Slip("derivative of the forget gate", 'F.1, under "Combining", first line',
         "Diag(c_{t-1} ⊙ σ(f_t)) W_hf", "Diag(c_{t-1} ⊙ σ'(f_t)) W_hf",
         "the prime is missing; it is back in the next line", relation="=",
         evaluate=lambda: _one_unit()[0]),
    Slip(
        "bounds of s and u without W",
        'F.1, "It is easy to verify"',
        "‖s_t^i‖ < 1/4, ‖s_t^f‖ < 1/4, …",
        "‖s_t^i‖ ≤ 1/4 ‖W_hi‖, ‖s_t^f‖ ≤ 1/4 γ₁ ‖W_hf‖, …",
        "s and u are defined with W (and c_{t-1}), their norms are taken without; the last line has both",
        evaluate=lambda: _one_unit()[1],
    ),
    Slip("strictness", 'F.1, "It is easy to verify", last two lines', "< 1 × 1 × 1 × 1/4 < 1/4",
         "< 1 × 1 × 1 × 1/4 = 1/4", "1/4 is not less than 1/4"),
    Slip(
        "one index twice",
        "F.3, second line of the derivative",
        "Σ_i (x_i - μ)(1[i=j] - 1/d)",
        "Σ_k (x_k - μ)(1[k=i] - 1/d)",
        "i is both the input's index and the sum's: read as printed it gives z_j z_j, the next line has z_i z_j",
        relation="=",
        evaluate=_layer_jacobian,
    ),
    Slip(
        "smallest eigenvalue",
        "F.3, below (14)",
        "λ_min ≤ 0",
        "0 ≤ λ_min",
        "the last step needs 1 - lambda_min <= 1; d = 2: lambda_min = 1 (d > 2: 0). lambda_max is 1, not up to 2",
        evaluate=_smallest_eigenvalue,
    ),
    Slip("a plus sign", 'F.4, between the last two lines before "Summing"',
         "(…) ‖∂ξ_m / ∂h_t‖²  (…) ‖∂ξ_m / ∂c_{t+1}‖²",
         "(…) ‖∂ξ_m / ∂h_t‖² + (…) ‖∂ξ_m / ∂c_{t+1}‖²", "a product as printed, which is 0 at t = m",
         evaluate=lambda: (_compare("none", "3.3")[0], 0.0, _compare("none", "3.3")[2])),
    Slip("normalized before the norm", "F.5, end of step 2, first inequality",
         "4 ‖W_hi‖² Σ_k ‖∂ξ_m / ∂ĩ_t^k‖² + …", "4 ‖W_hi‖² Σ_k ‖∂ξ_m / ∂i_t^k‖² + …",
         "three tildes too many: g^2 / sigma^2 enters two lines later only; false for g > 2 sigma",
         evaluate=lambda: _step_2_or_3(None)),
    Slip(
        "c twice",
        "F.5, step 3, last display but one, first line",
        "4 ‖W_hf‖² (g_f²/σ_f²) Σ_k ‖∂ξ_m / ∂f̃_t^k‖² ‖Diag(c_{t-1}^k)‖²",
        "4 ‖W_hf‖² (g_f²/σ_f²) Σ_k ‖∂ξ_m / ∂f̃_t^k‖²",
        "the gradient of f~ contains c_{t-1} already; false for |c_{t-1}| < 1/2 (here 0.1), right again in the next line",
        evaluate=lambda: _step_2_or_3(0.1**2),
    ),
    Slip(
        "rows of zeros",
        "F.2, (9)",
        "D⁻¹ W",
        "(D + ε I)⁻¹ W",
        "a ternary row can be all zero, and D has no inverse then; with eps = 1e-8 the row stays 0 and the bound holds",
    ),
    Slip("superscripts", "F.5, first two displays; step 3 of the list",
         "σ(õ_t),  ∂ξ_m / ∂c_{t+1},  ∂ξ_m / ∂i_t^k", "σ(õ_t^k),  ∂ξ_m / ∂c_{t+1}^k,  ∂ξ_m / ∂ĩ_t^k",
         "k and tildes left out"),
    Slip("a parenthesis", "F.2, (11), and F.3, (16), third line",
         "Diag(σ(õ_t) ⊙ tanh'(c_t)) ⊙ σ(ĩ_t) ⊙ tanh'(ã_t))",
         "Diag(σ(õ_t) ⊙ tanh'(c_t) ⊙ σ(ĩ_t) ⊙ tanh'(ã_t))", "closed too early"),
)
"""The slips of appendix F. Only the negative gains touch what the propositions say."""


def _beyond(step: int, sample: int, settings: dict, **sides) -> tuple[float, float]:
    found = propositions.sides(*example(**settings), **sides)
    return found.lhs[step - 1, sample].item(), found.rhs[step - 1, sample].item()


COUNTEREXAMPLES: dict[str, Callable[[], tuple[float, float]]] = {
    # its h_{t-1} reaches the loss through the upper layer's step t - 1 too
    "the lower layer of two": lambda: _beyond(2, 0, dict(layers=2, weight_hh_l0=0.01), layer=0),
    "max g_j without absolute value": lambda: _compare(
        "layer", norm_hh_l0__gain=[0.01, -2.0, -2.0])[:2],
    # the loss itself reads h_m, and the right side is 0
    "the step after m": lambda: _beyond(3, 0, {}, m=2),
    # each h_{t-1} has a loss of its own
    "the loss summed over all steps": lambda: _beyond(2, 0, dict(weight_hh_l0=0.01), total=True),
}
"""Outside their conditions the bounds fail: functions that return both sides of explicit networks,
left > right."""


def invariance_table(gate: int = 1, s: float = 10.0):
    """:func:`scale_invariance` of a small network (:func:`example`) with each normalizer, its
    ``gate`` scaled by ``s``: a pandas table."""
    import pandas as pd

    changes = {name: scale_invariance(*example(name), gate, s)
               for name in ("none", "weight", "layer", "batch_shared")}
    return pd.DataFrame.from_dict(changes, orient="index", columns=["outputs", "gradients"])
