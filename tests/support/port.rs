//! Ports of 127.0.0.1 that nobody else uses, other test processes included.

use std::fs::{self, File, OpenOptions};
use std::net::TcpListener;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};

/// Below the range the kernel hands out to connections by itself, so that none of them takes a reserved port.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// A port that is ours until this is dropped.
#[derive(Debug)]
pub struct Port {
    /// The number.
    pub number: u16,
    // The lock goes with the file.
    _reserved: File,
}

impl Port {
    /// Reserves one.
    pub fn reserve() -> Port {
        let uid = rustix::process::geteuid().as_raw();
        let locks = PathBuf::from(format!("/tmp/pgwarm-test-ports-{uid}"));
        fs::create_dir_all(&locks).unwrap_or_else(|error| panic!("could not make '{}': {error}", locks.display()));
        let span = u32::from(RANGE.end - RANGE.start);
        // Processes begin at different places, so that they seldom meet.
        let begin = std::process::id().wrapping_mul(61) % span;
        for step in 0..span {
            let offset = u16::try_from((begin + step) % span).expect("because the range is one of ports");
            let number = RANGE.start + offset;
            let path = locks.join(number.to_string());
            let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let file = opened.unwrap_or_else(|error| panic!("could not open '{}': {error}", path.display()));
            let ours = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
            if ours && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Port { number, _reserved: file };
            }
        }
        panic!("no port of 127.0.0.1 in {RANGE:?} is free");
    }
}
