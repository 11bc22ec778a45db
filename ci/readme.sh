#!/usr/bin/env bash
# The Rust of README.md, pasted: each block is a program of a crate that depends on the library as README.md says.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# README.md names the library as a directory beside the crate.
ln -s "$PWD" "$scratch/recordfd"
mkdir -p "$scratch/app/src/bin"
# The versions that everything else is tested with.
cp Cargo.lock "$scratch/app"
python3 - "$scratch/app" <<'PY'
import pathlib, re, sys
app = pathlib.Path(sys.argv[1])
blocks = re.findall(r"^```(\w+)\n(.*?)^```$", pathlib.Path("README.md").read_text(), re.M | re.S)
manifest = [text for kind, text in blocks if kind == "toml"]
programs = [text for kind, text in blocks if kind == "rust"]
assert len(manifest) == 1 and len(programs) >= 3, "README.md has other blocks than this script looks for"
(app / "Cargo.toml").write_text('[package]\nname = "app"\nedition = "2024"\n\n' + manifest[0])
for number, program in enumerate(programs, 1):
    (app / f"src/bin/sample_{number}.rs").write_text(program)
PY
export CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")/readme
RUSTFLAGS="-D warnings ${RUSTFLAGS:-}" cargo build --quiet --manifest-path "$scratch/app/Cargo.toml" --bins
for program in "$scratch"/app/src/bin/*.rs; do
    name=$(basename "$program" .rs)
    echo "== $name"
    "$CARGO_TARGET_DIR/debug/$name"
done
