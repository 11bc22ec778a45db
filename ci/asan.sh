#!/usr/bin/env bash
# Runs the tests that reach unsafe code, or map memory that another side writes, with AddressSanitizer: on nightly,
# which alone has it.
set -euo pipefail
cd "$(dirname "$0")/.."
host=$(rustc +nightly -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/asan"
export RUSTFLAGS="-Zsanitizer=address ${RUSTFLAGS:-}"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# canary NAME: a program that must be found out; what it is told goes to a log.
canary() {
    cat >"$scratch/$1.rs"
    rustc +nightly --edition 2024 -Zsanitizer=address -o "$scratch/$1" "$scratch/$1.rs"
    if "$scratch/$1" >"$scratch/$1.log" 2>&1; then
        echo "asan: does not find $1" >&2
        exit 1
    fi
}
canary overflow <<'RUST'
fn main() {
    let bytes = vec![1_u8; 32];
    let index = std::hint::black_box(32);
    println!("{}", unsafe { *bytes.as_ptr().add(index) });
}
RUST
if ! grep -q heap-buffer-overflow "$scratch/overflow.log"; then
    cat "$scratch/overflow.log"
    echo "asan: an overflow is told otherwise" >&2
    exit 1
fi

# Leaks are looked for by tracing the process, which a container may forbid.
canary leak <<'RUST'
fn main() {
    std::hint::black_box(Box::leak(Box::new([1_u8; 64])));
}
RUST
leaks=1
if ! grep -q "detected memory leaks" "$scratch/leak.log"; then
    echo "asan: skipped: leaks cannot be looked for here"
    leaks=0
fi
export ASAN_OPTIONS="detect_leaks=$leaks"

tests=(channel fault processes)
for path in tests/shared_hostile*.rs; do
    tests+=("$(basename "$path" .rs)")
done
cargo +nightly test --quiet --target "$host" --lib "${tests[@]/#/--test=}" 2>&1 | tee "$scratch/log"
# One line for the library and each test.
ran=$(grep -cE '^test result: ok\. [1-9][0-9]* passed' "$scratch/log")
if [[ $ran -ne $((${#tests[@]} + 1)) ]]; then
    echo "asan: only $ran of $((${#tests[@]} + 1)) have run" >&2
    exit 1
fi
