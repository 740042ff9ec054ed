//! One file on its way to its places: what it is, who holds it already, and the sending itself.
//!
//! What is kept between tries is a cache: it saves compressing again and sending again to places that hold the file.

use std::fs;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::ArchiveError;
use super::claims;
use super::dispute;
use super::encode::Stamp;
use super::layout;
use super::places::Site;
use super::spool::{Spool, remove_if_there};
use crate::error::{Class, Explain, Failure};
use crate::store::ship::{self, ShipError};
use crate::store::{Encoding, Payload};
use crate::system::clock::Deadline;
use crate::wal::{SegmentSize, SystemId, WalName};

/// The word of a place that it holds a file counts in later tries for so long; then it is sent there again, which
/// proves it. An archive may be gone meanwhile, and another be made in its place.
const HOLDS: Duration = Duration::from_secs(600);

/// One file on its way.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The file.
    pub name: WalName,
    /// The state of the source that the payload was made from.
    pub stamp: Stamp,
    /// What is sent.
    pub payload: Payload,
    /// The nodes whose archives hold it.
    pub stored: Vec<String>,
    /// None of them has said so before then.
    since: SystemTime,
}

/// What is kept between tries.
#[derive(Serialize, Deserialize)]
struct Kept {
    stamp: Stamp,
    encoding: Encoding,
    /// What was encoded; a payload that a crash cut short does not match it.
    sha256: [u8; 32],
    stored: Vec<String>,
    since: SystemTime,
    /// The configuration that `stored` speaks of: another one may mean another archive by the same node name.
    fingerprint: u64,
}

impl Delivery {
    /// A file that no place holds yet.
    pub fn new(name: WalName, stamp: Stamp, payload: Payload) -> Self {
        Delivery { name, stamp, payload, stored: Vec::new(), since: SystemTime::now() }
    }

    /// True where the node's archive holds the file.
    pub fn is_stored(&self, node: &str) -> bool {
        self.stored.iter().any(|stored| stored == node)
    }
}

/// Sends to all sites at once and waits for each until the deadline; one that hangs does not hold up the others.
pub fn send(
    delivery: &Delivery,
    sites: &[Arc<Site>],
    whose: Option<(SystemId, SegmentSize)>,
    retry: Duration,
    deadline: Deadline,
) -> Vec<Result<(), ArchiveError>> {
    if let [only] = sites
        && only.own
    {
        return vec![send_to(only, delivery.name, &delivery.payload, whose, retry)];
    }
    let begun = deadline.remaining();
    let waiting: Vec<_> = sites
        .iter()
        .map(|site| {
            let (done, wait) = mpsc::channel();
            let (site, name, payload) = (Arc::clone(site), delivery.name, delivery.payload.clone());
            std::thread::spawn(move || {
                // Nobody listens any more once the deadline has passed.
                let _ = done.send(send_to(&site, name, &payload, whose, retry));
            });
            wait
        })
        .collect();
    let answer = |(site, wait): (&Arc<Site>, mpsc::Receiver<Result<(), ArchiveError>>)| {
        wait.recv_timeout(deadline.remaining()).unwrap_or_else(|_| {
            let waiting_for = format!("the archive of {} did not answer", site.name());
            let error = ArchiveError::Deadline { name: delivery.name, after: begun, waiting_for };
            site.mark_down(&Failure::of(&error));
            Err(error)
        })
    };
    sites.iter().zip(waiting).map(answer).collect()
}

/// Sends to one site, unless it was down a moment ago.
fn send_to(
    site: &Site,
    name: WalName,
    payload: &Payload,
    whose: Option<(SystemId, SegmentSize)>,
    retry: Duration,
) -> Result<(), ArchiveError> {
    if let Some(failure) = site.recently_down(retry) {
        return Err(ArchiveError::Elsewhere(failure));
    }
    let warm = site.opened().is_some();
    let mut sent = try_to_send(site, name, payload, whose);
    if warm && sent.as_ref().is_err_and(|error| error.is_outage() && error.class() == Class::Remote) {
        // A connection that was kept warm may have died long ago; that says nothing of the place.
        site.close();
        sent = try_to_send(site, name, payload, whose);
    }
    match &sent {
        Ok(()) => site.mark_up(),
        Err(error) if error.is_outage() => {
            site.mark_down(&Failure::of(error));
            site.close();
        }
        Err(_) => site.close(),
    }
    sent
}

fn try_to_send(
    site: &Site,
    name: WalName,
    payload: &Payload,
    whose: Option<(SystemId, SegmentSize)>,
) -> Result<(), ArchiveError> {
    let archive = site.archive()?;
    if let Some((system, size)) = whose {
        archive.identity.admit(archive.store.place(), system, size)?;
    }
    claims::admit(&archive, name, site.asked_by())?;
    match ship::ship(&layout::stem(name), payload, &*archive.store) {
        Ok(_) => Ok(()),
        Err(ShipError::Occupied { path, .. }) => dispute::resolve(name, payload, &archive, &path),
        Err(error) => Err(error.into()),
    }
}

/// Finds what an earlier try kept. Anything unreadable is as good as nothing.
pub fn load(spool: &Spool, name: WalName, fingerprint: u64) -> Option<Delivery> {
    let record = spool.outgoing().join(format!("{name}.json"));
    let kept: Kept = serde_json::from_slice(&fs::read(record).ok()?).ok()?;
    let file = spool.outgoing().join(format!("{name}{}", kept.encoding.extension()));
    let payload = Payload::of_file(&file, kept.encoding).ok()?;
    let fits = payload.sha256() == kept.sha256 && kept.fingerprint == fingerprint;
    let fresh = Delivery::new(name, kept.stamp, payload);
    // By a clock that was set back, it was told at any time.
    let holds = SystemTime::now().duration_since(kept.since).is_ok_and(|age| age < HOLDS);
    let delivery = if holds { Delivery { stored: kept.stored, since: kept.since, ..fresh } } else { fresh };
    fits.then_some(delivery)
}

/// Keeps what the next try can use.
pub fn keep(spool: &Spool, delivery: &Delivery, fingerprint: u64) {
    let kept = Kept {
        stamp: delivery.stamp,
        encoding: delivery.payload.encoding,
        sha256: delivery.payload.sha256(),
        fingerprint,
        stored: delivery.stored.clone(),
        since: delivery.since,
    };
    let json = serde_json::to_vec(&kept).expect("because plain data has no reason not to become JSON");
    let name = delivery.name;
    let file = spool.outgoing().join(format!("{name}{}", kept.encoding.extension()));
    let record = spool.outgoing().join(format!("{name}.json"));
    // It is a cache: a failure to keep it costs the next try some time and nothing else.
    let written = delivery.payload.write_file().and_then(|()| fs::rename(&delivery.payload.file, file));
    let _ = written.and_then(|()| fs::write(record, json));
}

/// Removes what is no longer needed; queues hold links of their own.
pub fn forget(spool: &Spool, delivery: &Delivery) {
    // A leftover is swept later.
    let _ = remove_if_there(&delivery.payload.file);
    let record = spool.outgoing().join(format!("{}.json", delivery.name));
    if remove_if_there(&record).unwrap_or(false) {
        // What the record spoke of may be another payload: one that was cut short, or in another encoding.
        for encoding in Encoding::ALL {
            let _ = remove_if_there(&spool.outgoing().join(format!("{}{}", delivery.name, encoding.extension())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_place_said_long_ago_is_asked_again() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        let spool = Spool::new(folder.path());
        fs::create_dir_all(spool.outgoing())?;
        let source = folder.path().join("source");
        fs::write(&source, "wal")?;
        let name: WalName = "000000010000000000000001".parse().expect("because it is a name");
        let payload = Payload::in_memory(spool.outgoing().join("payload"), b"wal".to_vec(), Encoding::None);
        let stamp = Stamp::of_path(&source)?;
        let mut delivery = Delivery::new(name, stamp, payload);
        delivery.stored.push("db2".to_owned());
        keep(&spool, &delivery, 7);
        let mut known = load(&spool, name, 7).expect("because it was kept");
        assert!(known.is_stored("db2"));
        // Each try keeps it anew, and it does not become younger by that.
        known.since -= HOLDS;
        keep(&spool, &known, 7);
        let again = load(&spool, name, 7).expect("because the payload is as good as it was");
        assert!(!again.is_stored("db2") && again.payload.size == 3);
        assert!(load(&spool, name, 8).is_none());
        Ok(())
    }
}
