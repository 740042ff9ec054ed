//! `pgsql-agent`: the resource agent `ocf:pgwarm:pgsql`, called by Pacemaker with one action and its parameters in the
//! environment.
//!
//! Its exit codes are those of resource agents, not pgwarm's own. As root it is the keeper, which does nothing but
//! start the agent as the owner of the data directory, and ask the cluster manager for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;

use super::output;
use crate::agent::cluster::{Cluster, Tools};
use crate::agent::eyes::{self, Agent};
use crate::agent::hands;
use crate::agent::keeper::{self, KEPT, Kept, User};
use crate::agent::metadata;
use crate::agent::ocf::{ACTIONS, Action, Ocf, say_reason};
use crate::agent::parameters::{self, Parameters};
use crate::error::{Class, Failure};
use crate::system::logging::{self, Sinks};

const NAME: &str = "pgsql-agent";

/// The whole `main`.
pub fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (kept, words) = match words.split_first() {
        Some((&KEPT, rest)) => (true, rest),
        _ => (false, &words[..]),
    };
    let code = catch_unwind(AssertUnwindSafe(|| called(words, kept))).unwrap_or(Ocf::Generic.code());
    if kept {
        keeper::end(code);
    }
    ExitCode::from(code)
}

fn called(words: &[&str], kept: bool) -> u8 {
    let [word] = words else { return usage(Ocf::Generic) };
    match (*word, Action::of(word)) {
        ("--help" | "-h", _) => usage(Ocf::Success),
        ("--version" | "-V", _) => shown(&format!("{NAME} {}\n", env!("CARGO_PKG_VERSION"))),
        (_, Some(Action::MetaData)) => shown(&metadata::xml()),
        (_, Some(Action::Methods)) => shown(&ACTIONS.iter().map(|(_, word)| format!("{word}\n")).collect::<String>()),
        (_, Some(action)) => answered(action, kept),
        (_, None) => usage(Ocf::Unimplemented),
    }
}

/// Prints how it is called.
fn usage(code: Ocf) -> u8 {
    let words: Vec<&str> = ACTIONS.iter().map(|(_, word)| *word).collect();
    let text = format!("usage: {NAME} <{}>\n", words.join(" | "));
    match shown(&text) {
        0 => code.code(),
        failed => failed,
    }
}

fn shown(text: &str) -> u8 {
    output::print(text).map_or(Ocf::Generic, |()| Ocf::Success).code()
}

/// Carries out an action, as whoever we are.
fn answered(action: Action, kept: bool) -> u8 {
    let parameters = match parameters::read(&|name| std::env::var(name).ok()) {
        Ok(parameters) => parameters,
        Err(failure) => return unknown(action, &failure).code(),
    };
    let root = rustix::process::geteuid().is_root();
    let folder = std::env::var_os("HA_SBIN_DIR").map(PathBuf::from);
    let tools = Tools::new(folder, parameters.tools);
    let done = match (root, kept) {
        (true, true) => Err(Failure::new(Class::Bug, "the agent was to give up being root and has not")),
        (true, false) => return as_owner(action, parameters, &tools),
        (false, true) => carry_out(action, parameters, Box::new(Kept::new())),
        (false, false) => carry_out(action, parameters, Box::new(tools)),
    };
    done.unwrap_or_else(|failure| {
        say_reason(&failure);
        Ocf::of(failure.class)
    })
    .code()
}

/// Where nothing says what the server is, a monitor finds none. A stop is no guess: whoever is told that it succeeded
/// starts another primary.
fn unknown(action: Action, failure: &Failure) -> Ocf {
    say_reason(failure);
    match action {
        Action::Stop => Ocf::Generic,
        Action::Notify => Ocf::Success,
        Action::Monitor | Action::Status => Ocf::NotRunning,
        _ => Ocf::of(failure.class),
    }
}

/// Root's part.
fn as_owner(action: Action, mut parameters: Parameters, tools: &dyn Cluster) -> u8 {
    let mut user = || -> Result<User, Failure> {
        if let Some(user) = &parameters.user {
            return User::find(user);
        }
        let (config, _) = eyes::load(&mut parameters)?;
        let pgdata = config.own().pgdata.clone();
        let pgdata = pgdata.ok_or_else(|| Failure::new(Class::Config, "nothing says where the data directory is"))?;
        User::owning(&pgdata)
    };
    let user = match user() {
        Ok(user) => user,
        Err(failure) => return unknown(action, &failure).code(),
    };
    let resource = parameters.resource.clone();
    match keeper::keep(&user, &resource, &action.to_string(), tools) {
        Ok(code) => code,
        Err(failure) => {
            say_reason(&failure);
            Ocf::Generic.code()
        }
    }
}

fn carry_out(action: Action, parameters: Parameters, cluster: Box<dyn Cluster>) -> Result<Ocf, Failure> {
    let agent = match Agent::new(parameters, cluster) {
        Ok(agent) => agent,
        Err(failure) => return Ok(unknown(action, &failure)),
    };
    let log = &agent.config.log;
    let sinks = Sinks {
        program: NAME,
        level: log.level,
        file: log.file.clone(),
        syslog: log.syslog.then(|| logging::SYSLOG.into()),
    };
    logging::start(&sinks);
    hands::carry_out(&agent, action)
}
