#!/bin/sh
# Builds the virtual environment of the published rules that scripts/gallery.py judges: scripts/peers_env.sh [FOLDER]
#
# ByzFL, byzpy and krum are installed without their dependencies: their pins would bring a CUDA torch, an old numpy or
# Python 3.12. Their rules need none of that. `import byzfl` asks for torchvision only for its data sets, and torchvision's
# compiled operators do not load beside a CPU torch: a stand-in with nothing in it serves.
# For the small CPU build of torch: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu scripts/peers_env.sh
set -eu
venv=${1:-.venv-peers}
here=$(cd "$(dirname "$0")/.." && pwd)

"${PYTHON:-python3}" -m venv "$venv"
pip() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }

pip torch==2.13.0 numpy==2.4.6 scipy==1.17.1 flwr==1.41.0 jax==0.10.2 matplotlib seaborn cloudpickle qora-fl==0.4.0
pip --no-deps byzfl==0.0.11 byzpy==0.1.4
pip --no-deps --ignore-requires-python krum==0.9.1

packages=$("$venv/bin/python" -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")
mkdir -p "$packages/torchvision"
cat > "$packages/torchvision/__init__.py" <<'STUB'
"""Stands in for torchvision, so that `import byzfl` succeeds: every name is a function that does nothing."""

import sys
import types


class _Module(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *arguments, **options: None


datasets = _Module("torchvision.datasets")
transforms = _Module("torchvision.transforms")
sys.modules.update({"torchvision.datasets": datasets, "torchvision.transforms": transforms})
STUB

pip -e "$here"
"$venv/bin/python" -c "import byzfl, byzpy, krum, flwr, qora, jax, pytest_fl; print('peers: ready')"
echo "now: $venv/bin/python scripts/gallery.py"
