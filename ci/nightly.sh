#!/usr/bin/env bash
# What takes too long for the gate, by parts.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat >&2 <<'TEXT'
usage: ci/nightly.sh all|hostile|fuzz|router [SECONDS]

  hostile   each suite of hostile peers for SECONDS (600): the tests that include tests/common/rounds.rs
  fuzz      each fuzz target for SECONDS (600)
  router    page faults whose handles are switched, for SECONDS (600)
  all       all of these

A hostile test that fails prints RECORDFD_SEED=number, with which it fails again at once.
TEXT
    exit 2
}

[[ $# -ge 1 && $# -le 2 && ${2:-600} =~ ^[1-9][0-9]*$ ]] || usage
long=${2:-600}

hostile() {
    local failed=() path suite
    for path in $(grep -l '^mod rounds;' tests/*.rs); do
        suite=$(basename "$path" .rs)
        echo "== $suite: $long s"
        # All tests of a suite at once, so that the suite takes no longer than each of them. Unoptimised: with checks of overflow.
        if ! RECORDFD_HOSTILE_SECONDS=$long cargo test --quiet --all-features --test "$suite" -- \
            --nocapture --test-threads=16; then
            failed+=("$suite")
        fi
    done
    if [[ ${#failed[@]} -ne 0 ]]; then
        echo "failed: ${failed[*]}" >&2
        return 1
    fi
}

fuzz() {
    ci/fuzz.sh "$long"
}

router() {
    RECORDFD_STRESS_SECONDS=$long ci/router.sh
}

case $1 in
    hostile | fuzz | router) "$1" ;;
    all)
        hostile
        fuzz
        router
        ;;
    *) usage ;;
esac
echo "== $1 passed"
