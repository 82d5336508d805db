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
python -m pytest "${options[@]}" "$@" || failed=1
exit "$failed"
