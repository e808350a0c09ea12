"""What ONNX Runtime computes from an exported network, against the network: the largest difference
by quantizer and normalizer, the table of docs/export.md.

    python tests/onnx_differences.py [quantizer ...]      # all: some 40 minutes

d = 32, 20 steps; exported with 3 samples of 7 steps, run with 5 samples of 20.
"""

import itertools
import sys
import tempfile
import warnings
from pathlib import Path

import torch

from qlstm import QuantGRU, QuantLSTM
from qlstm.normalizers import NORMALIZERS, BatchNorm
from qlstm.quantizers import QUANTIZERS

STOCHASTIC = ["sbn", "stn"]


def trained(rnn):
    """The layers with gains, statistics and second moments that are not the initial ones, in
    evaluation."""
    generator = torch.Generator().manual_seed(1)
    for norm in rnn.modules():
        if isinstance(norm, BatchNorm):
            norm.running_mean.normal_(0, 0.1, generator=generator)
            norm.running_var.uniform_(0.5, 1.5, generator=generator)
    for name, buffer in rnn.named_buffers():
        if "second_moment" in name:
            buffer.uniform_(0.1, 2, generator=generator)
    return rnn.eval()


def to_onnx(model, arguments, dynamic):
    """The ONNX program of a ``model`` in evaluation; ``dynamic``: torch's ``dynamic_shapes``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        return torch.onnx.export(model.eval(), arguments, dynamo=True, verbose=False,
                                 dynamic_shapes=dynamic)


def run_onnx(program, *arguments):
    """What ONNX Runtime computes, tensors, and the bytes of the file."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        program.save(path)
        size = sum(file.stat().st_size for file in path.parent.iterdir())
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options)
    names = [given.name for given in session.get_inputs()]
    found = session.run(None, {name: tensor.numpy() for name, tensor
                               in zip(names, arguments, strict=True)})
    return [torch.from_numpy(part) for part in found], size


def flat(result):
    """The tensors of a ``result``: output and last state."""
    output, state = result
    return [output, *([] if state is None else state if isinstance(state, tuple) else [state])]


@torch.no_grad()
def difference(cell, quantizer, normalizer, frozen, d=32):
    """The largest difference of outputs and last states, and the bytes of the file."""
    torch.manual_seed(0)
    rnn = trained(cell(8, d, quantizer=quantizer, normalizer=normalizer, max_steps=10))
    if frozen:
        rnn.freeze()
    steps, samples = (torch.export.Dim(name, min=1, max=1000) for name in "TN")
    program = to_onnx(rnn, (torch.randn(7, 3, 8),), {"input": {0: steps, 1: samples}})
    x = torch.randn(20, 5, 8)
    found, size = run_onnx(program, x)
    return max((a - b).abs().max().item() for a, b in zip(found, flat(rnn(x)), strict=True)), size


def main(names):
    import onnx
    import onnxruntime
    import onnxscript

    print(f"torch {torch.__version__}, onnx {onnx.__version__}, onnxscript "
          f"{onnxscript.__version__}, onnxruntime {onnxruntime.__version__}\n")
    print("| quantizer | normalizer | " + " | ".join(
        f"{cell} {how}" for cell in ("LSTM", "GRU") for how in ("as it is", "frozen")) + " |")
    print("|---|---|" + "--:|" * 4)
    for quantizer, normalizer in itertools.product(names or QUANTIZERS, NORMALIZERS):
        if quantizer in STOCHASTIC and normalizer != "batch_separate":
            continue
        cells = []
        for cell, frozen in itertools.product((QuantLSTM, QuantGRU), (False, True)):
            if (cell is QuantGRU and quantizer in STOCHASTIC) or (
                    frozen and quantizer == "full_precision"):
                cells.append("")
                continue
            error, size = difference(cell, quantizer, normalizer, frozen)
            cells.append(f"{error:.1e}, {size / 1000:.0f} kB")
        print(f"| `{quantizer}` | `{normalizer}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
