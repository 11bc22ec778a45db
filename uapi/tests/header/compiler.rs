//! C and C++ compilers, and what they made.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, process};

const INCLUDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/include");

pub(crate) const C11: [&str; 5] = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"];
pub(crate) const CXX17: [&str; 5] = ["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror"];

/// Tells of a skip past the test harness, which swallows what `eprintln!` prints.
pub(crate) fn skip(what: &str) {
    io::stderr().write_all(format!("skipped: {what}\n").as_bytes()).unwrap();
}

pub(crate) fn compile(name: &str, compiler: &str, flags: &[&str], source: &str) -> Result<PathBuf, String> {
    compile_with(Path::new(INCLUDE), name, compiler, flags, source)
}

pub(crate) fn compile_with(
    include: &Path,
    name: &str,
    compiler: &str,
    flags: &[&str],
    source: &str,
) -> Result<PathBuf, String> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("header");
    fs::create_dir_all(&dir).unwrap();
    let file = dir.join(format!("{name}.{}", if compiler.ends_with("++") { "cpp" } else { "c" }));
    let program = dir.join(name);
    fs::write(&file, source).unwrap();
    let output = Command::new(compiler)
        .env("LC_ALL", "C")
        .args(flags)
        .arg("-I")
        .arg(include)
        .arg("-o")
        .args([&program, &file])
        .output()
        .map_err(|error| format!("{compiler}: {error}"))?;
    if output.status.success() {
        Ok(program)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Whether the compiler makes programs that run here.
pub(crate) fn works(compiler: &str, flags: &[&str]) -> bool {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    // Tests ask the same at the same time, as threads or as processes.
    let name = format!("works-{}-{}", process::id(), ASKED.fetch_add(1, Ordering::Relaxed));
    let Ok(program) = compile(&name, compiler, flags, "int main(void) { return 0; }\n") else {
        return false;
    };
    let runs = Command::new(&program).status().is_ok_and(|status| status.success());
    fs::remove_file(program).unwrap();
    runs
}

pub(crate) fn run(program: &Path, input: &str) -> String {
    let file = program.with_extension("input");
    fs::write(&file, input).unwrap();
    let output = Command::new(program).stdin(fs::File::open(file).unwrap()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} failed: {}: {errors}", program.display(), output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Ways to build the same C program; the plain one must work, others are skipped where they do not.
pub(crate) fn variants() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut variants = vec![("plain", vec![])];
    for (name, flag) in [("m32", "-m32"), ("sanitized", "-fsanitize=address,undefined")] {
        if works("gcc", &[flag]) {
            variants.push((name, vec![flag, "-fno-sanitize-recover"]));
        } else {
            skip(&format!("gcc {flag} makes no programs here"));
        }
    }
    variants
}

pub(crate) static VARIANTS: LazyLock<Vec<(&str, Vec<&str>)>> = LazyLock::new(variants);
