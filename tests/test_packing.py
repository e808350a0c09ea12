"""Packed models: what comes back, what it takes, and what is refused."""

import functools
import json
import math
import os
import pickle
import re
import resource
import stat
import sys
from contextlib import suppress

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from qlstm import ConfigError, ExperimentConfig, packing, quantizers, size_kb
from qlstm.data import hashed_tensors
from qlstm.gru import QuantGRU
from qlstm.lstm import QuantLSTM
from qlstm.models import LanguageModel, SequenceClassifier
from qlstm.normalizers import NORMALIZERS
from qlstm.packing import (
    PackedError,
    load_packed,
    pack_codes,
    packed_bytes,
    save_packed,
    unpack_codes,
)
from qlstm.quantizers import QUANTIZERS, Quantized
from qlstm.study import training
from qlstm.study.grid import TABLE_ROWS

examples = settings(max_examples=60, deadline=None, derandomize=True, database=None)
STEPS, SAMPLES = 4, 3


def make(kind, quantizer="twn", normalizer="layer", sizes=(5, 3, 1), **others):
    """A model of one of the kinds; ``sizes``: inputs (or symbols, or classes), d, layers."""
    others = dict(quantizer=quantizer, normalizer=normalizer, max_steps=3) | others
    if kind in ("lstm", "gru"):
        return {"lstm": QuantLSTM, "gru": QuantGRU}[kind](*sizes, **others)
    model, _, cell = kind.partition(" ")
    others["cell"] = cell or "lstm"
    if model == "words":
        return LanguageModel(*sizes, embedding_size=sizes[1], dropout=0.5, **others)
    if model == "images":
        return SequenceClassifier(*sizes, initial_gain=0.1, state_noise=0.1, **others)
    return LanguageModel(*sizes, **others)


KINDS = ["lstm", "gru", "characters", "characters gru", "words", "words gru", "images",
         "images gru"]


def inputs_of(model):
    if isinstance(model, LanguageModel):
        return torch.randint(model.decoder.out_features, (STEPS, SAMPLES))
    return torch.randn(
        STEPS, SAMPLES, 1 if isinstance(model, SequenceClassifier) else model.input_size)


def network(model):
    return getattr(model, "rnn", model)


def train_a_step(model):
    """Running statistics, second moments and gains away from where they start."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    model.train()(inputs_of(model))[0].square().mean().backward()
    optimizer.step()
    network(model).set_second_moment(
        {name: optimizer.state[p]["exp_avg_sq"]
         for name, p in network(model).named_parameters(recurse=False)}
    )


def outputs(model, inputs):
    with torch.no_grad():
        output, state = model(inputs)
    return [output, *(state if isinstance(state, tuple) else [] if state is None else [state])]


def same(some, others):
    return len(some) == len(others) and all(
        torch.equal(a, b) for a, b in zip(some, others, strict=True))


def header_of(content):
    """The parts of a safetensors file, read without safetensors."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    return header.pop("__metadata__"), header, content[end:]


def bytes_of(path):
    """Bytes of each tensor of a file."""
    return {name: end - start for name, entry in header_of(path.read_bytes())[1].items()
            for start, end in [entry["data_offsets"]]}


def network_bytes(path, model):
    return sum(size for name, size in bytes_of(path).items()
               if model is network(model) or name.startswith("rnn."))


def rewrite(path, tensors=(), without=(), **metadata):
    """The file with other tensors and metadata, and the sha256 that belongs to them."""
    old = header_of(path.read_bytes())[0]
    tensors = safetensors.numpy.load(path.read_bytes()) | dict(tensors)
    metadata = {key: value for key, value in (old | metadata).items() if key not in without}
    tensors = {name: value for name, value in tensors.items() if name not in without}
    if "sha256" not in without:
        metadata["sha256"] = hashed_tensors.digest(tensors, metadata)
    path.write_bytes(hashed_tensors.serialize(tensors, metadata))


def settings_with(path, **changes):
    return json.dumps(json.loads(header_of(path.read_bytes())[0]["settings"]) | changes)


def assert_refused(path, *words):
    with pytest.raises(PackedError) as caught:
        load_packed(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < len(str(path)) + 500
    assert all(word in message for word in words), message


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("packed")


@pytest.fixture
def path(tmp_path):
    """A packed model."""
    save_packed(make("characters"), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


# What comes back


def check_round_trip(model, folder):
    path, again = folder / "model.safetensors", folder / "again.safetensors"
    size = packed_bytes(model)
    training = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    save_packed(model, path)
    loaded, card = load_packed(path)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == training
    assert type(loaded) is type(model)
    assert card["packed_bytes"] == size == network_bytes(path, model) == packed_bytes(loaded)
    model.eval()
    inputs = inputs_of(model)
    assert same(outputs(loaded, inputs), outputs(model, inputs))
    for name, value in loaded.state_dict().items():
        if "weight_" in name and network(model).quantizes(name.removeprefix("rnn.")):
            name = name.removeprefix("rnn.")
            assert same(network(loaded).quantized(name), network(model).quantized(name))
            assert not getattr(network(loaded), name).requires_grad
        elif "second_moment" not in name:
            assert torch.equal(value, model.state_dict()[name])
    save_packed(loaded, again)
    assert again.read_bytes() == path.read_bytes()
    assert not any(module.training for module in [*model.modules(), *loaded.modules()])
    return loaded


@pytest.mark.parametrize("kind", ["lstm", "images"])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_every_combination(folder, quantizer, kind):
    for normalizer in NORMALIZERS:
        if quantizer not in ("sbn", "stn") or normalizer == "batch_separate":
            model = make(kind, quantizer, normalizer)
            train_a_step(model)
            check_round_trip(model, folder)


@given(st.sampled_from(KINDS), st.sampled_from(list(QUANTIZERS)),
       st.sampled_from(list(NORMALIZERS)),
       st.tuples(st.integers(1, 9), st.integers(1, 11), st.integers(1, 2)), st.integers(0, 2**31))
@example("words", "alternating", "batch_separate", (9, 1, 2), 0)
@example("lstm", "stn", "batch_separate", (1, 1, 1), 0)
@examples
def test_round_trip(folder, kind, quantizer, normalizer, sizes, seed):
    if quantizer in ("sbn", "stn"):
        kind, normalizer = kind.removesuffix(" gru").replace("gru", "lstm"), "batch_separate"
    torch.manual_seed(seed)
    model = make(kind, quantizer, normalizer, sizes)
    train_a_step(model)
    check_round_trip(model, folder)


def test_a_model_of_another_default_type_comes_back_in_float32(path):
    inputs = torch.randint(5, (STEPS, SAMPLES))
    expected = outputs(load_packed(path)[0], inputs)
    torch.set_default_dtype(torch.float64)
    try:
        assert same(outputs(load_packed(path)[0], inputs), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_quantizers_given_as_functions_of_the_study(tmp_path):
    for given_as in (quantizers.bwn, "qlstm.quantizers:bwn"):
        loaded = check_round_trip(make("lstm", given_as), tmp_path)
        assert loaded.settings["quantizer"] == "bwn"


def test_training_goes_on_beside_the_frozen_weights(path, tmp_path):
    model = load_packed(path)[0]
    before = model.rnn.quantized("weight_hh_l0"), model.rnn.bias_l0.detach().clone()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model.train()(inputs_of(model))[0].square().mean().backward()
    optimizer.step()
    assert same(model.rnn.quantized("weight_hh_l0"), before[0])
    assert not torch.equal(model.rnn.bias_l0, before[1])
    check_round_trip(model, tmp_path)


def test_backend_is_not_part_of_a_model(tmp_path):
    save_packed(make("characters", backend="naive"), tmp_path / "a")
    assert load_packed(tmp_path / "a")[0].rnn.backend == "auto"


def test_same_model_same_bytes(tmp_path):
    model = make("characters")
    contents = set()
    for name in "abcdef":
        save_packed(model, tmp_path / name)
        contents.add((tmp_path / name).read_bytes())
    assert len(contents) == 1


# The format


@given(st.integers(1, 2), st.lists(st.integers(-1, 1), min_size=1, max_size=40))
@examples
def test_codes_by_hand(width, codes):
    codes = [code or 1 for code in codes] if width == 1 else codes
    digits = {1: {-1: "0", 1: "1"}, 2: {-1: "00", 0: "01", 1: "10"}}[width]
    text = "".join(digits[code] for code in codes)
    expected = int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")
    packed = pack_codes(np.array(codes, np.float32), width)
    assert packed.tobytes() == expected
    assert unpack_codes(packed, len(codes), width).tolist() == codes


def tensor(path, name):
    _, header, data = header_of(path.read_bytes())
    start, end = header[name]["data_offsets"]
    return header[name]["dtype"], header[name]["shape"], data[start:end]


def test_bytes_of_a_layer(tmp_path):
    """One unit, one input: the signs of W_x i, f, a, o, then those of W_h."""
    for quantizer, codes, scales in [("binary_connect", bytes([0b1001_0110]), None),
                                     ("bwn", bytes([0b1001_0110]), [0.5, 0.25, 0.5, 0.25]),
                                     ("ter_connect", bytes([0b10_00_00_10, 0b00_10_10_00]), None)]:
        lstm = QuantLSTM(1, 1, quantizer=quantizer)
        with torch.no_grad():
            lstm.weight_ih_l0.copy_(torch.tensor([[0.5], [-0.25], [-0.5], [0.25]]))
            lstm.weight_hh_l0.copy_(-lstm.weight_ih_l0)
        save_packed(lstm, tmp_path / "a")
        names = {"codes_l0", "bias_l0"} | ({"scales_ih_l0", "scales_hh_l0"} if scales else set())
        assert bytes_of(tmp_path / "a").keys() == names
        assert tensor(tmp_path / "a", "codes_l0") == ("U8", [len(codes)], codes)
        if scales:
            expected = ("F32", [1, 4, 1, 1], np.array(scales, "<f4").tobytes())
            assert tensor(tmp_path / "a", "scales_hh_l0") == expected


def test_planes_come_one_after_the_other(tmp_path):
    lstm = QuantLSTM(1, 1, quantizer="alternating")
    save_packed(lstm, tmp_path / "a")
    signs = [lstm.quantized(f"weight_{side}_l0").codes.flatten().tolist() for side in ("ih", "hh")]
    bits = "".join("1" if code > 0 else "0" for code in signs[0] + signs[1])  # 2 planes of 4 each
    assert tensor(tmp_path / "a", "codes_l0")[2] == int(bits, 2).to_bytes(2, "big")
    assert tensor(tmp_path / "a", "scales_ih_l0")[:2] == ("F32", [2, 4, 1, 1])


def test_a_binary_file_is_some_32_times_smaller(tmp_path):
    lstm = QuantLSTM(512, 512, quantizer="binary_connect")
    save_packed(lstm, tmp_path / "a")
    weights = 4 * 4 * 512 * (512 + 512)
    assert bytes_of(tmp_path / "a") == {"codes_l0": weights / 32, "bias_l0": 4 * 4 * 512}
    # beside the weights: the bias and a header of less than 2 KB
    assert (tmp_path / "a").stat().st_size < weights / 32 + 4 * 4 * 512 + 2048 < weights / 30


# Sizes


def difference(config):
    """Bytes of the file over those of the formula; of the model no value is needed."""
    with torch.device("meta"):
        model = training.build_model(config)
    return packed_bytes(model) - 1024 * size_kb(config)


@pytest.mark.parametrize("dataset", ["war_and_peace", "penn_char", "text8", "penn_word", "mnist"])
def test_paper_sizes(dataset):
    for quantizer, normalizer in TABLE_ROWS:
        config = ExperimentConfig(
            profile="paper", dataset=dataset, quantizer=quantizer, normalizer=normalizer)
        assert difference(config) == 0


@given(
    st.sampled_from(
        ["war_and_peace", "penn_char", "penn_word", "python_help_words", "mnist", "digits"]),
    st.sampled_from(TABLE_ROWS),
    st.integers(1, 60),
    st.integers(1, 3),
    st.sampled_from(["lstm", "gru"]),
)
@examples
def test_sizes_agree_but_for_the_padding(dataset, row, d, layers, cell):
    cell = "lstm" if row[0] in ("sbn", "stn") else cell
    config = ExperimentConfig(dataset=dataset, quantizer=row[0], normalizer=row[1], hidden_size=d,
                              num_layers=layers, cell=cell)
    assert 0 <= difference(config) < layers
    if d % 2 == 0 and cell == "lstm":
        assert difference(config) == 0


def test_some_sizes_need_padding():
    config = ExperimentConfig(
        dataset="penn_char", quantizer="binary_connect", hidden_size=33, num_layers=1)
    assert difference(config) == 0.5  # 4 * 33 * (50 + 33) bits


@pytest.mark.parametrize("quantizer", ["binary_connect", "bwn", "lab"])
def test_binary_codes_of_zero_are_named(tmp_path, quantizer):
    """Sequential MNIST starts with the identity for the candidate gate."""
    model = SequenceClassifier(10, 4, quantizer=quantizer)
    with pytest.raises(
            ConfigError, match=r"weight_hh_l0: 12 of its 64 codes are 0.*train the model first"):
        save_packed(model, tmp_path / "untrained")
    assert not (tmp_path / "untrained").exists()
    with torch.no_grad():
        model.rnn.weight_hh_l0 += 1e-6
    save_packed(model, tmp_path / "trained")
    assert torch.equal(load_packed(tmp_path / "trained")[0].rnn.quantized("weight_hh_l0").dense(),
                       model.rnn.quantized("weight_hh_l0").dense())


def test_two_codes_of_zero_have_room(tmp_path):
    save_packed(SequenceClassifier(10, 4, quantizer="twn"), tmp_path / "untrained")


# The card


def record_of(model, **config):
    own = {"quantizer": "twn", "normalizer": "layer", "hidden_size": 3, "num_layers": 1}
    return {"run_id": "a-run",
            "config": {"profile": "smoke", "dataset": "python_help", "seed": 3, **own, **config},
            "data": {"sha256": "abc"}, "metric": "bpc", "test_metric": 2.5, "size_kb": 1.25,
            "recipe": 1, "traces": {}}


def test_card(tmp_path):
    model = make("characters")
    record = record_of(model)
    save_packed(model, tmp_path / "a", record)
    loaded, card = load_packed(tmp_path / "a")
    common = {"model": "LanguageModel", "quantizer": "twn", "normalizer": "layer",
              "packed_bytes": packed_bytes(model)}
    assert card == common | {key: value for key, value in record.items() if key != "traces"} | {
        "profile": "smoke", "dataset": "python_help", "seed": 3}
    save_packed(loaded, tmp_path / "b", card)  # handed on
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    save_packed(model, tmp_path / "a")
    assert load_packed(tmp_path / "a")[1] == common | {"size_kb": packed_bytes(model) / 1024}


@pytest.mark.parametrize("damage", ["other model", "incomplete", "not JSON", "NaN"])
def test_records_that_do_not_fit(tmp_path, damage):
    model = make("characters")
    record = record_of(model, **({"hidden_size": 4} if damage == "other model" else {}))
    if damage == "incomplete":
        del record["metric"]
    if damage == "not JSON":
        record["data"] = {"sha256": torch.zeros(1)}
    if damage == "NaN":
        record["test_metric"] = math.nan
    word = {"other model": "hidden_size 4", "incomplete": "metric", "not JSON": "JSON",
            "NaN": "JSON"}[damage]
    with pytest.raises(ConfigError, match=word):
        save_packed(model, tmp_path / "a", record)
    assert list(tmp_path.iterdir()) == []


# What cannot be saved


class Derived(LanguageModel):
    pass


class Own(nn.Module):
    def forward(self, weight):
        return weight


def changed(model, **attributes):
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: make("lstm", lambda weight: weight.sign()), "quantizer of your own"),
        (lambda: make("lstm", functools.partial(quantizers.alternating, bits=3)),
         "quantizer of your own"),
        (lambda: make("characters", Own()), "quantizer of your own"),
        (lambda: make("characters", "torch:sign"), "quantizer of your own"),
        (lambda: make("lstm", normalizer=nn.LayerNorm(3)), "normalizer of your own"),
        (lambda: make("characters", normalizer="torch:tanh"), "normalizer of your own"),
        (lambda: Derived(5, 3), "cannot pack a Derived"),
        (lambda: nn.LSTM(5, 3), "cannot pack a LSTM"),
        (lambda: make("characters").double(), "call model.float"),
        (lambda: make("lstm").half(), "call model.float"),
        (lambda: changed(lstm := make("lstm"), settings=lstm.settings | {"max_steps": np.int64(3)}),
         "JSON"),
        (lambda: changed(make("characters"), decoder=nn.Linear(3, 6)),
         "changed after construction"),
        (lambda: changed(make("lstm"), quantize_input=False), "changed after construction"),
    ],
)
def test_models_that_no_file_can_hold(tmp_path, build, words):
    model = build()
    with pytest.raises(ConfigError, match=words) as caught:
        save_packed(model, tmp_path / "a")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    if "own" in words or "cannot pack" in words:
        with pytest.raises(ConfigError, match=words):
            packed_bytes(model)


@pytest.mark.parametrize(
    ("bits", "function", "words"),
    [
        (3, lambda weight: Quantized(weight[None].round(), weight.new_ones(1, 4, 1, 1)), "3 bits"),
        (1, lambda weight: Quantized(weight[None], weight.new_ones(1, 4, 1, 1)),
         "codes and scales"),
        (
            2,
            lambda weight: Quantized(
                weight[None].sign(), weight.abs().amax((1, 2), keepdim=True)[None]),
            "codes and",
        ),
    ],
)
def test_quantizers_that_are_not_what_their_entry_says(
        tmp_path, monkeypatch, bits, function, words):
    """Without this check the file would hold another model."""
    monkeypatch.setitem(QUANTIZERS, "new", function)
    function.bits, function.scales = bits, None
    with pytest.raises(ConfigError, match=words):
        save_packed(make("lstm", "new"), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_new_entry_of_the_table_is_packed(tmp_path, monkeypatch):
    monkeypatch.setitem(QUANTIZERS, "steep", None)  # taken out again after the test

    @quantizers.quantizer(bits=2, scales="matrix")
    def steep(weight):
        codes = weight.sign() * (weight.abs() > 0.3)
        return Quantized(codes[None], weight.abs().amax((-2, -1), keepdim=True)[None])

    check_round_trip(make("characters", "steep"), tmp_path)


# Writing that fails


def test_a_write_that_fails_leaves_nothing(tmp_path):
    """A limit on the size of files, as a disk that fills up in the middle."""
    small, large = make("lstm"), make("lstm", sizes=(100, 100, 1))
    save_packed(small, tmp_path / "a")
    content = (tmp_path / "a").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            save_packed(large, tmp_path / "a")
        with pytest.raises(OSError, match="too large"):
            save_packed(large, tmp_path / "b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == content


def test_folders_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    for place in ("missing/a", "file/a"):
        with pytest.raises(OSError, match=place.split("/")[0]):
            save_packed(make("lstm"), tmp_path / place)
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        save_packed(make("lstm"), tmp_path / "folder")
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["file", "folder"]


def test_what_is_no_file_stays_what_it_is(tmp_path):
    """The place where a file is to be written is a device, a pipe, a folder, a link to one, or a
    link in a circle."""
    os.mkfifo(tmp_path / "pipe")
    with suppress(OSError):  # a device as /dev/null, which only root can make
        os.mknod(tmp_path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (tmp_path / "folder").mkdir()
    links = {"to_folder": "folder", "to_pipe": "pipe", "circle": "circle"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)

    def what_is_there():
        return {path: (path.lstat().st_mode, path.lstat().st_ino) for path in tmp_path.iterdir()}

    before = what_is_there()
    for path in before:
        with pytest.raises(OSError, match=re.escape(str(path))) as caught:
            save_packed(make("lstm"), path)
        assert len(str(caught.value).splitlines()) == 1
    assert what_is_there() == before


def test_links_are_followed(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to("far/model")
    (tmp_path / "longer").symlink_to("link")
    for content in ("new", "replaced"):
        save_packed(make("lstm"), tmp_path / "longer")
        load_packed(tmp_path / "far" / "model")
        assert (tmp_path / "link").is_symlink(), content
        assert (tmp_path / "longer").is_symlink(), content
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["model"]
    (tmp_path / "lost").symlink_to("missing/model")
    with pytest.raises(FileNotFoundError, match=r"lost'$"):
        save_packed(make("lstm"), tmp_path / "lost")


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_a_file_has_the_permissions_of_the_umask_or_those_it_had(tmp_path, umask):
    before = os.umask(umask)
    try:
        save_packed(make("lstm"), tmp_path / "new")
        (tmp_path / "old").touch()
        (tmp_path / "old").chmod(0o640)
        save_packed(make("lstm"), tmp_path / "old")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o640


def test_a_read_only_file_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("kept")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write to any file
    with pytest.raises(PermissionError, match=r"read-only: .*file'$"):
        save_packed(make("lstm"), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


# Damaged files


def test_truncated(path):
    content = path.read_bytes()
    for length in [*range(0, 40), *range(40, len(content), 23),
                   *range(len(content) - 9, len(content))]:
        path.write_bytes(content[:length])
        assert_refused(path)
    path.write_bytes(content + b"\0")
    assert_refused(path, "damaged")


def test_every_flipped_bit_is_found(path):
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    positions = [*range(16), *range(16, header, 3), *range(header - 8, len(content))]
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        assert_refused(path)
    path.write_bytes(content)
    load_packed(path)


@given(st.data())
@examples
def test_other_bytes_are_found(folder, data):
    path = folder / "damaged"
    save_packed(make("gru", "lab", "batch_shared", sizes=(2, 2, 1)), path)
    content = bytearray(path.read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    for position in data.draw(
            st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4, unique=True)):
        same_meaning = (b" \t\r\n" if position < end and content[position] == 0x20
                        else content[position : position + 1])
        content[position] = data.draw(st.sampled_from(sorted(set(range(256)) - set(same_meaning))))
    path.write_bytes(content)
    assert_refused(path)


@pytest.mark.parametrize("key", ["version", "model", "settings", "card", "sha256"])
def test_metadata_that_were_changed(path, key):
    old = header_of(path.read_bytes())[0]
    changed = {"version": "1 ", "model": "QuantLSTM", "settings": settings_with(path, dropout=0.5),
               "card": "{}", "sha256": old["sha256"][::-1]}
    path.write_bytes(
        hashed_tensors.serialize(safetensors.numpy.load(path.read_bytes()),
                                 old | {key: changed[key]}))
    assert_refused(path, "damaged")


@pytest.mark.parametrize("key", ["format", "version", "model", "settings", "card", "sha256"])
def test_metadata_that_are_missing(path, key):
    rewrite(path, without=[key])
    assert_refused(path)


def test_a_newer_version(path):
    rewrite(path, version="2")
    assert_refused(path, "version '2'", "reads 1", "newer qlstm")
    rewrite(path, version="1\n")
    assert_refused(path, "version")


# Files of others, and hostile ones whose sha256 is right


def test_files_of_others(tmp_path):
    for name, content in [
        ("empty", b""),
        ("text", b"All happy families are alike; each unhappy family is unhappy in its own way.\n"),
        ("tensors", safetensors.numpy.save({"weight": np.zeros(3, np.float32)})),
        ("metadata", safetensors.numpy.save({"weight": np.zeros(3, np.float16)}, {"format": "pt"})),
        ("zeros", bytes(1000)),
    ]:
        (tmp_path / name).write_bytes(content)
        assert_refused(tmp_path / name, "not a packed model")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "torch")
    assert_refused(tmp_path / "torch", "not a packed model")
    assert_refused(tmp_path, "not a packed model")
    os.mkfifo(tmp_path / "pipe")
    assert_refused(tmp_path / "pipe", "not a packed model")
    with pytest.raises(FileNotFoundError, match="missing"):
        load_packed(tmp_path / "missing")


class Payload:
    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return open, (self.place, "w")


def test_a_pickle_does_not_run(tmp_path):
    marker = tmp_path / "ran"
    for name, write in [("pickle", pickle.dump), ("torch", torch.save)]:
        with (tmp_path / name).open("wb") as file:
            write(Payload(marker), file)
        assert_refused(tmp_path / name, "not a packed model")
        assert not marker.exists()
    with (tmp_path / "pickle").open("rb") as file:
        pickle.load(file).close()
    assert marker.exists()  # the payload is one


@pytest.mark.parametrize("where", ["quantizer", "normalizer", "cell", "backend", "model"])
def test_nothing_that_a_file_names_is_imported(path, tmp_path, monkeypatch, where):
    marker = tmp_path / "ran"
    (tmp_path / "hostile.py").write_text(
        f"open({str(marker)!r}, 'w').close()\ndef quantize(w): return w\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("hostile:quantize", "os:system", "builtins:exec", "hostile"):
        if where == "model":
            rewrite(path, model=name)
        else:
            rewrite(path, settings=settings_with(path, **{where: name}))
        assert_refused(path, where, name, "nothing was imported")
    assert not marker.exists()
    assert "hostile" not in sys.modules
    QuantLSTM(2, 2, quantizer="hostile:quantize")
    assert marker.exists()  # the payload is one
    del sys.modules["hostile"]


@pytest.mark.parametrize(
    "changes",
    [dict(hidden_size=10**9), dict(hidden_size=10**5), dict(hidden_size=2**52),
     dict(hidden_size=2**62), dict(hidden_size=10**400), dict(vocabulary_size=10**12),
     dict(num_layers=10**12), dict(num_layers=4), dict(num_layers=0), dict(num_layers=None),
     dict(hidden_size=2), dict(hidden_size=3.0), dict(hidden_size=True), dict(hidden_size="3"),
     dict(hidden_size=[3]), dict(vocabulary_size=-5), dict(embedding_size=5), dict(cell="gru"),
     dict(quantizer="binary_connect"), dict(quantizer="alternating"), dict(quantizer="sbn"),
     dict(quantizer=None), dict(quantizer=["twn"]),
     dict(normalizer="batch_separate", max_steps=10**12), dict(normalizer={}),
     dict(dropout=math.nan), dict(dropout=math.inf), dict(dropout=2), dict(dropout="0.5"),
     dict(dropout=-0.5),
     dict(unheard_of=1), dict(model="LanguageModel"), dict(quantize_input=False),
     dict(state_noise=[[1] * 10**5])],
    ids=lambda changes: str(changes)[:60],
)
def test_settings_that_do_not_fit(path, changes):
    rewrite(path, settings=settings_with(path, **changes))
    assert_refused(path)


def test_causes_take_one_line(path, monkeypatch):
    def fail(*_):
        raise RuntimeError("too large\nException raised from somewhere in C++:\n" + 1000 * "frame ")

    monkeypatch.setattr(packing, "_build", fail)
    assert_refused(path, "too large")


def test_absurd_sizes_take_no_memory(path):
    load_packed(path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for changes in [dict(hidden_size=20_000), dict(vocabulary_size=10**8),
                    dict(embedding_size=10**8)]:
        rewrite(path, settings=settings_with(path, **changes))
        assert_refused(path, "by the settings")
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 50_000
    )  # KB; d = 20,000 would take 6 GB


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", "[" * 100_000, '{"a": 1e999}', "9" * 5000])
def test_settings_that_are_none(path, text):
    rewrite(path, settings=text)
    assert_refused(path)


def test_tensors_that_do_not_fit(path):
    content = path.read_bytes()
    tensors = safetensors.numpy.load(content)
    name, codes = "rnn.codes_l0", tensors["rnn.codes_l0"]
    bias = tensors["rnn.bias_l0"]
    for without, added, word in [
            ([name], {}, "missing"), (["decoder.bias"], {}, "missing"),
            ([], {"more": bias}, "more"), ([], {"two\nlines": bias}, "lines"),
            ([], {"rnn.weight_hh_l0": np.zeros((12, 3), np.float32)}, "rnn.weight_hh_l0"),
            ([], {"rnn.second_moment_hh_l0": np.zeros((12, 3), np.float32)}, "second_moment"),
            ([], {name: np.append(codes, np.uint8(0))}, name), ([], {name: codes[:-1]}, name),
            ([], {name: codes.astype(np.float32)}, name),
            ([], {"rnn.bias_l0": bias[None]}, "rnn.bias_l0"),
            ([], {"rnn.scales_hh_l0": np.zeros((1, 4, 3, 1), np.float32)}, "scales"),
            ([], {name: np.full_like(codes, 255)}, "no code")]:
        path.write_bytes(content)
        rewrite(path, added, without)
        assert_refused(path, word)


@pytest.mark.parametrize("text", ["long " * 10**3, "two\nlines", "\x1b[31m", "\udcfc", "\u202e"])
def test_what_a_file_says_is_quoted_in_part_and_in_print(path, text):
    content = path.read_bytes()
    bias = safetensors.numpy.load(content)["rnn.bias_l0"]
    for where in ("tensor", "shape", "version", "format", "model", "setting", "key", "card"):
        path.write_bytes(content)
        if where == "tensor":
            rewrite(path, {text.encode(errors="replace").decode(): bias})
        elif where == "shape":
            rewrite(path, {"rnn.bias_l0": bias.reshape([1] * 60 + [len(bias)])})
        elif where == "setting":
            rewrite(path, settings=settings_with(path, quantizer=[text], hidden_size={text: text}))
        elif where == "key":
            rewrite(path, settings=settings_with(path, **{text: 1}))
            assert_refused(path)
            rewrite(path, settings=settings_with(path, **{text: [[text] * 9] * 9}))
        else:
            rewrite(path, **{where: text.encode(errors="replace").decode()})
        assert_refused(path)


@pytest.mark.parametrize(
    "changes", [dict(model="QuantGRU"), dict(quantizer="bwn"), dict(normalizer=None),
                dict(packed_bytes=10**400), dict(packed_bytes=[["long"] * 10**4])],
    ids=lambda changes: str(changes)[:60])
def test_a_card_of_another_model(path, changes):
    card = json.loads(header_of(path.read_bytes())[0]["card"])
    rewrite(path, card=json.dumps(card | changes))
    assert_refused(path, "a card of another model")


def test_a_file_of_an_odd_name(tmp_path):
    path = tmp_path / "a\n\udcfc"
    path.write_bytes(b"no model")
    with pytest.raises(PackedError) as caught:
        load_packed(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.bool_])
def test_other_types(path, dtype):
    content = path.read_bytes()
    metadata, tensors = header_of(content)[0], safetensors.numpy.load(content)
    tensors["rnn.bias_l0"] = tensors["rnn.bias_l0"].astype(dtype)
    path.write_bytes(hashed_tensors.serialize(tensors, metadata))
    assert_refused(path, "types")


def test_filled_up_with_ones(tmp_path):
    save_packed(make("lstm", "binary_connect", "none", sizes=(2, 3, 1)), tmp_path / "a")  # 60 bits
    codes = safetensors.numpy.load((tmp_path / "a").read_bytes())["codes_l0"]
    rewrite(tmp_path / "a", {"codes_l0": codes | np.array([0] * 7 + [1], np.uint8)})
    assert_refused(tmp_path / "a", "no code")


@pytest.mark.parametrize("layer", [QuantLSTM, QuantGRU])
def test_files_of_ordinary_networks_are_those_of_the_first_version(layer, tmp_path):
    """Arguments that came later are named only where they are others."""
    later = {"bias": False, "batch_first": True, "bidirectional": True}
    x = torch.randn(2, 3, 3)
    for own in ({}, later):
        model = layer(3, 4, 2, quantizer="twn", normalizer="weight", **own).eval()
        save_packed(model, tmp_path / "packed")
        found = json.loads(header_of((tmp_path / "packed").read_bytes())[0]["settings"])
        assert {name: found[name] for name in later if name in found} == own
        assert found["max_steps"] is None
        assert same(outputs(load_packed(tmp_path / "packed")[0], x), outputs(model, x))
