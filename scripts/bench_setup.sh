#!/usr/bin/env bash
# What the benchmarks compare with, beside the project and never in it: wrk, bubblewrap, the Python
# peers in a directory of their own, opensandbox-server in an environment of its own, an Engine of
# the project's own with the test images. Prints the variables to run with, for `eval`. Twice
# without harm. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."

site=$PWD/.faas/bench-site
server=$PWD/.faas/bench-opensandbox
opensandbox=1.1.1
say() { printf 'bench setup: %s\n' "$*" >&2; }

missing=()
command -v wrk >/dev/null || missing+=(wrk)
command -v bwrap >/dev/null || missing+=(bubblewrap)
if [[ ${#missing[@]} -gt 0 ]]; then
    say "installing ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 \
        install --no-install-recommends "${missing[@]}" >/dev/null
fi
pip() { "$1" -m pip --disable-pip-version-check --quiet install "${@:2}" >&2; }
if [[ ! -e $site/.done-$opensandbox ]]; then
    say "installing llm-sandbox, docker-py and the SDK of opensandbox"
    pip .venv/bin/python --upgrade --target "$site" llm-sandbox docker "opensandbox==$opensandbox"
    touch "$site/.done-$opensandbox"
fi
if [[ ! -e $server/.done-$opensandbox ]]; then
    say "installing opensandbox-server"
    .venv/bin/python -m venv --clear "$server"
    pip "$server/bin/python" "opensandbox-server==$opensandbox"
    touch "$server/.done-$opensandbox"
fi
address=$(bash scripts/docker_engine.sh start)
docker="docker --host $address"
for pair in alpine:alpine:latest python:python:3.11-slim; do
    name=${pair%%:*} image=${pair#*:}
    $docker image inspect "$image" >/dev/null 2>&1 ||
        $docker import "$(bash scripts/test_images.sh "$name")" "$image" >/dev/null
done
# What opensandbox-server copies into each sandbox; the version is the one its own example names.
execd=$(sed -n 's/^execd_image = "\(.*\)"$/\1/p' \
    "$server"/lib/python*/site-packages/opensandbox_server/examples/example.config.toml)
$docker image inspect "$execd" >/dev/null 2>&1 || timeout 300 $docker pull --quiet "$execd" >&2 ||
    say "no registry gives $execd: opensandbox-server will not be measured"
printf 'export FAAS_BENCH_PEERS=%q\n' "$server/bin"
printf 'export PYTHONPATH=%q DOCKER_HOST=%q\n' "$site" "$address"
