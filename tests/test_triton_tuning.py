"""Tiles of the triton backend chosen by time, with stand-ins for a GPU and for the time."""

import json
import os

import pytest
import torch
from test_triton import launches, needs_triton

from qlstm.recurrence import cache, triton_tuning
from qlstm.recurrence import triton_tiling as tiling
from qlstm.recurrence.triton_tiling import CANDIDATES, Tiles

DEVICE = torch.device("cpu")
SHAPE = (64, 512, "none", True)
PIECE, NARROW = Tiles(piece=128), Tiles(samples=16, units=16)


@pytest.fixture(autouse=True)
def gpu(monkeypatch, tmp_path):
    """A GPU, an empty cache folder, and a process that has read nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(triton_tuning, "_gpu", lambda device: "GPU")
    monkeypatch.setattr(tiling, "multiprocessors", lambda device: 132)
    forget()
    yield tmp_path / "qlstm" / triton_tuning.FILE
    forget()


def forget():
    triton_tuning.chosen.cache_clear()
    triton_tuning._stored.cache_clear()


def times(monkeypatch, seconds, wrong=()):
    """A stand-in for :func:`triton_tuning.measure`: 1 s where nothing is said, an exception is
    raised."""
    measured = []

    def measure(T, N, d, kind, coded, device, tiles):
        measured.append(tiles)
        found = seconds.get(tiles, 1.0)
        if isinstance(found, Exception):
            raise found
        value = torch.nan if tiles in wrong else 1.0
        return found, [torch.ones(3), torch.full((3,), value)]

    monkeypatch.setattr(triton_tuning, "measure", measure)
    return measured


def tune(*shape, said=None):
    return triton_tuning.tune(9, *shape, DEVICE, report=(said if said is not None else []).append)


def test_the_fastest_is_stored_and_chosen(monkeypatch, gpu):
    measured, said = times(monkeypatch, {PIECE: 0.5, NARROW: 0.7}), []
    assert triton_tuning.chosen(DEVICE, *SHAPE) == Tiles()
    assert tune(*SHAPE, said=said) == PIECE
    assert measured[0] == Tiles()
    assert set(measured) > {PIECE, NARROW}
    assert ("N 64, d 512, none, coded: samples 32, units as fit, warps 4, piece 128 500.000 ms"
            in said)
    assert triton_tuning.chosen(DEVICE, *SHAPE) == PIECE
    assert triton_tuning.chosen(DEVICE, 64, 512, "none", False) == Tiles()
    forget()  # another process
    assert triton_tuning.chosen(DEVICE, *SHAPE) == PIECE
    monkeypatch.setattr(triton_tuning, "_gpu", lambda device: "another GPU")
    forget()
    assert triton_tuning.chosen(DEVICE, *SHAPE) == Tiles()


@needs_triton
def test_kernels_get_what_is_chosen(monkeypatch):
    def pieces():
        recorded = launches(monkeypatch, 20, 48, "none", coded=True)
        return {args[-1] for _, args, _ in recorded}, {args[-2] for _, args, _ in recorded}

    assert pieces() == ({64}, {4})
    triton_tuning._store("GPU", triton_tuning._shape(20, 48, "none", True),
                         Tiles(units=8, piece=128))
    assert pieces() == ({128}, {8})


def test_a_training_step_reads_no_file(monkeypatch):
    times(monkeypatch, {PIECE: 0.5})
    tune(*SHAPE)
    assert triton_tuning.chosen(DEVICE, *SHAPE) == PIECE
    monkeypatch.setattr(triton_tuning, "_read", lambda: pytest.fail("reads again"))
    monkeypatch.setattr(triton_tuning, "_shape", lambda *shape: pytest.fail("looks up again"))
    assert triton_tuning.chosen(DEVICE, *SHAPE) == PIECE


def test_other_shapes_and_gpus_are_kept(monkeypatch, gpu):
    for index, shape in enumerate([SHAPE, (20, 300, "layer", False), (20, 300, "batch", True)]):
        times(monkeypatch, {CANDIDATES[-1 - index]: 0.5})
        tune(*shape)
    monkeypatch.setattr(triton_tuning, "_gpu", lambda device: "another GPU")
    tune(*SHAPE)
    stored = json.loads(gpu.read_text())
    assert {name: len(shapes) for name, shapes in stored.items()} == {"GPU": 3, "another GPU": 1}
    assert os.listdir(gpu.parent) == [triton_tuning.FILE]


@pytest.mark.parametrize("content", [
    "", "{", "[]", "\x00", '{"GPU": []}', '{"GPU": {"N 64, d 512, none, coded": 3}}',
    '{"GPU": {"N 64, d 512, none, coded": {"samples": 16, "piece": "x"}}}',
    '{"GPU": {"N 64, d 512, none, coded": {"length": 16}}}',
    '{"GPU": {"N 64, d 512, none, coded": {"units": 5}}}',
])
def test_a_damaged_file_is_as_none(content, monkeypatch, gpu):
    gpu.parent.mkdir()
    gpu.write_text(content)
    assert triton_tuning.chosen(DEVICE, *SHAPE) == Tiles()
    times(monkeypatch, {PIECE: 0.5})
    tune(*SHAPE)
    assert triton_tuning.chosen(DEVICE, *SHAPE) == PIECE


def test_a_file_that_cannot_be_read_is_as_none(gpu):
    gpu.mkdir(parents=True)
    assert triton_tuning.chosen(DEVICE, *SHAPE) == Tiles()


def test_candidates_that_fail_or_differ_are_left_out(monkeypatch):
    said = []
    times(monkeypatch, {PIECE: RuntimeError("out of resource: shared memory\nmore"),
                        NARROW: 0.1, Tiles(warps=2): 0.9}, wrong=[NARROW])
    assert tune(*SHAPE, said=said) == Tiles(warps=2)
    assert any(
        line.endswith("piece 128 left out: out of resource: shared memory") for line in said)
    assert any("samples 16, units 16" in line and "differ by nan" in line for line in said)


def test_nothing_is_stored_where_the_default_fails(monkeypatch, gpu):
    times(monkeypatch, {Tiles(): RuntimeError("no kernel"), PIECE: 0.1})
    assert tune(*SHAPE) == Tiles()
    assert not gpu.exists()


def test_only_what_makes_a_difference_is_offered():
    def offered(N, d, kind, coded):
        return tiling.candidates(N, d, kind, coded, 132)

    assert offered(64, 512, "none", True)[0] == Tiles()
    # 8 units are what fits there
    assert set(CANDIDATES) - set(offered(64, 512, "none", True)) == {
        Tiles(units=8), Tiles(units=8, piece=128)}
    for N in (10, 64, 200):
        assert NARROW not in offered(N, 300, "batch", True)
        for tiles in offered(N, 300, "batch", True):
            assert tiling.Blocks(N, 300, "batch", True, 132, tiles).forward_grid[1] == 1
    assert offered(100, 100, "layer", True) == [Tiles()]  # a program has all units
    assert len(offered(100, 100, "layer", False)) > 1


def test_where_there_is_one_candidate_nothing_is_timed(monkeypatch, gpu):
    measured, said = times(monkeypatch, {}), []
    tune(100, 100, "layer", True, said=said)
    assert measured == []
    assert not gpu.exists()
    assert len(said) == 1
    assert "nothing to choose" in said[0]


def test_all_shapes_of_the_paper_and_each_is_stored_at_once(monkeypatch, gpu):
    class TimeIsUp(BaseException):
        pass

    times(monkeypatch, {PIECE: 0.5})
    lines = []

    def report(line):
        lines.append(line)
        if sum("stored" in line for line in lines) == 4:
            raise TimeIsUp

    with pytest.raises(TimeIsUp):
        triton_tuning.tune_all(device=DEVICE, report=report)
    assert len(json.loads(gpu.read_text())["GPU"]) == 4
    said = []
    triton_tuning.tune_all([(35, 20, 300)], DEVICE, said.append)
    stored = json.loads(gpu.read_text())["GPU"]
    assert {f"N 20, d 300, {kind}, {codes}" for kind in ("none", "layer", "batch")
            for codes in ("coded", "dense")} <= set(stored)


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file"
    with cache.replacing(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
    with pytest.raises(KeyError), cache.replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "first"
    assert os.listdir(path.parent) == ["file"]
