#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Checks uapi/include/recordfd.h and the C example with every compiler a user may have, then runs the
# comparison with Rust. What a machine lacks is skipped with a line that says so; gcc is required.
set -euo pipefail
cd "$(dirname "$0")/.."

warnings=(-Wall -Wextra -Wpedantic -Werror -I uapi/include)
# Clang's word for a struct with a flexible array member inside another, which C++ cannot have.
clang_only=(-Wgnu-variable-sized-type-not-at-end)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

skip() { echo "skipped: $*" >&2; }

# Whether this compiler makes programs: 32-bit ones need libraries of their own.
works() {
	echo 'int main(void) { return 0; }' >"$work/works.c"
	"$@" -o "$work/works" "$work/works.c" >"$work/log" 2>&1
}

install_missing() {
	local packages=()
	works gcc -m32 || packages+=(gcc-multilib)
	works g++ -m32 -x c++ || packages+=(g++-multilib)
	works clang || packages+=(clang)
	[ ${#packages[@]} -eq 0 ] && return
	if [ "$(id -u)" -ne 0 ]; then
		skip "only root can install ${packages[*]}"
	elif ! { apt-get update && apt-get install -y --no-install-recommends "${packages[@]}"; } \
		>"$work/log" 2>&1; then
		skip "apt-get could not install ${packages[*]}"
	fi
}

# check TITLE COMPILER FLAGS...: the header alone, after <linux/iommufd.h>, and the programs.
check() {
	local title=$1 file
	shift
	if ! works "$@"; then
		skip "$title makes no programs here"
		return
	fi
	local files=("$work/alone.c" uapi/tests/c/helpers.c examples/c/read_records.c tests/c/answer_faults.c)
	if "$@" -c -o "$work/out" "$work/probe.c" 2>"$work/log"; then
		files+=("$work/iommufd.c")
	else
		skip "$title finds no <linux/iommufd.h>"
	fi
	for file in "${files[@]}"; do
		if "$@" "${warnings[@]}" -c -o "$work/out" "$file"; then
			echo "ok: $title $(basename "$file")"
		else
			echo "FAILED: $title $(basename "$file")" >&2
			failed=1
		fi
	done
}

echo '#include <recordfd.h>' >"$work/alone.c"
echo '#include <linux/iommufd.h>' >"$work/probe.c"
printf '#include <linux/iommufd.h>\n#include <recordfd.h>\n' >"$work/iommufd.c"

if ! works gcc; then
	echo "FAILED: gcc makes no programs here" >&2
	exit 1
fi
install_missing
for width in "" -m32; do
	check "gcc${width:+ $width}" gcc $width -std=c11
	check "g++${width:+ $width}" g++ $width -x c++ -std=c++17
	check "clang${width:+ $width}" clang $width -std=c11 "${clang_only[@]}"
	check "clang++${width:+ $width}" clang++ $width -x c++ -std=c++17 "${clang_only[@]}"
done
[ $failed -eq 0 ] || exit 1

cargo test -p recordfd-uapi --test header
