//! The daemon: looks at every node at every turn, judges, remembers, tells, answers.
//!
//! The turn itself does no more than ask the crew and think; what can hang (a server, a write, a disk, a program) has a
//! thread of its own. So the picture is never older than a turn and its deadline, in whatever state the cluster is.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::event::{self, Event, States};
use super::judge::{Limits, judge};
use super::local::Surveyor;
use super::records::Past;
use super::registration::{RegistrationError, Wish, place, plan};
use super::registry::Registry;
use super::report::Report;
use super::tide::Tide;
use super::view::{View, Watched, rfc3339};
use crate::cluster::check::{Finding, Level};
use crate::cluster::contact;
use crate::config::Config;
use crate::error::{Class, Failure};
use crate::system::clock::Deadline;
use crate::system::supervisor::Supervisor;
use crate::wal::Lsn;

pub mod board;
pub mod clerk;
pub mod copyist;
pub mod crew;
pub mod duties;
pub mod series;

use board::Board;
use clerk::{Clerk, Heard, Job};
use copyist::Copyist;
use crew::Crew;

/// What costs a little more is looked at so often.
const FULL_EVERY: Duration = Duration::from_secs(10);

/// The same while this node is not registered yet.
const UNREGISTERED_EVERY: Duration = Duration::from_secs(1);

/// How many positions of the primary are remembered.
const POSITIONS_MAX: usize = 7200;

/// Old rows are looked for so often.
const CLEAN_UP_EVERY: Duration = Duration::from_secs(3600);

/// What the last words may take at the end.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What the daemon is told from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Read the configuration anew, and register anew.
    Reload,
    /// End.
    Stop,
}

/// The daemon.
pub struct Daemon<'a> {
    config: Arc<Config>,
    load: &'a dyn Fn() -> Result<Config, Failure>,
    board: Arc<Board>,
    supervisor: Supervisor,
    crew: Crew,
    clerk: Clerk,
    survey: Survey,
    copyist: Copyist,
    tide: Tide,
    known: States,
    /// True once it is known what the database was told before we came.
    caught_up: bool,
    /// True once the past was taken in.
    remembered: bool,
    full_at: Instant,
    lag_at: Instant,
    copy_at: Instant,
    clean_up_at: Instant,
    /// Register anew whatever the registry says, as after a reload.
    insist: bool,
}

impl<'a> Daemon<'a> {
    /// Starts everything but the turns. `load` reads the configuration anew.
    pub fn new(
        config: &Arc<Config>,
        board: Arc<Board>,
        load: &'a dyn Fn() -> Result<Config, Failure>,
    ) -> Result<Daemon<'a>, Failure> {
        let now = Instant::now();
        Ok(Daemon {
            config: Arc::clone(config),
            load,
            board,
            supervisor: Supervisor::of_environment(),
            crew: Crew::new(config).map_err(no_thread)?,
            clerk: Clerk::start(config).map_err(no_thread)?,
            survey: Survey::start(config).map_err(no_thread)?,
            copyist: Copyist::start(config).map_err(no_thread)?,
            tide: Tide::new(POSITIONS_MAX),
            known: States::new(),
            caught_up: false,
            remembered: false,
            full_at: now,
            lag_at: now,
            copy_at: now,
            clean_up_at: now + CLEAN_UP_EVERY,
            insist: false,
        })
    }

    /// Turns until it is told to end.
    pub fn run(&mut self, orders: &Receiver<Order>) -> Result<(), Failure> {
        self.tell_own("repmgrd_start", format!("cluster-monitor {} watches", env!("CARGO_PKG_VERSION")));
        let mut begun = false;
        let mut next = Instant::now();
        loop {
            self.turn();
            if !begun {
                self.supervisor.ready();
                begun = true;
            }
            self.supervisor.alive();
            next += self.config.monitor.interval;
            // Turns that were missed are not made up for.
            next = next.max(Instant::now());
            match self.wait(orders, next) {
                None => {}
                Some(Order::Reload) => self.reload(),
                Some(Order::Stop) => break,
            }
        }
        self.supervisor.stopping();
        self.tell_own("repmgrd_shutdown", String::new());
        self.clerk.finish(LAST_WORDS);
        Ok(())
    }

    /// Waits for the next turn, telling the supervisor that we live where turns are rare.
    fn wait(&self, orders: &Receiver<Order>, next: Instant) -> Option<Order> {
        let most = self.supervisor.wants_life_every().unwrap_or(Duration::MAX);
        loop {
            let left = next.saturating_duration_since(Instant::now());
            match orders.recv_timeout(left.min(most)) {
                Ok(order) => return Some(order),
                Err(RecvTimeoutError::Disconnected) => return Some(Order::Stop),
                Err(RecvTimeoutError::Timeout) if left <= most => return None,
                Err(RecvTimeoutError::Timeout) => self.supervisor.alive(),
            }
        }
    }

    fn turn(&mut self) {
        let full = Instant::now() >= self.full_at;
        if full {
            self.full_at = Instant::now() + FULL_EVERY.max(self.config.monitor.interval);
        }
        self.crew.turn(full);
        let report = self.survey.report();
        let watched = self.crew.watched(&self.config, report.as_ref());
        let config = Arc::clone(&self.config);
        let at = SystemTime::now();
        let view = View::of(&config.cluster.name, &config.local.node, at, &watched, &self.tide);
        if let Some(reference) = view.reference.as_ref().filter(|reference| reference.live) {
            self.tide.note(at, reference.lsn);
        }
        let limits = Limits {
            check: &config.check,
            lost_after: config.monitor.lost_after,
            reports_every: config.monitor.history,
        };
        let findings = judge(&view, &limits);
        self.hear();
        self.set_scene(&view);
        self.notice(&view, &findings);
        if full {
            self.register(&view, &watched);
        }
        let view = Arc::new(view);
        self.keep(&view, report);
        self.supervisor.status(&status_line(&view, &findings));
        self.board.show(&view, findings);
    }

    /// Takes in what the clerk has found.
    fn hear(&mut self) {
        while let Some(heard) = self.clerk.hear() {
            match heard {
                // A change that happened before we came is told now. Later we know better: the database may lag behind.
                Heard::States(states) if !self.caught_up => {
                    self.known.extend(states);
                    self.caught_up = true;
                }
                Heard::States(_) => {}
                Heard::Events(events) => self.board.show_events(events),
                Heard::Past(past, step) => self.remember(&past, step),
            }
        }
    }

    /// Takes in what was before this daemon; what it has seen itself goes before that.
    fn remember(&mut self, past: &[Past], step: Duration) {
        if std::mem::replace(&mut self.remembered, true) {
            return;
        }
        self.board.show_past(past, step);
        let position = |one: &Past| Some((UNIX_EPOCH + Duration::try_from_secs_f64(one.seen).ok()?, one.written));
        let mut positions: Vec<(SystemTime, Lsn)> = past.iter().filter_map(position).collect();
        positions.sort_unstable();
        self.tide.precede(&positions);
    }

    /// Tells the clerk whom to write to.
    fn set_scene(&self, view: &View) {
        let conninfo = |name: &str| contact::text(&self.config, name);
        let others = view.nodes.iter().filter(|node| node.state == "running").filter_map(|node| conninfo(&node.name));
        self.clerk.hand(Job::Scene {
            primary: view.primary.as_deref().and_then(conninfo),
            others: others.collect(),
            paused: view.pause.is_some(),
        });
    }

    /// Finds what has changed and has it told.
    fn notice(&mut self, view: &View, findings: &[Finding]) {
        let now = event::states(&self.known, view, findings);
        for event in event::changes(&self.known, &now, view, findings) {
            if event.event == "role_change" || event.event == "rogue_promotion" {
                // The registries are stale now.
                self.full_at = Instant::now();
            }
            self.clerk.hand(Job::Tell(Box::new(event)));
        }
        self.known.extend(now);
    }

    /// Registers this node where it is not registered as what it is.
    fn register(&mut self, view: &View, watched: &[Watched]) {
        let Some(primary) = view.primary.as_deref() else { return };
        if view.node(&self.config.local.node).is_none_or(|own| own.registered.is_none()) {
            self.full_at = Instant::now() + UNREGISTERED_EVERY;
        }
        let registry = watched.iter().find(|one| one.node.name == primary).and_then(|one| one.registry.as_ref());
        let own = self.config.own();
        let leads = primary == own.name && view.rivals.is_empty();
        // The schema is the primary's to make.
        if registry.is_none() && !leads {
            return;
        }
        let wish = Wish {
            node: own,
            expected: None,
            archive_system: None,
            place: place(&self.config, own),
            force: self.insist || leads,
        };
        match plan(view, registry, wish) {
            Ok(plan) if plan.unchanged => {}
            Ok(plan) => {
                let event = registered_event(view, registry, &plan.row.name, &plan.row.role, plan.retires.as_deref());
                self.clerk.hand(Job::Register { row: Box::new(plan.row), create: leads, event: event.map(Box::new) });
                self.full_at = Instant::now() + self.config.monitor.interval;
            }
            // It is seen again in a moment.
            Err(RegistrationError::Unseen { .. } | RegistrationError::NoPrimary) => return,
            Err(error) => log::warn!("this node cannot be registered: {error}"),
        }
        self.insist = false;
    }

    /// Keeps what is to be kept over time.
    fn keep(&mut self, view: &Arc<View>, report: Option<Report>) {
        let history = self.config.monitor.history;
        let registered = view.node(&self.config.local.node).filter(|node| node.registered.is_some());
        if let Some(node) = registered.filter(|_| !history.is_zero() && Instant::now() >= self.lag_at) {
            self.lag_at = Instant::now() + history;
            let node = Box::new(node.clone());
            self.clerk.hand(Job::Lag { view: Arc::clone(view), node, report: report.map(Box::new) });
        }
        self.copy(view);
        if Instant::now() >= self.clean_up_at {
            self.clean_up_at = Instant::now() + CLEAN_UP_EVERY;
            if view.primary.as_ref() == Some(&self.config.local.node) {
                self.clerk.hand(Job::CleanUp);
            }
        }
    }

    /// Has a witness keep a copy of what the primary has. Where two nodes take writes nobody knows whose to keep.
    fn copy(&mut self, view: &View) {
        let own = view.node(&self.config.local.node);
        let due = self.copyist.is_at_work() && Instant::now() >= self.copy_at;
        if !due || !view.rivals.is_empty() || own.is_none_or(|own| own.registered.is_none()) {
            return;
        }
        let Some(primary) = view.primary.as_deref() else { return };
        let every = self.config.monitor.history;
        self.copy_at = Instant::now() + if every.is_zero() { FULL_EVERY } else { every };
        if let Some(conninfo) = contact::text(&self.config, primary) {
            self.copyist.hand(primary, &conninfo);
        }
    }

    fn reload(&mut self) {
        self.supervisor.reloading();
        match (self.load)().and_then(|config| self.adopt(Arc::new(config))) {
            Ok(()) => self.tell_own("repmgrd_reload", "the configuration was read anew".to_owned()),
            Err(failure) => {
                log::error!("[{}] the configuration stays as it was: {}", failure.class.name(), failure.message)
            }
        }
        self.supervisor.ready();
    }

    /// Goes on with another configuration.
    fn adopt(&mut self, config: Arc<Config>) -> Result<(), Failure> {
        self.crew = Crew::new(&config).map_err(no_thread)?;
        self.clerk.finish(LAST_WORDS);
        self.clerk = Clerk::start(&config).map_err(no_thread)?;
        self.survey = Survey::start(&config).map_err(no_thread)?;
        self.copyist = Copyist::start(&config).map_err(no_thread)?;
        self.config = config;
        self.full_at = Instant::now();
        self.insist = true;
        Ok(())
    }

    /// Tells of something that this daemon did.
    fn tell_own(&self, name: &str, details: String) {
        let node = self.config.local.node.clone();
        self.clerk.hand(Job::Record(Box::new(Event {
            event: name.to_owned(),
            node: node.clone(),
            node_id: self.config.own().id,
            successful: true,
            level: "ok".to_owned(),
            details,
            time: rfc3339(SystemTime::now()),
            observer: node,
            subject: String::new(),
            state: String::new(),
        })));
    }
}

/// The event of a registration that is new, or that changed the role.
fn registered_event(
    view: &View,
    registry: Option<&Registry>,
    name: &str,
    role: &str,
    retires: Option<&str>,
) -> Option<Event> {
    let before = registry.and_then(|registry| registry.node(name)).map(|node| node.role.as_str());
    let details = match (before, retires) {
        (Some(before), None) if before == role => return None,
        (_, Some(other)) => format!("{name} is the primary now; {other} goes out of service"),
        (Some(before), None) => format!("{name}, a {before}, is a {role} now"),
        (None, None) => format!("{name} was not registered yet"),
    };
    Some(Event {
        event: format!("{role}_register"),
        node: name.to_owned(),
        node_id: None,
        successful: true,
        level: "ok".to_owned(),
        details,
        time: view.time.clone(),
        observer: view.observer.clone(),
        subject: String::new(),
        state: String::new(),
    })
}

fn status_line(view: &View, findings: &[Finding]) -> String {
    let primary = view.primary.as_deref().unwrap_or("no primary answers");
    let bad = findings.iter().filter(|finding| finding.level != Level::Ok).count();
    format!("{}: {primary}; {bad} of {} findings are not ok", view.cluster, findings.len())
}

fn no_thread(error: std::io::Error) -> Failure {
    Failure::new(Class::Storage, format!("cannot start a thread: {error}"))
}

/// Looks at this node's own files, in a thread of its own.
struct Survey {
    latest: Arc<Mutex<Option<Report>>>,
    // The thread ends when this is dropped.
    _alive: Sender<()>,
}

impl Survey {
    fn start(config: &Arc<Config>) -> std::io::Result<Survey> {
        let (alive, asked) = channel::<()>();
        let latest = Arc::new(Mutex::new(None));
        let kept = Arc::clone(&latest);
        let config = Arc::clone(config);
        std::thread::Builder::new().name("survey".to_owned()).spawn(move || {
            let mut surveyor = Surveyor::new(&config);
            let step = config.monitor.survey.min(FULL_EVERY);
            let mut stock = Deadline::after(Duration::ZERO);
            loop {
                let whole = stock.expired();
                if whole {
                    stock = Deadline::after(config.monitor.survey);
                }
                let report = surveyor.report(whole);
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
                if asked.recv_timeout(step) == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
            }
        })?;
        Ok(Survey { latest, _alive: alive })
    }

    fn report(&self) -> Option<Report> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
