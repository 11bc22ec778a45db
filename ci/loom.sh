#!/usr/bin/env bash
# Model-checks the doorbell and the telling of losses, then shows that the models can fail: without the fence, and without the
# count of owned tokens.
set -euo pipefail
cd "$(dirname "$0")/.."
export RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS="${LOOM_MAX_PREEMPTIONS:-3}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/loom"

models() { cargo test --quiet --release --lib -- models::; }

models

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# must_fail NAME FILE SED: runs the models on a copy of the sources with one edit.
must_fail() {
    rm -rf "$scratch/tree" && mkdir "$scratch/tree"
    cp -r Cargo.toml Cargo.lock src uapi benches tests examples README.md "$scratch/tree"
    sed -i "$3" "$scratch/tree/$2"
    if cmp -s "$2" "$scratch/tree/$2"; then
        echo "loom: the edit '$1' changes nothing" >&2
        exit 1
    fi
    if (cd "$scratch/tree" && models) >"$scratch/log" 2>&1; then
        echo "loom: the models pass $1" >&2
        exit 1
    fi
    grep -m1 -oE 'lost wake-up|a record waits behind an unreadable fd|wakes again with nothing to read|readable while empty|closed is readable for ever|deadlock|told of a loss that was none' \
        "$scratch/log" | sed "s/^/loom: fails $1, as it must: /" || { tail -30 "$scratch/log"; exit 1; }
}
target=$(realpath "$CARGO_TARGET_DIR")
export CARGO_TARGET_DIR="$target/edited"
must_fail "without the producer's fence" src/doorbell.rs '0,/fence(Ordering::SeqCst);/s///'
must_fail "without the consumer's fence" src/doorbell.rs '/Pairs with the fence in `ring`/{n;s/fence(Ordering::SeqCst);//}'
must_fail "without the count of owned tokens" src/doorbell.rs 's/while self.owned > 0 \&\& tokens.take()/while tokens.take()/; s/self.owned -= 1;//'
must_fail "with the loss looked at after the queue" src/transport/local/models.rs \
    '/let loss = self.world.tail_loss.load(Acquire);/d; s/} else if loss != 0/} else if let loss = self.world.tail_loss.load(Acquire) \&\& loss != 0/'
must_fail "without the waiter's fence" src/drain.rs '/Pairs with the fence in `open`/{n;s/fence(Ordering::SeqCst);//}'
