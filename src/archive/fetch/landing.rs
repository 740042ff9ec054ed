//! Names beside a target, under which a file is checked before it takes the target's name.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, test_kill_process};

/// What stands between a target's name and the process that checks a file for it.
const MARK: &str = ".pgwarm-";

/// A name beside the target that nobody used before, to check a file under before it takes the target's name. A worker
/// that is slow to notice that nobody waits any more then writes where nobody looks.
pub fn landing(target: &Path) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!("{MARK}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    target.with_file_name(name)
}

/// Writes a file (0600) of its own beside the target, and gives its path. Nothing is made durable.
pub fn land(target: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let path = landing(target);
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?.write_all(bytes)?;
    Ok(path)
}

/// Removes what killed calls left beside the target.
pub fn sweep_landings(target: &Path) {
    let Some(folder) = target.parent() else { return };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.split_once(MARK)?.1.split_once('-')?.0.parse().ok());
        let Some(owner) = owner.and_then(Pid::from_raw) else { continue };
        if test_kill_process(owner) == Err(rustix::io::Errno::SRCH) {
            // The next recovery tries again.
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_lands_is_read_by_nobody_else() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = land(&folder.path().join("segment"), b"wal")?;
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read(&path)?, b"wal");
        // A call that lives keeps what is its own.
        sweep_landings(&folder.path().join("segment"));
        assert!(path.exists());
        Ok(())
    }
}
