"""A training step as one CUDA graph: recorded once, then replayed.

A step is hundreds of launches, each a few microseconds of a GPU's time; telling it of one takes
some ten of the CPU's. A graph is told at once.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from qlstm.errors import first_line

WARM_UP = 3
"""Steps that run as they are before one is recorded: they compile kernels and make the optimizer's
state."""

State = tuple[Tensor, ...] | None


class CudaGraph:
    """Runs and records work on a stream of its own of ``device``, as a stream that anything else
    uses cannot be recorded."""

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def run(self, work: Callable):
        """What ``work`` returns, after all that was started before and before all that is started
        later."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            result = work()
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        return result

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """A function that does all of ``work`` again, on the same memory; recording does nothing of
        it.

        Raises ``RuntimeError`` if it cannot be recorded, as it waits for a value, say.
        """
        graph, random_state = torch.cuda.CUDAGraph(), torch.cuda.get_rng_state(self.device)
        try:
            # the stream is set here as well: a recording that fails does not set it back
            with torch.cuda.stream(self.stream), torch.cuda.graph(graph, stream=self.stream):
                work()
        except RuntimeError as error:
            # it leaves the generator of random numbers in the middle of the recording, too
            generator = torch.Generator(self.device)
            generator.set_state(random_state)
            torch.cuda.default_generators[self.stream.device_index].graphsafe_set_state(generator)
            raise (
                error.__context__ or error
            ) from None  # the end of a broken recording hides what broke it
        return graph.replay


def make_recorder(device: torch.device) -> CudaGraph | None:
    """What records work on a ``device``, None where nothing does."""
    return CudaGraph(device) if device.type == "cuda" else None


def recorded(
        work: Callable[[], None], recorder: CudaGraph | None, report=print) -> Callable[[], None]:
    """``work``, which after :data:`WARM_UP` calls is a replay of itself; as it is without a
    ``recorder``.

    If it cannot be recorded, it goes on as it is, too, and ``report`` receives a line about it.
    """
    if recorder is None:
        return work
    calls, replay = 0, None

    def once():
        nonlocal calls, replay
        calls += 1
        if calls <= WARM_UP:
            return recorder.run(work)
        if replay is None:
            try:
                replay = recorder.record(work)
            except RuntimeError as error:
                report(
                    f"it cannot be recorded as a CUDA graph and goes on without: {first_line(error)}"
                )
                replay = functools.partial(recorder.run, work)
        replay()

    return once


class GraphedStep:
    """``step``, a training step that takes (inputs, targets, state) and returns (loss, state),
    recorded after some calls.

    Inputs of another shape than the first ones', such as a text's last, go to ``step`` itself. The
    tensors returned hold until the next call. ``optimizer``: the one that ``step`` uses; its
    learning rates become tensors, which a replay reads. ``recorder``: a :class:`CudaGraph`. A step
    that cannot be recorded goes on as it is; ``report`` receives a line about it.
    """

    def __init__(
        self, step: Callable, optimizer: torch.optim.Optimizer, recorder: CudaGraph, report=print
    ):
        self.step, self.optimizer, self.recorder, self.report = step, optimizer, recorder, report
        self.shape: torch.Size | None = None
        self.calls = 0
        self.replay: Callable[[], None] | None = None

    def __call__(
            self, inputs: Tensor, targets: Tensor, state: State = None) -> tuple[Tensor, State]:
        """The loss and the next state, as ``step`` returns them."""
        self.shape = self.shape or inputs.shape
        if self.calls == 0:
            for group in self.optimizer.param_groups:
                group["lr"] = torch.full((), float(group["lr"]), device=inputs.device)
        own_shape = inputs.shape == self.shape
        self.calls += own_shape
        if own_shape and self.calls == WARM_UP + 1:
            self._record(inputs, targets)
        if not own_shape or self.replay is None:
            loss, self.next = self.recorder.run(lambda: self.step(inputs, targets, state))
            return loss, self.next
        self.inputs.copy_(inputs)
        self.targets.copy_(targets)
        for n, own in enumerate(self.state or ()):
            if state is None:
                own.zero_()
            elif state[n] is not own:
                own.copy_(state[n])
        self.replay()
        return self.loss, self.state

    def _record(self, inputs, targets):
        self.inputs, self.targets = inputs.clone(), targets.clone()
        self.state = (
            None if self.next is None else tuple(torch.zeros_like(part) for part in self.next))

        def work():
            self.loss, state = self.step(self.inputs, self.targets, self.state)
            for own, new in zip(self.state or (), state or (), strict=True):
                own.copy_(new)

        groups = [group for group in self.optimizer.param_groups if "capturable" in group]
        for group in groups:  # Adam wants to be told
            group["capturable"] = True
        try:
            self.replay = self.recorder.record(work)
        except RuntimeError as error:
            self.report(
                "the training step cannot be recorded as a CUDA graph and goes on without, slower: "
                + first_line(error))
        finally:
            for group in groups:
                group["capturable"] = False
