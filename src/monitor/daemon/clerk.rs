//! Writes down what happens, in a thread of its own: a primary that hangs holds up a write, never a look.
//!
//! While no primary can be written to, events wait here, in order. Of several daemons that see the same change the one
//! tells of it that the database says so; without a primary it is the one that gets a lock on a standby, and where no
//! server answers at all every one of them, since nobody knows of another.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::error::Failure;
use crate::monitor::announce::announce;
use crate::monitor::event::{Event, States};
use crate::monitor::records::{Kept, Past, Records, Registration};
use crate::monitor::report::Report;
use crate::monitor::schema;
use crate::monitor::view::{NodeView, View};
use crate::postgres::connection::{Connection, Statement, connect};
use crate::postgres::conninfo::Conninfo;
use crate::postgres::error::PostgresError;
use crate::system::clock::Deadline;

use super::series::past_step;

const ANNOUNCE_LOCK: Statement =
    Statement { name: "announce_lock", text: include_str!("../../../sql/monitor/announce_lock.sql") };

/// How long one statement may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A primary that could not be written to is left alone for so long, and for twice as long after each failure.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// How long a lock is held that says who told of an event: longer than others need to see the same.
const LOCK_HELD: Duration = Duration::from_secs(30);

/// How long an event waits to be written down before it is told all the same, while a primary is there.
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);

/// So many jobs wait at most, and so many events while there is no primary.
const WAITING_MAX: usize = 1000;

/// How many events are shown.
const EVENTS_SHOWN: i64 = 30;

/// Something to be done.
pub enum Job {
    /// Where things are now: the connection strings of the primary and of the others that answer.
    Scene { primary: Option<String>, others: Vec<String>, paused: bool },
    /// A state has changed.
    Tell(Box<Event>),
    /// Something happened that is no change of a state.
    Record(Box<Event>),
    /// How far this node is, and what it says of itself.
    Lag { view: Arc<View>, node: Box<NodeView>, report: Option<Box<Report>> },
    /// This node is to be registered so; the schema is made where it is missing and may be made.
    Register { row: Box<Registration>, create: bool, event: Option<Box<Event>> },
    /// What is old is to be removed.
    CleanUp,
    /// Everything that came before is done; then this is sent.
    Flush(Sender<()>),
}

/// What comes back.
pub enum Heard {
    /// The states that the database knows, read at a new connection.
    States(States),
    /// The newest events.
    Events(Vec<Kept>),
    /// Lag over the last hour in steps of so long, read once.
    Past(Vec<Past>, Duration),
}

/// The way to the thread.
pub struct Clerk {
    jobs: SyncSender<Job>,
    heard: Receiver<Heard>,
}

impl Clerk {
    /// Starts the thread, and one that announces. Both end when the clerk is dropped.
    pub fn start(config: &Arc<Config>) -> std::io::Result<Clerk> {
        let (jobs, queue) = sync_channel(WAITING_MAX);
        let (tell, heard) = channel();
        let (cry, cries) = channel::<Box<Event>>();
        let crier = Arc::clone(config);
        std::thread::Builder::new().name("announce".to_owned()).spawn(move || {
            while let Ok(event) = cries.recv() {
                announce(&crier, &event);
            }
        })?;
        let mut desk = Desk::new(config, tell, cry);
        std::thread::Builder::new().name("write".to_owned()).spawn(move || {
            while let Ok(job) = queue.recv() {
                desk.work(job);
            }
        })?;
        Ok(Clerk { jobs, heard })
    }

    /// Hands a job over; never waits. A clerk that is so far behind loses jobs, and says so.
    pub fn hand(&self, job: Job) {
        if let Err(TrySendError::Full(_)) = self.jobs.try_send(job) {
            log::error!("the primary has taken nothing for so long that a record is lost");
        }
    }

    /// What came back, without waiting.
    pub fn hear(&self) -> Option<Heard> {
        self.heard.try_recv().ok()
    }

    /// Waits until everything handed over so far is done, for so long at most.
    pub fn finish(&self, patience: Duration) {
        let (done, wait) = channel();
        self.hand(Job::Flush(done));
        let _ = wait.recv_timeout(patience);
    }
}

/// An event that waits for a primary.
struct Waiting {
    event: Box<Event>,
    /// True for a change of a state.
    change: bool,
    /// Nobody was told yet; whoever writes it down first tells of it, and after this nobody waits for that any more.
    untold: Option<Deadline>,
}

/// What the thread knows.
struct Desk {
    config: Arc<Config>,
    primary: Option<String>,
    others: Vec<String>,
    paused: bool,
    records: Option<(String, Records)>,
    /// True once the schema was seen there.
    schema: bool,
    /// True once the past was asked for.
    past: bool,
    retry: Option<(Instant, Duration)>,
    waiting: VecDeque<Waiting>,
    locks: Vec<(Deadline, Connection)>,
    tell: Sender<Heard>,
    cry: Sender<Box<Event>>,
}

impl Desk {
    fn new(config: &Arc<Config>, tell: Sender<Heard>, cry: Sender<Box<Event>>) -> Desk {
        Desk {
            config: Arc::clone(config),
            primary: None,
            others: Vec::new(),
            paused: false,
            records: None,
            schema: false,
            past: false,
            retry: None,
            waiting: VecDeque::new(),
            locks: Vec::new(),
            tell,
            cry,
        }
    }

    fn work(&mut self, job: Job) {
        self.locks.retain(|(until, _)| !until.expired());
        match job {
            Job::Scene { primary, others, paused } => {
                // What was open to a primary that is gone is of no use when it comes back.
                if primary != self.primary {
                    self.forget_connection();
                }
                (self.primary, self.others, self.paused) = (primary, others, paused);
                self.catch_up();
            }
            Job::Tell(event) => self.tell_change(event),
            Job::Record(event) => {
                self.cry(&event);
                self.keep(Waiting { event, change: false, untold: None });
            }
            Job::Lag { view, node, report } => self.lag(&view, &node, report.as_deref()),
            Job::Register { row, create, event } => self.register(&row, create, event),
            Job::CleanUp => {
                let (lag, events) = (self.config.monitor.keep, self.config.monitor.keep_events);
                self.write(|records| records.clean_up(lag, events).map(drop));
            }
            // Whoever waited may have given up.
            Job::Flush(done) => _ = done.send(()),
        }
    }

    /// Does something with what is kept on the primary. None: that cannot be done now.
    fn write<T>(&mut self, what: impl FnOnce(&mut Records) -> Result<T, PostgresError>) -> Option<T> {
        if !self.schema {
            let known =
                self.connect_and(|records| schema::version(records.connection()).map(|found| found.is_some()))?;
            if !known {
                return None;
            }
            let (states, events) =
                self.connect_and(|records| Ok((records.states()?, records.events(None, None, EVENTS_SHOWN)?)))?;
            self.schema = true;
            let _ = self.tell.send(Heard::States(states));
            let _ = self.tell.send(Heard::Events(events));
            self.read_past();
        }
        self.connect_and(what)
    }

    /// Reads what was before this daemon. Once, whatever comes of it: it is for the eye alone.
    fn read_past(&mut self) {
        let step = past_step(self.config.monitor.history);
        if !std::mem::replace(&mut self.past, true)
            && let Some(past) = self.connect_and(|records| records.past_lag(step))
        {
            let _ = self.tell.send(Heard::Past(past, step));
        }
    }

    /// Does something on the primary, schema or not.
    fn connect_and<T>(&mut self, what: impl FnOnce(&mut Records) -> Result<T, PostgresError>) -> Option<T> {
        let primary = self.primary.clone()?;
        if self.retry.is_some_and(|(at, _)| Instant::now() < at) {
            return None;
        }
        match self.open(&primary).and_then(what) {
            Ok(value) => {
                self.retry = None;
                Some(value)
            }
            // The connection is fine, and what was asked for is not: nothing gets better by waiting.
            Err(error @ PostgresError::Query { .. }) => {
                log::warn!("{}", Failure::of(&error).message);
                None
            }
            Err(error) => {
                log::warn!("nothing can be written down now: {}", Failure::of(&error).message);
                self.forget_connection();
                let pause = self.retry.map_or(BACK_OFF.0, |(_, pause)| (pause * 2).min(BACK_OFF.1));
                self.retry = Some((Instant::now() + pause, pause));
                None
            }
        }
    }

    fn forget_connection(&mut self) {
        self.records = None;
        self.schema = false;
    }

    fn open(&mut self, primary: &str) -> Result<&mut Records, PostgresError> {
        if self.records.as_ref().is_none_or(|(known, _)| known != primary) {
            self.forget_connection();
            let purpose = format!("cluster-monitor {} records", self.config.local.node);
            let records = Records::open(primary, PATIENCE, &purpose)?;
            self.records = Some((primary.to_owned(), records));
        }
        Ok(&mut self.records.as_mut().expect("because it was opened").1)
    }

    /// Writes down what waits, now that a primary may be there.
    fn catch_up(&mut self) {
        let mut told = false;
        while let Some(waiting) = self.waiting.pop_front() {
            let written = self.write(|records| {
                let written = match (waiting.change, waiting.untold) {
                    (true, Some(_)) => records.tell(&waiting.event),
                    (true, None) => records.catch_up(&waiting.event).map(|()| false),
                    (false, _) => records.record(&waiting.event).map(|()| false),
                };
                // What the server will never take must not hold up what comes after it.
                let refused = matches!(written, Err(PostgresError::Query { .. }));
                written
                    .inspect_err(|error| log::warn!("{error}"))
                    .or_else(|error| if refused { Ok(false) } else { Err(error) })
            });
            let Some(news) = written else {
                self.waiting.push_front(waiting);
                self.tell_unwritten();
                return;
            };
            if news {
                self.cry(&waiting.event);
            }
            told = true;
        }
        if told {
            self.show_events();
        } else if !self.schema {
            // A new primary is connected to before anything happens, so that its states are known.
            self.write(|_| Ok(()));
        }
    }

    fn show_events(&mut self) {
        if let Some(events) = self.write(|records| records.events(None, None, EVENTS_SHOWN)) {
            let _ = self.tell.send(Heard::Events(events));
        }
    }

    fn tell_change(&mut self, event: Box<Event>) {
        log::info!("{} on {}: {}", event.event, event.node, event.details);
        if self.waiting.is_empty()
            && let Some(news) = self.write(|records| records.tell(&event))
        {
            if news {
                self.cry(&event);
                self.show_events();
            }
            return;
        }
        self.keep(Waiting { event, change: true, untold: Some(Deadline::after(WRITTEN_WITHIN)) });
    }

    /// Tells of what cannot be written down: at once where there is no primary, else after a while, for a primary that
    /// this daemon cannot write to may take it from another.
    fn tell_unwritten(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain_mut(|waiting| {
            let due = waiting.untold.is_some_and(|until| self.primary.is_none() || until.expired());
            if !due {
                return true;
            }
            waiting.untold = None;
            let ours = self.is_ours(&waiting.event);
            if ours {
                self.cry(&waiting.event);
            }
            ours
        });
        self.waiting = waiting;
    }

    fn keep(&mut self, waiting: Waiting) {
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(waiting);
        self.catch_up();
    }

    fn cry(&self, event: &Event) {
        if !self.paused {
            let _ = self.cry.send(Box::new(event.clone()));
        }
    }

    /// Without a primary: whether this daemon is the one that tells of it.
    fn is_ours(&mut self, event: &Event) -> bool {
        let number = lock_number(&format!("{} {}", event.subject, event.state));
        for conninfo in self.others.clone() {
            match try_lock(&conninfo, number) {
                Ok(Some(connection)) => {
                    self.locks.push((Deadline::after(LOCK_HELD), connection));
                    return true;
                }
                Ok(None) => return false,
                // The next one that all of us see is asked.
                Err(error) => log::debug!("{}", Failure::of(&error).message),
            }
        }
        true
    }

    fn lag(&mut self, view: &View, node: &NodeView, report: Option<&Report>) {
        self.write(|records| records.record_lag(view, node));
        if let Some(report) = report {
            self.write(|records| records.record_report(&node.name, report));
        }
        // Other daemons write events down too.
        self.show_events();
    }

    fn register(&mut self, row: &Registration, create: bool, event: Option<Box<Event>>) {
        let cluster = self.config.cluster.name.clone();
        let done = self.connect_and(|records| {
            if create && let Err(error) = schema::bring_up_to_date(records.connection(), &cluster) {
                let failure = Failure::of(&error);
                log::warn!("{}{}", failure.message, failure.hint.map(|hint| format!("; {hint}")).unwrap_or_default());
                return Ok(false);
            }
            records.register(row).map(|()| true)
        });
        if done == Some(true) {
            log::info!("{} is registered as {} with the id {}", row.name, row.role, row.id);
            if let Some(event) = event {
                self.work(Job::Record(event));
            }
        }
    }
}

/// Tries to get the lock of an event on a standby; none: another daemon has it.
fn try_lock(conninfo: &str, number: i32) -> Result<Option<Connection>, PostgresError> {
    let mut connection = connect(&Conninfo::parse(conninfo)?, PATIENCE, "cluster-monitor announce")?;
    let row = connection.query_one(&ANNOUNCE_LOCK, &[&number])?;
    let ours: bool = connection.column(&ANNOUNCE_LOCK, &row, "ours")?;
    Ok(ours.then_some(connection))
}

/// A number that stands for an event, the same in every daemon (FNV-1a).
fn lock_number(text: &str) -> i32 {
    let hash = text.bytes().fold(0x811C_9DC5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.cast_signed()
}
