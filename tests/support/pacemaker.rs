//! A cluster manager of scripts: the tools that the agent calls, with real state behind them, and what Pacemaker does
//! with it, as far as a test needs it.
//!
//! Promises: an attribute that one node sets is what every other node reads; those of a life end when the node leaves.
//! Leaves out: deciding anything by itself. A test says what happens, in the order in which Pacemaker does it.

#![allow(dead_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::support::program::{Outcome, Program};
use crate::support::workspace::{Account, Workspace, make_dir, write_file};

/// The resource.
pub const RESOURCE: &str = "pgsql";

/// `crm_attribute`, with `@STATE@` for where its state is. It takes what the agent gives it and nothing else.
const ATTRIBUTE: &str = r#"#!/bin/sh
life=options node=all name= value= job=
while [ $# -gt 0 ]; do
  case $1 in
    -N) node=$2; shift ;;
    -n) name=$2; shift ;;
    -l) life=$2; shift ;;
    -v) job=put value=$2; shift ;;
    -t) [ "$2" = crm_config ] || exit 64; shift ;;
    -G) job=get ;;
    -D) job=drop ;;
    -q) ;;
    *) echo "crm_attribute: unknown option $1" >&2; exit 64 ;;
  esac
  shift
done
[ -n "$name" ] && [ -n "$job" ] || exit 64
file=@STATE@/$life/$node/$name
case $job in
  get) [ -f "$file" ] || { echo "crm_attribute: Error performing operation: No such device or address" >&2; exit 105; }
       cat "$file" ;;
  put) mkdir -p "${file%/*}" && printf '%s\n' "$value" >"$file.$$" && mv "$file.$$" "$file" ;;
  drop) rm -f "$file" ;;
esac
"#;

const NODE: &str = r#"#!/bin/sh
case $1 in
  -p) cat @STATE@/members ;;
  -q) cat @STATE@/quorum ;;
  *) exit 64 ;;
esac
"#;

/// The cluster.
pub struct Pacemaker {
    state: PathBuf,
    tools: PathBuf,
    members: Vec<String>,
    /// Parameters of the resource.
    parameters: Vec<(String, String)>,
    /// The configuration of each member.
    configs: Vec<(String, PathBuf)>,
}

impl Pacemaker {
    /// A cluster of these members with quorum, each with its own `pgwarm.ini`.
    pub fn new(configs: &[(&str, PathBuf)]) -> Pacemaker {
        let dir = Workspace::shared().fresh_dir("pacemaker");
        let (state, tools) = (dir.join("state"), dir.join("sbin"));
        [&state, &tools].into_iter().for_each(|made| make_dir(made));
        for (name, text) in [("crm_attribute", ATTRIBUTE), ("crm_node", NODE)] {
            let path = tools.join(name);
            write_file(&path, &text.replace("@STATE@", &state.display().to_string()));
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("because it was just written");
            Account::unprivileged().own(&path);
        }
        let members = configs.iter().map(|(name, _)| (*name).to_owned()).collect();
        let configs = configs.iter().map(|(name, path)| ((*name).to_owned(), path.clone())).collect();
        let mut cluster = Pacemaker { state, tools, members, parameters: Vec::new(), configs };
        cluster.set("rep_mode", "async").set("tmpdir", dir.join("tmp").display());
        make_dir(&dir.join("tmp"));
        cluster.tell_members();
        cluster
    }

    /// Sets a parameter of the resource.
    pub fn set(&mut self, name: &str, value: impl ToString) -> &mut Pacemaker {
        self.parameters.retain(|(known, _)| known != name);
        self.parameters.push((name.to_owned(), value.to_string()));
        self
    }

    /// Where the lock file lies.
    pub fn lock(&self) -> PathBuf {
        let tmpdir = self.parameters.iter().find(|(name, _)| name == "tmpdir").map(|(_, value)| value);
        PathBuf::from(tmpdir.expect("because it is set")).join("PGSQL.lock")
    }

    /// A member is gone, with its attributes that do not outlive it.
    pub fn lose(&mut self, member: &str) {
        self.members.retain(|it| it != member);
        self.tell_members();
        let _ = fs::remove_dir_all(self.state.join("reboot").join(member));
    }

    /// It is back.
    pub fn join(&mut self, member: &str) {
        self.members.push(member.to_owned());
        self.tell_members();
    }

    fn tell_members(&self) {
        write_file(&self.state.join("members"), &format!("{}\n", self.members.join(" ")));
        write_file(&self.state.join("quorum"), "1\n");
    }

    /// Sets an option of the cluster, such as `stonith-enabled`.
    pub fn option(&self, name: &str, value: &str) {
        let folder = self.state.join("options/all");
        fs::create_dir_all(&folder).expect("because the workspace is writable");
        write_file(&folder.join(name), value);
    }

    /// An attribute of a member; empty where there is none.
    pub fn attribute(&self, member: &str, suffix: &str) -> String {
        let life = if suffix == "data-status" { "forever" } else { "reboot" };
        self.read(life, member, &format!("{RESOURCE}-{suffix}"))
    }

    /// The score of a member; empty where there is none.
    pub fn score(&self, member: &str) -> String {
        self.read("reboot", member, &format!("master-{RESOURCE}"))
    }

    fn read(&self, life: &str, member: &str, name: &str) -> String {
        let text = fs::read_to_string(self.state.join(life).join(member).join(name)).unwrap_or_default();
        text.trim().to_owned()
    }

    /// What the agent finds in its environment on a member, as Pacemaker puts it there.
    pub fn variables(&self, member: &str) -> Vec<(String, String)> {
        let (_, config) = self.configs.iter().find(|(name, _)| name == member).expect("because it is a member");
        let fixed = [
            ("HA_SBIN_DIR", self.tools.display().to_string()),
            ("OCF_ROOT", "/usr/lib/ocf".to_owned()),
            ("OCF_RESOURCE_INSTANCE", RESOURCE.to_owned()),
            ("OCF_RESKEY_pgwarm_config", config.display().to_string()),
            ("OCF_RESKEY_CRM_meta_on_node", member.to_owned()),
            ("OCF_RESKEY_CRM_meta_timeout", "60000".to_owned()),
        ];
        let fixed = fixed.into_iter().map(|(name, value)| (name.to_owned(), value));
        let set = self.parameters.iter().map(|(name, value)| (format!("OCF_RESKEY_{name}"), value.clone()));
        fixed.chain(set).collect()
    }

    /// A call of the agent on a member.
    pub fn call(&self, member: &str, action: &str) -> Program {
        let call = Program::own("pgsql-agent").arg(action);
        self.variables(member).iter().fold(call, |call, (name, value)| call.env(name, value))
    }

    /// The same, run to its end.
    pub fn run(&self, member: &str, action: &str) -> Outcome {
        self.call(member, action).run()
    }

    /// A monitor that is repeated.
    pub fn monitor(&self, member: &str) -> Outcome {
        self.call(member, "monitor").env("OCF_RESKEY_CRM_meta_interval", "30000").run()
    }

    /// A monitor that only asks what is there.
    pub fn probe(&self, member: &str) -> Outcome {
        self.call(member, "monitor").env("OCF_RESKEY_CRM_meta_interval", "0").run()
    }

    /// Promotes the member with the highest score, and tells the others.
    #[track_caller]
    pub fn promote_best(&self) -> String {
        let worth = |member: &&String| self.score(member).parse::<i32>().unwrap_or(-1);
        let best = self.members.iter().max_by_key(worth).filter(|member| worth(member) > 0);
        let best = best.unwrap_or_else(|| panic!("nobody may be promoted")).clone();
        self.run(&best, "promote").expect_ok();
        self.promoted(&best);
        best
    }

    /// Tells every other member that one was promoted.
    pub fn promoted(&self, best: &str) {
        for member in self.members.iter().filter(|member| *member != best) {
            let call = self.call(member, "notify").env("OCF_RESKEY_CRM_meta_notify_type", "post");
            let call = call.env("OCF_RESKEY_CRM_meta_notify_operation", "promote");
            call.env("OCF_RESKEY_CRM_meta_notify_promote_uname", format!("{best} ")).run().expect_ok();
        }
    }
}
