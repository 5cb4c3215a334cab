#!/bin/sh
# Make .venv ready: `sh tools/venv.sh course` for the lectures, `sh tools/venv.sh all` for tests and benchmarks too.
# PYTHON names the Python to build from. A stamp, written last, holds what .venv was built for: while it fits, nothing
# is done; otherwise (versions changed, folder moved, last build interrupted) .venv is built anew.
set -eu
cd "$(dirname "$0")/.."
part=$1
python=${PYTHON:-python3}
case $part in
    course) extras=course ;;
    all) extras=course,dev,instructor,cluster,bench ;;
    *) echo "usage: sh tools/venv.sh course|all" >&2; exit 2 ;;
esac
stamp="$(cat constraints.txt pyproject.toml | cksum) $PWD"
fits() { [ -x .venv/bin/python ] && [ "$(cat ".venv/ready-$1" 2>/dev/null)" = "$stamp" ]; }

if fits "$part" || fits all; then exit 0; fi

if ! fits course; then
    if ! command -v "$python" >/dev/null; then
        echo "Python is missing: no '$python' here. Install Python 3.11 or newer, or name yours: make PYTHON=/path/to/python3" >&2
        exit 1
    fi
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "Python is too old: '$python' is $("$python" -V 2>&1), 3.11 or newer is needed." >&2
        echo "Install one and name it, for example: make PYTHON=python3.12" >&2
        exit 1
    fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "'$python' cannot make virtual environments: its venv module is missing." >&2
        echo "On Debian and Ubuntu: sudo apt install python3-venv" >&2
        exit 1
    fi
    echo "Building .venv, once (a minute or two, and about 1 GB of disk)"
    "$python" -m venv --clear .venv
fi
rm -f .venv/ready-*
echo "Installing the exact versions of constraints.txt"
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$extras]"
printf '%s' "$stamp" >".venv/ready-$part"
