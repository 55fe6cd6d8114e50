#!/usr/bin/env bash
# Put uv of the given version into .tools/, from PyPI, with whatever Python the machine has.
set -euo pipefail

version=$1
python=$(command -v python3) || {
    echo "Tintype needs Python 3.11 or newer: install python3 and try again." >&2
    exit 1
}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Tintype needs Python 3.11 or newer; $python is $("$python" --version)." >&2
    exit 1
}

# Debian keeps venv's installer in a package of its own.
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get -qq update
        DEBIAN_FRONTEND=noninteractive apt-get -qq install -y python3-venv >/dev/null
    else
        echo "Python's venv module is incomplete: run 'sudo apt-get install python3-venv' and try again." >&2
        exit 1
    fi
fi

"$python" -m venv .tools
.tools/bin/python -m pip --quiet --disable-pip-version-check install "uv==$version"
