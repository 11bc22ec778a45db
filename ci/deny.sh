#!/usr/bin/env bash
# Licences, banned crates and sources of everything that is pulled in, the fuzz targets' included. Advisories need a database that
# is fetched from elsewhere, so they are not looked at here.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v cargo-deny >/dev/null || cargo install --quiet cargo-deny --locked
cargo deny --all-features check licenses bans sources
cargo deny --manifest-path fuzz/Cargo.toml --config deny.toml check licenses bans sources
