//! A file whose every close waits: that of a FUSE server which answers a FLUSH late.
//!
//! The root of the file system is the file, so the server needs to know four requests only
//! (include/uapi/linux/fuse.h).

#![allow(unreachable_pub, reason = "compiled into each test")]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const ENOSYS: i32 = 38;
const REGULAR: u32 = 0o100_666;

pub struct SlowFile {
    path: PathBuf,
    flushes: Arc<AtomicU32>,
}

impl SlowFile {
    /// Each close of the file takes `delay`. None, and a line that says why, where nothing can be mounted.
    pub fn new(name: &str, delay: Duration) -> Option<Self> {
        let path = std::env::temp_dir().join(format!("recordfd-{name}-{}", std::process::id()));
        File::create(&path).unwrap();
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let mounted = device.and_then(|device| {
            let options = format!("fd={},rootmode={REGULAR:o},user_id=0,group_id=0", device.as_raw_fd());
            mount(Some("recordfd"), &path, Some("fuse"), MsFlags::empty(), Some(options.as_str()))?;
            Ok(device)
        });
        match mounted {
            Ok(device) => {
                let flushes = Arc::new(AtomicU32::new(0));
                let count = flushes.clone();
                thread::spawn(move || serve(device, delay, &count));
                Some(Self { path, flushes })
            }
            Err(error) => {
                eprintln!("skipped: no file system can be mounted: {error}");
                std::fs::remove_file(&path).unwrap();
                None
            }
        }
    }

    pub fn open(&self) -> File {
        File::open(&self.path).unwrap()
    }

    /// How many closes the server was asked about.
    pub fn flushes(&self) -> u32 {
        self.flushes.load(Ordering::SeqCst)
    }
}

impl Drop for SlowFile {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Answers until the file system is gone.
fn serve(mut device: File, delay: Duration, flushes: &AtomicU32) {
    let mut request = vec![0; 1 << 17];
    while let Ok(length) = device.read(&mut request) {
        assert!(length >= 40, "a request has a header");
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let mut error = 0;
        let mut body = Vec::new();
        match word(4) {
            INIT => {
                body = [7, 31, 0, 0, 0, 4096, 1].map(u32::to_ne_bytes).concat();
                body.resize(64, 0);
            }
            GETATTR => {
                // Valid for long; the number, size and times of the file, then its mode and links.
                body = [3600, 0, 0, 0, 1].map(u32::to_ne_bytes).concat();
                body.resize(16 + 60, 0);
                body.extend([REGULAR, 1].map(u32::to_ne_bytes).concat());
                body.resize(16 + 88, 0);
            }
            OPEN => body = vec![0; 16],
            FLUSH => {
                flushes.fetch_add(1, Ordering::SeqCst);
                thread::sleep(delay);
            }
            RELEASE => {}
            _ => error = -ENOSYS,
        }
        let mut answer = (16 + body.len() as u32).to_ne_bytes().to_vec();
        answer.extend(i32::to_ne_bytes(error));
        answer.extend(&request[8..16]);
        answer.extend(body);
        // One that was interrupted is not waited for any more.
        let _ = device.write(&answer);
    }
}
