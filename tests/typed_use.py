"""What a user writes, for ``make lint``: the types that a checker sees are those of this file."""

from pathlib import Path
from typing import Any, assert_type

import torch
from torch import Tensor, nn

import qlstm
from qlstm import LanguageModel, QuantGRU, QuantLSTM


def half(weight: Tensor) -> qlstm.Quantized:
    """A quantizer of one's own."""
    return qlstm.Quantized(weight.sign(), torch.tensor(0.5))


def use(folder: Path) -> None:
    """Build, run, train, pack, load and export."""
    lstm: nn.Module = QuantLSTM(50, 512, quantizer="binary_connect", normalizer="layer")
    QuantLSTM(50, 512, quantizer=half)
    output, (h, c) = QuantLSTM(50, 512, num_layers=2)(torch.randn(100, 64, 50))
    states, last = QuantGRU(50, 512).forward(torch.randn(100, 64, 50))
    model = LanguageModel(100, 512, normalizer="layer")
    logits, state = model.forward(torch.zeros(3, 2, dtype=torch.long))
    print(output, h, c, states, last, logits, state, lstm)
    qlstm.save_packed(model, folder / "packed.safetensors")
    loaded, card = qlstm.load_packed(folder / "packed.safetensors")
    assert_type(loaded, nn.Module)
    assert_type(card, dict[str, Any])
    assert_type(qlstm.export_c(model, "folder"), Path)
    assert_type(qlstm.packed_bytes(model), int)
    config = qlstm.ExperimentConfig(quantizer="twn", normalizer="batch_shared", seed=1)
    record = qlstm.run(config)
    assert_type(record, dict[str, Any])
    assert_type(qlstm.size_kb(config), float | None)
    try:
        qlstm.load_dataset("penn_word")
    except (qlstm.DataError, qlstm.ConfigError) as error:
        assert_type(str(error), str)
