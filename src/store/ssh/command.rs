//! The command line of ssh: what is fixed for safety, what the configuration says, and the far end's command, quoted.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A program of ours at the far end, and its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FarCommand {
    /// Its name; where it is stands in the settings.
    pub program: &'static str,
    /// What follows its name.
    pub words: Vec<String>,
}

impl FarCommand {
    /// The far end of the store.
    pub(super) fn serve_archive(settings: &SshSettings) -> FarCommand {
        let archive = settings.archive.to_string_lossy().into_owned();
        let words = vec!["--archive".to_owned(), archive, "--cluster".to_owned(), settings.cluster.clone()];
        FarCommand { program: "serve-archive", words }
    }
}

/// How a place behind ssh is reached, and what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshSettings {
    /// The ssh program.
    pub program: PathBuf,
    /// Host name or address, or an alias in the user's ssh configuration.
    pub host: String,
    /// The user there; none: as the user's ssh configuration says.
    pub user: Option<String>,
    /// The port; none: as the user's ssh configuration says.
    pub port: Option<u16>,
    /// The private key; none: the agent, or the user's own keys.
    pub key: Option<PathBuf>,
    /// ProxyJump.
    pub jump: Option<String>,
    /// The file of known host keys; none: the user's own.
    pub known_hosts: Option<PathBuf>,
    /// Words put before the host, each as it is.
    pub options: Vec<String>,
    /// How long it may take until the far end has said hello.
    pub connect_timeout: Duration,
    /// How long one operation may take.
    pub deadline: Duration,
    /// A peer that does not answer for so long is dead.
    pub dead_after: Duration,
    /// Where pgwarm's programs are there; none: found in its PATH.
    pub remote_programs: Option<PathBuf>,
    /// The archive's directory there, which holds a folder for each cluster.
    pub archive: PathBuf,
    /// The name of the cluster.
    pub cluster: String,
}

/// What ssh must do whatever the user's configuration says: ask nobody, trust no unknown host, carry nothing but our
/// stream, and be a connection of its own, so that ending it ends it. The first value that ssh sees counts.
const FIXED: &[&str] = &[
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "UpdateHostKeys=no",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "Tunnel=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "ControlMaster=no",
    "ControlPath=none",
    "ForkAfterAuthentication=no",
    "StdinNull=no",
    "SessionType=default",
    "EscapeChar=none",
    "LogLevel=INFO",
];

/// The words that follow the name of the ssh program, up to the host; the command there comes behind them.
pub fn arguments(settings: &SshSettings) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["-T".into()];
    let mut option = |text: String| words.push(format!("-o{text}").into());
    FIXED.iter().for_each(|fixed| option((*fixed).to_owned()));
    option(format!("ConnectTimeout={}", whole_seconds(settings.connect_timeout)));
    let (interval, count) = alive(settings.dead_after);
    option(format!("ServerAliveInterval={interval}"));
    option(format!("ServerAliveCountMax={count}"));
    if let Some(port) = settings.port {
        option(format!("Port={port}"));
    }
    if let Some(jump) = &settings.jump {
        option(format!("ProxyJump={jump}"));
    }
    if settings.key.is_some() {
        option("IdentitiesOnly=yes".to_owned());
    }
    if let Some(file) = &settings.known_hosts {
        words.push(path_option("UserKnownHostsFile", file));
        // What the system's file says must not vouch for a host that the file named here does not know.
        words.push("-oGlobalKnownHostsFile=none".into());
    }
    if let Some(key) = &settings.key {
        words.push("-i".into());
        words.push(key.into());
    }
    if let Some(user) = &settings.user {
        words.push("-l".into());
        words.push(user.into());
    }
    words.extend(settings.options.iter().map(OsString::from));
    words.push("--".into());
    words.push((&settings.host).into());
    words
}

/// An option that is a path: in quotes, since ssh splits the value at blanks. ssh knows no `~` or `%` escape inside a
/// path that this would hide.
fn path_option(name: &str, path: &Path) -> OsString {
    let mut word = OsString::from(format!("-o{name}=\""));
    word.push(path);
    word.push("\"");
    word
}

/// The far end's command as one word for the shell there.
pub(super) fn far_command(settings: &SshSettings, command: &FarCommand) -> OsString {
    let program = match &settings.remote_programs {
        Some(folder) => folder.join(command.program),
        None => PathBuf::from(command.program),
    };
    let words = std::iter::once(quote(&program.to_string_lossy())).chain(command.words.iter().map(|word| quote(word)));
    words.collect::<Vec<_>>().join(" ").into()
}

/// Quotes a word for any shell an account may have: single quotes mean the same to all of them.
fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+=:,@".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// What no setting of a store may hold, as a sentence; `None` where all is well.
pub(super) fn objection(settings: &SshSettings) -> Option<String> {
    far_objection(settings).or_else(|| path_objection(&settings.archive))
}

/// What no setting for any program at the far end may hold.
pub(super) fn far_objection(settings: &SshSettings) -> Option<String> {
    let texts =
        [settings.host.as_str(), settings.user.as_deref().unwrap_or("x"), settings.jump.as_deref().unwrap_or("x")];
    if let Some(text) =
        texts.iter().find(|t| t.is_empty() || t.starts_with('-') || t.contains(|c: char| c.is_control()))
    {
        return Some(format!("'{}' is no host or user", text.escape_debug()));
    }
    settings.remote_programs.as_deref().and_then(path_objection)
}

fn path_objection(path: &Path) -> Option<String> {
    let Some(text) = path.to_str() else { return Some(format!("the path '{}' is not UTF-8", path.display())) };
    if text.contains(|c: char| c.is_control()) {
        return Some(format!("the path '{}' holds control characters", text.escape_debug()));
    }
    if !path.is_absolute() {
        return Some(format!("the path '{text}' is not absolute"));
    }
    None
}

/// ServerAliveInterval and ServerAliveCountMax: a dead peer is noticed after interval × (count + 1) at the latest.
fn alive(dead_after: Duration) -> (u64, u64) {
    let seconds = dead_after.as_secs().max(2);
    let interval = (seconds / 3).max(1);
    (interval, (seconds / interval).saturating_sub(1).max(1))
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().max(1)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::store::ssh) fn settings() -> SshSettings {
        SshSettings {
            program: PathBuf::from("ssh"),
            host: "db2".to_owned(),
            user: None,
            port: None,
            key: None,
            jump: None,
            known_hosts: None,
            options: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            deadline: Duration::from_secs(30),
            dead_after: Duration::from_secs(6),
            remote_programs: None,
            archive: PathBuf::from("/srv/wal"),
            cluster: "main".to_owned(),
        }
    }

    fn words(settings: &SshSettings) -> Vec<String> {
        arguments(settings).into_iter().map(|word| word.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn what_is_fixed_stands_before_what_the_user_adds() {
        let mut settings = settings();
        settings.options = vec!["-oStrictHostKeyChecking=no".to_owned()];
        let words = words(&settings);
        let at = |text: &str| words.iter().position(|word| word == text).expect(text);
        assert!(at("-oStrictHostKeyChecking=yes") < at("-oStrictHostKeyChecking=no"));
        assert!(at("-oStrictHostKeyChecking=no") < at("--"));
        assert_eq!(words[at("--") + 1..], ["db2"]);
        let command = far_command(&settings, &FarCommand::serve_archive(&settings));
        assert_eq!(command, "serve-archive --archive /srv/wal --cluster main");
    }

    #[test]
    fn port_user_key_and_jump_are_given_on() {
        let mut settings = settings();
        settings.port = Some(2222);
        settings.user = Some("postgres".to_owned());
        settings.key = Some(PathBuf::from("/etc/a key"));
        settings.jump = Some("bastion:22".to_owned());
        settings.known_hosts = Some(PathBuf::from("/etc/known hosts"));
        let words = words(&settings);
        for word in ["-oPort=2222", "-oProxyJump=bastion:22", "-oIdentitiesOnly=yes", "/etc/a key", "postgres"] {
            assert!(words.iter().any(|w| w == word), "{word} in {words:?}");
        }
        assert!(words.contains(&"-oUserKnownHostsFile=\"/etc/known hosts\"".to_owned()));
    }

    #[test]
    fn the_shell_there_gets_every_word_whole() {
        for word in ["", "a b", "it's", "$(reboot)", "a;b", "`x`", "a\\b", "*", "~", "!1"] {
            let output = std::process::Command::new("sh").arg("-c").arg(format!("printf %s {}", quote(word))).output();
            assert_eq!(output.expect("sh runs").stdout, word.as_bytes(), "{word}");
        }
    }

    #[test]
    fn a_dead_peer_is_noticed_in_time() {
        for seconds in 2..400 {
            let (interval, count) = alive(Duration::from_secs(seconds));
            assert!(interval * (count + 1) <= seconds, "{seconds} s: {interval} × ({count} + 1)");
        }
        assert_eq!(alive(Duration::from_secs(6)), (2, 2));
    }

    #[test]
    fn what_could_be_read_otherwise_is_refused() {
        let base = settings();
        assert_eq!(objection(&base), None);
        let bad = [
            SshSettings { host: "-oProxyCommand=x".to_owned(), ..base.clone() },
            SshSettings { host: String::new(), ..base.clone() },
            SshSettings { user: Some("-x".to_owned()), ..base.clone() },
            SshSettings { archive: PathBuf::from("relative"), ..base.clone() },
            SshSettings { archive: PathBuf::from("/a\nb"), ..base },
        ];
        for settings in bad {
            assert!(objection(&settings).is_some(), "{settings:?}");
        }
    }
}
