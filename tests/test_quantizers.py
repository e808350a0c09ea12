"""Quantizers against a numpy derivation, brute force and their value sets."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tolerances import TOLERANCES, assert_close

import qlstm
from qlstm.quantizers import QUANTIZERS, Quantized, find_quantizer, straight_through

BINARY = ["binary_connect", "bwn", "lab", "sbn"]
TERNARY = ["ter_connect", "twn", "lat", "stn"]
STOCHASTIC = ["sbn", "stn"]
LOSS_AWARE = ["lab", "lat"]
DETERMINISTIC = [name for name in QUANTIZERS if name not in STOCHASTIC]

examples = settings(max_examples=25, deadline=None, derandomize=True, database=None)


# The derivation, from the definitions: float64, one matrix at a time.


def sign(w):
    return np.where(w > 0, 1.0, np.where(w < 0, -1.0, 0.0))


def ternary(w, threshold):
    return np.where(w > threshold, 1.0, np.where(w < -threshold, -1.0, 0.0))


def diagonal(w, v):
    return np.ones_like(w) if v is None else np.sqrt(v) + 1e-8


def level(w):
    d, n_in = w.shape
    return math.sqrt(6 / (n_in + 4 * d)) / 2


def derive_lat(w, v=None, rounds=100):
    """Codes, scale, and the number of rounds it took."""
    D = diagonal(w, v)
    if not w.any():
        return np.zeros_like(w), 0.0, 0
    b = sign(w)
    alpha = np.sum(np.abs(b * D * w)) / np.sum(np.abs(b * D))
    done = 0
    while done < rounds:
        b = ternary(w, alpha / 2)
        last, alpha = alpha, np.sum(np.abs(b * D * w)) / np.sum(np.abs(b * D))
        done += 1
        if abs(alpha - last) < 1e-6:
            break
    return b, alpha, done


def derive_greedy(w, k=2):
    """The greedy start of alternating, one row: planes (k, n), scales (k)."""
    residual, planes, alphas = w.copy(), [], []
    for _ in range(k):
        planes.append(np.where(residual >= 0, 1.0, -1.0))
        alphas.append(np.abs(residual).mean())
        residual = residual - alphas[-1] * planes[-1]
    return np.array(planes), np.array(alphas)


def derive_alternating(w, k=2):
    planes, _ = derive_greedy(w, k)
    patterns = np.array(list(itertools.product([-1.0, 1.0], repeat=k)))
    for _ in range(2):
        alphas = np.linalg.lstsq(planes.T, w, rcond=None)[0]
        nearest = np.abs(w[:, None] - patterns @ alphas).argmin(1)
        planes = patterns[nearest].T
    return alphas @ planes


def derive(name, w, v=None):
    """The quantized matrix, float64, of a deterministic quantizer; ``w`` one matrix."""
    w = np.asarray(w, dtype=np.float64)
    v = None if v is None else np.asarray(v, dtype=np.float64)
    magnitude = np.abs(w)
    if name == "full_precision":
        return w
    if name == "binary_connect":
        return sign(w)
    if name == "bwn":
        return magnitude.mean() * sign(w)
    if name == "lab":
        D = diagonal(w, v)
        return np.sum(D * magnitude) / np.sum(D) * sign(w)
    if name in ("ter_connect", "twn"):
        t = 0.7 * magnitude.mean()
        kept = magnitude[magnitude > t]
        alpha = 1.0 if name == "ter_connect" else kept.mean() if kept.size else 0.0
        return alpha * ternary(w, t)
    if name == "lat":
        b, alpha, _ = derive_lat(w, v)
        return alpha * b
    assert name == "alternating"
    return np.stack([derive_alternating(row) for row in w])


# Matrices.


@st.composite
def matrices(draw, dtypes=("float32", "float64"), most=7):
    """Small, of odd shapes: anything, normal, rows of constant magnitude, all zero; tiny to
    huge."""
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, most)))
    kind = draw(st.sampled_from(["anything", "normal", "normal", "constant", "zero"]))
    if kind == "zero":
        return np.zeros(shape, dtype)
    numbers = np.random.default_rng(draw(st.integers(0, 999)))
    if kind == "anything":
        special = st.sampled_from(
            [0.0, -0.0, 1.0, -1.0, 0.25, -1.5, 3.0, 1e-20, -1e-20, 1e12, -1e12])
        values = special | st.floats(-4, 4, width=16)
        return draw(hnp.arrays(dtype, shape, elements=values))
    if kind == "normal":
        w = numbers.normal(size=shape)
    else:
        w = numbers.normal(size=(shape[0], 1)) * numbers.choice([-1.0, 1.0], shape)
    w[numbers.random(shape) < draw(st.sampled_from([0.0, 0.0, 0.3]))] = 0.0
    return (w * draw(st.sampled_from([1.0, 1.0, 0.1, 1e-20, 1e12]))).astype(dtype)


@st.composite
def weighted(draw, **kwargs):
    """A matrix and a second moment (or None), with zeros, of any scale."""
    w = draw(matrices(**kwargs))
    scale = draw(st.sampled_from([None, 1.0, 1e-6, 1e-14, 1e4]))
    if scale is None:
        return w, None
    numbers = np.random.default_rng(draw(st.integers(0, 999)))
    v = scale * numbers.normal(size=w.shape) ** 2
    v[numbers.random(w.shape) < 0.2] = 0.0
    return w, v.astype(w.dtype)


def quantize(name, w, v=None):
    extra = {} if v is None or name not in LOSS_AWARE else {"second_moment": torch.from_numpy(v)}
    return QUANTIZERS[name](torch.from_numpy(w), **extra)


def parts(result):
    """Codes (k, d, n) and scales in float64."""
    return result.codes.double().numpy(), result.scales.double().numpy()


def near(a, b, dtype):
    """Equal up to rounding, relative to the largest magnitude."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    bound = TOLERANCES["formula" if dtype == np.float64 else "formula_float32"]["rtol"]
    return np.abs(a - b).max() <= bound * max(np.abs(a).max(), np.abs(b).max())


# All quantizers.


@pytest.mark.parametrize("name", QUANTIZERS)
@examples
@given(w=matrices())
def test_shape_dtype_and_values(name, w):
    result = quantize(name, w)
    codes, scales = result
    planes = 2 if name == "alternating" else 1
    assert isinstance(result, Quantized)
    assert codes.shape == (planes, *w.shape)
    assert scales.shape == ((planes, w.shape[0], 1) if name == "alternating" else (1, 1, 1))
    dtype = torch.from_numpy(w).dtype
    assert codes.dtype == scales.dtype == result.dense().dtype == dtype
    assert torch.isfinite(codes).all()
    assert torch.isfinite(scales).all()
    assert result.dense().shape == w.shape
    if name in (*BINARY, "alternating"):
        assert set(codes.unique().tolist()) <= {-1.0, 1.0} | ({0.0} if not w.all() else set())
    elif name in TERNARY:
        assert set(codes.unique().tolist()) <= {-1.0, 0.0, 1.0}
    torch.testing.assert_close(result.dense(), (scales * codes).sum(0), rtol=0, atol=0)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_weight_is_left_alone(name):
    w = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    before = w.clone()
    QUANTIZERS[name](w)
    assert torch.equal(w, before)


@examples
@given(w=matrices())
def test_full_precision_is_the_weight(w):
    assert torch.equal(quantize("full_precision", w).dense(), torch.from_numpy(w))


@pytest.mark.parametrize("name", ["binary_connect", "bwn", "lab"])
@examples
@given(wv=weighted())
def test_binary_codes_are_signs_and_an_exact_zero_stays_zero(name, wv):
    w, v = wv
    assert np.array_equal(parts(quantize(name, w, v))[0][0], sign(w))


@pytest.mark.parametrize("name", ["binary_connect", "bwn", "lab", "ter_connect", "twn", "lat"])
def test_a_scaled_identity_stays_one(name):
    """Where sequential MNIST starts: with sign(0) = +1 a binary code of it would be a matrix of
    ones."""
    codes, scales = parts(quantize(name, np.eye(5)))
    assert np.array_equal(codes[0], np.eye(5))
    assert scales.item() == pytest.approx({"bwn": 1 / 5, "lab": 1 / 5}.get(name, 1.0))


def test_the_sign_passes_no_gradient():
    assert (
        not QUANTIZERS["binary_connect"](torch.ones(2, 2, requires_grad=True)).dense().requires_grad
    )


def test_the_smallest_numbers_are_no_zeros():
    w = np.array([[5e-324, -5e-324, 0.0, -0.0]])
    assert quantize("binary_connect", w).dense().tolist() == [[1.0, -1.0, 0.0, 0.0]]


@examples
@given(w=matrices())
def test_unscaled_have_scale_one(w):
    for name in ("binary_connect", "ter_connect"):
        assert parts(quantize(name, w))[1].item() == 1.0


@pytest.mark.parametrize("name", ["ter_connect", "twn"])
@examples
@given(w=matrices())
def test_ternary_threshold(name, w):
    codes = parts(quantize(name, w))[0][0]
    w64 = w.astype(np.float64)
    t = 0.7 * np.abs(w64).mean()
    # a weight within rounding of the threshold may fall on either side
    clear = np.abs(np.abs(w64) - t) > (1e-12 if w.dtype == np.float64 else 1e-5) * t
    clear |= w64 == 0
    assert np.array_equal(codes[clear], ternary(w64, t)[clear])


@pytest.mark.parametrize("name", ["bwn", "lab"])
@examples
@given(wv=weighted())
def test_binary_scale_is_the_derived_one(name, wv):
    w, v = wv
    assert near(
        quantize(name, w, v).dense(), derive(name, w, v if name == "lab" else None), w.dtype)


@examples
@given(w=matrices())
def test_twn_scale_is_the_mean_of_what_is_kept(w):
    codes, scales = parts(quantize("twn", w))
    kept = np.abs(w.astype(np.float64))[codes[0] != 0]
    assert near(scales.item(), kept.mean() if kept.size else 0.0, w.dtype)


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (5, 13), (33, 65)])
@pytest.mark.parametrize("moment", [False, True])
def test_random_matrices_equal_the_derivation(name, shape, moment):
    numbers = np.random.default_rng(sum(shape))
    for scale in (0.05, 1.0, 30.0):
        w = scale * numbers.normal(size=shape)
        v = numbers.normal(size=shape) ** 2 * 1e-4 if moment and name in LOSS_AWARE else None
        assert_close(quantize(name, w, v).dense(), torch.from_numpy(derive(name, w, v)), "formula")


# The best scale, by brute force.


def error(w, v, codes, alpha):
    """Weighted squared error, in units of the weighted square of w."""
    D, unit = diagonal(w, v), np.abs(w).max() or 1.0
    return np.sum(D * (alpha * codes / unit - w / unit) ** 2) / np.sum(D)


@pytest.mark.parametrize("name", ["bwn", "lab", "twn", "lat"])
@examples
@given(wv=weighted())
def test_no_other_scale_is_better(name, wv):
    w, v = wv
    assume(
        w.all() or name in ("twn", "lat")
    )  # BWN and LAB count exact zeros, whose code is 0, as the release does
    codes, scales = parts(quantize(name, w, v))
    w, v = (w.astype(np.float64),
            v.astype(np.float64) if v is not None and name in LOSS_AWARE else None)
    alpha, largest = scales.item(), np.abs(w).max() or 1.0
    best = error(w, v, codes[0], alpha)
    others = [alpha * (1 + step) for step in (-0.5, -0.1, -1e-2, 1e-2, 0.1, 0.5)]
    others += [alpha + step * largest for step in (-1e-2, 1e-2)] + list(
        np.linspace(0, largest, 101))
    for other in others:
        assert error(w, v, codes[0], other) >= best - TOLERANCES["objective"]["atol"]


@pytest.mark.parametrize("name", ["bwn", "lab"])
@examples
@given(wv=weighted(dtypes=("float64",), most=2))
def test_no_other_binary_matrix_is_better(name, wv):
    w, v = wv
    assume(w.size <= 8)
    v = v if name == "lab" else None
    codes, scales = parts(quantize(name, w, v))
    best = error(w, v, codes[0], scales.item())
    for pattern in itertools.product([-1.0, 1.0], repeat=w.size):
        b = np.reshape(pattern, w.shape)
        D = diagonal(w, v)
        alpha = max(0.0, np.sum(D * b * w) / np.sum(D))  # least squares for these codes
        assert error(w, v, b, alpha) >= best - TOLERANCES["objective"]["atol"]


@examples
@given(w=matrices())
def test_lab_without_second_moment_is_bwn(w):
    plain, aware = quantize("bwn", w), QUANTIZERS["lab"](torch.from_numpy(w), second_moment=None)
    assert torch.equal(plain.codes, aware.codes)
    assert near(plain.scales, aware.scales, w.dtype)


@pytest.mark.parametrize("name", LOSS_AWARE)
def test_constant_second_moment_stands_for_none(name):
    w = np.random.default_rng(0).normal(size=(5, 7))
    for v in (1.0, 1e-9):
        assert_close(
            quantize(name, w, np.full_like(w, v)).dense(), quantize(name, w).dense(), "formula")


@pytest.mark.parametrize("name", LOSS_AWARE)
def test_zero_second_moment_is_no_division_by_zero(name):
    w = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    zero = np.zeros_like(w)
    assert_close(quantize(name, w, zero).dense(), quantize(name, w).dense(), "formula_float32")
    one = zero.copy()
    one[2, 3] = 1.0  # one entry decides the scale
    assert near(quantize(name, w, one).scales, [[[abs(w[2, 3])]]], np.float32)


# lat.


@examples
@given(wv=weighted(dtypes=("float64",)))
def test_lat_is_a_local_optimum(wv):
    w, v = wv
    codes, scales = parts(quantize("lat", w, v))
    b, alpha = codes[0], scales.item()
    if not w.any():
        assert not b.any()
        assert alpha == 0.0
        return
    # the scale is the best for the codes
    D = diagonal(w, v)
    assert np.isclose(alpha, np.sum(D * np.abs(b * w)) / np.sum(D * np.abs(b)), rtol=1e-12, atol=0)
    # the codes are the best for the scale, which moved by less than 1e-6 in the last round
    clear = np.abs(np.abs(w) - alpha / 2) > 5e-7 + 1e-12 * alpha
    assert np.array_equal(b[clear], ternary(w, alpha / 2)[clear])
    # and no worse than where the alternation starts
    start = np.sum(D * np.abs(w)) / np.sum(D)
    assert error(w, v, b, alpha) <= error(w, v, sign(w), start) + TOLERANCES["objective"]["atol"]


def test_lat_fixed_point_by_hand():
    # sign: alpha = 10/5 = 2; |w| > 1 keeps 5, 3: alpha = 4; |w| > 2 keeps both
    result = quantize("lat", np.array([[5.0, -3.0, 1.0, -1.0, 0.0]]))
    assert result.codes[0].tolist() == [[1.0, -1.0, 0.0, 0.0, 0.0]]
    assert result.scales.item() == 4.0


def staircase(n=9):
    """1, 1/4, 1/16, ...: the alternation drops some entries every round (dyadic: all sums are
    exact)."""
    return np.array([[(-1.0) ** k * 0.25**k for k in range(n)]])


def test_lat_takes_several_rounds():
    w = staircase()
    b, alpha, rounds = derive_lat(w)
    assert rounds >= 3
    result = quantize("lat", w)
    assert np.array_equal(result.codes[0].numpy(), b)
    assert result.scales.item() == pytest.approx(alpha, rel=1e-15)


def test_lat_stops_after_100_rounds():
    """Each weight is just under half the mean of the larger ones and itself: every round drops
    one."""
    row = [1.0]
    for m in range(2, 151):
        row.append(0.9999 * sum(row) / (2 * m - 0.9999))
    w = np.array([row])
    b, alpha, rounds = derive_lat(w)
    assert rounds == 100
    assert derive_lat(w, rounds=1000)[2] > 100
    assert b.sum() == 50
    result = quantize("lat", w)
    assert np.array_equal(result.codes[0].numpy(), b)
    assert result.scales.item() == pytest.approx(alpha, rel=1e-12)


def test_lat_stops_each_matrix_of_a_batch_on_its_own():
    """Tiny matrices stop after a round, since alpha moves by less than 1e-6, while others go on."""
    numbers = np.random.default_rng(1)
    base = (staircase(), np.zeros((1, 9)), staircase() * 2.0**-20, staircase() * 2.0**-40,
            numbers.normal(size=(1, 9)))
    rounds = [derive_lat(w)[2] for w in base]
    assert rounds[0] > rounds[2] == rounds[3] == 1
    # going on would change what they give
    assert not np.array_equal(derive_lat(base[2])[0], derive_lat(base[0])[0])
    for order in itertools.permutations(range(5), 4):
        batch = torch.from_numpy(np.stack([base[k] for k in order]))
        together = QUANTIZERS["lat"](batch)
        for g, k in enumerate(order):
            alone = quantize("lat", base[k])
            assert torch.equal(together.codes[:, g], alone.codes)
            assert torch.equal(together.scales[:, g], alone.scales)
            assert_close(alone.dense(), torch.from_numpy(derive("lat", base[k])), "formula")


def test_lat_batch_with_second_moments_equals_each_alone():
    numbers = np.random.default_rng(2)
    w = numbers.normal(size=(40, 5, 7)) * 10.0 ** numbers.integers(-7, 1, size=(40, 1, 1))
    v = numbers.normal(size=w.shape) ** 2
    together = quantize("lat", w, v)
    for g in range(len(w)):
        alone = quantize("lat", w[g], v[g])
        assert torch.equal(together.codes[:, g], alone.codes)
        assert_close(together.scales[:, g], alone.scales, "formula")
        assert_close(alone.dense(), torch.from_numpy(derive("lat", w[g], v[g])), "formula")


# Stochastic.


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 2), (128, 50)])
def test_stochastic_level(name, shape):
    w = np.random.default_rng(0).normal(size=shape) * level(np.empty(shape))
    result = quantize(name, w)
    assert_close(result.scales, torch.full((1, 1, 1), level(w), dtype=torch.float64), "formula")
    codes, w = result.codes[0].numpy(), torch.from_numpy(w).numpy()
    if name == "stn":  # A sign(w) or 0
        assert np.all((codes == 0) | (codes == np.sign(w)))


def test_stochastic_level_by_hand():
    # d = 512, 87 inputs: A = sqrt(6 / (87 + 2048)) / 2
    assert level(np.empty((512, 87))) == pytest.approx(0.0265062, rel=1e-5)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_generator_makes_it_reproducible(name):
    w = torch.randn(9, 11, generator=torch.Generator().manual_seed(3)) * 0.1
    draw = lambda seed: QUANTIZERS[name](w, generator=torch.Generator().manual_seed(seed)).codes  # noqa: E731
    assert torch.equal(draw(5), draw(5))
    assert not torch.equal(draw(5), draw(6))
    generator = torch.Generator().manual_seed(5)
    first, second = (QUANTIZERS[name](w, generator=generator).codes for _ in range(2))
    assert not torch.equal(first, second)  # a fresh sample a call


def test_default_generator_is_torchs_and_a_given_one_leaves_it_alone():
    w = torch.zeros(9, 11)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = QUANTIZERS["sbn"](w).codes
        torch.manual_seed(1)
        assert torch.equal(first, QUANTIZERS["sbn"](w).codes)
        state = torch.get_rng_state()
        QUANTIZERS["sbn"](w, generator=torch.Generator().manual_seed(0))
        assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities(name, dtype):
    """Frequencies of every entry within 5 standard deviations (0.03 and less) of the
    probabilities."""
    draws, shape = 8000, (3, 7)
    A = level(np.empty(shape))
    w = torch.linspace(-1.3, 1.3, 21, dtype=torch.float64).view(shape) * A
    codes = QUANTIZERS[name](
        w.to(dtype).expand(draws, *shape), generator=torch.Generator().manual_seed(0)).codes[0]
    if name == "sbn":
        probability = ((w / A + 1) / 2).clip(0, 1)
        frequency = (codes == 1).double().mean(0)
        assert set(codes.unique().tolist()) == {-1.0, 1.0}
    else:
        probability = (w.abs() / A).clip(max=1)
        frequency = ((codes == torch.sign(w)) .double() .mean(0)
                     .where(w.abs() > 1e-12, 1 - (codes == 0).double().mean(0)))
        assert set(codes.unique().tolist()) == {-1.0, 0.0, 1.0}
    spread = (probability * (1 - probability) / draws).sqrt()
    assert ((frequency - probability).abs() <= 5 * spread + 1e-12).all()
    # entries are drawn on their own, not once a matrix
    deviations = codes.double() - codes.double().mean(0)
    middle = deviations.flatten(1)[:, 7:9]
    assert abs((middle[:, 0] * middle[:, 1]).mean()) < 5 / math.sqrt(draws)


@pytest.mark.parametrize("name", STOCHASTIC)
@examples
@given(w=matrices(), seed=st.integers(0, 99))
def test_certain_outside_the_level(name, w, seed):
    codes = (QUANTIZERS[name](torch.from_numpy(w), generator=torch.Generator().manual_seed(seed))
             .codes[0] .numpy())
    outside = np.abs(w) > level(w) * (1 + 1e-6)
    assert np.array_equal(codes[outside], np.sign(w)[outside])
    if name == "stn":
        assert not codes[w == 0].any()


# Alternating.


def squares(x):
    return np.sum(np.asarray(x, np.float64) ** 2, axis=-1)


@examples
@given(w=matrices(), bits=st.integers(1, 4))
def test_alternating_is_never_worse_than_greedy(w, bits):
    result = QUANTIZERS["alternating"](torch.from_numpy(w), bits=bits)
    assert result.codes.shape == (bits, *w.shape)
    assert result.scales.shape == (bits, w.shape[0], 1)
    assert set(result.codes.unique().tolist()) <= {-1.0, 1.0}
    unit = np.abs(w).max(-1, keepdims=True).astype(np.float64)
    unit[unit == 0] = 1.0
    w64 = w.astype(np.float64)
    greedy = np.stack(
        [alphas @ planes for planes, alphas in (derive_greedy(row, bits) for row in w64)])
    rounding = TOLERANCES["objective" if w.dtype == np.float64 else "objective_float32"]["atol"]
    ours = squares((result.dense().double().numpy() - w64) / unit)
    assert np.all(ours <= squares((greedy - w64) / unit) + rounding)


@examples
@given(a=st.floats(1.0, 3.0), b=st.floats(0.01, 0.9), seed=st.integers(0, 999),
       shape=st.tuples(st.integers(1, 4), st.integers(1, 9)),
       dtype=st.sampled_from([np.float32, np.float64]))
def test_alternating_is_exact_for_sums_of_two_scaled_planes(a, b, seed, shape, dtype):
    numbers = np.random.default_rng(seed)
    w = (a * numbers.choice([-1.0, 1.0], shape) + b * numbers.choice([-1.0, 1.0], shape)).astype(
        dtype)
    assert near(quantize("alternating", w).dense(), w, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "row",
    [[2.0, 2.0, 2.0], [-2.0, -2.0, -2.0], [2.0, -2.0, 2.0], [0.0, 0.0, 0.0], [3e-20, -3e-20, 3e-20],
     [7.0]],
)
def test_alternating_coinciding_planes(row, dtype):
    w = np.array([row, [1.0, -2.0, 0.5][: len(row)]], dtype)
    for bits in (2, 3):
        result = QUANTIZERS["alternating"](torch.from_numpy(w), bits=bits)
        assert torch.isfinite(result.scales).all()
        assert near(result.dense()[0], w[0], dtype)


def test_alternating_scales_are_a_row_each():
    w = np.random.default_rng(0).normal(size=(3, 9))
    scaled = w * np.array([[1.0], [10.0], [0.1]])
    factor = torch.tensor([1.0, 10.0, 0.1], dtype=torch.float64)[:, None]
    assert_close(quantize("alternating", scaled).dense(),
                 quantize("alternating", w).dense() * factor, "formula")


# Batches, gradients, names.


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_four_gates_at_once_equal_four_calls(name, dtype):
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(4, 5, 7, generator=generator, dtype=dtype) * torch.tensor(
        [0.1, 1.0, 5.0, 0.0], dtype=dtype).view(4, 1, 1)
    if name in STOCHASTIC:  # where the outcome is certain
        w[w.abs() < 1] = 1.0
    v = torch.rand(4, 5, 7, generator=generator, dtype=dtype)
    extra = [{"second_moment": m} if name in LOSS_AWARE else {} for m in (v, *v)]
    together = QUANTIZERS[name](w, **extra[0])
    planes = 2 if name == "alternating" else 1
    assert together.codes.shape == (planes, 4, 5, 7)
    assert together.scales.shape == (planes, 4, 5 if name == "alternating" else 1, 1)
    for g in range(4):
        alone = QUANTIZERS[name](w[g], **extra[1 + g])
        assert torch.equal(together.codes[:, g], alone.codes)
        assert_close(together.scales[:, g], alone.scales,
                     "formula" if dtype == torch.float64 else "formula_float32")


@pytest.mark.parametrize("name", QUANTIZERS)
def test_straight_through_forward_exact_gradient_identity(name):
    generator = torch.Generator().manual_seed(0)
    w = (torch.randn(5, 7, generator=generator) * 1e-3).requires_grad_()  # w + (q - w) would round
    quantized = QUANTIZERS[name](w).dense()
    value = straight_through(w, quantized)
    assert torch.equal(value, quantized)
    cotangent = torch.randn(5, 7, generator=generator)
    (gradient,) = torch.autograd.grad(value, w, cotangent)
    assert torch.equal(gradient, cotangent)  # in particular nothing through alpha


def test_straight_through_gives_the_quantized_weight_no_gradient():
    w, q = (torch.ones(2, 3, requires_grad=True) for _ in range(2))
    (straight_through(w, q) * 3).sum().backward()
    assert w.grad.tolist() == [[3.0] * 3] * 2
    assert q.grad is None or not q.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_what_is_nan_stays_so(name, dtype):
    w = torch.randn(2, 3, 40, dtype=dtype)
    w[0, 1, 7] = math.nan
    dense = QUANTIZERS[name](w).dense()
    assert dense[0, 1, 7].isnan()
    assert dense[1].isfinite().all()  # the other matrix
    assert straight_through(w, torch.ones_like(w))[0, 1, 7].isnan()  # whatever one's own gives


@pytest.mark.parametrize("name", ["ter_connect", "twn", "lat"])
@pytest.mark.parametrize("values", [[math.inf, 1.0, -2.0], [3e38, 3e38, -2.0]])
def test_a_threshold_that_overflows_makes_no_zeros(name, values):
    dense = QUANTIZERS[name](torch.tensor([values])).dense()
    assert not (dense == 0).any()
    assert not dense.isfinite().all()


@pytest.mark.parametrize("name", STOCHASTIC)
def test_numbers_that_are_given_decide_alike_in_every_precision(name):
    w = (torch.randn(3, 400) * level(np.empty((3, 400)))).float()
    uniform = torch.rand(3, 400, dtype=torch.float64)
    single = QUANTIZERS[name](w, uniform=uniform)
    double = QUANTIZERS[name](w.double(), uniform=uniform)
    assert single.codes.dtype == torch.float32
    assert torch.equal(single.codes.double(), double.codes)
    assert len(single.codes.unique()) == {"sbn": 2, "stn": 3}[name]


def test_names():
    assert list(QUANTIZERS) == ["full_precision", "binary_connect", "bwn", "lab", "ter_connect",
                                "twn", "lat", "sbn", "stn", "alternating"]
    for name, function in QUANTIZERS.items():
        assert find_quantizer(name) is function
    assert find_quantizer("qlstm.quantizers:bwn") is QUANTIZERS["bwn"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("bnw", "bwn"), ("binaryconnect", "binary_connect"), ("tern_connect", "ter_connect")])
def test_unknown_name_is_an_error_with_a_suggestion(name, meant):
    with pytest.raises(
        qlstm.ConfigError, match=f"unknown quantizer '{name}': did you mean '{meant}'"
    ) as error:
        find_quantizer(name)
    assert all(known in str(error.value) for known in QUANTIZERS)
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize(
    "name", ["no_such_module:f", "qlstm.quantizers:no_such_function", ":", "math:"])
def test_name_that_cannot_be_imported(name):
    with pytest.raises(qlstm.ConfigError, match="cannot import"):
        find_quantizer(name)
