//! `pitr-restore drill`: a restore that is thrown away again, and what it has proven.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use serde_json::json;

use super::super::output::{self, Palette, Tone};
use super::doing::{restore_command, users};
use super::{Scene, asked};
use crate::archive::drills::{self, Drill, Verdict};
use crate::archive::survey::survey;
use crate::archive::window::{self, shown};
use crate::backup::pitr::drill::{Rehearsal, Scratch};
use crate::backup::pitr::{Plan, Refusal, Target, Wish, locate};
use crate::error::{Class, Failure};
use crate::system::notify::{Level, Notifier};
use crate::wal::Lsn;

impl Scene<'_> {
    /// The whole of `drill`.
    pub fn drill(&self) -> Result<u8, Failure> {
        if self.arguments.get_flag("last") {
            return self.last();
        }
        let (wish, plan) = match self.aimed()? {
            Ok(aimed) => aimed,
            Err(refusal) => {
                self.tell(Level::Critical, &format!("the drill cannot begin: {}", refusal.reason));
                return self.refuse(&refusal);
            }
        };
        let parent = &self.config.drill.directory;
        if self.context.dry_run {
            let text = format!("would rehearse '{}' to {} in '{}'\n", plan.backup.label, plan.target, parent.display());
            output::print(&text)?;
            return Ok(0);
        }
        let scratch = Scratch::take(parent)?;
        leave_nothing_at_signals(&scratch);
        let own = [format!("local.spool={}", scratch.spool().display()), "archive.worker_idle=1s".to_owned()];
        let rehearsal = Rehearsal {
            config: self.config,
            archive: &self.places.archive,
            backup: &self.backup(&plan)?,
            plan: &plan,
            along: wish.along,
            restore_command: restore_command(self, false, &own)?,
            users: &users(self.config),
            jobs: self.jobs(),
            patience: self.arguments.get_one("deadline").copied().unwrap_or(self.config.drill.deadline),
            reader: &self.reader(),
            watcher: self.progress,
        };
        let rehearsed = rehearsal.rehearse(&scratch);
        self.progress.end();
        drop(scratch);
        let drill = rehearsed.inspect_err(|error| self.tell(Level::Critical, &format!("the drill failed: {error}")))?;
        self.report(&drill)
    }

    /// What is rehearsed: as the command line says, or else as the configuration does.
    fn aimed(&self) -> Result<Result<(Wish, Plan), Box<Refusal>>, Failure> {
        let wish = asked::wish(self.arguments, Target::Latest)?;
        let named = ["time", "xid", "lsn", "name", "immediate", "latest"];
        let said = |name: &str| self.arguments.value_source(name) == Some(clap::parser::ValueSource::CommandLine);
        let plan = match self.planned(&wish)? {
            Ok(plan) => plan,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let random = self.arguments.get_flag("random") || self.config.drill.random;
        if !random || named.iter().any(|name| said(name)) {
            return Ok(Ok((wish, plan)));
        }
        let Some(lsn) = self.some_position(&plan)? else { return Ok(Ok((wish, plan))) };
        let wish = Wish { target: Target::Lsn(lsn), backup: Some(plan.backup.label.clone()), ..wish };
        Ok(self.planned(&wish)?.map(|plan| (wish, plan)))
    }

    /// Some position between the end of the backup and the last commit; none where nothing was committed since.
    fn some_position(&self, plan: &Plan) -> Result<Option<Lsn>, Failure> {
        let Some(reached) = plan.way.reached else { return Ok(None) };
        let last = locate::last_commit(&self.reader(), &plan.way, reached)?;
        let from = plan.backup.consistent.0;
        let Some(span) = last.and_then(|last| last.start.0.checked_sub(from)).filter(|span| *span > 0) else {
            return Ok(None);
        };
        // Every new state of the standard library's hasher is random; no more is needed to choose a moment.
        Ok(Some(Lsn(from + RandomState::new().build_hasher().finish() % span)))
    }

    fn report(&self, drill: &Drill) -> Result<u8, Failure> {
        match self.context.json {
            true => self.print_json(drill)?,
            false if self.context.quiet => {}
            false => output::print(&text(drill, Palette::of_stdout()))?,
        }
        let Some(failure) = &drill.failure else {
            self.tell(Level::Ok, &format!("a drill has restored backup '{}'", drill.label));
            return Ok(0);
        };
        self.tell(Level::Critical, &format!("the drill of backup '{}' failed: {failure}", drill.label));
        let damaged = drill.checks.iter().any(|check| check.result == Verdict::Failed);
        let class = if damaged { Class::Corrupt } else { Class::Postgres };
        Err(Failure::new(class, format!("the drill of backup '{}' failed: {failure}", drill.label)).hinted(
            "The record is in the archive; 'base-backup verify' and 'check-archive' tell whether files are damaged.",
        ))
    }

    fn tell(&self, level: Level, message: &str) {
        let config = self.config;
        let notifier = Notifier::new(&config.notify, &config.local.spool, &config.local.node, "pitr-restore");
        notifier.report("drill", level, message, json!({}));
    }

    /// What the last drills have proven, beside what is archived.
    fn last(&self) -> Result<u8, Failure> {
        let archive = &self.places.archive;
        let all = drills::all(archive)?;
        let (proven, last) = (drills::furthest(&all), all.last());
        let archived = window::newest(archive, &survey(archive)?.inventory)?;
        if self.context.json {
            self.print_json(&json!({"format": 1, "proven": proven, "last": last, "archived": archived}))?;
            return Ok(0);
        }
        let mut text = match proven {
            Some(drill) => format!("last proven   {}\n", proven_words(drill)),
            None => "last proven   nothing: no drill has gone well yet\n".to_owned(),
        };
        text.push_str(&match &archived {
            Some(reach) => {
                let time = reach.last_commit.map_or_else(|| "no commit near".to_owned(), shown::words);
                format!("last archived {} on timeline {} (last commit {time})\n", reach.until, reach.timeline)
            }
            None => "last archived nothing\n".to_owned(),
        });
        if let Some(drill) = last.filter(|drill| !drill.good) {
            let why = drill.failure.as_deref().unwrap_or("for an unknown reason");
            text.push_str(&format!("last drill    failed, {}: {why}\n", drill.started));
        }
        output::print(&text)?;
        Ok(0)
    }
}

/// What a good drill has proven, in a line.
pub fn proven_words(drill: &Drill) -> String {
    let Some(reached) = &drill.reached else { return drill.started.clone() };
    let commit = reached.last_commit.as_deref().map_or_else(String::new, |time| format!(" (last commit {time})"));
    format!(
        "{} on timeline {}{commit}, from backup {}, by the drill of {}",
        reached.lsn, reached.timeline, drill.label, drill.started
    )
}

fn text(drill: &Drill, palette: Palette) -> String {
    let mut text = format!("drill of backup {} to {}\n", drill.label, drill.target);
    for phase in &drill.phases {
        let took = output::duration(Duration::from_secs_f64(phase.seconds));
        let check = drill.checks.iter().find(|check| check.name == phase.name);
        let (word, detail) = match check.map(|check| (check.result, check.detail.as_str())) {
            None => ("done".to_owned(), ""),
            Some((Verdict::Passed, detail)) => (palette.paint(Tone::Good, "passed"), detail),
            Some((Verdict::Failed, detail)) => (palette.paint(Tone::Bad, "failed"), detail),
            Some((Verdict::Skipped, detail)) => (palette.paint(Tone::Warning, "skipped"), detail),
        };
        let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        text.push_str(&format!("  {:<10} {took:>10}  {word}{detail}\n", phase.name));
    }
    if drill.good {
        text.push_str(&format!("proven: {}\n", proven_words(drill)));
    }
    text
}

/// A drill that is told to end takes its directory and its server away first.
fn leave_nothing_at_signals(scratch: &Scratch) {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP]) else { return };
    let end = scratch.ending();
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            if let Err(error) = end() {
                log::error!("what the drill left cannot be removed: {error}");
            }
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    });
}
