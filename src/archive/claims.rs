//! Timelines in two phases: claimed in every archive that is reached, and confirmed once the timeline has begun.
//!
//! The claim is made by exclusive creation, so that of two nodes which are promoted at the same time one goes on. It
//! closes the end of the timeline that is left ([`claim`]), so that a primary that comes back finds no place for what
//! it writes from then on. Until it is confirmed, the history of a claimed timeline is served to nobody but the node
//! that claims it; the history of one that was given up never is: in its place goes one that leads nowhere, so that
//! PostgreSQL neither follows it nor takes its number again.

use std::io::{Cursor, Read};

use super::ArchiveError;
use super::layout;
use super::places::Archive;
use super::spool::{Spool, remove_if_there};
use crate::store::claim::{self, Claim, State};
use crate::store::{Encoding, Payload, Published, StoreError};
use crate::system::durable;
use crate::wal::{TimelineId, WalName};

/// How making a claim ended in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// It is ours, now or since an earlier try.
    Ours,
    /// Somebody else has claimed the timeline.
    Others(Claim),
    /// The timeline has begun already: its history is there.
    Begun,
}

/// Every claim in an archive, oldest timeline first.
pub fn all(archive: &Archive) -> Result<Vec<Claim>, ArchiveError> {
    Ok(claim::all(&*archive.store)?)
}

/// The claim to a timeline, if anybody made one.
pub fn of(archive: &Archive, timeline: TimelineId) -> Result<Option<Claim>, ArchiveError> {
    let path = Claim::path(timeline);
    let Some(file) = archive.store.open(&path)? else { return Ok(None) };
    let read = Claim::parse(file).map(Some);
    Ok(read.map_err(|error| StoreError::from_read(archive.store.place(), path.as_str(), error))?)
}

/// Claims a timeline in one archive, or finds who did. May be repeated.
pub fn make(archive: &Archive, spool: &Spool, claim: &Claim) -> Result<Made, ArchiveError> {
    if archive.store.look(&layout::history(claim.timeline))?.is_some() {
        return Ok(Made::Begun);
    }
    if copy(archive, spool, claim)? {
        return Ok(Made::Ours);
    }
    match of(archive, claim.timeline)? {
        Some(found) if found.id == claim.id => Ok(Made::Ours),
        Some(found) => Ok(Made::Others(found)),
        // Whoever had it has just withdrawn it.
        None => make(archive, spool, claim),
    }
}

/// Puts a claim into an archive that has none to its timeline, whoever made it. False where there is one.
pub fn copy(archive: &Archive, spool: &Spool, claim: &Claim) -> Result<bool, ArchiveError> {
    let folder = spool.outgoing();
    spool.make(&folder)?;
    let draft = folder.join(format!("claim.{}", std::process::id()));
    durable::replace(&draft, &claim.to_json()).map_err(ArchiveError::io("write", &draft))?;
    let payload = Payload::of_file(&draft, Encoding::None).map_err(ArchiveError::io("read", &draft))?;
    let published = archive.store.publish(&Claim::path(claim.timeline), &payload, &[]);
    remove_if_there(&draft).map_err(ArchiveError::io("remove", &draft))?;
    Ok(published? == Published::New)
}

/// Writes down what has become of our own claim; refuses where it is not ours any more.
pub fn update(archive: &Archive, claim: &Claim) -> Result<(), ArchiveError> {
    match of(archive, claim.timeline)? {
        Some(found) if found.id == claim.id => {
            Ok(archive.store.replace(&Claim::path(claim.timeline), &claim.to_json())?)
        }
        Some(found) => Err(taken(archive, &found)),
        None => Err(ArchiveError::Refused {
            reason: format!("the claim to timeline {} is gone from the {}", claim.timeline, archive.store.place()),
            hint: "Find out who removed it; until then nobody should be promoted.".to_owned(),
        }),
    }
}

/// The error for a timeline that somebody else has claimed.
pub fn taken(archive: &Archive, found: &Claim) -> ArchiveError {
    ArchiveError::Refused {
        reason: format!("in the {}, {}", archive.store.place(), found.words()),
        hint: format!("Look at node {}: if it is not being promoted any more, give its claim up there.", found.node),
    }
}

/// Gives a claim up: it goes, or where the timeline left a history behind, it stays as void. May be repeated.
pub fn withdraw(archive: &Archive, claim: &Claim) -> Result<(), ArchiveError> {
    let Some(found) = of(archive, claim.timeline)? else { return Ok(()) };
    if found.id != claim.id {
        return Ok(());
    }
    let path = Claim::path(claim.timeline);
    if archive.store.look(&layout::history(claim.timeline))?.is_some() {
        let void = Claim { state: State::Void, ..found };
        return Ok(archive.store.replace(&path, &void.to_json())?);
    }
    archive.store.remove(&path)?;
    Ok(())
}

/// Refuses the history of a timeline that another node has claimed, or that was given up.
pub fn admit(archive: &Archive, name: WalName, writer: &str) -> Result<(), ArchiveError> {
    let WalName::History(timeline) = name else { return Ok(()) };
    match of(archive, timeline)? {
        Some(claim) if claim.state == State::Void || claim.node != writer => {
            let path = layout::history(timeline);
            Err(StoreError::superseded(archive.store.place(), &path, &claim).into())
        }
        _ => Ok(()),
    }
}

/// What is served in place of a history that is there.
pub enum Served {
    /// The history itself.
    Itself,
    /// Nothing: the timeline may still be given up.
    NotYet(Claim),
    /// One that leads nowhere.
    Instead(Box<dyn Read + Send>),
}

/// Whether the history of a timeline is served to a reader.
pub fn serve(archive: &Archive, timeline: TimelineId, reader: &str) -> Result<Served, ArchiveError> {
    Ok(match of(archive, timeline)? {
        Some(claim) if claim.state == State::Claimed && claim.node != reader => Served::NotYet(claim),
        Some(claim) if claim.state == State::Void => {
            let text = format!("# timeline {timeline} was given up by node {} ({})\n", claim.node, claim.at);
            Served::Instead(Box::new(Cursor::new(text.into_bytes())))
        }
        _ => Served::Itself,
    })
}

/// True where a claim in an archive closes it to this file: what lies there all the same came before the claim.
pub fn closes(archive: &Archive, name: WalName) -> Result<bool, ArchiveError> {
    Ok(all(archive)?.iter().any(|claim| claim.refuses(name)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::archive::identity::Identity;
    use crate::store::memory::MemoryStore;
    use crate::store::{Store, StorePath};
    use crate::wal::timeline::TimelineHistory;
    use crate::wal::{Lsn, SegmentSize, SystemId};

    fn archive() -> (Archive, Arc<MemoryStore>, Spool, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("because tests may write there");
        let store = Arc::new(MemoryStore::new());
        let identity = Identity::new("main", SystemId(7), SegmentSize::DEFAULT);
        let spool = Spool::new(folder.path());
        (Archive { store: Arc::clone(&store) as Arc<dyn Store>, identity }, store, spool, folder)
    }

    fn claim(node: &str, id: &str) -> Claim {
        Claim {
            format: 1,
            timeline: TimelineId(2),
            parent: TimelineId(1),
            fork: Some(Lsn(0x500_0100)),
            segment_size: SegmentSize::DEFAULT,
            node: node.to_owned(),
            id: id.to_owned(),
            state: State::Claimed,
            at: "now".to_owned(),
        }
    }

    fn begin(store: &MemoryStore) {
        let path: StorePath = layout::history(TimelineId(2));
        store.replace(&path, b"1\t0/5000100\tno recovery target specified\n").expect("because the store works");
    }

    #[test]
    fn one_of_two_gets_the_timeline() -> Result<(), ArchiveError> {
        let (archive, store, spool, _folder) = archive();
        let (ours, theirs) = (claim("beta", "a"), claim("gamma", "b"));
        assert_eq!(make(&archive, &spool, &ours)?, Made::Ours);
        assert_eq!(make(&archive, &spool, &ours)?, Made::Ours);
        assert_eq!(make(&archive, &spool, &theirs)?, Made::Others(ours.clone()));
        assert!(update(&archive, &theirs).is_err());
        withdraw(&archive, &theirs)?;
        assert_eq!(of(&archive, TimelineId(2))?, Some(ours.clone()));
        withdraw(&archive, &ours)?;
        assert_eq!(make(&archive, &spool, &theirs)?, Made::Ours);
        begin(&store);
        assert_eq!(make(&archive, &spool, &ours)?, Made::Begun);
        Ok(())
    }

    #[test]
    fn a_history_is_served_to_all_only_once_it_is_confirmed() -> Result<(), ArchiveError> {
        let (archive, store, spool, _folder) = archive();
        let mut ours = claim("beta", "a");
        make(&archive, &spool, &ours)?;
        begin(&store);
        let history = WalName::History(TimelineId(2));
        assert!(admit(&archive, history, "beta").is_ok());
        assert!(admit(&archive, history, "gamma").is_err());
        let serve = |reader| serve(&archive, TimelineId(2), reader);
        assert!(matches!(serve("gamma")?, Served::NotYet(_)));
        assert!(matches!(serve("beta")?, Served::Itself));
        ours.state = State::Confirmed;
        update(&archive, &ours)?;
        assert!(matches!(serve("gamma")?, Served::Itself));
        Ok(())
    }

    #[test]
    fn what_was_given_up_after_it_began_leads_nowhere_and_keeps_its_number() -> Result<(), ArchiveError> {
        let (archive, store, spool, _folder) = archive();
        let ours = claim("beta", "a");
        make(&archive, &spool, &ours)?;
        begin(&store);
        withdraw(&archive, &ours)?;
        assert_eq!(of(&archive, TimelineId(2))?.map(|claim| claim.state), Some(State::Void));
        let Served::Instead(mut text) = serve(&archive, TimelineId(2), "gamma")? else {
            panic!("it must not be served")
        };
        let mut read = String::new();
        text.read_to_string(&mut read).expect("because it lies in memory");
        let history = TimelineHistory::parse(TimelineId(2), &read).expect("because PostgreSQL must read it");
        assert!(!history.contains(TimelineId(1)));
        assert!(admit(&archive, WalName::History(TimelineId(2)), "beta").is_err());
        Ok(())
    }
}
