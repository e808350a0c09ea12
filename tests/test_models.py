"""The models of the words and of the images, the GRU, and weights that are frozen or left in full
precision."""

import copy

import pytest
import torch
from tolerances import assert_close
from torch import nn
from torch.nn import functional as F

from qlstm import ConfigError, LanguageModel, QuantGRU, Quantized, QuantLSTM, SequenceClassifier
from qlstm.normalizers import NORMALIZERS
from qlstm.quantizers import QUANTIZERS, sign

DOUBLE = torch.float64


def images(steps=5, samples=4):
    return torch.rand(steps, samples, 1)


# The images' classifier: section 3 of the specification.


@pytest.mark.parametrize("layers", [1, 2])
def test_the_images_initial_weights(layers):
    d = 12
    model = SequenceClassifier(10, d, layers, initial_gain=0.1)
    assert model.rnn.weight_ih_l0.shape == (4 * d, 1)
    for k in range(layers):
        w_x, w_h, bias = (getattr(model.rnn, f"{name}_l{k}").detach()
                          for name in ("weight_ih", "weight_hh", "bias"))
        assert torch.allclose(w_x.norm(dim=0), torch.ones(w_x.shape[1]), atol=1e-6)
        i, f, a, o = w_h.chunk(4)
        assert torch.equal(a, torch.eye(d))
        stacked = torch.cat([i, f, o])
        assert torch.allclose(stacked.T @ stacked, torch.eye(d), atol=1e-5)
        assert stacked.abs().max() < 0.9  # no identity among them
        assert bias.tolist() == [0.0] * d + [1.0] * d + [0.0] * 2 * d
    assert not model.initial_state.any()
    assert model.initial_state.shape == (2, layers, d)


def test_the_images_grus_initial_weights():
    d = 12
    model = SequenceClassifier(10, d, cell="gru")
    r, z, n = model.rnn.weight_hh_l0.detach().chunk(3)
    assert torch.equal(n, torch.eye(d))
    stacked = torch.cat([r, z])
    assert torch.allclose(stacked.T @ stacked, torch.eye(d), atol=1e-5)
    assert not model.rnn.bias_l0.any()
    assert model.initial_state.shape == (1, 1, d)


def test_the_images_initial_gains():
    d = 9

    def gains(normalizer, **settings):
        model = SequenceClassifier(10, d, normalizer=normalizer, max_steps=5, **settings)
        return model.rnn, model.rnn.norm_ih_l0.gain.detach(), model.rnn.norm_hh_l0.gain.detach()

    for normalizer in ("layer", "batch_shared", "batch_separate"):
        for gain in gains(normalizer, initial_gain=0.1)[1:]:
            assert torch.equal(gain, torch.full((4, d), 0.1))
    for gain in gains("batch_shared", initial_gain=0.0)[1:]:  # as the release: U(0, 1)
        assert 0 <= gain.min() < 0.2
        assert 0.8 < gain.max() <= 1
    assert torch.equal(gains("layer")[1], torch.ones(4, d))
    rnn, gain_x, gain_h = gains("weight", initial_gain=0.1)
    assert_close(gain_x.flatten(), rnn.weight_ih_l0.detach().abs().flatten(), "formula_float32")
    assert_close(
        gain_h.flatten(), rnn.weight_hh_l0.detach().square().sum(1).sqrt(), "formula_float32")
    assert torch.allclose(gain_h[2], torch.ones(d))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_initial_state_is_learned(cell):
    model = SequenceClassifier(10, 6, cell=cell, quantizer="bwn")
    F.cross_entropy(model(images())[0], torch.tensor([1, 2, 3, 4])).backward()
    assert (model.initial_state.grad.abs().flatten(1).max(1).values > 0).all()  # of h, and of c
    before = model(images())[0]
    with torch.no_grad():
        model.initial_state += 0.5
    assert not torch.allclose(model(images())[0], before)
    # and is the same for every sample
    same = model(images()[:, :1].expand(-1, 3, -1))[0]
    assert torch.allclose(same[0], same[2])


def test_the_state_noise(monkeypatch):
    d, samples, seen = 50, 40, []
    model = SequenceClassifier(10, d, state_noise=0.1)
    forward = QuantLSTM.forward
    monkeypatch.setattr(
        QuantLSTM, "forward",
        lambda self, x, state, **k: (seen.append(state), forward(self, x, state))[1])
    x = images(2, samples)
    first, second = model(x)[0], model(x)[0]
    assert not torch.equal(first, second)  # training: anew each time
    model.eval()
    third, fourth = model(x)[0], model(x)[0]
    assert torch.equal(third, fourth)  # evaluation: the same noise each time, but noise
    assert torch.equal(copy.deepcopy(model)(x)[0], third)
    for h, c in seen:
        for part in (h, c):
            assert part.shape == (1, samples, d)
            assert 0.095 < part.std() < 0.105
            assert abs(part.mean()) < 0.01
            assert not torch.equal(part[0, 0], part[0, 1])
        assert not torch.equal(h, c)
    state = torch.get_rng_state()
    model(x)
    assert torch.equal(torch.get_rng_state(), state)
    plain = SequenceClassifier(10, d)
    plain.load_state_dict(model.state_dict())
    assert not torch.equal(plain(x)[0], third)


def test_the_state_noise_is_the_same_in_every_precision():
    model = SequenceClassifier(10, 5, state_noise=0.1).eval()
    single = model._noise((2, 1, 4, 5))
    assert torch.equal(single, model.double()._noise((2, 1, 4, 5)).float())
    assert model.to("meta")._noise((2, 1, 4, 5)).is_meta  # drawn on the CPU: meta has no generator


def test_the_classifier_begins_anew():
    model = SequenceClassifier(10, 6, quantizer="lab", normalizer="batch_shared", initial_gain=0.1)
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    model.to_empty(device="cpu")
    for value in model.state_dict().values():
        value.fill_(7.0)
    model.reset_parameters(0.1)
    for name, value in model.state_dict().items():
        if fresh[name].unique().numel() == 1:  # a constant, such as second moments and statistics
            assert torch.equal(value, fresh[name]), name
        assert (value != 7).all(), name


@pytest.mark.parametrize("quantizer", ["binary_connect", "twn", "alternating"])
def test_w_x_of_images_is_not_quantized(quantizer):
    model = SequenceClassifier(10, 6, 2, quantizer=quantizer)
    rnn = model.rnn
    assert not rnn.quantizes("weight_ih_l0")
    assert torch.equal(rnn.effective_weight("weight_ih_l0"), rnn.weight_ih_l0)
    for name in ("weight_hh_l0", "weight_ih_l1", "weight_hh_l1"):
        assert rnn.quantizes(name)
        assert not torch.equal(rnn.effective_weight(name), getattr(rnn, name))
    assert torch.equal(rnn.quantized("weight_ih_l0").dense().flatten(0, 1), rnn.weight_ih_l0)
    F.cross_entropy(model(images())[0], torch.tensor([1, 2, 3, 4])).backward()
    assert (rnn.weight_ih_l0.grad != 0).any()


def test_the_classifier_reads_the_last_hidden_state():
    model = SequenceClassifier(10, 6, 2)
    x = images()
    assert torch.equal(model(x)[0], model.decoder(model.rnn(x)[0][-1]))
    assert model(x)[1] is None


# The words' model.


def test_the_words_embedding():
    model = LanguageModel(1000, 12, embedding_size=12)
    assert model.embedding.weight.shape == (1000, 12)
    assert model.rnn.weight_ih_l0.shape == (48, 12)
    for weight in (model.embedding.weight, model.decoder.weight):
        assert 0.0999 < weight.abs().max() <= 0.1
    assert not model.decoder.bias.any()
    words = torch.randint(1000, (5, 3))
    output, _ = model.rnn(model.embedding.weight[words])
    assert torch.equal(model(words)[0], F.linear(output, model.decoder.weight, model.decoder.bias))
    assert LanguageModel(10, 12).embedding is None


@pytest.mark.parametrize("embedding", [None, 3])
def test_a_text_without_samples_starts_from_the_learned_state_too(embedding):
    model = LanguageModel(5, 4, learned_state=True, embedding_size=embedding)
    with torch.no_grad():
        model.initial_state += 0.5
    text = torch.tensor([1, 4, 0])
    logits, (h, c) = model(text)
    many, (h_n, c_n) = model(text[:, None])
    for single, one in ((logits, many), (h, h_n), (c, c_n)):
        assert torch.equal(single, one[:, 0])


def sharp():
    model = LanguageModel(5, 4, quantizer="twn", dropout=0.5)
    with torch.no_grad():
        model.decoder.weight.mul_(30)
    return model


def test_temperature_zero_takes_the_likeliest_symbol():
    model, text = sharp(), [1]
    for _ in range(12):
        text.append(model.eval()(torch.tensor(text))[0][-1].argmax().item())
    for temperature in (0, 0.0, 1e-320, 1e-30):
        for seed in (0, 1):
            drawn = model.sample(torch.tensor([1]), 12, temperature=temperature, seed=seed)
            assert drawn.tolist() == text[1:]
    assert model.sample(torch.tensor([1]), 12, temperature=5.0).tolist() != text[1:]


def test_a_sample_leaves_each_part_in_its_mode():
    model = sharp().train()
    model.rnn.eval()
    modes = [module.training for module in model.modules()]
    model.sample(torch.tensor([1]), 2)
    assert [module.training for module in model.modules()] == modes
    with torch.no_grad():
        model.decoder.weight[0, 0] = float("nan")
    for temperature in (0, 1.0):
        with pytest.raises(ValueError, match="diverged"):
            model.sample(torch.tensor([1]), 2, temperature=temperature)
        assert [module.training for module in model.modules()] == modes


def test_the_words_dropout_acts_in_three_places_in_training_only(monkeypatch):
    model = LanguageModel(20, 6, 2, embedding_size=6, dropout=0.5)
    plain = LanguageModel(20, 6, 2, embedding_size=6)
    plain.load_state_dict(model.state_dict())
    words = torch.randint(20, (5, 3))
    assert torch.equal(model.eval()(words)[0], plain(words)[0])
    assert not torch.equal(model.train()(words)[0], model(words)[0])
    masked, dropout = [], F.dropout

    def watched(x, p, training):
        y = dropout(x, p, training)
        masked.append((x.detach(), y.detach(), p, training))
        return y

    monkeypatch.setattr(F, "dropout", watched)
    logits, (h, _) = model(words)
    monkeypatch.undo()
    (embedded, embedded_out, *_), (between, between_out, *_), (output, output_out, *_) = masked
    assert all((p, training) == (0.5, True) for *_, p, training in masked)
    assert torch.equal(embedded, model.embedding(words))
    assert torch.equal(between[-1], h[0])  # the first layer's output, whole in the state
    assert torch.equal(output[-1], h[1])
    for before, after in ((embedded, embedded_out), (between, between_out), (output, output_out)):
        kept = after != 0
        assert 0.2 < kept.double().mean() < 0.8
        assert torch.allclose(after[kept], 2 * before[kept])
    assert torch.equal(logits, model.decoder(output_out))
    # by hand, with these masks
    first, second = QuantLSTM(6, 6), QuantLSTM(6, 6)
    for k, layer in enumerate((first, second)):
        layer.load_state_dict(
            {n.replace(f"l{k}", "l0"): v for n, v in model.rnn.state_dict().items() if f"l{k}" in n}
        )
    assert torch.allclose(first(embedded_out)[0], between, atol=1e-6)
    assert torch.allclose(second(between_out)[0], output, atol=1e-6)


# The GRU.


def gru(n, d, layers=1, **settings):
    """In float64; gains, shifts and running statistics random."""
    layer = QuantGRU(n, d, layers, **settings).double()
    with torch.no_grad():
        for name, tensor in layer.state_dict().items():
            if "norm" in name:
                tensor.uniform_(0.2, 1.5)
    return layer


@pytest.mark.parametrize(
    ("T", "N", "n", "d", "layers"), [(1, 1, 1, 1, 1), (7, 3, 5, 6, 1), (5, 2, 4, 7, 3)])
def test_the_gru_is_torchs(T, N, n, d, layers):
    ours, theirs = gru(n, d, layers), nn.GRU(n, d, layers).double()
    with torch.no_grad():
        for k in range(layers):
            for side in ("ih", "hh"):
                getattr(theirs, f"weight_{side}_l{k}").copy_(getattr(ours, f"weight_{side}_l{k}"))
            getattr(theirs, f"bias_ih_l{k}").copy_(getattr(ours, f"bias_l{k}"))
            getattr(theirs, f"bias_hh_l{k}").zero_()
    x = torch.randn(T, N, n, dtype=DOUBLE, requires_grad=True)
    h_0 = torch.randn(layers, N, d, dtype=DOUBLE, requires_grad=True)
    output, state = ours(x, h_0)
    expected, h_n = theirs(x, h_0)
    assert_close(output, expected, "float64")
    assert_close(state, h_n, "float64")
    weights = torch.randn_like(expected), torch.randn_like(h_n)
    names = [f"{name}_l{k}" for k in range(layers) for name in ("weight_ih", "weight_hh", "bias")]
    found = torch.autograd.grad((output * weights[0]).sum() + (state * weights[1]).sum(),
                                [x, h_0, *(getattr(ours, name) for name in names)])
    wanted = torch.autograd.grad(
        (expected * weights[0]).sum() + (h_n * weights[1]).sum(),
        [x, h_0, *(getattr(theirs, name.replace("bias", "bias_ih")) for name in names)])
    for name, a, b in zip(["x", "h_0", *names], found, wanted, strict=True):
        assert b.abs().max() > 0, name
        assert_close(a, b, "float64")


def own_gru(layer, x, h, normalizer, *, training, max_steps):
    """The equations once more, gate by gate; ``layer`` gives the numbers alone."""
    d, n = layer.hidden_size, len(x[0])

    def normalize(side, gate, product, t):
        norm = getattr(layer, f"norm_{side}_l0")
        if normalizer in ("none", "weight"):
            return product
        if normalizer == "layer":
            mean, var = product.mean(1, keepdim=True), product.var(1, unbiased=False, keepdim=True)
        elif training:
            mean, var = product.mean(0), ((product - product.mean(0)) ** 2).sum(0) / n
        else:
            step = min(t, max_steps - 1) if normalizer == "batch_separate" else 0
            mean, var = norm.running_mean[step, gate], norm.running_var[step, gate]
        return norm.gain[gate] * (product - mean) / (var + 1e-5) ** 0.5 + norm.shift[gate]

    def matrix(side, gate):
        w = getattr(layer, f"weight_{side}_l0")[gate * d : (gate + 1) * d]
        alpha = w.detach().abs().mean()
        w = w + (alpha * sign(w.detach()) - w.detach())  # BWN, straight-through
        if normalizer == "weight":
            w = (getattr(layer, f"norm_{side}_l0").gain[gate][:, None] * w
                 / (w.norm(dim=1, keepdim=True) + 1e-8))
        return w

    outputs = []
    for t, x_t in enumerate(x):

        def part(side, gate, v, t=t):
            return normalize(side, gate, v @ matrix(side, gate).T, t)

        b = layer.bias_l0.view(3, d)
        r = torch.sigmoid(part("ih", 0, x_t) + part("hh", 0, h) + b[0])
        z = torch.sigmoid(part("ih", 1, x_t) + part("hh", 1, h) + b[1])
        n_t = torch.tanh(part("ih", 2, x_t) + b[2] + r * part("hh", 2, h))
        h = (1 - z) * n_t + z * h
        outputs.append(h)
    return torch.stack(outputs)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("training", [True, False])
def test_the_quantized_normalized_gru_equals_one_of_our_own(normalizer, training):
    layer = gru(4, 5, quantizer="bwn", normalizer=normalizer, max_steps=3).train(training)
    x, h_0 = (
        torch.randn(*shape, dtype=DOUBLE, requires_grad=True) for shape in ((6, 7, 4), (1, 7, 5)))
    expected = own_gru(layer, x, h_0[0], normalizer, training=training, max_steps=3)
    weights = torch.randn_like(expected)
    leaves = [x, h_0, *layer.parameters()]
    wanted = torch.autograd.grad((expected * weights).sum(), leaves)
    output, h_n = layer(x, h_0)
    found = torch.autograd.grad((output * weights).sum(), leaves)
    assert_close(output, expected, "float64")
    assert torch.equal(h_n[0], output[-1])
    for a, b in zip(found, wanted, strict=True):
        assert b.abs().max() > 0
        assert_close(a, b, "float64")


def test_the_gru_in_pieces_and_one_hot():
    layer = gru(6, 5, quantizer="twn", normalizer="layer")
    ids = torch.randint(6, (7, 3))
    whole, last = layer(ids)
    first, state = layer(ids[:3])
    second, end = layer(ids[3:], state)
    assert_close(torch.cat([first, second]), whole, "float64")
    assert_close(end, last, "float64")
    assert_close(layer(F.one_hot(ids, 6).double())[0], whole, "float64")
    trace = []
    layer(ids, trace=trace)
    assert [len(step) for step in trace[0]] == [1] * 7


def test_what_a_gru_refuses():
    for quantizer in ("sbn", "stn", QUANTIZERS["sbn"]):
        with pytest.raises(ConfigError, match="GRU"):
            QuantGRU(3, 4, quantizer=quantizer, normalizer="batch_separate", max_steps=3)
    with pytest.raises(TypeError, match="state h, a tensor"):
        QuantGRU(3, 4)(torch.zeros(2, 1, 3), (torch.zeros(1, 1, 4),))
    with pytest.raises(ConfigError, match="did you mean 'gru'"):
        LanguageModel(3, 4, cell="gruu")


# freeze and quantize_input.


@pytest.mark.parametrize("layer", [QuantLSTM, QuantGRU])
@pytest.mark.parametrize("quantizer", ["binary_connect", "lab", "lat", "alternating"])
@pytest.mark.parametrize("normalizer", ["none", "weight", "layer"])
def test_frozen_weights_compute_the_same_without_the_latent_ones(layer, quantizer, normalizer):
    rnn = layer(4, 5, 2, quantizer=quantizer, normalizer=normalizer)
    x = torch.randn(3, 2, 4)
    before = rnn(x)[0].detach()
    names = [f"weight_{side}_l{k}" for k in range(2) for side in ("ih", "hh")]
    fixed = {name: rnn.quantized(name) for name in names}
    effective = {name: rnn.effective_weight(name).detach() for name in names}
    rnn.freeze(fixed)
    assert torch.equal(rnn(x)[0].detach(), before)
    for name in names:
        assert getattr(rnn, name) is None
        assert torch.equal(rnn.effective_weight(name).detach(), effective[name])
        for ours, given in zip(rnn.quantized(name), fixed[name], strict=True):
            assert torch.equal(ours, given)
    assert torch.equal(rnn(x)[0].detach(), before)
    assert torch.equal(copy.deepcopy(rnn)(x)[0].detach(), before)
    assert not any("frozen" in name for name in rnn.state_dict())


def test_frozen_weights_are_those_given():
    rnn = QuantLSTM(3, 4, quantizer="binary_connect")
    codes = sign(torch.randn(1, 4, 4, 4))
    rnn.freeze({"weight_hh_l0": Quantized(codes, torch.full((1, 4, 1, 1), 0.25))})
    assert torch.equal(rnn.effective_weight("weight_hh_l0"), 0.25 * codes[0].flatten(0, 1))
    assert rnn.weight_ih_l0.requires_grad


@pytest.mark.parametrize("layer", [QuantLSTM, QuantGRU])
def test_quantize_input_is_about_the_first_layers_w_x(layer):
    some = layer(4, 5, 2, quantizer="binary_connect", quantize_input=False)
    every = layer(4, 5, 2, quantizer="binary_connect")
    every.load_state_dict(some.state_dict())
    assert torch.equal(some.effective_weight("weight_ih_l0"), some.weight_ih_l0)
    for name in ("weight_hh_l0", "weight_ih_l1", "weight_hh_l1"):
        assert set(some.effective_weight(name).unique().tolist()) == {-1.0, 1.0}
        assert torch.equal(some.effective_weight(name), every.effective_weight(name))
    assert set(every.effective_weight("weight_ih_l0").unique().tolist()) == {-1.0, 1.0}
    plain = layer(4, 5, quantize_input=True)
    assert not plain.quantizes("weight_hh_l0")


def test_w_x_left_alone_is_normalized_and_trains():
    rnn = QuantLSTM(4, 5, quantizer="twn", normalizer="weight", quantize_input=False).double()
    weight = rnn.weight_ih_l0
    gain = rnn.norm_ih_l0.gain.flatten()[:, None]
    expected = gain * weight / (weight.norm(dim=1, keepdim=True) + 1e-8)
    assert_close(rnn.effective_weight("weight_ih_l0"), expected, "formula")
    some = torch.randn_like(weight)
    (found,) = torch.autograd.grad((rnn.effective_weight("weight_ih_l0") * some).sum(), weight)
    (wanted,) = torch.autograd.grad((expected * some).sum(), weight)
    assert_close(found, wanted, "formula")
