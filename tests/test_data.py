"""Data: where a file comes from, what is checked, how a text becomes ids and minibatches."""

import gzip
import hashlib
import os
import platform
import pydoc_data.topics
import re
import socket
import sys
import threading
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qlstm import data, paths
from qlstm.data import CATALOGUE, DataError, Entry, File, load_dataset

TEXT = b"\xef\xbb\xbfPrince Vasili,\r\n\xc3\xa9 " * 60  # a byte order mark, CR LF, a letter of two bytes
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
        read = partial(data._bytes_as_symbols, train=0.8, valid=0.1)
        monkeypatch.setitem(CATALOGUE, "novel", Entry("A Novel", (replace(file, **changes),), read))

    return enter


def whole(dataset) -> bytes:
    return dataset.decode(torch.cat([dataset.train, dataset.valid, dataset.test])).encode("latin-1")


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
    assert data._words_to_characters([lines]) == ["no_it_was_n't\nthe_<unk>_N\n"]


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
    dataset = data._dataset("t", data._cut(text, 0.8, 0.1), "utf-8", True, "")
    some = draw.draw(st.text(st.sampled_from(text)))
    assert dataset.decode(dataset.encode(some)) == some
    assert dataset.encode(some).dtype == dataset.train.dtype
    assert dataset.decode(torch.cat([dataset.train, dataset.valid, dataset.test])) == text


def test_encode_more_than_256_symbols():
    # the last has more ids than there are code points below the surrogates
    for n, dtype in ((256, torch.uint8), (257, torch.int32), (0x10000, torch.int32)):
        text = "".join(map(chr, range(0xE000, 0xE000 + n)))
        ids = data._encode(text, tuple(text))
        assert torch.equal(ids, torch.arange(len(text), dtype=dtype))


def test_encode_unknown_symbol():
    with pytest.raises(DataError, match="'\u0416' is not among the"):
        load_dataset("python_help").encode("an object \u0416")


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


def test_known_vocabulary_sizes_and_titles_without_loading():
    names = ["war_and_peace", "penn_char", "text8", "text8_prefix"]
    assert [data.vocabulary_size(name) for name in names] == [87, 50, 27, 27]
    assert data.title("war_and_peace") == "War and Peace"


@real_data
def test_war_and_peace(monkeypatch):
    monkeypatch.setenv("QLSTM_MIRROR", MIRROR)
    text = load_dataset("war_and_peace")
    assert [len(part) for part in (text.train, text.valid, text.test)] == [2_606_596, 325_824, 325_826]
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
    official = [hashlib.sha256(" ".join(text.decode(part) + "$").encode()[:-1]).hexdigest() for part in parts]
    assert official == [
        "e313d91425e06c4f0a8fb6e881dcce0c291f2a0e9f4dda54833069b122f91da9",
        "21661f63ec355085879458b6524644d4add5573541b4be14fb52ab2e2e995eb8",
        "1ef5607ac3c463b16e38bfe7900dd3bfc91de5a96e0f21e7eab5188b465b8ebe",
    ]


@real_data
def test_text8_prefix(monkeypatch):
    monkeypatch.setenv("QLSTM_MIRROR", MIRROR)
    text = load_dataset("text8_prefix")
    assert [len(part) for part in (text.train, text.valid, text.test)] == [620_472, 34_470, 34_472]
    assert text.vocabulary == (" ", *"abcdefghijklmnopqrstuvwxyz")
    assert text.reduced
    assert text.decode(text.train[:10]) == " anarchism"


@pytest.mark.parametrize("place", ["novels/novel.txt", "novels/novel.txt.gz", "novel.txt", "novel.txt.gz"])
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
    with pytest.raises(DataError, match=re.escape(f"not in {empty}") if kind == "folder" else "HTTP 404"):
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


@pytest.mark.parametrize("first", ["refused", "404", "altered", "damaged"])
def test_second_address(entry, server, closed_port, first):
    folder, address, _ = server
    put(folder / "novel.txt", TEXT)
    put(folder / "altered", b"<html>Sign in to the library's network</html>")
    put(folder / "damaged", gzip.compress(TEXT)[:-20])
    entry(f"{closed_port}/novel.txt" if first == "refused" else f"{address}/{first}", f"{address}/novel.txt")
    assert load_dataset("novel").source == f"{address}/novel.txt"


def test_a_host_that_does_not_answer_is_asked_once(entry, monkeypatch):
    import pooch

    asked = []

    def no_answer(_, url, *__):
        asked.append(url)
        raise TimeoutError

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", no_answer)
    entry("http://one/a", "http://one/b", "http://two/a")
    with pytest.raises(DataError, match=r"http://one/a \(TimeoutError\), http://one/b \(same host\)"):
        load_dataset("novel")
    assert asked == ["http://one/a", "http://two/a"]


def test_no_network(entry, raw, closed_port):
    entry(f"{closed_port}/novel.txt")
    with pytest.raises(DataError) as error:
        load_dataset("novel")
    message, place = str(error.value), str(raw / "novel.txt")
    for part in (f"{closed_port}/novel.txt", "ConnectionError", place, "QLSTM_MIRROR", "python_help"):
        assert part in message
    assert "\n" not in message
    assert not list(raw.iterdir())


def test_without_pooch(entry, monkeypatch):
    entry("http://127.0.0.1:9/novel.txt")
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DataError, match="ModuleNotFoundError"):
        load_dataset("novel")


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("novel.txt", TEXT[:-1], "bytes with sha256"),
        ("novel.txt", TEXT.replace(b"Prince", b"prince", 1), "bytes with sha256"),
        ("novel.txt", TEXT.replace(b"\r\n", b"\n"), "bytes with sha256"),
        ("novel.txt", b"", "0 bytes with sha256"),
        ("novel.txt.gz", gzip.compress(TEXT)[:-20], "damaged archive"),
        ("novel.txt.gz", gzip.compress(TEXT)[:10] + b"\xff" * 50, "damaged archive"),
        ("novel.txt.gz", gzip.compress(TEXT)[:-8] + bytes(8), "damaged archive"),
        ("novel.txt.zip", b"PK\x03\x04" + TEXT, "damaged archive"),
    ],
    ids=["cut", "letter", "line_ends", "empty", "gz_cut", "gz_data", "gz_checksum", "zip"],
)
@pytest.mark.parametrize("where", ["raw", "mirror"])
def test_truncated_or_altered(entry, raw, tmp_path, server, monkeypatch, where, name, content, found):
    folder, address, asked = server
    put(folder / "novel.txt", TEXT)
    entry(f"{address}/novel.txt")
    path = put((raw if where == "raw" else tmp_path / "mirror") / name, content)
    if where == "mirror":
        monkeypatch.setenv("QLSTM_MIRROR", str(path.parent))
    with pytest.raises(DataError, match=f"truncated or altered: .*{found}.*delete it and fetch") as error:
        load_dataset("novel")
    assert str(path) in str(error.value)
    assert path.read_bytes() == content  # the user's: neither replaced nor deleted
    assert not asked


def test_prefix_is_cut_from_the_whole(entry, raw, closed_port):
    digest = f"sha256:{hashlib.sha256(TEXT).hexdigest()}"
    beginning = hashlib.sha256(TEXT[:100]).hexdigest()
    longer = File("longer", len(TEXT), digest, "novels", (f"{closed_port}/longer",))
    entry(size=100, digest=f"sha256:{beginning}", prefix_of=longer)
    with pytest.raises(DataError, match=r"no .*novel.txt, nor .*cannot get longer .*raw.longer by hand"):
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

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match=re.escape(f"cannot write to {raw}: No space left")):
        load_dataset("novel")
    assert not list(raw.iterdir())


def test_two_at_once(entry, raw, server):
    folder, address, _ = server
    put(folder / "novel.txt", TEXT)
    entry(f"{address}/novel.txt")
    found = []
    threads = [threading.Thread(target=lambda: found.append(whole(load_dataset("novel")))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [TEXT] * 4
    assert [path.name for path in raw.iterdir()] == ["novel.txt"]


def test_unknown_name():
    with pytest.raises(DataError, match=r"did you mean 'war_and_peace'\?.*text8_prefix.*path of a text file"):
        load_dataset("war_and_piece")
    for wrong in ("", "no/such/file.txt", "a\0b"):
        for function in (load_dataset, data.title, data.vocabulary_size):
            with pytest.raises(DataError, match="unknown data set"):
                function(wrong)


def test_text_of_ones_own(tmp_path):
    text = "\ufeffWie schön leuchtet der Morgenstern\r\n" * 100
    path = put(tmp_path / "hymn.txt", text.encode())
    hymn = load_dataset(str(path))
    assert (hymn.name, data.title(str(path)), hymn.reduced) == (str(path), "hymn.txt", True)
    assert hymn.decode(torch.cat([hymn.train, hymn.valid, hymn.test])) == text
    assert hymn.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert len(hymn.train) == int(0.8 * len(text))
    assert data.vocabulary_size(str(path)) == len(set(text))


def test_text_of_ones_own_that_is_not_utf8(tmp_path):
    content = "schön ".encode("latin-1") * 200
    text = load_dataset(str(put(tmp_path / "old.txt", content)))
    assert "ö" in text.vocabulary
    assert "not UTF-8" in text.source
    assert text.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "0 symbols"),
        (b"x" * 999, "999 symbols"),
        (("é" * 600).encode(), "600 symbols"),
        (b"GIF\0" * 1000, "NUL bytes"),
        (("word " * 999).encode("utf-16"), "UTF-16"),
    ],
)
def test_not_a_text(tmp_path, content, reason):
    path = put(tmp_path / "file", content)
    with pytest.raises(DataError, match=reason) as error:
        load_dataset(str(path))
    assert str(path) in str(error.value)


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
    assert sum(targets.numel() for _, targets in batches) == data.count_predicted(len(symbols), batch_size)


@pytest.mark.parametrize("sizes", [(0, 1, 5), (1, 1, 5), (127, 64, 5), (9, 0, 5), (9, 1, 0)])
def test_minibatches_errors_come_at_once(sizes):
    n, batch_size, steps = sizes
    with pytest.raises(DataError, match=r"too few for|predicts nothing"):
        data.minibatches(torch.zeros(n, dtype=torch.uint8), batch_size, steps)


def test_folders(monkeypatch, tmp_path):
    monkeypatch.delenv("QLSTM_DATA")
    monkeypatch.delenv("QLSTM_REPORTS", raising=False)
    assert (paths.raw_data(), paths.reports()) == (paths.ROOT / "data" / "raw", paths.ROOT / "reports")
    monkeypatch.setenv("QLSTM_DATA", str(tmp_path))
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path))
    assert paths.raw_data() == paths.reports() == tmp_path
