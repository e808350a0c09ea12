"""A second writing of the training recipes of two public code releases, in float64, beside qlstm.

The first release is that of the study's paper (sequential MNIST and words); the second is that of
SBN and STN (sequential MNIST and characters). Both recipes are written below in plain equations and
share no code with qlstm. Its own model and this one start from the same values, see the same
minibatches and the same random numbers, and must stay equal.
"""

import dataclasses
import itertools
import math
import os

import pytest
import torch
from tolerances import assert_close
from torch.nn import functional as F

from qlstm import ExperimentConfig, SequenceClassifier, load_dataset
from qlstm.data.batches import image_minibatches
from qlstm.study import training
from qlstm.study.optimization import set_learning_rate

STOCHASTIC = ("sbn", "stn")
NORMALIZERS = ("none", "weight", "layer", "batch_separate", "batch_shared")
STEPS = 16  # pixels of an image that are read


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What differs between the recipes; the defaults are those of the paper's sequential MNIST."""

    quantizer: str
    normalizer: str
    quantized: tuple = ("h",)  # the matrices that are quantized, of W_x and W_h
    noisy: tuple = ("h", "c")  # the initial states that get noise
    momentum: float = 0.1
    unbiased: bool = True  # the running variance
    clip: float | None = 1.0
    every_step: bool = False  # the loss


def paper_release(quantizer, normalizer):
    noisy = ("h", "c") if normalizer in ("layer", "batch_shared", "batch_separate") else ()
    return Recipe(quantizer, normalizer, noisy=noisy)


def stochastic_release(quantizer, noisy, every_step):
    return Recipe(quantizer, "batch_separate", quantized=("x", "h"), noisy=noisy, momentum=0.05,
                  unbiased=False, clip=None, every_step=every_step)


def amplitude(inputs, units):
    # A = sqrt(6 / (n_in + 4 d)) / 2
    return math.sqrt(6 / (inputs + 4 * units)) / 2


class StraightThrough(torch.autograd.Function):
    """The quantized matrix forward; its gradient, unchanged, to the latent one."""

    @staticmethod
    def forward(ctx, latent, quantized):
        return quantized.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def codes(quantizer, w, second_moment, uniform, size):
    """One gate's d × n matrix, quantized.

    ``uniform`` and ``size``: random numbers and the A of SBN and STN; ``second_moment``: LAB's v.
    """
    magnitude = w.abs()
    if quantizer == "full_precision":
        return w
    if quantizer == "binary_connect":
        return torch.sign(w)
    if quantizer == "bwn":
        # α = mean |w|
        return magnitude.mean() * torch.sign(w)
    if quantizer == "lab":
        # D = sqrt(v) + 1e-8, and 1 before the first update; α = sum(D |w|) / sum(D)
        curvature = torch.ones_like(w) if second_moment is None else second_moment.sqrt() + 1e-8
        return (curvature * magnitude).sum() / curvature.sum() * torch.sign(w)
    if quantizer in ("ter_connect", "twn"):
        # t = 0.7 mean |w|; TWN's scale is the mean of |w| over |w| > t
        kept = magnitude > 0.7 * magnitude.mean()
        scale = magnitude[kept].mean() if quantizer == "twn" else 1.0
        return scale * torch.where(kept, torch.sign(w), torch.zeros_like(w))
    if quantizer == "sbn":
        # +A with probability clip((w / A + 1) / 2, 0, 1), -A otherwise
        positive = uniform < ((w / size + 1) / 2).clamp(0, 1)
        return size * torch.where(positive, torch.ones_like(w), -torch.ones_like(w))
    if quantizer == "stn":
        # A sign(w) with probability min(|w| / A, 1), 0 otherwise
        kept = uniform < (magnitude / size).clamp(max=1)
        return torch.where(kept, size * torch.sign(w), torch.zeros_like(w))
    return quantizer(w)


class Port:
    """One release's model and its training, from copies of the given values.

    ``values`` has "w_x" (4d × n), "w_h" (4d × d), "b", "h_0", "c_0", "decoder_weight" and
    "decoder_bias"; of the normalization of W_x x_t, W_h h_{t-1} and c_t as many of "gain_x",
    "shift_x", "gain_h", "shift_h", "gain_c" and "shift_c" as there are.
    """

    def __init__(self, recipe, values):
        self.recipe = recipe
        self.values = {name: value.clone().requires_grad_() for name, value in values.items()}
        self.units = values["b"].numel() // 4
        self.running = {}
        self.reset_adam()

    def reset_adam(self):
        self.updates, self.first, self.second = 0, {}, {}

    def weight(self, which):
        """W_x or W_h as the forward pass uses it."""
        recipe, latent = self.recipe, self.values["w_" + which]
        units = self.units
        matrix = latent
        if which in recipe.quantized:
            size = amplitude(latent.shape[1], units)
            moment = self.second.get("w_" + which)
            uniform = None
            if recipe.quantizer in STOCHASTIC:
                uniform = torch.rand(latent.shape, dtype=latent.dtype)
            blocks = []
            for gate in range(4):
                rows = slice(gate * units, (gate + 1) * units)
                own = [None if part is None else part[rows] for part in (moment, uniform)]
                blocks.append(codes(recipe.quantizer, latent.detach()[rows], *own, size))
            matrix = StraightThrough.apply(latent, torch.cat(blocks))
        if recipe.normalizer == "weight":
            # g_j W_j / (||W_j|| + 1e-8)
            norm = (matrix**2).sum(dim=1).sqrt()
            matrix = (self.values["gain_" + which] / (norm + 1e-8))[:, None] * matrix
        return matrix

    def normalize(self, which, product, step):
        """N of W_x x_t ("x"), of W_h h_{t-1} ("h") or of c_t ("c"), samples × units."""
        if self.recipe.normalizer in ("none", "weight"):
            return product
        if self.recipe.normalizer == "layer":
            samples = product.shape[0]
            blocks = product.reshape(samples, -1, self.units)
            mean = blocks.mean(dim=2, keepdim=True)
            variance = ((blocks - mean) ** 2).mean(dim=2, keepdim=True)
            scaled = ((blocks - mean) / torch.sqrt(variance + 1e-5)).reshape(samples, -1)
        else:
            mean = product.mean(dim=0)
            variance = ((product - mean) ** 2).mean(dim=0)
            scaled = (product - mean) / torch.sqrt(variance + 1e-5)
            self.track(which, mean.detach(), variance.detach(), len(product), step)
        return scaled * self.values["gain_" + which] + self.values.get("shift_" + which, 0.0)

    def track(self, which, mean, variance, samples, step):
        """The running statistics, of each step or of all steps, from mean 0 and variance 1."""
        key = (which, step if self.recipe.normalizer == "batch_separate" else 0)
        start = (torch.zeros_like(mean), torch.ones_like(variance))
        old_mean, old_variance = self.running.get(key, start)
        if self.recipe.unbiased:
            variance = variance * samples / (samples - 1)
        m = self.recipe.momentum
        self.running[key] = ((1 - m) * old_mean + m * mean, (1 - m) * old_variance + m * variance)

    def initial_state(self, samples):
        states = []
        for which in ("h", "c"):
            state = self.values[which + "_0"].expand(samples, -1)
            if which in self.recipe.noisy:
                # h and then c is the same as both at once, as N d = 6 · 8 is a multiple of 16
                state = state + 0.1 * torch.randn(state.shape, dtype=state.dtype)
            states.append(state)
        return states

    def hidden_states(self, inputs):
        """h_1 to h_T for inputs of steps × samples × n."""
        h, c = self.initial_state(inputs.shape[1])
        w_x, w_h = self.weight("x"), self.weight("h")
        hidden = []
        for step, x in enumerate(inputs):
            # [i f a o]~_t = N(W_x x_t) + N(W_h h_{t-1}) + b
            products = self.normalize("x", x @ w_x.T, step), self.normalize("h", h @ w_h.T, step)
            potential = products[0] + products[1] + self.values["b"]
            i, f, a, o = potential.chunk(4, dim=1)
            # c_t = σ(i) tanh(a) + σ(f) c_{t-1}
            c = torch.sigmoid(i) * torch.tanh(a) + torch.sigmoid(f) * c
            # h_t = σ(o) tanh(c_t), or σ(o) tanh(N(c_t))
            inner = self.normalize("c", c, step) if "gain_c" in self.values else c
            h = torch.sigmoid(o) * torch.tanh(inner)
            hidden.append(h)
        self.last = h.detach(), c.detach()
        return hidden

    def decode(self, h):
        return h @ self.values["decoder_weight"].T + self.values["decoder_bias"]

    def loss(self, inputs, targets):
        """Mean cross entropy of the last step, or of every step (targets of steps × samples)."""
        hidden = self.hidden_states(inputs)
        if not self.recipe.every_step:
            return cross_entropy(self.decode(hidden[-1]), targets)
        losses = [cross_entropy(self.decode(h), targets[t]) for t, h in enumerate(hidden)]
        return sum(losses) / len(losses)

    def update(self, inputs, targets, rate):
        loss = self.loss(inputs, targets)
        gradients = torch.autograd.grad(loss, list(self.values.values()))
        gradients = dict(zip(self.values, gradients, strict=True))
        if self.recipe.clip is not None:
            norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
            factor = min(1.0, self.recipe.clip / (norm + 1e-6))
            gradients = {name: factor * g for name, g in gradients.items()}
        self.descend(gradients, rate)
        return loss.item()

    @torch.no_grad()
    def descend(self, gradients, rate):
        self.updates += 1
        for name, g in gradients.items():
            zero = torch.zeros_like(g)
            # m ← β1 m + (1 - β1) g and v ← β2 v + (1 - β2) g²
            m = self.first[name] = 0.9 * self.first.get(name, zero) + 0.1 * g
            v = self.second[name] = 0.999 * self.second.get(name, zero) + 0.001 * g * g
            # w ← w - rate (m / (1 - β1^t)) / (sqrt(v / (1 - β2^t)) + 1e-8)
            m = m / (1 - 0.9**self.updates)
            v = v / (1 - 0.999**self.updates)
            self.values[name] -= rate * m / (v.sqrt() + 1e-8)


class Words(Port):
    """The paper's release on words: an embedding, dropout, a state that is carried on, SGD.

    ``values`` has "embedding" (symbols × n) in place of "h_0" and "c_0".
    """

    def initial_state(self, samples):
        return self.last or [torch.zeros(samples, self.units, dtype=torch.float64)] * 2

    def loss(self, inputs, targets):
        hidden = self.hidden_states(F.dropout(self.values["embedding"][inputs], 0.5))
        output = F.dropout(torch.stack(hidden), 0.5)
        return cross_entropy(self.decode(output).flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def descend(self, gradients, rate):
        for name, g in gradients.items():
            # with a = 1 / sqrt(d) the latent matrices of BinaryConnect and TerConnect have 2 / a
            latent = name in ("w_x", "w_h") and self.recipe.quantizer.endswith("_connect")
            self.values[name] -= rate * (2 * math.sqrt(self.units) if latent else 1) * g


def cross_entropy(logits, targets):
    # mean over samples of log sum exp(logits) - logit of the target
    chosen = logits.gather(1, targets[:, None])[:, 0]
    return (torch.logsumexp(logits, dim=1) - chosen).mean()


def halving_rate(epoch, epochs):
    # 0.002 · 0.5^((e - 1) / E)
    return 0.002 * 0.5 ** ((epoch - 1) / epochs)


def quartering_rate(epoch, epochs):
    # 0.004 · 0.25^((e - 1) / E)
    return 0.004 * 0.25 ** ((epoch - 1) / epochs)


# The same training in qlstm.


def values_of(model):
    """The parameters of qlstm's model by the names of :class:`Port`."""
    names = {"rnn.weight_ih_l0": "w_x", "rnn.weight_hh_l0": "w_h", "rnn.bias_l0": "b",
             "decoder.weight": "decoder_weight", "decoder.bias": "decoder_bias",
             "embedding.weight": "embedding"}
    for side, which in (("ih", "x"), ("hh", "h"), ("c", "c")):
        for kind in ("gain", "shift"):
            names[f"rnn.norm_{side}_l0.{kind}"] = f"{kind}_{which}"
    values = {}
    for name, parameter in model.named_parameters():
        if name == "initial_state":
            values["h_0"], values["c_0"] = parameter.detach()[:, 0]
        else:
            value = parameter.detach()
            values[names[name]] = value.flatten() if "norm" in name else value
    return values


def assert_same_training(config, recipe, rate, minibatch, valid_losses=()):
    """Epochs of two updates each, of qlstm's model and of the port: equal losses, equal ends.

    ``rate``: the port's, of an epoch and the number of epochs; ``minibatch`` draws a minibatch;
    ``valid_losses``: of words, by epoch.
    """
    words = config.task == "word_lm"
    model = training.build_model(config, 11 if words else None).double()
    model.rnn.backend = "naive"
    optimizer = training.make_optimizer(config, model)
    port = (Words if words else Port)(recipe, values_of(model))
    seeds = itertools.count()

    def step(inputs, targets, state):
        """An update in qlstm, and before it the same in the port, on the same random numbers."""
        seed = next(seeds)
        torch.manual_seed(seed)
        numbers = inputs
        if not inputs.is_floating_point() and not words:
            numbers = F.one_hot(inputs, model.rnn.input_size).double()
        expected = port.update(numbers, targets, rate(epoch, config.epochs))
        torch.manual_seed(seed)
        clip_norm, carry_state = config.clip_norm, config.carry_state
        loss, state = training.update(
            model, optimizer, inputs, targets, state, clip_norm, carry_state)
        assert_close(loss.item(), expected, "float64_trained")
        return loss, state

    for epoch in range(1, config.epochs + 1):
        if recipe.quantizer in STOCHASTIC:
            port.reset_adam()
        port.last = None
        before = list(valid_losses[:epoch - 1])
        set_learning_rate(config, optimizer, training.learning_rate(config, epoch, before))
        training.train_epoch(model, optimizer, step, [minibatch() for _ in range(2)])
    assert next(seeds) == 2 * config.epochs
    values = values_of(model)
    assert values.keys() == port.values.keys()
    # with batch normalization the gradient of h_0, which all samples share, is rounding alone
    for name, value in values.items():
        assert_close(value, port.values[name].detach(), "float64_trained")
    for (which, t), (mean, variance) in port.running.items():
        norm = getattr(model.rnn, f"norm_{dict(x='ih', h='hh', c='c')[which]}_l0")
        assert_close(norm.running_mean[t].flatten(), mean, "float64_trained")
        assert_close(norm.running_var[t].flatten(), variance, "float64_trained")


def draws(steps, samples=6, symbols=None):
    """A function that draws minibatches: of images, or of ``symbols`` kinds and those to guess."""
    generator = torch.Generator().manual_seed(7)

    def minibatch():
        if symbols is not None:
            return tuple(torch.randint(symbols, (2, steps, samples), generator=generator))
        targets = torch.randint(10, (samples,), generator=generator)
        return pixels(steps, samples, generator), targets

    return minibatch


def pixels(steps, samples, generator):
    """Numbers from 0 to 1 for steps × samples × 1, three of four of them 0."""
    values, kept = torch.rand((2, steps, samples, 1), generator=generator, dtype=torch.float64)
    return values * (kept < 0.25)


def configure(task, quantizer, normalizer, **settings):
    dataset = {"sequential_image": "digits", "word_lm": "python_help_words"}.get(
        task, "python_help")
    settings = {"hidden_size": 8, "batch_size": 6, "epochs": 3} | settings
    names = {"task": task, "dataset": dataset, "quantizer": quantizer, "normalizer": normalizer}
    return ExperimentConfig(profile="paper", **names, **settings)


@pytest.mark.parametrize(
    ("quantizer", "normalizer"),
    [("full_precision", "none"), ("full_precision", "weight"), ("full_precision", "batch_shared"),
     ("binary_connect", "none"), ("binary_connect", "weight"), ("binary_connect", "layer"),
     ("binary_connect", "batch_separate"), ("bwn", "none"), ("lab", "none"), ("lab", "weight"),
     ("lab", "layer"), ("lab", "batch_separate"), ("ter_connect", "none"), ("ter_connect", "layer"),
     ("ter_connect", "batch_shared"), ("twn", "none"), ("twn", "weight"),
     ("twn", "batch_separate")],
)
def test_sequential_mnist_of_the_papers_release(quantizer, normalizer):
    config = configure("sequential_image", quantizer, normalizer)
    recipe = paper_release(quantizer, normalizer)
    assert_same_training(config, recipe, halving_rate, draws(STEPS))


@pytest.mark.parametrize(
    ("quantizer", "normalizer"),
    [*(("binary_connect", normalizer) for normalizer in NORMALIZERS), ("full_precision", "none"),
     ("full_precision", "layer"), ("ter_connect", "none"), ("ter_connect", "weight"),
     ("twn", "batch_shared"), ("bwn", "batch_separate")],
)
def test_words_of_the_papers_release(quantizer, normalizer):
    config = configure("word_lm", quantizer, normalizer, steps=7, epochs=4)
    recipe = Recipe(quantizer, normalizer, quantized=("x", "h"), noisy=(), clip=0.25)
    # after an epoch that is not the best so far the rate of all is divided by 4
    rates, valid_losses = [20, 20, 5, 1.25], [6.0, 6.5, 6.2]
    assert_same_training(config, recipe, lambda epoch, epochs: rates[epoch - 1],
                         draws(config.steps, symbols=11), valid_losses)


@pytest.mark.parametrize("quantizer", STOCHASTIC)
def test_sequential_mnist_of_sbn_and_stn(quantizer):
    config = configure("sequential_image", quantizer, "batch_separate")
    recipe = stochastic_release(quantizer, noisy=("h",), every_step=False)
    assert_same_training(config, recipe, quartering_rate, draws(STEPS))


@pytest.mark.parametrize("quantizer", STOCHASTIC)
def test_characters_of_sbn_and_stn(quantizer):
    config = configure("char_lm", quantizer, "batch_separate", steps=10)
    recipe = stochastic_release(quantizer, noisy=(), every_step=True)
    symbols = training.build_model(config).rnn.input_size
    minibatch = draws(config.steps, symbols=symbols)
    assert_same_training(config, recipe, lambda epoch, epochs: 0.002, minibatch)


# Initial values.


def assert_orthonormal(matrix):
    """Rows or columns, whichever are shorter in number, are orthonormal."""
    matrix = matrix if len(matrix) >= matrix.shape[1] else matrix.T
    identity = torch.eye(matrix.shape[1])
    torch.testing.assert_close(matrix.T @ matrix, identity, rtol=0, atol=1e-5)


def assert_common_start(values, units):
    """Biases 0, of the forget gate 1; a state of 0; a decoder's bias of 0; shifts 0."""
    assert values["b"].view(4, units).unique(dim=1).tolist() == [[0.0], [1.0], [0.0], [0.0]]
    for name in ("h_0", "c_0", "decoder_bias", "shift_x", "shift_h", "shift_c"):
        assert not values.get(name, torch.zeros(1)).any()


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_initial_values_of_the_papers_release(normalizer):
    d = 64
    config = configure("sequential_image", "binary_connect", normalizer, hidden_size=d)
    values = values_of(training.build_model(config))
    assert_common_start(values, d)
    assert_orthonormal(values["w_x"])
    i, f, a, o = values["w_h"].chunk(4)
    assert torch.equal(a, torch.eye(d))
    assert_orthonormal(torch.cat([i, f, o]))
    assert 0.09 < values["decoder_weight"].abs().max() <= 0.1
    assert ("shift_x" in values) == (normalizer not in ("none", "weight"))
    for which in ("x", "h"):
        gain = values.get("gain_" + which)
        if normalizer == "none":
            assert gain is None
        elif normalizer == "weight":
            assert_close(gain, values["w_" + which].norm(dim=1), "formula_float32")
        elif normalizer == "batch_shared":
            assert 0 <= gain.min() < 0.1 < 0.9 < gain.max() <= 1
        else:
            assert_close(gain, torch.full((4 * d,), 0.1), "formula_float32")


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_initial_words_of_the_papers_release(normalizer):
    d = 64
    config = configure("word_lm", "binary_connect", normalizer, hidden_size=d)
    values = values_of(training.build_model(config, 500))
    limits = dict.fromkeys(("w_x", "w_h", "b"), d**-0.5)
    limits |= {"embedding": 0.1, "decoder_weight": 0.1}
    for name, limit in limits.items():
        assert 0.95 * limit < values[name].abs().max() <= limit, name
        assert values[name].abs().mean() == pytest.approx(limit / 2, rel=0.1), name
    assert not values["decoder_bias"].any()
    for name, gain in values.items():
        if name.startswith("gain"):
            ends = dict(layer=(1, 1), weight=(0.4, 0.8)).get(normalizer, (0, 1))
            assert ends[0] <= gain.min() <= gain.max() <= ends[1], name
            assert normalizer == "layer" or gain.std() > 0.01, name


@pytest.mark.parametrize("task", ["sequential_image", "char_lm"])
@pytest.mark.parametrize("quantizer", STOCHASTIC)
def test_initial_values_of_sbn_and_stn(quantizer, task):
    d = 64
    config = configure(task, quantizer, "batch_separate", hidden_size=d)
    values = values_of(training.build_model(config))
    assert_common_start(values, d)
    assert_orthonormal(values["decoder_weight"])
    for which in ("x", "h"):
        weight = values["w_" + which]
        if task == "char_lm":
            assert_orthonormal(weight)
        else:
            limit = 2 * amplitude(weight.shape[1], d)
            assert 0.95 * limit < weight.abs().max() <= limit
    gains = torch.cat([values["gain_" + which] for which in ("x", "h", "c")])
    assert_close(gains, torch.full((9 * d,), 0.1), "formula_float32")
    assert values.keys() & {"shift_x", "shift_h", "shift_c"} == {"shift_c"}


# What the two releases imply.


def test_a_step_of_adam_never_reaches_the_clip_of_sbn():
    """Its matrices' steps are clipped to [-A, A], and no step of Adam is 7.3 times its rate."""
    b1, b2 = 0.9, 0.999
    # m_t = (1 - β1) Σ_k β1^k g_{t-k} and v_t = (1 - β2) Σ_k β2^k g²_{t-k}, k = 0 .. t - 1, so
    # |m_t| = (1 - β1) |Σ_k (β1 / sqrt(β2))^k · sqrt(β2)^k g_{t-k}|, by Cauchy and Schwarz
    #      <= (1 - β1) sqrt(Σ_k r^k) sqrt(v_t / (1 - β2)), r = β1² / β2
    r = b1**2 / b2
    largest = 0.0
    for t in range(1, 20_001):
        ratio = (1 - b1) / math.sqrt(1 - b2) * math.sqrt((1 - r**t) / (1 - r))
        # the bias corrections: sqrt(1 - β2^t) / (1 - β1^t) <= 1
        correction = math.sqrt(1 - b2**t) / (1 - b1**t)
        assert correction <= 1
        largest = max(largest, ratio * correction)
    bound = (1 - b1) / math.sqrt(1 - b2) / math.sqrt(1 - r)
    assert 7.2 < largest <= bound < 7.3

    # equality where sqrt(β2)^k g_{t-k} is proportional to (β1 / sqrt(β2))^k: gradients that grow
    # by β2 / β1 a step
    steps = 4000
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([weight], lr=1.0)
    for t in range(steps):
        before = weight.item()
        weight.grad = torch.full_like(weight, (b2 / b1) ** (t - steps + 1))
        adam.step()
    assert 7.2 < before - weight.item() < largest

    # the paper's sizes: images, War and Peace and Penn Treebank, Text8
    sizes = {(100, 0.004): (1, 100), (512, 0.002): (87, 50, 512), (2000, 0.001): (27, 2000)}
    for (units, rate), inputs in sizes.items():
        for n in inputs:
            assert 7.3 * rate < amplitude(n, units)


def size(gradient):
    """Logarithm of each sample's norm, also where its square is no number of float64."""
    largest = gradient.abs().amax(dim=1)
    return largest.log() + (gradient / largest[:, None]).norm(dim=1).log()


def growth(loss, hidden):
    """The median over samples of (||dl/dh_1|| / ||dl/dh_T||)^(1/(T-1))."""
    first, last = torch.autograd.grad(loss, [hidden[0], hidden[-1]])
    return ((size(first) - size(last)) / (len(hidden) - 1)).exp().median().item()


def untrained(quantizer, inputs, targets):
    """The last step's loss and h_1 to h_T of d = 100 untrained units, in the port and in qlstm."""
    torch.manual_seed(0)
    model = SequenceClassifier(10, 100, quantizer=quantizer, normalizer="none").double()
    port = Port(paper_release(quantizer, "none"), values_of(model))
    hidden = port.hidden_states(inputs)
    trace = []
    logits, _ = model(inputs, trace=trace)
    return ((cross_entropy(port.decode(hidden[-1]), targets), hidden),
            (cross_entropy(logits, targets), [h for h, _ in trace[0]]))


def positive_zero(w):
    return torch.where(w >= 0, torch.ones_like(w), -torch.ones_like(w))


def random_images(samples):
    """Pixels at random within a black margin, as MNIST has it: the first is number 5 · 28 + 4."""
    images = torch.zeros(28, 28, samples, 1, dtype=torch.float64)
    images[5:24, 4:24] = pixels(19 * 20, samples, None).view(19, 20, samples, 1)
    return images.flatten(0, 1), torch.randint(10, (samples,))


def mnist_images(samples):
    images = load_dataset("mnist")
    split = tuple(part[:samples] for part in images.train)
    inputs, targets = next(iter(image_minibatches(split, samples, levels=images.levels)))
    return inputs.double(), targets


@pytest.mark.parametrize("draw", [random_images, mnist_images])
def test_growth_of_the_gradient_in_untrained_sequential_mnist(draw, tmp_path, monkeypatch):
    """About 1.01 a step with sign(0) = 0, and about 1.84 with sign(0) = 1."""
    if draw is mnist_images:
        if not os.environ.get("QLSTM_MIRROR"):
            pytest.skip("QLSTM_MIRROR names no folder with the real data")
        monkeypatch.setenv("QLSTM_DATA", str(tmp_path))
    inputs, targets = draw(10)
    port, own = (growth(*run) for run in untrained("binary_connect", inputs, targets))
    assert 1.00 < port < 1.03
    assert_close(own, port, "float64")
    port, own = (growth(*run) for run in untrained(positive_zero, inputs, targets))
    assert port > 1.5
    assert_close(own, port, "float64")


def test_that_growth_comes_from_the_black_pixels_before_the_first_stroke():
    """There the state is 0, and W_ha has the eigenvalue 1, or d where it is a matrix of ones."""
    # near h = c = 0: h_t = c_t / 2, c_t = W_ha h_{t-1} / 2 + σ(1) c_{t-1} = (λ / 4 + σ(1)) c_{t-1}
    black, targets = torch.zeros(100, 10, 1, dtype=torch.float64), torch.arange(10)
    kept = 1 / (1 + math.exp(-1))
    for quantizer, eigenvalue in (("binary_connect", 1), (positive_zero, 100)):
        for loss, hidden in untrained(quantizer, black, targets):
            # up to h_{T-1}, whose gradient W_ha has shaped too
            assert_close(growth(loss, hidden[:-1]), eigenvalue / 4 + kept, "float64")
    # MNIST's first stroke is about pixel 150 of 784
    assert (100 / 4 + kept) ** (150 / 783) == pytest.approx(1.86, abs=0.01)
