#!/bin/sh
# Runs tests/legacy/test_tl39.py with TransformerLens 3.9 in a virtual environment of its own.
# Needs a package index (or UV_FIND_LINKS) and about 2 GB in the temporary folder.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
PYTHON=${PYTHON:-python3}
# uv does not read pip's settings; a folder of wheels that pip knows is passed on to it.
UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}
[ -z "$UV_FIND_LINKS" ] || export UV_FIND_LINKS
venv=$(mktemp -d)/venv
trap 'rm -rf "$(dirname "$venv")"' EXIT
"$PYTHON" -m venv "$venv"
"$venv/bin/python" -m pip install -q uv
"$venv/bin/uv" pip install -q --python "$venv/bin/python" 'transformer-lens==3.9.*' 'torch<2.14' \
  'pandas>=2.2.3' 'pyarrow>=21' 'scipy>=1.14' 'scikit-learn>=1.5' 'safetensors>=0.5' pytest
# Its own requirement is TransformerLens 4.3, so its dependencies are left out.
"$venv/bin/uv" pip install -q --python "$venv/bin/python" --no-deps "$root"
cd "$here"
"$venv/bin/python" -m pytest -q -p no:cacheprovider -c /dev/null --rootdir "$here" test_tl39.py "$@"
