//! `restore-wal`: hands one file to a recovering server, or says why not in the only language it understands.
//!
//! To PostgreSQL an exit code of 1 to 125 means "there is no such file": without `standby.signal` it then ends recovery
//! and opens for writes. So only a proven absence is answered so. "Cannot tell" is answered above 125 in a restore,
//! which stops the server until somebody has looked, and below in a standby, which asks again. See [`Mode::exit`].

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, SystemTime};

use clap::ArgMatches;

use super::archive_wal::{ask_worker, start_worker};
use super::output;
use super::restore_cleanup::{clean_up, forget, warn_only};
use super::run::Context;
use crate::archive::ArchiveError;
use crate::archive::fetch::{self, Answer, Asker, Fetcher, Handed};
use crate::archive::hole;
use crate::archive::layout;
use crate::archive::left_out;
use crate::archive::places::{Archive, Sites};
use crate::archive::push::data_directory;
use crate::archive::situation::{self, Mode, Postmaster};
use crate::archive::spool::Spool;
use crate::archive::waiting::{Bell, Orders, Say};
use crate::archive::worker::{Reply, What};
use crate::config::{Config, PlaceWord};
use crate::error::{Class, Failure};
use crate::system::clock::Deadline;
use crate::system::logging;
use crate::wal::segment::{Ending, Expected};
use crate::wal::timeline::TimelineHistory;
use crate::wal::{SegmentName, TimelineId, WalName};

/// A history is asked for between segments, so its answer must not keep recovery waiting.
const HISTORY_RETRY: Duration = Duration::from_secs(2);

/// Between two tries at places that could not tell.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs the program.
pub fn run(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    if let Some(node) = arguments.get_one::<String>("forget") {
        return Ok(warn_only(forget(node, context), context));
    }
    if let Some(restart) = arguments.get_one::<String>("cleanup") {
        let restart = Some(restart.as_str()).filter(|restart| !restart.is_empty());
        return Ok(warn_only(clean_up(restart, context), context));
    }
    let (Some(name), Some(target)) = (arguments.get_one::<String>("name"), arguments.get_one::<PathBuf>("target"))
    else {
        let failure = Failure::new(Class::Usage, "the name of the file and where it goes must be given");
        return Err(failure.hinted("restore_command = 'restore-wal %f %p'."));
    };
    let name: WalName = name.parse().map_err(|error| Failure::from(ArchiveError::Name(error)))?;
    Ok(Restore::new(name, target, arguments, context)?.run())
}

/// One request of the server.
struct Restore<'a> {
    name: WalName,
    target: PathBuf,
    pgdata: Option<PathBuf>,
    postmaster: Option<Postmaster>,
    asker: Option<Asker>,
    /// True where it serves this node's own server, which may be being promoted.
    own: bool,
    wait: bool,
    partial: bool,
    worker: bool,
    context: &'a Context,
    fetcher: Arc<Fetcher>,
    orders: Orders,
    fast: Arc<AtomicBool>,
    landing: Arc<Mutex<Option<PathBuf>>>,
}

/// How one look at the places ended.
enum Look {
    Exit(u8),
    Again(Duration),
}

/// Up to when something may go on.
struct Limits {
    retry: Deadline,
    wait: Option<Deadline>,
    told: String,
}

/// True for the data directory of this node, and not that of a restore beside it.
fn is_own(config: &Config, pgdata: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    config.own().pgdata.as_deref().and_then(real).is_some_and(|own| real(pgdata) == Some(own))
}

/// While this server is being promoted, or opened as of a time, the archives that the decision goes without are none.
fn leave_out(config: &mut Config) -> Result<(), Failure> {
    let out = left_out::nodes(&Spool::new(&config.local.spool), config.failover.deadline)?;
    if out.is_empty() {
        return Ok(());
    }
    let mut from = Vec::new();
    for word in &config.restore.from {
        match word {
            PlaceWord::Queue => from.push(PlaceWord::Queue),
            word => {
                let nodes = config.places(std::slice::from_ref(word)).into_iter().map(|node| node.name.clone());
                from.extend(nodes.filter(|name| !out.contains(name)).map(PlaceWord::Node));
            }
        }
    }
    config.restore.from = from;
    Ok(())
}

impl<'a> Restore<'a> {
    fn new(name: WalName, target: &Path, arguments: &ArgMatches, context: &'a Context) -> Result<Self, Failure> {
        let mut config = context.config.clone();
        let target =
            std::path::absolute(target).map_err(|error| Failure::from(ArchiveError::io("find", target)(error)))?;
        let pgdata = data_directory(&target).or_else(working_directory);
        let mode = Mode::of(pgdata.as_deref());
        let own = mode != Mode::Other && pgdata.as_deref().is_some_and(|pgdata| is_own(&config, pgdata));
        if own {
            leave_out(&mut config)?;
        }
        let config = Arc::new(config);
        let postmaster = pgdata.as_deref().and_then(Postmaster::of).filter(|_| mode != Mode::Other);
        let asker = pgdata.as_deref().map(Fetcher::asker).transpose()?.flatten();
        let sites = Arc::new(Sites::new(&config));
        let serves = mode != Mode::Other && !context.dry_run;
        let wait = serves && (arguments.get_flag("wait") || config.restore.wait);
        let trigger = arguments.get_one::<PathBuf>("trigger");
        let trigger = trigger.or(Some(&config.restore.trigger).filter(|_| wait));
        let base = pgdata.clone().unwrap_or_default();
        let started = postmaster.map(|server| server.started);
        let orders = Orders {
            trigger: trigger.filter(|_| serves).map(|path| base.join(path)),
            control: config.local.spool.join(&config.restore.control),
            promote: (mode == Mode::Standby).then(|| base.join("promote")),
            trigger_since: started,
            // In a restore STOP opens nothing that would not open anyway.
            stop_since: started.filter(|_| mode == Mode::Standby),
        };
        let restore = Restore {
            name,
            orders,
            target,
            pgdata,
            postmaster,
            asker,
            own,
            wait,
            partial: arguments.get_flag("partial") || config.restore.partial,
            // What pg_rewind reads backwards is not fetched ahead.
            worker: serves && config.restore.worker && !arguments.get_flag("no-worker"),
            context,
            fetcher: Arc::new(Fetcher::new(&config, &sites)),
            fast: Arc::default(),
            landing: Arc::default(),
        };
        restore.listen_to_signals();
        Ok(restore)
    }

    /// Read anew each time: a promotion ends the standby while we wait.
    fn mode(&self) -> Mode {
        Mode::of(self.pgdata.as_deref())
    }

    /// Asks until there is an answer.
    fn run(&self) -> u8 {
        let config = &self.context.config.restore;
        let is_history = matches!(self.name, WalName::History(_));
        if self.name == WalName::History(TimelineId(1)) {
            // A promotion asks for it, and it never existed: no outage may stand in its way.
            return Class::Absent.code();
        }
        if is_history && self.mode() != Mode::Other {
            fetch::sweep_landings(&self.target);
        }
        let retry = if is_history { config.retry.min(HISTORY_RETRY) } else { config.retry };
        let wait = (!config.wait_max.is_zero()).then(|| Deadline::after(config.wait_max));
        let mut limits = Limits { retry: Deadline::after(retry), wait, told: String::new() };
        // Taking a watch away again costs milliseconds, so only a call that waits has one.
        let mut bell: Option<Bell> = None;
        loop {
            if self.postmaster.is_some_and(|server| !server.is_alive()) {
                log::info!("the server that asked for '{}' is gone", self.name);
                return Class::Abort.code();
            }
            let look = match self.say() {
                Ok(say) => self.look(say, &mut limits),
                Err(error) => Look::Exit(self.cannot_tell(Say::Wait, error.into())),
            };
            match look {
                Look::Exit(code) => return code,
                Look::Again(longest) => {
                    if let Some(bell) = &bell {
                        bell.wait(longest);
                    } else {
                        // What came between the look and the watch rings nothing, so the first wait is another look.
                        bell = Some(Bell::new(&self.watched()));
                    }
                }
            }
        }
    }

    /// What is ordered. No order is about a history, and none is for anybody but a recovering server.
    fn say(&self) -> Result<Say, ArchiveError> {
        let segment = matches!(self.name, WalName::Segment(_));
        if !segment || self.mode() == Mode::Other || self.context.dry_run {
            return Ok(Say::Wait);
        }
        if self.fast.load(Ordering::Relaxed) {
            return Ok(Say::Fast);
        }
        match self.orders.look()? {
            Say::Pause if self.is_hurried() => Ok(Say::Wait),
            say => Ok(say),
        }
    }

    /// One look: at the order, then at the places.
    fn look(&self, say: Say, limits: &mut Limits) -> Look {
        let poll = self.context.config.restore.poll;
        if let (Say::Fast | Say::EndAt(_), WalName::Segment(segment)) = (say, self.name) {
            let before = matches!(say, Say::EndAt(end) if segment.position() < end.position());
            if !before {
                return Look::Exit(self.end_fast(say, segment));
            }
        }
        if say == Say::Pause {
            limits.tell("paused: remove PAUSE or write CONTINUE into the control folder to go on");
            return Look::Again(poll);
        }
        if let Some(left) = self.held_back(say) {
            return self.wait_or_absent(say, limits, left.min(poll), "it is held back by restore.delay");
        }
        match self.fetch_named(self.name) {
            Ok(Answer::Handed(handed)) => Look::Exit(self.handed(&handed)),
            Ok(Answer::Absent) => self.absent(say, limits),
            // A standby streams meanwhile and asks again by itself.
            Err(failure)
                if say == Say::Wait && self.is_final() && may_pass(failure.class) && !limits.retry.expired() =>
            {
                log::debug!("{}", failure.message);
                Look::Again(PAUSE.min(limits.retry.remaining()))
            }
            // Stuck is noticed and mended; an end would be neither.
            Err(failure) if self.waits(say) && !limits.wait_is_over() => {
                limits.warn(&failure);
                Look::Again(poll)
            }
            Err(failure) => Look::Exit(self.cannot_tell(say, failure)),
        }
    }

    fn waits(&self, say: Say) -> bool {
        let segment = matches!(self.name, WalName::Segment(_));
        let waits = self.wait && segment && matches!(say, Say::Wait | Say::Pause) && self.mode() != Mode::Other;
        waits && !self.is_hurried()
    }

    /// While the own server is being promoted it must come to what lies in its `pg_wal`, and open.
    fn is_hurried(&self) -> bool {
        let config = &self.context.config;
        // What cannot be read says nothing, and an order to the server ends the waiting as well.
        self.own && left_out::is_under_way(&Spool::new(&config.local.spool), config.failover.deadline).unwrap_or(false)
    }

    /// Waits on where that is wanted, else answers "absent" to a standby, which asks again.
    fn wait_or_absent(&self, say: Say, limits: &mut Limits, pause: Duration, why: &str) -> Look {
        if !self.waits(say) {
            return Look::Exit(Class::Absent.code());
        }
        if !limits.wait_is_over() {
            limits.tell(&format!("waiting for '{}': {why}", self.name));
            return Look::Again(pause);
        }
        if self.mode() == Mode::Standby {
            return Look::Exit(Class::Absent.code());
        }
        let longest = self.context.config.restore.wait_max.as_secs_f64();
        let text = format!("'{}' did not come within restore.wait_max = {longest} s", self.name);
        let hint = "Start the server again to wait on; to open it with what it has, write smart into the trigger file.";
        Look::Exit(self.cannot_tell(say, Failure::new(Class::Timeout, text).hinted(hint)))
    }

    fn absent(&self, say: Say, limits: &mut Limits) -> Look {
        let segment = match self.name {
            WalName::Segment(segment) => segment,
            WalName::History(timeline) => return Look::Exit(self.absent_history(timeline)),
            _ => return Look::Exit(Class::Absent.code()),
        };
        if self.is_closed() {
            return Look::Exit(Class::Absent.code());
        }
        if self.partial || say == Say::Stop {
            match self.serve_partial(segment) {
                Ok(true) => return Look::Exit(0),
                Ok(false) => {}
                Err(failure) => return Look::Exit(self.cannot_tell(say, failure)),
            }
        }
        let ends = matches!(say, Say::Smart | Say::Stop | Say::Promote | Say::EndAt(_));
        if self.waits(say) && self.is_left_behind(segment) {
            log::info!("'{segment}' is not waited for: a later timeline has left its own before it");
            return Look::Exit(Class::Absent.code());
        }
        if self.waits(say) || (self.mode() == Mode::Standby && !ends) {
            return self.wait_or_absent(say, limits, self.context.config.restore.poll, "no place holds it yet");
        }
        Look::Exit(self.end_of_wal(segment, say))
    }

    /// A promotion has claimed the timeline that goes on from here, so nothing follows on the old one. Where it is this
    /// node's, nobody can write until the server has its answer.
    fn is_closed(&self) -> bool {
        self.mode() == Mode::Standby && self.fetcher.is_closed(self.name).unwrap_or(false)
    }

    /// A standby looks for later timelines only when it was told "absent"; waiting on, it would miss the switch.
    fn is_left_behind(&self, segment: SegmentName) -> bool {
        let left = |archive: Archive| hole::is_left_behind(segment, &archive);
        let mut sites = self.fetcher.sites().into_iter();
        self.mode() == Mode::Standby && sites.any(|site| site.archive().and_then(left).unwrap_or(false))
    }

    /// A history that is absent although its timeline is there would end recovery on the timeline before.
    fn absent_history(&self, timeline: TimelineId) -> u8 {
        if self.mode() == Mode::Standby {
            return Class::Absent.code();
        }
        self.unless(Say::Wait, |archive| hole::lost_history(timeline, archive)).unwrap_or(Class::Absent.code())
    }

    /// "Absent" will end recovery: so it must be the end. A segment that lies in pg_wal is read from there by the
    /// server after this answer, so it is no hole.
    fn end_of_wal(&self, segment: SegmentName, say: Say) -> u8 {
        if !self.is_whole_in_pg_wal(segment)
            && let Some(code) = self.unless(say, |archive| hole::evidence(segment, archive))
        {
            return code;
        }
        self.mention_partial(segment);
        self.open_standby(say).unwrap_or(Class::Absent.code())
    }

    /// The code for "cannot tell" if a place has evidence against "absent", or cannot say whether it has.
    fn unless(&self, say: Say, look: impl Fn(&Archive) -> Result<Option<String>, ArchiveError>) -> Option<u8> {
        for site in self.fetcher.sites() {
            match site.archive().and_then(|archive| look(&archive)) {
                Ok(None) => {}
                Ok(Some(evidence)) => {
                    return Some(self.cannot_tell(say, ArchiveError::Hole { name: self.name, evidence }.into()));
                }
                Err(error) => return Some(self.cannot_tell(say, error.into())),
            }
        }
        None
    }

    /// One that breaks off may be the end of WAL, but proves nothing if the places show that more followed.
    fn is_whole_in_pg_wal(&self, segment: SegmentName) -> bool {
        let (Some(pgdata), Some(asker)) = (&self.pgdata, self.asker) else { return false };
        let path = pgdata.join("pg_wal").join(segment.to_string());
        let (system_id, size) = (Some(asker.system), Some(asker.segment_size));
        let expected = Expected { name: segment, system_id, size, partial: true };
        let report = fetch::check_file(&path, expected).ok().flatten();
        report.is_some_and(|report| !matches!(report.ends, Ending::Torn { .. }))
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

    fn serve_partial(&self, segment: SegmentName) -> Result<bool, Failure> {
        match self.fetch_named(WalName::Partial(segment))? {
            Answer::Handed(handed) => {
                let until = handed.valid_until.map_or_else(String::new, |lsn| format!(", which ends at {lsn}"));
                log::warn!("serving the partial segment '{segment}' from the {}{until}", handed.from);
                Ok(true)
            }
            Answer::Absent => Ok(false),
        }
    }

    fn fetch_named(&self, name: WalName) -> Result<Answer, Failure> {
        if self.context.dry_run {
            return self.dry_run(name);
        }
        let deadline = Deadline::after(self.context.config.restore.deadline);
        // To a standby the worker's answer about a history is as good as ours, and its connections are there already.
        let asked = matches!(name, WalName::Segment(_)) || (matches!(name, WalName::History(_)) && !self.is_final());
        if self.worker
            && asked
            && let Some(answer) = self.fetch_by_worker(name, deadline)
        {
            return answer;
        }
        self.fetch_here(name, deadline)
    }

    /// A standby asks again soon; to the others the answer is final, so every place is really asked.
    fn is_final(&self) -> bool {
        self.mode() != Mode::Standby
    }

    /// `None` where this process has to do the work.
    fn fetch_by_worker(&self, name: WalName, deadline: Deadline) -> Option<Result<Answer, Failure>> {
        let config = &self.context.config;
        let spool = Spool::new(&config.local.spool);
        let landing = self.new_landing();
        let what = What::Fetch { name, target: landing.clone(), asker: self.asker };
        match ask_worker(&spool, what, config, deadline) {
            Some(Reply::Fetched(answer)) => Some(self.land(Ok(answer), &landing)),
            Some(Reply::Failed(failure))
                if !self.is_final() || deadline.expired() || failure.class == Class::Corrupt =>
            {
                Some(self.land(Err(failure), &landing))
            }
            Some(Reply::Failed(failure)) => {
                log::debug!("the worker failed: {}", failure.message);
                None
            }
            _ => {
                start_worker(self.context, &spool);
                None
            }
        }
    }

    /// Does the work in this process, in a thread: a disk that hangs must not hang the server.
    fn fetch_here(&self, name: WalName, deadline: Deadline) -> Result<Answer, Failure> {
        let (fetcher, asker, thorough) = (Arc::clone(&self.fetcher), self.asker, self.is_final());
        let (done, wait) = mpsc::channel();
        let landing = self.new_landing();
        let file = landing.clone();
        std::thread::spawn(move || {
            // Nobody listens any more once the deadline has passed.
            let _ = done.send(fetcher.fetch(name, &file, asker, thorough));
        });
        let answer = wait.recv_timeout(deadline.remaining()).unwrap_or_else(|_| {
            let after = self.context.config.restore.deadline;
            let waiting_for = "a place, or the disk of this machine, did not answer".to_owned();
            Err(ArchiveError::Deadline { name, after, waiting_for })
        });
        self.land(answer.map_err(Failure::from), &landing)
    }

    /// A name of our own, so that nobody who is late writes to the target when it is somebody else's.
    fn new_landing(&self) -> PathBuf {
        let landing = fetch::landing(&self.target);
        *self.landing() = Some(landing.clone());
        landing
    }

    /// Gives a whole file the target's name; whatever else is there goes.
    fn land(&self, answer: Result<Answer, Failure>, landing: &Path) -> Result<Answer, Failure> {
        if matches!(answer, Ok(Answer::Handed(_))) {
            let named = std::fs::rename(landing, &self.target);
            named.map_err(|error| Failure::from(ArchiveError::io("rename to", &self.target)(error)))?;
        } else {
            // A leftover is swept by a later recovery.
            let _ = std::fs::remove_file(landing);
        }
        answer
    }

    /// Looks and checks like a real call, into a file that is removed again.
    fn dry_run(&self, name: WalName) -> Result<Answer, Failure> {
        let scratch = self.new_landing();
        let answer = self.fetcher.fetch(name, &scratch, self.asker, true);
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

    fn end_fast(&self, say: Say, segment: SegmentName) -> u8 {
        if say == Say::Fast {
            log::warn!("recovery ends before '{segment}': the trigger says fast, WAL that is there is not applied");
            if let Err(error) = self.orders.used_fast(segment) {
                return self.cannot_tell(say, error.into());
            }
        }
        self.open_standby(say).unwrap_or(Class::Absent.code())
    }

    /// "Absent" opens no standby, so an order to open one is passed on to the server. The code if that fails.
    fn open_standby(&self, say: Say) -> Option<u8> {
        let ordered = matches!(say, Say::Smart | Say::Fast | Say::EndAt(_) | Say::Stop);
        let (true, Some(pgdata)) = (ordered && self.mode() == Mode::Standby, &self.pgdata) else { return None };
        let server = self.postmaster?;
        log::info!("all that was ordered is applied before '{}': the server is told to promote", self.name);
        let told = server.promote(pgdata).err()?;
        Some(self.cannot_tell(say, told.into()))
    }

    /// A history never changes, and the server reads its own copy after "absent". A promotion asks for the one of the
    /// timeline it leaves when the signal files are gone already: stopped there, it would start as after a crash.
    fn is_known_history(&self) -> bool {
        let (WalName::History(timeline), Some(pgdata)) = (self.name, &self.pgdata) else { return false };
        let text = std::fs::read_to_string(pgdata.join("pg_wal").join(self.name.to_string()));
        text.is_ok_and(|text| TimelineHistory::parse(timeline, &text).is_ok())
    }

    fn cannot_tell(&self, say: Say, failure: Failure) -> u8 {
        if self.is_known_history() {
            log::warn!("{}; PostgreSQL takes '{}' from pg_wal", failure.message, self.name);
            return Class::Absent.code();
        }
        let code = self.mode().exit(say, failure.class);
        let stopped = code == Class::Abort.code();
        self.context.report(&if stopped { said_to_stop(failure, self.name) } else { failure });
        if !stopped && say == Say::Promote {
            log::warn!("the promotion goes on without an answer from every place");
        }
        code
    }

    /// How long the segment is still to be held back. To a restore that does not wait, held back would mean ended.
    fn held_back(&self, say: Say) -> Option<Duration> {
        let delay = self.context.config.restore.delay;
        let held = self.wait || self.mode() == Mode::Standby;
        let segment = matches!(self.name, WalName::Segment(_));
        if delay.is_zero() || say != Say::Wait || !held || !segment || self.is_hurried() {
            return None;
        }
        let stored = self.fetcher.stored_at(self.name)?;
        let age = SystemTime::now().duration_since(stored).unwrap_or(Duration::ZERO);
        delay.checked_sub(age).filter(|left| !left.is_zero())
    }

    fn watched(&self) -> Vec<PathBuf> {
        let config = &self.context.config;
        let mut folders: Vec<PathBuf> = self.pgdata.iter().cloned().collect();
        folders.extend(self.orders.trigger.iter().filter_map(|trigger| trigger.parent().map(Path::to_owned)));
        folders.push(self.orders.control.clone());
        if let (Some(archive), Some(segment)) = (&config.own().archive, self.name.segment()) {
            folders.push(archive.join(&config.cluster.name).join(layout::folder(segment).as_str()));
        }
        folders.retain(|folder| folder.is_dir());
        folders
    }

    fn landing(&self) -> MutexGuard<'_, Option<PathBuf>> {
        // A path is whole, whoever panicked.
        self.landing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// SIGUSR1 means fast, as pg_standby's users know it. SIGTERM ends us as PostgreSQL expects: by the signal itself.
    fn listen_to_signals(&self) {
        use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
        if let Err(error) = signal_hook::flag::register(SIGUSR1, Arc::clone(&self.fast)) {
            log::debug!("SIGUSR1 is not listened to: {error}");
        }
        let landing = Arc::clone(&self.landing);
        let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGQUIT]) else { return };
        std::thread::spawn(move || {
            for signal in signals.forever() {
                if let Some(landing) = &*landing.lock().unwrap_or_else(PoisonError::into_inner) {
                    // What stays is swept by a later recovery.
                    let _ = std::fs::remove_file(landing);
                }
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        });
    }
}

impl Limits {
    fn wait_is_over(&self) -> bool {
        self.wait.is_some_and(|wait| wait.expired())
    }

    /// Says something once, until there is something else to say.
    fn tell(&mut self, text: &str) {
        if self.told != text {
            text.clone_into(&mut self.told);
            log::info!("{text}");
        }
    }

    fn warn(&mut self, failure: &Failure) {
        if self.told != failure.message {
            self.told.clone_from(&failure.message);
            log::warn!("{}; waiting until it is mended", failure.message);
            if let Some(hint) = &failure.hint {
                log::warn!(target: logging::HINT, "{hint}");
            }
        }
    }
}

/// True where the same question may be answered a moment later.
fn may_pass(class: Class) -> bool {
    situation::is_outage(class) || class == Class::Storage
}

/// Adds to the hint that recovery was stopped on purpose, and that nothing is lost by it.
fn said_to_stop(failure: Failure, name: WalName) -> Failure {
    let cause = failure.hint.clone().map(|hint| format!("{hint} ")).unwrap_or_default();
    failure.hinted(format!(
        "{cause}Recovery stops here on purpose: opening the server without '{name}' could lose what follows it. Mend the \
         cause, or take a place that is gone for good out of restore.from, and start the server again; recovery goes on \
         where it was."
    ))
}

fn working_directory() -> Option<PathBuf> {
    std::env::current_dir().ok().filter(|here| here.join("PG_VERSION").is_file())
}
