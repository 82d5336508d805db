#!/bin/sh
# The contracts' verbs. Usage: scripts/contracts.sh setup | build | test | snapshot | abi | check | format
# `setup` needs Node 20 and npm; every verb runs it first, and twice does no harm.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root/contracts"
# `make dev` puts a Node beside its Python that is new enough, where the system's may not be.
PATH="$root/.venv/bin:$PATH"
forge="node_modules/.bin/forge"

setup() {
  # npm writes this file last, so it stands for a whole and current install.
  stamp="node_modules/.package-lock.json"
  if [ -e "$stamp" ] && [ ! package-lock.json -nt "$stamp" ]; then
    return
  fi
  command -v npm >/dev/null || {
    echo "npm is missing: install Node 20 or newer (apt-get install nodejs npm)" >&2
    exit 1
  }
  # Not `npm ci`: it refuses when a mirror lacks the tools of another platform. The lock still holds.
  npm install --no-save --no-progress --loglevel=error >&2
  touch "$stamp"
}

abi() {
  "$forge" build --quiet
  node "$root/scripts/contracts_abi.mjs" "$@"
}

verb=${1:-}
[ $# -eq 0 ] || shift
case "$verb" in
  setup) setup ;;
  build) setup && "$forge" build "$@" ;;
  test) setup && "$forge" test "$@" ;;
  snapshot)
    setup
    FORGE_SNAPSHOT_CHECK=false FORGE_SNAPSHOT_EMIT=true "$forge" test --match-contract GasTest "$@"
    ;;
  abi) setup && abi "$@" ;;
  format) setup && "$forge" fmt "$@" ;;
  check)
    setup
    "$forge" fmt --check
    "$forge" test
    FORGE_SNAPSHOT_CHECK=true "$forge" test --match-contract GasTest # against contracts/snapshots
    abi --check
    ;;
  *)
    sed -n '2,3s/^# //p' "$0" >&2
    exit 2
    ;;
esac
