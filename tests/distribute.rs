//! `distribute` over a real sshd. Both nodes are this machine, so the far end's key is bound to a shell that sees
//! `beta`'s files where `alpha` has its own.

mod support;

#[path = "support/sshd.rs"]
mod sshd;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sshd::Sshd;
use support::workspace::{make_dir, write_file};
use support::{Layout, Outcome, Program};

struct Scene {
    sshd: Sshd,
    layout: Layout,
}

impl Scene {
    fn new(name: &str) -> Scene {
        let sshd = Sshd::start();
        sshd::own(&sshd.key());
        let mut layout = Layout::new(name, &["alpha", "beta"]);
        layout.reach_by_ssh(sshd.port(), &sshd.user(), &sshd.key(), &sshd.known_hosts());
        layout.set("ssh", "connect_timeout", "10s").write();
        let far = sshd.path("far.sh");
        let (ours, theirs) = (layout.node("alpha").config.clone(), layout.node("beta").config.clone());
        let script = format!(
            "exec sh -c \"$(printf '%s\\n' \"$SSH_ORIGINAL_COMMAND\" | sed 's#{}#{}#g')\"\n",
            ours.display(),
            theirs.display()
        );
        fs::write(&far, script).expect("because the folder is the test's");
        sshd.authorize(&format!("command=\"sh {}\"", far.display()));
        Scene { sshd, layout }
    }

    /// Makes beta's file differ from alpha's, and says where it is.
    fn drift(&self) -> PathBuf {
        let theirs = self.layout.shared_file("beta");
        let text = self.layout.shared_text().replace("connect_timeout = 10s", "connect_timeout = 7s");
        write_file(&theirs, &text);
        theirs
    }

    fn distribute(&self, words: &[&str]) -> Outcome {
        self.program(words).run()
    }

    fn program(&self, words: &[&str]) -> Program {
        self.layout.program("alpha", "distribute").args(words)
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read '{}': {error}", path.display()))
}

#[test]
fn without_yes_the_difference_is_shown_and_nothing_is_sent() {
    let scene = Scene::new("shown");
    let theirs = scene.drift();
    let before = read(&theirs);
    let outcome = scene.distribute(&[]).expect_code(20);
    assert!(outcome.stdout.contains("-connect_timeout = 7s\n+connect_timeout = 10s\n"), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("[refused]") && outcome.stderr.contains("--yes"), "{}", outcome.stderr);
    assert_eq!(read(&theirs), before);
    let outcome = scene.distribute(&["--dry-run"]).expect_ok();
    assert!(outcome.stdout.contains("pending"), "{}", outcome.stdout);
    assert_eq!(read(&theirs), before);
}

#[test]
fn the_shared_file_arrives_the_old_one_is_kept_and_the_local_one_stays() {
    let scene = Scene::new("sent");
    let theirs = scene.drift();
    let (old, local) = (read(&theirs), read(&theirs.with_file_name("pgwarm.local.ini")));
    let outcome = scene.distribute(&["--yes", "--json"]).expect_ok();
    let report: Value = serde_json::from_str(&outcome.stdout).expect("because --json prints JSON");
    assert_eq!(report["changes"], 1);
    assert_eq!(report["results"][0]["outcome"], "replaced");
    assert_eq!(read(&theirs), read(&scene.layout.shared_file("alpha")));
    assert_eq!(read(&theirs.with_file_name("pgwarm.ini.previous")), old);
    assert_eq!(read(&theirs.with_file_name("pgwarm.local.ini")), local);
    assert_eq!(fs::metadata(&theirs).map(|data| data.permissions().mode() & 0o777).ok(), Some(0o644));
    let again = scene.distribute(&["--yes"]).expect_ok();
    assert!(again.stdout.contains("same") && !again.stdout.contains("---"), "{}", again.stdout);
    let names: Vec<_> =
        fs::read_dir(&scene.layout.node("beta").config).expect("because it is there").flatten().collect();
    assert_eq!(names.len(), 3, "{names:?}");
}

#[test]
fn a_node_that_cannot_be_reached_stops_no_other() {
    let mut scene = Scene::new("partly");
    let mut layout = Layout::new("partly", &["alpha", "beta", "gone"]);
    std::mem::swap(&mut scene.layout, &mut layout);
    scene.layout.reach_by_ssh(scene.sshd.port(), &scene.sshd.user(), &scene.sshd.key(), &scene.sshd.known_hosts());
    scene.layout.set("ssh", "connect_timeout", "10s");
    // Nobody listens on this port of loopback.
    scene.layout.node_mut("gone").set("ssh_port", 1);
    scene.layout.write();
    let (ours, theirs) = (scene.layout.node("alpha").config.clone(), scene.layout.node("beta").config.clone());
    let script = "exec sh -c \"$(printf '%s\\n' \"$SSH_ORIGINAL_COMMAND\" | sed 's#OURS#THEIRS#g')\"\n";
    let script = script.replace("OURS", &ours.display().to_string()).replace("THEIRS", &theirs.display().to_string());
    fs::write(scene.sshd.path("far.sh"), script).expect("because the folder is the test's");
    let theirs = scene.drift();
    let outcome = scene.distribute(&["--yes"]).expect_code(40);
    assert!(outcome.stdout.contains("replaced") && outcome.stdout.contains("failed"), "{}", outcome.stdout);
    assert_eq!(read(&theirs), read(&scene.layout.shared_file("alpha")));
}

#[test]
fn programs_are_sent_once_and_run_there() {
    let mut scene = Scene::new("programs");
    let there = scene.layout.dir.join("bin");
    make_dir(&there);
    scene.layout.node_mut("beta").set("programs", there.display());
    scene.layout.write();
    let outcome = scene.distribute(&["--yes", "--programs"]).expect_ok();
    let put = there.join("check-node");
    assert!(put.is_file(), "{}", outcome.stdout);
    let version = Program::at(&put).arg("--version").run().expect_ok();
    assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")), "{}", version.stdout);
    let again = scene.distribute(&["--yes", "--programs"]).expect_ok();
    assert!(!again.stdout.contains("put"), "{}", again.stdout);
}

#[test]
fn a_configuration_that_does_not_hold_together_is_not_sent() {
    let scene = Scene::new("invalid");
    let theirs = scene.drift();
    let before = read(&theirs);
    let text = format!("{}\n[archive]\nretrry = 10s\n", read(&scene.layout.shared_file("alpha")));
    write_file(&scene.layout.shared_file("alpha"), &text);
    scene.distribute(&["--yes"]).expect_code(10);
    assert_eq!(read(&theirs), before);
    assert!(!theirs.with_file_name("pgwarm.ini.previous").exists());
}

#[test]
fn a_name_that_is_no_node_or_this_one_is_refused() {
    let scene = Scene::new("names");
    scene.distribute(&["--to", "nobody"]).expect_code(2);
    scene.distribute(&["--to", "alpha"]).expect_code(2);
}
