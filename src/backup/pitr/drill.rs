//! Rehearses a restore: into a directory that is thrown away, on a socket that nobody else reaches, then checks what
//! came out, and writes down what was proven and how long it took.
//!
//! The restored server listens on no address, archives nothing, and starts none of the workers that would talk to
//! others. The directory goes whatever happens; what a killed drill left is removed by the next.

pub mod checks;
mod scratch;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{SecondsFormat, Utc};

use self::checks::Checks;
pub use self::scratch::Scratch;
use super::super::catalog::Description;
use super::super::restore::{self, Target, Way};
use super::super::{BackupError, Watcher};
use super::follow::Following;
use super::locate::{self, Reader};
use super::run::{self, Request};
use super::settings::{self, Action, Manner};
use super::{Along, Plan, Reached};
use crate::archive::drills::{self, Check, Drill, Phase, Verdict};
use crate::archive::places::Archive;
use crate::config::Config;
use crate::error::Failure;
use crate::postgres::own_settings::Signal;
use crate::postgres::server::{Mode, Server};
use crate::system::clock::Deadline;
use crate::wal::Lsn;

/// How long the restored server may take to stop.
const STOPPING: Duration = Duration::from_secs(300);

/// What is rehearsed.
pub struct Rehearsal<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// Where the backup is, and where the record goes.
    pub archive: &'a Archive,
    /// The backup.
    pub backup: &'a Description,
    /// The plan.
    pub plan: &'a Plan,
    /// Which timeline was asked for.
    pub along: Along,
    /// How WAL is fetched.
    pub restore_command: String,
    /// Roles to ask the server as.
    pub users: &'a [String],
    /// How many threads write.
    pub jobs: usize,
    /// How long recovery may take.
    pub patience: Duration,
    /// What reads WAL.
    pub reader: &'a dyn Reader,
    /// Who is told.
    pub watcher: &'a dyn Watcher,
}

/// What is known so far.
struct Course {
    phases: Vec<Phase>,
    reached: Option<Reached>,
    checks: Vec<Check>,
}

impl Rehearsal<'_> {
    /// Rehearses, and writes down what came of it. An error means that nothing could be rehearsed at all.
    pub fn rehearse(&self, scratch: &Scratch) -> Result<Drill, BackupError> {
        let target = self.target(scratch);
        let places = restore::places(self.backup, &target)?;
        restore::room(self.archive, self.backup, &target, &places, Way::Fresh)?;
        let started = now();
        let mut course = Course { phases: Vec::new(), reached: None, checks: Vec::new() };
        let failure = self.go(scratch, &target, &mut course).err().map(|error| Failure::from(error).message);
        let failed = course.checks.iter().find(|check| check.result == Verdict::Failed);
        let failure = failure.or(failed.map(|check| format!("{}: {}", check.name, check.detail)));
        let drill = Drill {
            format: drills::FORMAT,
            label: self.backup.label.to_string(),
            node: self.config.local.node.clone(),
            started,
            ended: now(),
            good: failure.is_none(),
            failure,
            target: self.plan.target.to_string(),
            reached: course.reached.map(|reached| drills::Reached {
                lsn: reached.lsn.to_string(),
                timeline: reached.timeline,
                last_commit: reached.last_commit.map(|time| time.to_rfc3339_opts(SecondsFormat::Micros, false)),
                last_commit_xid: reached.last_commit_xid,
            }),
            phases: course.phases,
            backup_bytes: self.backup.size,
            wal_bytes: self.plan.bytes,
            checks: course.checks,
        };
        if scratch.is_over() {
            // Its directory was taken away from below it: that proves nothing about the backup.
            return Err(BackupError::refused("the drill was told to end", "Start it again."));
        }
        drills::write(self.archive, &drill)?;
        Ok(drill)
    }

    /// Everything goes below the scratch directory.
    fn target(&self, scratch: &Scratch) -> Target {
        let places = self.backup.tablespaces.iter();
        let tablespaces = places.map(|it| (it.oid, scratch.path().join(format!("space-{}", it.oid)))).collect();
        Target { tablespaces, ..Target::new(scratch.data()) }
    }

    fn go(&self, scratch: &Scratch, target: &Target, course: &mut Course) -> Result<(), BackupError> {
        let more = self.settings(scratch);
        let manner = Manner {
            along: self.along,
            action: Action::Promote,
            standby: false,
            ship: false,
            major: self.backup.major,
            restore_command: self.restore_command.clone(),
            more: &more,
        };
        let told = settings::settings(self.plan, &manner);
        let begun = Instant::now();
        run::run(&Request {
            archive: self.archive,
            backup: self.backup,
            target,
            settings: &told,
            signal: Signal::Recovery,
            jobs: self.jobs,
            watcher: self.watcher,
        })?;
        course.took("restore", begun);
        scratch.configure()?;
        let server = scratch.server(self.config.local.pg_bin.as_deref());
        let begun = Instant::now();
        let arrived = self.follow(scratch, &server)?;
        course.took("replay", begun);
        let last = locate::at(self.reader, &self.plan.way, arrived)?;
        course.reached = Some(Reached::new(self.plan, arrived, last));
        let checks = Checks { config: &self.config.drill, server: &server, users: self.users };
        checks.while_it_runs(course, self.watcher)?;
        server.stop(Mode::Fast, Deadline::after(STOPPING))?;
        checks.when_it_is_stopped(course, self.watcher)
    }

    fn follow(&self, scratch: &Scratch, server: &Server) -> Result<Lsn, BackupError> {
        let following = Following {
            server,
            log: &scratch.log(),
            options: &[],
            users: self.users,
            until: Some(Action::Promote),
            start: self.plan.backup.start,
            end: self.plan.end.lsn,
            size: self.plan.way.size,
            deadline: Deadline::after(self.patience),
            watcher: self.watcher,
        };
        Ok(following.follow()?.lsn)
    }

    /// What keeps the server to itself.
    fn settings(&self, scratch: &Scratch) -> BTreeMap<String, String> {
        let socket = scratch.socket().display().to_string();
        let hba = scratch.hba().display().to_string();
        let data = scratch.data().display().to_string();
        let pairs = [
            // The copy's own configuration may name the directory of the server it came from.
            ("data_directory", data.as_str()),
            ("external_pid_file", ""),
            ("listen_addresses", ""),
            ("unix_socket_directories", socket.as_str()),
            ("port", "5432"),
            ("hba_file", hba.as_str()),
            ("ssl", "off"),
            ("logging_collector", "off"),
            ("log_destination", "stderr"),
            ("lc_messages", "C"),
            // Subscriptions would connect to their publishers and take their changes.
            ("max_logical_replication_workers", "0"),
            ("cron.launch_active_jobs", "off"),
            ("autovacuum", "off"),
            ("huge_pages", "off"),
        ];
        let mut all: BTreeMap<String, String> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        all.insert("shared_buffers".to_owned(), format!("{}kB", self.config.drill.shared_buffers / 1024));
        all
    }
}

impl Course {
    fn took(&mut self, name: &str, begun: Instant) {
        self.phases.push(Phase { name: name.to_owned(), seconds: begun.elapsed().as_secs_f64() });
    }
}

impl checks::Notes for Course {
    fn note(&mut self, name: &str, begun: Instant, result: Verdict, detail: String) {
        self.took(name, begun);
        self.checks.push(Check { name: name.to_owned(), result, detail });
    }
}

fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Millis, false)
}
