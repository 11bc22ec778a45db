//! What several tests share.

#![allow(dead_code, reason = "no single test uses all of it")]
#![allow(unreachable_pub, reason = "compiled into each test")]

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fork::{Fork, fork, waitpid};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};
use recordfd::Options;
use recordfd::event::{self, Received, Receiver, Sender, SoleSender};
use recordfd::uapi::{AcpiNotify, Event, EventRecord, FixedText, Record, Sequence};

pub mod ends;
pub mod far;
pub mod far_fault;
pub mod fault;
pub mod line;
pub mod request;
pub mod router;
pub mod storm;
pub mod way;

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
pub fn local<R: EventRecord>(options: &Options) -> (Sender<R>, Receiver<R>) {
    event::channel(options).unwrap()
}

/// The sender's side makes the channel.
pub fn socket<R: EventRecord>(options: &Options) -> (Sender<R>, Receiver<R>) {
    let (tx, end) = event::socket(options).unwrap();
    let format = end.info().format;
    (tx, Receiver::from_socket(end.into(), format).unwrap())
}

/// The receiver's side makes the channel.
pub fn socket_made_by_receiver<R: EventRecord>(options: &Options) -> (Sender<R>, Receiver<R>) {
    let (rx, end) = event::socket_receiver(options).unwrap();
    let info = end.info();
    (Sender::from_socket(end.into(), info.format, info.depth).unwrap(), rx)
}

/// In shared memory; the sender's side makes the channel.
pub fn shared<R: EventRecord>(options: &Options) -> (Sender<R>, Receiver<R>) {
    let (tx, end) = event::shared(options).unwrap();
    (tx.into_shared(), Receiver::from_shared(end.into()).unwrap())
}

/// In shared memory; the receiver's side makes the channel.
pub fn shared_made_by_receiver<R: EventRecord>(options: &Options) -> (Sender<R>, Receiver<R>) {
    let (rx, end) = event::shared_receiver(options).unwrap();
    (SoleSender::from_shared(end.into()).unwrap().into_shared(), rx)
}

/// A receiver, and its peer as a plain stream.
pub fn receiver_and_peer(options: &Options) -> (Rx, UnixStream) {
    let (rx, end) = event::socket_receiver(options).unwrap();
    (rx, UnixStream::from(OwnedFd::from(end)))
}

/// A sender, and its peer as a plain stream.
pub fn sender_and_peer(options: &Options) -> (Tx, UnixStream) {
    let (tx, end) = event::socket(options).unwrap();
    (tx, UnixStream::from(OwnedFd::from(end)))
}

/// Bytes of one record on the wire.
pub const RECORD: usize = Event::<AcpiNotify>::SIZE;

/// Record number `sequence` on the wire, its `data` the same number.
pub fn wire(sequence: u32) -> [u8; RECORD] {
    encoded(Event::new(Sequence::wrapping(sequence), notify(0x80, sequence)))
}

/// The notice on the wire that records up to number `sequence` were lost.
pub fn wire_lost(sequence: u32) -> [u8; RECORD] {
    encoded(Event::lost(Sequence::wrapping(sequence)))
}

fn encoded(event: Event<AcpiNotify>) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    event.encode(&mut bytes);
    bytes
}

/// What `work` returns; fails when it has not returned soon.
pub fn soon<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    let worker = thread::spawn(move || done.send(work()));
    match result.recv_timeout(SOON) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("a call that should not wait has not returned"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(worker.join().unwrap_err());
        }
    }
}

/// Waits until `condition` holds; false when it does not soon.
///
/// For a hang-up, say: while another test starts a process, that one has a copy of every descriptor.
pub fn until(mut condition: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while !condition() {
        if began.elapsed() > SOON {
            return false;
        }
        thread::yield_now();
    }
    true
}

/// Descriptors this process has open. Of use in a process of its own only.
pub fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The example `name`, which `cargo test` has built beside this test.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is not built: run cargo build --examples", path.display());
    path
}

/// Makes a channel, both ends in this process.
pub type Make<R = AcpiNotify> = fn(&Options) -> (Sender<R>, Receiver<R>);

/// Every way to make one.
pub fn every_make<R: EventRecord>() -> Vec<Make<R>> {
    vec![
        #[cfg(feature = "local")]
        local,
        socket,
        socket_made_by_receiver,
        shared,
        shared_made_by_receiver,
    ]
}

/// Forks; the child drops `ends` and goes, the parent waits for that and keeps them.
pub fn dropped_in_a_child<T>(ends: T) -> T {
    match fork().unwrap() {
        Fork::Child => {
            drop(ends);
            std::process::exit(0);
        }
        Fork::Parent(child) => {
            assert_eq!(waitpid(child).unwrap(), 0, "the child failed");
            ends
        }
    }
}

/// A child that has a copy of everything and goes when it is told to.
pub struct Inheritor {
    process: i32,
    line: UnixStream,
}

impl Inheritor {
    pub fn new() -> Self {
        let (line, mut other) = UnixStream::pair().unwrap();
        match fork().unwrap() {
            Fork::Child => {
                drop(line);
                // Its end: the parent has said something, or is gone itself.
                let _ = other.read(&mut [0]);
                // Nothing is dropped: what closes the descriptors is the end of the process.
                raise(Signal::SIGKILL).unwrap();
                unreachable!("it is killed");
            }
            Fork::Parent(process) => Self { process, line },
        }
    }

    pub fn go(mut self) {
        self.line.write_all(&[0]).unwrap();
        // It was killed, which is no exit status.
        let _ = waitpid(self.process);
    }
}

/// Runs `test`, the test `name`, in a process of its own: for what is counted or limited by process.
pub fn in_own_process(name: &str, test: impl FnOnce()) {
    if in_child() {
        return test();
    }
    let null = fs::File::open("/dev/null").unwrap();
    finish(spawn_child(name, null.into()));
}

/// Waits for a process that [`spawn_child`] started; fails unless its test ran and passed.
pub fn finish(child: Child) {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{}: {text}", output.status);
}

/// Runs the test `name` of this binary again as a child process with `stdin`; [`in_child`] says true
/// there.
pub fn spawn_child(name: &str, stdin: OwnedFd) -> Child {
    child_command(std::env::current_exe().unwrap(), name, stdin).spawn().unwrap()
}

/// What starts `test_binary` as such a child.
pub fn child_command(test_binary: impl AsRef<OsStr>, name: &str, stdin: OwnedFd) -> Command {
    let mut command = Command::new(test_binary);
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env("RECORDFD_TEST_CHILD", "1");
    command.stdin(Stdio::from(stdin)).stdout(Stdio::piped());
    command
}

/// Whether this is the process that [`spawn_child`] started.
pub fn in_child() -> bool {
    std::env::var_os("RECORDFD_TEST_CHILD").is_some()
}
