//! A peer that is none of ours: the raw end of a socket, and what has passed through it.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

pub(crate) struct Peer {
    /// None when it has hung up.
    stream: Option<UnixStream>,
    /// What it is going to write.
    pub(crate) pending: Vec<u8>,
    /// What it has written, and what it has read.
    pub(crate) written: Vec<u8>,
    pub(crate) read: Vec<u8>,
}

impl Peer {
    pub(crate) fn new(stream: UnixStream) -> Self {
        stream.set_nonblocking(true).unwrap();
        Self { stream: Some(stream), pending: Vec::new(), written: Vec::new(), read: Vec::new() }
    }

    /// Writes at most `most` bytes of what is pending.
    pub(crate) fn write(&mut self, most: usize) {
        let Some(stream) = &mut self.stream else { return };
        let count = most.min(self.pending.len());
        match stream.write(&self.pending[..count]) {
            Ok(count) => self.written.extend(self.pending.drain(..count)),
            Err(error) => assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::BrokenPipe)),
        }
    }

    /// Reads what there is.
    pub(crate) fn read(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => self.read.extend_from_slice(&buffer[..count]),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    return;
                }
            }
        }
    }

    pub(crate) fn hang_up(&mut self) {
        self.stream = None;
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.stream.is_none()
    }
}
