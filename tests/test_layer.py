"""QuantLSTM against torch.nn.LSTM, and against a step-by-step LSTM of its own written from the
equations."""

import copy
import io
import itertools
import pickle

import numpy as np
import pytest
import torch
from test_quantizers import LOSS_AWARE, STOCHASTIC, derive, level
from tolerances import assert_close
from torch import nn

from qlstm import ConfigError, QuantGRU, Quantized, QuantLSTM
from qlstm.normalizers import NORMALIZERS, BatchNorm
from qlstm.quantizers import QUANTIZERS
from qlstm.weight import fixed_sample

DOUBLE = torch.float64
COMBINATIONS = [
    (q, n) for q in QUANTIZERS for n in NORMALIZERS if q not in STOCHASTIC or n == "batch_separate"]
@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def randn(*shape, seed=0, dtype=DOUBLE):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).to(
        dtype)


def make(n, d, layers=1, dtype=DOUBLE, **settings):
    """A layer whose parameters, running statistics and second moments are all random."""
    lstm = QuantLSTM(n, d, layers, **settings).to(dtype)
    with torch.no_grad():
        for seed, (name, parameter) in enumerate(lstm.named_parameters()):
            if "norm" in name:
                parameter.copy_(randn(*parameter.shape, seed=100 + seed) * 0.5 + 0.2)
        for seed, (name, buffer) in enumerate(lstm.named_buffers()):
            buffer.copy_(randn(*buffer.shape, seed=200 + seed))
            if not name.endswith("mean"):
                buffer.abs_()
    return lstm


# The independent LSTM: four separate gates, plain formulas, autograd.


def independent(lstm, values, x, h_0, c_0, *, quantizer, normalizer, max_steps, codes=None,
                training=True, nudge=None):
    """Output and last states from the tensors ``values`` (by state_dict name), a step and a gate at
    a time.

    ``codes``: the quantized matrix of each weight name, where it is not to be derived. ``nudge``:
    tensors by (layer, step, "h" or "c") added to that state as it arises.
    """
    d, steps = lstm.hidden_size, len(x)

    def matrix(name, gate):
        latent = values[name][gate * d : (gate + 1) * d]
        if codes is not None:
            quantized = codes[name][gate]
        else:
            moment = values.get(name.replace("weight", "second_moment"))
            moment = None if moment is None else moment[gate * d : (gate + 1) * d].detach().numpy()
            quantized = torch.from_numpy(derive(quantizer, latent.detach().numpy(), moment))
        used = latent + (quantized - latent).detach()  # straight-through
        if normalizer == "weight":
            gain = values[name.replace("weight", "norm") + ".gain"][gate]
            used = gain[:, None] * used / ((used**2).sum(1, keepdim=True).sqrt() + 1e-8)
        return used

    def normalize(kind, place, y, t, gate=...):
        if kind in ("none", "weight"):
            return y
        gain, shift = values[place + ".gain"][gate], values[place + ".shift"][gate]
        if kind == "layer":
            mean = y.mean(1, keepdim=True)
            var = ((y - mean) ** 2).mean(1, keepdim=True)
        elif training:
            mean = y.mean(0)
            var = ((y - mean) ** 2).mean(0)
        else:
            step = 0 if kind == "batch_shared" else min(t, max_steps - 1)
            mean = values[place + ".running_mean"][step][gate]
            var = values[place + ".running_var"][step][gate]
        return gain * (y - mean) / (var + 1e-5) ** 0.5 + shift

    last_h, last_c = [], []
    for k in range(lstm.num_layers):
        w_x = [matrix(f"weight_ih_l{k}", gate) for gate in range(4)]
        w_h = [matrix(f"weight_hh_l{k}", gate) for gate in range(4)]
        h, c, outputs = h_0[k], c_0[k], []
        for t in range(steps):
            pre = []
            for gate in range(4):
                bias = values[f"bias_l{k}"][gate * d : (gate + 1) * d]
                input_part = normalize(normalizer, f"norm_ih_l{k}", x[t] @ w_x[gate].T, t, gate)
                recurrent_part = normalize(normalizer, f"norm_hh_l{k}", h @ w_h[gate].T, t, gate)
                pre.append(input_part + recurrent_part + bias)
            i, f, a, o = pre
            c = torch.sigmoid(i) * torch.tanh(a) + torch.sigmoid(f) * c
            if nudge is not None:
                c = c + nudge[k, t, "c"]
            cell = (
                normalize("batch_separate", f"norm_c_l{k}", c, t) if quantizer in STOCHASTIC else c)
            h = torch.sigmoid(o) * torch.tanh(cell)
            if nudge is not None:
                h = h + nudge[k, t, "h"]
            outputs.append(h)
        x = torch.stack(outputs)
        last_h.append(h)
        last_c.append(c)
    return x, torch.stack(last_h), torch.stack(last_c)


def leaves(lstm):
    """Detached copies of everything in the state dict; the parameters ask for gradients."""
    parameters = dict(lstm.named_parameters())
    return {name: tensor.detach().clone().requires_grad_(name in parameters)
            for name, tensor in lstm.state_dict().items()}


def gradients(outputs, inputs, seed=50):
    """Of a random functional of all outputs."""
    total = sum(
        (y * randn(*y.shape, seed=seed + k, dtype=y.dtype)).sum() for k, y in enumerate(outputs))
    return torch.autograd.grad(total, inputs)


def run(lstm, x, h_0, c_0, **kwargs):
    output, (h_n, c_n) = lstm(x, (h_0, c_0), **kwargs)
    return output, h_n, c_n


def inputs(lstm, T, N, dtype=DOUBLE):
    """x, h_0, c_0, asking for gradients."""
    shape = lstm.num_layers, N, lstm.hidden_size
    x, h_0, c_0 = randn(T, N, lstm.input_size, seed=1), randn(*shape, seed=2), randn(*shape, seed=3)
    return [y.to(dtype).requires_grad_() for y in (x, h_0.tanh(), c_0)]


# Against torch.


@pytest.mark.parametrize(
    ("T", "N", "n", "d", "layers"),
    [(1, 1, 1, 1, 1), (5, 3, 7, 11, 1), (4, 2, 3, 5, 2), (3, 5, 9, 4, 3), (63, 3, 17, 100, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_without_quantizer_and_normalizer_it_is_torchs_lstm(T, N, n, d, layers, dtype):
    theirs = nn.LSTM(n, d, layers).to(dtype)
    ours = QuantLSTM(n, d, layers).to(dtype)
    with torch.no_grad():
        for k in range(layers):
            for side in ("ih", "hh"):
                getattr(ours, f"weight_{side}_l{k}").copy_(getattr(theirs, f"weight_{side}_l{k}"))
            getattr(ours, f"bias_l{k}").copy_(
                getattr(theirs, f"bias_ih_l{k}") + getattr(theirs, f"bias_hh_l{k}"))
    data = inputs(ours, T, N, dtype)
    names = [f"{kind}_l{k}" for k in range(layers) for kind in ("weight_ih", "weight_hh", "bias")]
    results = []
    for lstm in (ours, theirs):
        outputs = run(lstm, *data)
        bias = {name: name.replace("bias", "bias_ih") if lstm is theirs else name for name in names}
        variables = [*data, *(getattr(lstm, bias[name]) for name in names)]
        if lstm is theirs:
            variables += [getattr(lstm, f"bias_hh_l{k}") for k in range(layers)]
        results.append((outputs, gradients(outputs, variables)))
    values, slopes = ("float64", "float64") if dtype == DOUBLE else ("float32", "float32_gradients")
    for name, a, b in zip(["output", "h_n", "c_n"], results[0][0], results[1][0], strict=True):
        assert a.dtype == dtype, name
        assert_close(a, b, values)
    ours_by_name = dict(zip(["x", "h_0", "c_0", *names], results[0][1], strict=True))
    theirs_by_name = dict(zip(["x", "h_0", "c_0", *names], results[1][1], strict=False))
    for name in ours_by_name:
        assert ours_by_name[name].abs().max() > 0, name
        assert_close(ours_by_name[name], theirs_by_name[name], slopes)
    for k in range(layers):  # the other of torch's two biases
        assert_close(ours_by_name[f"bias_l{k}"], results[1][1][3 + 3 * layers + k], slopes)


def test_state_left_out_is_zero():
    lstm = QuantLSTM(3, 4, 2).double()
    x, zero = randn(5, 2, 3), torch.zeros(2, 2, 4, dtype=DOUBLE)
    for a, b in zip(run(lstm, x, zero, zero), (lstm(x)[0], *lstm(x)[1]), strict=True):
        assert torch.equal(a, b)


def test_initial_weights_are_uniform():
    lstm = QuantLSTM(50, 100, 2)
    for name, parameter in lstm.named_parameters():
        assert 0.09 < parameter.abs().max() <= 0.1, name
        assert abs(parameter.mean()) < 0.02, name
    assert [tuple(p.shape) for p in lstm.parameters()] == [(400, 50), (400, 100), (400,),
                                                           (400, 100), (400, 100), (400,)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("normalizer", ["none", "weight"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_from_torch_computes_the_same(bias, normalizer, dtype):
    theirs = nn.LSTM(5, 7, 2, bias=bias).to(dtype)
    ours = QuantLSTM.from_torch(theirs, normalizer=normalizer)
    data = inputs(ours, 6, 3, dtype)
    # 1e-8 beside row norms of about 0.3
    tolerance = ("float32" if dtype == torch.float32 else "weight_scaling" if normalizer == "weight"
                 else "float64")
    for a, b in zip(run(ours, *data), run(theirs, *data), strict=True):
        assert_close(a, b, tolerance)
    with torch.no_grad():
        ours.weight_ih_l0.zero_()  # a copy: the given LSTM stays as it was
    assert theirs.weight_ih_l0.abs().max() > 0


def test_from_torch_with_settings():
    ours = QuantLSTM.from_torch(
        nn.LSTM(5, 7), quantizer="ter_connect", normalizer="batch_separate", max_steps=9)
    assert set(ours.quantized("weight_hh_l0").dense().unique().tolist()) == {-1.0, 0.0, 1.0}
    assert ours.norm_hh_l0.running_mean.shape == (9, 4, 7)


def test_from_torch_carries_dropout_and_mode():
    assert QuantLSTM.from_torch(nn.LSTM(5, 7, 2, dropout=0.25)).dropout == 0.25
    assert QuantLSTM.from_torch(nn.LSTM(5, 7, 2, dropout=0.25), dropout=0.5).dropout == 0.5
    theirs = nn.LSTM(5, 7, 2, dropout=0.25).eval()
    ours = QuantLSTM.from_torch(theirs)
    assert not ours.training
    x = randn(4, 3, 5, dtype=torch.float32)
    assert_close(ours(x)[0], theirs(x)[0], "float32")


def test_dropout_is_between_layers_in_training_only():
    """With dropout 1 the second layer sees zeros, the first and the output are whole."""
    lstm = QuantLSTM(3, 4, 2, dropout=1.0).double()
    x, plain = randn(5, 2, 3), QuantLSTM(3, 4, 2).double()
    plain.load_state_dict(lstm.state_dict())
    second = QuantLSTM(4, 4).double()
    second.load_state_dict(
        {name.replace("l1", "l0"): tensor for name, tensor in lstm.state_dict().items()
         if "l1" in name}
    )
    output, (h_n, _) = lstm(x)
    assert_close(output, second(torch.zeros(5, 2, 4, dtype=DOUBLE))[0], "float64")
    assert_close(h_n[0], plain(x)[1][0][0], "float64")
    assert_close(lstm.eval()(x)[0], plain(x)[0], "float64")


def test_dropout_is_random_and_scaled():
    lstm = QuantLSTM(3, 4, 2, dropout=0.5).double()
    x = randn(5, 2, 3)
    assert not torch.equal(lstm(x)[0], lstm(x)[0])
    lstm.eval()
    assert torch.equal(lstm(x)[0], lstm(x)[0])


# Against the independent LSTM.


@pytest.mark.parametrize(
    ("quantizer", "normalizer", "batch_statistics"),
    [(q, n, batch) for q, n in COMBINATIONS
     for batch in ([True, False] if n.startswith("batch") else [True])],
)
def test_every_combination_equals_the_independent_lstm(quantizer, normalizer, batch_statistics):
    T, N, n, d, steps = 5, 6, 7, 5, 3
    lstm = make(n, d, 2, quantizer=quantizer, normalizer=normalizer, max_steps=steps)
    lstm.eval()  # stochastic quantizers keep one sample
    for module in lstm.modules():
        if isinstance(module, BatchNorm):
            module.train(batch_statistics)
    codes = None
    if quantizer in STOCHASTIC:
        codes = {}
        for name in ("weight_ih_l0", "weight_hh_l0", "weight_ih_l1", "weight_hh_l1"):
            codes[name] = lstm.quantized(name).dense()
            A = level(np.empty((d, codes[name].shape[-1])))
            assert np.allclose(codes[name].unique().tolist(),
                               [-A, A] if quantizer == "sbn" else [-A, 0.0, A], rtol=1e-12)
    data, values = inputs(lstm, T, N), leaves(lstm)
    kind = dict(quantizer=quantizer, normalizer=normalizer, max_steps=steps)
    expected = independent(lstm, values, *data, **kind, codes=codes, training=batch_statistics)
    outputs = run(lstm, *data)
    for a, b in zip(outputs, expected, strict=True):
        assert_close(a, b, "float64")
    names = [name for name, _ in lstm.named_parameters()]
    ours = gradients(outputs, [*data, *lstm.parameters()])
    theirs = gradients(expected, [*data, *(values[name] for name in names)])
    for name, a, b in zip(["x", "h_0", "c_0", *names], ours, theirs, strict=True):
        assert a.abs().max() > 0, name
        assert_close(a, b, "float64")


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "weight_ih_l1", "weight_hh_l1"])
@pytest.mark.parametrize("quantizer", ["bwn", "lab", "twn", "lat"])
def test_each_of_the_eight_blocks_has_its_own_scale(quantizer, name):
    lstm = make(3, 5, 2, quantizer=quantizer)
    before = lstm.quantized(name)
    assert before.scales.shape == (1, 4, 1, 1)
    assert before.codes.shape == (1, 4, 5, 3 if name == "weight_ih_l0" else 5)
    names = ("weight_ih_l0", "weight_hh_l0", "weight_ih_l1", "weight_hh_l1")
    others = {other: lstm.quantized(other).scales for other in names if other != name}
    for gate in range(4):
        changed = copy.deepcopy(lstm)
        with torch.no_grad():
            getattr(changed, name)[gate * 5 : (gate + 1) * 5] *= 3
        factor = torch.ones(1, 4, 1, 1, dtype=DOUBLE)
        factor[0, gate] = 3
        assert_close(changed.quantized(name).scales, before.scales * factor, "float64")
        assert all(
            torch.equal(changed.quantized(other).scales, scales) for other, scales in others.items()
        )


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0"])
@pytest.mark.parametrize("normalizer", ["weight", "layer", "batch_shared"])
def test_each_of_the_eight_blocks_has_its_own_norm(normalizer, name):
    """Scaling one block of W leaves a normalized network (nearly, by eps) unchanged, a plain one
    not."""
    x = randn(4, 8, 3)
    for kind in (normalizer, "none"):
        lstm = QuantLSTM(3, 5, normalizer=kind).double()
        with torch.no_grad():
            getattr(lstm, name).mul_(
                100 if kind in ("layer", "batch_shared") else 1
            )  # so that eps is little
            before = lstm(x, (randn(1, 8, 5), randn(1, 8, 5, seed=1)))[0]
            getattr(lstm, name)[5:10] *= 7
            after = lstm(x, (randn(1, 8, 5), randn(1, 8, 5, seed=1)))[0]
        if kind == "none":
            assert (after - before).abs().max() > 0.05
        else:
            assert_close(after, before, "layer_scaling")


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_quantized_and_effective_weight_agree(quantizer):
    normalizer = "batch_separate" if quantizer in STOCHASTIC else "none"
    lstm = make(3, 5, quantizer=quantizer, normalizer=normalizer, max_steps=2).eval()
    for name in ("weight_ih_l0", "weight_hh_l0"):
        result = lstm.quantized(name)
        assert isinstance(result, Quantized)
        assert torch.equal(result.dense().flatten(0, 1), lstm.effective_weight(name))
        assert result.dense().shape == (4, 5, getattr(lstm, name).shape[1])


@pytest.mark.parametrize("normalizer", ["weight", "layer"])
def test_scale_does_not_matter_under_normalization(normalizer):
    """bwn and binary_connect have the same rows up to a positive factor."""
    x = randn(4, 3, 6)
    lstms = [make(6, 8, quantizer=q, normalizer=normalizer) for q in ("binary_connect", "bwn")]
    lstms[1].load_state_dict(lstms[0].state_dict())
    assert_close(lstms[0](x)[0], lstms[1](x)[0],
                 "weight_scaling" if normalizer == "weight" else "layer_scaling")


# Stochastic.


@pytest.mark.parametrize("quantizer", STOCHASTIC)
def test_stochastic_gains_start_at_a_tenth_and_the_cell_is_normalized(quantizer):
    lstm = QuantLSTM(3, 5, 2, quantizer=quantizer, normalizer="batch_separate", max_steps=4)
    gains = {name: p for name, p in lstm.named_parameters() if name.endswith("gain")}
    shapes = {"ih": (4, 5), "hh": (4, 5), "c": (5,)}
    expected = {f"norm_{place}_l{k}.gain": shape for place, shape in shapes.items() for k in (0, 1)}
    assert {name: tuple(p.shape) for name, p in gains.items()} == expected
    assert all((p == torch.tensor(0.1)).all() for p in gains.values())
    assert all(not p.any() for name, p in lstm.named_parameters() if name.endswith("shift"))
    assert lstm.norm_c_l1.running_mean.shape == (4, 5)
    lstm.reset_parameters()
    assert all((p == torch.tensor(0.1)).all() for p in gains.values())


@pytest.mark.parametrize("quantizer", [q for q in QUANTIZERS if q not in STOCHASTIC])
def test_the_others_leave_the_cell_alone(quantizer):
    lstm = QuantLSTM(3, 5, quantizer=quantizer, normalizer="batch_separate", max_steps=4)
    assert not [name for name in lstm.state_dict() if "norm_c" in name]
    assert not (lstm.norm_hh_l0.gain == torch.tensor(0.1)).any()


@pytest.mark.parametrize("quantizer", STOCHASTIC)
@pytest.mark.parametrize("normalizer", ["none", "weight", "layer", "batch_shared"])
def test_stochastic_go_with_batch_separate_only(quantizer, normalizer):
    with pytest.raises(ConfigError, match="batch_separate"):
        QuantLSTM(3, 5, quantizer=quantizer, normalizer=normalizer, max_steps=4)


@pytest.mark.parametrize("quantizer", STOCHASTIC)
def test_stochastic_evaluation_repeats_and_training_does_not(quantizer):
    lstm = QuantLSTM(9, 11, quantizer=quantizer, normalizer="batch_separate", max_steps=4)
    names = ("weight_ih_l0", "weight_hh_l0")
    for name in names:
        assert not torch.equal(lstm.quantized(name).codes, lstm.quantized(name).codes)
    state = torch.get_rng_state()
    lstm(torch.zeros(2, 3, 9))
    assert not torch.equal(
        state, torch.get_rng_state()
    )  # the default generator: seeded, training repeats

    lstm.eval()
    x, state = randn(4, 3, 9, dtype=torch.float32), torch.get_rng_state()
    first = lstm(x)[0]
    assert torch.equal(first, lstm(x)[0])
    assert torch.equal(
        state, torch.get_rng_state()
    )  # training goes on as if there had been no evaluation
    torch.manual_seed(77)
    assert torch.equal(first, copy.deepcopy(lstm)(x)[0])
    lstm.sample_seed = 1
    assert not torch.equal(first, lstm(x)[0])


@pytest.mark.parametrize("quantizer", STOCHASTIC)
def test_the_fixed_sample_is_the_same_in_every_precision_and_on_every_device(quantizer):
    single = QuantLSTM(30, 20, 2, quantizer=quantizer, normalizer="batch_separate", max_steps=4)
    double = copy.deepcopy(single.eval()).double()
    for name in ("weight_ih_l0", "weight_hh_l0", "weight_ih_l1", "weight_hh_l1"):
        assert torch.equal(single.quantized(name).codes.double(), double.quantized(name).codes)
    # drawn on the CPU: meta has no generator
    sample = fixed_sample(3, (5, 4), torch.device("cpu"))
    with torch.device("meta"):
        assert torch.equal(sample, fixed_sample.__wrapped__(3, (5, 4), torch.device("cpu")))
        assert fixed_sample(3, (5, 4), torch.device("meta")).is_meta


def test_stochastic_matrices_are_sampled_apart():
    lstm = QuantLSTM(11, 11, 2, quantizer="sbn", normalizer="batch_separate", max_steps=4).eval()
    with torch.no_grad():
        for name, parameter in lstm.named_parameters():
            if name.startswith("weight"):
                parameter.zero_()
    samples = [codes for k in (0, 1) for side in ("ih", "hh")
               for codes in lstm.quantized(f"weight_{side}_l{k}").codes[0]]
    assert len(samples) == 16
    for a, b in itertools.combinations(samples, 2):
        assert abs((a * b).mean()) < 5 / 11  # 121 entries: five standard deviations


# Torch's transformations.


@pytest.mark.parametrize(
    ("cell", "quantizer", "normalizer", "training"),
    [(QuantLSTM, "binary_connect", "layer", True), (QuantLSTM, "lat", "weight", True),
     (QuantLSTM, "sbn", "batch_separate", False), (QuantGRU, "alternating", "batch_shared", False),
     (QuantGRU, "full_precision", "none", True)])
def test_vmap_grad_and_functional_call(cell, quantizer, normalizer, training):
    rnn = cell(3, 4, 2, quantizer=quantizer, normalizer=normalizer, max_steps=4).train(training)
    x = randn(2, 5, 3, 3, dtype=torch.float32)
    fixed_sample.cache_clear()  # the first to ask for it is a transformation
    many = torch.func.vmap(lambda part: rnn(part)[0])(x)
    for single, part in zip(many, x, strict=True):
        assert_close(single, rnn(part)[0], "float32")
    parameters = {name: value.detach() for name, value in rnn.named_parameters()}

    def loss(values):
        return torch.func.functional_call(rnn, values, (x[0],))[0].square().sum()

    gradients = torch.func.grad(loss)(parameters)
    rnn(x[0])[0].square().sum().backward()
    for name, parameter in rnn.named_parameters():
        assert_close(gradients[name], parameter.grad, "float32_gradients")


def test_a_backend_that_cannot_be_transformed_says_so():
    lstm = QuantLSTM(3, 4, backend="cudnn")
    lstm(torch.zeros(2, 1, 3))
    with pytest.raises(ConfigError, match=r"'cudnn' cannot run this: torch\.func "):
        torch.func.grad(lambda x: lstm(x)[0].sum())(torch.zeros(2, 1, 3))


@pytest.mark.parametrize("quantizer", [*STOCHASTIC, "twn"])
def test_a_parametrized_matrix(quantizer):
    lstm = QuantLSTM(3, 4, quantizer=quantizer, normalizer="batch_separate", max_steps=4)
    same = copy.deepcopy(lstm).eval()
    nn.utils.parametrize.register_parametrization(lstm, "weight_hh_l0", Twice())
    with torch.no_grad():
        same.weight_hh_l0 *= 2
    x = randn(5, 2, 3, dtype=torch.float32)
    assert torch.equal(lstm.eval()(x)[0], same(x)[0])
    lstm.train()(x)[0].square().sum().backward()
    assert lstm.parametrizations.weight_hh_l0.original.grad.any()


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


def test_on_meta_it_is_built_and_then_filled():
    settings = dict(quantizer="lab", normalizer="batch_separate", max_steps=4)
    lstm = QuantLSTM(3, 4, 2, **settings).eval()
    with torch.device("meta"):
        empty = QuantLSTM(3, 4, 2, **settings).eval()
    x = randn(5, 2, 3, dtype=torch.float32)
    with pytest.raises(ValueError, match="device 'meta'"):
        empty(x)
    empty.load_state_dict(lstm.state_dict(), assign=True)
    assert torch.equal(empty(x)[0], lstm(x)[0])


def test_it_is_not_recorded_by_jit_trace():
    with (pytest.raises(ValueError, match=r"torch\.export"),
          pytest.warns(DeprecationWarning, match=r"torch\.jit\.trace")):
        torch.jit.trace(QuantLSTM(3, 4), torch.zeros(2, 1, 3))


def test_a_shallow_copy_has_its_own_quantizer_and_tensors():
    """As torch's DataParallel makes them."""
    lstm = QuantLSTM(3, 4, quantizer="twn")
    other = copy.copy(lstm)
    other.quantizer = QUANTIZERS["bwn"]
    assert torch.equal(other.quantized("weight_hh_l0").codes.abs(), torch.ones(1, 4, 4, 4))
    replica = lstm._replicate_for_data_parallel()
    replica.weight_hh_l0 = torch.zeros(16, 4)
    assert not replica.effective_weight("weight_hh_l0").any()
    assert lstm.effective_weight("weight_hh_l0").any()


# Loss-aware.


@pytest.mark.parametrize("quantizer", LOSS_AWARE)
def test_second_moment_of_adam_sets_the_scale(quantizer):
    lstm = QuantLSTM(7, 6, 2, quantizer=quantizer).double()
    names = [name for name, _ in lstm.named_parameters() if name.startswith("weight")]
    x = randn(5, 3, 7)

    def check(moments):
        for name in names:
            result, weight = lstm.quantized(name), getattr(lstm, name).detach()
            for gate in range(4):
                block = slice(gate * 6, (gate + 1) * 6)
                v = None if moments is None else moments[name][block].numpy()
                assert_close(result.dense()[gate],
                             torch.from_numpy(derive(quantizer, weight[block].numpy(), v)),
                             "float64")

    check(None)  # before the first step D = 1
    adam = torch.optim.Adam(lstm.parameters(), lr=0.01)
    before = None
    for _ in range(3):
        adam.zero_grad()
        lstm(x)[0].pow(2).sum().backward()
        adam.step()
        moments = {
            name: adam.state[parameter]["exp_avg_sq"] for name, parameter in lstm.named_parameters()
        }
        lstm.set_second_moment(moments)  # the names of biases and norms are ignored
        check(moments)
        scales = lstm.quantized("weight_hh_l1").scales
        assert before is None or not torch.equal(scales, before)
        before = scales
    # not just D = 1 under another name
    plain = derive(quantizer, lstm.weight_hh_l0[:6].detach().numpy())
    assert not np.allclose(lstm.quantized("weight_hh_l0").dense()[0].numpy(), plain, rtol=1e-3)

    other = QuantLSTM(7, 6, 2, quantizer=quantizer).double()
    other.load_state_dict(lstm.state_dict())
    for name in names:
        assert torch.equal(other.quantized(name).dense(), lstm.quantized(name).dense())
    assert torch.equal(other(x)[0], lstm(x)[0])


@pytest.mark.parametrize("quantizer", LOSS_AWARE)
def test_second_moments_start_over(quantizer):
    lstm = QuantLSTM(3, 4, 2, quantizer=quantizer)
    lstm.to_empty(device="cpu")
    for value in lstm.state_dict().values():
        value.fill_(5.0)
    lstm.reset_parameters()
    for place in ("ih_l0", "hh_l0", "ih_l1", "hh_l1"):
        assert (getattr(lstm, f"second_moment_{place}") == 1).all()


def test_second_moment_of_others_is_ignored():
    lstm = QuantLSTM(3, 4, quantizer="bwn")
    before = lstm.state_dict()
    lstm.set_second_moment({"weight_ih_l0": torch.ones(16, 3), "no_such_weight": torch.ones(1)})
    assert lstm.state_dict().keys() == before.keys()


def test_loading_leaves_the_optimizer_alone():
    """Loading a checkpoint must not write into the Adam state that the second moment came from."""
    lstm = QuantLSTM(3, 4, quantizer="lab")
    fresh = copy.deepcopy(lstm.state_dict())
    adam = torch.optim.Adam(lstm.parameters())
    lstm(randn(5, 3, 3, dtype=torch.float32))[0].pow(2).sum().backward()
    adam.step()
    moments = {
        name: adam.state[parameter]["exp_avg_sq"] for name, parameter in lstm.named_parameters()}
    before = {name: moment.clone() for name, moment in moments.items()}
    lstm.set_second_moment(moments)
    lstm.load_state_dict(fresh)
    assert all(torch.equal(moments[name], before[name]) for name in moments)


# Storing, copying, moving.


def trained(quantizer, normalizer):
    """Float32, after two steps of Adam, second moments and statistics in place."""
    lstm = QuantLSTM(7, 6, 2, quantizer=quantizer, normalizer=normalizer, max_steps=3)
    adam = torch.optim.Adam(lstm.parameters(), lr=0.01)
    for seed in (0, 1):
        lstm(randn(5, 4, 7, seed=seed, dtype=torch.float32))[0].pow(2).sum().backward()
        adam.step()
        lstm.set_second_moment(
            {name: adam.state[parameter]["exp_avg_sq"]
             for name, parameter in lstm.named_parameters()}
        )
    return lstm


@pytest.mark.parametrize(
    ("quantizer", "normalizer"),
    [(q, "batch_separate") for q in QUANTIZERS] + [("lab", n) for n in NORMALIZERS])
def test_state_dict_deepcopy_and_pickle_are_bit_identical(quantizer, normalizer):
    lstm = trained(quantizer, normalizer).eval()
    x = randn(5, 4, 7, seed=9, dtype=torch.float32)
    expected = lstm(x)[0]
    file = io.BytesIO()
    torch.save(lstm.state_dict(), file)
    file.seek(0)
    loaded = QuantLSTM(7, 6, 2, quantizer=quantizer, normalizer=normalizer, max_steps=3).eval()
    assert not torch.equal(loaded(x)[0], expected)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    copies = [loaded, copy.deepcopy(lstm), pickle.loads(pickle.dumps(lstm))]
    for other in copies:
        assert not other.training
        assert torch.equal(other(x)[0], expected)
        with torch.no_grad():
            other.bias_l0 += 1
    assert torch.equal(lstm(x)[0], expected)  # the copies share nothing


@pytest.mark.parametrize(
    ("quantizer", "normalizer"),
    [("lab", "batch_separate"), ("alternating", "layer"), ("twn", "weight"),
     ("full_precision", "none")],
)
def test_double_and_float(quantizer, normalizer):
    lstm = trained(quantizer, normalizer).eval()
    x = randn(5, 4, 7, seed=9, dtype=torch.float32)
    single = lstm(x)[0]
    lstm.double()
    assert all(tensor.dtype == DOUBLE for tensor in lstm.state_dict().values())
    output, (h_n, c_n) = lstm(x.double())
    assert output.dtype == h_n.dtype == c_n.dtype == DOUBLE
    assert_close(output.float(), single, "float32_float64")
    lstm.float()
    assert torch.equal(lstm(x)[0], single)


def test_double_stochastic_has_the_dtype():
    lstm = trained("stn", "batch_separate").double()
    assert lstm(randn(5, 4, 7))[0].dtype == DOUBLE
    assert lstm.eval()(randn(5, 4, 7))[0].dtype == DOUBLE


# Inputs.


@pytest.mark.parametrize("integer", [torch.int64, torch.int32])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_integers_stand_for_one_hot_vectors(integer, normalizer):
    lstm = make(9, 5, 2, quantizer="twn", normalizer=normalizer, max_steps=4)
    other = copy.deepcopy(lstm)
    symbols = torch.randint(0, 9, (6, 3), generator=torch.Generator().manual_seed(0), dtype=integer)
    symbols[0, 0], symbols[0, 1] = 0, 8
    one_hot = torch.zeros(6, 3, 9, dtype=DOUBLE)
    for t in range(6):
        for k in range(3):
            one_hot[t, k, symbols[t, k]] = 1.0
    h_0, c_0 = (y.requires_grad_() for y in (randn(2, 3, 5, seed=2), randn(2, 3, 5, seed=3)))
    results = [run(lstm, symbols, h_0, c_0), run(other, one_hot, h_0, c_0)]
    for a, b in zip(*results, strict=True):
        assert_close(a, b, "float64")
    for a, b in zip(gradients(results[0], [h_0, c_0, *lstm.parameters()]),
                    gradients(results[1], [h_0, c_0, *other.parameters()]), strict=True):
        assert_close(a, b, "float64")
    for a, b in zip(lstm.state_dict().values(), other.state_dict().values(), strict=True):
        assert_close(a, b, "float64")  # running statistics too


@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize("integers", [True, False])
def test_unbatched(with_state, integers):
    lstm = make(5, 7, 2, quantizer="bwn", normalizer="layer")
    x = torch.tensor([0, 4, 2, 2]) if integers else randn(4, 5)
    state = (randn(2, 7, seed=1), randn(2, 7, seed=2)) if with_state else None
    output, (h_n, c_n) = lstm(x, state)
    batched, (h_b, c_b) = lstm(
        x[:, None], None if state is None else tuple(s[:, None] for s in state))
    assert output.shape == (4, 7)
    assert h_n.shape == c_n.shape == (2, 7)
    for a, b in [(output, batched), (h_n, h_b), (c_n, c_b)]:
        assert torch.equal(a, b.squeeze(1))


def test_samples_do_not_depend_on_each_other():
    lstm = make(5, 7, quantizer="ter_connect", normalizer="layer")
    x = randn(4, 3, 5)
    for k in range(3):
        assert_close(lstm(x)[0][:, k], lstm(x[:, k])[0], "float64")


def test_running_in_pieces_carries_the_state():
    lstm = make(5, 7, 2, quantizer="bwn", normalizer="weight")
    x = randn(6, 3, 5)
    whole, last = lstm(x)
    first, state = lstm(x[:2])
    second, end = lstm(x[2:], state)
    assert_close(torch.cat([first, second]), whole, "float64")
    for a, b in zip(end, last, strict=True):
        assert_close(a, b, "float64")


AUTOCAST = dict(device_type="cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("quantizer", "normalizer"),
    [("full_precision", "none"), ("bwn", "weight"), ("lat", "layer"),
     ("ter_connect", "batch_shared")],
)
@pytest.mark.parametrize("integers", [True, False])
def test_autocast_equals_float32(quantizer, normalizer, integers):
    lstm = make(5, 7, 2, torch.float32, quantizer=quantizer, normalizer=normalizer)
    x = torch.randint(0, 5, (4, 3)) if integers else randn(4, 3, 5, dtype=torch.float32)
    state = randn(2, 3, 7, dtype=torch.float32), randn(2, 3, 7, seed=1, dtype=torch.float32)
    plain = run(lstm, x, *state)
    slopes = gradients(plain, list(lstm.parameters()))
    with torch.autocast(**AUTOCAST):
        cast = run(lstm, x, *state)
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))
    assert all(torch.equal(a, b)
               for a, b in zip(slopes, gradients(cast, list(lstm.parameters())), strict=True))


def test_autocast_with_an_input_that_was_cast():
    """What a layer before gives under autocast is bfloat16."""
    linear, lstm = nn.Linear(5, 5), QuantLSTM(5, 7)
    x = randn(4, 3, 5, dtype=torch.float32)
    with torch.autocast(**AUTOCAST):
        y = linear(x)
        assert y.dtype == torch.bfloat16
        output, _ = lstm(y)
    assert torch.equal(output, lstm(y.float())[0])


def test_autocast_with_a_state_that_was_cast():
    lstm = QuantLSTM(5, 7)
    x, state = randn(4, 3, 5, dtype=torch.float32), (randn(1, 3, 7, dtype=torch.bfloat16),) * 2
    with torch.autocast(**AUTOCAST):
        output, _ = lstm(x, state)
    assert torch.equal(output, lstm(x, tuple(s.float() for s in state))[0])


# Trace.


@pytest.mark.parametrize(
    ("quantizer", "normalizer"),
    [("full_precision", "none"), ("bwn", "weight"), ("ter_connect", "layer"),
     ("binary_connect", "batch_separate")],
)
def test_trace_gives_the_states_with_their_total_gradients(quantizer, normalizer):
    T, N, n, d, layers = 4, 3, 5, 4, 2
    lstm = make(n, d, layers, quantizer=quantizer, normalizer=normalizer, max_steps=3)
    data, values = inputs(lstm, T, N), leaves(lstm)
    trace = []
    outputs = run(lstm, *data, trace=trace)
    assert len(trace) == layers
    assert all(len(states) == T and all(h.shape == c.shape == (N, d) for h, c in states)
               for states in trace)
    assert torch.equal(torch.stack([h for h, _ in trace[-1]]), outputs[0])
    assert torch.equal(torch.stack([trace[k][-1][1] for k in range(layers)]), outputs[2])
    for a, b in zip(outputs, run(copy.deepcopy(lstm), *data), strict=True):
        assert_close(b, a, "float64")  # tracing changes nothing (another backend may run)

    keys = [(k, t, which) for k in range(layers) for t in range(T) for which in ("h", "c")]
    nudge = {key: torch.zeros(N, d, dtype=DOUBLE, requires_grad=True) for key in keys}

    def objective(results):
        return (results[0] * randn(T, N, d, seed=50)).sum()

    def nudged():
        return objective(
            independent(lstm, values, *data, quantizer=quantizer, normalizer=normalizer,
                        max_steps=3, nudge=nudge)
        )

    expected = torch.autograd.grad(nudged(), [nudge[key] for key in keys])
    states = [trace[k][t]["hc".index(which)] for k, t, which in keys]
    ours = torch.autograd.grad(objective(outputs), states, retain_graph=True)
    for key, a, b in zip(keys, ours, expected, strict=True):
        assert a.abs().max() > 0, key
        assert_close(a, b, "float64")
    # and by finite differences, an entry of each state
    with torch.no_grad():
        for key, slope in zip(keys, ours, strict=True):
            ends = []
            for step in (1e-5, -1e-5):
                nudge[key][1, 2] = step
                ends.append(nudged())
            nudge[key][1, 2] = 0.0
            assert_close(slope[1, 2], (ends[0] - ends[1]) / 2e-5, "finite_differences")


def test_trace_of_the_loss_of_one_step():
    """Later states have no part in the loss of an earlier step."""
    lstm, trace = make(3, 4), []
    output, _ = lstm(randn(5, 2, 3), trace=trace)
    slopes = torch.autograd.grad(output[2].sum(), [h for h, _ in trace[0]], allow_unused=True)
    assert [slope is not None and bool(slope.any()) for slope in slopes] == [
        True, True, True, False, False]


# A user's own quantizer.


def thirds(matrix):
    return torch.round(matrix * 3) / 3


def thirds_quantized(matrix):
    return Quantized(torch.round(matrix * 3)[None], matrix.new_full((1, 1, 1), 1 / 3))


def largest(matrix):
    """Looks at the matrix as a whole: one gate at a time."""
    assert matrix.dim() == 2
    return matrix.abs().max() * torch.sign(matrix)


def by_moment(matrix, second_moment):
    assert second_moment.shape == matrix.shape
    return second_moment.sqrt()


def noisy(matrix, generator=None):
    return torch.rand(matrix.shape, generator=generator, dtype=matrix.dtype)


class Soft(nn.Module):
    """Its own gradient, and a parameter."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(1.5))

    def forward(self, matrix):
        return torch.tanh(self.slope * matrix)


@pytest.mark.parametrize(
    "own", [thirds, thirds_quantized, f"{__name__}:thirds", largest, lambda w: w.round()])
@pytest.mark.parametrize("normalizer", ["none", "weight", "layer"])
def test_own_function_with_straight_through_gradient(own, normalizer):
    lstm = make(3, 4, 2, quantizer=own, normalizer=normalizer)
    with torch.no_grad():
        for k in (0, 1):
            getattr(lstm, f"weight_ih_l{k}").mul_(4)
            getattr(lstm, f"weight_hh_l{k}").mul_(4)
    function = thirds if isinstance(own, str) or own is thirds_quantized else own
    values, data = leaves(lstm), inputs(lstm, 5, 3)
    codes = {name: torch.stack([function(block) for block in values[name].detach().split(4)])
             for name in values if name.startswith("weight")}
    expected = independent(
        lstm, values, *data, quantizer="own", normalizer=normalizer, max_steps=None, codes=codes)
    outputs = run(lstm, *data)
    names = [name for name, _ in lstm.named_parameters()]
    ours = [*outputs, *gradients(outputs, list(lstm.parameters()))]
    theirs = [*expected, *gradients(expected, [values[name] for name in names])]
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, "float64")
    result = lstm.quantized("weight_hh_l0")
    assert isinstance(result, Quantized)
    assert_close(result.dense(), codes["weight_hh_l0"], "float64")


def test_own_function_of_torch_itself():
    lstm = QuantLSTM(3, 4, quantizer=torch.sign)
    assert torch.equal(lstm.effective_weight("weight_hh_l0"), torch.sign(lstm.weight_hh_l0))


LEVELS = torch.tensor([-0.3, 0.0, 0.3])


def binary(matrix):
    return torch.where(matrix >= 0, 1.0, -1.0)


def binary_quantized(matrix):
    return Quantized(binary(matrix)[None], torch.full((1, 1, 1), 0.3))


class Levels(nn.Module):
    def forward(self, matrix):
        return LEVELS[torch.sign(matrix).long() + 1]


@pytest.mark.parametrize("own", [binary, binary_quantized, Levels(), lambda w: w > 0])
def test_own_constants_may_be_in_another_precision(own):
    lstm = QuantLSTM(3, 4, quantizer=own, normalizer="weight").double()
    output, _ = lstm(randn(5, 2, 3))
    output.sum().backward()
    assert output.dtype == lstm.effective_weight("weight_hh_l0").dtype == DOUBLE
    assert lstm.quantized("weight_hh_l0").dense().dtype == DOUBLE
    assert len(lstm.quantized("weight_hh_l0").dense().unique()) == 2


@pytest.mark.parametrize("own", [lambda w: None, lambda w: w.tolist()])
def test_own_quantizer_that_returns_no_tensor_is_refused(own):
    with pytest.raises(ConfigError, match=r"the quantizer returned (NoneType|list), not a tensor"):
        QuantLSTM(3, 4, quantizer=own)(torch.zeros(5, 2, 3))


def test_own_function_with_uniform_numbers():
    lstm = QuantLSTM(3, 4, quantizer=lambda w, uniform=0.5: w * 0 + uniform).eval()
    fixed = lstm.effective_weight("weight_hh_l0")
    assert torch.equal(fixed, copy.deepcopy(lstm).double().effective_weight("weight_hh_l0").float())
    assert len(fixed.unique()) > 32
    assert (lstm.train().effective_weight("weight_hh_l0") == 0.5).all()


def test_own_function_with_a_second_moment():
    lstm = QuantLSTM(3, 4, quantizer=by_moment).double()
    v = {"weight_ih_l0": randn(16, 3) ** 2, "weight_hh_l0": randn(16, 4) ** 2}
    lstm.set_second_moment(v)
    for name, moment in v.items():
        assert_close(lstm.effective_weight(name), moment.sqrt(), "float64")


def test_own_function_with_a_generator():
    lstm = QuantLSTM(3, 4, quantizer=noisy)
    name = "weight_hh_l0"
    assert not torch.equal(lstm.effective_weight(name), lstm.effective_weight(name))
    lstm.eval()
    first = lstm.effective_weight(name)
    assert torch.equal(first, lstm.effective_weight(name))
    assert len(first.unique()) > 32  # the four gates do not share a sample


def test_own_module_defines_its_gradient_and_trains():
    lstm = QuantLSTM(3, 4, quantizer=Soft()).double()
    slope = lstm.quantizer.slope
    assert any(p is slope for p in lstm.parameters())
    plain = QuantLSTM(3, 4).double()
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0"):
            getattr(plain, name).copy_(torch.tanh(slope * getattr(lstm, name)))
        plain.bias_l0.copy_(lstm.bias_l0)
    data = inputs(lstm, 5, 2)
    outputs, expected = run(lstm, *data), run(plain, *data)
    assert_close(outputs[0], expected[0], "float64")
    latent = [lstm.weight_ih_l0, lstm.weight_hh_l0]
    *ours, ours_slope = gradients(outputs, [*latent, slope])
    theirs = gradients(expected, [plain.weight_ih_l0, plain.weight_hh_l0])
    with torch.no_grad():
        inner = [g * (1 - torch.tanh(slope * w) ** 2) for g, w in zip(theirs, latent, strict=True)]
        assert_close(
            ours_slope, sum((g * w).sum() for g, w in zip(inner, latent, strict=True)), "float64")
        for a, g in zip(ours, inner, strict=True):
            assert_close(a, g * slope, "float64")


@pytest.mark.parametrize("own", [thirds, Soft()])
def test_own_quantizer_is_copied_and_pickled(own):
    lstm = QuantLSTM(3, 4, quantizer=own)
    x = randn(5, 2, 3, dtype=torch.float32)
    for other in (copy.deepcopy(lstm), pickle.loads(pickle.dumps(lstm))):
        assert torch.equal(other(x)[0], lstm(x)[0])


class Narrow(nn.Module):
    def forward(self, matrix):
        return matrix[:, 1:]


@pytest.mark.parametrize(
    "own",
    [lambda w: w.T, lambda w: w[:, 1:], lambda w: w[0], lambda w: w.mean(), lambda w: w[None],
     lambda w: Quantized(w[None, 1:], w.new_ones(1, 1, 1)), Narrow()],
    ids=["transposed", "column short", "row", "number", "axis more", "codes", "module"],
)
def test_own_quantizer_of_the_wrong_shape_is_refused(own):
    lstm = QuantLSTM(3, 4, quantizer=own)
    with pytest.raises(ConfigError, match=r"quantizer returned .* for a \(4, 3\) matrix"):
        lstm(torch.zeros(5, 2, 3))


# Errors.


@pytest.mark.parametrize(
    ("shape", "message"),
    [((4, 3, 6), r"\(T, N, 5\)"), ((4, 6), r"\(T, 5\)"), ((), "expected"), ((5,), "expected"),
     ((2, 4, 3, 5), "expected"), ((0, 3, 5), "at least one time step")],
)
def test_wrong_input_shape(shape, message):
    with pytest.raises(ValueError, match=message):
        QuantLSTM(5, 7)(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(), (4, 3, 5), (0, 3)])
def test_wrong_shape_of_integers(shape):
    with pytest.raises(ValueError, match="expected"):
        QuantLSTM(5, 7)(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("symbol", [5, -1])
def test_integer_that_is_no_symbol(symbol):
    with pytest.raises(IndexError):
        QuantLSTM(5, 7)(torch.full((4, 3), symbol))


@pytest.mark.parametrize("shape", [(3, 7), (1, 3, 7), (2, 2, 7), (2, 3, 6), (2, 3, 7, 1)])
@pytest.mark.parametrize("which", [0, 1])
def test_wrong_state_shape(shape, which):
    state = [torch.zeros(2, 3, 7), torch.zeros(2, 3, 7)]
    state[which] = torch.zeros(shape)
    with pytest.raises(ValueError, match=r"expected states \(2, 3, 7\)"):
        QuantLSTM(5, 7, 2)(torch.zeros(4, 3, 5), tuple(state))


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("input_size", (0, 7)), ("hidden_size", (5, 0)), ("num_layers", (5, 7, 0)),
     ("hidden_size", (5, -1)), ("hidden_size", (5, 7.0))],
)
def test_sizes_must_be_positive_integers(name, sizes):
    with pytest.raises(ConfigError, match=f"{name} must be a positive integer"):
        QuantLSTM(*sizes)


def test_unknown_backend():
    with pytest.raises(ConfigError, match="unknown backend 'naiv': did you mean 'naive'"):
        QuantLSTM(5, 7, backend="naiv")


def test_known_backends_agree():
    x = randn(4, 3, 5)
    auto, naive = (QuantLSTM(5, 7, backend=backend).double() for backend in ("auto", "naive"))
    naive.load_state_dict(auto.state_dict())
    assert_close(auto(x)[0], naive(x)[0], "float64")


@pytest.mark.parametrize("quantizer", ["bnwn", "no_such_module:f", None, 3, "math:pi", nn.Tanh])
def test_quantizer_that_cannot_be(quantizer):
    with pytest.raises(ConfigError, match="quantizer"):
        QuantLSTM(5, 7, quantizer=quantizer)


@pytest.mark.parametrize("dropout", [-0.1, 1.5])
def test_dropout_must_be_a_probability(dropout):
    with pytest.raises(ConfigError, match="dropout"):
        QuantLSTM(5, 7, 2, dropout=dropout)


def test_print_names_the_settings():
    text = repr(QuantLSTM(5, 7, 2, quantizer="bwn", normalizer="layer"))
    assert "5, 7, num_layers=2, quantizer=bwn" in text
    assert "LayerNorm" in text


def test_second_moment_of_another_shape_is_refused():
    lstm = QuantLSTM(3, 4, quantizer="lab")
    with pytest.raises(ValueError, match="second moment of weight_hh_l0"):
        lstm.set_second_moment({"weight_hh_l0": torch.ones(1)})


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.bool])
def test_any_integer_stands_for_a_one_hot_vector(dtype):
    lstm = QuantLSTM(2, 4)
    x = torch.tensor([[0, 1], [1, 1], [0, 0]])
    assert torch.equal(lstm(x.to(dtype))[0], lstm(x)[0])


def test_sizes_are_no_booleans():
    with pytest.raises(ConfigError, match="input_size"):
        QuantLSTM(True, 4)
