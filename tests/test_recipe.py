"""The golden test: small networks of every kind, trained, give the numbers that were stored.

After a change that means to give other numbers: append an entry to ``CHANGES`` of
``qlstm/study/recipe.py`` that names the runs it touches, then ``python tests/test_recipe.py``
stores the new ones. It refuses numbers that move without a new recipe.
"""

import contextlib
import hashlib
import inspect
import itertools
import json
import math
import platform
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from tolerances import TOLERANCES

from qlstm import ExperimentConfig, run
from qlstm.recurrence import extension
from qlstm.study import training
from qlstm.study.recipe import CHANGES, recipe

STORED = Path(__file__).with_name("golden.json")
TEXT = dict(hidden_size=12, steps=10, batch_size=4, epochs=13, max_train=124)
WORDS = dict(task="word_lm", hidden_size=12, steps=10, batch_size=4, epochs=6, max_train=204)
IMAGES = dict(dataset="digits", hidden_size=8, batch_size=20, epochs=3, max_train=200)
"""Three updates an epoch, so that the rate falls after the eleventh; five an epoch; ten an
epoch."""
VOCABULARY = ["the", "a", "of", "and", "net", "gate", "cell", "state", "weight", "norm", "loss",
              "grows", "falls"]
CALM = dict(learning_rate=1.0, epochs=4)
"""For words with batch normalization, which with the usual rate of 20 amplify the last bits of a
sum to 2 % in 30 updates."""

CASES = [
    *[(TEXT, dict(quantizer="binary_connect", normalizer=n))
      for n in ("none", "weight", "layer", "batch_shared", "batch_separate")],
    *[(TEXT, dict(quantizer=q))
      for q in ("full_precision", "bwn", "lab", "ter_connect", "twn", "lat", "alternating")],
    (TEXT, dict(normalizer="layer", decay="latent")),
    (TEXT, dict(biases=2)),
    (TEXT, dict(quantizer="lab", normalizer="weight", decay="latent", carry_state=False)),
    (TEXT, dict(quantizer="ter_connect", normalizer="batch_shared", num_layers=2)),
    (TEXT, dict(quantizer="twn", normalizer="layer", cell="gru")),
    *[(TEXT, dict(quantizer=q, normalizer="batch_separate", epochs=3)) for q in ("sbn", "stn")],
    *[(WORDS, dict(quantizer=q))
      for q in ("full_precision", "binary_connect", "lat", "alternating")],
    (WORDS, dict(quantizer="binary_connect", normalizer="weight")),
    (WORDS, dict(quantizer="ter_connect", normalizer="layer", min_learning_rate=2.0)),
    (WORDS, dict(quantizer="lab", normalizer="batch_shared", num_layers=2)),
    (WORDS, dict(quantizer="ter_connect", normalizer="batch_separate", decay="latent") | CALM),
    (WORDS, dict(biases=2)),
    *[(WORDS, dict(quantizer=q, normalizer="batch_separate") | CALM) for q in ("sbn", "stn")],
    *[(IMAGES, dict(quantizer="binary_connect", normalizer=n))
      for n in ("none", "weight", "layer", "batch_shared", "batch_separate")],
    (IMAGES, dict()),
    (IMAGES, dict(quantizer="lab", normalizer="layer")),
    (IMAGES, dict(quantizer="twn", normalizer="weight", permuted=True)),
    (IMAGES, dict(quantizer="lat", cell="gru")),
    *[(IMAGES, dict(quantizer=q, normalizer="batch_separate")) for q in ("sbn", "stn")],
]


def name_of(case) -> str:
    return "-".join(str(value) for settings in case for value in settings.values())


def machine() -> dict[str, str]:
    """What the last bits of a sum depend on."""
    processor = hashlib.sha256(extension.processor().encode()).hexdigest()[:16]
    instructions = torch.backends.cpu.get_cpu_capability()
    return {"processor": processor, "instructions": instructions, "torch": torch.__version__,
            "system": platform.system()}


def configuration(case, folder: Path) -> ExperimentConfig:
    """A case's settings; texts are one that is written into the folder, the same on every
    machine."""
    sizes, settings = case
    if sizes is not IMAGES:
        state, chosen = 1, []
        for _ in range(1600):  # a linear congruential generator
            state = (1103515245 * state + 12345) % 2**31
            chosen.append(VOCABULARY[(state >> 16) % len(VOCABULARY)])
        path = folder / "text.txt"
        path.write_text(" ".join(chosen) + "\n", encoding="utf-8")
        sizes = sizes | {"dataset": str(path)}
    return ExperimentConfig(profile="paper", **sizes | settings)


class Stopped(Exception):
    pass


@contextlib.contextmanager
def exactly():
    """In float64, in which no code changes with the order of a sum, and one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)


def losses(
    case, folder: Path, *, stop_after: int | None = None, backend: str = "naive"
) -> list[float]:
    """Training and validation loss of each epoch and the test metric; broken off after an epoch and
    taken up again.

    Infinite where training diverged.
    """
    config = configuration(case, folder)

    def report(line):
        if stop_after is not None and line.startswith(f"epoch {stop_after}/"):
            raise Stopped

    with exactly():
        if stop_after is not None:
            with pytest.raises(Stopped):
                run(config, folder / "run", device="cpu", backend=backend, report=report)
        record = run(
            config, folder / "run", device="cpu", backend=backend, report=lambda line: None)
    names = ("train_loss", "valid_loss")
    per_epoch = [line.get(name, math.inf) for line in record["epochs"][1:] for name in names]
    return [*per_epoch, math.inf if record["diverged"] else record["test_metric"]]


def moved(name: str, found: list[float], stored: dict, *, exact: bool) -> str:
    """What to say and do if the losses of a case are not the stored ones; empty if they are."""
    expected = stored["cases"][name]["losses"]
    tolerance = 0.0 if exact else TOLERANCES["golden"]["rtol"]
    pairs = enumerate(itertools.zip_longest(found, expected))
    wrong = [
        (k, a, b) for k, (a, b) in pairs if None in (a, b) or not abs(a - b) <= tolerance * abs(b)]
    if not wrong:
        return ""
    k, a, b = wrong[0]
    return (
        f"{name}: training gives other numbers than before, first in epoch {k // 2 + 1}: {a!r} in "
        f"place of {b!r}. If that is a mistake, mend it. If it is meant, append to CHANGES in "
        "qlstm/study/recipe.py what is other and which runs it touches (their records are outdated "
        "by it), then store the new numbers: python tests/test_recipe.py"
    )


@pytest.fixture(scope="module")
def stored():
    return json.loads(STORED.read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_training_gives_the_stored_numbers(case, tmp_path, stored):
    exact = stored["machine"] == machine()
    found = losses(case, tmp_path, stop_after=2)
    message = moved(name_of(case), found, stored, exact=exact)
    assert not message, message


def test_the_stored_numbers_are_of_todays_recipes(tmp_path, stored):
    for case in CASES:
        now = recipe(configuration(case, tmp_path).as_dict())
        assert stored["cases"][name_of(case)]["recipe"] == now, (
            "python tests/test_recipe.py stores the numbers anew")
    assert len(stored["cases"]) == len(CASES)


MUTATIONS = {
    "the gradient is not clipped": ("if clip_norm:", "if False:"),
    "Adam's second moment stays unknown": ("model.rnn.set_second_moment(",
                                           "(lambda moments: None)("),
    "the state is not carried": ("if carry_state and state", "if not carry_state and state"),
    "the last sample is left out": (
        "F.cross_entropy(logits.flatten(0, -2), targets.flatten())",
        "F.cross_entropy(logits[..., :-1, :].flatten(0, -2), targets[..., :-1].flatten())"),
}
SHOWING = [(WORDS, dict(quantizer="binary_connect", normalizer="weight")),
           (TEXT, dict(quantizer="lab"))]


def changed(monkeypatch, *replacements, before=""):
    """Put ``qlstm.study.training.update`` in the place of itself, its source changed, as of another
    file."""
    source = inspect.getsource(training.update)
    for old, new in replacements:
        assert old in source
        source = source.replace(old, new)
    namespace = dict(vars(training))
    exec(compile(before + source, "elsewhere.py", "exec"), namespace)
    monkeypatch.setattr(training, "update", namespace["update"])


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_change_of_the_update_is_noticed(mutation, tmp_path, stored, monkeypatch):
    changed(monkeypatch, MUTATIONS[mutation])
    messages = []
    for number, case in enumerate(SHOWING):
        folder = tmp_path / str(number)
        folder.mkdir()
        messages.append(moved(name_of(case), losses(case, folder), stored, exact=False))
    assert any(messages)
    assert "append to CHANGES" in max(messages)


def test_a_comment_an_import_and_another_file_are_not(tmp_path, stored, monkeypatch):
    comment = ("    optimizer.step()\n", "    optimizer.step()  # the update itself\n")
    changed(monkeypatch, comment, before="import decimal\n\n\n")
    case = SHOWING[0]
    exact = stored["machine"] == machine()
    assert moved(name_of(case), losses(case, tmp_path), stored, exact=exact) == ""


def test_recipes_have_rising_numbers_and_a_reason():
    assert [change.number for change in CHANGES] == list(range(1, len(CHANGES) + 1))
    assert all(len(change.what) > 10 for change in CHANGES)


def store() -> str:
    """Store the numbers of all cases. Returns what is wrong: numbers that move although their
    recipe does not."""
    before = (json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists()
              else {"cases": {}, "machine": {}})
    cases, wrong = {}, []
    for case in CASES:
        name = name_of(case)
        with tempfile.TemporaryDirectory() as folder:
            number = recipe(configuration(case, Path(folder)).as_dict())
            found = losses(case, Path(folder))
        if before["cases"].get(name, {}).get("recipe") == number:
            message = moved(name, found, before, exact=before["machine"] == machine())
            wrong += [message] if message else []
        cases[name] = {"recipe": number, "losses": found}
    if not wrong:
        lines = ",\n".join(
            f"  {json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items())
        STORED.write_text(
            f'{{"machine": {json.dumps(machine())}, "cases": {{\n{lines}\n}}}}\n', encoding="utf-8")
    return "\n".join(wrong)


if __name__ == "__main__":
    sys.exit(store())
