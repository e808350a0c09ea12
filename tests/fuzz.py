"""Damaged files by the thousand: ``python tests/fuzz.py KIND 2000 [SEED]`` for the kinds
``records`` and ``packed``.

Of each kind of file whole ones are damaged at random, and what reads them is to refuse each in one
line, or to read what stood there before (after a change of white space, say). The exit status is 1
if one is read as something else, or raises anything but a refusal.

records: bytes are changed, or values of the JSON, whose checksums are then made to fit again. A
number is not replaced by another that it could be: that is no damage that anybody can see.

packed: networks in 1 and 2 bits; see ``fuzz_packed.py``.
"""

import contextlib
import copy
import io
import json
import random
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from fuzz_packed import mutants_of_packed

from qlstm.data.storage import ROOT
from qlstm.study import records

MEMORY = 6 * 2**30
"""Bytes of address space that a damaged file may not take more of."""
GOOD = {"refused", "the same as before"}
"""How the reading of a damaged file may end."""
JUNK = [None, True, "", "junk", "\ud800", "x" * 10_000, [], [[]], {}, {"a": 1}, -1, -0.5, 10**400,
        float("nan"), float("inf"), float("-inf")]
"""What is put in the place of a value."""
NULLABLE = {"commit", "alpha", "g", "sigma", "norms", "bounds", "lambda_1", "lambda_2", "training",
            "last_step"}
"""Names of what may be null, or have one where a number left the range of a float."""
FREE = {"environment"}
"""Names of tables whose texts say what they like."""


def main(arguments: list[str]) -> int:
    """Damage files of a kind; the arguments are those of the command line."""
    kind, count = arguments[0], int(arguments[1])
    seed = int(arguments[2]) if len(arguments) > 2 else random.randrange(10**6)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as folder:
        ends = Counter(KINDS[kind](Path(folder), count, seed))
        if kind == "records":
            reports_among_mutants(Path(folder), seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{count} mutants of {kind}, seed {seed}: "
          + ", ".join(f"{n} {what}" for what, n in ends.items()) + f"; at most {peak:.0f} MB")
    return 0 if ends.keys() <= GOOD else 1


def mutants_of_records(folder: Path, count: int, seed: int) -> Iterator[str]:
    """How the reading of each of ``count`` damaged records ends."""
    for k in range(count):
        path, before = mutant_of_record(folder, f"{seed}-{k}")
        outcome, said = _read(folder, before)
        if outcome not in GOOD:
            print(f"mutant {seed}-{k}: {outcome}: {said}")
        path.unlink()
        yield outcome


def mutant_of_record(folder: Path, seed: str) -> tuple[Path, dict]:
    """A damaged record in its place below a ``folder``, and the whole one."""
    rng = random.Random(seed)
    before = json.loads(rng.choice(whole_records()).read_bytes())
    path = folder / "quick" / "runs" / before["run_id"] / "record.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(rng.choice([other_bytes, other_values])(before, rng))
    return path, before


def whole_records() -> list[Path]:
    """The records that are committed."""
    return sorted([*(ROOT / "reports/paper/runs").glob("*/record.json"),
                   *(ROOT / "notebooks/learn/records").glob("*.json")])


def reports_among_mutants(folder: Path, seed: int):
    """Make what is made from records, of whole ones among which there are damaged ones."""
    from qlstm.report import figures, frames, scorecard, tables

    for path in whole_records():
        record = json.loads(path.read_bytes())
        place = folder / "quick" / "runs" / record["run_id"] / "record.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        records.save(record, place)
    for k in range(20):
        mutant_of_record(folder, f"{seed}-{k}")
    with contextlib.redirect_stdout(io.StringIO()):
        found = records.load_all("quick", folder)
    for frame in (frames.frame, frames.gradients, frames.by_epoch):
        frame(found)
    for name in tables.TITLES:
        tables.shown(found, name)
    for name in figures.NAMES:
        if tables.makeable(found, name):
            figures.figure(found, name)
    scorecard.scorecard(found, "quick")
    print(f"reports of {len(found)} whole records beside the damaged ones: made")


def _read(folder: Path, before: dict) -> tuple[str, str]:
    """What becomes of the one record in a folder."""
    records.SAID.clear()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            found = records.load_all("quick", folder)
        except Exception as error:
            return f"raised {type(error).__name__}", str(error)[:300]
    lines = said.getvalue().splitlines()
    if not found:
        one = len(lines) == 1 and "record.json: " in lines[0] and len(lines[0]) < 1000
        return "refused" if one else "refused in other words", said.getvalue()[:1000]
    same = json.dumps(found[-1], sort_keys=True) == json.dumps(before, sort_keys=True)
    return "the same as before" if same and not lines else "accepted", said.getvalue()[:1000]


def other_bytes(record: dict, rng: random.Random) -> bytes:
    """The file of a ``record`` with some bytes changed."""
    content = bytearray(json.dumps(record).encode())
    for _ in range(rng.choice([1, 1, 1, 2, 5, 50])):
        at = rng.randrange(len(content) + 1)
        to = min(len(content), at + rng.choice([1, 2, 10, 1000]))
        piece = rng.choice([b"", b" ", b"\n\t", b"NaN", b"1e999", b"\xff", b"\0", b"null", b",",
                            b"}", b"[" * 100_000, b"9" * 5000, rng.randbytes(3),
                            content[at:to] * 2])
        content[at:at if rng.random() < 0.5 else to] = piece
    whole = rng.choice([bytes(content)] * 12 + [
        content[:rng.randrange(len(content))], b"\xef\xbb\xbf" + content, b"", content + content,
        content.decode("latin-1").encode("utf-16")])
    return bytes(whole)


def other_values(record: dict, rng: random.Random) -> bytes:
    """The file of a ``record`` with a value of another kind or out of range, and checksums that
    fit."""
    while True:
        mutant = copy.deepcopy(record)
        place, key, names = _somewhere(mutant, rng)
        value = place[key]
        how = rng.choice(["junk", "junk", "junk", "lose", "add", "wrap", "deep"])
        if how == "junk":
            place[key] = rng.choice(JUNK)
            if _plausible(value, place[key], names):
                continue
        elif how == "lose" and names[-1:] != ["epochs"]:
            del place[key]
        elif how == "add" and isinstance(place, list):
            place.insert(key, copy.deepcopy(value))
        elif how == "add":
            place[f"{key}_2"] = value
        elif how == "deep":
            for _ in range(900):
                value = [value]
            place[key] = value
        else:
            place[key] = rng.choice([[value], {"value": value}, str(value)])
            if _plausible(value, place[key], names):
                continue
        with contextlib.suppress(TypeError, KeyError, ValueError, UnicodeError):
            text = json.dumps(mutant["config"], sort_keys=True).encode()
            mutant["config_sha256"] = records.hashlib.sha256(text).hexdigest()
        rest = {name: value for name, value in mutant.items() if name != "checksum"}
        text = json.dumps(rest, sort_keys=True).encode()
        mutant["checksum"] = records.hashlib.sha256(text).hexdigest()
        if mutant != record:
            return json.dumps(mutant).encode()


def _somewhere(tree: dict, rng: random.Random):
    """A place in a tree: what it is in, its key, and the names on the way to it."""
    place, key, names = tree, rng.choice(list(tree)), []
    while True:
        names.append(key)
        inside = place[key]
        if not isinstance(inside, dict | list) or not inside or rng.random() < 0.2:
            return place, key, [name for name in names if isinstance(name, str)]
        place, key = inside, rng.choice(
            list(inside) if isinstance(inside, dict) else range(len(inside)))


def _plausible(old, new, names: list[str]) -> bool:
    """Whether a record could as well have the new value."""
    if new is None and set(names[-2:]) & NULLABLE:
        return True
    return isinstance(old, str) and isinstance(new, str) and bool(FREE & set(names)) and new


KINDS: dict[str, Callable] = {"records": mutants_of_records, "packed": mutants_of_packed}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
