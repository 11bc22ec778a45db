#!/usr/bin/env bash
# Ten million groups of page faults against the model, which takes an optimised build.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test --quiet --release --test fault_model
