"""Models around the layer: a language model over characters."""

import torch
from torch import Tensor, nn

from qlstm.layer import QuantLSTM, State


class LanguageModel(nn.Module):
    """Character-level language model: one-hot input -> QuantLSTM -> linear decoder over the vocabulary.

    ``settings``: keywords of :class:`~qlstm.layer.QuantLSTM`. The decoder stays full precision; it starts at
    U(-0.1, 0.1) with bias 0.

    >>> model = LanguageModel(50, 32, quantizer="twn", normalizer="batch_shared")
    >>> logits, state = model(torch.zeros(7, 4, dtype=torch.int64))
    >>> logits.shape
    torch.Size([7, 4, 50])
    """

    def __init__(self, vocabulary_size: int, hidden_size: int, num_layers: int = 1, **settings):
        super().__init__()
        self.lstm = QuantLSTM(vocabulary_size, hidden_size, num_layers, **settings)
        self.decoder = nn.Linear(hidden_size, vocabulary_size)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, symbols: Tensor, state: State | None = None, *, trace: list | None = None):
        """Logits (T, N, vocabulary) of the next symbol from ``symbols`` (T, N), and the last state."""
        output, state = self.lstm(symbols, state, trace=trace)
        return self.decoder(output), state

    @torch.no_grad()
    def sample(self, prompt: Tensor, length: int, *, temperature: float = 1.0, seed: int = 0) -> Tensor:
        """Draw ``length`` symbols that follow ``prompt`` (P,), one at a time, from softmax(logits / temperature).

        Reproducible by ``seed``. Evaluation mode during the call; returns symbol ids (length,).
        """
        generator = torch.Generator(prompt.device).manual_seed(seed)
        training = self.training
        self.eval()
        symbols, state, drawn = prompt.to(torch.int64)[:, None], None, []
        for _ in range(length):
            logits, state = self(symbols, state)
            probabilities = torch.softmax(logits[-1] / temperature, -1)
            symbols = torch.multinomial(probabilities, 1, generator=generator)
            drawn.append(symbols[0, 0])
        self.train(training)
        return torch.stack(drawn)
