#!/usr/bin/env bash
# A Docker Engine of the project's own, for tests: its own data, sockets, bridge and containerd, so
# that an Engine of the machine is never touched. `docker_engine.sh start [ARGUMENT…]` prints the
# address for DOCKER_HOST, and gives dockerd the arguments when it starts one; `stop` ends it by its
# pid; both twice without harm. `install` gets the parts from Debian.
# The directory is FAAS_TEST_DOCKER, by default .faas/docker; the name of the bridge and its subnet
# follow from it, so any number of Engines live side by side. `--userns-remap=nobody:nogroup` works
# without a line of ours in the machine's /etc/subuid. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."

where=$(realpath -m "${FAAS_TEST_DOCKER:-.faas/docker}")
socket=$where/engine.sock
pid_file=$where/engine.pid
bridge=faas-$(printf '%s' "$where" | sha256sum | cut -c1-8)
say() { printf 'docker engine: %s\n' "$*" >&2; }
fail() {
    printf 'error: %s\n\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

install_parts() {
    local missing=()
    command -v dockerd >/dev/null || missing+=(docker.io)
    command -v crun >/dev/null || missing+=(crun)
    command -v runsc >/dev/null || missing+=(runsc)
    command -v ip >/dev/null || missing+=(iproute2)
    [[ ${#missing[@]} -eq 0 ]] && return 0
    [[ $EUID -eq 0 ]] || fail "missing: ${missing[*]}" "apt-get install ${missing[*]}"
    say "installing ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 \
        install --no-install-recommends "${missing[@]}" >/dev/null
}

is_ours() { # PID: is it the daemon that this script started?
    [[ -n ${1:-} ]] && tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" | grep -qF -- "--pidfile $pid_file"
}
running_pid() {
    local pid
    pid=$(cat "$pid_file" 2>/dev/null) || return 1
    is_ours "$pid" && printf '%s' "$pid"
}
answers() { curl -fsS -m 5 --unix-socket "$socket" http://engine/_ping >/dev/null 2>&1; }

start() {
    [[ $EUID -eq 0 ]] || fail "root is needed to start a Docker Engine" "run this as root"
    install_parts
    mkdir -p "$where"
    exec 9>"$where/.lock"
    flock 9
    if ! running_pid >/dev/null; then
        rm -f "$pid_file" "$socket"
        make_bridge
        launch "$@"
    fi
    local try
    for try in $(seq 100); do
        answers && break
        [[ $try -lt 100 ]] || fail "the engine does not answer" "see $where/log"
        sleep 0.2
    done
    printf 'unix://%s\n' "$socket"
}

# One of the 16384 subnets of 10.64.0.0/10, chosen by the directory; the next one when it is taken.
make_bridge() {
    local number try net
    ip link show "$bridge" >/dev/null 2>&1 || ip link add "$bridge" type bridge
    ip link set "$bridge" up
    [[ -z $(ip -4 -o addr show dev "$bridge") ]] || return 0
    number=$((16#${bridge#faas-} % 16384))
    for try in $(seq 16); do
        net=10.$((64 + number / 256)).$((number % 256))
        if ! { ip -4 route show root "$net.0/24" && ip -4 route show match "$net.0/24"; } | grep -v ^default | grep -q .; then
            ip addr add "$net.1/24" dev "$bridge"
            return 0
        fi
        number=$(((number + 1) % 16384))
    done
    fail "no subnet is free for the Engine's bridge" "see: ip -4 route"
}

launch() { # ARGUMENT… for dockerd
    local common=(--host "unix://$socket" --pidfile "$pid_file" --data-root "$where/data"
        --exec-root "$where/exec" --bridge "$bridge" --iptables=false --ip-masq=false
        --log-level warn)
    if [[ " $* " == *" --live-restore "* ]]; then
        # Containers that outlive it are found again only among the same mounts; so without crun.
        setsid dockerd "${common[@]}" "$@" </dev/null >"$where/log" 2>&1 9>&- &
        return
    fi
    # gVisor: the agent listens on a socket of the host; the rest as its old version in Debian 12 needs it.
    printf '#!/bin/sh\nexec "%s" --network=none --host-uds=all "$@"\n' \
        "$(command -v runsc)" >"$where/runsc"
    chmod +x "$where/runsc"
    # In a mount namespace of its own without the empty cgroup2 beside cgroup1, which crun refuses.
    printf '%s\n' nobody:1500000000:65536 nogroup:1500000000:65536 >"$where/subids"
    # shellcheck disable=SC2016
    SUBIDS=$where/subids setsid unshare --mount --propagation private sh -c '
        if [ -d /sys/fs/cgroup/memory ]; then umount /sys/fs/cgroup/unified 2>/dev/null; fi
        for file in /etc/subuid /etc/subgid; do [ ! -e $file ] || mount --bind "$SUBIDS" $file; done
        exec "$@"' sh \
        dockerd "${common[@]}" --add-runtime "crun=$(command -v crun)" \
        --add-runtime "runsc=$where/runsc" "$@" \
        </dev/null >"$where/log" 2>&1 9>&- &
}

stop() {
    local pid
    if pid=$(running_pid); then
        kill "$pid"
        for _ in $(seq 100); do
            is_ours "$pid" || break
            sleep 0.1
        done
        is_ours "$pid" && kill -9 "$pid"
    fi
    ip link del "$bridge" 2>/dev/null || true
    if mountpoint -q "$where/data"; then umount "$where/data" || true; fi
}

case ${1:-} in
    install) install_parts ;;
    start) start "${@:2}" ;;
    stop) stop ;;
    *) fail "what to do?" "scripts/docker_engine.sh install | start [ARGUMENT…] | stop" ;;
esac
