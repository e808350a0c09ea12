"""Data: where a file comes from, what is checked, how a text becomes ids and minibatches."""

import gzip
import hashlib
import io
import os
import platform
import pydoc_data.topics
import re
import socket
import sys
import tarfile
import threading
import tracemalloc
import warnings
import zipfile
from collections import Counter
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qlstm import data
from qlstm.data import CATALOGUE, DataError, Entry, File, images, load_dataset, reading, storage
from qlstm.data import text as texts
from qlstm.study import records

TEXT = (
    b"\xef\xbb\xbfPrince Vasili,\r\n\xc3\xa9 " * 60
)  # a byte order mark, CR LF, a letter of two bytes
MIRROR = os.environ.get("QLSTM_MIRROR")
real_data = pytest.mark.skipif(not MIRROR, reason="QLSTM_MIRROR names no folder with the real data")


@pytest.fixture(autouse=True)
def raw(tmp_path, monkeypatch):
    """An empty data/raw, no mirror, no proxy."""
    monkeypatch.setenv("QLSTM_DATA", str(tmp_path / "raw"))
    monkeypatch.delenv("QLSTM_MIRROR", raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    return tmp_path / "raw"


@pytest.fixture
def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def server(tmp_path):
    """A folder, the address that serves it, and the paths asked for."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder, f"http://127.0.0.1:{web.server_port}", asked
    web.shutdown()
    web.server_close()
    thread.join()


@pytest.fixture
def entry(monkeypatch):
    """Enter the small data set ``novel`` with the given addresses in the catalogue."""

    def enter(*urls, content=TEXT, **changes):
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        file = File("novel.txt", len(content), digest, "novels", urls)
        read = partial(reading.bytes_as_symbols, train=0.8, valid=0.1)
        monkeypatch.setitem(CATALOGUE, "novel", Entry("A Novel", (replace(file, **changes),), read))

    return enter


def whole(dataset) -> bytes:
    return dataset.decode(torch.cat([dataset.train, dataset.valid, dataset.test])).encode("latin-1")


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


PIXELS = np.random.default_rng(0).integers(0, 256, (9, 3, 4))
LABELS = np.arange(9) % 10
IDX = {"train-images": idx(PIXELS[:7]), "train-labels": idx(LABELS[:7]),
       "t10k-images": idx(PIXELS[7:]), "t10k-labels": idx(LABELS[7:])}


@pytest.fixture
def small_mnist(monkeypatch, closed_port):
    """Replace MNIST by four images to train on, three to validate, two to test; 3 x 4 pixels."""
    files = tuple(
        File(name, len(content), f"sha256:{hashlib.sha256(content).hexdigest()}", "mnist",
             (f"{closed_port}/{name}",))
        for name, content in IDX.items()
    )
    read = partial(images.read_mnist, valid=3)
    monkeypatch.setitem(
        CATALOGUE, "mnist",
        replace(CATALOGUE["mnist"], files=files, read=read, counts=(4, 3, 2), steps=12))


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_bytes_are_symbols_and_nothing_is_translated(entry, raw):
    entry()
    path = put(raw / "novel.txt", TEXT)
    novel = load_dataset("novel")
    assert whole(novel) == TEXT
    assert novel.vocabulary == tuple(sorted(map(chr, set(TEXT))))
    assert {"\r", "\n", "\xef", "\xbb", "\xbf", "\xc3", "\xa9"} <= set(novel.vocabulary)
    assert novel.sha256 == hashlib.sha256(TEXT).hexdigest()
    assert novel.train.dtype == torch.uint8
    n = len(TEXT)
    assert [len(novel.train), len(novel.valid)] == [int(0.8 * n), int(0.1 * n)]
    assert novel.source == str(path)
    assert not novel.reduced
    assert data.title("novel") == "A Novel"
    assert data.vocabulary_size("novel") == len(set(TEXT))


def test_words_become_characters():
    lines = b" no it was n't \n the <unk> N \n"
    assert reading.words_to_characters([lines]) == ["no_it_was_n't\nthe_<unk>_N\n"]


def test_words_are_what_white_space_separates():
    assert reading.words_prepared([b" no it was n't \n the\t<unk>  N \n", b"\nend"]) == [
        "no it was n't <eos> the <unk> N <eos>", "<eos> end"]


@pytest.mark.parametrize(
    ("text", "words"),
    [("", ""), (" \n\t\n", ""), ("One two", "one two <eos>"),
     ("\r\nOne\r\n\r\ntwo\rthree", "one <eos> two <eos> three <eos>"),
     ("It's 1.5e3, x_1!", "it ' s 1 . 5e3 , x_1 ! <eos>"), ("ÉTÉ «Жук»", "été « жук » <eos>"),
     ("a\n---\n----\n=-=-", "a <eos> - - - <eos> - <eos> = - = - <eos>"),
     ("<unk><UNK> <eos>", "<unk> <unk> < eos > <eos>"),
     # Hindi, French with accents apart, Arabic and Hebrew with vowels, a joiner within a word
     ("हिन्दी में।", "हिन्दी में । <eos>"), ("L'e\u0301te\u0301!", "l ' e\u0301te\u0301 ! <eos>"),
     ("العَرَبِيَّة שָׁלוֹם", "العَرَبِيَّة שָׁלוֹם <eos>"), ("क्\u200dष می\u200cروم", "क्\u200dष می\u200cروم <eos>"),
     # emoji: a family, a tone of skin, a keycap, flags; a stroke through a sign
     ("a👩\u200d👧👍🏽1\ufe0f\u20e3 🇫🇷🇩🇪", "a 👩\u200d👧 👍🏽 1\ufe0f\u20e3 🇫🇷 🇩🇪 <eos>"),
     ("x=\u0338y \u0301", "x =\u0338 y \u0301 <eos>"),
     # what is not seen; scripts without white space between words
     ("\ufeffco\xadop \u200eb\u200ba", "coop b a <eos>"), ("中文，好 ที่", "中 文 ， 好 ที่ <eos>")],
)
def test_tokens(text, words):
    assert reading.tokens(text) == words.split()


def test_rare_words_are_counted_in_the_training_part_only():
    words = ["twice", "once", *["a"] * 13, "twice", "once", "new", "new", "twice"]  # 16 / 2 / 2
    train = " ".join(["twice", "<unk>", *["a"] * 13, "twice"])
    assert reading.rare_words_replaced(words) == [train, "<unk> <unk>", "<unk> twice"]


def test_counts_that_differ_from_the_catalogue(entry, raw, monkeypatch):
    entry()
    put(raw / "novel.txt", TEXT)
    monkeypatch.setitem(CATALOGUE, "novel", replace(CATALOGUE["novel"], vocabulary_size=87))
    assert data.vocabulary_size("novel") == 87  # without loading
    with pytest.raises(DataError, match="instead of None of 87"):
        load_dataset("novel")


@settings(deadline=None)
@given(st.text(min_size=1), st.data())
def test_encode_decode(text, draw):
    dataset = texts.text_dataset("t", reading.cut(text, 0.8, 0.1), "utf-8", True, "")
    some = draw.draw(st.text(st.sampled_from(text)))
    assert dataset.decode(dataset.encode(some)) == some
    assert dataset.encode(some).dtype == dataset.train.dtype
    assert dataset.decode(torch.cat([dataset.train, dataset.valid, dataset.test])) == text


def test_encode_more_than_256_symbols():
    # the last has more ids than there are code points below the surrogates
    for n, dtype in ((256, torch.uint8), (257, torch.int32), (0x10000, torch.int32)):
        text = "".join(map(chr, range(0xE000, 0xE000 + n)))
        ids = texts.encode(text, tuple(text))
        assert torch.equal(ids, torch.arange(len(text), dtype=dtype))


def test_encode_unknown_symbol():
    with pytest.raises(DataError, match="'\u0416' is not among the"):
        load_dataset("python_help").encode("an object \u0416")


WORDS = st.lists(st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1), min_size=1)


@settings(deadline=None)
@given(WORDS, st.data())
def test_encode_decode_words(words, draw):
    parts = [" ".join(part) for part in reading.cut(words, 0.8, 0.1) if part]
    parts += [""] * (3 - len(parts))
    dataset = texts.text_dataset("t", parts, "utf-8", True, "", "word")
    assert dataset.vocabulary == tuple(sorted(set(words)))
    some = draw.draw(st.lists(st.sampled_from(words)))
    assert dataset.decode(dataset.encode(" ".join(some))) == " ".join(some)
    assert dataset.encode(" ".join(some)).dtype == dataset.train.dtype == torch.int32
    assert dataset.decode(torch.cat([dataset.train, dataset.valid, dataset.test])) == " ".join(
        words)


def test_encode_unknown_word():
    dataset = texts.text_dataset("t", ["a b a", "b", "a"], "utf-8", True, "", "word")
    assert dataset.encode("\n b\u2003a  b\r\n").tolist() == [1, 0, 1]
    assert len(dataset.encode("")) == 0
    with pytest.raises(DataError, match="'B' is not among the 2 symbols"):
        dataset.encode("a B")
    dataset = texts.text_dataset("t", ["! <unk>", "b", "a"], "utf-8", True, "", "word")
    assert dataset.decode(dataset.encode("! B b C")) == "! <unk> b <unk>"
    assert dataset.sha256 == hashlib.sha256(b"! <unk> b a").hexdigest()


def test_characters_spell_unknown():
    """Only words may be unknown: "<unk>" in a text of characters is five symbols."""
    dataset = texts.text_dataset("t", ["<unk>", "a", "b"], "utf-8", True, "")
    with pytest.raises(DataError, match="'x' is not among the 7 symbols"):
        dataset.encode("ax")


def test_python_help_is_deterministic_and_needs_no_file(raw, monkeypatch):
    text = load_dataset("python_help")
    assert text.reduced
    assert text.source == f"pydoc_data.topics of Python {platform.python_version()}"
    assert len(text.train) > 200_000
    assert data.vocabulary_size("python_help") == text.vocabulary_size
    assert not raw.exists()
    topics = pydoc_data.topics.topics
    monkeypatch.setattr(pydoc_data.topics, "topics", dict(reversed(topics.items())))
    assert load_dataset("python_help").sha256 == text.sha256


def test_python_help_words(raw, monkeypatch):
    text = load_dataset("python_help_words")
    assert (text.reduced, text.unit) == (True, "word")
    assert text.source == f"pydoc_data.topics of Python {platform.python_version()}"
    assert not raw.exists()
    counts = Counter(text.decode(text.train).split())
    assert 1_000 < text.vocabulary_size < 5_000
    assert set(counts) == set(text.vocabulary) >= {"<unk>", "<eos>", "object", "."}
    assert min(counts.values()) == reading.LEAST_OCCURRENCES
    assert 0 < counts["<unk>"] < 0.02 * len(text.train)
    n = len(text.train) + len(text.valid) + len(text.test)
    assert (len(text.train), len(text.valid)) == (int(0.8 * n), int(0.1 * n))
    assert (
        text.sha256
        == hashlib.sha256(
            " ".join(text.decode(part) for part in (text.train, text.valid, text.test)).encode()
        ).hexdigest()
    )
    assert data.vocabulary_size("python_help_words") == text.vocabulary_size
    topics = pydoc_data.topics.topics
    monkeypatch.setattr(pydoc_data.topics, "topics", dict(reversed(topics.items())))
    assert load_dataset("python_help_words").sha256 == text.sha256


def test_known_sizes_titles_and_tasks_without_loading(raw):
    names = ["war_and_peace", "penn_char", "text8", "text8_prefix", "penn_word"]
    assert [data.vocabulary_size(name) for name in names] == [87, 50, 27, 27, 10_000]
    assert data.vocabulary_size("penn_word", task="word_lm") == 10_000
    assert data.title("war_and_peace") == "War and Peace"
    assert {name: data.task_of(name) for name in CATALOGUE} == dict.fromkeys(
        ["war_and_peace", "penn_char", "text8", "text8_prefix", "python_help"], "char_lm"
    ) | {"penn_word": "word_lm", "python_help_words": "word_lm"} | dict.fromkeys(
        ["mnist", "digits"], "sequential_image")
    assert {name: data.steps_of(name) for name in CATALOGUE if data.steps_of(name)} == {
        "mnist": 784, "digits": 64}
    assert not raw.exists()


def test_task_of_and_steps_of_a_path(tmp_path):
    path = str(put(tmp_path / "text", TEXT))
    assert data.task_of(path) is data.steps_of(path) is None


@real_data
def test_war_and_peace(monkeypatch):
    monkeypatch.setenv("QLSTM_MIRROR", MIRROR)
    text = load_dataset("war_and_peace")
    assert [len(part) for part in (text.train, text.valid, text.test)] == [
        2_606_596, 325_824, 325_826]
    assert [len(part.unique()) for part in (text.train, text.valid, text.test)] == [85, 77, 76]
    assert text.vocabulary_size == 87
    assert text.decode(text.train[:3]) == "\xef\xbb\xbf"
    assert text.decode(text.test[-10:]) == "conscious."
    assert text.sha256 == "fb66ba999dafe24017cdd59e04c56d385a9c8466993d374fd4c6f08b2142985e"


@real_data
def test_penn_char_equals_the_official_character_files(monkeypatch):
    monkeypatch.setenv("QLSTM_MIRROR", MIRROR)
    text = load_dataset("penn_char")
    parts = (text.train, text.valid, text.test)
    assert [len(part) for part in parts] == [5_017_482, 393_042, 442_423]
    assert [len(part.unique()) for part in parts] == [50, 50, 48]
    # ptb.char.{train,valid,test}.txt hold each symbol and a space
    official = [hashlib.sha256(" ".join(text.decode(part) + "$").encode()[:-1]).hexdigest()
                for part in parts]
    assert official == ["e313d91425e06c4f0a8fb6e881dcce0c291f2a0e9f4dda54833069b122f91da9",
                        "21661f63ec355085879458b6524644d4add5573541b4be14fb52ab2e2e995eb8",
                        "1ef5607ac3c463b16e38bfe7900dd3bfc91de5a96e0f21e7eab5188b465b8ebe"]


@real_data
def test_penn_word(monkeypatch):
    monkeypatch.setenv("QLSTM_MIRROR", MIRROR)
    text = load_dataset("penn_word", task="word_lm")
    parts = (text.train, text.valid, text.test)
    assert [len(part) for part in parts] == [929_589, 73_760, 82_430]
    assert [len(part.unique()) for part in parts] == [10_000, 6_022, 6_049]
    assert [text.decode(part).split().count("<eos>") for part in parts] == [42_068, 3_370, 3_761]
    assert (text.vocabulary_size, text.unit, text.reduced) == (10_000, "word", False)
    assert text.decode(text.train[:3]) == "aer banknote berlitz"
    assert (
        text.sha256 == "d3191392a220cc2926697b73b529521299578d580ba18763fc725cf314c89b7b"
    )  # by awk
    assert text.decode(text.encode("the Wall street")) == "the <unk> street"


@real_data
def test_mnist(monkeypatch):
    monkeypatch.setenv("QLSTM_MIRROR", MIRROR)
    digits = load_dataset("mnist")
    parts = (digits.train, digits.valid, digits.test)
    assert [tuple(pixels.shape) for pixels, _ in parts] == [(50_000, 784), (10_000, 784),
                                                            (10_000, 784)]
    assert (digits.steps, digits.classes, digits.levels, digits.reduced) == (784, 10, 255, False)
    pixels = torch.cat([digits.train[0], digits.valid[0]]) / 255
    assert (round(pixels.mean().item(), 4), round(pixels.std().item(), 4)) == (0.1307, 0.3081)
    assert digits.train[1][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert digits.test[1][:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert digits.test[1].bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974,
                                                  1009]


@real_data
def test_text8_prefix(monkeypatch):
    monkeypatch.setenv("QLSTM_MIRROR", MIRROR)
    text = load_dataset("text8_prefix")
    assert [len(part) for part in (text.train, text.valid, text.test)] == [620_472, 34_470, 34_472]
    assert text.vocabulary == (" ", *"abcdefghijklmnopqrstuvwxyz")
    assert text.reduced
    assert text.decode(text.train[:10]) == " anarchism"


@pytest.mark.parametrize(
    "place", ["novels/novel.txt", "novels/novel.txt.gz", "novel.txt", "novel.txt.gz"])
@pytest.mark.parametrize("kind", ["folder", "file", "http"])
def test_mirror(entry, raw, server, monkeypatch, closed_port, place, kind):
    folder, address, _ = server
    entry(f"{closed_port}/novel.txt")
    put(folder / place, gzip.compress(TEXT) if place.endswith(".gz") else TEXT)
    mirrors = {"folder": str(folder), "file": folder.as_uri(), "http": address + "/"}
    monkeypatch.setenv("QLSTM_MIRROR", mirrors[kind])
    novel = load_dataset("novel")
    assert whole(novel) == TEXT
    if kind == "http":
        assert novel.source == f"{address}/{place}"
        assert (raw / "novel.txt").read_bytes() == TEXT
    else:
        assert novel.source == str(folder / place)
        assert not raw.exists()


@pytest.mark.parametrize("kind", ["folder", "http"])
def test_mirror_replaces_the_network(entry, tmp_path, server, monkeypatch, kind):
    folder, address, asked = server
    put(folder / "elsewhere" / "novel.txt", TEXT)
    entry(f"{address}/elsewhere/novel.txt")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("QLSTM_MIRROR", str(empty) if kind == "folder" else address)
    with pytest.raises(
            DataError, match=re.escape(f"not in {empty}") if kind == "folder" else "HTTP 404"):
        load_dataset("novel")
    assert "/elsewhere/novel.txt" not in asked


def test_mirror_that_is_no_folder(entry, monkeypatch):
    entry()
    monkeypatch.setenv("QLSTM_MIRROR", "/no/such/folder")
    with pytest.raises(DataError, match="QLSTM_MIRROR=/no/such/folder is neither"):
        load_dataset("novel")


@pytest.mark.parametrize("mirror", ["none", "folder", "http"])
def test_hand_placed_file_comes_first(entry, raw, server, monkeypatch, mirror):
    folder, address, asked = server
    put(folder / "novel.txt", TEXT)
    entry(f"{address}/novel.txt")
    put(raw / "novel.txt.gz", gzip.compress(TEXT))
    monkeypatch.setenv("QLSTM_MIRROR", {"none": "", "folder": str(folder), "http": address}[mirror])
    assert load_dataset("novel").source == str(raw / "novel.txt.gz")
    assert not asked


def test_download_is_kept(entry, raw, server):
    folder, address, asked = server
    put(folder / "novel.txt", TEXT)
    entry(f"{address}/novel.txt")
    assert load_dataset("novel").source == f"{address}/novel.txt"
    assert load_dataset("novel").source == str(raw / "novel.txt")
    assert len(asked) == 1
    assert [path.name for path in raw.iterdir()] == ["novel.txt"]


def test_zip_is_unpacked(entry, raw, server):
    folder, address, _ = server
    with zipfile.ZipFile(folder / "novel.zip", "w") as archive:
        archive.writestr("novel.txt", TEXT)
    entry(f"{address}/novel.zip", digest=f"sha1:{hashlib.sha1(TEXT).hexdigest()}")
    assert whole(load_dataset("novel")) == TEXT
    assert (raw / "novel.txt").read_bytes() == TEXT


def zipped(*members: tuple[str, bytes], method=zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return packed.getvalue()


def encrypted(packed: bytes) -> bytes:
    """A zip that says so of its member."""
    where = packed.index(b"PK\x01\x02")
    return b"PK\x03\x04\x14\0\1" + packed[7 : where + 8] + b"\1" + packed[where + 9 :]


def tarred(mode: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        archive.addfile(member := tarfile.TarInfo("novel.txt"), io.BytesIO(TEXT))
        member.size = len(TEXT)
    return packed.getvalue()


OTHER = TEXT.swapcase()
RIGHT = {
    "folder first": zipped(("novels/", b""), ("novels/novel.txt", TEXT)),
    "readme first": zipped(("README", b"about"), ("novel.txt", TEXT)),
    "apple": zipped(("__MACOSX/._novel.txt", b"\0"), ("novel.txt", TEXT),
                    ("__MACOSX/novel.txt", OTHER)),
    "two of the name": zipped(("novel.txt", OTHER), ("novel.txt", TEXT), ("a/novel.txt", OTHER)),
    "another name": zipped(("Roman.txt", TEXT)),
    "odd names": zipped(("../\u0928\x1b\n", b"1"), ("n", TEXT)),
    "gz parts": gzip.compress(TEXT[:99]) + gzip.compress(TEXT[99:]),
    "gz and more": gzip.compress(TEXT) + b"garbage",
    "gz and zeros": gzip.compress(TEXT) + bytes(512),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_the_file_is_found_in_an_archive(entry, raw, kind):
    entry()
    put(raw / "novel.txt.zip", RIGHT[kind])
    assert whole(load_dataset("novel")) == TEXT


WRONG = {
    "empty": (zipped(), "a zip of 0 files"),
    "others": (zipped(("novel.txt", TEXT[:-1]), ("a/", b"")), "a zip of 1 files, in which none"),
    "altered": (zipped(("novel.txt", OTHER)), "bytes with sha256"),
    "cut": (zipped(("novel.txt", TEXT))[:-9], "damaged archive (File is not a zip file)"),
    "lzma": (zipped(("novel.txt", TEXT), method=zipfile.ZIP_LZMA), "stored or deflated"),
    "encrypted": (encrypted(zipped(("novel.txt", TEXT))), "is encrypted, password required"),
    "tar": (tarred("w"), "a tar archive, which is not unpacked here: take novel.txt out of it"),
    "tar.gz": (tarred("w:gz"), "a tar archive"),
    "gz of more": (gzip.compress(TEXT * 9), "bytes or more with sha256"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_an_archive_without_the_file(entry, raw, kind):
    content, reason = WRONG[kind]
    entry()
    put(raw / "novel.txt", content)
    with pytest.raises(DataError, match=re.escape(reason)) as error:
        load_dataset("novel")
    assert len(str(error.value).splitlines()) == 1


def test_damaged_archives_take_one_line(entry, raw):
    """Bytes of zips and gzips of all kinds changed: read right all the same, or one line."""
    entry()
    random, lines = np.random.default_rng(0), []
    sources = [*RIGHT.values(), *(content for content, _ in WRONG.values()),
               zipped(("é" * 30_000, b""), ("novel.txt", TEXT))]
    for i in range(400):
        content = bytearray(sources[i % len(sources)])
        for _ in range(random.integers(1, 4)):
            content[random.integers(len(content))] = random.integers(256)
        put(raw / "novel.txt", content)
        try:
            assert whole(load_dataset("novel")) == TEXT
        except DataError as error:
            lines.append(str(error).removeprefix(str(raw)))
    assert len(lines) > 200
    assert all(line.isprintable() and len(line) < 350 for line in lines)


@pytest.mark.parametrize("kind", ["gz", "zip", "a zip that lies"])
def test_an_archive_of_much_takes_little_memory(entry, raw, kind):
    entry()
    much = bytes(10**7)
    packed = gzip.compress(much, 1) if kind == "gz" else zipped(("novel.txt", much))
    if kind == "a zip that lies":
        packed = packed.replace(len(much).to_bytes(4, "little"), len(TEXT).to_bytes(4, "little"))
    put(raw / "novel.txt", packed)
    tracemalloc.start()
    with pytest.raises(DataError, match="truncated or altered"):
        load_dataset("novel")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(packed) + 10**6


def test_a_download_goes_where_a_link_leads(entry, raw, server):
    folder, address, asked = server
    put(folder / "novel.txt", TEXT)
    entry(f"{address}/novel.txt")
    raw.mkdir()
    (raw / "novel.txt").symlink_to("../large.txt")
    load_dataset("novel")
    assert (raw.parent / "large.txt").read_bytes() == TEXT
    assert [path.is_symlink() for path in raw.iterdir()] == [True]
    asked.clear()
    (raw / "novel.txt").unlink()
    os.mkfifo(raw / "novel.txt")
    with pytest.raises(DataError, match=f"cannot write to {re.escape(str(raw))}: a device or pipe"):
        load_dataset("novel")
    assert not asked


@pytest.mark.parametrize("first", ["refused", "404", "altered", "damaged"])
def test_second_address(entry, server, closed_port, first):
    folder, address, _ = server
    put(folder / "novel.txt", TEXT)
    put(folder / "altered", b"<html>Sign in to the library's network</html>")
    put(folder / "damaged", gzip.compress(TEXT)[:-20])
    entry(f"{closed_port}/novel.txt" if first == "refused" else f"{address}/{first}",
          f"{address}/novel.txt")
    assert load_dataset("novel").source == f"{address}/novel.txt"


def test_a_host_that_does_not_answer_is_asked_once(entry, monkeypatch):
    import pooch

    asked = []

    def no_answer(_, url, *__):
        asked.append(url)
        raise TimeoutError

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", no_answer)
    entry("http://one/a", "http://one/b", "http://two/a")
    with pytest.raises(
            DataError, match=r"http://one/a \(TimeoutError\), http://one/b \(same host\)"):
        load_dataset("novel")
    assert asked == ["http://one/a", "http://two/a"]


def test_no_network(entry, raw, closed_port):
    entry(f"{closed_port}/novel.txt")
    with pytest.raises(DataError) as error:
        load_dataset("novel")
    message, place = str(error.value), str(raw / "novel.txt")
    for part in (f"{closed_port}/novel.txt", "ConnectionError", place, "QLSTM_MIRROR",
                 "python_help"):
        assert part in message
    assert "\n" not in message
    assert not list(raw.iterdir())


def test_without_pooch(entry, monkeypatch):
    entry("http://127.0.0.1:9/novel.txt")
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DataError, match=r'novel.txt .*pooch is not installed.*\.\[reproduce\]" in'):
        load_dataset("novel")


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [("novel.txt", TEXT[:-1], "bytes with sha256"),
     ("novel.txt", TEXT.replace(b"Prince", b"prince", 1), "bytes with sha256"),
     ("novel.txt", TEXT.replace(b"\r\n", b"\n"), "bytes with sha256"),
     ("novel.txt", b"", "0 bytes with sha256"),
     ("novel.txt.gz", gzip.compress(TEXT)[:-20], "damaged archive"),
     ("novel.txt.gz", gzip.compress(TEXT)[:10] + b"\xff" * 50, "damaged archive"),
     ("novel.txt.gz", gzip.compress(TEXT)[:-8] + bytes(8), "damaged archive"),
     ("novel.txt.zip", b"PK\x03\x04" + TEXT, "damaged archive")],
    ids=["cut", "letter", "line_ends", "empty", "gz_cut", "gz_data", "gz_checksum", "zip"],
)
@pytest.mark.parametrize("where", ["raw", "mirror"])
def test_truncated_or_altered(
        entry, raw, tmp_path, server, monkeypatch, where, name, content, found):
    folder, address, asked = server
    put(folder / "novel.txt", TEXT)
    entry(f"{address}/novel.txt")
    path = put((raw if where == "raw" else tmp_path / "mirror") / name, content)
    if where == "mirror":
        monkeypatch.setenv("QLSTM_MIRROR", str(path.parent))
    with pytest.raises(
            DataError, match=f"truncated or altered: .*{found}.*delete it and fetch") as error:
        load_dataset("novel")
    assert str(path) in str(error.value)
    assert path.read_bytes() == content  # the user's: neither replaced nor deleted
    assert not asked


def test_prefix_is_cut_from_the_whole(entry, raw, closed_port):
    digest = f"sha256:{hashlib.sha256(TEXT).hexdigest()}"
    beginning = hashlib.sha256(TEXT[:100]).hexdigest()
    longer = File("longer", len(TEXT), digest, "novels", (f"{closed_port}/longer",))
    entry(size=100, digest=f"sha256:{beginning}", prefix_of=longer)
    with pytest.raises(
            DataError, match=r"no .*novel.txt, nor .*cannot get longer .*raw.longer by hand"):
        load_dataset("novel")
    put(raw / "longer", TEXT)
    assert whole(load_dataset("novel")) == TEXT[:100]
    put(raw / "novel.txt", TEXT[:100])
    assert load_dataset("novel").source == str(raw / "novel.txt")


def test_unwritable_raw(entry, tmp_path, server, monkeypatch):
    folder, address, asked = server
    put(folder / "novel.txt", TEXT)
    entry(f"{address}/novel.txt")
    beneath_a_file = str(put(tmp_path / "file", b"") / "raw")
    monkeypatch.setenv("QLSTM_DATA", beneath_a_file)
    reason = re.escape(f"cannot write to {beneath_a_file}: Not a directory")
    with pytest.raises(DataError, match=f"{reason}.*QLSTM_DATA"):
        load_dataset("novel")
    assert not asked


def test_read_only_raw(entry, raw, server, monkeypatch):
    folder, address, asked = server
    put(folder / "novel.txt", TEXT)
    entry(f"{address}/novel.txt")

    def read_only(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", read_only)
    with pytest.raises(DataError, match=re.escape(f"cannot write to {raw}: Permission denied")):
        load_dataset("novel")
    assert not asked  # found before anything is downloaded


def test_full_disk(entry, raw, server, monkeypatch):
    folder, address, _ = server
    put(folder / "novel.txt", TEXT)
    entry(f"{address}/novel.txt")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=re.escape(f"cannot write to {raw}: No space left")):
        load_dataset("novel")
    assert not list(raw.iterdir())


def test_two_at_once(entry, raw, server):
    folder, address, _ = server
    put(folder / "novel.txt", TEXT)
    entry(f"{address}/novel.txt")
    found = []
    threads = [threading.Thread(target=lambda: found.append(whole(load_dataset("novel"))))
               for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [TEXT] * 4
    assert [path.name for path in raw.iterdir()] == ["novel.txt"]


def test_unknown_name():
    with pytest.raises(
            DataError, match=r"did you mean 'war_and_peace'\?.*text8_prefix.*path of a text file"):
        load_dataset("war_and_piece")
    for wrong in ("", "no/such/file.txt", "a\0b"):
        for function in (load_dataset, data.vocabulary_size, data.task_of):
            with pytest.raises(DataError, match="unknown data set"):
                function(wrong)


def test_text_of_ones_own(tmp_path):
    text = "Wie schön leuchtet der Morgenstern\u2028\x0c\n" * 100
    path = put(tmp_path / "hymn.txt", text.encode())
    hymn = load_dataset(str(path))
    assert (hymn.name, data.title(str(path)), hymn.reduced) == (str(path), "hymn.txt", True)
    assert hymn.decode(torch.cat([hymn.train, hymn.valid, hymn.test])) == text
    assert hymn.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert (hymn.source, hymn.notes) == (str(path), ("read as UTF-8",))
    assert len(hymn.train) == int(0.8 * len(text))
    assert data.vocabulary_size(str(path)) == len(set(text))


def test_text_of_ones_own_that_is_not_utf8(tmp_path):
    content = "schön ".encode("latin-1") * 200
    text = load_dataset(str(put(tmp_path / "old.txt", content)))
    assert "ö" in text.vocabulary
    assert text.notes == ("not UTF-8: one character a byte",)
    assert text.source == f"{tmp_path}/old.txt (not UTF-8: one character a byte)"
    assert text.sha256 == hashlib.sha256(content).hexdigest()


def read_own(path, content, task=None):
    """What is read of a file with a ``content``, and what was changed."""
    own = load_dataset(str(put(path, content)), task)
    text = own.decode(torch.cat([own.train, own.valid, own.test]))
    assert own.source == f"{path} ({'; '.join(n for n in own.notes if n != 'read as UTF-8')})"
    return text, own.notes


LINES = "“It’s”\n\nand — so\n" * 100


@pytest.mark.parametrize(
    ("content", "notes"),
    [(LINES.replace("\n", "\r\n").encode(), "read as UTF-8; line ends CRLF became LF"),
     (LINES.replace("\n", "\r").encode(), "read as UTF-8; line ends CR became LF"),
     (LINES.replace("\n", "\r\n", 6).replace("\n\nand", "\r\rand").encode(),
      "read as UTF-8; line ends CRLF and CR became LF"),
     (LINES.encode("utf-8-sig"), "read as UTF-8; byte order mark left out"),
     (LINES[:90].encode("utf-8-sig") + LINES[90:].replace("\n", "\r\n").encode("utf-8-sig"),
      "read as UTF-8; 2 byte order marks left out; line ends CRLF became LF"),
     (LINES.encode("utf-16"), "read as UTF-16; byte order mark left out"),
     ("\ufeff".encode("utf-16-be") + LINES.encode("utf-16-be"),
      "read as UTF-16; byte order mark left out"),
     (LINES.encode("cp1252"), "not UTF-8: read as Windows-1252"),
     (LINES.replace("\n", "\r\n").encode("cp1252"),
      "not UTF-8: read as Windows-1252; line ends CRLF became LF")],
    ids=["CRLF", "CR", "mixed", "BOM", "BOM inside", "UTF-16", "UTF-16 BE", "Windows-1252", "both"])
def test_a_text_comes_to_the_same_from_every_system(tmp_path, content, notes):
    notes = tuple(notes.replace("UTF-16; byte order mark left out", "UTF-16").split("; "))
    assert read_own(tmp_path / "own.txt", content) == (LINES, notes)
    own = load_dataset(str(tmp_path / "own.txt"))
    assert own.sha256 == hashlib.sha256(LINES.encode()).hexdigest()
    assert load_dataset(str(tmp_path / "own.txt"), "word_lm").notes == notes


def test_bytes_that_windows_has_not_are_characters(tmp_path):
    content = b"d\xe9j\xe0 \x81\x93 vu " * 100
    text = load_dataset(str(put(tmp_path / "old.txt", content)))
    assert text.notes == ("not UTF-8: one character a byte",)
    assert text.sha256 == hashlib.sha256(content).hexdigest()


BOOK = "PRODUCED BY HAND\n\n" + "*** START of the day ***\nSTART\n*END*\n" * 100 + "The end"
HEADER = "The Project Gutenberg eBook of Days\n\nThis ebook is for anyone.\n\n"
LICENCE = "\n\nSection 1. General Terms of Use\n*** START: FULL LICENSE ***\nand redistributing\n"


@pytest.mark.parametrize(
    ("start", "end"),
    [("*** START OF THE PROJECT GUTENBERG EBOOK DAYS ***",
      "*** END OF THE PROJECT GUTENBERG EBOOK DAYS ***"),
     ("*** START OF THIS PROJECT GUTENBERG EBOOK THE LONG AND\nLONGER DAYS ***",
      "End of the Project Gutenberg EBook of Days, by Nobody\n\n"
      "*** END OF THIS PROJECT GUTENBERG EBOOK THE LONG AND\nLONGER DAYS ***"),
     ("***START OF THE PROJECT GUTENBERG EBOOK DAYS***",
      "***END OF THE PROJECT GUTENBERG EBOOK DAYS***"),
     ("  ***START OF THE COPYRIGHTED PROJECT GUTENBERG EBOOK DAY* AND NIGHT",
      "*** END OF THE COPYRIGHTED PROJECT GUTENBERG EBOOK DAYS"),
     ("***START**THE SMALL PRINT!**START***\n\n"
      "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*",
      "End of Project Gutenberg's Etext of Days"),
     ("*** START OF THIS PROJECT GUTENBERG EBOOK DAYS ***\n\nterms\n\n"
      "*END THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*",
      "End of The Project Gutenberg Etext of Days"), (None, "End of this Project Gutenberg text"),
     ("*** START OF THE PROJECT GUTENBERG EBOOK DAYS ***", None)],
    ids=["today", "2006", "no spaces", "copyrighted", "small print", "both", "no header",
         "no licence"])
def test_what_project_gutenberg_has_added_is_left_out(tmp_path, start, end):
    header = HEADER + start + "\n\n\n" if start else ""
    licence = "\n\n" + end + LICENCE if end else ""
    text, notes = read_own(tmp_path / "book.txt", (header + BOOK + licence).encode())
    assert text == BOOK
    what = " and ".join(["header"] * bool(start) + ["licence"] * bool(end))
    assert notes == ("read as UTF-8", f"{len(header) + len(licence)} characters of Project "
                                      f"Gutenberg's {what} left out")


def test_several_books_of_project_gutenberg(tmp_path):
    start, end = (f"*** {which} OF THE PROJECT GUTENBERG EBOOK DAYS ***" for which in
                  ("START", "END"))
    one = "\ufeff" + HEADER + start + "\n" + BOOK + "\n" + end + LICENCE
    text, notes = read_own(tmp_path / "b", (one + one).replace("\n", "\r\n").encode())
    assert text == BOOK + "\n\n" + BOOK
    assert notes[1:3] == ("2 byte order marks left out", "line ends CRLF became LF")


def test_a_book_of_project_gutenberg_with_nothing_in_it(tmp_path):
    content = HEADER * 30 + "*** START OF THE PROJECT GUTENBERG EBOOK DAYS ***\n\n\n"
    with pytest.raises(DataError, match=r"has 0 symbols \(1,9\d\d characters of Project Gutenberg's"
                       " header left out: delete the lines with its marks to keep them"):
        load_dataset(str(put(tmp_path / "b", content.encode())))


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "0 symbols"), (b"x" * 999, "999 symbols"), (("é" * 600).encode(), "600 symbols"),
     (b"GIF\0" * 1000, "NUL bytes"), (("word " * 999).encode("utf-16-le"), "UTF-16 without"),
     (("word " * 999).encode("utf-32"), "UTF-32 have to be saved as UTF-8"),
     (("word " * 999).encode("utf-16")[:-1], "begins as UTF-16 and is not")],
)
def test_not_a_text(tmp_path, content, reason):
    path = put(tmp_path / "file", content)
    with pytest.raises(DataError, match=reason) as error:
        load_dataset(str(path))
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "reason", "word_lm"),
    [(b"x" * 5000, "the same symbol all over", False), (b" " * 5000, "the same symbol", False),
     (b"a" * 4000 + b"b" * 1000, "the same symbol", False),
     (b" \n\t\r\n" * 5000, " has 0 words", True),
     (" ".join(map(str, range(5000))).encode(), "no two words that stand twice", True),
     ("मैं हिन्दी ".encode()[:-2] * 500, "is UTF-8 up to byte", False),
     (b"\xef\xbb\xbf" + b"d\xe9j\xe0 vu " * 500, "is UTF-8 up to byte 4", False),
     ("déjà vu ".encode() * 500 + b"d\xe9j\xe0 vu", "is UTF-8 up to byte 5,001", True)],
    ids=["one symbol", "spaces", "one to learn from", "blank words", "each word once",
         "cut letters", "a mark and no UTF-8", "two encodings"])
def test_a_text_from_which_nothing_can_be_learned(tmp_path, content, reason, word_lm):
    path = put(tmp_path / "file", content)
    with pytest.raises(DataError, match=reason) as error:
        load_dataset(str(path), "word_lm" if word_lm else None)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("task", ["char_lm", "word_lm"])
def test_one_enormous_line(tmp_path, task):
    path = put(tmp_path / "line", b"to be or not to be, " * 10**4)
    line = load_dataset(str(path), task)
    assert line.vocabulary_size == {"char_lm": 8, "word_lm": 6}[task]  # the line's end is rare


@pytest.mark.parametrize("name", ["m\udcfcnch.txt", "two\nlines.txt", "\x1b[31m.txt"])
def test_a_file_whose_name_cannot_be_shown(tmp_path, monkeypatch, name):
    """Bytes that are not UTF-8, as on a disk of an old machine; a line break; what colours a
    terminal. Other names of any script are welcome."""
    for function in (load_dataset, data.task_of, data.vocabulary_size):
        with pytest.raises(DataError, match="rename the file") as error:
            function(str(put(tmp_path / name, TEXT)))
        assert str(error.value).isprintable()
    for name in ("münch हिन्दी.txt", "a\u202fb $x^2$ {1} \\frac.txt"):
        assert load_dataset(str(put(tmp_path / name, TEXT))).name == str(tmp_path / name)
    strange = put(tmp_path / "\udcfc" / "hymn.txt", b"a hymn " * 200)
    monkeypatch.chdir(strange.parent)
    assert load_dataset("hymn.txt").source == f"{tmp_path}/\\xfc/hymn.txt"


@pytest.mark.parametrize(
    "name", [None, 5, True, 1.5, ["a"], b"digits", "", "a\0b", "x" * 10**6, "/dev/zero", "/dev"])
def test_a_name_of_another_kind(name):
    with pytest.raises(DataError, match=r"unknown data set|is not a file") as error:
        load_dataset(name)
    assert len(str(error.value)) < 500


def test_a_path_object_is_a_name(tmp_path):
    path = put(tmp_path / "text", TEXT)
    assert load_dataset(path).name == load_dataset(str(path)).name == str(path)
    assert data.title(path) == "text"


def test_words_of_ones_own(tmp_path):
    text = "The Knight - \n\nerrant once!\n" * 200 + "singular\n" + "the dragon\n" * 200
    path = str(put(tmp_path / "tale.txt", text.encode()))
    tale = load_dataset(path, task="word_lm")
    assert (tale.name, tale.reduced, tale.unit, tale.source) == (path, True, "word", path)
    words = reading.tokens(text)
    n = len(words)
    assert [len(tale.train), len(tale.valid), len(tale.test)] == [
        int(0.8 * n), int(0.1 * n), n - int(0.9 * n)]
    assert tale.vocabulary == ("!", "-", "<eos>", "<unk>", "dragon", "errant", "knight", "once",
                               "the")
    together = tale.decode(torch.cat([tale.train, tale.valid, tale.test]))
    assert together == " ".join(words).replace("singular", "<unk>")
    assert tale.sha256 == hashlib.sha256(together.encode()).hexdigest()
    assert data.vocabulary_size(path, task="word_lm") == 9
    assert (load_dataset(path, "char_lm").sha256 == load_dataset(path).sha256
            == hashlib.sha256(text.encode()).hexdigest())
    inputs, targets = next(data.minibatches(tale.train, 4, 10))
    assert inputs.dtype == targets.dtype == torch.int64


def test_words_of_ones_own_that_are_too_few(tmp_path):
    path = put(tmp_path / "few.txt", b"word " * 998)  # and one <eos>
    with pytest.raises(DataError, match="999 words; a data set needs 1,000 or more"):
        load_dataset(str(path), task="word_lm")
    path.write_bytes(b"w\xf6rd two " * 500)
    few = load_dataset(str(path), task="word_lm")
    assert few.vocabulary == ("<unk>", "two", "wörd")  # the line end is in the test part only
    assert "not UTF-8" in few.source


@pytest.mark.parametrize("function", [load_dataset, data.vocabulary_size])
def test_task_that_does_not_fit(function, tmp_path):
    with pytest.raises(DataError, match="penn_char is for the task char_lm, not for word_lm"):
        function("penn_char", task="word_lm")
    with pytest.raises(DataError, match="mnist is for the task sequential_image, not for char_lm"):
        function("mnist", "char_lm")
    path = str(put(tmp_path / "text", TEXT))
    with pytest.raises(
            DataError, match=r"text is a path: .*sequential_image come.*\(mnist, digits\)"):
        function(path, task="sequential_image")
    for name in ("python_help", path):
        with pytest.raises(DataError, match="unknown task 'word_ml': did you mean 'word_lm'"):
            function(name, task="word_ml")


def test_images_have_no_vocabulary():
    with pytest.raises(DataError, match="digits is a data set of images"):
        data.vocabulary_size("digits")


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("where", ["raw", "mirror"])
def test_idx_files(small_mnist, raw, tmp_path, monkeypatch, where, end):
    folder = raw if where == "raw" else tmp_path / "mirror"
    for name, content in IDX.items():
        put(folder / "mnist" / f"{name}{end}", gzip.compress(content) if end else content)
    if where == "mirror":
        monkeypatch.setenv("QLSTM_MIRROR", str(folder))
    small = load_dataset("mnist", task="sequential_image")
    parts = (small.train, small.valid, small.test)
    everything = (torch.cat([pixels for pixels, _ in parts]),
                  torch.cat([labels for _, labels in parts]))
    assert torch.equal(everything[0], torch.from_numpy(PIXELS.reshape(9, 12).astype(np.uint8)))
    assert torch.equal(everything[1], torch.from_numpy(LABELS))
    assert [len(labels) for _, labels in parts] == [4, 3, 2]
    assert (everything[0].dtype, everything[1].dtype) == (torch.uint8, torch.int64)
    assert (small.name, small.steps, small.levels, small.classes, small.reduced) == (
        "mnist", 12, 255, 10, False)
    assert small.source == ", ".join(f"{folder}/mnist/{name}{end}" for name in IDX)
    pixels, labels = PIXELS.reshape(9, 12).astype(np.uint8), LABELS.astype(np.uint8)
    cuts = [slice(0, 4), slice(4, 7), slice(7, 9)]
    together = b"".join(pixels[cut].tobytes() + labels[cut].tobytes() for cut in cuts)
    assert small.sha256 == hashlib.sha256(together).hexdigest()
    assert raw.exists() == (where == "raw")


@pytest.mark.parametrize(
    ("name", "change", "found"),
    [
        ("train-images.gz", lambda content: gzip.compress(content)[:-20], "damaged archive"),
        ("train-images", lambda content: content[:-1], "bytes with sha256"),
        ("t10k-images", lambda content: content[:-1] + bytes([content[-1] ^ 1]),
         "bytes with sha256"),
        ("t10k-labels.gz", lambda content: gzip.compress(content[:-1] + b"\0"),
         "bytes with sha256"),
    ],
    ids=["gz_cut", "cut", "pixel", "label"],
)
def test_truncated_or_altered_images(small_mnist, raw, name, change, found):
    for each, content in IDX.items():
        put(raw / each, content)
    (raw / name.removesuffix(".gz")).unlink()
    path = put(raw / name, change(IDX[name.removesuffix(".gz")]))
    with pytest.raises(
            DataError, match=f"{re.escape(str(path))} is truncated or altered: .*{found}"):
        load_dataset("mnist")


def test_missing_images_without_network(small_mnist, raw, closed_port):
    for name in list(IDX)[:3]:
        put(raw / name, IDX[name])
    with pytest.raises(
        DataError, match=rf"cannot get t10k-labels \(.*{closed_port}.*digits need no down"
    ) as error:
        load_dataset("mnist")
    assert str(raw / "t10k-labels") in str(error.value)
    assert "\n" not in str(error.value)


def test_addresses_of_mnist():
    for file in CATALOGUE["mnist"].files:
        assert len(file.urls) == 2
        assert all(url.endswith(f"/mnist/{file.name}.gz") for url in file.urls)


@pytest.mark.parametrize("change", [{"counts": (4, 2, 3)}, {"steps": 784}])
def test_images_that_differ_from_the_catalogue(small_mnist, raw, monkeypatch, change):
    for name, content in IDX.items():
        put(raw / name, content)
    monkeypatch.setitem(CATALOGUE, "mnist", replace(CATALOGUE["mnist"], **change))
    with pytest.raises(DataError, match=r"mnist has \(4, 3, 2\) images of 12 pixels instead of "):
        load_dataset("mnist")


GOOD = idx(PIXELS)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "begins with ''"),
        (GOOD[:15], "begins with '00 00 08 03'"),
        (b"\1" + GOOD[1:], "begins with '01 00 08 03'"),
        (b"\0\1" + GOOD[2:], "begins with '00 01 08 03'"),
        (b"\0\0\x0d" + GOOD[3:], "begins with '00 00 0d 03'"),  # floats
        (b"\0\0\x08\1" + GOOD[4:], "with 3 axes: it begins with '00 00 08 01'"),
        (GOOD[:4] + b"\0\0\0\x0a" + GOOD[8:],
         r"108 values after its header, which says \[10, 3, 4\]: 120"),
        (GOOD[:4] + b"\x09\0\0\0" + GOOD[8:], "108 values"),  # lowest first
        (GOOD[:4] + b"\xff" * 12 + GOOD[16:], "108 values"),
        (GOOD[:-1], "107 values"),
        (GOOD + b"\0", "109 values"),
        (GOOD[:16], "0 values"),
    ],
)
def test_wrong_idx_header(content, reason):
    assert images._idx(GOOD, 3).shape == (9, 3, 4)
    with pytest.raises(DataError, match=reason):
        images.read_mnist([content, idx(LABELS), GOOD, idx(LABELS)], valid=3)


def test_labels_that_do_not_fit_the_images():
    with pytest.raises(DataError, match="9 images have 8 labels"):
        images.read_mnist([GOOD, idx(LABELS), GOOD, idx(LABELS[:8])], valid=3)
    with pytest.raises(DataError, match="a label is 10 instead of 0 to 9"):
        images.read_mnist([GOOD, idx(LABELS + 2), GOOD, idx(LABELS)], valid=3)


def test_digits(raw):
    from sklearn.datasets import load_digits

    digits = load_dataset("digits")
    parts = (digits.train, digits.valid, digits.test)
    assert ([len(labels) for _, labels in parts] == [len(pixels) for pixels, _ in parts]
            == [1_197, 300, 300])
    pixels, labels = (torch.cat([pixels for pixels, _ in parts]),
                      torch.cat([labels for _, labels in parts]))
    original = load_digits()
    assert np.array_equal(pixels.numpy(), original.images.reshape(1_797, 64))
    assert np.array_equal(labels.numpy(), original.target)
    assert (pixels.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert (int(pixels.max()), digits.levels, digits.steps, digits.classes, digits.reduced) == (
        16, 16, 64, 10, True)
    assert digits.source.startswith("load_digits of scikit-learn 1")
    assert digits.sha256 == "5b035f0cfdd98e797ba79439b1a125dd6683c939610c92562e9baf7f50b16c06"
    assert data.title("digits") == "handwritten digits, 8 x 8"
    assert not raw.exists()


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(
            DataError, match=r'sklearn is not installed: .*"\.\[reproduce\]" in the') as error:
        load_dataset("digits")
    assert "\n" not in str(error.value)


def split_of(n, steps=5):
    return torch.arange(n * steps, dtype=torch.uint8).view(n, steps), torch.arange(n) % 10


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.booleans(), st.booleans())
def test_image_minibatches_have_each_image_once(n, batch_size, shuffled, permuted):
    pixels, labels = split_of(n)
    order = torch.randperm(n) if shuffled else None
    batches = list(
        data.image_minibatches(
            (pixels, labels), batch_size, levels=200, order=order, permuted=permuted)
    )
    for inputs, targets in batches:
        assert inputs.shape == (5, len(targets), 1)
        assert inputs.is_contiguous()
        assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
    sizes = [len(targets) for _, targets in batches]
    alone = n % batch_size == 1 and n > batch_size > 1
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    assert sizes[-1] == (batch_size + 1 if alone else (n - 1) % batch_size + 1)
    rows = torch.arange(n) if order is None else order
    columns = data.pixel_permutation(5) if permuted else torch.arange(5)
    assert torch.equal(
        torch.cat([inputs for inputs, _ in batches], 1)[..., 0].t(), pixels[rows][:, columns] / 200)
    assert torch.equal(torch.cat([targets for _, targets in batches]), labels[rows])


@pytest.mark.parametrize("levels", [16, 255])
def test_pixels_count_from_0_to_1(levels):
    split = torch.tensor([[0, levels]], dtype=torch.uint8), torch.tensor([3])
    [(inputs, labels)] = data.image_minibatches(split, 64, levels=levels)
    assert inputs.tolist() == [[[0.0]], [[1.0]]]
    assert labels.tolist() == [3]


def test_image_minibatches_move_to_the_device():
    for order in (None, torch.randperm(7)):
        for inputs, labels in data.image_minibatches(
                split_of(7), 3, levels=255, order=order, permuted=True, device="meta"):
            assert inputs.device.type == labels.device.type == "meta"


@pytest.mark.parametrize(
    ("n", "batch_size", "order", "reason"),
    [(0, 4, None, "without images"), (3, 0, None, "at least one image, not 0"),
     (3, -1, None, "not -1"), (3, 2, [0, 1], "order of 3 images"),
     (3, 2, [0, 1, 1], "permutation of 0 to 2"), (3, 2, [1, 2, 3], "permutation of 0 to 2")],
)
def test_image_minibatches_errors_come_at_once(n, batch_size, order, reason):
    order = None if order is None else torch.tensor(order)
    with pytest.raises(DataError, match=reason):
        data.image_minibatches(split_of(n), batch_size, levels=255, order=order)


def test_pixel_permutation_is_the_same_everywhere():
    state = torch.get_rng_state()
    for steps in (1, 64, 784):
        permutation = data.pixel_permutation(steps)
        assert torch.equal(permutation.sort().values, torch.arange(steps))
        assert torch.equal(permutation, data.pixel_permutation(steps))
    assert torch.equal(torch.get_rng_state(), state)  # nothing else is drawn from
    assert permutation[:8].tolist() == [204, 582, 50, 615, 423, 323, 193, 456]


def test_folder_is_not_a_text(tmp_path):
    with pytest.raises(DataError, match="is not a file"):
        load_dataset(str(tmp_path))


@settings(deadline=None)
@given(st.integers(1, 7), st.integers(1, 9), st.integers(0, 60))
def test_minibatches_predict_each_symbol_of_a_stream_once_in_order(batch_size, steps, more):
    symbols = torch.arange(2 * batch_size + more, dtype=torch.uint8)
    length = len(symbols) // batch_size
    streams = symbols[: length * batch_size].view(batch_size, length).long()
    batches = list(data.minibatches(symbols, batch_size, steps))
    for inputs, targets in batches:
        assert inputs.dtype == targets.dtype == torch.int64
        assert inputs.shape == targets.shape
        assert torch.equal(targets, inputs + 1)  # the symbols count up
    assert all(inputs.shape == (steps, batch_size) for inputs, _ in batches[:-1])
    assert 1 <= len(batches[-1][0]) <= steps
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]).t(), streams[:, :-1])
    assert torch.equal(torch.cat([targets for _, targets in batches]).t(), streams[:, 1:])
    assert sum(targets.numel() for _, targets in batches) == data.count_predicted(
        len(symbols), batch_size)


@settings(deadline=None)
@given(st.integers(1, 7), st.integers(1, 9), st.integers(1, 60), st.integers(0, 99))
def test_shuffled_sequences_are_read_each_for_itself(batch_size, steps, more, seed):
    symbols = torch.arange(3 * steps + more, dtype=torch.uint8)
    torch.manual_seed(seed)
    batches = list(data.shuffled_sequences(symbols, batch_size, steps))
    firsts = torch.cat([inputs[0] for inputs, _ in batches])
    for inputs, targets in batches:
        assert inputs.dtype == targets.dtype == torch.int64
        assert inputs.shape == targets.shape
        assert len(inputs) == steps
        assert torch.equal(targets, inputs + 1)  # the symbols count up
        assert torch.equal(inputs - inputs[0], torch.arange(steps)[:, None].expand_as(inputs))
    sizes = [inputs.shape[1] for inputs, _ in batches]
    assert set(sizes[:-1]) <= {batch_size}
    assert sizes[-1] <= batch_size + 1
    assert batch_size == 1 or len(firsts) == 1 or min(sizes) >= 2  # batch normalization needs two
    ordered = firsts.sort().values
    assert torch.equal(
        ordered, ordered[0] + steps * torch.arange(len(ordered))
    )  # each once, side by side
    assert 0 <= ordered[0] < steps
    assert len(symbols) - 1 - steps < ordered[-1] + steps <= len(symbols) - 1
    torch.manual_seed(seed)
    again = list(data.shuffled_sequences(symbols, batch_size, steps))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(batches, again, strict=True))


def test_shuffled_sequences_of_a_short_text():
    with pytest.raises(
            DataError, match="a text of 30 symbols has not the 31 that three sequences of 10 take"):
        data.shuffled_sequences(torch.zeros(30, dtype=torch.uint8), 2, 10)


@pytest.mark.parametrize("sizes", [(0, 1, 5), (1, 1, 5), (127, 64, 5), (9, 0, 5), (9, 1, 0)])
def test_minibatches_errors_come_at_once(sizes):
    n, batch_size, steps = sizes
    with pytest.raises(DataError, match=r"too few for|predicts nothing"):
        data.minibatches(torch.zeros(n, dtype=torch.uint8), batch_size, steps)


def test_folders(monkeypatch, tmp_path):
    monkeypatch.delenv("QLSTM_DATA")
    monkeypatch.delenv("QLSTM_REPORTS", raising=False)
    assert (storage.raw_data(), records.reports()) == (storage.ROOT / "data" / "raw",
                                                       storage.ROOT / "reports")
    monkeypatch.setenv("QLSTM_DATA", str(tmp_path))
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path))
    assert storage.raw_data() == records.reports() == tmp_path


def test_an_image_is_made_smaller_by_means_of_square_blocks():
    pixels = torch.arange(2 * 36, dtype=torch.uint8).view(2, 36)
    small, labels = data.smaller((pixels, torch.tensor([4, 7])), 9)
    by_hand = [[round(float(np.mean([image[row + i][column + j] for i in (0, 1) for j in (0, 1)])))
                for row in (0, 2, 4) for column in (0, 2, 4)]
               for image in pixels.view(2, 6, 6).tolist()]
    assert (small.tolist(), small.dtype, labels.tolist()) == (by_hand, torch.uint8, [4, 7])
    assert torch.equal(data.smaller((pixels, labels), 36)[0], pixels)
    assert data.smaller_sizes(12) == [12]  # no square
