"""Lesson 2: the LSTM."""

import math

from torch import Tensor, sigmoid, tanh

from qlstm.course.exercises.answers import (
    NotAnswered,
    NotYet,
    call,
    hints,
    kind,
    number,
    random,
    same,
)
from qlstm.recurrence.cell import lstm_step


@hints(
    'Count W_x, W_h and the bias; the shapes stand under "The equations".',
    "W_x has 4d rows and n columns, W_h has 4d rows and d columns, the bias has 4d numbers.",
    "With d = 512 a row of both matrices and the bias has 50 + 512 + 1 numbers. How many rows are"
    " there?")
def exercise_2_1(parameters):
    """The parameters of a layer with 50 inputs and 512 hidden units.

    Args:
        parameters: Their number.
    """
    d, n = 512, 50
    wrong = {4 * d * (n + d) + 8 * d: "that is nn.LSTM's, with two biases; this study has one.",
             4 * d * (n + d): "those are the matrices; add the bias.",
             d * (n + d) + d: "that is one gate; there are four.",
             4 * d * d + 4 * d: "W_x is missing.", 4 * d * n + 4 * d: "W_h is missing.",
             4 * d * (n + d) + d: "the bias has 4d numbers, d for each gate."}
    number("parameters", parameters, 4 * d * (n + d) + 4 * d, wrong, within=1e-6)
    return "All but 2,048 of them stand in the eight matrices: those are worth quantizing."


@hints(
    "`gates.unbind(1)` gives i, f, a and o; then two lines, the two equations of this lesson.",
    "i, f and o go through `torch.sigmoid`, a goes through `torch.tanh`. First the new cell "
    "state, from i, a, f and the old one.",
    "The new cell state is (valve of i) * (candidate) + (valve of f) * c; the new hidden state is"
    " (valve of o) * tanh(new cell state). Return both, the hidden state first.")
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
    if isinstance(result, tuple) and ... in result:
        raise NotAnswered("`step` still returns `...`.")
    if not isinstance(result, tuple | list) or len(result) != 2:
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
            sigmoid(i) * tanh(a),
        "this is the new hidden state: return it first, `return h, c`.": h_new}
    same("c", result[1], c_new, wrong)
    wrong = {"the cell state passes a tanh before the output gate.": sigmoid(o) * c_new,
             "use the new cell state, not the old one.": sigmoid(o) * tanh(c),
             "the output gate is missing.": tanh(c_new)}
    same("h", result[0], h_new, wrong)
    return "These three lines are `qlstm.recurrence.cell.lstm_step`."


@hints(
    "After k steps the share 0.9^k is left. Try some k.",
    "0.9^5 = 0.59. Which is the first power below 0.5?")
def exercise_2_3(steps_to_half):
    """How long a forget gate of 0.9 remembers.

    Args:
        steps_to_half: The first step after which less than half of the cell state is left.
    """
    exact = math.log(0.5) / math.log(0.9)
    if isinstance(steps_to_half, float) and 6 < steps_to_half < 7:
        exact = steps_to_half  # as read from a table, or rounded
    wrong = {exact: "that is the exact time; the first whole step after it is asked.",
             6: "0.9^6 = 0.53 is still more than half.", 5: "0.9^5 = 0.59 is still more than half.",
             8: "already 0.9^7 = 0.478 is less than half."}
    number("steps_to_half", steps_to_half, 7, wrong, within=1e-6)
    return "With 0.99 it takes 69 steps: long memory needs a forget gate close to 1."


@hints(
    "Write the product of a small matrix with (0, 1, 0) on paper: which numbers of the matrix are"
    " left?",
    "A one-hot vector selects one column of the matrix; nothing needs to be multiplied.",
    "Indexing `matrix[rows, columns]` with `:` for all rows and one number for the column gives a"
    " tensor (4d,).")
def exercise_2_4(product):
    """A matrix times a one-hot vector.

    Args:
        product: A function that takes a matrix (4d, n) and the index of a symbol, and returns the
            product with the symbol's one-hot vector, (4d,).
    """
    name = "product(w_x, symbol)"
    for symbol, shape in ((7, (12, 12)), (2, (8, 9))):
        w_x = random(*shape, seed=symbol)
        answer = call("product", product, w_x, symbol)
        if isinstance(answer, Tensor) and answer.shape == (shape[0], 1):
            raise NotYet(f"`{name}` has shape {tuple(answer.shape)}: index with one number, not "
                         "with a list or a slice, and the column is a vector.")
        if isinstance(answer, Tensor) and answer.shape == (shape[1],) != (shape[0],):
            raise NotYet(f"`{name}` is a row; a symbol selects a column.")
        wrong = {"that is a row; a symbol selects a column.": w_x[symbol],
                 "counting starts at 0: the symbol is the index.": w_x[:, symbol - 1],
                 "use the argument `symbol`, whatever it is.": w_x[:, 9 - symbol]}
        same(name, answer, w_x[:, symbol], wrong)
    w_x[:, 0] = math.inf
    if not call("product", product, w_x, symbol).isfinite().all():
        raise NotYet(f"`{name}` is right, but multiplies: with an infinite number in another "
                     "column it becomes NaN. Take the column by its index.")
    return "No multiplication at all: `QuantLSTM` looks the column up (`F.embedding`)."
