"""The checks of the exercises: what a student is told of any answer, hints, the tally."""

import inspect
import re

import numpy as np
import pytest
import torch

from qlstm import quantizers
from qlstm.course import exercises
from qlstm.course.exercises import EXERCISES, answers, check, hint, judge, lesson_1
from qlstm.data.storage import ROOT
from qlstm.errors import ConfigError


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    """Nothing is solved and no hint was given."""
    monkeypatch.setattr(exercises, "_solved", set())
    exercises._asked.clear()


def lookups(signs, together=lambda sums: sums.sum(1), fours=lambda x: x.view(-1, 4)):
    """An answer to exercise 5.5 from the ``signs`` (16, 4) of the bits, the sum ``together`` of
    what is looked up, (m, n / 4), and the inputs by ``fours``."""
    bits = (torch.arange(16)[:, None] >> torch.arange(4) & 1).float()

    def products(index, x):
        sums = fours(x) @ signs(bits).T
        return together(sums[torch.arange(len(sums)), index])

    return products


def shares(count, pairs):
    """An answer to exercise 6.4: how many differences ``count``, as a share of so many pairs."""
    def share(values):
        gaps = [a - b for i, a in enumerate(values) for b in values[:i]]
        return sum(count(gap) for gap in gaps) / pairs(len(values))

    return share


def by_rows(weight, gain):
    return gain[:, None] * weight / weight.norm(dim=1, keepdim=True)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("1.1", dict(uniform=0.75, normal=0.36), "share that is kept"),
        ("1.1", dict(uniform="a quarter", normal=0.36), "should be one number; it is text, 'a qu"),
        ("1.2", dict(steps=25), "still positive"),
        ("1.2", dict(steps=True), "should be one number; it is True"),
        ("1.2", dict(steps="26"), "should be one number; it is text"),
        ("1.2", dict(steps=[26]), "should be one number; it is a list of 1"),
        ("1.2", dict(steps=float("nan")), "should be one number; it is nan"),
        ("1.2", dict(steps=10**400), "is huge"),
        ("1.2", dict(steps=-26), "wrong sign"),
        ("1.2", dict(steps=lambda: 26), "should be one number; it is a function"),
        ("2.1", dict(parameters=1_155_072), "`parameters` = 1,155,072: that is nn.LSTM's"),
        ("1.3", dict(ternary=lambda w: quantizers.ter_connect(w).dense()), "multiply by the scale"),
        ("1.3", dict(ternary=lambda w: None), "should end with `return`"),
        ("1.3", dict(ternary=lambda w: w[0]), "shape (6,); it should have (6, 6)"),
        ("1.3", dict(ternary=lambda w: w.numpy()), "it is a numpy array of shape (6, 6)"),
        ("1.3", dict(ternary=lambda w: w * float("nan")), "not all of its values are finite"),
        ("1.3", dict(ternary=lambda w: w.new_ones(w.shape)), "all of its values are the same"),
        ("1.3", dict(ternary=3), "should be a function; it is a number, 3"),
        ("1.3", dict(ternary=lambda w: lesson_1._ternary(w, 0.7 * w.mean())), "the mean of |w|"),
        ("1.3", dict(ternary=lambda w: (w.abs() * (w.abs() > 0.7 * w.abs().mean())).mean()
                     * quantizers.ter_connect(w).dense()), "number of kept weights"),
        ("1.4", dict(size=2900), "not one a row"),
        ("2.2", dict(step=lambda gates, c: (c, c)), "`c`"),
        ("2.3", dict(steps_to_half=6.6), "the exact time"),
        ("2.3", dict(steps_to_half=7.5), "too large"),
        ("2.2", dict(step=lambda gates, c: c), "should return h and c"),
        ("2.4", dict(product=lambda w_x, symbol: w_x[:, 7]), "use the argument `symbol`"),
        ("2.4", dict(product=lambda w_x, symbol: w_x[:, [symbol]]), "index with one number"),
        ("2.4", dict(product=lambda w_x, symbol: w_x[symbol]), "a symbol selects a column"),
        ("2.4", dict(product=lambda w_x, symbol: w_x @ torch.eye(w_x.shape[1])[symbol]),
         "is right, but multiplies"),
        ("3.1", dict(bwn="grows", ter_connect="explodes"),
         "one of 'explodes', 'stays', 'vanishes'; it is 'grows'"),
        ("3.4", dict(signs=lambda w: quantizers.sign(w) / 8), "that you get"),
        ("4.1", dict(layer=3, batch=0), "Time is no part of it"),
        ("4.1", dict(layer=(2, 3), batch=1), "should be one axis, not 2"),
        ("4.1", dict(layer=4, batch=1), "axis as a number from 0 to 3"),
        ("4.2", dict(weight_norm=by_rows), "NaN"),
        ("5.2",
         dict(bpc=lambda x, y: torch.nn.functional.cross_entropy(x.flatten(0, 1), y.flatten())),
         "in nats"),
        ("5.4", dict(share=44_892), "those are the bytes"),
        ("5.5", dict(products=lookups(lambda bits: bits)), "a bit of 0 is -1, not 0"),
        ("5.5", dict(products=lookups(lambda bits: 2 * bits.flip(1) - 1)), "the lowest bit"),
        ("5.5", dict(products=lookups(lambda bits: 1 - 2 * bits)), "the other way round"),
        ("5.5", dict(products=lookups(lambda bits: 2 * bits - 1, lambda sums: sums)),
         "add up those of a row"),
        ("5.5", dict(products=lookups(lambda bits: 2 * bits - 1, lambda sums: sums[:, 0])),
         "the first four inputs"),
        ("5.5", dict(products=lookups(lambda bits: 2 * bits - 1, fours=lambda x: x.view(4, -1).T)),
         "stand side by side"),
        ("6.1", dict(half_width=lambda v: 1.959964 * np.std(v, ddof=1) / len(v)**0.5),
         "Student's t"),
        ("6.1", dict(half_width=lambda v: 2.7764451 * np.std(v, ddof=1) / len(v)**0.5),
         "depends on the number of values"),
        ("6.2", dict(kb=190), "give it unrounded"),
        ("6.3", dict(against_plain="True", against_normalized=False), "it is 'true'"),
        ("6.4", dict(share=0.7), "should be a function"),
        ("6.4", dict(share=shares(lambda gap: gap > 0.02, lambda n: n * (n - 1) / 2)),
         "may be negative"),
        ("6.4", dict(share=shares(lambda gap: abs(gap) > 0.02, lambda n: 10)), "ten pairs"),
        ("6.4", dict(share=shares(lambda gap: abs(gap) > 0.02, lambda n: n * n / 2)),
         "a seed with itself"),
    ],
)
def test_a_wrong_answer_is_told_what_to_look_at(name, given, words):
    outcome = judge(name, given)
    assert outcome.state == "wrong"
    assert words in outcome.message
    assert "\n" not in str(outcome)


def test_answers_that_say_the_same_are_right():
    for name, given in [
            ("1.2", dict(steps=torch.tensor([26]))), ("1.4", dict(size=np.float32(2504))),
            ("3.1", dict(bwn=" Vanishes", ter_connect="EXPLODES")),
            ("4.1", dict(layer=-1, batch=np.int64(1))), ("4.1", dict(layer=3.0, batch=-3)),
            ("6.3", dict(against_plain=np.bool_(True), against_normalized=torch.tensor(False)))]:
        assert judge(name, given).state == "right", given


def test_what_is_not_answered_is_no_mistake():
    for name, given in [("1.2", dict(steps=...)), ("1.2", {}), ("1.3", dict(ternary=lambda w: ...)),
                        ("2.2", dict(step=lambda gates, c: (..., ...)))]:
        outcome = judge(name, given)
        assert outcome.state == "not answered"
        assert re.match(r"not answered yet: `\w+` ", str(outcome))
    assert '`exercises.check("1.2", steps=steps)`' in judge("1.2", dict(stpes=26)).message


def leaves(weight):
    raise SystemExit("bye")


def recurses(weight):
    return recurses(weight)


def test_a_crash_is_told_with_the_students_own_line():
    """Not with torch's, where the error was raised."""
    def ternary(weight):
        codes = weight.sign()
        return torch.nn.functional.linear(codes, codes[:, :2])

    line = ternary.__code__.co_firstlineno + 2
    for function, words in [
            (ternary, f"`ternary` raised RuntimeError: mat1 and mat2 shapes cannot be multiplied "
             f"(6x6 and 2x6) (line {line}: `return torch.nn.functional.linear(codes, codes[:, :2])"
             "`); it was called with shape (6, 6)."),
            (leaves, "raised SystemExit: bye"), (recurses, "raised RecursionError"),
            (lambda: 1, "raised TypeError"), (int, "raised"), (torch.nn.Linear(2, 2), "raised")]:
        outcome = judge("1.3", {"ternary": function})
        assert (outcome.state, words in str(outcome)) == ("crashed", True), outcome


def test_a_function_that_spoils_its_arguments_spoils_no_check():
    def ternary(weight):
        result = quantizers.twn(weight).dense()
        weight.zero_()
        return result

    def share(values):
        pairs = [(a, b) for i, a in enumerate(values) for b in values[:i]]
        values.clear()
        return np.mean([abs(a - b) > 0.02 for a, b in pairs])

    assert judge("1.3", {"ternary": ternary}).state == "right"
    assert judge("6.4", {"share": share}).state == "right"


class Hostile:
    def __getattribute__(self, name):
        raise RuntimeError("no")


class Stranger(Exception):
    def __str__(self):
        raise ValueError


def stranger(*_):
    raise Stranger


COMPLEX, NOWHERE = torch.zeros(6, 6, dtype=torch.complex64), torch.zeros(6, 6, device="meta")
ODD = [
    None, ..., "", "x" * 10**6, [], (1, 2), {}, {1}, b"x", 1j, 10**400, float("inf"), 1e-320, True,
    np.zeros(2), torch.zeros(0), torch.zeros(3).to_sparse(), COMPLEX, NOWHERE, Hostile(), Hostile,
    object(), type, len, iter([1]), torch, (i for i in "ab"), stranger, lambda *a: a,
    lambda *a: a[0], lambda *a: iter(a), lambda *a: "x", lambda *a: COMPLEX, lambda *a: NOWHERE,
    lambda *a: float("nan"), lambda *a: [a[0]] * 2, lambda *a: Hostile()]


@pytest.mark.parametrize("name", EXERCISES)
def test_no_answer_makes_a_check_raise(name, capsys):
    for answer in ODD:
        check(name, **dict.fromkeys(inspect.signature(EXERCISES[name]).parameters, answer))
        line, tally = capsys.readouterr().out.splitlines()
        assert re.match(rf"Exercise {re.escape(name)}: (not |`)", line), line
        assert len(line) < 500
        assert tally == f"Lesson {name[0]}: 0 of {5 if name[0] in '35' else 4} solved."


def test_the_tally_counts_what_is_right_now(capsys):
    for name, given, solved in [
            ("1.4", dict(size=2504), "1 of 4 solved (1.4)."), ("2.3", dict(steps_to_half=7),
            "1 of 4 solved (2.3)."), ("1.2", dict(steps=26), "2 of 4 solved (1.2, 1.4)."),
            ("1.4", dict(size=1), "1 of 4 solved (1.2)."), ("1.2", {}, "0 of 4 solved.")]:
        check(name, **given)
        assert capsys.readouterr().out.splitlines()[1] == f"Lesson {name[0]}: {solved}"


def test_hints_come_one_after_the_other(capsys):
    check("1.2", steps=1)
    assert capsys.readouterr().out.splitlines()[0].endswith('(hints: exercises.hint("1.2"))')
    for _ in range(4):
        hint("1.2")
    lines = capsys.readouterr().out.splitlines()
    assert [line[:12] for line in lines] == [f"Hint {i} of 3:" for i in (1, 2, 3, 1)]
    assert lines[3] == lines[0] != lines[1]


def test_every_exercise_has_hints():
    for name, function in EXERCISES.items():
        steps = answers.HINTS[function.__name__]
        assert len(steps) in (2, 3), name
        assert all(step.isprintable() and step.endswith((".", "?")) for step in steps)


def test_an_unknown_exercise_is_named():
    for name in ("1.9", 1.2, ["1.2"]):
        for function in (check, hint):
            with pytest.raises(ConfigError, match=r"unknown exercise .*1"):
                function(name)


def test_without_the_models_a_share_of_them_is_not_checked(tmp_path, monkeypatch):
    """The file is read beside the lessons; of a package without them, in the working folder."""
    from qlstm.course.exercises import lesson_5

    path = ROOT / "notebooks" / "learn" / "models" / "binary_connect-layer-d128.safetensors"
    right = {"share": 4 * (87 * 128 + 87) / path.stat().st_size}
    assert judge("5.4", right).state == "right"
    monkeypatch.setattr(lesson_5, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert "there is no file models/binary" in judge("5.4", right).message
    monkeypatch.chdir(path.parents[1])
    assert judge("5.4", right).state == "right"
