"""A tagger of words, as tutorials on LSTMs build it: embedding, two-directional LSTM, linear layer.

    python docs/tagger.py            with torch.nn.LSTM
    python docs/tagger.py quantized  with 1-bit weights and layer normalization

Sentences differ in length, so they go through the layer as packed sequences. The words "duck",
"watch" and "saw" are nouns or verbs: which of both only their neighbours on both sides tell.
"""

import functools
import random
import sys

import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

import qlstm

WORDS = {"DET": ["the", "a", "every"], "ADJ": ["big", "old", "green", "light"],
         "NOUN": ["duck", "watch", "saw", "dog", "light"], "PRON": ["they", "we"],
         "VERB": ["duck", "watch", "saw", "see", "light"], "ADV": ["now", "often"]}
TAGS = {tag: number for number, tag in enumerate(WORDS)}
IDS = {word: number for number, word in enumerate(sorted({w for ws in WORDS.values() for w in ws}))}


class Tagger(nn.Module):
    """Scores of all tags for each word of each sentence; ``layer``: what makes an LSTM."""

    def __init__(self, layer, embedding: int = 16, hidden: int = 32):
        super().__init__()
        self.embedding = nn.Embedding(len(IDS), embedding)
        self.lstm = layer(embedding, hidden, num_layers=2, dropout=0.1, bidirectional=True)
        self.scores = nn.Linear(2 * hidden, len(TAGS))

    def forward(self, sentences: list[torch.Tensor]) -> list[torch.Tensor]:
        """Of each of the ``sentences`` (words,) the scores (words, tags)."""
        self.lstm.flatten_parameters()
        words = pack_sequence([self.embedding(s) for s in sentences], enforce_sorted=False)
        output, _ = self.lstm(words)
        return [self.scores(states) for states in unpack_sequence(output)]


def sentence(rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    """Words and their tags, each (words,), such as "we often saw the old duck"; drawn by
    ``rng``."""
    def noun_phrase():
        return ["DET", *["ADJ"] * rng.randrange(3), "NOUN"]

    tags = [["PRON"], noun_phrase()][rng.randrange(2)] + ["ADV"] * rng.randrange(2) + ["VERB"]
    tags += noun_phrase() if rng.random() < 0.7 else []
    words = [rng.choice(WORDS[tag]) for tag in tags]
    return torch.tensor([IDS[w] for w in words]), torch.tensor([TAGS[tag] for tag in tags])


def train(layer, updates: int = 150, seed: int = 0) -> float:
    """Train a tagger; the part of the words of new sentences that it tags rightly.

    ``layer``: what makes an LSTM. ``updates``: of 16 sentences. ``seed``: of all random numbers.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = Tagger(layer)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(updates):
        words, tags = zip(*(sentence(rng) for _ in range(16)), strict=True)
        loss = nn.functional.cross_entropy(torch.cat(model(words)), torch.cat(tags))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    words, tags = zip(*(sentence(rng) for _ in range(200)), strict=True)
    with torch.no_grad():
        return (torch.cat(model(words)).argmax(-1) == torch.cat(tags)).float().mean().item()


if __name__ == "__main__":
    layer = nn.LSTM
    if sys.argv[1:] == ["quantized"]:
        layer = functools.partial(
            qlstm.QuantLSTM, quantizer="binary_connect", normalizer="layer")
    print(f"{100 * train(layer):.1f} % of the words are tagged rightly")
