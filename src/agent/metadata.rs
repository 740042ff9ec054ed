//! The description that `meta-data` prints: parameters and actions, as the cluster manager reads them.

use std::fmt::Write;

use super::parameters::ROWS;

/// Each action with its timeout and, for one that is repeated, its interval and role as attributes.
const ADVERTISED: &[(&str, &str, &str)] = &[
    ("start", "120s", ""),
    ("stop", "120s", ""),
    ("status", "60s", ""),
    ("monitor", "30s", " interval=\"30s\" depth=\"0\""),
    ("monitor", "30s", " interval=\"29s\" depth=\"0\" role=\"Promoted\""),
    ("promote", "120s", ""),
    ("demote", "120s", ""),
    ("notify", "90s", ""),
    ("reload", "60s", ""),
    ("methods", "5s", ""),
    ("meta-data", "5s", ""),
    ("validate-all", "30s", ""),
];

const LONG: &str = "Runs a PostgreSQL server, alone or as one of several nodes that stream to each other. \
    What pgwarm knows decides: a standby is promoted by the rules of trigger-failover, a former primary comes back by \
    those of standby-init, and nothing starts on data that have gone their own way. pgwarm.ini says where everything \
    is; a parameter that is set here wins over it.";

/// The description.
pub fn xml() -> String {
    let mut text = format!(
        "<?xml version=\"1.0\"?>\n<!DOCTYPE resource-agent SYSTEM \"ra-api-1.dtd\">\n\
         <resource-agent name=\"pgsql\" version=\"{}\">\n<version>1.0</version>\n<longdesc lang=\"en\">{LONG}</longdesc>\n\
         <shortdesc lang=\"en\">Manages a PostgreSQL server by pgwarm</shortdesc>\n<parameters>\n",
        env!("CARGO_PKG_VERSION")
    );
    for row in ROWS {
        let (name, kind, default) = (row.name, row.kind, escaped(row.default));
        let says = if row.honoured { escaped(row.says) } else { format!("Ignored: {}.", escaped(row.says)) };
        let short = if row.honoured { name.replace('_', " ") } else { format!("{} (ignored)", name.replace('_', " ")) };
        let _ = write!(
            text,
            "<parameter name=\"{name}\" unique=\"0\" required=\"0\">\n<longdesc lang=\"en\">{says}</longdesc>\n\
             <shortdesc lang=\"en\">{short}</shortdesc>\n<content type=\"{kind}\" default=\"{default}\"/>\n</parameter>\n"
        );
    }
    text.push_str("</parameters>\n<actions>\n");
    for (name, timeout, more) in ADVERTISED {
        let _ = writeln!(text, "<action name=\"{name}\" timeout=\"{timeout}\"{more}/>");
    }
    text.push_str("</actions>\n</resource-agent>\n");
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::ocf::ACTIONS;

    #[test]
    fn every_action_and_every_parameter_is_described() {
        let text = xml();
        for (_, word) in ACTIONS {
            assert!(text.contains(&format!("<action name=\"{word}\"")), "{word}");
        }
        assert_eq!(text.matches("<parameter name=").count(), ROWS.len());
        assert!(text.contains("Ignored: pgwarm speaks to the server itself."));
        assert_eq!(escaped("<a & \"b\">"), "&lt;a &amp; &quot;b&quot;&gt;");
    }
}
