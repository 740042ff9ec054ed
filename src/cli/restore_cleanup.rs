//! `restore-wal --cleanup` and `--forget`: what no consumer of the own archive needs goes, and nothing else.
//!
//! PostgreSQL takes a failure here for a warning, but a code above 128 in `recovery_end_command` for the end of the
//! start. So unlike the other half of `restore-wal` this one stays below 126.

use std::sync::Arc;

use super::output;
use super::run::Context;
use crate::archive::ArchiveError;
use crate::archive::consumers::Record;
use crate::archive::expire::{self, Cut};
use crate::archive::fetch::Fetcher;
use crate::archive::places::Sites;
use crate::archive::waiting::Orders;
use crate::config::Config;
use crate::error::{Class, Failure};
use crate::wal::{SegmentName, WalName};

/// Reports a failure with a code that PostgreSQL takes for a warning.
pub fn warn_only(outcome: Result<u8, Failure>, context: &Context) -> u8 {
    outcome.unwrap_or_else(|failure| {
        context.report(&failure);
        failure.class.code().min(125)
    })
}

/// `archive_cleanup_command`: reports this node's restart point to every archive it restores from, then removes from
/// its own archive what no consumer needs.
pub fn clean_up(restart: Option<&str>, context: &Context) -> Result<u8, Failure> {
    let config = Arc::new(context.config.clone());
    let sites = Arc::new(Sites::new(&config));
    if let Some(restart) = restart {
        let oldest: WalName = restart.parse().map_err(|error| Failure::from(ArchiveError::Name(error)))?;
        match oldest.segment() {
            Some(oldest) if !oldest.is_zero() => report(oldest, &config, &sites, context),
            _ => {
                log::debug!("no restart point is known yet, nothing is removed");
                return Ok(0);
            }
        }
    }
    let Some(own) = sites.get(&config.local.node) else { return Ok(0) };
    let control = config.local.spool.join(&config.restore.control);
    if Orders::in_folder(&control).removal_paused()? {
        log::info!("nothing is removed while KEEP lies in '{}'", control.display());
        return Ok(0);
    }
    let archive = own.archive()?;
    match expire::cut(&expire::needs(&config, &archive)?) {
        Cut::KeepAll(reasons) => {
            log::info!("all WAL is kept: {}", reasons.join("; "));
            if context.dry_run {
                output::line(format_args!("all WAL is kept: {}", reasons.join("; ")));
            }
        }
        Cut::Before(oldest, who) => {
            let limit = config.restore.remove_max as usize;
            let removed = expire::remove_before(&archive, oldest, limit, context.dry_run)?;
            let verb = if context.dry_run { "would remove" } else { "removed" };
            let size = output::size(removed.bytes);
            let text = format!("{verb} {} files ({size}) before '{oldest}', kept for {who}", removed.files.len());
            if context.dry_run {
                removed.files.iter().for_each(|file| output::line(format_args!("{verb} {file}")));
                output::line(format_args!("{text}"));
            } else if !removed.files.is_empty() {
                log::info!("{text}");
            }
        }
    }
    Ok(0)
}

/// A place that cannot be told keeps more WAL than it needs: that is the safe side, so it stops nothing.
fn report(oldest: SegmentName, config: &Arc<Config>, sites: &Arc<Sites>, context: &Context) {
    if context.dry_run {
        return;
    }
    let record = Record::new(&config.local.node, "standby: its restart point", oldest);
    for site in Fetcher::new(config, sites).sites() {
        if site.recently_down(config.archive.retry).is_some() {
            continue;
        }
        if let Err(error) = site.archive().and_then(|archive| record.write(&archive)) {
            log::warn!("the archive of {} was not told the restart point '{oldest}': {error}", site.name());
            site.mark_down(&Failure::from(error));
        }
    }
}

/// Takes a consumer that is gone out of the account.
pub fn forget(node: &str, context: &Context) -> Result<u8, Failure> {
    let config = Arc::new(context.config.clone());
    let sites = Sites::new(&config);
    let Some(own) = sites.get(&config.local.node) else {
        return Err(Failure::new(Class::Refused, "this node holds no archive"));
    };
    let archive = own.archive()?;
    let known = Record::remove(&archive, node, context.dry_run)?;
    let verb = if context.dry_run { "would forget" } else { "forgot" };
    let text = if known { format!("{verb} what {node} needs") } else { format!("{node} has left no record") };
    output::line(format_args!("{text}"));
    Ok(0)
}
