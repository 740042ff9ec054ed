//! What this node's daemon, or whoever asks without one, says of this node: its archive, its queues, its last drill.
//!
//! Everything here touches disks, which may hang; so it runs in a thread of its own, and whoever waits for it waits for
//! a bounded time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, SystemTime};

use chrono::DateTime;

use super::archive_watch;
use super::report::{ArchiveState, Drill, QueueState, Report};
use crate::archive::ArchiveError;
use crate::archive::drills;
use crate::archive::places::{Site, Sites};
use crate::archive::queue::{self, Queue};
use crate::archive::spool::Spool;
use crate::config::Config;
use crate::error::Failure;

/// Looks at this node's files, and remembers what costs much to find out.
pub struct Surveyor {
    config: Arc<Config>,
    site: Option<Arc<Site>>,
    known: Option<ArchiveState>,
    queues: BTreeMap<String, QueueState>,
    drill: Option<Drill>,
}

impl Surveyor {
    /// Nothing is looked at yet.
    pub fn new(config: &Arc<Config>) -> Surveyor {
        let site = Sites::new(config).get(&config.local.node).cloned();
        Surveyor { config: Arc::clone(config), site, known: None, queues: BTreeMap::new(), drill: None }
    }

    /// The report as things are now. `stock`: list the archive whole; else only follow its end.
    pub fn report(&mut self, stock: bool) -> Report {
        let archive = self.site.clone().map(|site| self.archive(&site, stock));
        if stock || self.drill.is_none() {
            // Where it cannot be read now, what was known stays.
            self.drill = self.site.as_ref().and_then(|site| drilled(site)).or_else(|| self.drill.take());
        }
        self.queues = queues(&Spool::new(&self.config.local.spool), &self.queues);
        let free = self.site.as_ref().and_then(|site| free_percent(site));
        Report {
            pgwarm: env!("CARGO_PKG_VERSION").to_owned(),
            archive,
            queues: self.queues.clone(),
            archive_free: free,
            drill: self.drill.clone(),
        }
    }

    fn archive(&mut self, site: &Site, stock: bool) -> Result<ArchiveState, String> {
        let looked = match self.known.as_mut().filter(|known| !stock && known.tip.is_some()) {
            Some(known) => archive_watch::follow(site, known).map(|()| known.clone()),
            None => archive_watch::take_stock(site),
        };
        match looked {
            Ok(state) => {
                self.known = Some(state.clone());
                Ok(state)
            }
            Err(error) => {
                // A volume that is mounted again is opened anew.
                site.close();
                Err(Failure::from(error).message)
            }
        }
    }
}

/// The last drill.
fn drilled(site: &Site) -> Option<Drill> {
    let drill = drills::standing(&site.opened()?).ok()??.last;
    let at = DateTime::parse_from_rfc3339(&drill.ended).ok()?.timestamp_millis() as f64 / 1000.0;
    let detail = drill.failure.unwrap_or_else(|| format!("restored backup '{}'", drill.label));
    Some(Drill { at, successful: drill.good, detail })
}

fn free_percent(site: &Site) -> Option<f64> {
    let space = site.opened()?.store.space().ok()?;
    (space.total > 0).then(|| space.free as f64 * 100.0 / space.total as f64)
}

/// What waits for whom. Of a queue that cannot be read now, what was known stays: it is not empty for that.
fn queues(spool: &Spool, known: &BTreeMap<String, QueueState>) -> BTreeMap<String, QueueState> {
    let nodes = queue::nodes(spool).unwrap_or_else(|error| {
        log::warn!("which queues there are cannot be told: {}", Failure::from(error).message);
        known.keys().cloned().collect()
    });
    let state = |node: String| {
        let state = waiting(spool, &node).or_else(|error| {
            log::warn!("the queue for {node} cannot be read: {}", Failure::from(error).message);
            known.get(&node).cloned().ok_or(())
        });
        Some((node, state.ok()?))
    };
    nodes.into_iter().filter_map(state).collect()
}

fn waiting(spool: &Spool, node: &str) -> Result<QueueState, ArchiveError> {
    let contents = Queue::new(spool, node).contents()?;
    let age = contents.oldest.and_then(|oldest| SystemTime::now().duration_since(oldest).ok());
    let oldest_age = age.map(|age| age.as_secs_f64());
    Ok(QueueState { files: contents.count, bytes: contents.bytes, oldest_age })
}

/// The report, if it can be had in so long.
pub fn report_within(config: &Arc<Config>, patience: Duration) -> Option<Report> {
    let config = Arc::clone(config);
    let (tell, hear) = channel();
    // Where a disk hangs the thread is left behind; it ends with the program.
    std::thread::spawn(move || {
        // Nobody listens any more where it took too long.
        let _ = tell.send(Surveyor::new(&config).report(true));
    });
    hear.recv_timeout(patience).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_queue_that_cannot_be_read_is_not_an_empty_one() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        let spool = Spool::new(folder.path());
        fs::create_dir_all(spool.queue("db2"))?;
        fs::write(spool.queue("db2").join("000000010000000000000001.zst"), "wal")?;
        let known = queues(&spool, &BTreeMap::new());
        assert_eq!(known.get("db2").map(|queue| (queue.files, queue.bytes)), Some((1, 3)));
        fs::remove_dir_all(spool.queues())?;
        fs::write(spool.queues(), "a file where a folder should be")?;
        assert_eq!(queues(&spool, &known), known);
        fs::remove_file(spool.queues())?;
        assert_eq!(queues(&spool, &known), BTreeMap::new());
        Ok(())
    }
}
