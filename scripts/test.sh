#!/usr/bin/env bash
# `make test`: set up, look at the text of the code, run the tests. Arguments: paths, else all rings.
# With CI=true a part that is missing is a failure, not a skip.
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/setup.sh dev
export PATH=$PWD/.venv/bin:$PATH

options=(-q -p tests.plugins.require --strict-markers)
if [[ ${CI:-} == true ]]; then
    options+=(--require "${FAAS_TEST_REQUIRE:-root,tools,docker,criu}")
fi

failed=0
if [[ $# -eq 0 ]]; then
    for check in "ruff check ." "ruff format --check src tests scripts" basedpyright "basedpyright -p sdks/python" lint-imports; do
        echo "== $check"
        $check || failed=1
    done
    if [[ -d contracts ]]; then
        echo "== contracts"
        sh scripts/contracts.sh check || failed=1
    fi
    set -- tests sdks/python/tests
fi
echo "== pytest $*"
if ! python -m pytest "${options[@]}" "$@"; then
    # On a shared machine a test of real processes may meet a moment in which nothing moved for seconds. A few
    # are asked once more, alone, and named; what fails twice, or fails in numbers, has failed.
    flaky=$(python -m pytest -q --cache-show 'cache/lastfailed' 2>/dev/null | grep -c '::' || true)
    if [[ ${CI:-} == true && $flaky -ge 1 && $flaky -le 8 ]]; then
        echo "== pytest: $flaky failed and are asked once more"
        python -m pytest "${options[@]}" -p no:randomly --last-failed --last-failed-no-failures=none -rA "$@" || failed=1
    else
        failed=1
    fi
fi
exit "$failed"
