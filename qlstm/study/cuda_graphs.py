"""Work on a GPU as one CUDA graph: recorded once, then replayed.

A training step is hundreds of launches, each a few microseconds of a GPU's time; telling it of one
takes some ten of the CPU's. A graph is told at once.
"""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from qlstm.errors import first_line

WARM_UP = 3
"""Calls that run as they are before one is recorded: they compile kernels and make the optimizer's
state."""

State = tuple[Tensor, ...] | None


class CudaGraph:
    """Runs and records work on a stream of its own, as one that is used otherwise cannot be.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def run(self, work: Callable):
        """Return what ``work`` returns; it starts after all that was started before it, and ends
        before all that is started later."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            result = work()
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        return result

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record work without doing any of it.

        Args:
            work: A function of nothing that reads and writes the same memory in each call.

        Returns:
            A function that does all of ``work`` again, on the same memory.

        Raises:
            RuntimeError: It cannot be recorded, as it waits for a value, say.
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
            # the end of a broken recording hides what broke it
            raise (error.__context__ or error) from None
        return graph.replay


def make_recorder(device: torch.device) -> CudaGraph | None:
    """Return what records work on a ``device``, None where nothing does."""
    return CudaGraph(device) if device.type == "cuda" else None


def recorded(work: Callable[[], None], recorder: CudaGraph | None, report=print,
             optimizer: torch.optim.Optimizer | None = None) -> Callable[[], None]:
    """Make work that is a replay of itself after :data:`WARM_UP` calls.

    Args:
        work: A function of nothing that reads and writes the same memory in each call.
        recorder: What runs and records it; None: it stays as it is.
        report: Receives a line if it cannot be recorded and goes on as it is.
        optimizer: The optimizer whose step is part of the work, if there is one.
    """
    if recorder is None:
        return work
    calls, replay = 0, None

    def once():
        nonlocal calls, replay
        calls += 1
        if calls == WARM_UP + 1:
            try:
                with _capturable(optimizer):
                    replay = recorder.record(work)
            except RuntimeError as error:
                report("this step cannot be recorded as a CUDA graph and goes on without, slower: "
                       + first_line(error))
        if replay is None:
            recorder.run(work)
        else:
            replay()

    return once


@contextlib.contextmanager
def _capturable(optimizer: torch.optim.Optimizer | None):
    """Adam wants to be told that it is recorded, and warns if it is told and is not."""
    groups = [] if optimizer is None else [
        group for group in optimizer.param_groups if "capturable" in group]
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in groups:
            group["capturable"] = False


class GraphedStep:
    """A training step that works on memory of its own, so that it can be recorded.

    Minibatches of another shape than the first one's, such as a text's last, are not recorded.

    Args:
        step: The training step: takes inputs, targets and state, returns the loss and the next
            state.
        optimizer: The optimizer that ``step`` uses. Its learning rates become tensors, which a
            replay reads.
        recorder: What records the step.
        report: Receives a line if it cannot be recorded and goes on as it is.
    """

    def __init__(self, step: Callable, optimizer: torch.optim.Optimizer, recorder: CudaGraph,
                 report=print):
        self.step, self.optimizer, self.recorder = step, optimizer, recorder
        self.work = recorded(self._work, recorder, report, optimizer)
        self.inputs: Tensor | None = None
        self.state: State = None

    def __call__(
            self, inputs: Tensor, targets: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Train on a minibatch.

        Args:
            inputs: What the network reads: symbols (T, N) or pixels (T, N, 1).
            targets: What it is to predict: symbols (T, N) or labels (N,).
            state: Where it starts from, each part (layers, N, d); None: from its initial state.

        Returns:
            The loss, a scalar, and the next state. Both hold until the next call.
        """
        if self.inputs is None:
            self.inputs, self.targets = inputs.clone(), targets.clone()
            self.state = None if state is None else tuple(part.clone() for part in state)
            for group in self.optimizer.param_groups:
                group["lr"] = torch.full((), float(group["lr"]), device=inputs.device)
        if inputs.shape != self.inputs.shape:
            return self.recorder.run(lambda: self.step(inputs, targets, state))
        self.inputs.copy_(inputs)
        self.targets.copy_(targets)
        for n, own in enumerate(self.state or ()):
            if state is None:
                own.zero_()
            elif state[n] is not own:
                own.copy_(state[n])
        self.work()
        return self.loss, self.state

    def _work(self):
        """The step on this memory; the first call without a state makes that of the next one."""
        self.loss, state = self.step(self.inputs, self.targets, self.state)
        if self.state is None and state is not None:
            self.state = tuple(part.clone() for part in state)
        for own, new in zip(self.state or (), state or (), strict=True):
            own.copy_(new)
