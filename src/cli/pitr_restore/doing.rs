//! `pitr-restore run`: does what the plan says, and with `--start` waits until the target is reached.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::output::{self, Palette};
use super::{Scene, asked, text};
use crate::backup::catalog::Description;
use crate::backup::pitr::follow::{Arrived, Following};
use crate::backup::pitr::run::{self, Request};
use crate::backup::pitr::settings::{self, Action, Manner};
use crate::backup::pitr::{Plan, Target, Wish};
use crate::backup::restore::{self, Restored};
use crate::config::Config;
use crate::error::{Class, Failure};
use crate::postgres::conninfo::Conninfo;
use crate::postgres::own_settings::{self, Signal};
use crate::postgres::resolve::Environment;
use crate::postgres::server::{Server, Status};
use crate::system::clock::Deadline;

/// Where a server that is started here says what it does, in its data directory.
const LOG: &str = "pgwarm-recovery.log";

/// What a server started here is told on its command line, so that what it says comes into that file.
const LOGGING: &[&str] = &["-c", "logging_collector=off", "-c", "log_destination=stderr", "-c", "lc_messages=C"];

/// One restore.
pub struct Doing<'a> {
    scene: &'a Scene<'a>,
    plan: Plan,
    backup: Description,
    target: restore::Target,
    server: Server,
    standby: bool,
    /// What happens at the end; none: it stays a standby.
    until: Option<Action>,
    told: BTreeMap<String, String>,
}

impl Scene<'_> {
    /// The whole of `run`.
    pub fn run(&self) -> Result<u8, Failure> {
        let wish = asked::wish(self.arguments, Target::Latest)?;
        let target = asked::place(self.arguments)?;
        let target = target.ok_or_else(|| asked::usage("run needs a directory", "Name it with --to."))?;
        let action = asked::action(self.arguments, &wish.target)?;
        let plan = match self.planned(&wish)? {
            Ok(plan) => plan,
            Err(refusal) => return self.refuse(&refusal),
        };
        let doing = self.doing(&wish, plan, target, action)?;
        let start = self.arguments.get_flag("start");
        if self.context.dry_run {
            let into = self.restore_words(&doing.backup, &doing.target)?;
            output::print(&format!("{}{into}", text::plan(&doing.plan, Palette::of_stdout())))?;
            return Ok(0);
        }
        // A run that was killed while it waited is taken up again by waiting.
        let restored = if start && doing.runs()? { None } else { Some(doing.restore()?) };
        let arrived = if start { Some(doing.start()?) } else { None };
        doing.tell(restored, arrived)?;
        Ok(0)
    }

    fn doing(&self, wish: &Wish, plan: Plan, target: restore::Target, action: Action) -> Result<Doing<'_>, Failure> {
        let backup = self.backup(&plan)?;
        let standby = self.arguments.get_flag("standby");
        let manner = Manner {
            along: wish.along,
            action,
            standby,
            ship: self.arguments.get_flag("ship"),
            major: backup.major,
            restore_command: restore_command(self, standby, &[])?,
            more: &asked::settings(self.arguments)?,
        };
        let told = settings::settings(&plan, &manner);
        let config = self.config;
        let server = match config.own().pgdata.as_ref() == Some(&target.pgdata) {
            true => Server::new(config, config.own())?,
            false => Server::at(&target.pgdata, config.local.pg_bin.as_deref(), None),
        };
        let until = if standby && wish.target == Target::Latest { None } else { Some(action) };
        Ok(Doing { scene: self, plan, backup, target, server, standby, until, told })
    }
}

impl Doing<'_> {
    /// True where the server of this very restore runs already.
    fn runs(&self) -> Result<bool, Failure> {
        let running = matches!(self.server.status()?, Status::Running(_));
        Ok(running && own_settings::read(&self.target.pgdata)? == self.told)
    }

    fn restore(&self) -> Result<Restored, Failure> {
        self.scene.fits(&self.backup, &self.target)?;
        let request = Request {
            archive: &self.scene.places.archive,
            backup: &self.backup,
            target: &self.target,
            settings: &self.told,
            signal: if self.standby { Signal::Standby } else { Signal::Recovery },
            jobs: self.scene.jobs(),
            watcher: self.scene.progress,
        };
        let restored = run::run(&request);
        self.scene.progress.end();
        Ok(restored?)
    }

    /// Starts the server and waits until it is where it should be.
    fn start(&self) -> Result<Arrived, Failure> {
        let pgdata = &self.target.pgdata;
        self.refuse_overridden()?;
        let scene = self.scene;
        let patience = scene.arguments.get_one("deadline").copied().unwrap_or(scene.config.drill.deadline);
        // Where a command of the operator's starts it, the log is where that puts it.
        let options = if self.server.has_commands() { &[] } else { LOGGING };
        let following = Following {
            server: &self.server,
            log: &pgdata.join(LOG),
            options: &options.iter().map(ToString::to_string).collect::<Vec<_>>(),
            users: &users(scene.config),
            until: self.until,
            start: self.plan.backup.start,
            end: self.plan.end.lsn,
            size: self.plan.way.size,
            deadline: Deadline::after(patience),
            watcher: scene.progress,
        };
        let followed = following.follow();
        scene.progress.end();
        let arrived = followed?;
        if arrived.now == Some(Action::Promote) {
            // What it was told about the target must not hold the next time that it recovers.
            own_settings::write(pgdata, &settings::without_target(&self.told))?;
        }
        Ok(arrived)
    }

    /// Refuses to start a server that would not read what it is told.
    fn refuse_overridden(&self) -> Result<(), Failure> {
        let file = self.server.config_file();
        let lost = own_settings::overridden(&file, &self.target.pgdata)?;
        if lost.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = lost.iter().map(|it| it.name.as_str()).collect();
        let line = own_settings::include_line(&self.target.pgdata);
        let text = format!("'{}' does not let these settings hold: {}", file.display(), names.join(", "));
        let hint = format!("Put this line at its end and start the server: {line}");
        Err(Failure::new(Class::Refused, text).hinted(hint))
    }

    fn tell(&self, restored: Option<Restored>, arrived: Option<Arrived>) -> Result<(), Failure> {
        let reached = arrived.map(|arrived| self.scene.reached(&self.plan, &arrived)).transpose()?;
        if self.scene.context.json {
            let restored = restored
                .map_or(Value::Null, |it| json!({"bytes": it.bytes, "written": it.written, "removed": it.removed}));
            return self.scene.print_json(&json!({
                "format": 1, "plan": self.plan, "restored": restored, "settings": self.told, "reached": reached,
            }));
        }
        if self.scene.context.quiet {
            return Ok(());
        }
        let mut text = String::new();
        if let Some(restored) = restored {
            let bytes = output::size(restored.bytes);
            let written = match self.target.delta {
                true => format!(", {} written", output::size(restored.written)),
                false => String::new(),
            };
            let (label, pgdata) = (&self.backup.label, self.target.pgdata.display());
            text.push_str(&format!("restored '{label}' into '{pgdata}': {bytes}{written}\n"));
        }
        match (arrived, reached) {
            (Some(arrived), Some(reached)) => text.push_str(&text::reached(&reached, &arrived)),
            _ => text.push_str(&self.how_to_start()),
        }
        if !self.scene.arguments.get_flag("ship") {
            text.push_str("archive_mode is off in its pgwarm.conf: what it writes is archived nowhere\n");
        }
        output::print(&text)
    }

    fn how_to_start(&self) -> String {
        let program = self.server.program("pg_ctl").unwrap_or_else(|_| PathBuf::from("pg_ctl"));
        let pgdata = &self.target.pgdata;
        let command = format!("{} start -D {} -l {}", program.display(), pgdata.display(), pgdata.join(LOG).display());
        let then = match self.until {
            None => "it stays a standby and replays what comes",
            Some(Action::Pause) => {
                "it recovers to the target and stands still; 'select pg_wal_replay_resume()' opens it"
            }
            Some(Action::Promote) => "it recovers to the target and opens for writes",
            Some(Action::Shutdown) => "it recovers to the target and ends",
        };
        format!("start it with: {command}\nthen {then}\n")
    }
}

/// The `restore_command` of the restored server: this machine's `restore-wal` with this configuration.
pub fn restore_command(scene: &Scene<'_>, standby: bool, more: &[String]) -> Result<String, Failure> {
    let (_, origins) = Config::load_with_origins(&scene.context.source)?;
    let path = |path: &Path| asked::absolute(path).map(PathBuf::into_os_string);
    let mut words: Vec<OsString> = vec!["--config".into(), path(&origins.shared.path)?];
    if let Some(local) = &origins.local {
        words.extend(["--local".into(), path(&local.path)?]);
    }
    for value in &scene.context.source.set {
        words.extend(["--set".into(), value.into()]);
    }
    words.extend(settings::overrides(scene.config, scene.places.site.name(), standby));
    for value in more {
        words.extend(["--set".into(), value.into()]);
    }
    Ok(settings::restore_command(&own_program("restore-wal")?, &words))
}

/// Another of our programs, from the directory of this one.
fn own_program(name: &str) -> Result<PathBuf, Failure> {
    let here = std::env::current_exe().unwrap_or_default();
    let program = here.with_file_name(name);
    if program.is_file() {
        return Ok(program);
    }
    let text = format!("there is no {name} beside '{}'", here.display());
    Err(Failure::new(Class::Storage, text).hinted("Install pgwarm's programs into one directory."))
}

/// Roles to ask a restored server as: that of the node's connection string, the usual one, that of this process.
pub fn users(config: &Config) -> Vec<String> {
    let conninfo = config.own().conninfo.as_ref().and_then(|text| Conninfo::parse(text).ok());
    let resolved = conninfo.and_then(|conninfo| conninfo.resolve(&Environment::of_process()).ok());
    let mut users: Vec<String> = resolved.map(|resolved| resolved.user).into_iter().collect();
    users.extend(["postgres".to_owned()]);
    users.extend(std::env::var("USER").ok());
    users.dedup();
    users
}
