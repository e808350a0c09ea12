"""Backpropagation through time in a plain recurrent network."""

import matplotlib.pyplot as plt
import pytest
import torch

from qlstm.course import demos
from qlstm.course.unrolled import product_norms, tanh_jacobians


def test_products_of_jacobians_are_what_autograd_finds():
    torch.manual_seed(0)
    weight, inputs = torch.randn(3, 3).double(), torch.randn(4, 3).double()
    states = [torch.zeros(3).double().requires_grad_()]
    for x in inputs:
        states.append(torch.tanh(weight @ states[-1] + x))
    rows = [torch.autograd.grad(unit, states, retain_graph=True) for unit in states[-1]]
    by_autograd = torch.stack([torch.stack(row) for row in zip(*rows, strict=True)])  # (T+1, d, d)
    found = product_norms(tanh_jacobians(weight, inputs))
    torch.testing.assert_close(found, torch.linalg.matrix_norm(by_autograd, 2))
    assert found[-1] == 1


def test_without_a_step_nothing_changes_a_gradient():
    assert product_norms(torch.zeros(0, 2, 2)).tolist() == [1]


@pytest.mark.parametrize(("units", "spread"), [(1, 0.0), (1, 1.0), (16, 0.1)])
def test_the_bound_is_drawn_above_what_arrives(units, spread):
    demos.travel(gain=1.5, spread=spread, units=units, steps=20)
    (found, bound), title = (line.get_ydata() for line in plt.gca().lines), plt.gca().get_title()
    plt.close()
    assert len(found) == len(bound) == 21
    assert all(low <= high * (1 + 1e-9) for low, high in zip(found, bound, strict=True))
    assert (found[0] == pytest.approx(1.5**20)) == (units == 1 and spread == 0)
    assert title.startswith("1 unit," if units == 1 else "16 units,")
