//! A peer that is a program in C of `tests/c`.

#![allow(unreachable_pub, reason = "compiled into each test")]

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Compiles a program. Tests that run at the same time must not compile the same one.
pub fn compile(name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/c/{name}.c"));
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let arguments = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"];
    let compiled = Command::new("gcc").args(arguments).arg(&program).arg(source).status();
    assert!(compiled.expect("gcc is needed for hostile peers").success());
    program
}

/// The program while it runs; killed when it is dropped.
pub struct CPeer {
    child: Child,
    /// The line that it has printed.
    pub said: String,
}

impl CPeer {
    /// Starts it with a descriptor as its standard input, and waits for its line.
    pub fn start(program: &Path, arguments: &[&str], stdin: OwnedFd) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        Self { child, said: said.trim().to_owned() }
    }
}

impl Drop for CPeer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
