//! Several processes attach copies of one end at the same time: one has the channel, and all that was sent before.

mod common;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use common::*;
use fork::{Fork, fork};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use recordfd::{Error, Options, event};

#[test]
fn one_of_several_processes_attaches_an_end_and_has_what_was_sent_before() {
    /// What the process ends with that does not attach the end.
    const TOO_LATE: i32 = 3;
    in_own_process("one_of_several_processes_attaches_an_end_and_has_what_was_sent_before", || {
        for round in 0..150 {
            let (mut tx, end) = event::shared(&Options::new().depth(16)).unwrap();
            tx.try_send(notify(0x80, round)).unwrap();
            let end = OwnedFd::from(end);
            let (mut start, mut started) = UnixStream::pair().unwrap();
            let children = [(); 3].map(|()| match fork().unwrap() {
                Fork::Parent(child) => Pid::from_raw(child),
                Fork::Child => {
                    started.read_exact(&mut [0]).unwrap();
                    let outcome = Rx::from_shared(end.try_clone().unwrap()).map_err(Error::from);
                    if matches!(outcome, Err(Error::AlreadyAttached)) {
                        std::process::exit(TOO_LATE);
                    }
                    let mut rx = outcome.unwrap();
                    assert!(wait_readable(&rx), "the wake-up is lost");
                    assert_eq!(summary(rx.try_recv().unwrap()), (0, Some(round)));
                    std::process::exit(0);
                }
            });
            start.write_all(&[0; 3]).unwrap();
            let mut ended = children.map(|child| match waitpid(child, None).unwrap() {
                WaitStatus::Exited(_, code) => code,
                other => panic!("{other:?}"),
            });
            ended.sort_unstable();
            assert_eq!(ended, [0, TOO_LATE, TOO_LATE], "round {round}");
        }
    });
}
