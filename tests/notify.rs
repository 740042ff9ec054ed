//! The hooks as an operator has them: programs of theirs, called by `archive-wal` in many processes, told once.

mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::workspace::write_file;
use support::{Layout, Server};

/// A hook that keeps its last argument and its standard input.
fn hook(folder: &Path, level: &str) -> String {
    let path = folder.join(format!("{level}.sh"));
    let (words, story) = (folder.join(level), folder.join(format!("{level}.json")));
    write_file(
        &path,
        &format!("for last; do :; done\necho \"$last\" >> {}\ncat >> {}\n", words.display(), story.display()),
    );
    format!("sh {} first", path.display())
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn a_place_that_is_down_is_told_once_however_many_files_wait_for_it() {
    let server = Server::builder("told").wal_segsize(1).start();
    let mut layout = Layout::new("told", &["alpha", "beta"]);
    layout.node_mut("alpha").serve(&server);
    // Nobody listens on this port of loopback.
    layout.node_mut("beta").set("ssh_port", 1);
    layout.set("archive", "ack", "local").set("archive", "worker", "off").set("ssh", "connect_timeout", "5s");
    let folder = layout.node("alpha").dir.clone();
    for level in ["ok", "warning", "critical"] {
        let words = hook(&folder, level);
        layout.set("notify", level, words);
    }
    layout.write();
    layout.program("alpha", "archive-wal").args(["--init", "alpha"]).run().expect_ok();
    for _ in 0..3 {
        let segment = server.switch_wal();
        let path = server.pgdata().join("pg_wal").join(segment);
        layout.program("alpha", "archive-wal").arg(path).dir(server.pgdata()).run().expect_ok();
    }
    let told: Vec<_> = lines(&folder.join("warning")).into_iter().chain(lines(&folder.join("critical"))).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    let stories: Vec<_> =
        lines(&folder.join("warning.json")).into_iter().chain(lines(&folder.join("critical.json"))).collect();
    let story: Value = serde_json::from_str(&stories.join("")).expect("because a hook is given JSON");
    assert_eq!(story["message"], told[0].as_str());
    assert_eq!((story["node"].as_str(), story["program"].as_str()), (Some("alpha"), Some("archive-wal")));
    assert_eq!(lines(&folder.join("ok")), Vec::<String>::new());
}
