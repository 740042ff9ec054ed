//! The contract of resource agents: actions and exit codes (Open Cluster Framework, resource agent API 1.1).

use std::fmt;
use std::io::Write;

use crate::error::{Class, Failure};
use crate::system::logging::flatten;

/// The exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Ocf {
    /// Done; of a monitor: it runs, as a standby or without replication.
    Success = 0,
    /// It went wrong, and may go better elsewhere or later.
    Generic = 1,
    /// An argument or parameter makes no sense.
    Arguments = 2,
    /// There is no such action.
    Unimplemented = 3,
    /// Something may not be read or done.
    Permission = 4,
    /// Something that is needed is not installed on this node.
    Installed = 5,
    /// The configuration is wrong, here and everywhere.
    Configured = 6,
    /// It is stopped, in order.
    NotRunning = 7,
    /// It runs as the primary.
    Promoted = 8,
    /// It was the primary and died.
    FailedPromoted = 9,
}

impl Ocf {
    /// What a failure becomes, where nothing better is known.
    pub fn of(class: Class) -> Ocf {
        match class {
            Class::Usage => Ocf::Arguments,
            Class::Config => Ocf::Configured,
            _ => Ocf::Generic,
        }
    }

    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// What an agent is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Start,
    Stop,
    Status,
    Monitor,
    Promote,
    Demote,
    Notify,
    Reload,
    Methods,
    MetaData,
    ValidateAll,
}

/// Every action with its word, in the order in which `methods` prints them.
pub const ACTIONS: &[(Action, &str)] = &[
    (Action::Start, "start"),
    (Action::Stop, "stop"),
    (Action::Status, "status"),
    (Action::Monitor, "monitor"),
    (Action::Promote, "promote"),
    (Action::Demote, "demote"),
    (Action::Notify, "notify"),
    (Action::Reload, "reload"),
    (Action::Methods, "methods"),
    (Action::MetaData, "meta-data"),
    (Action::ValidateAll, "validate-all"),
];

impl Action {
    /// The action of that word.
    pub fn of(word: &str) -> Option<Action> {
        ACTIONS.iter().find(|(_, name)| *name == word).map(|(action, _)| *action)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = ACTIONS.iter().find(|(action, _)| action == self).map_or("", |(_, word)| word);
        f.pad(word)
    }
}

/// Says why an action fails, where the cluster manager shows it (`ocf-exit-reason`).
pub fn say_reason(failure: &Failure) {
    let hint = failure.hint.as_ref().map(|hint| format!(" {hint}")).unwrap_or_default();
    // A reader that is gone needs no reason.
    let _ = writeln!(std::io::stderr(), "ocf-exit-reason:{}.{hint}", flatten(&failure.message));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lead_to_actions_and_back() {
        for (action, word) in ACTIONS {
            assert_eq!((Action::of(word), action.to_string().as_str()), (Some(*action), *word));
        }
        assert_eq!(Action::of("migrate_to"), None);
    }

    #[test]
    fn a_wrong_configuration_is_wrong_everywhere() {
        assert_eq!((Ocf::of(Class::Config), Ocf::of(Class::Usage)), (Ocf::Configured, Ocf::Arguments));
        assert_eq!(Ocf::of(Class::Refused).code(), 1);
    }
}
