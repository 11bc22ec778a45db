//! What several tests share.

#![allow(dead_code, reason = "no single test uses all of it")]
#![allow(unreachable_pub, reason = "compiled into each test")]

use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use recordfd::Options;
use recordfd::event::{self, Received, Receiver, Sender};
use recordfd::uapi::{AcpiNotify, FixedText};

pub type Tx = Sender<AcpiNotify>;
pub type Rx = Receiver<AcpiNotify>;

/// How long a test waits for what must happen.
pub const SOON: Duration = Duration::from_secs(20);

/// A notification with this value, told apart by `data`.
pub fn notify(value: u32, data: u32) -> AcpiNotify {
    AcpiNotify {
        dev_id: 1,
        value,
        data,
        cookie: 0,
        bus_id: FixedText::new("PNP0C0A:00").unwrap(),
        device_class: FixedText::new("battery").unwrap(),
    }
}

/// What a receive says of record number `sequence` with `lost` before it, as told apart by `data`.
pub fn summary(received: Received<AcpiNotify>) -> (u32, Option<u32>) {
    (received.lost(), received.record().map(|record| record.data))
}

/// Whether poll says that something can be received.
pub fn readable(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).unwrap() > 0
}

/// Waits until poll says that something can be received.
pub fn wait_readable(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, 20_000u16).unwrap() > 0
}

#[cfg(feature = "local")]
pub fn local(options: &Options) -> (Tx, Rx) {
    event::channel(options).unwrap()
}

/// The sender's side makes the channel.
pub fn socket(options: &Options) -> (Tx, Rx) {
    let (tx, end) = event::socket(options).unwrap();
    let format = end.info().format;
    (tx, Rx::from_socket(end.into(), format).unwrap())
}

/// The receiver's side makes the channel.
pub fn socket_made_by_receiver(options: &Options) -> (Tx, Rx) {
    let (rx, end) = event::socket_receiver(options).unwrap();
    let info = end.info();
    (Tx::from_socket(end.into(), info.format, info.depth).unwrap(), rx)
}

/// Runs the test `name` of this binary again as a child process with `stdin`; [`in_child`] says true
/// there.
pub fn spawn_child(name: &str, stdin: OwnedFd) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("RECORDFD_TEST_CHILD", "1")
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Whether this is the process that [`spawn_child`] started.
pub fn in_child() -> bool {
    std::env::var_os("RECORDFD_TEST_CHILD").is_some()
}
