#!/bin/sh
# Install the study into the environment of the given Python, with the exact versions of constraints.txt.
# Without an NVIDIA driver on Linux, PyTorch's CPU build is enough: 0.2 GB instead of 3 GB with CUDA.
set -e
python="$1"
torch=$(grep '^torch==' constraints.txt)
if [ "$(uname)" = Linux ] && ! command -v nvidia-smi >/dev/null 2>&1; then
    "$python" -m pip install -q --disable-pip-version-check --no-deps --retries 0 --timeout 15 \
        --index-url https://download.pytorch.org/whl/cpu "$torch" 2>/dev/null ||
        echo "PyTorch's CPU builds cannot be reached; taking the default one"
fi
"$python" -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[test]'
# JupyterLab asks at its first start whether it may fetch news; a lesson is not interrupted by that
"$python" -m jupyter labextension disable --level=sys_prefix "@jupyterlab/apputils-extension:announcements" 2>/dev/null ||
    echo "JupyterLab may ask whether to fetch news; either answer is fine"
