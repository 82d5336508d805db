#!/usr/bin/env bash
# A Docker Engine of the project's own, for tests: its own data, sockets, bridge and containerd, so
# that an Engine of the machine is never touched. `docker_engine.sh start` prints the address for
# DOCKER_HOST; `stop` ends it by its pid; both twice without harm. `install` gets the parts from Debian.
# The directory is FAAS_TEST_DOCKER, by default .faas/docker. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."

where=${FAAS_TEST_DOCKER:-$PWD/.faas/docker}
socket=$where/engine.sock
pid_file=$where/engine.pid
bridge=faas-test0
say() { printf 'docker engine: %s\n' "$*" >&2; }
fail() {
    printf 'error: %s\n\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

install_parts() {
    local missing=()
    command -v dockerd >/dev/null || missing+=(docker.io)
    command -v crun >/dev/null || missing+=(crun)
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
        ip link show "$bridge" >/dev/null 2>&1 || ip link add "$bridge" type bridge
        ip addr show "$bridge" | grep -q 172.31.255.1 || ip addr add 172.31.255.1/24 dev "$bridge"
        ip link set "$bridge" up
        launch
    fi
    local try
    for try in $(seq 100); do
        answers && break
        [[ $try -lt 100 ]] || fail "the engine does not answer" "see $where/log"
        sleep 0.2
    done
    printf 'unix://%s\n' "$socket"
}

launch() {
    # In a mount namespace of its own without the empty cgroup2 beside cgroup1, which crun refuses.
    # shellcheck disable=SC2016
    setsid unshare --mount --propagation private sh -c '
        if [ -d /sys/fs/cgroup/memory ]; then umount /sys/fs/cgroup/unified 2>/dev/null; fi
        exec "$@"' sh \
        dockerd --host "unix://$socket" --pidfile "$pid_file" --data-root "$where/data" \
        --exec-root "$where/exec" --bridge "$bridge" --iptables=false --ip-masq=false \
        --add-runtime "crun=$(command -v crun)" --log-level warn \
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
}

case ${1:-} in
    install) install_parts ;;
    start) start ;;
    stop) stop ;;
    *) fail "what to do?" "scripts/docker_engine.sh install | start | stop" ;;
esac
