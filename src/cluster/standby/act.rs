//! Takes the steps of a plan, one after the other, each written down before it begins and after it is done.
//!
//! Every step may be taken again: a run that was killed goes on at the step that the journal names. What cannot be
//! undone looks once more before it is done.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::copy::{self, Order};
use super::facts::{Data, Directory, Slot};
use super::journal::{Entry, Journal};
use super::proof::{self, Proof};
use super::rejoin::{aside, rewind};
use super::request::Job;
use super::step::{Goal, Move, Space, Step};
use super::{ConfigurationSet, Set, StandbyError, ask, configuration, configuration_set, door, observe};
use crate::archive::places::Sites;
use crate::archive::spool::Spool;
use crate::backup::Watcher;
use crate::config::{Config, Node};
use crate::postgres::own_settings::{self, Overridden, Signal};
use crate::postgres::server::{Server, Status};
use crate::system::clock::Deadline;
use crate::system::durable::{self, Publication, TemporaryFile};
use crate::wal::{TimelineId, WalName};

/// What an archiver that is not ours may set otherwise.
const MAY_DIFFER: &[&str] = &["archive_mode", "archive_command", "archive_cleanup_command"];

/// Takes steps.
pub struct Actor<'a> {
    /// The configuration.
    pub config: &'a Arc<Config>,
    /// Its archives.
    pub sites: &'a Sites,
    /// Where it is written down.
    pub journal: &'a Journal,
    /// Who is told how far it is.
    pub watcher: &'a dyn Watcher,
    /// How many files are worked on at once.
    pub jobs: usize,
    /// At most so many bytes a second are copied; 0: no limit.
    pub rate: u64,
}

/// What the steps brought to light.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Acted {
    /// What is kept aside.
    pub kept: Option<aside::Summary>,
    /// That it works; none for a standby that lies cold.
    pub proof: Option<Proof>,
}

impl Actor<'_> {
    /// Takes every step that is not done.
    pub fn act(&self, entry: &mut Entry) -> Result<Acted, StandbyError> {
        let mut acted = Acted::default();
        self.start_again(entry)?;
        while let Some(step) = entry.steps.get(entry.done).cloned() {
            entry.at_work = true;
            self.journal.write(entry)?;
            log::info!("{step}");
            self.watcher.phase(&step.to_string());
            self.take(&step, entry, &mut acted)?;
            (entry.done, entry.at_work) = (entry.done + 1, false);
            self.journal.write(entry)?;
        }
        self.journal.close()?;
        Ok(acted)
    }

    /// A run that goes on may find a server down that an earlier one has started: a machine that was switched off, or
    /// somebody who has mended something. Waiting for it would be in vain.
    fn start_again(&self, entry: &Entry) -> Result<(), StandbyError> {
        let (before, now) = entry.steps.split_at(entry.done.min(entry.steps.len()));
        let started = matches!(now.first(), Some(Step::Prove { .. })) && before.contains(&Step::Start);
        let server = self.server()?;
        let standby = || Ok::<_, StandbyError>(own_settings::signal(server.pgdata())? == Some(Signal::Standby));
        if started && server.status()? == Status::Down && standby()? {
            log::info!("{} again", Step::Start);
            return self.start();
        }
        Ok(())
    }

    /// Undoes what a run that failed has left, as long as nothing has taken its place yet.
    pub fn undo(&self, entry: &Entry) -> Result<(), StandbyError> {
        if entry.in_place() {
            return Ok(());
        }
        copy::clear(&entry.unfinished())?;
        if let Some((node, slot)) = &entry.made_slot {
            ask::drop_slot(self.config, self.node(node)?, slot)?;
        }
        self.journal.close()
    }

    fn take(&self, step: &Step, entry: &mut Entry, acted: &mut Acted) -> Result<(), StandbyError> {
        match step {
            Step::MakeSlot { node, slot } => {
                if ask::slot(self.config, self.node(node)?, slot)? != Slot::Absent {
                    return Ok(());
                }
                // Written down first: nobody else would know whose it is.
                entry.made_slot = Some((node.clone(), slot.clone()));
                self.journal.write(entry)?;
                ask::make_slot(self.config, self.node(node)?, slot)
            }
            Step::Clone { node, folder, spaces } => self.clone_server(node, folder, spaces, entry),
            Step::Restore { place, label, folder, spaces, delta, settings } => {
                let drop_wal = matches!(entry.request.job, Job::Rejoin(_));
                let wanted = copy::Wanted { place, label, delta: *delta, drop_wal };
                let settle = || self.configure(folder, true, settings);
                self.order(folder, spaces).restore(self.sites, &wanted, self.jobs, &settle)
            }
            Step::KeepAside { from } => {
                acted.kept = aside::keep(self.server()?.pgdata(), &self.data()?, *from, &self.spool())?;
                if let Some(kept) = &acted.kept {
                    let (count, folder) = (kept.transactions, kept.folder.display());
                    log::warn!("{count} transactions that the primary never had are kept in '{folder}'");
                }
                Ok(())
            }
            Step::RemoveSurplus { from } => {
                self.must_be_down()?;
                aside::remove(self.server()?.pgdata(), &self.data()?, *from, &self.spool())
            }
            Step::Recover => {
                self.must_be_down()?;
                rewind::recover(self.config, &self.server()?)
            }
            Step::Rewind { node, archive } => self.rewind(node, *archive),
            Step::PutHistory { timeline, text, .. } => self.put_history(*timeline, text),
            Step::Configure { folder, copied, settings } => self.configure(folder, *copied, settings),
            Step::Exchange { moves, spaces } => {
                self.must_be_down()?;
                moves.iter().try_for_each(exchange)?;
                relink(self.server()?.pgdata(), spaces)
            }
            Step::Start => self.start(),
            Step::Reload => {
                self.settings_must_hold()?;
                Ok(self.server()?.reload()?)
            }
            Step::Prove { goal } => {
                acted.proof = Some(self.prove(goal)?);
                Ok(())
            }
            Step::RemoveOld { folders } => folders.iter().try_for_each(|folder| remove(folder)),
            Step::DropSlot { node, slot } => {
                // Whoever was followed before may be gone; its slot goes with it.
                if let Err(error) = self.node(node).and_then(|node| ask::drop_slot(self.config, node, slot)) {
                    log::warn!(
                        "the slot '{slot}' on {node} keeps WAL there and could not be dropped: {error}; do it: {}",
                        ask::dropping(slot)
                    );
                }
                Ok(())
            }
        }
    }

    fn server(&self) -> Result<Server, StandbyError> {
        Ok(Server::new(self.config, self.config.own())?)
    }

    fn spool(&self) -> Spool {
        Spool::new(&self.config.local.spool)
    }

    fn node(&self, name: &str) -> Result<&Node, StandbyError> {
        self.config
            .node(name)
            .ok_or_else(|| StandbyError::refused(format!("there is no node '{name}'"), "Correct the configuration."))
    }

    /// The data directory as it is now.
    fn data(&self) -> Result<Data, StandbyError> {
        let server = self.server()?;
        match observe::look(server.pgdata())? {
            Directory::Data(data) => Ok(*data),
            _ => Err(StandbyError::refused(
                format!("there is no data directory '{}' any more", server.pgdata().display()),
                "Look at who moved it.",
            )),
        }
    }

    fn must_be_down(&self) -> Result<(), StandbyError> {
        let server = self.server()?;
        match server.status()? {
            Status::Down => Ok(()),
            _ => Err(StandbyError::refused(
                format!("a server was started on '{}' meanwhile", server.pgdata().display()),
                "Stop it, then run this again: it goes on here.",
            )),
        }
    }

    fn order<'a>(&'a self, folder: &'a Path, spaces: &'a [Space]) -> Order<'a> {
        Order { config: self.config, folder, spaces, watcher: self.watcher }
    }

    fn clone_server(&self, node: &str, folder: &Path, spaces: &[Space], entry: &Entry) -> Result<(), StandbyError> {
        copy::clear(&entry.unfinished())?;
        let deadline = self.config.standby.copy_deadline;
        self.order(folder, spaces).clone_server(self.node(node)?, self.rate, deadline)
    }

    fn configure(&self, folder: &Path, copied: bool, settings: &BTreeMap<String, String>) -> Result<(), StandbyError> {
        match configuration_set(self.config, Set::Standby)? {
            Some(set) => ConfigurationSet::install(&set, folder)?,
            None if copied => configuration::uninstall(folder)?,
            None => {}
        }
        own_settings::write(folder, settings)?;
        if copied {
            own_settings::adopt_copy(folder)?;
        }
        own_settings::put_signal(folder, Signal::Standby)?;
        door::open(folder)
    }

    fn put_history(&self, timeline: TimelineId, text: &str) -> Result<(), StandbyError> {
        let folder = self.server()?.pgdata().join("pg_wal");
        let name = WalName::History(timeline).to_string();
        let wrong = || StandbyError::io("write a history into", &folder);
        let mut file = TemporaryFile::create_in(&folder).map_err(wrong())?;
        std::io::Write::write_all(file.file_mut(), text.as_bytes()).map_err(wrong())?;
        match file.publish_new(&name).map_err(wrong())? {
            Publication::Published => log::debug!("put '{name}' into pg_wal"),
            Publication::Occupied => log::debug!("'{name}' is in pg_wal already"),
        }
        Ok(())
    }

    fn rewind(&self, node: &str, archive: bool) -> Result<(), StandbyError> {
        self.must_be_down()?;
        let (server, source) = (self.server()?, self.node(node)?);
        let config: &Config = self.config;
        let rewind = rewind::Rewind { config, server: &server, source, archive, watcher: self.watcher };
        let stage = rewind.stage()?;
        if stage == rewind::Stage::Fresh {
            rewind.rehearse()?;
        }
        rewind.run(stage)
    }

    /// What we set must be what the server reads.
    fn settings_must_hold(&self) -> Result<(), StandbyError> {
        let server = self.server()?;
        let file = server.config_file();
        if !file.exists() {
            return Err(StandbyError::refused(
                format!("there is no '{}': the server that was copied keeps its settings elsewhere", file.display()),
                format!(
                    "Put one there, or name it with node.{}.config_file; then run this again.",
                    self.config.local.node
                ),
            ));
        }
        let lost = own_settings::overridden(&file, server.pgdata())?;
        let Some(Overridden { name, by }) = lost.into_iter().find(|it| !MAY_DIFFER.contains(&it.name.as_str())) else {
            return Ok(());
        };
        let hint = match &by {
            Some(by) => format!("Take it out of line {} of '{}', then run this again.", by.line, by.file.display()),
            None => format!("Put this line at the end of it: {}", own_settings::include_line(server.pgdata())),
        };
        Err(StandbyError::refused(format!("'{name}' of our settings does not hold with '{}'", file.display()), hint))
    }

    fn start(&self) -> Result<(), StandbyError> {
        let server = self.server()?;
        if let Status::Running(running) = server.status()?
            && (running.ready || running.standby)
        {
            return Ok(());
        }
        self.settings_must_hold()?;
        let log = self.spool().root().join("server-start.log");
        server.start(&log, &[], Deadline::after(self.config.standby.deadline))?;
        Ok(())
    }

    fn prove(&self, goal: &Goal) -> Result<Proof, StandbyError> {
        proof::prove(self.config, &self.server()?, goal, self.config.standby.deadline, self.watcher)
    }
}

/// Puts a new directory in the place of an old one; taken again, it goes on where it was.
fn exchange(it: &Move) -> Result<(), StandbyError> {
    let exists = |path: &PathBuf| path.try_exists().map_err(StandbyError::io("look up", path));
    if !exists(&it.fresh)? {
        return Ok(());
    }
    if exists(&it.place)? && !exists(&it.old)? {
        rename(&it.place, &it.old)?;
    }
    rename(&it.fresh, &it.place)
}

fn rename(from: &Path, to: &Path) -> Result<(), StandbyError> {
    fs::rename(from, to).map_err(StandbyError::io("move away", from))?;
    let folder = to.parent().unwrap_or(Path::new("/"));
    durable::sync_directory(folder).map_err(StandbyError::io("make durable", folder))
}

/// Lets the links of a data directory lead to where its tablespaces belong.
fn relink(pgdata: &Path, spaces: &[Space]) -> Result<(), StandbyError> {
    for space in spaces {
        let link = pgdata.join(format!("pg_tblspc/{}", space.oid));
        if fs::read_link(&link).is_ok_and(|place| place == space.place) {
            continue;
        }
        let half = pgdata.join(format!("pg_tblspc/{}.half", space.oid));
        crate::archive::spool::remove_if_there(&half).map_err(StandbyError::io("remove", &half))?;
        symlink(&space.place, &half).map_err(StandbyError::io("link", &half))?;
        rename(&half, &link)?;
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<(), StandbyError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StandbyError::io("remove", folder)(error)),
        _ => Ok(()),
    }
}
