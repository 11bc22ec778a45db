//! The C reader of the examples.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use recordfd_uapi::{Event, FixedText, Sequence};

use crate::compiler::{C11, VARIANTS, compile};
use crate::helpers::{encoded, notification};

const READER: &str = include_str!("../../../examples/c/read_records.c");

/// Runs the C reader on a non-blocking socket that gets `chunks` one after the other.
fn read_records(program: &Path, arguments: &[&str], chunks: &[&[u8]]) -> Output {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let reader = Command::new(program)
        .args(arguments)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    for chunk in chunks {
        ours.write_all(chunk).unwrap();
        // Time to find the socket empty, so that the reader has to wait.
        thread::sleep(Duration::from_millis(20));
    }
    drop(ours);
    reader.wait_with_output().unwrap()
}

#[test]
fn c_reader_prints_events_and_losses() {
    let mut strange = notification(13);
    strange.payload.device_class = FixedText::EMPTY;
    strange.payload.bus_id = FixedText::new("sixteen\x1bbytes\\ok").unwrap();
    strange.payload.value = 0;
    let records = [notification(1), notification(2), Event::lost(Sequence::wrapping(9)), strange];
    let bytes = encoded(&records);
    let lines = "lost 1\nbattery PNP0C0A:00 0x81 data 1 seq 1\nbattery PNP0C0A:00 0x82 data 1 seq 2\nlost 7\n\
        lost 3\n- sixteen\\x1bbytes\\x5cok 0x00 data 1 seq 13\n";
    let chunks = [&bytes[..10], &bytes[10..128], &bytes[128..]];
    let mut bad = bytes.clone();
    bad[71] = 0x80;
    for (name, flags) in VARIANTS.iter() {
        let flags = [&C11, flags.as_slice()].concat();
        let program = compile(&format!("reader-{name}"), "gcc", &flags, READER).unwrap();
        let outcome = |arguments: &[&str], chunks: &[&[u8]]| {
            let output = read_records(&program, arguments, chunks);
            let errors = String::from_utf8(output.stderr).unwrap();
            (output.status.code(), output.stdout, errors)
        };
        let done = |stdout: &[u8]| (Some(0), stdout.to_vec(), String::new());
        assert_eq!(outcome(&["0"], &chunks), done(lines.as_bytes()));
        assert_eq!(outcome(&["0"], &[]), done(b""));
        assert_eq!(outcome(&["0", "--raw"], &chunks), done(&bytes));
        assert_eq!(outcome(&["--raw", "0"], &[&bytes.repeat(40)]), done(&bytes.repeat(40)));

        let cut = outcome(&["--raw", "0"], &[&bytes[..100]]);
        assert_eq!(cut.1, bytes[..64]);
        assert_eq!((cut.0, cut.2.as_str()), (Some(1), "read_records: record cut off after 36 bytes\n"));
        let bad = outcome(&["--raw", "0"], &[&bad]);
        assert_eq!(bad.1, bytes[..64]);
        assert_eq!((bad.0, bad.2.as_str()), (Some(1), "read_records: bad sequence number 0x80000002\n"));

        // Closed with an unread reply, the socket says ECONNRESET where it would say EOF.
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"reply").unwrap();
        ours.write_all(&bytes).unwrap();
        drop(ours);
        let output = Command::new(&program).arg("0").stdin(Stdio::from(OwnedFd::from(theirs))).output();
        let output = output.unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), lines.as_bytes()));

        assert_eq!(outcome(&["--help"], &[]).0, Some(0));
        assert_eq!(outcome(&["1000000"], &[]).0, Some(1));
        for wrong in [&[][..], &["0", "0"], &["-1"], &["x"], &["0x"], &["--raw"], &["0", "--all"]] {
            let (code, stdout, errors) = outcome(wrong, &[]);
            assert_eq!((code, stdout.len()), (Some(2), 0), "{wrong:?}");
            assert!(errors.starts_with("usage: "), "{errors}");
        }
    }
}
