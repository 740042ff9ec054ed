//! Segments, records, histories and control files as real servers write them.
//!
//! `PGWARM_PG_BIN` names the binaries of another server than the one of the distribution.

use std::ffi::OsStr;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use pgwarm::postgres::control::{ClusterState, ControlFile};
use pgwarm::system::clock::Deadline;
use pgwarm::wal::page::{LONG_HEADER, PageError, PageHeader, first_page};
use pgwarm::wal::record::{Record, RecordHeader, Tear, Visit, Walker};
use pgwarm::wal::segment::{Depth, Known, PageRun, SegmentError, check_pages};
use pgwarm::wal::{
    Agreement, Checker, Ending, Expected, Lsn, SegmentName, SegmentReport, SegmentSize, SystemId, TimelineHistory,
    TimelineId, WalName, agree_until,
};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const PAGE: usize = 8192;
const MIB: u64 = 1 << 20;

/// A server of its own in a temporary directory, archiving with `cp` and `mv`: a crash leaves no half file behind.
struct Server {
    directory: tempfile::TempDir,
    bin: PathBuf,
}

impl Server {
    fn start(segment_size: u64) -> Outcome<Server> {
        let bin = std::env::var_os("PGWARM_PG_BIN").unwrap_or_else(|| "/usr/lib/postgresql/15/bin".into());
        let server = Server { directory: tempfile::tempdir()?, bin: bin.into() };
        fs::create_dir(server.archive())?;
        if rustix::process::geteuid().is_root() {
            // PostgreSQL refuses to run as root.
            let text = String::from_utf8(Command::new("id").args(["-u", "postgres"]).output()?.stdout)?;
            for path in [server.directory.path(), &server.archive()] {
                std::os::unix::fs::chown(path, Some(text.trim().parse()?), None)?;
            }
        }
        let megabytes = (segment_size >> 20).to_string();
        let (data, root) = (server.data(), server.directory.path().display());
        server.run("initdb", &["-N", "-A", "trust", "-U", "postgres", "--wal-segsize", &megabytes, "-D"], &data)?;
        let settings = format!(
            "listen_addresses = ''\nunix_socket_directories = '{root}'\nfsync = off\nmax_wal_size = 4GB\n\
             archive_mode = on\narchive_command = 'cp %p {root}/archive/%f.new && mv {root}/archive/%f.new {root}/archive/%f'\n\
             restore_command = 'cp {root}/archive/%f %p'\nhot_standby = off\n"
        );
        fs::write(data.join("postgresql.auto.conf"), settings)?;
        server.control("start")?;
        Ok(server)
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn archive(&self) -> PathBuf {
        self.directory.path().join("archive")
    }

    /// Runs a program of the server; its standard output, or an error with all it said.
    fn run(&self, program: &str, args: &[&str], last: &dyn AsRef<OsStr>) -> Outcome<String> {
        let output = self.try_run(program, args, last)?;
        let text = String::from_utf8(output.stdout)?;
        if output.status.success() {
            return Ok(text);
        }
        Err(format!("{program}: {text}{}", String::from_utf8_lossy(&output.stderr)).into())
    }

    /// Runs a program of the server as the user who owns the data directory.
    fn try_run(&self, program: &str, args: &[&str], last: &dyn AsRef<OsStr>) -> Outcome<Output> {
        let path = self.bin.join(program);
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        let lib = self.bin.parent().map(|parent| parent.join("lib")).unwrap_or_default();
        command.args(args).arg(last.as_ref()).current_dir(self.directory.path());
        Ok(command.env("LD_LIBRARY_PATH", lib).env("LC_ALL", "C").output()?)
    }

    /// Starts or stops it and waits for that. The server's own output goes to a file.
    fn control(&self, action: &str) -> Outcome {
        let log = self.directory.path().join("log").display().to_string();
        let how: &[&str] = if action == "start" { &["-l", &log] } else { &["-m", "fast"] };
        let args = [&["-w", "-t", "60", "-s"], how, &[action, "-D"]].concat();
        self.run("pg_ctl", &args, &self.data())?;
        // Without hot standby pg_ctl takes a server that recovers from a crash for one that has started.
        let deadline = Deadline::after(Duration::from_secs(60));
        while action == "start" && self.sql("SELECT 1").is_err() && !deadline.expired() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn sql(&self, statement: &str) -> Outcome<String> {
        let root = self.directory.path().display().to_string();
        let text = self.run("psql", &["-X", "-h", &root, "-U", "postgres", "-d", "postgres", "-qAtc"], &statement)?;
        Ok(text.trim().to_owned())
    }

    /// Waits until a query answers so.
    fn wait(&self, query: &str, answer: &str) -> Outcome {
        let deadline = Deadline::after(Duration::from_secs(60));
        while self.sql(query)? != answer {
            if deadline.expired() {
                return Err(format!("'{query}' did not become '{answer}' in time").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Closes the current segment and waits until it is archived; returns its name.
    fn switch(&self) -> Outcome<SegmentName> {
        let name = self.sql("SELECT pg_walfile_name(pg_switch_wal())")?;
        self.wait(&format!("SELECT last_archived_wal >= '{name}' FROM pg_stat_archiver"), "t")?;
        Ok(name.parse()?)
    }

    /// Writes some megabytes of WAL, with records longer than a page, and at 1 MiB longer than a segment.
    fn write_wal(&self, rows: u32) -> Outcome {
        self.sql("CREATE TABLE IF NOT EXISTS t (i int, x text)")?;
        self.sql(&format!(
            "INSERT INTO t SELECT i, repeat(md5(i::text), 1 + i % 20) FROM generate_series(1, {rows}) i; \
             SELECT pg_logical_emit_message(false, 'test', repeat('long', 700000)); \
             CREATE INDEX ON t (i); UPDATE t SET i = i + 1 WHERE i % 7 = 0"
        ))?;
        Ok(())
    }

    fn segments(&self) -> Outcome<Vec<SegmentName>> {
        let mut names: Vec<SegmentName> = Vec::new();
        for entry in fs::read_dir(self.archive())? {
            if let Ok(WalName::Segment(name)) = entry?.file_name().to_string_lossy().parse() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn bytes(&self, name: SegmentName) -> Outcome<Vec<u8>> {
        Ok(fs::read(self.archive().join(name.to_string()))?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.data().join("postmaster.pid").exists() {
            let _ = self.try_run("pg_ctl", &["stop", "-s", "-w", "-m", "immediate", "-D"], &self.data());
        }
    }
}

fn expected(name: SegmentName) -> Expected {
    Expected { name, system_id: None, size: None, partial: false }
}

fn check(expected: Expected, bytes: &[u8], piece: usize) -> Result<SegmentReport, SegmentError> {
    check_to(Depth::Records, expected, bytes, piece)
}

fn check_to(depth: Depth, expected: Expected, bytes: &[u8], piece: usize) -> Result<SegmentReport, SegmentError> {
    let mut checker = Checker::with_depth(expected, depth);
    for (index, chunk) in bytes.chunks(piece).enumerate() {
        checker.feed((index * piece) as u64, chunk)?;
    }
    checker.finish()
}

/// Position, length, transaction and link of a record.
type Seen = (Lsn, u32, u32, Lsn);

#[derive(Default)]
struct Collect(Vec<Seen>);

impl Visit for Collect {
    fn wants(&self, _header: &RecordHeader) -> bool {
        true
    }

    fn visit(&mut self, record: &Record<'_>) {
        let header = record.header;
        assert_eq!(record.data.len() + 24, header.length as usize, "all data of {} are given", record.start);
        self.0.push((record.start, header.length, header.xid, header.previous));
    }
}

fn walk(server: &Server, names: &[SegmentName]) -> Outcome<Vec<Seen>> {
    let (mut walker, mut seen) = (Walker::new(), Collect::default());
    for name in names {
        for page in server.bytes(*name)?.chunks(PAGE) {
            if let Ok(header) = PageHeader::parse(page) {
                walker.page(&header, page, &mut seen);
            }
        }
    }
    Ok(seen.0)
}

/// The same from `pg_waldump`.
fn dump(server: &Server, names: &[SegmentName]) -> Outcome<Vec<Seen>> {
    let (first, last) = (names[0].to_string(), names[names.len() - 1].to_string());
    let output = server.try_run("pg_waldump", &["-p", &server.archive().to_string_lossy(), &first], &last)?;
    let mut records = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let after = |word: &str| {
            let rest = line.split_once(word).map(|(_, rest)| rest.trim_start()).unwrap_or_default();
            rest.split([',', ' ']).next().unwrap_or_default().to_owned()
        };
        let lengths = line.split_once("(rec/tot):").map(|(_, rest)| rest).unwrap_or_default();
        let total = lengths.split_once('/').and_then(|(_, rest)| rest.split(',').next()).unwrap_or_default();
        records.push((after("lsn:").parse()?, total.trim().parse()?, after("tx:").parse()?, after("prev ").parse()?));
    }
    Ok(records)
}

/// Checks all segments that a server with this segment size archives.
fn archived_segments_are_good(size: u64, rounds: u32, rows: u32) -> Outcome {
    let server = Server::start(size)?;
    let mut switched = Vec::new();
    for _ in 0..rounds {
        server.write_wal(rows)?;
        switched.push(server.switch()?);
    }
    let control = ControlFile::read(&server.data())?;
    let names = server.segments()?;
    let mut ends = Vec::new();
    for name in &names {
        let bytes = server.bytes(*name)?;
        let wanted =
            Expected { system_id: Some(control.system_id), size: Some(SegmentSize::new(size)?), ..expected(*name) };
        let report = check(wanted.clone(), &bytes, 1 << 20)?;
        assert_eq!(check(wanted.clone(), &bytes, 10_007)?, report, "the size of the pieces changes nothing");
        let ending = if switched.contains(name) { Ending::Switched } else { Ending::Full };
        assert_eq!(report.ends, ending, "{name}: {report:?}");
        slices_agree(&wanted, &bytes, &report)?;
        ends.push((*name, report.records_until));
    }
    let (ours, theirs) = (walk(&server, &names)?, dump(&server, &names)?);
    assert!(ours.len() > 1000, "a test over '{}' records proves little", ours.len());
    assert_eq!(ours, theirs, "the records are those of pg_waldump");
    assert_eq!(control.segment_size.bytes(), size);
    ends_fit_the_next_records(&ends, &theirs, SegmentSize::new(size)?)
}

/// The records of each segment end where the next one of `pg_waldump` begins, a page header aside.
fn ends_fit_the_next_records(ends: &[(SegmentName, Lsn)], records: &[Seen], size: SegmentSize) -> Outcome {
    for (name, until) in ends {
        let end = name.number(size).map(|number| number.end(size)).ok_or("the server names its segments well")?;
        let next = records.iter().map(|record| record.0).find(|start| start >= until).unwrap_or(end);
        let gap = next.0 - until.0;
        assert!(gap <= LONG_HEADER as u64 || next >= end, "{name}: records end at {until}, the next begins at {next}");
        assert!(*until <= end, "{name}");
    }
    Ok(())
}

/// Checks slices of a segment apart, joins them, and compares with the whole.
fn slices_agree(wanted: &Expected, bytes: &[u8], report: &SegmentReport) -> Outcome {
    let known = Known::new(wanted, bytes)?;
    let slice = 37 * PAGE;
    let mut whole: Option<PageRun> = None;
    for (index, chunk) in bytes.chunks(slice).enumerate() {
        let run = check_pages(&known, (index * slice) as u64, chunk)?;
        whole = Some(match whole {
            Some(before) => before.join(&known, run)?,
            None => run,
        });
    }
    let whole = whole.ok_or("a segment has pages")?;
    assert_eq!((whole.end, whole.pages), (bytes.len() as u64, report.pages));
    assert_eq!(whole.last_timeline, Some(report.last_timeline));
    let shallow = check_to(Depth::Pages, wanted.clone(), bytes, slice)?;
    assert_eq!(matches!(shallow.ends, Ending::Empty { .. }), whole.stops.is_some());
    Ok(())
}

#[test]
fn segments_of_1_mib_are_good() -> Outcome {
    archived_segments_are_good(MIB, 3, 5_000)
}

#[test]
fn segments_of_16_mib_are_good() -> Outcome {
    archived_segments_are_good(16 * MIB, 2, 30_000)
}

#[test]
fn segments_of_64_mib_are_good() -> Outcome {
    archived_segments_are_good(64 * MIB, 1, 100_000)
}

#[test]
fn damage_is_refused_by_name() -> Outcome {
    let server = Server::start(MIB)?;
    server.write_wal(5_000)?;
    let closed = server.switch()?;
    let full = server.segments()?[1];
    let good = server.bytes(full)?;
    assert_eq!(check(expected(full), &good, PAGE)?.ends, Ending::Full);
    let damaged = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        check(expected(full), &bytes, 100_000)
    };
    let torn = |answer: Result<SegmentReport, SegmentError>, reason: Tear| {
        assert!(matches!(&answer, Err(SegmentError::Torn { why, .. }) if *why == reason), "{answer:?}");
    };
    let record = walk(&server, &[full])?[3].0.offset(SegmentSize::new(MIB)?) as usize;
    let fifth = 5 * PAGE;
    torn(damaged(&|bytes| bytes[record + 26] ^= 4), Tear::Checksum);
    torn(damaged(&|bytes| bytes[3 * PAGE..6 * PAGE].fill(0)), Tear::Zeros);
    torn(damaged(&|bytes| bytes[PAGE..].fill(0)), Tear::Zeros);
    let magic = damaged(&|bytes| bytes[fifth] ^= 1);
    assert!(matches!(magic, Err(SegmentError::Page { offset, .. }) if offset == fifth as u64), "{magic:?}");
    let address = damaged(&|bytes| bytes[fifth + 10] ^= 1);
    assert!(matches!(address, Err(SegmentError::OtherAddress { .. })), "{address:?}");
    let timeline = damaged(&|bytes| bytes[fifth + 4] = 9);
    assert!(matches!(timeline, Err(SegmentError::TimelineTooHigh { .. })), "{timeline:?}");
    let first = damaged(&|bytes| bytes[0] ^= 1);
    assert!(matches!(first, Err(SegmentError::NoWal { error: PageError::Magic(_), .. })), "{first:?}");
    let short = damaged(&|bytes| bytes.truncate(700_000));
    assert!(matches!(short, Err(SegmentError::Length { found: 700_000, .. })), "{short:?}");
    let long = damaged(&|bytes| bytes.extend([0; PAGE]));
    assert!(matches!(long, Err(SegmentError::Length { .. })), "{long:?}");

    let mut bytes = server.bytes(closed)?;
    *bytes.last_mut().ok_or("a segment has bytes")? = 1;
    let behind = check(expected(closed), &bytes, PAGE);
    assert!(matches!(behind, Err(SegmentError::AfterSwitch { .. })), "{behind:?}");
    Ok(())
}

#[test]
fn another_segment_is_refused_by_name() -> Outcome {
    let server = Server::start(MIB)?;
    server.write_wal(5_000)?;
    server.switch()?;
    let (full, other) = (server.segments()?[1], server.segments()?[2]);
    let good = server.bytes(full)?;
    let wrong_name = check(expected(other), &good, PAGE);
    assert!(matches!(wrong_name, Err(SegmentError::OtherAddress { offset: 0, .. })), "{wrong_name:?}");
    let newer: SegmentName = format!("00000002{}", &full.to_string()[8..]).parse()?;
    let renamed = check(expected(newer), &good, PAGE);
    assert!(matches!(renamed, Err(SegmentError::OtherTimeline { .. })), "{renamed:?}");
    let larger = check(Expected { size: Some(SegmentSize::DEFAULT), ..expected(full) }, &good, PAGE);
    assert!(matches!(larger, Err(SegmentError::OtherSize { .. })), "{larger:?}");

    let stranger = Server::start(MIB)?;
    let own = ControlFile::read(&stranger.data())?.system_id;
    assert_ne!(own, SystemId(0));
    let foreign = check(Expected { system_id: Some(own), ..expected(full) }, &good, PAGE);
    assert!(matches!(foreign, Err(SegmentError::OtherCluster { expected, .. }) if expected == own), "{foreign:?}");
    Ok(())
}

#[test]
fn the_current_segment_is_partial() -> Outcome {
    let server = Server::start(MIB)?;
    // Enough switches and checkpoints make the server reuse old segments, whose content then stands behind the end.
    for _ in 0..6 {
        server.write_wal(500)?;
        server.switch()?;
        server.sql("CHECKPOINT")?;
    }
    for name in server.segments()? {
        // Reused or not: a server clears the rest of a segment that it closes early.
        check(expected(name), &server.bytes(name)?, PAGE).map_err(|error| format!("{name}: {error}"))?;
    }
    server.control("stop")?;
    let control = ControlFile::read(&server.data())?;
    let size = control.segment_size;
    let current = SegmentName::new(TimelineId(1), control.checkpoint.segment(size), size);
    let bytes = fs::read(server.data().join("pg_wal").join(current.to_string()))?;
    let partial = Expected { partial: true, ..expected(current) };
    let report = check(partial.clone(), &bytes, 30_000)?;
    let Ending::Torn { at, why } = &report.ends else { return Err(format!("{report:?}").into()) };
    assert_eq!(*at, report.valid_until, "{why}");
    assert!(
        matches!(why, Tear::Recycled(_)) || bytes[used_bytes(at, size)..].iter().any(|byte| *byte != 0),
        "not reused"
    );
    // A checkpoint's record is 114 to 122 bytes long.
    assert!(at.0 - control.checkpoint.0 <= 128, "{report:?}");
    assert!(check(expected(current), &bytes, 30_000).is_err(), "it is not complete");

    let used = used_bytes(&report.valid_until, size);
    let cut = check(partial, &bytes[..used], 30_000)?;
    assert_eq!((cut.valid_until, cut.records), (report.valid_until, report.records));
    let mut cleared = bytes.clone();
    cleared[used..].fill(0);
    cleared[MIB as usize - 1] = 1;
    let agreement = agree(&bytes, &cleared, current)?;
    assert!(agreement.same_records && !agreement.identical, "{agreement:?}");
    assert_eq!(agreement.records_agree_until, report.valid_until);
    cleared[used - 40] ^= 1;
    let agreement = agree(&bytes, &cleared, current)?;
    assert!(!agreement.same_records && agreement.records_agree_until < report.valid_until, "{agreement:?}");
    assert_eq!(agreement.first_difference, Some(used as u64 - 40));
    assert!(agree(&bytes, &bytes, current)?.identical);
    Ok(())
}

/// How much of its segment lies before a position.
fn used_bytes(position: &Lsn, size: SegmentSize) -> usize {
    position.offset(size) as usize
}

fn agree(a: &[u8], b: &[u8], name: SegmentName) -> Outcome<Agreement> {
    Ok(agree_until(&mut Cursor::new(a), &mut Cursor::new(b), name, SegmentSize::new(MIB)?)?)
}

#[test]
fn a_new_timeline_begins_in_a_copy_of_its_parent() -> Outcome {
    let server = Server::start(MIB)?;
    server.write_wal(2_000)?;
    server.switch()?;
    server.sql("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 2000) i")?;
    server.control("stop")?;
    let end = ControlFile::read(&server.data())?.checkpoint;
    fs::write(server.data().join("recovery.signal"), "")?;
    server.control("start")?;
    server.wait("SELECT pg_is_in_recovery()", "f")?;
    server.write_wal(2_000)?;
    server.switch()?;

    let size = SegmentSize::new(MIB)?;
    let history = fs::read_to_string(server.archive().join("00000002.history"))?;
    let history = TimelineHistory::parse(TimelineId(2), &history)?;
    let switch_point = history.switch_point(TimelineId(1)).ok_or("timeline 1 is the parent")?;
    assert!(switch_point > end);
    let turning = SegmentName::new(TimelineId(2), switch_point.segment(size), size);
    assert_eq!(history.owner_of_segment(switch_point.segment(size), size), TimelineId(2));
    let bytes = server.bytes(turning)?;
    let report = check(expected(turning), &bytes, PAGE)?;
    assert_eq!((first_page(&bytes)?.timeline, report.last_timeline), (TimelineId(1), TimelineId(2)));
    for name in server.segments()? {
        check(expected(name), &server.bytes(name)?, PAGE).map_err(|error| format!("{name}: {error}"))?;
    }
    let old = SegmentName::new(TimelineId(1), switch_point.segment(size), size);
    let bytes = fs::read(server.archive().join(WalName::Partial(old).to_string()))?;
    let report = check(Expected { partial: true, ..expected(old) }, &bytes, PAGE)?;
    assert_eq!(report.valid_until, switch_point, "the partial segment ends where the new timeline begins");
    Ok(())
}

#[test]
fn a_crash_in_a_long_record_leaves_good_segments() -> Outcome {
    let server = Server::start(MIB)?;
    let mut overwritten = 0;
    for _ in 0..4 {
        let begin = server.sql("SELECT pg_current_wal_insert_lsn()")?;
        let writing =
            "SELECT pg_logical_emit_message(false, 'test', repeat('long', 700000)) FROM generate_series(1, 200)";
        let written = format!("SELECT pg_current_wal_lsn() - '{begin}' > 8000000");
        std::thread::scope(|scope| -> Outcome {
            let writer = scope.spawn(|| server.sql(writing).is_err());
            let waited = server.wait(&written, "t");
            server.run("pg_ctl", &["stop", "-s", "-w", "-m", "immediate", "-D"], &server.data())?;
            assert!(writer.join().is_ok_and(|interrupted| interrupted), "the crash came too late");
            waited
        })?;
        server.control("start")?;
        server.switch()?;
    }
    for name in server.segments()? {
        let bytes = server.bytes(name)?;
        check(expected(name), &bytes, PAGE).map_err(|error| format!("{name}: {error}"))?;
        let pages = bytes.chunks(PAGE).filter_map(|page| PageHeader::parse(page).ok());
        overwritten += pages.filter(PageHeader::overwrites).count();
    }
    assert!(overwritten > 0, "no crash left a record unfinished");
    let names = server.segments()?;
    assert_eq!(walk(&server, &names)?, dump(&server, &names)?);
    Ok(())
}

#[test]
fn the_control_file_says_what_pg_controldata_says() -> Outcome {
    let server = Server::start(MIB)?;
    server.write_wal(100)?;
    compare_control(&server, ClusterState::InProduction)?;
    server.control("stop")?;
    compare_control(&server, ClusterState::ShutDown)
}

fn compare_control(server: &Server, state: ClusterState) -> Outcome {
    let text = server.run("pg_controldata", &["-D"], &server.data())?;
    let file = ControlFile::read(&server.data())?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned()).unwrap_or_default()
    };
    assert_eq!(file.state, state);
    assert_eq!(field("Database cluster state"), file.state.to_string());
    assert_eq!(field("Database system identifier"), file.system_id.to_string());
    assert_eq!(field("pg_control version number"), file.control_version.to_string());
    assert_eq!(field("Catalog version number"), file.catalog_version.to_string());
    assert_eq!(field("Latest checkpoint location"), file.checkpoint.to_string());
    assert_eq!(field("Latest checkpoint's REDO location"), file.redo.to_string());
    assert_eq!(field("Latest checkpoint's TimeLineID"), file.checkpoint_timeline.to_string());
    assert_eq!(field("Minimum recovery ending location"), file.min_recovery_point.to_string());
    assert_eq!(field("Min recovery ending loc's timeline"), file.min_recovery_timeline.to_string());
    assert_eq!(field("Bytes per WAL segment"), file.segment_size.bytes().to_string());
    assert_eq!(field("WAL block size"), file.wal_block_size.to_string());
    assert_eq!(field("Data page checksum version") != "0", file.checksums);
    let version = fs::read_to_string(Path::join(&server.data(), "PG_VERSION"))?;
    assert_eq!(file.major, Some(version.trim().parse()?));
    Ok(())
}
