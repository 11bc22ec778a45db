#!/usr/bin/env bash
# The minimum supported Rust version, as far as a newer toolchain can tell: no dependency of the library
# asks for more, clippy finds no newer standard library item, and no let-chain is used (stable in 1.88,
# accepted by every newer compiler whatever `rust-version` says).
set -euo pipefail
cd "$(dirname "$0")/.."
cargo metadata --format-version 1 --all-features --filter-platform x86_64-unknown-linux-gnu | python3 -c '
import json, sys
data = json.load(sys.stdin)
packages = {package["id"]: package for package in data["packages"]}
nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
members = [i for i in data["workspace_members"] if packages[i]["name"].startswith("recordfd")]
limit = tuple(int(part) for part in packages[members[0]]["rust_version"].split("."))
seen, todo = set(), list(members)
while todo:
    one = todo.pop()
    if one in seen:
        continue
    seen.add(one)
    for dep in nodes[one]["deps"]:
        if any(kind["kind"] != "dev" for kind in dep["dep_kinds"]):
            todo.append(dep["pkg"])
bad = []
for one in seen:
    wanted = packages[one]["rust_version"]
    if wanted and tuple(int(part) for part in wanted.split("."))[:2] > limit[:2]:
        bad.append(packages[one]["name"] + " wants " + wanted)
print("msrv:", ".".join(map(str, limit)), "-", len(seen), "packages looked at")
if bad:
    sys.exit("msrv: " + ", ".join(bad))'
cargo clippy --workspace --lib --all-features -- -D warnings -D clippy::incompatible_msrv
if grep -rnE '\b(if|while) let .*(&&|\|\|) *let |\b(if|while) .*&& *let |^ *&& let ' src uapi/src; then
    echo "msrv: let-chains need Rust 1.88" >&2
    exit 1
fi
