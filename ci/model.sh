#!/usr/bin/env bash
# What takes an optimised build: ten million groups of page faults against the model, and what a processor does to wake-ups that
# are left to the other side's fence.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test --quiet --release --test fault_model
cargo test --quiet --release --lib -- --nocapture only_a_registered_producer
