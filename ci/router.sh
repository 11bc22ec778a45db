#!/usr/bin/env bash
# A minute of page faults whose handles are switched meanwhile, in an optimised build: each ends once, and by who was attached.
set -euo pipefail
cd "$(dirname "$0")/.."
export RECORDFD_STRESS_SECONDS="${RECORDFD_STRESS_SECONDS:-60}"
cargo test --quiet --release --test fault_router_stress -- --nocapture
