"""What the lessons' demos print, at its edges."""

import torch

from qlstm import LanguageModel
from qlstm.course import demos

VOCABULARY = ["a", "b", "\r", "\n"]


def models():
    torch.manual_seed(0)
    return {name: LanguageModel(len(VOCABULARY), 8, quantizer="binary_connect") for name in "xy"}


def test_each_model_goes_on_with_the_symbols_that_it_knows(capsys):
    demos.writes(models(), VOCABULARY, "aXb", length=30)
    first, *others = capsys.readouterr().out.split("=== ")
    assert first.strip() == "(not among the models' symbols, so left out: X)"
    assert [text[:4] for text in others] == ["x\nab", "y\nab"]
    written = "".join(text[2:] for text in others)
    assert set(written) <= {"a", "b", "\n"}
    assert others[0][2:] != others[1][2:]


def test_a_seed_gives_the_same_text_again_and_another_one_another(capsys):
    texts = []
    for seed in (0, 0, 1):
        demos.writes(models(), VOCABULARY, "a", seed=seed, length=30)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


def test_a_beginning_without_a_known_symbol_is_refused_in_words(capsys):
    for prompt in ("", "XY"):
        demos.writes(models(), VOCABULARY, prompt)
        said = capsys.readouterr().out
        assert said.endswith("give at least one symbol that they know to start from\n")
        assert "===" not in said
