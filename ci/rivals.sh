#!/usr/bin/env bash
# The comparison with rivals: formatted, without a warning, and every contender runs. What it measures here means
# nothing: it is built without optimisation, and one round is too few.
set -euo pipefail
cd "$(dirname "$0")/../benches/rivals"
cargo fmt --check
cargo clippy --quiet --locked --all-features --all-targets -- -D warnings
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
# A contender whose two sides wait for each other would do so for ever.
cargo build --quiet --locked --all-features
timeout 120 cargo run --quiet --locked --all-features -- --rounds 1 --out "$out" >"$out/table"
grep -q '^| *| processes | recordfd shared ' "$out/table"
grep -qF "$(head -n 1 "$out/table")" "$out/rivals.md"
grep -q '</svg>' "$out/rivals.svg"
echo "rivals: $(($(wc -l <"$out/table") - 2)) contenders ran"
