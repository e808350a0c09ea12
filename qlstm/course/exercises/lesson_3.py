"""Lesson 3: why the gradient explodes."""

from qlstm import quantizers
from qlstm.course.exercises.answers import call, choice, hints, number, random, same


@hints(
    "Neither the number of bits nor the number of levels decides. Which number of a matrix says "
    "how much it stretches a vector?",
    "In lesson 1's table of spectral norms, which of the two is near full precision, and what "
    "does the gradient do in full precision?",
    "A spectral norm near 1 times slopes below 1 shrinks the gradient at each step; a norm of 12 "
    "beats the slopes here.")
def exercise_3_1(bwn, ter_connect):
    """What the gradient does on its way back, predicted from spectral norms.

    Args:
        bwn: Whether it ``"explodes"``, ``"vanishes"`` or ``"stays"`` with BWN, without
            normalization.
        ter_connect: The same with TerConnect.
    """
    norm = "look at its spectral norm in lesson 1, not at its number of bits."
    choice("bwn", bwn, "vanishes",
           {"explodes": norm, "stays": "its spectral norm is about that of full precision."})
    choice("ter_connect", ter_connect, "explodes", {"vanishes": norm, "stays": norm})
    return ("Near 1 the slopes win: it vanishes. TC's is of the order of the root of d, enough to "
            "beat the slopes at d = 64. That a large norm suffices is an observation, not a "
            "theorem.")


@hints(
    "The bound comes from the squared singular values: they add up to the number of entries that "
    "are not 0.",
    "Lesson 1 has it for codes -1 and +1: it depends on d alone, and no training changes it.",
    "For the ternary codes s is the share of zeros and b = 1, the smallest positive level: put "
    "both into (1 - s) b sqrt(d).")
def exercise_3_2(binary, ternary):
    r"""Lower bounds on the spectral norm of a $512 \times 512$ matrix of codes.

    Args:
        binary: The bound for codes in $\{-1, +1\}$, a number.
        ternary: The bound for codes in $\{-1, 0, +1\}$ with 40 % zeros, a number.
    """
    root = 512**0.5
    wrong = {512: "the bound is the root of d.",
             1: "that is the largest code; the norm of the matrix is asked.",
             2 * root: "that is about what a random sign matrix has; the bound holds for every "
                       "one."}
    number("binary", binary, root, wrong)
    wrong = {0.4 * root: "s is the share of zeros; the factor is 1 - s.",
             0.6**0.5 * root: "that is true too, and sharper; the paper's bound has 1 - s without "
                              "the root.",
             root: "the zeros lower the bound."}
    number("ternary", ternary, 0.6 * root, wrong)
    return "No training gets below these: the codes alone force them."


@hints(
    "Take the two formulas of Proposition 2.1. Each gate adds one term: its norm times a factor.",
    "The factors are 1/4 for i and o, gamma_1 / 4 for f and 1 for a. Which gate is missing in "
    "lambda_2?",
    "The terms are 10/4, 2 * 8/4, 12 and 6/4. lambda_1 has all of them, lambda_2 leaves the last "
    "one out.")
def exercise_3_3(lambda_1, lambda_2):
    r"""The factors $\lambda_1$ and $\lambda_2$ of Proposition 2.1, for given spectral norms.

    Args:
        lambda_1: The factor of the hidden state's gradient, a number.
        lambda_2: The factor of the cell state's gradient, a number.
    """
    wrong = {36: "each norm has a factor: the steepest slope of its nonlinearity.",
             9: "the candidate's tanh has slope 1, not 1/4.",
             18: "the forget gate's term has gamma_1 as a factor.",
             18.5: "that is lambda_2: the output gate belongs to lambda_1.",
             21: "gamma_1 belongs to the forget gate, not to the others."}
    number("lambda_1", lambda_1, 20, wrong, within=1e-6)
    number("lambda_2", lambda_2, 18.5, {20: "that is lambda_1: leave the output gate out."},
           within=1e-6)
    return "Over half of it is the candidate's: its tanh is the steepest."


@hints(
    "`quantizers.sign` gives the signs (0 for an exact zero). What is left is one division.",
    "d is the number of rows, `len(weight)`: it has to come from the matrix, as the check uses "
    "another size than yours.",
    "Divide the signs by `len(weight)` to the power of one half.")
def exercise_3_4(signs):
    r"""A quantizer of one's own.

    Args:
        signs: A function that takes a $d \times d$ matrix $W$ and returns
            $\operatorname{sign}(W)/\sqrt d$.
    """
    for seed in range(2):
        weight = random(16, 16, seed=seed)
        codes = quantizers.sign(weight)
        wrong = {"the norm of a row of signs is the root of d, not d.": codes / 16,
                 "d is the size of the matrix that you get, `len(weight)`.": codes / 8,
                 "divide the signs by the root of d.": codes,
                 "the values should be +1 and -1 over the root of d; yours depend on |w|.":
                     quantizers.bwn(weight).dense()}
        same("signs(weight)", call("signs", signs, weight), codes / 4, wrong)
    return ("Each row has norm 1: this is weight normalization with all gains fixed at 1; they "
            "cannot be trained.")


@hints(
    "Follow a gradient on the cell state through one step back: what of it stays on the cell "
    "state, and what comes back to it by way of h?",
    "First: the straight way keeps all of it, as the forget gate is 1, and W_ha takes a quarter "
    "of it to h and from there to c again. Second: the condition above has lambda_1, lambda_2 and "
    "phi.",
    "The first gradient is multiplied by 1 + 1/4. For the second, compare 0.2 + 0.2 / (1 - 0.5) "
    "with 1.")
def exercise_3_5(growth, possible):
    r"""Growth along the cell state, where $\lambda_1$ is below 1.

    Args:
        growth: The factor a step for $W_{ha} = I/4$ and open gates, a number.
        possible: Whether a gradient can keep growing where $\lambda_1 = \lambda_2 = 0.2$ and no
            forget gate is above 0.5.
    """
    wrong = {0.25: "that is lambda_1, the way from h to h. What is on the cell state stays there "
                   "as well.",
             1: "that is the straight way alone; some comes back to c by way of h.",
             0.5: "that is lambda_1 + lambda_2. What does the straight way add?",
             1.5: "that is for W_ha = I/2; here it is I/4."}
    number("growth", growth, 1.25, wrong)
    choice("possible", possible, False,
           {True: "put the numbers into lambda_1 + lambda_2 / (1 - phi); it has to be above 1."})
    return "A lambda_1 below 1 does not exclude growth; the sum with the straight way can."
