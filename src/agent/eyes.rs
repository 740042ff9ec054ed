//! Looks at the own server and at what the cluster keeps about the others, and says there what was seen.
//!
//! What is published is best effort: an attribute that cannot be set is a warning, for no server is worse for it. What
//! is read is not: an attribute that cannot be read is unknown, never absent.

use std::path::PathBuf;
use std::sync::Arc;

use super::cluster::{Ask, Cluster, Life};
use super::judge::{self, Candidate, Data, Found, Score, Sender, Status};
use super::parameters::{Name, Parameters, RepMode};
use crate::config::{Config, Node, NodeKind, Source};
use crate::error::{Class, Failure};
use crate::failover::observation::{Contact, View};
use crate::failover::observe::{contact, view};
use crate::postgres::connection::{Connection, Statement, connect};
use crate::postgres::conninfo::Conninfo;
use crate::postgres::control::{ClusterState, ControlFile};
use crate::postgres::error::PostgresError;
use crate::postgres::facts::{column, lsn};
use crate::postgres::own_settings;
use crate::postgres::server::{self, Server};

const SENDERS: Statement = Statement { name: "agent_senders", text: include_str!("../../sql/agent_senders.sql") };

/// The attributes of a node, behind the resource's name.
pub const STATUS: &str = "status";
const DATA: &str = "data-status";
pub const LOCATION: &str = "xlog-loc";
pub const BASELINE: &str = "master-baseline";
const RECEIVER: &str = "receiver-status";

/// An agent at work.
pub struct Agent {
    pub parameters: Parameters,
    pub config: Arc<Config>,
    /// The shared configuration, for other nodes to read.
    pub shared: PathBuf,
    pub server: Server,
    /// Every node that takes part.
    pub names: Vec<Name>,
    cluster: Box<dyn Cluster>,
}

/// Loads the configuration with what the parameters lay over it.
pub fn load(parameters: &mut Parameters) -> Result<(Config, PathBuf), Failure> {
    let wrong = |error: crate::config::ConfigError| {
        let problem = error.problems.first();
        let text = problem.map_or_else(|| "it is wrong".to_owned(), ToString::to_string);
        let failure = Failure::new(Class::Config, text);
        match problem.and_then(|problem| problem.hint.clone()) {
            Some(hint) => failure.hinted(hint),
            None => failure,
        }
    };
    let mut source: Source = parameters.source.clone();
    let (mut config, origins) = Config::load_with_origins(&source).map_err(wrong)?;
    if !parameters.own.is_empty() {
        let node = &config.local.node;
        source.set.extend(parameters.own.iter().map(|(key, value)| format!("node.{node}.{key}={value}")));
        parameters.own.clear();
        config = Config::load(&source).map_err(wrong)?;
    }
    parameters.source = source;
    let shared = origins.shared.path;
    let shared = std::path::absolute(&shared).unwrap_or(shared);
    parameters.source.file = Some(shared.clone());
    Ok((config, shared))
}

impl Agent {
    /// An agent that asks this cluster.
    pub fn new(mut parameters: Parameters, cluster: Box<dyn Cluster>) -> Result<Agent, Failure> {
        let (config, shared) = load(&mut parameters)?;
        let server = Server::new(&config, config.own())?;
        let database =
            |node: &&Node| node.kind != NodeKind::Witness && (node.conninfo.is_some() || node.pgdata.is_some());
        let all = || {
            config.nodes.iter().filter(database).map(|node| Name { member: node.name.clone(), node: node.name.clone() })
        };
        let names = parameters.names.clone().unwrap_or_else(|| all().collect());
        Ok(Agent { parameters, config: Arc::new(config), shared, server, names, cluster })
    }

    /// This node as the cluster manager calls it.
    pub fn member(&self) -> String {
        let told = self.parameters.member.clone();
        let listed = self.names.iter().find(|name| name.node == self.config.local.node).map(|name| name.member.clone());
        told.or(listed).unwrap_or_else(|| self.config.local.node.clone())
    }

    /// Every other node.
    pub fn others(&self) -> impl Iterator<Item = &Name> {
        self.names.iter().filter(|name| name.node != self.config.local.node)
    }

    /// The other node that a member is.
    pub fn node_of(&self, member: &str) -> Option<&Node> {
        let name = self.others().find(|name| name.member.eq_ignore_ascii_case(member))?;
        self.config.node(&name.node)
    }

    /// What the own server is.
    pub fn found(&self) -> Result<Found, Failure> {
        let running = match self.server.status()? {
            server::Status::Down => return Ok(Found::Stopped { crashed: self.crashed() }),
            server::Status::Orphans(_) => return Ok(Found::Orphans),
            server::Status::Running(running) => running,
        };
        let recovers = own_settings::signal(self.server.pgdata())?.is_some();
        Ok(match self.connect().and_then(|mut session| session.is_in_recovery()) {
            Ok(true) => Found::Standby,
            Ok(false) => Found::Primary,
            // One that lets nobody in any more, for whatever reason, is not dead.
            Err(error) if running.ready && error.proves_alive() => {
                log::warn!("the server is there and cannot be asked: {}", Failure::of(&error).message);
                if recovers { Found::Standby } else { Found::Primary }
            }
            Err(_) if running.standby || !running.ready => Found::Waiting,
            Err(_) => Found::Mute,
        })
    }

    /// A primary that did not shut down.
    fn crashed(&self) -> bool {
        let pgdata = self.server.pgdata();
        let recovers = own_settings::signal(pgdata).is_ok_and(|signal| signal.is_some());
        !recovers && ControlFile::read(pgdata).is_ok_and(|control| control.state == ClusterState::InProduction)
    }

    /// A session with the own server.
    pub fn connect(&self) -> Result<Connection, PostgresError> {
        let conninfo = self.config.own().conninfo.clone().unwrap_or_default();
        connect(&Conninfo::parse(&conninfo)?, self.config.failover.contact, "pgsql-agent")
    }

    /// What the files and the server say of themselves.
    pub fn view(&self) -> Result<View, Failure> {
        view::look(&self.config, self.config.own()).map_err(|why| Failure::new(Class::Storage, why))
    }

    /// Every other node's server, asked at the same time, with the node it is.
    pub fn contacts(&self) -> Vec<(&Node, Option<Contact>)> {
        let nodes: Vec<&Node> = self.others().filter_map(|name| self.config.node(&name.node)).collect();
        std::thread::scope(|scope| {
            let ask = |node| (node, scope.spawn(move || contact::contact(&self.config, node)));
            let asked: Vec<_> = nodes.into_iter().map(ask).collect();
            let said = |handle: std::thread::ScopedJoinHandle<'_, crate::failover::observation::Fact<Contact>>| {
                handle.join().ok().and_then(|fact| fact.is().cloned())
            };
            asked.into_iter().map(|(node, handle)| (node, said(handle))).collect()
        })
    }

    /// The node that takes writes, where one does.
    pub fn primary(&self) -> Option<&Node> {
        let found = self.contacts().into_iter().find(|(_, contact)| *contact == Some(Contact::Primary));
        found.map(|(node, _)| node)
    }

    /// Asks the cluster manager.
    pub fn ask(&self, ask: &Ask) -> Result<Option<String>, Failure> {
        self.cluster.ask(ask)
    }

    fn name(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.parameters.resource)
    }

    fn life(suffix: &str) -> Life {
        if suffix == DATA { Life::Forever } else { Life::Reboot }
    }

    /// An attribute of a member.
    pub fn get(&self, member: &str, suffix: &str) -> Result<Option<String>, Failure> {
        let (member, name) = (member.to_owned(), self.name(suffix));
        self.ask(&Ask::Get { member, name, life: Agent::life(suffix) })
    }

    /// Sets an attribute of a member, or takes it away; nothing is written that is there already.
    pub fn put(&self, member: &str, suffix: &str, value: Option<&str>) {
        self.set(member, self.name(suffix), Agent::life(suffix), value);
    }

    /// Says what a member is worth.
    pub fn score(&self, member: &str, score: Score) {
        self.set(member, format!("master-{}", self.parameters.resource), Life::Reboot, Some(&score.to_string()));
    }

    fn set(&self, member: &str, name: String, life: Life, value: Option<&str>) {
        let member = member.to_owned();
        let before = self.ask(&Ask::Get { member: member.clone(), name: name.clone(), life });
        if before.is_ok_and(|before| before.as_deref() == value) {
            return;
        }
        let value = value.map(str::to_owned);
        if let Err(failure) = self.ask(&Ask::Put { member, name: name.clone(), life, value }) {
            log::warn!("'{name}' cannot be set: {}", failure.message);
        }
    }

    /// Says what this node is.
    pub fn say(&self, status: Status) {
        self.put(&self.member(), STATUS, Some(&status.to_string()));
    }

    /// Tells the cluster manager what was found; changes no server but the own one's list of whom commits wait for.
    /// Returns the primary, where this is a standby that is not even set to stream from it.
    pub fn publish(&self, found: Found) -> Result<Option<&Node>, Failure> {
        match found {
            Found::Primary => self.publish_as_primary().map(|()| None),
            Found::Standby | Found::Waiting => self.publish_as_standby(),
            Found::Stopped { .. } | Found::Orphans | Found::Mute => Ok(None),
        }
    }

    /// The primary, where this is a standby that streams from nobody and is not set to stream from it.
    pub fn astray(&self) -> Result<Option<&Node>, Failure> {
        let view = self.view()?;
        if view.receiver.is_some() {
            return Ok(None);
        }
        Ok(self.primary().filter(|node| view.follows.as_ref() != Some(&node.name)))
    }

    fn publish_as_primary(&self) -> Result<(), Failure> {
        let member = self.member();
        self.say(Status::Primary);
        self.put(&member, LOCATION, None);
        self.put(&member, DATA, Some(&Data::Latest.to_string()));
        self.score(&member, Score::Of(judge::PRIMARY));
        let senders = senders(&mut self.connect()?)?;
        let nodes: Vec<String> = self.others().map(|name| name.node.clone()).collect();
        if self.parameters.mode.promotable() {
            self.wait_for(&nodes, &senders)?;
        }
        for verdict in judge::classify(self.parameters.mode, &nodes, &senders) {
            let Some(name) = self.others().find(|name| name.node == verdict.node) else { continue };
            self.put(&name.member, DATA, Some(&verdict.data.to_string()));
            self.score(&name.member, verdict.score);
            // Who says itself that it stops is not contradicted.
            let said = self.get(&name.member, STATUS)?.and_then(|word| Status::of(&word));
            if !matches!(said, None | Some(Status::Stop | Status::Unknown)) {
                self.put(&name.member, STATUS, Some(&verdict.status.to_string()));
            }
        }
        Ok(())
    }

    /// Has commits wait for every standby that streams, or for nobody.
    fn wait_for(&self, nodes: &[String], senders: &[Sender]) -> Result<(), Failure> {
        const SETTING: &str = "synchronous_standby_names";
        let pgdata = self.server.pgdata();
        let mut own = own_settings::read(pgdata)?;
        let wanted = match self.parameters.mode {
            RepMode::Sync => judge::sync_names(&judge::wait_for(nodes, senders)),
            // What somebody set by hand stays; what we set once does not.
            _ if own.contains_key(SETTING) => String::new(),
            _ => return Ok(()),
        };
        if own.get(SETTING) == Some(&wanted) {
            return Ok(());
        }
        log::info!("{SETTING} is '{wanted}' now");
        own.insert(SETTING.to_owned(), wanted);
        own_settings::write(pgdata, &own)?;
        Ok(self.server.reload()?)
    }

    fn publish_as_standby(&self) -> Result<Option<&Node>, Failure> {
        let member = self.member();
        let view = self.view()?;
        let at = (view.history.timeline.0, view.wal_end);
        self.put(&member, LOCATION, Some(&judge::location(at)));
        let receives = view.receiver.is_some();
        if self.parameters.check_receiver {
            self.put(&member, RECEIVER, Some(if receives { "normal" } else { "ERROR" }));
        }
        let contacts = self.contacts();
        if receives && !is_cascade(&view, &contacts) {
            // The primary says the rest; that it is back, a node says itself.
            let said = self.get(&member, STATUS)?.and_then(|word| Status::of(&word));
            if matches!(said, None | Some(Status::Stop | Status::Unknown | Status::Primary)) {
                self.say(Status::Alone);
            }
            return Ok(None);
        }
        self.say(Status::Alone);
        if let Some((node, _)) = contacts.iter().find(|(_, contact)| *contact == Some(Contact::Primary)) {
            log::warn!("{} takes writes, and this server does not stream from it", node.name);
            return Ok(Some(*node).filter(|node| view.follows.as_ref() != Some(&node.name)));
        }
        let own = Candidate { node: self.config.local.node.clone(), data: self.data(&member)?, at: Some(at) };
        let others: Result<Vec<Candidate>, Failure> = self.others().map(|name| self.candidate(name)).collect();
        self.score(&member, judge::alone(self.parameters.mode, &own, &others?));
        Ok(None)
    }

    fn data(&self, member: &str) -> Result<Option<Data>, Failure> {
        Ok(self.get(member, DATA)?.and_then(|words| Data::of(&words)))
    }

    fn candidate(&self, name: &Name) -> Result<Candidate, Failure> {
        let at = self.get(&name.member, LOCATION)?.and_then(|text| judge::parse_location(&text));
        Ok(Candidate { node: name.node.clone(), data: self.data(&name.member)?, at })
    }

    /// Before a node takes writes, what the others hold is the latest no more.
    pub fn devalue_others(&self) {
        for name in self.others() {
            self.put(&name.member, DATA, Some(&Data::Disconnect.to_string()));
            self.score(&name.member, Score::Never);
        }
    }
}

/// True where the server streams from another standby.
fn is_cascade(view: &View, contacts: &[(&Node, Option<Contact>)]) -> bool {
    let from = view.receiver.as_ref().and_then(|receiver| receiver.from.as_ref());
    let standby = |contact: &Option<Contact>| matches!(contact, Some(Contact::Standby { .. }));
    contacts.iter().any(|(node, contact)| Some(&node.name) == from && standby(contact))
}

fn senders(session: &mut Connection) -> Result<Vec<Sender>, Failure> {
    let wrong = |error: String| Failure::new(Class::Postgres, error);
    let read = |row| -> Result<Sender, String> {
        Ok(Sender {
            name: column(row, "name")?,
            state: column(row, "state")?,
            sync: column(row, "sync")?,
            flushed: lsn(row, "flushed")?,
        })
    };
    session.query(&SENDERS, &[])?.iter().map(read).collect::<Result<_, _>>().map_err(wrong)
}
