"""qlstm.recurrence.linear against torch's own product."""

from importlib import util
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from qlstm import QuantLSTM
from qlstm.recurrence import linear
from qlstm.weight import fixed_sample


def derivatives(product, x, weight, bias):
    """The product, its gradients, and gradients of a function of those."""
    inputs = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
    y = product(*inputs)
    first = torch.autograd.grad(y.tanh().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), inputs)
    return [y, *first, *second]


@pytest.mark.parametrize("shape", [(5,), (1, 5), (7, 5), (3, 4, 5), (0, 5), (2, 0, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_and_derivatives(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(size, generator=generator, dtype=dtype) for size in (shape, (6, 5), (6,)))
    ours = derivatives(linear.linear, x, weight, bias)
    true = derivatives(F.linear, x.double(), weight.double(), bias.double())
    for got, expected in zip(ours, true, strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


def test_strided_tensors():
    x, weight = torch.randn(8, 3, 10).transpose(0, 1)[..., ::2], torch.randn(5, 7).t()
    torch.testing.assert_close(linear.linear(x, weight), F.linear(x, weight))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_row(value):
    x = torch.ones(3, 4)
    x[1, 2] = value
    assert linear.linear(x, torch.ones(2, 4)).isfinite().all(1).tolist() == [True, False, True]


def test_types_that_differ_are_refused_as_by_torch():
    with pytest.raises(RuntimeError):
        linear.linear(torch.ones(2, 3), torch.ones(4, 3, dtype=torch.float64))


def test_where_onednn_is_missing(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    layer = linear.Linear(3, 2)
    assert layer(torch.ones(4, 3)).equal(F.linear(torch.ones(4, 3), layer.weight, layer.bias))


def test_names_that_torch_may_take_away(monkeypatch):
    """What is not public can be gone: then torch's own products are right, and slower."""
    layer, x = QuantLSTM(3, 4, normalizer="layer"), torch.randn(5, 2, 3)
    expected, _ = layer(x)
    with monkeypatch.context() as patch:
        patch.setattr(torch.ops, "mkldnn", SimpleNamespace(_linear_pointwise=print))
        found = util.find_spec(linear.__name__)
        found.loader.exec_module(without := util.module_from_spec(found))
    assert linear.has_onednn(x) == torch.backends.mkldnn.is_available()
    assert not without.has_onednn(x)
    weight = torch.randn(6, 3)
    torch.testing.assert_close(without.linear(x, weight), F.linear(x, weight))
    monkeypatch.delattr(torch._C, "_are_functorch_transforms_active")
    monkeypatch.delattr(torch._C, "_DisableFuncTorch")
    fixed_sample.cache_clear()
    assert fixed_sample(3, torch.Size([2]), x.device).equal(
        torch.rand(2, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    assert linear.is_transformed()
    assert not linear.has_onednn(x)
    torch.testing.assert_close(layer(x)[0], expected)
    assert layer.backend_used == "naive"


def test_compilers_and_transformations_get_torchs_own_product(monkeypatch):
    x, weight = torch.randn(3, 4), torch.randn(2, 4, requires_grad=True)
    ours = linear.linear(x, weight)
    gradient = torch.func.grad(lambda w: linear.linear(x, w).tanh().sum())(weight.detach())
    ours.tanh().sum().backward()
    torch.testing.assert_close(gradient, weight.grad)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert linear.linear(x, weight).grad_fn.name() != ours.grad_fn.name()


@pytest.mark.parametrize("integers", [[[3, 0]], [[0, -1]]])
def test_an_integer_that_picks_nothing_is_named(integers):
    with pytest.raises(IndexError, match=r"from 0 to 2, got (0 to 3|-1 to 0)"):
        linear.input_products(torch.tensor(integers), torch.ones(4, 3))
