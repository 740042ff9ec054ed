//! Tells of an event: `event_notification_command`, as repmgr's users know it, and the hooks of `[notify]`.
//!
//! The command is a list of words, split once when the configuration is read; what `%n` and others stand for becomes
//! a part of one word, whatever is in it, and no shell sees it. The event goes to its standard input as JSON too. A
//! command that fails or hangs is logged; it never fails or holds up who announces for longer than `notify.deadline`.

use serde_json::json;

use super::event::Event;
use crate::config::Config;
use crate::error::Failure;
use crate::system::clock::Deadline;
use crate::system::notify::{Level, Notifier};
use crate::system::process::Call;

/// How much of the command's output is kept, for its complaint.
const OUTPUT_MAX: usize = 8192;

/// Tells of one event.
pub fn announce(config: &Config, event: &Event) {
    command(config, event);
    let level = match event.level.as_str() {
        "critical" => Level::Critical,
        "warning" => Level::Warning,
        // What happened on purpose interests nobody who is on call; that something is well again does.
        _ if event.subject.is_empty() => return,
        _ => Level::Ok,
    };
    let notifier = Notifier::new(&config.notify, &config.local.spool, &config.local.node, "cluster-monitor");
    let message = format!("{} on {}: {}", event.event, event.node, event.details);
    notifier.announce(&event.subject, level, &message, json!(event));
}

fn command(config: &Config, event: &Event) {
    let monitor = &config.monitor;
    let wanted = monitor.event_notifications.is_empty() || monitor.event_notifications.contains(&event.event);
    let Some((program, words)) = monitor.event_notification_command.split_first().filter(|_| wanted) else { return };
    let mut story = json!(event).to_string();
    story.push('\n');
    let call = Call::new(program).args(words.iter().map(|word| fill(word, event))).stdin(story).limit(OUTPUT_MAX);
    match call.run(Deadline::after(config.notify.deadline)) {
        Ok(outcome) if outcome.status.is_success() => log::debug!("'{program}' was told of {}", event.event),
        Ok(outcome) => {
            log::warn!("event_notification_command '{program}' ended with {}: {}", outcome.status, outcome.complaint());
        }
        Err(error) => log::warn!("event_notification_command: {}", Failure::from(error)),
    }
}

/// Puts in what the placeholders stand for; one that nobody knows stays as it is.
fn fill(word: &str, event: &Event) -> String {
    let mut filled = String::with_capacity(word.len());
    let mut letters = word.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            filled.push(letter);
            continue;
        }
        match letters.next() {
            Some('n') => filled.push_str(&event.node_id.map_or_else(|| "0".to_owned(), |id| id.to_string())),
            Some('a') => filled.push_str(&event.node),
            Some('e') => filled.push_str(&event.event),
            Some('s') => filled.push(if event.successful { '1' } else { '0' }),
            Some('t') => filled.push_str(&event.time),
            // An argument cannot hold a zero byte, and a line break would only confuse a log.
            Some('d') => filled.extend(event.details.chars().map(|c| if c.is_control() { ' ' } else { c })),
            Some('%') => filled.push('%'),
            Some(other) => filled.extend(['%', other]),
            None => filled.push('%'),
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_become_parts_of_words_and_nothing_else() {
        let event = Event {
            event: "standby_failure".to_owned(),
            node: "db2".to_owned(),
            node_id: Some(7),
            successful: false,
            level: "warning".to_owned(),
            details: "it's $(gone)\n%n \"quoted\"".to_owned(),
            time: "2026-03-01T12:00:00+01:00".to_owned(),
            observer: "db1".to_owned(),
            subject: "node:db2".to_owned(),
            state: "warning".to_owned(),
        };
        assert_eq!(fill("--%n-%a-%e-%s-%t", &event), "--7-db2-standby_failure-0-2026-03-01T12:00:00+01:00");
        assert_eq!(fill("%d", &event), "it's $(gone) %n \"quoted\"");
        assert_eq!(fill("100%% %x %", &event), "100% %x %");
        assert_eq!(fill("%n", &Event { node_id: None, ..event }), "0");
    }
}
