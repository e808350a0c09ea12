"""Lesson 5: train one."""

import math
from pathlib import Path

import torch
from torch.nn import functional as F

from qlstm.course.exercises.answers import NotYet, call, choice, hints, number, random, same
from qlstm.data.storage import ROOT


@hints(
    "Count the weights of the eight matrices first: W_x has 87 columns, W_h has 128.",
    "4d rows with n + d columns, one bit each, and eight bits to a byte.")
def exercise_5_1(code_bytes):
    """The size of the codes of the model ``binary_connect-layer-d128``.

    Args:
        code_bytes: Their bytes, for 128 hidden units, 87 symbols and one bit a weight.
    """
    d, n = 128, 87
    bits = 4 * d * (n + d)
    wrong = {bits: "those are bits; eight to a byte.", 4 * bits: "that is full precision.",
             d * (n + d) / 8: "that is one gate; there are four.",
             4 * d * d / 8: "W_x has weights too: n + d columns.",
             bits / 8 / 1024: "that is in KB; bytes are asked."}
    number("code_bytes", code_bytes, bits / 8, wrong, within=1e-6)
    return "The file has exactly that many bytes in `rnn.codes_l0`."


@hints(
    "`F.cross_entropy` gives the mean in nats; it wants one axis of samples, (B, V) and (B,).",
    "`logits.flatten(0, 1)` and `targets.flatten()` have these shapes.",
    "One bit is ln 2 nats: divide by the natural logarithm of 2, and return one number.")
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
             math.exp(nats): "that is the perplexity.",
             -bits: "a loss is positive: minus the logarithm."}
    number("bpc(logits, targets)", call("bpc", bpc, logits, targets), bits, wrong, within=1e-4)
    return "`qlstm.study.training.metric` does the same."


@hints(
    "The logits are divided by the temperature, then comes the softmax. Try the slider's ends.",
    "Dividing by a small number makes the differences between logits large: what does a softmax "
    "of large differences look like? And of differences near 0?")
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


@hints(
    "Bytes of the decoder over bytes of the file. `Path(...).stat().st_size` has the latter.",
    "The decoder has 87 * 128 + 87 floats of 4 bytes each.")
def exercise_5_4(share):
    """The share of a packed file that is its decoder.

    Args:
        share: The answer, between 0 and 1.
    """
    path = Path("models", "binary_connect-layer-d128.safetensors")
    places = [place for place in (ROOT / "notebooks" / "learn" / path, path) if place.is_file()]
    if not places:
        raise NotYet(f"`share` cannot be checked: there is no file {path.as_posix()} here.")
    floats, size = 87 * 128 + 87, places[0].stat().st_size
    exact = 4 * floats / size
    wrong = {100 * exact: "as a share between 0 and 1, please.", 1 - exact: "that is all the rest.",
             1 / exact: "the other way round.", floats / size: "a float has 4 bytes.",
             32 * floats / size: "32 bits are 4 bytes.",
             4 * floats: "those are the bytes; divide by those of the file."}
    number("share", share, exact, wrong)
    return "What stays in full precision decides the size, once the matrices are packed."


@hints(
    "A table of 16 sums for each four inputs: which signs belong to the numbers 0 to 15? Four "
    "bits each, lowest first.",
    "`torch.arange(16)[:, None] >> torch.arange(4) & 1` has the bits, (16, 4); 2 * bits - 1 are "
    "the signs. `x.view(-1, 4)` has the fours.",
    "The sums of all fours are `x.view(-1, 4) @ signs.T`, (n / 4, 16). Row k of it is looked up "
    "at `index[:, k]`; add up over k.")
def exercise_5_5(products):
    """One-bit products by lookup.

    Args:
        products: A function that takes the codes of a matrix, four to a number from 0 to 15,
            (m, n / 4), and the inputs (n,), and returns the products (m,).
    """
    for seed, (rows, fours) in enumerate([(5, 1), (4, 3), (3, 6)]):
        index = torch.randint(16, (rows, fours), generator=torch.Generator().manual_seed(seed))
        x = random(4 * fours, seed=seed)
        bits = (index[..., None] >> torch.arange(4) & 1).float()
        signs = (2 * bits - 1).flatten(1)
        each = (signs * x).view(rows, fours, 4).sum(2)
        apart = x.view(4, fours).T.flatten()
        wrong = {
            "a bit of 0 is -1, not 0: the input is subtracted.": bits.flatten(1) @ x,
            "the lowest bit belongs to the first of the four inputs.":
                (2 * bits.flip(2) - 1).flatten(1) @ x,
            "a bit of 1 is +1, of 0 is -1; yours are the other way round.": -signs @ x,
            "these are the sums of the first four inputs; add up those of all.": each[:, 0],
            "inputs 4k to 4k + 3 stand side by side in x: `x.view(-1, 4)`.": signs @ apart,
            "that is the mean over the fours; add them up.": each.mean(1)}
        answer = call("products", products, index, x)
        if isinstance(answer, torch.Tensor) and answer.shape == each.shape:
            raise NotYet("`products(index, x)` has one number for each row and each four inputs; "
                         "add up those of a row.")
        same("products(index, x)", answer, signs @ x, wrong)
    return ("With 2,048 rows four inputs take 48 additions for the sums and one a row, 2,096 in "
            "place of 8,192.")
