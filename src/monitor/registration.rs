//! Registering a node, and taking it back: what is seen is compared with what is asked for, and a row is planned. Pure.
//!
//! A node of another cluster is never registered, nor one under a number that another has; no flag lifts that. `force`
//! lifts what a person may know better: that a node which does not answer is a standby, that a name now means another
//! server, that a primary which is gone is gone.

use serde::Serialize;

use super::records::Registration;
use super::registry::{Registered, Registry, kind_word};
use super::view::{NodeView, Role, View};
use crate::config::{Config, Node, NodeKind};
use crate::error::{Class, Explain};

/// Why a node is not registered, or not taken back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationError {
    /// Nobody can be told.
    #[error("no node answers as the primary, and the registry is kept there")]
    NoPrimary,
    /// The server has nothing to do with this cluster.
    #[error(
        "{node} belongs to another cluster: its system identifier is {own}, that of the primary {primary} is {theirs}"
    )]
    Foreign { node: String, own: String, primary: String, theirs: String },
    /// The number is taken.
    #[error("the id {id} is that of {other}")]
    DuplicateId { id: i32, other: String },
    /// The name is taken by something else.
    #[error("{node} is registered already, with {what}")]
    Different { node: String, what: String },
    /// It would be gone when it is needed.
    #[error("the server of the witness {node} belongs to the cluster of the primary {primary}, which it is to judge")]
    Dependent { node: String, primary: String },
    /// It does not answer, so what it is cannot be seen.
    #[error("{node} does not answer, so it cannot be seen what it is: {why}")]
    Unseen { node: String, why: String },
    /// It is not what it was said to be.
    #[error("{node} is a {observed}, not a {expected}")]
    Other { node: String, expected: String, observed: &'static str },
    /// Another node is the primary.
    #[error("{node} takes writes, but {primary} is the primary")]
    Rival { node: String, primary: String },
    /// The primary before is still registered, and may come back.
    #[error("{other} is registered as the primary, and {node} is the primary now")]
    Succession { node: String, other: String },
    /// Nothing to take back.
    #[error("{node} is not registered")]
    Unknown { node: String },
    /// Others follow it.
    #[error("{node} is the primary, and {others} are registered with it")]
    StillPrimary { node: String, others: String },
}

impl Explain for RegistrationError {
    fn class(&self) -> Class {
        match self {
            RegistrationError::NoPrimary => Class::Postgres,
            RegistrationError::DuplicateId { .. } | RegistrationError::Different { .. } => Class::Conflict,
            RegistrationError::Unknown { .. } => Class::Absent,
            _ => Class::Refused,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            RegistrationError::NoPrimary => {
                "Start the primary; register it first where this is a new cluster.".to_owned()
            }
            RegistrationError::Foreign { node, .. } => format!("Correct conninfo and archive of [node.{node}]."),
            RegistrationError::DuplicateId { .. } => {
                "Set another node.NAME.id in the shared file, or leave it out to be given one.".to_owned()
            }
            RegistrationError::Different { .. } => {
                "Use --force if the name now means another server; else give the new one another name.".to_owned()
            }
            RegistrationError::Dependent { node, .. } => {
                format!("Let node.{node}.conninfo name a server made with 'initdb', or take it out.")
            }
            RegistrationError::Unseen { .. } => {
                "Start its server, or use --force to register it unseen: a database node as a standby.".to_owned()
            }
            RegistrationError::Other { .. } => "Leave the word out to register it as what it is.".to_owned(),
            RegistrationError::Rival { node, primary } => {
                format!("Stop {node} and rejoin it to {primary}: two nodes must not take writes.")
            }
            RegistrationError::Succession { other, .. } => {
                format!("Use --force once it is certain that {other} will not come back as a primary.")
            }
            RegistrationError::Unknown { .. } => return None,
            RegistrationError::StillPrimary { .. } => {
                "Take back the others first, or use --force to end the cluster's registration.".to_owned()
            }
        })
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The node.
    pub node: &'a Node,
    /// What it is said to be: `primary`, `standby`, `dr` or `witness`; none: whatever it is.
    pub expected: Option<&'a str>,
    /// The system identifier of its archive, for a node without a server.
    pub archive_system: Option<&'a str>,
    /// The number it is given where nobody says which, if that is free; else the next one is.
    pub place: Option<i32>,
    /// A person knows better.
    pub force: bool,
}

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The row.
    pub row: Registration,
    /// True where the registry says so already.
    pub unchanged: bool,
    /// The primary before, which goes out of service.
    pub retires: Option<String>,
    /// True for a witness with a server of its own: a copy of the registry is kept there.
    pub keeps_copy: bool,
    /// What a person should know.
    pub notices: Vec<String>,
}

/// The place of a node in the configuration, counted from 1: the number that it would get.
pub fn place(config: &Config, node: &Node) -> Option<i32> {
    let at = config.nodes.iter().position(|one| one.name == node.name)?;
    i32::try_from(at + 1).ok()
}

/// Plans the registration of a node.
pub fn plan(view: &View, registry: Option<&Registry>, wish: Wish<'_>) -> Result<Plan, RegistrationError> {
    let node = wish.node;
    let name = node.name.clone();
    let seen = view.node(&name);
    let primary = view.primary.as_ref().and_then(|name| view.node(name)).ok_or(RegistrationError::NoPrimary)?;
    match node.kind {
        NodeKind::Witness => independent(&name, seen, primary)?,
        _ => same_cluster(&name, seen, primary, wish.archive_system)?,
    }
    if view.rivals.contains(&name) {
        return Err(RegistrationError::Rival { node: name, primary: primary.name.clone() });
    }
    let known = registry.and_then(|registry| registry.node(&name));
    let role = role(seen, node, wish)?;
    let id = number(wish, known, registry)?;
    let followed = seen.and_then(|seen| seen.upstream.as_deref()).and_then(|name| registry?.node(name));
    // One that does not stream just now stays registered with what it followed last: that is how its loss shows.
    let before = known.filter(|_| !wish.force && role != "primary").and_then(|known| known.upstream_id);
    let upstream_id = followed.map(|upstream| upstream.id).or(before);
    let row = Registration {
        id,
        name: name.clone(),
        kind: kind_word(node.kind).to_owned(),
        role: role.to_owned(),
        upstream_id,
        conninfo: node.conninfo.clone(),
        slot: seen.and_then(|seen| seen.slot.clone()),
    };
    if let Some(known) = known.filter(|_| !wish.force)
        && let Some(what) = difference(known, &row)
    {
        return Err(RegistrationError::Different { node: name, what });
    }
    let before = registry.and_then(|registry| registry.nodes.iter().find(|one| one.role == "primary" && one.active));
    let retires =
        before.filter(|before| role == "primary" && before.name != row.name).map(|before| before.name.clone());
    if let Some(other) = retires.clone().filter(|_| !wish.force) {
        return Err(RegistrationError::Succession { node: row.name, other });
    }
    let unchanged = known.is_some_and(|known| {
        known.active
            && known.id == row.id
            && known.role == row.role
            && known.upstream_id == row.upstream_id
            && known.conninfo == row.conninfo
            && known.kind == row.kind
    });
    let keeps_copy = node.kind == NodeKind::Witness && node.conninfo.is_some();
    Ok(Plan { row, unchanged, retires, keeps_copy, notices: notices(registry, node) })
}

/// The system identifier is the primary's: of the server, or where there is none, of the archive.
fn same_cluster(
    name: &str,
    seen: Option<&NodeView>,
    primary: &NodeView,
    archive_system: Option<&str>,
) -> Result<(), RegistrationError> {
    let own = seen.and_then(|seen| seen.system_identifier.as_deref()).or(archive_system);
    match (own, primary.system_identifier.as_deref()) {
        (Some(own), Some(theirs)) if own != theirs => Err(RegistrationError::Foreign {
            node: name.to_owned(),
            own: own.to_owned(),
            primary: primary.name.clone(),
            theirs: theirs.to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The server of a witness is none of the cluster.
fn independent(name: &str, seen: Option<&NodeView>, primary: &NodeView) -> Result<(), RegistrationError> {
    let follows = seen.and_then(|seen| seen.witness.as_ref()).is_some_and(|server| server.in_recovery);
    let own = seen.and_then(|seen| seen.system_identifier.as_ref());
    match follows || own.is_some_and(|own| primary.system_identifier.as_ref() == Some(own)) {
        true => Err(RegistrationError::Dependent { node: name.to_owned(), primary: primary.name.clone() }),
        false => Ok(()),
    }
}

/// What the node is registered as.
fn role(seen: Option<&NodeView>, node: &Node, wish: Wish<'_>) -> Result<&'static str, RegistrationError> {
    let name = || node.name.clone();
    let observed = match (node.kind, seen.map(|seen| seen.role)) {
        // One whose server cannot be seen may be anything, the primary itself included.
        (NodeKind::Witness, _) if wish.force || seen.is_none_or(|seen| seen.trouble.is_none()) => "witness",
        (NodeKind::Dr, Some(Role::Primary)) => "primary",
        (NodeKind::Dr, _) => "dr",
        (_, Some(Role::Primary)) => "primary",
        (_, Some(Role::Standby)) => "standby",
        _ if wish.force => "standby",
        (_, seen_role) => {
            let trouble = seen.and_then(|seen| seen.trouble.clone());
            let why = trouble.unwrap_or_else(|| match seen_role {
                None => "it is not in the configuration".to_owned(),
                Some(_) => format!("[node.{}] has no conninfo", node.name),
            });
            return Err(RegistrationError::Unseen { node: name(), why });
        }
    };
    match wish.expected {
        Some(expected) if expected != observed => {
            Err(RegistrationError::Other { node: name(), expected: expected.to_owned(), observed })
        }
        _ => Ok(observed),
    }
}

/// The configured number, the one it has, or the next that is free.
fn number(wish: Wish<'_>, known: Option<&Registered>, registry: Option<&Registry>) -> Result<i32, RegistrationError> {
    let node = wish.node;
    let all = registry.map(|registry| registry.nodes.as_slice()).unwrap_or_default();
    // Daemons that register at the same time want different numbers.
    let free = wish.place.filter(|place| known.is_none() && all.iter().all(|one| one.id != *place));
    let Some(id) = node.id.or(known.map(|known| known.id)).or(free) else {
        return Ok(all.iter().map(|one| one.id).max().unwrap_or(0).saturating_add(1));
    };
    match all.iter().find(|one| one.id == id && one.name != node.name) {
        Some(other) => Err(RegistrationError::DuplicateId { id, other: other.name.clone() }),
        None => Ok(id),
    }
}

/// What else the name meant until now. A role changes with the cluster; what the name stands for does not.
fn difference(known: &Registered, row: &Registration) -> Option<String> {
    if known.conninfo != row.conninfo {
        let shown = |conninfo: &Option<String>| conninfo.clone().unwrap_or_else(|| "none".to_owned());
        return Some(format!("conninfo '{}' instead of '{}'", shown(&known.conninfo), shown(&row.conninfo)));
    }
    if known.kind != row.kind {
        return Some(format!("kind '{}' instead of '{}'", known.kind, row.kind));
    }
    (known.id != row.id).then(|| format!("id {} instead of {}", known.id, row.id))
}

/// Two voters cannot decide anything when one of them is gone.
fn notices(registry: Option<&Registry>, node: &Node) -> Vec<String> {
    let others = registry.map(|registry| registry.nodes.as_slice()).unwrap_or_default();
    let voters = others.iter().filter(|one| one.active && one.name != node.name && one.role != "dr").count();
    let all = voters + usize::from(node.kind != NodeKind::Dr);
    match all {
        2 => vec![
            "two voters cannot tell a dead node from a cut wire: add a witness before anything is to be automatic"
                .to_owned(),
        ],
        _ => Vec::new(),
    }
}

/// Plans to take a node back; its row.
pub fn plan_removal<'a>(
    view: &View,
    registry: Option<&'a Registry>,
    name: &str,
    force: bool,
) -> Result<&'a Registered, RegistrationError> {
    let registry = registry.filter(|_| view.primary.is_some()).ok_or(RegistrationError::NoPrimary)?;
    let known = registry.node(name).ok_or_else(|| RegistrationError::Unknown { node: name.to_owned() })?;
    let others: Vec<&str> = registry.nodes.iter().filter(|one| one.name != name).map(|one| one.name.as_str()).collect();
    if known.role == "primary" && known.active && !others.is_empty() && !force {
        return Err(RegistrationError::StillPrimary { node: name.to_owned(), others: others.join(", ") });
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::observation::How;
    use crate::monitor::registry::tests::registry;
    use crate::monitor::view::tests::Scene;
    use crate::wal::SystemId;

    fn try_plan(
        scene: &Scene,
        registry: Option<&Registry>,
        name: &str,
        force: bool,
    ) -> Result<Plan, RegistrationError> {
        let node = &scene.watched.iter().find(|one| one.node.name == name).expect("because the scene has it").node;
        plan(&scene.view(), registry, Wish { node, expected: None, archive_system: None, place: None, force })
    }

    #[test]
    fn the_first_is_the_primary_and_numbers_are_given_in_order() {
        let scene = Scene::healthy();
        let first = try_plan(&scene, None, "db1", false).expect("because nothing is in its way");
        assert_eq!((first.row.id, first.row.role.as_str(), first.unchanged), (1, "primary", false));
        let roster = registry(&[("db1", "primary")]);
        let second = try_plan(&scene, Some(&roster), "db2", false).expect("because nothing is in its way");
        assert_eq!((second.row.id, second.row.role.as_str(), second.row.upstream_id), (2, "standby", Some(1)));
        assert_eq!(second.notices.len(), 1);
        let roster = registry(&[("db1", "primary"), ("db2", "standby")]);
        let witness = try_plan(&scene, Some(&roster), "w", false).expect("because it needs no server");
        assert_eq!((witness.row.id, witness.row.role.as_str(), witness.notices.len()), (3, "witness", 0));
        let dr = try_plan(&scene, Some(&roster), "dr1", false).expect("because it needs no server");
        assert_eq!(dr.row.role, "dr");
    }

    #[test]
    fn nothing_changes_what_is_registered_so_already() {
        let scene = Scene::healthy();
        let mut roster = registry(&[("db1", "primary"), ("db2", "standby")]);
        roster.nodes[1].conninfo = Some("host=db2 dbname=postgres".to_owned());
        assert!(try_plan(&scene, Some(&roster), "db2", false).expect("because it is the same").unchanged);
        roster.nodes[1].conninfo = Some("host=elsewhere".to_owned());
        let refused = try_plan(&scene, Some(&roster), "db2", false);
        assert!(matches!(refused, Err(RegistrationError::Different { .. })), "{refused:?}");
        assert!(!try_plan(&scene, Some(&roster), "db2", true).expect("because a person insists").unchanged);
    }

    #[test]
    fn a_stranger_a_taken_number_and_a_rival_are_refused_whoever_insists() {
        let roster = registry(&[("db1", "primary"), ("db2", "standby")]);
        let mut foreign = Scene::healthy();
        foreign.seen("db3").system_identifier = SystemId(1);
        for force in [false, true] {
            let refused = try_plan(&foreign, Some(&roster), "db3", force);
            assert!(matches!(refused, Err(RegistrationError::Foreign { .. })), "{refused:?}");
            let mut taken = Scene::healthy();
            taken.watched[2].node.id = Some(2);
            let refused = try_plan(&taken, Some(&roster), "db3", force);
            assert_eq!(refused, Err(RegistrationError::DuplicateId { id: 2, other: "db2".to_owned() }));
            let rogue = Scene::healthy().promoted("db3", 2);
            let refused = try_plan(&rogue, Some(&roster), "db3", force);
            assert!(matches!(refused, Err(RegistrationError::Rival { .. })), "{refused:?}");
        }
        let node = &foreign.watched[3].node;
        let wish = Wish { node, expected: None, archive_system: Some("5"), place: None, force: true };
        let refused = plan(&Scene::healthy().view(), Some(&roster), wish);
        assert!(matches!(refused, Err(RegistrationError::Foreign { .. })), "{refused:?}");
    }

    #[test]
    fn who_does_not_answer_is_registered_only_by_one_who_knows() {
        let roster = registry(&[("db1", "primary")]);
        let gone = Scene::healthy().gone("db2", How::Refused);
        let refused = try_plan(&gone, Some(&roster), "db2", false);
        assert!(matches!(refused, Err(RegistrationError::Unseen { .. })), "{refused:?}");
        assert_eq!(try_plan(&gone, Some(&roster), "db2", true).map(|plan| plan.row.role), Ok("standby".to_owned()));
        let gone = Scene::healthy().gone("db1", How::Refused);
        assert_eq!(try_plan(&gone, Some(&roster), "db2", true), Err(RegistrationError::NoPrimary));
    }

    #[test]
    fn a_new_primary_takes_the_place_of_the_old_one_only_when_told_to() {
        let roster = registry(&[("db1", "primary"), ("db2", "standby")]);
        let after = Scene::healthy().gone("db1", How::Refused).promoted("db2", 2);
        let refused = try_plan(&after, Some(&roster), "db2", false);
        assert!(matches!(refused, Err(RegistrationError::Different { .. } | RegistrationError::Succession { .. })));
        let plan = try_plan(&after, Some(&roster), "db2", true).expect("because a person insists");
        assert_eq!((plan.row.role.as_str(), plan.retires.as_deref()), ("primary", Some("db1")));
    }

    #[test]
    fn the_word_must_fit_and_a_primary_with_followers_stays() {
        let scene = Scene::healthy();
        let node = &scene.watched[1].node;
        let wish = Wish { node, expected: Some("primary"), archive_system: None, place: None, force: true };
        assert!(matches!(plan(&scene.view(), None, wish), Err(RegistrationError::Other { .. })));
        let roster = registry(&[("db1", "primary"), ("db2", "standby")]);
        let removal =
            |name: &str, force: bool| plan_removal(&scene.view(), Some(&roster), name, force).map(|one| one.id);
        assert_eq!(removal("db2", false), Ok(2));
        assert!(matches!(removal("db1", false), Err(RegistrationError::StillPrimary { .. })));
        assert_eq!(removal("db1", true), Ok(1));
        assert!(matches!(removal("db9", true), Err(RegistrationError::Unknown { .. })));
    }

    #[test]
    fn a_witness_with_a_server_is_registered_where_that_is_seen_to_be_another() {
        let roster = registry(&[("db1", "primary"), ("db2", "standby")]);
        let planned = |scene: &Scene, force| try_plan(scene, Some(&roster), "w", force);
        let plan = planned(&Scene::healthy().keeping(None), false).expect("because nothing is in its way");
        assert_eq!((plan.row.role.as_str(), plan.keeps_copy), ("witness", true));
        let bare = planned(&Scene::healthy(), false).expect("because it needs no server");
        assert!(!bare.keeps_copy);
        let mut same = Scene::healthy().keeping(None);
        same.seen("w").system_identifier = same.seen("db1").system_identifier;
        let mut follows = Scene::healthy().keeping(None);
        follows.seen("w").in_recovery = true;
        for scene in [same, follows] {
            let refused = planned(&scene, true).expect_err("because it goes with the cluster");
            assert!(matches!(refused, RegistrationError::Dependent { .. }), "{refused:?}");
        }
        let away = Scene::healthy().keeping(None).gone("w", How::Silent);
        assert!(matches!(planned(&away, false), Err(RegistrationError::Unseen { .. })));
        assert_eq!(planned(&away, true).map(|plan| plan.row.role), Ok("witness".to_owned()));
    }
}
