//! Keeps the copy of a witness up to date, in a thread of its own: either server may hang.
//!
//! Connections are made anew each time, so that neither server has to keep one for what happens every few seconds.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use crate::cluster::contact;
use crate::config::{Config, NodeKind};
use crate::error::Failure;
use crate::monitor::copy::{Copy, CopyError, Original};
use crate::monitor::records::Records;

/// How long one statement may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the primary is.
struct Primary {
    name: String,
    conninfo: String,
}

/// The way to the thread; it ends when this is dropped.
pub struct Copyist(Option<SyncSender<Primary>>);

impl Copyist {
    /// Starts it, where this node is a witness with a server of its own.
    pub fn start(config: &Arc<Config>) -> std::io::Result<Copyist> {
        let own = config.own();
        let Some(conninfo) = contact::text(config, &own.name).filter(|_| own.kind == NodeKind::Witness) else {
            return Ok(Copyist(None));
        };
        let config = Arc::clone(config);
        // One copy waits at most: the next one would be the same.
        let (tell, told) = sync_channel(1);
        std::thread::Builder::new().name("copy".to_owned()).spawn(move || {
            let (mut known, mut trouble) = (None, None);
            while let Ok(primary) = told.recv() {
                let failed = copy(&config, &conninfo, &primary, &mut known).err().map(Failure::from);
                let words =
                    failed.map(|it| it.hint.map_or(it.message.clone(), |hint| format!("{}; {hint}", it.message)));
                // What fails again in the same way is said once.
                if let Some(words) = words.as_ref().filter(|words| trouble.as_ref() != Some(*words)) {
                    log::warn!("the copy of the registry stays as it is: {words}");
                }
                trouble = words;
            }
        })?;
        Ok(Copyist(Some(tell)))
    }

    /// True where there is something to do.
    pub fn is_at_work(&self) -> bool {
        self.0.is_some()
    }

    /// Has a copy made of what this primary has; never waits.
    pub fn hand(&self, name: &str, conninfo: &str) {
        if let Some(tell) = &self.0 {
            // One that is under way holds up the next.
            let _ = tell.try_send(Primary { name: name.to_owned(), conninfo: conninfo.to_owned() });
        }
    }
}

fn copy(config: &Config, own: &str, primary: &Primary, known: &mut Option<String>) -> Result<(), CopyError> {
    let witness = &config.local.node;
    let purpose = format!("cluster-monitor {witness} copy");
    let original = Original::read(&primary.name, &mut Records::open(&primary.conninfo, PATIENCE, &purpose)?)?;
    let mut there = Records::open(own, PATIENCE, &purpose)?;
    let copy = Copy { witness, cluster: &config.cluster.name, force: false };
    copy.write(&original, there.connection(), known)
}
