//! A small file system of its own, for what happens when a disk is full or may not be written.

#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system of its own, gone at the end.
pub struct Volume(PathBuf);

impl Volume {
    /// `None` where the machine does not allow mounting.
    pub fn mount(at: &Path, options: &str) -> Option<Volume> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Volume(at.to_owned()))
    }

    /// Mounts it again with other options.
    pub fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let done = Command::new("mount").args(["-o", &options]).arg(&self.0).status();
        assert!(done.is_ok_and(|status| status.success()), "remount {options}");
    }
}

impl Volume {
    /// Writes a file that leaves only so many bytes; its path.
    pub fn fill_up_to(&self, left: u64) -> PathBuf {
        let filler = self.0.join("filler");
        let system = rustix::fs::statvfs(&self.0).expect("because it is mounted");
        let size = (system.f_bavail * system.f_frsize).saturating_sub(left);
        std::fs::write(&filler, vec![1; size as usize]).expect("because there is room for it");
        filler
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
