"""Lesson 2: the LSTM."""

import math

from torch import sigmoid, tanh

from qlstm.course.exercises.answers import NotYet, call, kind, number, random, same
from qlstm.recurrence.cell import lstm_step


def exercise_2_1(parameters):
    """The parameters of a layer with 50 inputs and 512 hidden units.

    Args:
        parameters: Their number.
    """
    d, n = 512, 50
    wrong = {4 * d * (n + d) + 8 * d: "that is nn.LSTM's, with two biases; this study has one.",
             4 * d * (n + d): "those are the matrices; add the bias.",
             d * (n + d) + d: "that is one gate; there are four."}
    number("parameters", parameters, 4 * d * (n + d) + 4 * d, wrong, within=1e-6)
    return "All but 2,048 of them stand in the eight matrices: those are worth quantizing."


def exercise_2_2(step):
    """One step of the LSTM.

    Args:
        step: A function that takes the pre-activations of the gates i, f, a, o, of shape (N, 4, d),
            and the old cell state, of shape (N, d), and returns the new hidden and cell state.
    """
    n, d = 3, 5
    gates, c = random(n, 4, d), random(n, d, seed=1)
    i, f, a, o = gates.unbind(1)
    result = call("step", step, gates, c)
    if not isinstance(result, tuple) or len(result) != 2:
        raise NotYet(f"`step` should return h and c, `return h, c`; it returns {kind(result)}.")
    h_new, c_new = lstm_step(gates, c, lambda x, t: x, 0)
    wrong = {
        "the input gate multiplies the candidate, the forget gate the old cell state; yours are "
        "swapped.": sigmoid(f) * tanh(a) + sigmoid(i) * c,
        "the candidate goes through tanh, not through the sigmoid.":
            sigmoid(i) * sigmoid(a) + sigmoid(f) * c,
        "the candidate needs its tanh.": sigmoid(i) * a + sigmoid(f) * c,
        "the last two gates are a, then o.": sigmoid(i) * tanh(o) + sigmoid(f) * c,
        "the old cell state is missing: that is what the forget gate is for.":
            sigmoid(i) * tanh(a)}
    same("c", result[1], c_new, wrong)
    wrong = {"the cell state passes a tanh before the output gate.": sigmoid(o) * c_new,
             "use the new cell state, not the old one.": sigmoid(o) * tanh(c),
             "the output gate is missing.": tanh(c_new)}
    same("h", result[0], h_new, wrong)
    return "These three lines are `qlstm.recurrence.cell.lstm_step`."


def exercise_2_3(steps):
    """How long a forget gate of 0.9 remembers.

    Args:
        steps: The first step after which less than half of the cell state is left.
    """
    wrong = {math.log(0.5) / math.log(0.9):
                 "that is the exact time; the first whole step after it is asked.",
             6: "0.9^6 = 0.53 is still more than half.", 5: "0.9^5 = 0.59 is still more than half."}
    number("steps", steps, 7, wrong, within=1e-6)
    return "With 0.99 it takes 69 steps: long memory needs a forget gate close to 1."


def exercise_2_4(product, w_x):
    """A matrix times a one-hot vector.

    Args:
        product: The product for the symbol of index 7, a tensor (4d,).
        w_x: The matrix of the lesson, a tensor (4d, n).
    """
    wrong = {"that is row 7; symbol 7 selects a column.": w_x[7] if w_x.shape[0] > 7 else w_x,
             "counting starts at 0: symbol 7 is index 7.": w_x[:, 6]}
    same("product", product, w_x[:, 7], wrong)
    return "No multiplication at all: `QuantLSTM` looks the column up (`F.embedding`)."
