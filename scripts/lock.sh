#!/usr/bin/env bash
# Chooses versions and pins them by hash. No index or host name is written: any mirror will do.
set -euo pipefail
cd "$(dirname "$0")/.."

compile() {
    local out=$1
    shift
    uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet \
        --output-file "$out" "$@" >/dev/null
}

if ! command -v uv >/dev/null; then
    uv() { "${PYTHON:-python3}" -m uv "$@"; }
fi
compile requirements.lock --group build --extra docker
compile requirements-dev.lock --group build --group dev --all-extras
if grep -nE 'https?://|file://' requirements.lock requirements-dev.lock; then
    echo "error: a lock file names a host" >&2
    exit 1
fi
wc -l requirements.lock requirements-dev.lock
