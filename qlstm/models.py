"""Models around the layer: language models over characters or words, a classifier of sequences."""

import contextlib
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qlstm.arguments import check_flag, check_network, check_number, check_seed, check_size
from qlstm.errors import ConfigError, unknown
from qlstm.gru import QuantGRU
from qlstm.layer import QuantRNN, State
from qlstm.lstm import QuantLSTM
from qlstm.normalizers import BatchNorm, LayerNorm, WeightNorm
from qlstm.quantizers import stochastic_level
from qlstm.recurrence.linear import Linear, pick

CELLS = {"lstm": QuantLSTM, "gru": QuantGRU}
"""The layer by the name of its cell."""


def _layer(cell: str) -> type[QuantRNN]:
    if cell not in [*CELLS]:  # a list, as what is given may have no hash
        raise ConfigError(unknown("cell", cell, CELLS))
    return CELLS[cell]


def _expand(initial_state: Tensor, samples: tuple[int, ...]) -> State:
    """A learned state (states, layers, d) for each of (N,) samples, or without them of (): each
    (layers, *samples, d)."""
    states, layers, d = initial_state.shape
    shaped = initial_state.reshape(states, layers, *(1 for _ in samples), d)
    return shaped.expand(-1, -1, *samples, -1).unbind(0)


@contextlib.contextmanager
def evaluating(model: nn.Module):
    """In evaluation mode; afterwards each part of the ``model`` is in its own mode again."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield model.eval()
    finally:
        for module, training in modes.items():
            module.training = training


def _uniform_2a(weight: Tensor) -> Tensor:
    """Fill a stacked matrix (4d, n) with U(-2A, 2A), A the level of
    :func:`qlstm.quantizers.sbn`."""
    level = stochastic_level(weight.view(4, -1, weight.shape[-1]))
    return nn.init.uniform_(weight, -2 * level, 2 * level)


@torch.no_grad()
def _reset_stochastic(
        rnn: QuantRNN, decoder: nn.Linear, fill: Callable[[Tensor], Tensor], forget_bias: float):
    """SBN and STN as their release starts them: matrices by ``fill``, biases 0 but for the forget
    gate's, decoder orthogonal."""
    for k in range(rnn.num_layers):
        for side in ("ih", "hh"):
            fill(getattr(rnn, f"weight_{side}_l{k}"))
        for number, bias in enumerate(rnn.biases(k)):
            nn.init.zeros_(bias).view(rnn.gates, -1)[1] = 0.0 if number else forget_bias
    nn.init.orthogonal_(decoder.weight)
    nn.init.zeros_(decoder.bias)


class LanguageModel(nn.Module):
    """Language model: one-hot symbols or an embedding -> QuantLSTM (or QuantGRU) -> linear decoder.

    ``cell``: "lstm" or "gru", of ``num_layers`` layers with ``hidden_size`` units;
    ``vocabulary_size`` symbols. Characters are one-hot; words have an ``embedding_size`` (None:
    one-hot). ``dropout`` acts on the embedding, between layers and on the output, in training.
    ``learned_state``: whether a text starts from a state that is trained (from 0), not from 0
    itself. ``settings``: keywords of :class:`~qlstm.lstm.QuantLSTM`. Embedding and decoder stay
    full precision; they start at U(-0.1, 0.1), the decoder's bias at 0. Networks of SBN and STN
    start as in their release: decoder orthogonal; matrices U(-0.1, 0.1) and biases 0 with an
    embedding, else orthogonal and 1 for the forget gate.

    >>> model = LanguageModel(50, 32, quantizer="twn", normalizer="batch_shared")
    >>> logits, state = model(torch.zeros(7, 4, dtype=torch.int64))
    >>> logits.shape
    torch.Size([7, 4, 50])
    """

    def __init__(self, vocabulary_size: int, hidden_size: int, num_layers: int = 1, *,
                 embedding_size: int | None = None, dropout: float = 0.0,
                 learned_state: bool = False, cell: str = "lstm", **settings):
        super().__init__()
        self.settings = dict(vocabulary_size=vocabulary_size, hidden_size=hidden_size,
                             num_layers=num_layers, embedding_size=embedding_size, dropout=dropout,
                             learned_state=learned_state, cell=cell, **settings)
        check_network(type(self).__name__, settings)
        check_size("vocabulary_size", vocabulary_size)
        if embedding_size is not None:
            check_size("embedding_size", embedding_size)
        check_number("dropout", dropout, most=1)
        check_flag("learned_state", learned_state)
        self.dropout = dropout
        layer, inputs = _layer(cell), vocabulary_size if embedding_size is None else embedding_size
        self.rnn = layer(inputs, hidden_size, num_layers,
                         dropout=dropout if num_layers != 1 else 0.0, **settings)
        self.decoder = Linear(hidden_size, vocabulary_size)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        self.embedding = (
            None if embedding_size is None else nn.Embedding(vocabulary_size, embedding_size))
        if self.embedding is not None:
            nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        self.initial_state = (nn.Parameter(torch.zeros(layer.states, num_layers, hidden_size))
                              if learned_state else None)
        if self.rnn.stochastic and self.embedding is None:
            _reset_stochastic(self.rnn, self.decoder, nn.init.orthogonal_, forget_bias=1.0)
        elif self.rnn.stochastic:
            fill = functools.partial(nn.init.uniform_, a=-0.1, b=0.1)
            _reset_stochastic(self.rnn, self.decoder, fill, forget_bias=0.0)

    def forward(self, symbols: Tensor, state: State | None = None, *, trace: list | None = None):
        """Logits (T, N, vocabulary) of the next symbol from ``symbols`` (T, N), and the last state.

        ``state``: of the symbols before, (h, c), or of a GRU (h,); None: the initial one.

        ``trace`` as in :meth:`qlstm.QuantLSTM.forward`.
        """
        if state is None and self.initial_state is not None:
            state = _expand(self.initial_state, symbols.shape[1:2])
        if self.embedding is not None:
            if symbols.is_floating_point():
                raise TypeError(f"expected symbols, integers (T, N), got {symbols.dtype}")
            symbols = F.dropout(
                pick(symbols, self.embedding.weight), self.dropout, self.training)
        output, hx = self.rnn(symbols, None if state is None else self.rnn.as_hx(state),
                              trace=trace)
        logits = self.decoder(F.dropout(output, self.dropout, self.training))
        return logits, self.rnn.as_parts(hx)

    @torch.no_grad()
    def sample(
        self, prompt: Tensor, length: int, *, temperature: float = 1.0, seed: int = 0
    ) -> Tensor:
        """Draw ``length`` symbols that follow ``prompt`` (P,), one at a time, from softmax(logits /
        temperature).

        Reproducible by ``seed``. Temperature 0 takes the likeliest symbol. Evaluation mode during
        the call; returns symbol ids (length,). Raises ``ValueError`` for arguments that cannot be,
        and where the logits are not finite.
        """
        check_size("length", length)
        check_number("temperature", temperature)
        check_seed(seed)
        self._check_prompt(prompt)
        generator = torch.Generator().manual_seed(seed)
        symbols, drawn = prompt.to(torch.int64)[:, None], []
        with evaluating(self):
            logits, state = self(symbols)
            stream = self.rnn.stream(1, self.rnn.as_hx(state))
            for _ in range(length):
                if drawn:
                    x = symbols[0]
                    h = stream(x if self.embedding is None else pick(x, self.embedding.weight))
                    logits = self.decoder(h)[None]
                logits = logits[-1] - logits[-1].max()
                if not logits.isfinite().all():
                    raise ValueError("the logits are not finite: the network has diverged")
                if temperature < torch.finfo(logits.dtype).tiny:
                    symbols = logits.argmax(-1, keepdim=True)
                else:
                    probabilities = torch.softmax(logits / temperature, -1)
                    # on the CPU, where the same symbols are drawn for every device
                    symbols = torch.multinomial(probabilities.cpu(), 1, generator=generator)
                    symbols = symbols.to(prompt.device)
                drawn.append(symbols[0, 0])
        return torch.stack(drawn)

    def _check_prompt(self, prompt: Tensor):
        size = self.decoder.out_features
        integers = isinstance(prompt, Tensor) and not (prompt.is_floating_point()
                                                       or prompt.is_complex())
        if not integers or prompt.dim() != 1 or not len(prompt):
            got = tuple(prompt.shape) if integers else getattr(prompt, "dtype", type(prompt))
            raise ValueError(f"prompt must be a tensor (P,) of one symbol or more, got {got}")
        if prompt.min() < 0 or prompt.max() >= size:
            raise ValueError(f"prompt has symbols from {prompt.min()} to {prompt.max()}, the model "
                             f"those from 0 to {size - 1}")


class SequenceClassifier(nn.Module):
    """Classifier of sequences of numbers, as in sequential MNIST: QuantLSTM -> linear layer on the
    last hidden state.

    ``cell``: "lstm" or "gru", of ``num_layers`` layers with ``hidden_size`` units; ``classes``
    labels. Initialized as Cooijmans et al., ICLR 2017: W_x unit-norm columns of 4d (not quantized);
    W_h the identity for the candidate gate, orthonormal columns for the others stacked; biases 0,
    forget gate 1; weight-norm gains at the row norms of these; layer and batch gains at
    ``initial_gain`` (0: as the normalizer defines). The initial state is learned, from 0; N(0,
    ``state_noise``^2) is added to it in training and test, in evaluation always the same sample.
    The decoder starts at U(-0.1, 0.1), its bias at 0. SBN and STN follow their own release: W_x is
    quantized too, matrices start at U(-2A, 2A), the decoder orthogonal, and the noise is on h_0
    alone. ``settings``: keywords of :class:`~qlstm.lstm.QuantLSTM`.

    >>> model = SequenceClassifier(10, 32, quantizer="twn", normalizer="layer", initial_gain=0.1)
    >>> model(torch.zeros(64, 5, 1))[0].shape
    torch.Size([5, 10])
    """

    noise_seed = 0

    def __init__(self, classes: int, hidden_size: int, num_layers: int = 1, *,
                 initial_gain: float = 0.0, state_noise: float = 0.0, cell: str = "lstm",
                 **settings):
        super().__init__()
        self.settings = dict(classes=classes, hidden_size=hidden_size, num_layers=num_layers,
                             initial_gain=initial_gain, state_noise=state_noise, cell=cell,
                             **settings)
        check_network(type(self).__name__, settings)
        check_size("classes", classes)
        check_number("initial_gain", initial_gain)
        check_number("state_noise", state_noise)
        self.state_noise = state_noise
        layer = _layer(cell)
        self.rnn = layer(1, hidden_size, num_layers, quantize_input=False, **settings)
        self.rnn.quantize_input = self.rnn.stochastic
        self.decoder = Linear(hidden_size, classes)
        self.initial_state = nn.Parameter(torch.zeros(layer.states, num_layers, hidden_size))
        self._start(initial_gain)

    def reset_parameters(self, initial_gain: float):
        """Begin anew, with the initial values described above."""
        self.rnn.reset_parameters()
        nn.init.zeros_(self.initial_state)
        self._start(initial_gain)

    @torch.no_grad()
    def _start(self, initial_gain: float):
        if self.rnn.stochastic:
            _reset_stochastic(self.rnn, self.decoder, _uniform_2a, forget_bias=1.0)
            return
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        d, gates = self.rnn.hidden_size, self.rnn.gates
        for k in range(self.rnn.num_layers):
            w_x, w_h = (getattr(self.rnn, f"weight_{side}_l{k}") for side in ("ih", "hh"))
            w_x.copy_(F.normalize(torch.randn_like(w_x), dim=0))
            # the candidate is gate 2 of i, f, a, o and of r, z, n
            others = [gate for gate in range(gates) if gate != 2]
            orthonormal = nn.init.orthogonal_(torch.empty(len(others) * d, d))
            w_h.view(gates, d, d)[others] = orthonormal.view(len(others), d, d).to(w_h)
            w_h.view(gates, d, d)[2] = torch.eye(d)
            for bias in self.rnn.biases(k):
                bias.zero_()
            if gates == 4 and self.rnn.bias:
                self.rnn.biases(k)[0].view(gates, d)[1] = 1
            for norm, weight in ((getattr(self.rnn, f"norm_ih_l{k}"), w_x),
                                 (getattr(self.rnn, f"norm_hh_l{k}"), w_h)):
                if isinstance(norm, WeightNorm):
                    norm.gain.copy_(torch.linalg.vector_norm(weight, dim=-1).view_as(norm.gain))
                elif isinstance(norm, LayerNorm | BatchNorm) and initial_gain:
                    norm.gain.fill_(initial_gain)

    def forward(
        self, inputs: Tensor, state: None = None, *, trace: list | None = None
    ) -> tuple[Tensor, None]:
        """Logits (N, classes) from ``inputs`` (T, N, 1); there is no state to carry to other
        sequences.

        ``trace`` as in :meth:`qlstm.QuantLSTM.forward`.
        """
        if not isinstance(inputs, Tensor) or inputs.dim() != 3:
            raise ValueError("expected inputs (T, N, 1), got "
                             f"{tuple(getattr(inputs, 'shape', ())) or type(inputs).__name__}")
        state = _expand(self.initial_state, inputs.shape[1:2])
        if self.state_noise:
            noisy = state[:1] if self.rnn.stochastic else state
            noise = self.state_noise * self._noise((len(noisy), *state[0].shape))
            state = (*(part + own for part, own in zip(noisy, noise, strict=True)),
                     *state[len(noisy) :])
        output, _ = self.rnn(inputs, self.rnn.as_hx(state), trace=trace)
        return self.decoder(output[-1]), None

    def _noise(self, shape: tuple[int, ...]) -> Tensor:
        """Numbers of N(0, 1); in evaluation the same for every precision and device."""
        like = self.initial_state
        if self.training:
            return torch.empty(shape, dtype=like.dtype, device=like.device).normal_()
        if torch.compiler.is_exporting():
            raise ConfigError("what is exported would have other noise on its initial state than "
                              "the network, which draws it for N samples: set state_noise = 0")
        generator = torch.Generator().manual_seed(self.noise_seed)
        return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(like)
