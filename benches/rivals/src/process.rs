//! The other process: this program again, with its ends as standard input and output.

use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

/// The other process to be started.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Which of the contenders it is to be the other side of.
    pub(crate) contender: usize,
    pub(crate) count: u64,
}

impl Peer {
    /// Starts it; `names` are for those contenders whose ends have names.
    pub(crate) fn start(&self, stdin: Stdio, stdout: Option<Stdio>, names: &[String]) -> Running {
        let program = std::env::current_exe().expect("a program has a name");
        let child = Command::new(program)
            .arg("there")
            .args([self.contender.to_string(), self.count.to_string()])
            .args(names)
            .stdin(stdin)
            .stdout(stdout.unwrap_or_else(Stdio::null))
            .spawn();
        Running(child.expect("this program can be started again"))
    }
}

/// The other process.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Running {
    /// Waits for its end, which must be a good one.
    pub(crate) fn finish(mut self) {
        let status = self.0.wait().expect("a child can be waited for");
        assert!(status.success(), "the other process: {status}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Of use after a panic only: nothing may be left behind that waits for ever.
        let _ = self.0.kill();
    }
}

/// In the other process: what it was told.
#[derive(Debug)]
pub(crate) struct There {
    pub(crate) count: u64,
    pub(crate) names: Vec<String>,
}

impl There {
    /// The end that came as standard input.
    pub(crate) fn stdin(&self) -> OwnedFd {
        recordfd::fd::take_stdin().expect("there is a standard input")
    }
}

/// The end that came as standard output. The original stays open until the process is gone.
pub(crate) fn take_stdout() -> OwnedFd {
    std::io::stdout().as_fd().try_clone_to_owned().expect("there is a standard output")
}
