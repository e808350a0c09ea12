"""Every fast recurrence against the naive one: outputs, states, all gradients, running
statistics."""

import copy
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from mixed import PLACES, mix, stretched
from tolerances import assert_close
from torch import nn

from qlstm import ConfigError, QuantGRU, QuantLSTM, recurrence
from qlstm.normalizers import NORMALIZERS, BatchNorm, Identity
from qlstm.quantizers import QUANTIZERS
from qlstm.recurrence import agreement, cpu, cudnn, linear

CELLS = [QuantLSTM, QuantGRU]
ROWS = [(QuantLSTM, q, n) for n in NORMALIZERS
        for q in ("full_precision", "binary_connect", "ter_connect", "alternating")]
ROWS += [(QuantLSTM, q, "batch_separate") for q in ("sbn", "stn")]
ROWS += [(QuantGRU, q, n) for q in ("full_precision", "ter_connect") for n in NORMALIZERS]
SHAPES = {"short": (7, 5, 3, 37), "odd": (13, 3, 4, 9), "two samples": (2, 2, 2, 33),
          "one step": (1, 4, 1, 1)}
"""T, N, D, d."""

needs_compiler = pytest.mark.skipif(isinstance(cpu.library(), str), reason=str(cpu.library()))
each_cell = pytest.mark.parametrize("cell", CELLS)


def pair(quantizer, normalizer, shape, dtype=torch.float64, layers=1, backend="cpu",
         cell=QuantLSTM, **settings):
    """The same layer on naive and a fast backend, its parameters far from their initial values;
    input, and the parts of a state. A GRU has both bias vectors unless ``settings`` say else."""
    t, n, d_in, d = shape
    settings = {"biases": 2 if cell is QuantGRU else 1} | settings
    torch.manual_seed(1)
    naive = cell(d_in, d, layers, quantizer=quantizer, normalizer=normalizer, max_steps=5,
                 backend="naive", **settings)
    with torch.no_grad():
        for name, parameter in naive.named_parameters():
            if "gain" in name or "shift" in name:
                parameter += 0.3 * torch.randn_like(parameter)
        for name, buffer in naive.named_buffers():
            if "running_var" in name:
                buffer.uniform_(0.5, 2)
            elif "running_mean" in name:
                buffer.normal_()
    naive = naive.to(dtype)
    fast = copy.deepcopy(naive)
    fast.backend = backend
    x = torch.randn(t, n, d_in, dtype=dtype)
    return naive, fast, x, tuple(torch.randn(layers, n, d, dtype=dtype) for _ in range(cell.states))


def evaluate(layer, x, state):
    """All outputs and gradients by name, for random cotangents of output and last state; running
    statistics after it."""
    x, state = x.clone().requires_grad_(), tuple(s.clone().requires_grad_() for s in state)
    torch.manual_seed(2)  # stochastic quantizers
    output, last = layer(x, layer.as_hx(state))
    found = {"output": output} | dict(zip("hc", layer.as_parts(last), strict=False))
    torch.manual_seed(3)
    loss = sum((value * torch.randn_like(value)).sum() for value in found.values())
    variables = {"x": x} | dict(zip(("h_0", "c_0"), state, strict=False)) | {
        name: value for name, value in layer.named_parameters() if value.requires_grad}
    gradients = torch.autograd.grad(loss, list(variables.values()))
    found |= {
        f"gradient of {k}": g for k, g in zip(variables, gradients, strict=True)}
    return found | {name: value for name, value in layer.state_dict().items() if "running" in name}


def assert_equal(naive, fast, tolerance):
    """By name, so that a failure says what differs."""
    for name, value in naive.items():
        try:
            assert_close(fast[name], value, tolerance)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


@needs_compiler
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("cell", "quantizer", "normalizer"), ROWS)
def test_cpu_equals_naive(cell, quantizer, normalizer, shape, training):
    naive, fast, x, state = pair(quantizer, normalizer, shape, cell=cell)
    results = [evaluate(layer.train(training), x, state) for layer in (naive, fast)]
    assert fast.backend_used == "cpu"
    assert_equal(*results, "float64")


@needs_compiler
@pytest.mark.parametrize(("cell", "quantizer"), [  # ter_connect makes a GRU of 70 units chaotic
    (QuantLSTM, "ter_connect"), (QuantGRU, "twn"), (QuantGRU, "full_precision")])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_cpu_in_float32_is_as_exact_as_naive(cell, quantizer, normalizer):
    naive, fast, x, state = pair(quantizer, normalizer, (35, 20, 8, 70), torch.float32, cell=cell)
    exact = evaluate(copy.deepcopy(naive).double(), x.double(), tuple(s.double() for s in state))
    errors = []
    for layer in (naive, fast):
        found = evaluate(layer, x, state)
        errors.append({k: (found[k].double() - exact[k]).norm() / exact[k].norm() for k in exact})
    for name, error in errors[1].items():
        assert error < max(3 * errors[0][name], 3e-6), (name, error, errors[0][name])


@needs_compiler
@each_cell
def test_two_layers_with_many_units_and_threads(cell):
    naive, fast, x, state = pair(
        "bwn", "batch_shared", (4, 33, 6, 130), layers=2, cell=cell, biases=1)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        results = [evaluate(layer, x, state) for layer in (naive, fast)]
        torch.set_num_threads(1)
        alone = evaluate(copy.deepcopy(fast), x, state)
    finally:
        torch.set_num_threads(threads)
    assert_equal(*results, "float64")
    again = evaluate(copy.deepcopy(fast), x, state)
    assert all(torch.equal(alone[k], again[k]) for k in alone if "running" not in k)


@needs_compiler
@each_cell
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_reads_no_memory_that_it_has_not_written(cell, normalizer):
    naive, fast, x, state = pair("binary_connect", normalizer, SHAPES["short"], cell=cell)
    expected = evaluate(naive, x, state)
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    try:
        assert torch.empty(3).isnan().all()
        assert_equal(expected, evaluate(fast, x, state), "float64")
    finally:
        torch.use_deterministic_algorithms(False)


@needs_compiler
@each_cell
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_without_gradients_and_twice(cell, normalizer):
    naive, fast, x, state = pair("binary_connect", normalizer, SHAPES["short"], cell=cell)
    state = fast.as_hx(state)
    with torch.no_grad():
        assert_close(fast.eval()(x, state)[0], naive.eval()(x, state)[0], "float64")
    output, _ = fast.train()(x, state)
    first = torch.autograd.grad(output.sum(), fast.weight_hh_l0, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(output.sum(), fast.weight_hh_l0)[0])


@needs_compiler
@each_cell
@pytest.mark.parametrize("backend", ["cpu", "cudnn"])
def test_normalizers_in_any_state_are_as_with_naive_or_refused(cell, backend):
    """One may be in evaluation, another have its own eps, momentum or class ..."""
    ran, refused, mixed_modes = 0, set(), 0
    for seed in range(40):
        naive, fast, x, state = pair("bwn", "none", (4, 3, 2, 5), backend=backend, cell=cell)
        layers = [mix(layer, seed) for layer in (naive, fast)]
        norms = [getattr(fast, place) for place in PLACES]
        x, *state = map(stretched, (x, *state))
        module = import_module(f"qlstm.recurrence.{backend}")
        reason = module.obstacle(x, fast.weight_hh_l0, norms)
        if reason is None:
            ran += 1
            mixed_modes += len({norm.training for norm in norms if type(norm) is BatchNorm}) == 2
            try:
                assert_equal(*(evaluate(layer, x, state) for layer in layers), "float64")
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: {error}") from None
        else:
            refused.add(reason.partition(" of a normalizer")[0])
            with pytest.raises(ConfigError, match="cannot run this"):
                fast(x, fast.as_hx(tuple(state)))
    assert ran > 4
    assert len(refused) > 1
    assert mixed_modes > 4 or backend == "cudnn"


@needs_compiler
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e20, 1e30])
@pytest.mark.parametrize(("cell", "quantizer", "normalizer"), [
    *((cell, "full_precision", n) for cell in CELLS for n in ("none", "layer", "batch_shared")),
    (QuantLSTM, "sbn", "batch_separate")])
def test_numbers_that_are_none_stay_so_and_with_their_sample(
        cell, quantizer, normalizer, value, training):
    naive, fast, x, state = pair(quantizer, normalizer, SHAPES["short"], torch.float32, cell=cell)
    x[3, 1, 0] = value
    expected, found = (evaluate(layer.train(training), x, state) for layer in (naive, fast))
    for name in expected:
        assert torch.equal(expected[name].isnan(), found[name].isnan()), name
    if not training or normalizer in ("none", "layer"):
        for name in ("output", "gradient of x"):
            assert found[name][:, [0, 2, 3, 4]].isfinite().all(), name


@needs_compiler
@each_cell
@pytest.mark.parametrize("normalizer", ["layer", "batch_shared"])
@pytest.mark.parametrize("scale", [1e20, 1e25, 1e30])
def test_products_whose_squares_overflow_are_as_with_naive(cell, normalizer, scale):
    naive, fast, x, state = pair(
        "full_precision", normalizer, SHAPES["short"], torch.float32, cell=cell)
    expected, found = (evaluate(layer, x * scale, state) for layer in (naive, fast))
    for name, value in expected.items():
        assert torch.equal(found[name].nan_to_num(7), value.nan_to_num(7)), name


@needs_compiler
@each_cell
@pytest.mark.parametrize("backend", ["cpu", "cudnn", "auto"])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_no_samples(cell, normalizer, backend):
    for training in (True, False):
        layer = cell(3, 4, normalizer=normalizer, max_steps=2, backend=backend).train(training)
        x = torch.zeros(2, 0, 3, requires_grad=True)
        output, last = layer(x)
        assert output.shape == (2, 0, 4)
        assert all(part.shape == (1, 0, 4) for part in layer.as_parts(last))
        output.sum().backward()
        assert x.grad.shape == x.shape
        assert not layer.weight_hh_l0.grad.any()


@needs_compiler
@pytest.mark.parametrize(("name", "value", "why"), [
    ("eps", 0.0, r"the eps of a normalizer is 0\.0, not a positive number"),
    ("gain", nn.Parameter(torch.ones(4)), r"the gain of a normalizer is \(4,\), torch\.float32"),
    ("shift", nn.Parameter(torch.zeros(4, 5).half()), r"shift of a normalizer is .*float16"),
    ("running_var", torch.ones(1, 4, 4), r"running_var of a normalizer is \(4, 4\)")])
def test_what_the_extension_would_read_beyond_or_as_another_type_is_refused(name, value, why):
    layer = QuantLSTM(3, 5, normalizer="batch_shared", backend="cpu")
    setattr(layer.norm_hh_l0, name, value)
    with pytest.raises(ConfigError, match=why):
        layer(torch.zeros(2, 3, 3))


@each_cell
@pytest.mark.parametrize("backend", [pytest.param("cpu", marks=needs_compiler), "cudnn"])
def test_second_derivatives_are_refused(cell, backend):
    """As of a penalty on gradients, which would silently lack most of them."""
    layer = cell(3, 4, backend=backend)
    x = torch.randn(2, 3, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="no second derivative; take backend='naive'"):
        torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)
    layer.backend = "naive"
    (gradient,) = torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert layer.weight_hh_l0.grad.abs().sum() > 0


@needs_compiler
def test_a_normalizer_that_lacks_a_part_is_refused():
    layer = QuantLSTM(3, 4, normalizer="layer", backend="cpu")
    layer.norm_hh_l0.gain = None
    with pytest.raises(ConfigError, match="the gain of a normalizer is None"):
        layer(torch.zeros(2, 3, 3))


@needs_compiler
def test_states_of_another_type_are_refused():
    layer = QuantLSTM(3, 4, backend="cpu")
    x, h = torch.zeros(1, 2, 3), torch.zeros(1, 2, 4)
    with pytest.raises(ValueError, match=r"state in torch\.float32 .*got torch\.float64"):
        layer(x, (h, h.double()))
    layer.bias_l0.data = layer.bias_l0.data.double()
    with pytest.raises(ValueError, match=r"input in torch\.float64 on cpu, as the weights"):
        layer(x, (h, h))


@needs_compiler
def test_a_backward_pass_under_autocast_is_in_the_type_of_the_weights(monkeypatch):
    """Also where oneDNN is missing, whose products know nothing of autocast."""
    for module in (cpu, linear):
        monkeypatch.setattr(module, "has_onednn", lambda tensor: False)
    _, fast, x, state = pair("bwn", "layer", SHAPES["short"], torch.float32)
    gradients = []
    for enabled in (False, True):
        loss = fast(x, state)[0].sum()
        with torch.autocast("cpu", enabled=enabled):
            gradients.append(torch.autograd.grad(loss, fast.weight_hh_l0)[0])
    assert torch.equal(*gradients)


@needs_compiler
def test_trained_run_agrees():
    def train(layer, x, state):
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
        for _ in range(100):
            optimizer.zero_grad()
            loss = (layer(x, state)[0] - 0.5).square().mean()
            loss.backward()
            optimizer.step()
        return loss.detach()

    naive, fast, x, state = pair("full_precision", "layer", (5, 6, 3, 20))
    assert_close(train(fast, x, state), train(naive, x, state), "float64_trained")


PLAIN = [(cell, q, n) for cell in CELLS for q in QUANTIZERS if q not in ("sbn", "stn")
         if cell is QuantLSTM or q in ("full_precision", "twn", "alternating")
         for n in ("none", "weight")]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, "float64"), (torch.float32, "")],
                         ids=["float64", "float32"])
@pytest.mark.parametrize(("cell", "quantizer", "normalizer"), PLAIN)
def test_cudnn_equals_naive(cell, quantizer, normalizer, dtype, tolerance):
    """The same call as on a GPU, where it is cuDNN's: two layers, from a given state on."""
    naive, fast, x, state = pair(quantizer, normalizer, (7, 5, 3, 19), dtype, 2, "cudnn", cell)
    found, expected = (evaluate(layer, x, state) for layer in (fast, naive))
    assert fast.backend_used == "cudnn"
    if tolerance:
        assert_equal(expected, found, tolerance)
        return
    exact = evaluate(copy.deepcopy(naive).double(), x.double(), tuple(s.double() for s in state))
    for name, value in exact.items():
        error, theirs = ((results[name].double() - value).norm() / value.norm()
                         for results in (found, expected))
        assert error < max(3 * theirs, 3e-6), name


@each_cell
def test_cudnn_with_dropout_between_layers_and_a_state_carried_on(cell):
    naive, fast, x, state = pair("ter_connect", "weight", (6, 5, 3, 19), layers=2, backend="cudnn",
                                 cell=cell, dropout=0.5)
    assert_equal(*(evaluate(layer, x, state) for layer in (naive, fast)), "float64")
    state = fast.as_hx(state)
    whole, last = fast.eval()(x, state)
    first, carried = fast(x[:2], state)
    second, found = fast(x[2:], carried)
    assert_close(torch.cat([first, second]), whole, "float64")
    assert_close(fast.as_parts(found), fast.as_parts(last), "float64")


@each_cell
def test_cudnn_takes_integers_for_one_hot_vectors_and_gradients_of_one_result(cell):
    naive, fast, _, state = pair("binary_connect", "none", (6, 5, 4, 9), backend="cudnn", cell=cell)
    symbols = torch.randint(4, (6, 5))
    gradients = [torch.autograd.grad(
        layer.as_parts(layer(symbols, layer.as_hx(state))[1])[-1].sum(), list(layer.parameters()),
        retain_graph=True) for layer in (naive, fast)]
    for expected, found in zip(*gradients, strict=True):
        assert_close(found, expected, "float64")


@each_cell
def test_cudnn_without_gradients_and_twice(cell):
    naive, fast, x, state = pair("bwn", "weight", SHAPES["short"], backend="cudnn", cell=cell)
    state = fast.as_hx(state)
    with torch.no_grad():
        assert_close(fast(x, state)[0], naive(x, state)[0], "float64")
        assert not fast(x, state)[0].requires_grad
    output, _ = fast(x, state)
    first = torch.autograd.grad(output.sum(), fast.weight_hh_l0, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(output.sum(), fast.weight_hh_l0)[0])


@each_cell
def test_cudnn_has_the_precision_of_products_in_both_passes(monkeypatch, cell):
    """TF32 is cuDNN's default, and not that of torch's products."""
    seen, backends = [], torch.backends
    name = cell.mode.lower()
    own = getattr(torch, name)

    def observed(x, *rest):
        seen.append(backends.cudnn.allow_tf32)
        output, *state = own(x, *rest)
        output.register_hook(lambda _: seen.append(backends.cudnn.allow_tf32))
        return output, *state

    monkeypatch.setattr(torch, name, observed)
    for allowed in (False, True):
        products = SimpleNamespace(allow_tf32=allowed, fp32_precision="none")
        monkeypatch.setattr(backends.cuda, "matmul", products)
        _, fast, x, state = pair("bwn", "none", SHAPES["short"], backend="cudnn", cell=cell)
        before = backends.cudnn.allow_tf32
        fast(x, fast.as_hx(state))[0].sum().backward()
        assert seen == [allowed, allowed]
        assert backends.cudnn.allow_tf32 == before
        seen.clear()


@pytest.mark.parametrize(("products", "expected"), [("tf32", "tf32"), ("ieee", "ieee"),
                                                    ("none", "ieee")])
def test_cudnn_heeds_the_newer_settings_of_precision(monkeypatch, products, expected):
    """Torch raises where the older ones are read after these were set."""
    class Newer:
        rnn = SimpleNamespace(fp32_precision="none")

        @property
        def allow_tf32(self):
            raise RuntimeError("PyTorch is checking whether allow_tf32 is enabled")

    monkeypatch.setattr(torch.backends, "cudnn", Newer())
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(
        allow_tf32=False, fp32_precision=products))
    with cudnn._precision_of_products():
        assert Newer.rnn.fp32_precision == expected
    assert Newer.rnn.fp32_precision == "none"


@pytest.mark.parametrize(
    ("cell", "settings", "why"),
    [*((cell, dict(normalizer=normalizer), why) for cell in CELLS for normalizer, why in (
        ("layer", "a plain LSTM or GRU normalizes no products"),
        ("batch_shared", "a plain LSTM or GRU normalizes no products"),
        (nn.LayerNorm(4), "it knows the study's normalizers only"))),
     (QuantLSTM, dict(quantizer="sbn", normalizer="batch_separate", max_steps=2),
      "normalizes no products")])
def test_what_cudnn_cannot_run_says_why(cell, settings, why):
    with pytest.raises(ConfigError, match=f"backend 'cudnn' cannot run this: .*{why}"):
        cell(3, 4, backend="cudnn", **settings)(torch.zeros(2, 2, 3))
    with pytest.raises(ConfigError, match="not float32 or float64"):
        cell(3, 4, backend="cudnn").half()(torch.zeros(2, 2, 3).half())


@each_cell
@pytest.mark.parametrize("backend", [cpu, cudnn])
def test_only_naive_keeps_a_trace(cell, backend):
    norms, rows = [cell(3, 4).norm_hh_l0] * 3, 4 * cell.gates
    with pytest.raises(ConfigError, match="keeps no trace"):
        getattr(backend, cell.loop)(
            torch.zeros(2, 3, 1), torch.zeros(rows, 1), torch.zeros(rows, 4), torch.zeros(16),
            (torch.zeros(3, 4),) * cell.states, norms, trace=[])


@pytest.mark.parametrize("backend", ["naive", pytest.param("cpu", marks=needs_compiler), "cudnn"])
@pytest.mark.parametrize("layers", [1, 2])
def test_in_full_precision_it_is_torchs_gru(backend, layers):
    torch.manual_seed(0)
    theirs = nn.GRU(3, 19, layers).double()
    ours = QuantGRU.from_torch(theirs, backend=backend)
    x, h = torch.randn(7, 5, 3).double(), torch.randn(layers, 5, 19).double()
    weights, results = (torch.randn(7, 5, 19), torch.randn(layers, 5, 19)), []
    for layer in (theirs, ours):
        leaves = [part.clone().requires_grad_() for part in (x, h)]
        found = layer(*leaves)
        loss = sum((part * weight).sum() for part, weight in zip(found, weights, strict=True))
        names = [f"{name}_l{k}" for k in range(layers) for name in (
            "weight_ih", "weight_hh", "bias_ih" if layer is theirs else "bias", "bias_hh")]
        leaves += [getattr(layer, name) for name in names]
        results.append([*found, *torch.autograd.grad(loss, leaves)])
    assert ours.backend_used == backend
    for expected, found in zip(*results, strict=True):
        assert expected.abs().max() > 0
        assert_close(found, expected, "float64")


# What auto takes where there is a GPU, with the CPU in its place


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """``auto`` chooses as on a GPU, and the cpu backend stands for Triton."""
    monkeypatch.setattr(recurrence, "_FASTEST_FIRST", {"cpu": ["cudnn", "cpu"]})
    monkeypatch.setattr(recurrence, "_ON_TRIAL", ["cpu"])
    agreement.disagreement.cache_clear()
    yield
    agreement.disagreement.cache_clear()


@needs_compiler
@pytest.mark.parametrize(("normalizer", "backend"), [
    ("none", "cudnn"), ("weight", "cudnn"), ("layer", "cpu"), ("batch_shared", "cpu")])
@each_cell
def test_auto_takes_cudnn_for_plain_networks_and_kernels_for_the_others(
        as_on_a_gpu, monkeypatch, normalizer, backend, cell):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("GPUs too"))
    before = torch.get_rng_state()
    layer = cell(3, 4, quantizer="bwn", normalizer=normalizer)
    torch.set_rng_state(before)
    with torch.inference_mode():
        layer(torch.zeros(2, 2, 3))
    assert layer.backend_used == backend
    assert torch.equal(torch.get_rng_state(), before)
    layer.eval()(torch.zeros(2, 1, 3))  # a single sample has no statistics of its own
    assert layer.backend_used == backend


@pytest.mark.parametrize(("samples", "units", "coded", "gates", "first"), [
    (20, 300, True, 4, "triton"), (64, 512, True, 4, "triton"), (20, 300, False, 4, "cudnn"),
    (100, 100, True, 4, "cudnn"), (128, 2000, True, 4, "cudnn"), (20, 300, True, 3, "cudnn")])
def test_kernels_come_first_for_codes_where_they_were_measured_to_be_faster(
        samples, units, coded, gates, first):
    x, w_h = SimpleNamespace(shape=(35, samples, 3)), SimpleNamespace(
        shape=(gates * units, units), device=torch.device("cuda"))
    found = recurrence._fastest_first(x, w_h, coded)
    assert found[0] == first
    assert sorted(found) == ["cudnn", "triton"]
    w_h.device = torch.device("cpu")
    assert recurrence._fastest_first(x, w_h, coded) == ["cpu"]


WRONG = {
    "its output": lambda results, leaves: (results[0] + 3e-4 * results[0].detach(), results[1]),
    "its gradient of W_h": lambda results, leaves: (leaves[2].register_hook(lambda g: 1.01 * g),
                                                    results)[1],
    "its h_T": lambda results, leaves: (results[0], (results[1][0] * torch.nan, results[1][1]))}


@needs_compiler
def test_a_cell_state_that_a_gru_lacks_is_not_normalized():
    layer = QuantGRU(3, 5, normalizer="batch_shared", backend="cpu")
    layer.norm_c_l0 = BatchNorm((5,), 5, None)
    with pytest.raises(ConfigError, match="a GRU has no cell state to normalize"):
        layer(torch.zeros(2, 3, 3))


@needs_compiler
@pytest.mark.parametrize("what", WRONG)
def test_kernels_that_are_wrong_here_are_left_out_and_told_once(as_on_a_gpu, monkeypatch, what):
    right, calls = cpu.recurrence, []

    def wrong(*arguments, **rest):
        calls.append(arguments)
        return WRONG[what](right(*arguments, **rest), arguments)

    monkeypatch.setattr(cpu, "recurrence", wrong)
    layer = QuantLSTM(3, 4, quantizer="bwn", normalizer="layer")
    with pytest.warns(RuntimeWarning, match=f"'cpu' is not used: .*{what} is .* from naive's"):
        output, _ = layer(torch.zeros(2, 2, 3))
    assert layer.backend_used == "naive"
    assert output.isfinite().all()
    with pytest.warns(RuntimeWarning):
        layer(torch.zeros(5, 2, 3))
    assert len(calls) == 1  # tried once a process and layer
    layer.backend = "cpu"  # who asks for it by name gets it
    layer(torch.zeros(2, 2, 3))
    assert layer.backend_used == "cpu"


def test_kernels_that_do_not_compile_are_left_out(as_on_a_gpu, monkeypatch):
    def fails(*arguments, **rest):
        raise RuntimeError("PTXAS error\nand much more")

    monkeypatch.setattr(cpu, "recurrence", fails)
    monkeypatch.setattr(cpu, "obstacle", lambda *arguments: None)
    layer = QuantLSTM(3, 4, normalizer="batch_shared")
    with pytest.warns(RuntimeWarning, match="ends with RuntimeError: PTXAS error; another backend"):
        layer(torch.zeros(2, 2, 3))
    assert layer.backend_used == "naive"


def test_too_little_memory_for_the_trial_is_no_fault_of_the_kernels(as_on_a_gpu, monkeypatch):
    def fails(*arguments, **rest):
        raise torch.OutOfMemoryError("CUDA out of memory")

    right = cpu.recurrence
    layer = QuantLSTM(3, 4, normalizer="layer")
    monkeypatch.setattr(cpu, "obstacle", lambda *arguments: None)
    monkeypatch.setattr(cpu, "recurrence", fails)
    with pytest.raises(torch.OutOfMemoryError):
        layer(torch.zeros(2, 2, 3))
    monkeypatch.setattr(cpu, "recurrence", right)
    if not isinstance(cpu.library(), str):
        layer(torch.zeros(2, 2, 3))
        assert layer.backend_used == "cpu"


@pytest.mark.parametrize("norm", ["none", "layer", "batch_shared"])
@pytest.mark.parametrize("coded", [True, False])
def test_naive_agrees_with_itself_in_float32(norm, coded):
    """With as many units as the paper's characters have, so that rounding is not taken for a
    fault."""
    norms = [type(QuantLSTM(1, 1, normalizer=norm).norm_hh_l0)] * 2
    layer = agreement.Layer((*norms, Identity), True, 64, 512, coded, "recurrence")
    assert agreement.disagreement.__wrapped__("naive", torch.device("cpu"), layer) is None


def test_unknown_things_go_to_naive():
    layer = QuantLSTM(3, 4, normalizer=nn.LayerNorm(4))
    layer(torch.zeros(2, 2, 3))
    assert layer.backend_used == "naive"
    layer.backend = "cpu"
    with pytest.raises(
        ConfigError, match="backend 'cpu' cannot run this: it knows the study's normalizers only"
    ):
        layer(torch.zeros(2, 2, 3))


@pytest.mark.parametrize("own_steps", [None, 1, 3, 9])
def test_statistics_of_all_steps_at_once(own_steps):
    torch.manual_seed(0)
    one, other = (BatchNorm((4, 6), 5, own_steps).double() for _ in range(2))
    products = torch.randn(7, 8, 4, 6, dtype=torch.float64)
    for t, product in enumerate(products):
        one(product, t)
    other.update(products.mean(1).flatten(1), products.var(1, correction=0).flatten(1), samples=8)
    assert_close(other.running_mean, one.running_mean, "formula")
    assert_close(other.running_var, one.running_var, "formula")
    mean, var = one.running_statistics(12)
    for t in range(12):
        step = min(t, len(one.running_mean) - 1)
        assert torch.equal(mean[t], one.running_mean[step])
        assert torch.equal(var[t], one.running_var[step])
