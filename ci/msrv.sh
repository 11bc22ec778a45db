#!/usr/bin/env bash
# The minimum supported Rust version, as far as a newer toolchain can tell: no dependency of the library
# asks for more, clippy finds no newer standard library item, and no let-chain is used (stable in 1.88 for
# edition 2024, and accepted by every newer compiler whatever `rust-version` says).
set -euo pipefail
cd "$(dirname "$0")/.."
cargo metadata --format-version 1 --all-features --filter-platform x86_64-unknown-linux-gnu | python3 -c '
import json, sys
data = json.load(sys.stdin)
packages = {package["id"]: package for package in data["packages"]}
nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
# The tool follows the newest stable.
members = [i for i in data["workspace_members"] if packages[i]["name"] in ("recordfd", "recordfd-uapi")]
limit = tuple(int(part) for part in packages[members[0]]["rust_version"].split("."))
seen, queue = set(), list(members)
while queue:
    one = queue.pop()
    if one in seen:
        continue
    seen.add(one)
    for dep in nodes[one]["deps"]:
        if any(kind["kind"] != "dev" for kind in dep["dep_kinds"]):
            queue.append(dep["pkg"])
bad = []
for one in seen:
    wanted = packages[one]["rust_version"]
    if wanted and tuple(int(part) for part in wanted.split("."))[:2] > limit[:2]:
        bad.append(packages[one]["name"] + " wants " + wanted)
print("msrv:", ".".join(map(str, limit)), "-", len(seen), "packages looked at")
if bad:
    sys.exit("msrv: " + ", ".join(bad))'
cargo clippy --workspace --lib --all-features -- -D warnings -D clippy::incompatible_msrv
# Edition 2021 has no let-chains and takes the library as it is.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cp -r Cargo.toml Cargo.lock src uapi cli benches tests examples README.md "$scratch"
sed -i 's/^edition = "2024"$/edition = "2021"/' "$scratch/Cargo.toml"
if cmp -s Cargo.toml "$scratch/Cargo.toml"; then
    echo "msrv: the edition is not where it is looked for" >&2
    exit 1
fi
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/edition-2021
(cd "$scratch" && CARGO_TARGET_DIR=$target cargo check --quiet --lib --all-features)
