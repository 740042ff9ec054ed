//! What another node is taken for: the answers of its server and of its machine, put together.
//!
//! A node counts as down only by positive evidence: its own machine says so, the machine answers that nobody listens,
//! a fence succeeded, it wrote down that it handed over, or a person vouches for it. Silence is none of these, and none
//! of them counts against a server that says that it takes writes.

use super::observation::{Contact, Other, Serving, View};
use super::rules::{Case, Policy};
use crate::wal::Lsn;

/// What a node is taken for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It takes writes.
    Primary,
    /// Something of it answers, and it may take writes.
    Answers(String),
    /// It takes connections and says nothing; it may go on at any moment.
    Hung(String),
    /// Nothing is known of it.
    Silent(String),
    /// It recovers.
    Standby,
    /// It is stopped, and this is how that is known.
    Down(String),
}

/// Puts together what is known of a node. `fenced`: it is proven to be stopped.
pub fn standing(other: &Other, policy: &Policy, fenced: Option<&str>) -> Standing {
    let contact = other.contact.within(policy.age_max);
    // Each look asks anew, so this came after the fence: somebody has started it again. One that lets nobody in yet may
    // take writes in a moment.
    let lives = matches!(contact, Some(Contact::Primary | Contact::Answers(_)));
    if let (Some(how), false) = (fenced, lives) {
        return Standing::Down(how.to_owned());
    }
    let serving = other.view.within(policy.age_max).map(|view| view.server);
    match (contact, serving) {
        // One that hangs may have been frozen as anything, and what its machine says of it is no newer.
        (Some(Contact::Hung(why)), _) => Standing::Hung(why.clone()),
        (Some(Contact::Primary), _) | (_, Some(Serving::Primary)) => Standing::Primary,
        (Some(Contact::Standby { .. }), _) => Standing::Standby,
        (_, Some(Serving::Standby)) => Standing::Standby,
        (_, Some(Serving::Starting)) => Standing::Answers("processes of its server are there".to_owned()),
        (Some(Contact::Answers(why)), _) => Standing::Answers(why.clone()),
        (_, Some(Serving::Down)) => Standing::Down("its machine says that no server runs".to_owned()),
        (Some(Contact::Refused(why)), None) => Standing::Down(why.clone()),
        (Some(Contact::Silent(_)) | None, None) if other.handover.is_some() => {
            Standing::Down("it was flushed and handed over".to_owned())
        }
        (Some(Contact::Silent(_)) | None, None) if policy.down.contains(&other.name) => {
            Standing::Down("somebody vouches for it (--down)".to_owned())
        }
        (Some(Contact::Silent(why)), None) => Standing::Silent(why.clone()),
        (None, None) => Standing::Silent(other.contact.why()),
    }
}

impl Standing {
    /// True where the node may be taking writes, as far as anybody can tell.
    pub fn may_write(&self) -> bool {
        !matches!(self, Standing::Standby | Standing::Down(_))
    }
}

impl Case<'_> {
    /// Every other node with what it is taken for.
    pub fn others(&self) -> impl Iterator<Item = (&Other, &Standing)> {
        self.seen.others.iter().zip(&self.standings)
    }

    /// The own data directory. The first rule refuses where there is nothing to see.
    pub fn own(&self) -> Option<&View> {
        self.seen.own.within(self.policy.age_max)
    }

    /// Where the own WAL ends.
    pub fn own_end(&self) -> Lsn {
        self.own().map_or(Lsn::INVALID, |own| own.wal_end)
    }

    /// What a node's files show, where that can be told and the node does not go on writing.
    pub fn files<'b>(&self, other: &'b Other) -> Option<&'b View> {
        other.view.within(self.policy.age_max)
    }
}
