#!/usr/bin/env bash
# Each feature alone, and none: builds without a warning and passes its tests. And the contract crate pulls
# in nothing that needs std.
set -euo pipefail
cd "$(dirname "$0")/.."
# Features but `default`, from the manifest itself, so that a new one is not forgotten.
features=$(cargo metadata --no-deps --format-version 1 | python3 -c '
import json, sys
for package in json.load(sys.stdin)["packages"]:
    if package["name"] == "recordfd":
        print(*[name for name in package["features"] if name != "default"])')
# The only one alone is all of them, which the README's command tests.
if [[ $(wc -w <<<"$features") -eq 1 ]]; then
    features=
fi
for set in "" $features; do
    echo "features: ${set:-none}"
    cargo clippy --quiet -p recordfd --no-default-features --features "$set" --all-targets -- -D warnings
    # Examples first: the tests run them, and must not find those of another set of features.
    cargo build --quiet -p recordfd --no-default-features --features "$set" --examples
    cargo test --quiet -p recordfd --no-default-features --features "$set" --lib --tests
done
if cargo tree -p recordfd-uapi --edges normal,features | grep -E 'feature "(std|alloc)"'; then
    echo "features: the contract crate must not need std or alloc" >&2
    exit 1
fi
