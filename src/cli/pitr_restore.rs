//! `pitr-restore`: plan, run, drill.
//!
//! `--json` prints, for plan, `{"format":1,"possible":true,"plan":…}` with a [`Plan`], or
//! `{"format":1,"possible":false,"reason","hint","missing":[…],"window":…}`; for run
//! `{"format":1,"plan","restored":{"bytes","written","removed"},"settings","reached":…}`, where `restored` is null
//! where the server ran already, and `reached` where none was started; for drill the record that is kept in the archive
//! (see [`crate::archive::drills`]); for `drill --last` `{"format":1,"proven":…,"last":…,"archived":…}` with two records
//! and the end of the WAL.

mod asked;
mod doing;
mod rehearsing;
mod text;

pub use self::rehearsing::proven_words;

use std::sync::Arc;

use clap::ArgMatches;
use serde_json::json;

use super::base_backup::Progress;
use super::output::{self, Palette};
use super::run::Context;
use crate::archive::copies::quote;
use crate::archive::missing;
use crate::archive::places::Sites;
use crate::backup::catalog::{self, Description};
use crate::backup::pitr::follow::Arrived;
use crate::backup::pitr::observe::{Places, observe};
use crate::backup::pitr::plan::plan;
use crate::backup::pitr::reader::ArchiveReader;
use crate::backup::pitr::{Halt, Plan, Reached, Refusal, Target, Wish, locate};
use crate::backup::restore::{self, Way};
use crate::cluster::wal_listing;
use crate::config::{Config, Node};
use crate::error::{Class, Failure};

/// Runs the program.
pub fn run(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let job = arguments.get_one::<String>("job").map_or("", String::as_str);
    asked::refuse_strangers(arguments, job)?;
    let mut config = context.config.clone();
    config.backup.jobs = arguments.get_one::<u32>("jobs").copied().unwrap_or(config.backup.jobs);
    let config = Arc::new(config);
    let sites = Sites::new(&config);
    let place = arguments.get_one::<String>("place").unwrap_or(&config.local.node);
    let places = Places::open(&config, &sites, place)?;
    let progress = Progress::new(context);
    let scene = Scene { arguments, context, config: &config, sites: &sites, places: &places, progress: &progress };
    match job {
        "plan" => scene.plan(),
        "run" => scene.run(),
        _ => scene.drill(),
    }
}

/// What every word works with.
pub struct Scene<'a> {
    arguments: &'a ArgMatches,
    context: &'a Context,
    config: &'a Arc<Config>,
    sites: &'a Sites,
    places: &'a Places,
    progress: &'a Progress,
}

impl Scene<'_> {
    fn plan(&self) -> Result<u8, Failure> {
        let wish = asked::wish(self.arguments, Target::Latest)?;
        let plan = match self.planned(&wish)? {
            Ok(plan) => plan,
            Err(refusal) => return self.refuse(&refusal),
        };
        let into = match asked::place(self.arguments)? {
            Some(target) => self.restore_words(&self.backup(&plan)?, &target)?,
            None => String::new(),
        };
        match self.context.json {
            true => self.print_json(&json!({"format": 1, "possible": true, "plan": plan}))?,
            false => output::print(&format!("{}{into}", text::plan(&plan, Palette::of_stdout())))?,
        }
        Ok(0)
    }

    /// Makes the plan.
    fn planned(&self, wish: &Wish) -> Result<Result<Plan, Box<Refusal>>, Failure> {
        self.progress.looking();
        let seen = observe(self.places)?;
        let planned = plan(wish, &seen, &self.reader());
        self.progress.end();
        match planned {
            Ok(plan) => Ok(Ok(plan)),
            Err(Halt::Refused(refusal)) => Ok(Err(refusal)),
            Err(Halt::Trouble(error)) => Err(error.into()),
        }
    }

    fn reader(&self) -> ArchiveReader<'_> {
        ArchiveReader { archives: &self.places.wal, jobs: self.jobs(), watcher: self.progress }
    }

    /// Where a recovery came to: the records say which transaction was the last.
    fn reached(&self, plan: &Plan, arrived: &Arrived) -> Result<Reached, Failure> {
        let last = locate::at(&self.reader(), &plan.way, arrived.lsn)?;
        Ok(Reached::new(plan, arrived.lsn, last))
    }

    /// Says what stands in the way, and what mends it.
    fn refuse(&self, refusal: &Refusal) -> Result<u8, Failure> {
        let words = self.context.source_arguments();
        let own: String = words.iter().map(|word| format!("{} ", quote(&word.to_string_lossy()))).collect();
        let elsewhere = |node: &Node| wal_listing::pg_wal(self.config, node);
        let target = (&self.places.site.node, &self.places.archive);
        let missing = missing::find(self.config, self.sites, target, &refusal.gaps, &own, true, &elsewhere)?;
        if self.context.json {
            self.print_json(&json!({
                "format": 1, "possible": false, "reason": refusal.reason, "hint": refusal.hint, "missing": missing,
                "window": refusal.window,
            }))?;
            return Ok(Class::Refused.code());
        }
        output::print(&text::refused(&missing, refusal.window.as_ref(), Palette::of_stdout()))?;
        Err(Failure::of(refusal))
    }

    /// The backup that the plan chose.
    fn backup(&self, plan: &Plan) -> Result<Description, Failure> {
        Ok(catalog::get(&self.places.archive, &plan.backup.label)?)
    }

    /// Makes sure that the directories can be restored into.
    fn fits(&self, backup: &Description, target: &restore::Target) -> Result<Way, Failure> {
        let places = restore::places(backup, target)?;
        let way = restore::look(backup, target, &places)?;
        restore::room(&self.places.archive, backup, target, &places, way)?;
        Ok(way)
    }

    fn restore_words(&self, backup: &Description, target: &restore::Target) -> Result<String, Failure> {
        let way = match self.fits(backup, target)? {
            Way::Fresh => "empty or not there",
            Way::Delta => "an older state of the same system, of which only what differs is written",
            Way::Resume => "a restore that was not ended, and is gone on with",
        };
        Ok(format!("{:<12} '{}': {way}\n", "into", target.pgdata.display()))
    }

    fn jobs(&self) -> usize {
        match self.config.backup.jobs {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            jobs => jobs as usize,
        }
    }

    fn print_json<T: serde::Serialize>(&self, value: &T) -> Result<(), Failure> {
        let json = serde_json::to_string_pretty(value).expect("because plain data has no reason not to become JSON");
        output::print(&format!("{json}\n"))
    }
}
