//! The scripts that run on the other node: look, and put. POSIX sh and what every Linux and BSD has.
//!
//! A file is put as everywhere in pgwarm: temporary name in the target's folder, copy, compare the checksum, fsync,
//! rename, fsync the folder. What was there stays beside it as `.previous`.

/// Looks at a file. $1: its path. Prints a state, then the content.
pub(super) const LOOK: &str = r#"folder=${1%/*}
if [ -r "$1" ] && [ -f "$1" ]; then echo "pgwarm-file present"; cat -- "$1"
elif [ -e "$1" ] || [ -h "$1" ]; then echo "pgwarm-file unreadable"
elif [ -d "$folder" ] && [ ! -x "$folder" ]; then echo "pgwarm-file unreadable"
else echo "pgwarm-file absent"; fi
"#;

/// Prints the checksums of files. $1: their folder; $2…: their names.
pub(super) const SUMS: &str = r#"sum() { if command -v sha256sum >/dev/null 2>&1; then sha256sum; else shasum -a 256; fi; }
folder=$1; shift
for name; do
  if [ -r "$folder/$name" ]; then found=$(sum <"$folder/$name"); echo "pgwarm-sum ${found%% *} $name"
  elif [ -e "$folder/$name" ]; then echo "pgwarm-sum unreadable $name"
  else echo "pgwarm-sum absent $name"; fi
done
"#;

/// Puts a file. $1: its path; $2: the checksum of what comes on standard input; $3: the mode; $4: the checksum of what
/// is to be replaced, or `absent`; $5: `program` where it must prove that it runs there before it is put.
///
/// Exit codes: 0 put, 3 what came is not what was sent, 4 somebody else changed it meanwhile, 5 the program does not
/// run there, anything else: the last line of standard error says why.
pub(super) const PUT: &str = r#"set -eu
umask 077
sum() { if command -v sha256sum >/dev/null 2>&1; then sha256sum; else shasum -a 256; fi; }
settle() { sync -- "$1" 2>/dev/null || sync; }
target=$1
if [ -h "$target" ]; then target=$(readlink -f -- "$target"); fi
folder=${target%/*}
[ -d "$folder" ] || { mkdir -p -- "$folder"; chmod 0755 "$folder"; }
new=$folder/.tmp-pgwarm-$$
trap 'rm -f -- "$new"' EXIT
trap 'exit 1' HUP INT TERM
(set -C; cat >"$new")
got=$(sum <"$new")
[ "${got%% *}" = "$2" ] || exit 3
chmod "$3" "$new"
if [ "$5" = program ]; then "$new" --version >/dev/null || exit 5; fi
settle "$new"
if [ -e "$target" ]; then old=$(sum <"$target"); old=${old%% *}; else old=absent; fi
[ "$old" = "$4" ] || exit 4
if [ "$old" != absent ]; then ln -f -- "$target" "$target.previous" || cp -p -- "$target" "$target.previous"; fi
mv -f -- "$new" "$target"
settle "$folder"
echo pgwarm-put
"#;

/// What came is not what was sent.
pub(super) const DAMAGED: i32 = 3;
/// Somebody else changed the file between looking and putting.
pub(super) const CHANGED: i32 = 4;
/// The program does not run there.
pub(super) const DOES_NOT_RUN: i32 = 5;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;
    use std::time::Duration;

    use super::super::checksum;
    use super::*;
    use crate::system::clock::Deadline;
    use crate::system::process::{Call, Ended, ProcessError};

    fn put(target: &Path, content: &str, sum: &str, old: &str, kind: &str) -> Result<Ended, ProcessError> {
        let call = Call::new("sh").args(["-c", PUT, "pgwarm"]).arg(target).args([sum, "0640", old, kind]);
        Ok(call.stdin(content).run(Deadline::after(Duration::from_secs(20)))?.status)
    }

    #[test]
    fn a_file_is_put_and_the_old_one_kept() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let target = folder.path().join("sub/pgwarm.ini");
        let (first, second) = (checksum(b"first"), checksum(b"second"));
        assert_eq!(put(&target, "first", &first, "absent", "file")?, Ended::Exit(0));
        assert_eq!(put(&target, "second", &second, &first, "file")?, Ended::Exit(0));
        assert_eq!(fs::read_to_string(&target)?, "second");
        assert_eq!(fs::read_to_string(folder.path().join("sub/pgwarm.ini.previous"))?, "first");
        assert_eq!(fs::metadata(&target)?.permissions().mode() & 0o7777, 0o640);
        assert_eq!(fs::read_dir(folder.path().join("sub"))?.count(), 2, "a temporary file was left behind");
        Ok(())
    }

    #[test]
    fn what_is_cut_short_or_changed_meanwhile_leaves_the_file_alone() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let target = folder.path().join("pgwarm.ini");
        fs::write(&target, "theirs")?;
        let theirs = checksum(b"theirs");
        assert_eq!(put(&target, "ou", &checksum(b"ours"), &theirs, "file")?, Ended::Exit(DAMAGED));
        assert_eq!(put(&target, "ours", &checksum(b"ours"), &checksum(b"older"), "file")?, Ended::Exit(CHANGED));
        assert_eq!(put(&target, "ours", &checksum(b"ours"), "absent", "file")?, Ended::Exit(CHANGED));
        assert_eq!(put(&target, "ours", &checksum(b"ours"), &theirs, "program")?, Ended::Exit(DOES_NOT_RUN));
        assert_eq!(fs::read_to_string(&target)?, "theirs");
        assert_eq!(fs::read_dir(folder.path())?.count(), 1, "a temporary file was left behind");
        Ok(())
    }

    #[test]
    fn a_link_stays_a_link() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let (file, link) = (folder.path().join("real.ini"), folder.path().join("pgwarm.ini"));
        fs::write(&file, "old")?;
        symlink(&file, &link)?;
        assert_eq!(put(&link, "new", &checksum(b"new"), &checksum(b"old"), "file")?, Ended::Exit(0));
        assert!(fs::symlink_metadata(&link)?.is_symlink());
        assert_eq!(fs::read_to_string(&file)?, "new");
        Ok(())
    }
}
