"""A plugin of pytest for the rehearsal: one gradient of the Triton backend is wrong."""

from qlstm.recurrence import triton


def pytest_configure(config):
    """Put a hundredth more into the gradient of $W_h$, with layer normalization; ``config`` is
    pytest's."""
    right = triton.recurrence

    def wrong(x, w_x, w_h, bias, state, norms, **rest):
        output, last = right(x, w_x, w_h, bias, state, norms, **rest)
        if triton._kind(norms[1]) == "layer":
            w_h.register_hook(lambda gradient: 1.01 * gradient)
        return output, last

    triton.recurrence = wrong
