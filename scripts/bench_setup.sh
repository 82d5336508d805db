#!/usr/bin/env bash
# What the benchmarks compare with, beside the project and never in it: wrk, bubblewrap, the Python
# peers in a directory of their own, an Engine of the project's own with the test images. Prints the
# variables to run with, for `eval`. Twice without harm. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."

site=$PWD/.faas/bench-site
say() { printf 'bench setup: %s\n' "$*" >&2; }

missing=()
command -v wrk >/dev/null || missing+=(wrk)
command -v bwrap >/dev/null || missing+=(bubblewrap)
if [[ ${#missing[@]} -gt 0 ]]; then
    say "installing ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 \
        install --no-install-recommends "${missing[@]}" >/dev/null
fi
if [[ ! -e $site/.done ]]; then
    say "installing llm-sandbox and docker-py"
    .venv/bin/python -m pip --disable-pip-version-check --quiet install --target "$site" llm-sandbox docker >&2
    touch "$site/.done"
fi
address=$(bash scripts/docker_engine.sh start)
docker="docker --host $address"
for pair in alpine:alpine:latest python:python:3.11-slim; do
    name=${pair%%:*} image=${pair#*:}
    $docker image inspect "$image" >/dev/null 2>&1 ||
        $docker import "$(bash scripts/test_images.sh "$name")" "$image" >/dev/null
done
printf 'export PYTHONPATH=%q DOCKER_HOST=%q\n' "$site" "$address"
