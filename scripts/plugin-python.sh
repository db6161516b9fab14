#!/bin/sh
# Tests the example of a plugin in Python, in a virtual environment below target/ that is made once.
set -eu
cd -- "$(dirname -- "$0")/.."
./scripts/setup.sh test
venv=${CARGO_TARGET_DIR:-target}/plugin-python
if ! "$venv/bin/python" -c 'import mcp' 2>/dev/null; then
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check 'mcp>=2.3,<3'
fi
exec "$venv/bin/python" examples/plugin-python/test_notes.py
