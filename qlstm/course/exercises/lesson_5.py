"""Lesson 5: train one."""

import math

import torch
from torch.nn import functional as F

from qlstm.course.exercises.answers import call, choice, number, random


def exercise_5_1(code_bytes):
    """The size of the codes of the widest one-bit model.

    Args:
        code_bytes: Their bytes, for 128 hidden units, 87 symbols and one bit a weight.
    """
    d, n = 128, 87
    bits = 4 * d * (n + d)
    wrong = {bits: "those are bits; eight to a byte.", 4 * bits: "that is full precision.",
             d * (n + d) / 8: "that is one gate; there are four.",
             4 * d * d / 8: "W_x has weights too: n + d columns."}
    number("code_bytes", code_bytes, bits / 8, wrong, within=1e-6)
    return "The file has exactly that many bytes in `rnn.codes_l0`."


def exercise_5_2(bpc):
    """Bits per character.

    Args:
        bpc: A function that takes logits (T, N, V) and the symbols that came (T, N), and returns
            their mean cross-entropy in bits, one number.
    """
    logits = 3 * random(6, 4, 9)
    targets = torch.randint(9, (6, 4), generator=torch.Generator().manual_seed(1))
    nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
    bits = nats / math.log(2)
    wrong = {nats: "that is in nats; divide by ln 2 for bits.",
             nats * math.log(2): "divide by ln 2.",
             24 * bits: "that is the sum; take the mean over characters.",
             math.exp(nats): "that is the perplexity.", 2**bits: "that is the perplexity."}
    number("bpc(logits, targets)", call("bpc", bpc, logits, targets), bits, wrong, within=1e-4)
    return "`qlstm.study.training.metric` does the same."


def exercise_5_3(cold, hot):
    """What a sample becomes at extreme temperatures.

    Args:
        cold: ``"as it is"``, ``"most likely"`` or ``"uniform"``: at a temperature near 0.
        hot: The same for a temperature that grows without bound.
    """
    as_it_is = "that is temperature 1."
    choice("cold", cold, "most likely",
           {"as it is": as_it_is, "uniform": "dividing by a small number enlarges differences."})
    choice("hot", hot, "uniform",
           {"as it is": as_it_is,
            "most likely": "dividing by a large number makes the logits alike."})
    return "The temperature changes how a model is sampled, not how good it is."


def exercise_5_4(share, decoder_bytes, file_bytes):
    """The share of a packed file that is its decoder.

    Args:
        share: The answer, between 0 and 1.
        decoder_bytes: The bytes of the decoder's weight and bias.
        file_bytes: The bytes of the file.
    """
    exact = decoder_bytes / file_bytes
    wrong = {100 * exact: "as a share between 0 and 1, please.", 1 - exact: "that is all the rest.",
             1 / exact: "the other way round."}
    number("share", share, exact, wrong)
    return "What stays in full precision decides the size, once the matrices are packed."
