#!/usr/bin/env bash
# No feature: every target builds without a warning and passes its tests. Each feature alone: so do the library, the
# examples, and the tests that name it; those of the default features are not run again, for the README's command has
# run them. And the contract crate pulls in nothing that needs std.
set -euo pipefail
cd "$(dirname "$0")/.."
# Features but `default`, from the manifest itself, so that a new one is not forgotten.
features=$(cargo metadata --no-deps --format-version 1 | python3 -c '
import json, sys
for package in json.load(sys.stdin)["packages"]:
    if package["name"] == "recordfd":
        print("defaults=(" + " ".join(package["features"]["default"]) + ")")
        print("features=(" + " ".join(name for name in package["features"] if name != "default") + ")")')
eval "$features"
for feature in "" "${features[@]}"; do
    echo "features: ${feature:-none}"
    base=(--quiet -p recordfd --no-default-features --features "$feature")
    if [[ -z $feature ]]; then
        targets=(--all-targets)
        tests=(--lib --tests)
    else
        tests=()
        for path in $(grep -l "feature = \"$feature\"" tests/*.rs); do
            tests+=(--test "$(basename "$path" .rs)")
        done
        targets=(--lib --examples "${tests[@]}")
    fi
    cargo clippy "${base[@]}" "${targets[@]}" -- -D warnings
    if [[ " ${defaults[*]} " != *" ${feature:-none} "* ]]; then
        # Examples first: the tests run them, and must not find those of another set of features.
        cargo build "${base[@]}" --examples
        cargo test "${base[@]}" "${tests[@]}"
    fi
done
if cargo tree -p recordfd-uapi --edges normal,features | grep -E 'feature "(std|alloc)"'; then
    echo "features: the contract crate must not need std or alloc" >&2
    exit 1
fi
