#!/bin/sh
# Make the environment ready: .venv, with the exact versions of constraints.txt; that of conda, if it is active, is looked at.
# .venv/ready says for which versions and which folder .venv is ready: while that holds, nothing is done.
set -eu

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

case "${TORCH:=}" in
'' | auto | cpu | cu[0-9]*) ;;
*) fail "TORCH must be auto, cpu, cu126 or cu130, got '$TORCH'" ;;
esac
if [ "${CONDA_DEFAULT_ENV:-}" = qlstm ]; then
    [ -z "$TORCH" ] || fail "TORCH is of .venv; in the conda environment qlstm install PyTorch by pip"
    "${CONDA_PREFIX:+$CONDA_PREFIX/bin/}python" -c 'import importlib.metadata as m; m.version("torch"), m.version("papermill")' \
        2>/dev/null || fail "the conda environment qlstm lacks packages: conda env update -f environment.yml"
    exit 0
fi

python=.venv/bin/python
log=.venv/setup.log
folder=$(pwd -P)
# which build of PyTorch: TORCH, else as before; auto: what suits the machine
torch=${TORCH:-$(cat .venv/torch 2>/dev/null || echo auto)}
[ "$(uname)" != Darwin ] || torch=auto # there is one build
versions=$(printf '%s\n' "$torch" | cat pyproject.toml constraints.txt - | cksum)
has=$(sed 1q .venv/ready 2>/dev/null || :)
of=$(sed 1d .venv/ready 2>/dev/null || :)
if [ -x $python ] && [ "$has" = "$versions" ] && [ "$of" = "$folder" ]; then
    exit 0
fi

# Install what pyproject.toml names.
install() {
    rm -f .venv/ready
    # pip's own settings hold, but for those that put packages elsewhere or choose others
    export PIP_USER=0
    unset PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_CONSTRAINT PIP_NO_DEPS PIP_DRY_RUN PIP_REQUIRE_HASHES
    pip="$python -m pip install -q --disable-pip-version-check"
    builds=https://download.pytorch.org/whl
    version=$(grep '^torch==' constraints.txt)
    constraints=constraints.txt
    if [ "$torch" = auto ]; then
        rm -f .venv/torch
    else
        $pip --index-url "$builds/$torch" "$version+$torch" >$log 2>&1 ||
            fail "there is no build '$torch' of PyTorch, or it cannot be reached: TORCH=cpu, cu126 or cu130; see $log"
        printf '%s\n' "$torch" >.venv/torch
        constraints=.venv/constraints.txt # without what each build has its own versions of
        grep -vE '^(cuda|nvidia|triton)' constraints.txt >$constraints
    fi
    # without an NVIDIA driver on Linux, PyTorch's CPU build is enough: 0.2 GB instead of 3 GB with CUDA
    if [ "$torch" = auto ] && [ "$(uname)" = Linux ] && ! command -v nvidia-smi >/dev/null 2>&1; then
        $pip --no-deps --retries 0 --timeout 15 --index-url $builds/cpu "$version" >$log 2>&1 ||
            echo "PyTorch's CPU builds cannot be reached; taking the default one"
    fi
    $python - >.venv/requirements.txt <<'END'
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
extras = project["optional-dependencies"]
names = ("learn", "reproduce", "site", "slides", "test")
lines = sum((extras[name] for name in names), project["dependencies"])
print("\n".join(line for line in lines if not line.startswith("qlstm[")))
END
    $pip -c $constraints -r .venv/requirements.txt >$log 2>&1 ||
        fail "the set-up failed: $(sed -n 's/^ *ERROR: //p' $log | sed 1q) (all of it: $log); the same command goes on"
    $python -I -c 'import importlib.metadata as m; m.version("papermill")' 2>/dev/null ||
        fail "the packages are not in .venv: 'pip config list' may say target or prefix, which is for elsewhere"
}

# Let Python find qlstm in this folder, also outside of it, and packages' scripts, such as jupyter, find Python. (pip does
# both, but not with every letter in the path.)
link() {
    $python - <<'END'
import os
import shlex
import sys
import sysconfig
from importlib.metadata import entry_points
from pathlib import Path

Path(sysconfig.get_path("purelib"), "qlstm.pth").write_bytes(os.fsencode(os.getcwd()))
for script in entry_points(group="console_scripts"):
    path = Path(sysconfig.get_path("scripts"), script.name)
    path.write_bytes(os.fsencode(f"""#!/bin/sh
'''exec' {shlex.quote(sys.executable)} "$0" "$@"
' '''
import sys
from {script.module} import {script.attr.split(".")[0]}
sys.exit({script.attr}())
"""))
    path.chmod(0o755)
END
}

suits='import sys; sys.exit(sys.version_info < (3, 11))'
if ! $python -c "$suits" 2>/dev/null; then
    PYTHON=${PYTHON:-python3}
    "$PYTHON" -c "$suits" 2>/dev/null ||
        fail "Python 3.11 or newer is needed ($PYTHON is another or missing): make setup PYTHON=python3.13"
    echo "setting up .venv (once, a few minutes, 1.9 GB)"
    "$PYTHON" -m venv --clear .venv
    install
elif [ "$has" = "$versions" ]; then
    printf '%s\n' ".venv was set up for $of: it is set up for this folder"
    $python -m venv .venv # writes what names its folder
else
    echo "bringing .venv up to date"
    $python -m venv .venv
    install
fi
link
# JupyterLab asks at its first start whether it may fetch news; a lesson is not interrupted by that
$python -m jupyterlab.labextensions disable --level=sys_prefix "@jupyterlab/apputils-extension:announcements" >>$log 2>&1 ||
    echo "JupyterLab may ask whether to fetch news; either answer is fine"
printf '%s\n' "$versions" "$folder" >.venv/ready
