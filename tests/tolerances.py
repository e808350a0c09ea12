"""The one table of tolerances. Widening an entry needs its cause written beside it."""

import torch

TOLERANCES = {
    # float64, the same equations evaluated twice: sums in another order, 1e-15 a step, over a few
    # dozen steps
    "float64": dict(rtol=1e-10, atol=1e-10),
    # the same after 100 updates by Adam, whose division by sqrt(v) amplifies differences of small
    # gradients
    "float64_trained": dict(rtol=1e-7, atol=1e-9),
    # float64, a single formula without recurrence: only the order of a short sum differs
    "formula": dict(rtol=1e-12, atol=1e-14),
    # as "formula", in float32 against float64: 2^-24 = 6e-8 an operation, sums of at most some 40
    # terms
    "formula_float32": dict(rtol=2e-6, atol=1e-7),
    # one float32 recurrence against another; outputs and states are of magnitude 1
    "float32": dict(rtol=1e-5, atol=1e-6),
    # gradients there are sums over all steps, samples and units, up to 20, and rounding adds up
    # likewise
    "float32_gradients": dict(rtol=1e-5, atol=2e-5),
    # weight normalization divides by ||W_j|| + 1e-8: with rows of norm 0.1 and more, times 0.01 and
    # more, the result changes by at most 1e-8 / 0.001
    "weight_scaling": dict(rtol=2e-5, atol=0.0),
    # layer and batch normalization leave eps = 1e-5 beside a variance: with 0.01 and more, a
    # thousandth
    "layer_scaling": dict(rtol=0.0, atol=1e-3),
    # float32 against float64 through normalizers: an error of 1e-7 in a product is divided by the
    # product's standard deviation, which can be 0.01, and grows over five steps of two layers
    "float32_float64": dict(rtol=0.0, atol=5e-5),
    # a squared error that one choice minimizes, relative to that of the choice 0: rounding of sums
    # of 35 squares, and of codes and scales found in float32
    "objective": dict(rtol=0.0, atol=1e-12),
    "objective_float32": dict(rtol=0.0, atol=1e-5),
    # relative error against float64, of the triton backend: ``rtol`` times that of the naive one in
    # float32, whose batch normalization keeps its sums in float64 on a CPU; for a single tensor
    # with ``atol`` more, as normalizing a few samples amplifies one rounding and not another: over
    # seeds both vary between 1e-7 and 1.8e-6
    "kernel": dict(rtol=3.0, atol=2e-6),
    # the same on a GPU, whose tensor cores cut off what they add: on an H200 batch normalization
    # over 3 and 5 samples made that up to 1.1e-5 in a gradient, where the naive backend had 2.2e-6;
    # the other 117 of 119 cases keep to "kernel"
    "kernel_gpu": dict(rtol=3.0, atol=1.2e-5),
    # the same of the cpu backend with codes, whose sums of 2 and 4 inputs come in another order;
    # sizes down to one unit and two samples, which normalizers make zeros or ones of and divide
    # their rounding, 6e-8, by sqrt(1e-5)
    "codes": dict(rtol=10.0, atol=6e-5),
    # cuDNN's kernels for up to 128 hidden units, against float64: torch.nn.LSTM is off by 4e-6 in h
    # and 3.5e-6 in gradients after one step as after 784 (H200, cuDNN of torch 2.11), and by 2e-7
    # without cuDNN or with more units; ``median``: of all tensors, beside ``rtol``
    "cudnn_few_units": dict(rtol=3.0, atol=1.2e-5, median=1e-5),
    # weights after steps of Adam with learning rate 1e-3 on two float32 recurrences: Adam divides a
    # gradient by its size, so where it is nearly 0 its rounding moves a weight by up to 1e-3 a step
    "trained": dict(rtol=1e-4, atol=1e-4),
    # losses of small networks over some 30 updates in float64 on another machine, whose sums differ
    # in the last bits: words with rate 20 amplify these to 2e-7 (measured without AVX, and with
    # another backend)
    "golden": dict(rtol=1e-5, atol=0.0),
    # central differences in float64 with step 1e-5: truncation 1e-10, cancellation 1e-16 / 1e-5
    "finite_differences": dict(rtol=1e-6, atol=1e-8),
}


def assert_close(actual, expected, tolerance):
    """Equal within the named entry of the table; same shape and dtype."""
    torch.testing.assert_close(actual, expected, **TOLERANCES[tolerance])
