//! `cluster-monitor register` and `unregister`.

use std::sync::Arc;

use clap::ArgMatches;
use serde_json::json;

use super::{PATIENCE, print_json, records, wanted};
use crate::archive::identity::Identity;
use crate::archive::places::Sites;
use crate::cli::output;
use crate::cli::run::Context;
use crate::cluster::contact;
use crate::config::Config;
use crate::error::{Class, Failure};
use crate::monitor::announce::announce;
use crate::monitor::copy::{self, Copy, Original};
use crate::monitor::event::Event;
use crate::monitor::gather::gather;
use crate::monitor::records::Records;
use crate::monitor::registration::{Plan, Wish, place, plan, plan_removal};
use crate::monitor::registry::Registry;
use crate::monitor::schema;
use crate::monitor::tide::Tide;
use crate::monitor::view::{View, rfc3339};

/// Registers a node.
pub fn register(arguments: &ArgMatches, context: &Context, expected: Option<&str>) -> Result<u8, Failure> {
    if let Some(word) = expected.filter(|word| !["primary", "standby", "dr", "witness"].contains(word)) {
        return Err(Failure::new(Class::Usage, format!("'{word}' is nothing that a node can be"))
            .hinted("A node is a primary, a standby, a dr or a witness."));
    }
    let config = Arc::new(context.config.clone());
    let node = wanted(arguments, &config)?;
    let view = gather(&config).view(&config, &Tide::new(2));
    let mut records = records(&config, &view)?;
    let registry = registry(&mut records, context)?;
    let archive_system = archive_system(&config, &node.name);
    let force = arguments.get_flag("force");
    let wish = Wish { node, expected, archive_system: archive_system.as_deref(), place: place(&config, node), force };
    let plan = plan(&view, registry.as_ref(), wish)?;
    for notice in &plan.notices {
        log::warn!("{notice}");
    }
    let mut copy = KeptCopy::plan(&plan, &config, &view, force)?;
    if let Some(copy) = copy.as_mut().filter(|_| registry.is_some()) {
        // Who cannot keep the copy is not registered.
        copy.keep(&mut records, false)?;
    }
    if !context.dry_run && !plan.unchanged {
        // Only now: a registration that is refused changes nothing.
        let brought = schema::bring_up_to_date(records.connection(), &config.cluster.name)?;
        records.register(&plan.row)?;
        let mut events = Vec::new();
        if brought.from == 0 {
            events.push(event(&view, "cluster_created", &plan.row.name, "the monitor's schema was made".to_owned()));
        }
        events.push(event(&view, &format!("{}_register", plan.row.role), &plan.row.name, details(&plan)));
        keep(&config, &mut records, events)?;
    }
    if let Some(copy) = copy.as_mut().filter(|_| !context.dry_run) {
        copy.keep(&mut records, true)?;
    }
    show(context, &plan, copy.is_some())?;
    Ok(0)
}

/// The copy of the registry that a witness is to keep on its own server.
struct KeptCopy {
    witness: String,
    cluster: String,
    primary: String,
    there: Records,
    force: bool,
}

impl KeptCopy {
    /// Connects to the witness's server. None: it has none, or it is registered unseen; its daemon makes the copy then.
    fn plan(plan: &Plan, config: &Config, view: &View, force: bool) -> Result<Option<KeptCopy>, Failure> {
        let witness = plan.row.name.clone();
        let answers = view.node(&witness).is_some_and(|node| node.trouble.is_none());
        let conninfo = contact::text(config, &witness).filter(|_| plan.keeps_copy);
        let (Some(conninfo), Some(primary), true) = (conninfo, view.primary.clone(), answers) else { return Ok(None) };
        let there = Records::open(&conninfo, PATIENCE, "cluster-monitor copy")?;
        Ok(Some(KeptCopy { witness, cluster: config.cluster.name.clone(), primary, there, force }))
    }

    /// Checks whether it may be kept there, or writes it.
    fn keep(&mut self, records: &mut Records, write: bool) -> Result<(), Failure> {
        let original = Original::read(&self.primary, records)?;
        let copy = Copy { witness: &self.witness, cluster: &self.cluster, force: self.force };
        let there = self.there.connection();
        match write {
            true => copy.write(&original, there, &mut None)?,
            false => copy.check(&original, there)?,
        }
        Ok(())
    }
}

/// The registry, brought up to date where it is there and this is no dry run.
fn registry(records: &mut Records, context: &Context) -> Result<Option<Registry>, Failure> {
    let there = schema::version(records.connection())?.is_some();
    if there && !context.dry_run {
        schema::bring_up_to_date(records.connection(), &context.config.cluster.name)?;
    }
    Ok(Registry::read(records.connection())?)
}

/// The system identifier of this node's own archive, if it has one.
fn archive_system(config: &Arc<Config>, node: &str) -> Option<String> {
    if node != config.local.node {
        return None;
    }
    let archive = Sites::new(config).get(node)?.archive().ok()?;
    let Identity { system_identifier, .. } = archive.identity;
    Some(system_identifier.0.to_string())
}

fn details(plan: &Plan) -> String {
    let retired = plan.retires.as_ref().map(|other| format!("; {other} goes out of service")).unwrap_or_default();
    format!("{} has the id {}{retired}", plan.row.name, plan.row.id)
}

fn event(view: &View, name: &str, node: &str, details: String) -> Event {
    Event {
        event: name.to_owned(),
        node: node.to_owned(),
        node_id: view.node(node).and_then(|node| node.id),
        successful: true,
        level: "ok".to_owned(),
        details,
        time: rfc3339(std::time::SystemTime::now()),
        observer: view.observer.clone(),
        subject: String::new(),
        state: String::new(),
    }
}

/// Writes events down and tells of them.
pub fn keep(config: &Config, records: &mut Records, events: Vec<Event>) -> Result<(), Failure> {
    for event in events {
        records.record(&event)?;
        announce(config, &event);
    }
    Ok(())
}

/// Writes one event of a command down and tells of it.
pub fn keep_one(
    config: &Config,
    records: &mut Records,
    view: &View,
    name: &str,
    details: String,
) -> Result<(), Failure> {
    keep(config, records, vec![event(view, name, &view.observer, details)])
}

fn show(context: &Context, plan: &Plan, copied: bool) -> Result<(), Failure> {
    if context.json {
        return print_json(&json!({ "dry_run": context.dry_run, "plan": plan }));
    }
    let row = &plan.row;
    let verb = match (plan.unchanged, context.dry_run) {
        (true, _) => "is registered already",
        (false, true) => "would be registered",
        (false, false) => "is registered",
    };
    let retired = plan.retires.as_ref().map(|other| format!("; {other} goes out of service")).unwrap_or_default();
    let copied = if copied { "; its own server keeps a copy of the registry" } else { "" };
    match context.quiet {
        true => Ok(()),
        false => {
            output::print(&format!("{} {verb} as {} with the id {}{retired}{copied}\n", row.name, row.role, row.id))
        }
    }
}

/// Takes a node back. A node that is no longer in the configuration can be named, too.
pub fn unregister(arguments: &ArgMatches, context: &Context) -> Result<u8, Failure> {
    let config = Arc::new(context.config.clone());
    let own = config.local.node.clone();
    let name = arguments.get_one::<String>("node").unwrap_or(&own);
    let view = gather(&config).view(&config, &Tide::new(2));
    let mut records = records(&config, &view)?;
    let registry = Registry::read(records.connection())?;
    let known = plan_removal(&view, registry.as_ref(), name, arguments.get_flag("force"))?;
    if !context.dry_run {
        records.unregister(name)?;
        let mut event =
            event(&view, &format!("{}_unregister", known.role), name, format!("the id {} is free", known.id));
        event.node_id = Some(known.id);
        keep(&config, &mut records, vec![event])?;
        if known.kind == "witness" {
            forget_copy(&config, name, &mut records);
        }
    }
    if context.json {
        print_json(&json!({ "dry_run": context.dry_run, "removed": known }))?;
    } else if !context.quiet {
        let verb = if context.dry_run { "would no longer be" } else { "is no longer" };
        output::print(&format!("{name} {verb} registered\n"))?;
    }
    Ok(0)
}

/// Empties the copy that a witness keeps, for it gets old from now on. One that does not answer keeps it.
fn forget_copy(config: &Config, name: &str, records: &mut Records) {
    let Some(conninfo) = contact::text(config, name) else { return };
    let cleared = Records::open(&conninfo, PATIENCE, "cluster-monitor copy")
        .and_then(|mut there| copy::clear(records.connection(), there.connection()));
    if let Err(error) = cleared {
        let failure = Failure::from(error);
        log::warn!("the copy of the registry on {name} stays: {}; it may be dropped: schema 'pgwarm'", failure.message);
    }
}
