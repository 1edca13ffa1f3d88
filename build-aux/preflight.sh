#!/bin/sh
# usage: preflight.sh PYTHON CC
# Says in one sentence what the machine lacks and how to get it; prints nothing when all is there.
set -u
python=$1
cc=$2

fail() {
    echo "stackcore cannot be built here: $*" >&2
    exit 1
}

[ "$(uname -s)" = Linux ] || fail "it needs Linux (futexes, eventfd, /dev/shm), this is $(uname -s)."
command -v "$python" >/dev/null 2>&1 ||
    fail "no Python 3.11 or newer was found; install one, or name it with 'make PYTHON=/path/to/python3'."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python is older than Python 3.11; name a newer one with 'make PYTHON=/path/to/python3'."
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$python has no venv module; install it (Debian, Ubuntu: apt-get install python3-venv)."
command -v "$cc" >/dev/null 2>&1 ||
    fail "no C compiler '$cc'; install one (Debian, Ubuntu: apt-get install gcc libc6-dev) or set CC."
header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
[ -f "$header" ] ||
    fail "the Python header $header is missing; install it (Debian, Ubuntu: apt-get install python3-dev)."
probe=$(mktemp /dev/shm/stackcore-preflight.XXXXXX 2>/dev/null) ||
    fail "/dev/shm is missing or not writable; mount it (mount -t tmpfs tmpfs /dev/shm) or, in a container, raise --shm-size."
rm -f "$probe"
free_kb=$(df -Pk /dev/shm | awk 'NR == 2 { print $4 }')
[ "$free_kb" -ge 65536 ] ||
    fail "/dev/shm has only $((free_kb / 1024)) MB free and 64 MB are needed; in a container raise --shm-size."
