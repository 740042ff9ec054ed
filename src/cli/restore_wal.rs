//! `restore-wal`: hands one file to a recovering server, or says why not in the only language it understands.
//!
//! To PostgreSQL an exit code of 1 to 125 means "there is no such file": without `standby.signal` it then ends recovery
//! and opens for writes. So only a proven absence is answered so. "Cannot tell" is answered above 125 in a restore,
//! which stops the server until somebody has looked, and below in a standby, which asks again. The names of the exit
//! codes are the same in both cases; see [`Situation::exit`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use clap::ArgMatches;

use super::archive_wal::{ask_worker, start_worker};
use super::output;
use super::run::Context;
use crate::archive::ArchiveError;
use crate::archive::consumers::Record;
use crate::archive::expire::{self, Cut};
use crate::archive::fetch::{self, Answer, Asker, Fetcher, Handed};
use crate::archive::hole;
use crate::archive::layout;
use crate::archive::places::Sites;
use crate::archive::push::data_directory;
use crate::archive::spool::Spool;
use crate::archive::waiting::{Bell, Orders, Say};
use crate::archive::worker::{Reply, What};
use crate::config::Config;
use crate::error::{Class, Failure};
use crate::system::clock::Deadline;
use crate::wal::segment::Expected;
use crate::wal::{SegmentName, WalName};

/// A history is asked for between segments, so its answer must not keep recovery waiting.
const HISTORY_RETRY: Duration = Duration::from_secs(2);

/// Between two tries at places that could not tell.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs the program.
pub fn run(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    if let Some(node) = arguments.get_one::<String>("forget") {
        return forget(node, context);
    }
    if let Some(restart) = arguments.get_one::<String>("cleanup") {
        return clean_up(Some(restart.as_str()).filter(|restart| !restart.is_empty()), context);
    }
    let (Some(name), Some(target)) = (arguments.get_one::<String>("name"), arguments.get_one::<PathBuf>("target"))
    else {
        let failure = Failure::new(Class::Usage, "the name of the file and where it goes must be given");
        return Err(failure.hinted("restore_command = 'restore-wal %f %p %r'."));
    };
    let name: WalName = name.parse().map_err(|error| Failure::from(ArchiveError::Name(error)))?;
    let restore = Restore::new(name, target, arguments, context)?;
    Ok(restore.run())
}

/// What the data directory says of the server that asks (PostgreSQL: "Archive Recovery Settings").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Situation {
    /// `standby.signal`: the server asks again and does not open by itself.
    Standby,
    /// `standby.signal`, and somebody has told it to promote: the next "absent" opens it.
    Promoting,
    /// `recovery.signal`, or neither (`pg_rewind`): "absent" is final.
    Restore,
}

impl Situation {
    fn of(pgdata: Option<&Path>, say: Say) -> Situation {
        let standby = pgdata.is_some_and(|pgdata| pgdata.join("standby.signal").exists());
        match say {
            _ if !standby => Situation::Restore,
            Say::Smart | Say::Promote | Say::Stop => Situation::Promoting,
            Say::Wait | Say::Pause | Say::Fast => Situation::Standby,
        }
    }

    /// The exit code for "cannot tell": below 126 only where the server will ask again.
    fn exit(self, class: Class) -> u8 {
        match self {
            Situation::Standby => class.code().min(125),
            Situation::Promoting | Situation::Restore => Class::Abort.code(),
        }
    }
}

/// One request of the server.
struct Restore<'a> {
    name: WalName,
    target: PathBuf,
    pgdata: Option<PathBuf>,
    asker: Option<Asker>,
    wait: bool,
    partial: bool,
    worker: bool,
    context: &'a Context,
    fetcher: Fetcher,
    orders: Orders,
    fast: Arc<AtomicBool>,
}

/// How one look at the places ended.
enum Look {
    Exit(u8),
    Again(Duration),
}

impl<'a> Restore<'a> {
    fn new(name: WalName, target: &Path, arguments: &ArgMatches, context: &'a Context) -> Result<Self, Failure> {
        let config = Arc::new(context.config.clone());
        let target =
            std::path::absolute(target).map_err(|error| Failure::from(ArchiveError::io("find", target)(error)))?;
        let pgdata = data_directory(&target).or_else(working_directory);
        let asker = pgdata.as_deref().map(Fetcher::asker).transpose()?.flatten();
        let sites = Arc::new(Sites::new(&config));
        let trigger = arguments.get_one::<PathBuf>("trigger").unwrap_or(&config.restore.trigger);
        let control = config.local.spool.join(&config.restore.control);
        let base = pgdata.clone().unwrap_or_default();
        let restore = Restore {
            name,
            orders: Orders::new(&base, trigger, &control),
            target,
            pgdata,
            asker,
            wait: arguments.get_flag("wait") || config.restore.wait,
            partial: arguments.get_flag("partial") || config.restore.partial,
            worker: config.restore.worker && !arguments.get_flag("no-worker"),
            context,
            fetcher: Fetcher::new(&config, &sites),
            fast: Arc::new(AtomicBool::new(false)),
        };
        restore.listen_to_signals();
        Ok(restore)
    }

    /// Asks until there is an answer.
    fn run(&self) -> u8 {
        let config = &self.context.config.restore;
        let retry =
            if matches!(self.name, WalName::History(_)) { config.retry.min(HISTORY_RETRY) } else { config.retry };
        let retry = Deadline::after(retry);
        let longest = (!config.wait_max.is_zero()).then(|| Deadline::after(config.wait_max));
        let bell = Bell::new(&self.watched());
        let mut told = false;
        loop {
            let look = match self.orders.look() {
                Ok(say) => self.look(say, retry, longest, &mut told),
                Err(error) => Look::Exit(self.cannot_tell(Say::Wait, error.into())),
            };
            match look {
                Look::Exit(code) => return code,
                Look::Again(longest) => bell.wait(longest),
            }
        }
    }

    /// One look: at the orders, then at the places.
    fn look(&self, say: Say, retry: Deadline, longest: Option<Deadline>, told: &mut bool) -> Look {
        let poll = self.context.config.restore.poll;
        if say == Say::Fast || self.fast.load(Ordering::Relaxed) {
            return Look::Exit(self.end_fast());
        }
        if say == Say::Pause && !matches!(self.name, WalName::History(_)) {
            say_once(told, "paused: remove PAUSE or write CONTINUE into the control folder to go on");
            return Look::Again(poll);
        }
        if let Some(left) = self.held_back(say) {
            return self.wait_or(say, longest, left.min(poll), told, "it is held back by restore.delay");
        }
        match self.fetch() {
            Ok(Answer::Handed(handed)) => Look::Exit(self.handed(&handed)),
            Ok(Answer::Absent) => self.absent(say, longest, told),
            Err(_) if !retry.expired() => Look::Again(PAUSE.min(retry.remaining())),
            Err(failure) if self.waits(say) => {
                say_once(told, &failure.message);
                Look::Again(poll)
            }
            Err(failure) => Look::Exit(self.cannot_tell(say, failure)),
        }
    }

    fn waits(&self, say: Say) -> bool {
        let segment = matches!(self.name, WalName::Segment(_));
        self.wait && segment && Situation::of(self.pgdata.as_deref(), say) == Situation::Standby
    }

    /// Waits on where that is wanted, else answers "absent" to a standby that will ask again.
    fn wait_or(&self, say: Say, longest: Option<Deadline>, pause: Duration, told: &mut bool, why: &str) -> Look {
        if self.waits(say) && longest.is_none_or(|longest| !longest.expired()) {
            say_once(told, &format!("waiting for '{}': {why}", self.name));
            return Look::Again(pause);
        }
        Look::Exit(Class::Absent.code())
    }

    fn absent(&self, say: Say, longest: Option<Deadline>, told: &mut bool) -> Look {
        let WalName::Segment(segment) = self.name else { return Look::Exit(Class::Absent.code()) };
        if self.partial || say == Say::Stop {
            match self.serve_partial(segment) {
                Ok(Some(code)) => return Look::Exit(code),
                Ok(None) => {}
                Err(failure) => return Look::Exit(self.cannot_tell(say, failure)),
            }
        }
        if Situation::of(self.pgdata.as_deref(), say) == Situation::Standby {
            return self.wait_or(say, longest, self.context.config.restore.poll, told, "no place holds it yet");
        }
        Look::Exit(self.end_of_wal(segment, say))
    }

    /// "Absent" will end recovery: so it must be the end. A segment that lies in pg_wal is read from there by the
    /// server after this answer, so it is no hole.
    fn end_of_wal(&self, segment: SegmentName, say: Say) -> u8 {
        if self.is_in_pg_wal(segment) {
            return Class::Absent.code();
        }
        for site in self.fetcher.sites() {
            let found = site.archive().and_then(|archive| hole::evidence(segment, &archive));
            match found {
                Ok(None) => {}
                Ok(Some(evidence)) => {
                    return self.cannot_tell(say, ArchiveError::Hole { name: self.name, evidence }.into());
                }
                Err(error) => return self.cannot_tell(say, error.into()),
            }
        }
        self.mention_partial(segment);
        Class::Absent.code()
    }

    fn is_in_pg_wal(&self, segment: SegmentName) -> bool {
        let (Some(pgdata), Some(asker)) = (&self.pgdata, self.asker) else { return false };
        let path = pgdata.join("pg_wal").join(segment.to_string());
        let (system_id, size) = (Some(asker.system), Some(asker.segment_size));
        let expected = Expected { name: segment, system_id, size, partial: true };
        fetch::check_file(&path, expected).is_ok_and(|report| report.is_some_and(|found| found.records > 0))
    }

    /// Says that there is a tail that is not served unless it is asked for.
    fn mention_partial(&self, segment: SegmentName) {
        for site in self.fetcher.sites() {
            let Ok(archive) = site.archive() else { continue };
            let stored = layout::stored(WalName::Partial(segment), self.context.config.archive.compress);
            if archive.store.look(&stored).is_ok_and(|found| found.is_some()) {
                log::warn!(
                    "'{segment}' exists only as a partial segment in the {}; to replay it too, use restore-wal --partial",
                    archive.store.place()
                );
                return;
            }
        }
    }

    fn serve_partial(&self, segment: SegmentName) -> Result<Option<u8>, Failure> {
        match self.fetcher.fetch(WalName::Partial(segment), &self.target, self.asker)? {
            Answer::Handed(handed) => {
                let until = handed.valid_until.map_or_else(String::new, |lsn| format!(", which ends at {lsn}"));
                log::warn!("serving the partial segment '{segment}' from the {}{until}", handed.from);
                Ok(Some(0))
            }
            Answer::Absent => Ok(None),
        }
    }

    fn fetch(&self) -> Result<Answer, Failure> {
        let config = &self.context.config;
        if self.context.dry_run {
            return self.dry_run();
        }
        let deadline = Deadline::after(config.restore.deadline);
        if self.worker && matches!(self.name, WalName::Segment(_)) {
            let spool = Spool::new(&config.local.spool);
            let what = What::Fetch { name: self.name, target: self.target.clone(), asker: self.asker };
            match ask_worker(&spool, what, config, deadline) {
                Some(Reply::Fetched(answer)) => return Ok(answer),
                Some(Reply::Failed(failure)) => return Err(failure),
                _ => start_worker(self.context, &spool),
            }
        }
        Ok(self.fetcher.fetch(self.name, &self.target, self.asker)?)
    }

    /// Looks and checks like a real call, into a file that is removed again.
    fn dry_run(&self) -> Result<Answer, Failure> {
        let scratch = std::env::temp_dir().join(format!("pgwarm-{}-{}", self.name, std::process::id()));
        let answer = self.fetcher.fetch(self.name, &scratch, self.asker);
        // Nothing depends on a scratch file that stays.
        let _ = std::fs::remove_file(&scratch);
        Ok(answer?)
    }

    fn handed(&self, handed: &Handed) -> u8 {
        for notice in &handed.notices {
            log::warn!("{notice}; '{}' was taken from the {} instead", self.name, handed.from);
        }
        if self.context.dry_run {
            output::line(format_args!("'{}' would come from the {}", self.name, handed.from));
        } else {
            log::debug!("'{}' came from the {}", self.name, handed.from);
        }
        0
    }

    fn end_fast(&self) -> u8 {
        log::warn!("recovery ends before '{}': the trigger says fast, WAL that is there is not applied", self.name);
        match self.orders.used_fast() {
            Ok(()) => Class::Absent.code(),
            Err(error) => self.cannot_tell(Say::Fast, error.into()),
        }
    }

    fn cannot_tell(&self, say: Say, failure: Failure) -> u8 {
        let situation = Situation::of(self.pgdata.as_deref(), say);
        let code = situation.exit(failure.class);
        self.context.report(&failure);
        if code == Class::Abort.code() {
            log::error!(
                "recovery is stopped rather than ended early: to go on without '{}' would lose what follows; mend the \
                 cause and start the server again, recovery continues where it was",
                self.name
            );
        }
        code
    }

    /// How long the segment is still to be held back.
    fn held_back(&self, say: Say) -> Option<Duration> {
        let delay = self.context.config.restore.delay;
        if delay.is_zero() || say != Say::Wait || !matches!(self.name, WalName::Segment(_)) {
            return None;
        }
        let stored = self.fetcher.stored_at(self.name).ok().flatten()?;
        let age = SystemTime::now().duration_since(stored).unwrap_or(Duration::ZERO);
        delay.checked_sub(age).filter(|left| !left.is_zero())
    }

    fn watched(&self) -> Vec<PathBuf> {
        let config = &self.context.config;
        let mut folders: Vec<PathBuf> = self.pgdata.iter().cloned().collect();
        folders.push(config.local.spool.join(&config.restore.control));
        if let (Some(archive), Some(segment)) = (&config.own().archive, self.name.segment()) {
            folders.push(archive.join(&config.cluster.name).join(layout::folder(segment).as_str()));
        }
        folders.retain(|folder| folder.is_dir());
        folders
    }

    /// SIGUSR1 means fast, as pg_standby's users know it. SIGTERM ends us as PostgreSQL expects: by the signal itself.
    fn listen_to_signals(&self) {
        use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
        if let Err(error) = signal_hook::flag::register(SIGUSR1, Arc::clone(&self.fast)) {
            log::debug!("SIGUSR1 is not listened to: {error}");
        }
        let temporary = fetch::temporary(&self.target);
        let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGQUIT]) else { return };
        std::thread::spawn(move || {
            for signal in signals.forever() {
                // What stays is overwritten by the next call.
                let _ = std::fs::remove_file(&temporary);
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        });
    }
}

fn working_directory() -> Option<PathBuf> {
    std::env::current_dir().ok().filter(|here| here.join("PG_VERSION").is_file())
}

fn say_once(told: &mut bool, text: &str) {
    if !*told {
        log::info!("{text}");
        *told = true;
    }
}

/// `archive_cleanup_command`: reports this node's restart point to every archive it restores from, then removes from
/// its own archive what no consumer needs.
fn clean_up(restart: Option<&str>, context: &Context) -> Result<u8, Failure> {
    let config = Arc::new(context.config.clone());
    let sites = Arc::new(Sites::new(&config));
    if let Some(restart) = restart {
        let oldest: WalName = restart.parse().map_err(|error| Failure::from(ArchiveError::Name(error)))?;
        match oldest.segment() {
            Some(oldest) if !oldest.is_zero() => report(oldest, &config, &sites, context),
            _ => {
                log::debug!("no restart point is known yet, nothing is removed");
                return Ok(0);
            }
        }
    }
    let Some(own) = sites.get(&config.local.node) else { return Ok(0) };
    let control = config.local.spool.join(&config.restore.control);
    if Orders::new(Path::new("/"), Path::new("/"), &control).removal_paused()? {
        log::info!("nothing is removed while KEEP lies in '{}'", control.display());
        return Ok(0);
    }
    let archive = own.archive()?;
    match expire::cut(&expire::needs(&config, &archive)?) {
        Cut::KeepAll(reasons) => {
            log::info!("all WAL is kept: {}", reasons.join("; "));
            if context.dry_run {
                output::line(format_args!("all WAL is kept: {}", reasons.join("; ")));
            }
        }
        Cut::Before(oldest, who) => {
            let limit = config.restore.remove_max as usize;
            let removed = expire::remove_before(&archive, oldest, limit, context.dry_run)?;
            let verb = if context.dry_run { "would remove" } else { "removed" };
            let size = output::size(removed.bytes);
            let text = format!("{verb} {} files ({size}) before '{oldest}', kept for {who}", removed.files.len());
            if context.dry_run {
                removed.files.iter().for_each(|file| output::line(format_args!("{verb} {file}")));
                output::line(format_args!("{text}"));
            } else if !removed.files.is_empty() {
                log::info!("{text}");
            }
        }
    }
    Ok(0)
}

/// A place that cannot be told keeps more WAL than it needs: that is the safe side, so it stops nothing.
fn report(oldest: SegmentName, config: &Arc<Config>, sites: &Arc<Sites>, context: &Context) {
    if context.dry_run {
        return;
    }
    let record = Record::new(&config.local.node, "standby: its restart point", oldest);
    for site in Fetcher::new(config, sites).sites() {
        if site.recently_down(config.archive.retry).is_some() {
            continue;
        }
        if let Err(error) = site.archive().and_then(|archive| record.write(&archive)) {
            log::warn!("the archive of {} was not told the restart point '{oldest}': {error}", site.name());
            site.mark_down(&Failure::from(error));
        }
    }
}

/// Takes a consumer that is gone out of the account.
fn forget(node: &str, context: &Context) -> Result<u8, Failure> {
    let config = Arc::new(context.config.clone());
    let sites = Sites::new(&config);
    let Some(own) = sites.get(&config.local.node) else {
        return Err(Failure::new(Class::Refused, "this node holds no archive"));
    };
    let archive = own.archive()?;
    let known = Record::remove(&archive, node, context.dry_run)?;
    let verb = if context.dry_run { "would forget" } else { "forgot" };
    output::line(format_args!(
        "{}",
        if known { format!("{verb} what {node} needs") } else { format!("{node} has left no record") }
    ));
    Ok(0)
}
