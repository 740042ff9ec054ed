//! A copy of a running server by PostgreSQL's own `pg_basebackup` (BASE_BACKUP of the replication protocol).
//!
//! The WAL that makes the copy consistent is held back at the server meanwhile, by [`hold_wal`], and fetched at the
//! end: streaming it takes a second process, which nobody would end with us. No password goes on the command line;
//! the program finds it where libpq does.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::connection::{Connection, Statement};
use super::error::PostgresError;
use super::server::{ServerError, program_of};
use crate::system::process::Call;

/// The program.
pub const PROGRAM: &str = "pg_basebackup";

const HOLD_WAL: Statement = Statement { name: "hold_copy_wal", text: include_str!("../../sql/hold_copy_wal.sql") };

const TABLESPACES: Statement = Statement { name: "tablespaces", text: include_str!("../../sql/tablespaces.sql") };

/// The least and the largest rate that it takes, in KiB a second.
const RATES: (u64, u64) = (32, 1 << 20);

/// Where the WAL that makes a copy consistent comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wal {
    /// It comes along, at the end.
    Fetched,
    /// It is in an archive: the server waits until it has archived it.
    Archived,
}

/// What is copied, and where to.
pub struct BaseCopy<'a> {
    /// The major version of the server.
    pub major: u32,
    /// The way to the server, without a password.
    pub conninfo: &'a str,
    /// Where it goes: an empty directory, or none yet.
    pub pgdata: &'a Path,
    /// The label.
    pub label: &'a str,
    /// True: the checkpoint is made at once.
    pub fast: bool,
    /// At most so many bytes a second; 0: no limit.
    pub rate: u64,
    /// The WAL that it needs.
    pub wal: Wal,
    /// Where `pg_wal` goes, if elsewhere.
    pub wal_dir: Option<&'a Path>,
    /// Where tablespaces go: from, to.
    pub spaces: &'a [(PathBuf, PathBuf)],
}

impl BaseCopy<'_> {
    /// The call that does it. It ends with us.
    pub fn call(&self, pg_bin: Option<&Path>) -> Result<Call, ServerError> {
        let program = program_of(pg_bin, self.major, PROGRAM).ok_or_else(|| ServerError::NoProgram {
            program: format!("{PROGRAM} of version {}", self.major),
            pgdata: self.pgdata.to_owned(),
        })?;
        let checkpoint = if self.fast { "--checkpoint=fast" } else { "--checkpoint=spread" };
        let mut call = Call::new(program).bound();
        let wal = if self.wal == Wal::Fetched { "--wal-method=fetch" } else { "--wal-method=none" };
        call = call.args(["--no-password", wal, checkpoint, &format!("--label={}", self.label)]);
        call = call.arg("--pgdata").arg(self.pgdata).args(["--dbname", self.conninfo]);
        if self.rate > 0 {
            call = call.arg(format!("--max-rate={}k", (self.rate >> 10).clamp(RATES.0, RATES.1)));
        }
        if let Some(folder) = self.wal_dir {
            call = call.arg("--waldir").arg(folder);
        }
        for (from, to) in self.spaces {
            let mut map = OsString::from("--tablespace-mapping=");
            map.push(escaped(from));
            map.push("=");
            map.push(escaped(to));
            call = call.arg(map);
        }
        Ok(call)
    }
}

/// Every tablespace that lies outside the data directory, by its oid.
pub fn tablespaces(connection: &mut Connection) -> Result<Vec<(u32, PathBuf)>, PostgresError> {
    let rows = connection.query(&TABLESPACES, &[])?;
    let space = |row| {
        let oid: i64 = connection.column(&TABLESPACES, row, "oid")?;
        let location: String = connection.column(&TABLESPACES, row, "location")?;
        Ok((u32::try_from(oid).unwrap_or_default(), PathBuf::from(location)))
    };
    rows.iter().map(space).collect()
}

/// Holds back all WAL from now on for as long as the connection lives, by a slot of this name. A server that has no
/// slot left may still keep enough.
pub fn hold_wal(connection: &mut Connection, slot: &str) {
    if let Err(error) = connection.query(&HOLD_WAL, &[&slot]) {
        log::warn!("WAL is not held back while a server is copied: {error}");
    }
}

/// A path as `--tablespace-mapping` takes it: a `=` in it would end it.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace('=', "\\=")
}
