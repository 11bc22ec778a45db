#!/usr/bin/env bash
# Counts the system calls of both processes of a busy shared channel, depth 1024, batches of 64: at most one for a hundred
# records, starting and ending included.
set -euo pipefail
cd "$(dirname "$0")/.."
records=10000000

if ! command -v strace >/dev/null; then
    apt-get update -qq && apt-get install -y -qq --no-install-recommends strace
fi
cargo build --quiet --release --example shared_pair
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for flags in "" "--asymmetric-fence"; do
    # shellcheck disable=SC2086
    strace -f -c -U calls,name -o "$scratch/calls" "${CARGO_TARGET_DIR:-target}/release/examples/shared_pair" \
        --records $records $flags
    calls=$(awk '$2 == "total" { print $1 }' "$scratch/calls")
    grep -vE 'total|calls|---' "$scratch/calls" | sort -rn | head -5
    awk -v calls="$calls" -v records=$records -v what="${flags:-default fences}" 'BEGIN {
        printf "%s: %d system calls for %d records, %.4f each\n", what, calls, records, calls / records
        exit !(calls > 0 && calls / records <= 0.01)
    }'
done
