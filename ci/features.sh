#!/usr/bin/env bash
# Each feature alone, and none: every combination builds without a warning and passes its tests.
set -euo pipefail
cd "$(dirname "$0")/.."
# Features but `default`, from the manifest itself, so that a new one is not forgotten.
features=$(cargo metadata --no-deps --format-version 1 | python3 -c '
import json, sys
for package in json.load(sys.stdin)["packages"]:
    if package["name"] == "recordfd":
        print(*[name for name in package["features"] if name != "default"])')
for set in "" $features; do
    echo "features: ${set:-none}"
    cargo clippy --quiet -p recordfd --no-default-features --features "$set" --lib -- -D warnings
    cargo test --quiet -p recordfd --no-default-features --features "$set" --lib --tests
done
