#!/usr/bin/env bash
# Runs every fuzz target for a while, from the checked-in seeds. Fails on any finding.
set -euo pipefail
cd "$(dirname "$0")/.."

# Zero would mean to libFuzzer: for ever.
if [[ $# -ne 1 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: ci/fuzz.sh SECONDS    (for each target)" >&2
    exit 2
fi
budget=$1

# libFuzzer is C++.
if ! command -v g++ >/dev/null; then
    apt-get update -qq && apt-get install -y -qq --no-install-recommends g++
fi
if ! command -v cargo-fuzz >/dev/null; then
    cargo install cargo-fuzz --locked
fi

# What a run finds of interest goes to a scratch corpus; a crash is kept in fuzz/artifacts.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

targets=$(cargo +nightly fuzz list)
if [[ -z $targets ]]; then
    echo "no fuzz target found" >&2
    exit 1
fi

failed=()
for target in $targets; do
    mkdir "$scratch/$target"
    if [[ ! -d fuzz/seeds/$target ]]; then
        echo "$target has no seeds" >&2
        exit 1
    fi
    echo "== $target: $budget s"
    log=$scratch/$target.log
    if cargo +nightly fuzz run "$target" "$scratch/$target" "fuzz/seeds/$target" -- \
        -max_total_time="$budget" -print_final_stats=1 >"$log" 2>&1 &&
        runs=$(grep -oP '^stat::number_of_executed_units: *\K[1-9][0-9]*' "$log"); then
        echo "== $target: passed, $runs runs"
    else
        tail -n 60 "$log"
        echo "== $target: FAILED"
        failed+=("$target")
    fi
done

if [[ ${#failed[@]} -ne 0 ]]; then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
echo "every target passed"
