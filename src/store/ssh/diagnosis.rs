//! Why ssh ended: its last words, turned into a reason and a sentence that says what to do.

use std::process::ExitStatus;

use super::command::SshSettings;

/// What an ended ssh means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// What happened.
    pub reason: String,
    /// What to do, where that is known.
    pub hint: Option<String>,
}

/// One known case: what stands in the words of ssh, the reason, the hint. `{host}`, `{user}`, `{program}` and
/// `{known_hosts}` are filled in.
struct Case {
    words: &'static str,
    reason: &'static str,
    hint: &'static str,
}

/// First match wins; so the more telling line stands before the one that ssh prints after it.
const CASES: &[Case] = &[
    Case {
        words: "REMOTE HOST IDENTIFICATION HAS CHANGED",
        reason: "the host key of '{host}' is not the one that is known",
        hint: "Somebody may be in between. If the machine was set up anew, compare the key's fingerprint there, then \
               replace the old key in {known_hosts}.",
    },
    Case {
        words: "host key is known for",
        reason: "the host key of '{host}' is not known",
        hint: "Compare the fingerprint of the key on that machine, then add the key to {known_hosts}.",
    },
    Case {
        words: "Host key verification failed",
        reason: "the host key of '{host}' could not be verified",
        hint: "Compare the fingerprint of the key on that machine, then add the key to {known_hosts}.",
    },
    Case {
        words: "UNPROTECTED PRIVATE KEY FILE",
        reason: "the private key can be read by others, so ssh does not use it",
        hint: "Make the key file readable for its owner only: chmod 600.",
    },
    Case {
        words: "Bad owner or permissions on",
        reason: "ssh does not trust its configuration file",
        hint: "The file must belong to the user and be writable by nobody else.",
    },
    Case {
        words: "Too many authentication failures",
        reason: "'{host}' refused after too many keys were tried",
        hint: "Name the one key to use with 'ssh_key' in the node's section.",
    },
    Case {
        words: "Permission denied (",
        reason: "'{host}' does not accept the key of this user ('{user}' there)",
        hint: "Add the public key to authorized_keys of '{user}' there, or name another with 'ssh_key'; a locked \
               account refuses every key.",
    },
    Case {
        words: "Could not resolve hostname",
        reason: "the name '{host}' cannot be resolved",
        hint: "Check 'host' in the node's section, /etc/hosts and the name service.",
    },
    Case {
        words: "Connection refused",
        reason: "'{host}' refused the connection",
        hint: "Check that sshd runs there, and the port ('ssh_port').",
    },
    Case {
        words: "No route to host",
        reason: "there is no route to '{host}'",
        hint: "Check that the machine is up and the network between.",
    },
    Case {
        words: "Network is unreachable",
        reason: "the network of '{host}' cannot be reached",
        hint: "Check the network of this machine.",
    },
    Case {
        words: "not responding",
        reason: "'{host}' stopped answering",
        hint: "Check that the machine is up and the network between.",
    },
    Case {
        words: "timed out",
        reason: "'{host}' did not answer",
        hint: "Check that the machine is up, the port ('ssh_port'), and any firewall between.",
    },
    Case {
        words: "account is currently not available",
        reason: "'{user}' on '{host}' may not log in",
        hint: "The account needs a shell, such as /bin/sh, even for a forced command.",
    },
    Case {
        words: "onnection closed by",
        reason: "'{host}' closed the connection",
        hint: "The log of sshd there says why; MaxStartups and AllowUsers are usual reasons.",
    },
    Case {
        words: "onnection reset",
        reason: "the connection to '{host}' was reset",
        hint: "The log of sshd there says why.",
    },
];

/// Where the far end's program is missing the shell says so with this status.
const NOT_FOUND: i32 = 127;
/// The shell found a file, but it is no program that may run.
const NOT_EXECUTABLE: i32 = 126;

/// Tells from the words and the end of ssh what happened. `program` should run there; `status` is none where ssh was
/// still running, or was ended.
pub(super) fn diagnose(words: &str, status: Option<ExitStatus>, program: &str, settings: &SshSettings) -> Diagnosis {
    let code = status.and_then(|status| status.code());
    let last = last_words(words);
    if code == Some(NOT_FOUND) || code == Some(NOT_EXECUTABLE) {
        let reason = format!("{program} cannot be run on '{}': {last}", settings.host);
        let hint = "Install pgwarm there, or say where it is with 'programs' in the node's section; \
                    'distribute --programs' installs it.";
        return Diagnosis { reason, hint: Some(hint.to_owned()) };
    }
    // Any other code but 255 is the far end's own: ssh has nothing to say then.
    let ssh_spoke = code.is_none_or(|code| code == 255);
    if let Some(case) = CASES.iter().find(|case| ssh_spoke && words.contains(case.words)) {
        let reason = format!("{} (ssh: {last})", fill(case.reason, settings));
        return Diagnosis { reason, hint: Some(fill(case.hint, settings)) };
    }
    ended(words, status, "ssh")
}

/// The end of `program` and its last words, as they are.
pub(super) fn ended(words: &str, status: Option<ExitStatus>, program: &str) -> Diagnosis {
    let last = last_words(words);
    let end =
        status.map_or_else(|| "the connection ended".to_owned(), |status| format!("{program} ended with {status}"));
    let reason = if last.is_empty() { end } else { format!("{end}: {last}") };
    Diagnosis { reason, hint: None }
}

fn fill(text: &str, settings: &SshSettings) -> String {
    let user = settings.user.as_deref().unwrap_or("the user");
    let known_hosts =
        settings.known_hosts.as_ref().map_or_else(|| "~/.ssh/known_hosts".to_owned(), |f| format!("'{}'", f.display()));
    text.replace("{host}", &settings.host).replace("{user}", user).replace("{known_hosts}", &known_hosts)
}

/// The last line that says something, without control characters.
fn last_words(words: &str) -> String {
    let line = words.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::super::command::tests::settings;
    use super::*;

    const SERVE: &str = "serve-archive";

    fn code(code: i32) -> Option<ExitStatus> {
        Some(ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn every_case_is_told_by_the_words_of_ssh() {
        let cases = [
            (
                "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.\r\n",
                "not the one that is known",
            ),
            (
                "No ED25519 host key is known for db2 and you have requested strict checking.\nHost key verification failed.",
                "is not known",
            ),
            ("Host key verification failed.", "could not be verified"),
            ("a@db2: Permission denied (publickey).", "does not accept the key"),
            ("@ WARNING: UNPROTECTED PRIVATE KEY FILE! @\na@db2: Permission denied (publickey).", "read by others"),
            ("ssh: connect to host db2 port 22: Connection refused", "refused the connection"),
            ("ssh: connect to host db2 port 22: Connection timed out", "did not answer"),
            ("ssh: connect to host db2 port 22: No route to host", "no route"),
            ("ssh: Could not resolve hostname db2: Name or service not known", "cannot be resolved"),
            ("Timeout, server db2 not responding.", "stopped answering"),
            ("kex_exchange_identification: Connection closed by remote host", "closed the connection"),
            ("Received disconnect from 10.0.0.1 port 22:2: Too many authentication failures", "too many keys"),
            ("This account is currently not available.", "may not log in"),
        ];
        for (words, reason) in cases {
            let diagnosis = diagnose(words, code(255), SERVE, &settings());
            assert!(diagnosis.reason.contains(reason), "{words}: {}", diagnosis.reason);
            assert!(diagnosis.hint.is_some_and(|hint| hint.ends_with('.') && !hint.contains('{')), "{words}");
        }
    }

    #[test]
    fn a_missing_program_is_told_by_the_status() {
        let diagnosis = diagnose("bash: line 1: serve-archive: command not found\n", code(127), SERVE, &settings());
        assert_eq!(
            diagnosis.reason,
            "serve-archive cannot be run on 'db2': bash: line 1: serve-archive: command not found"
        );
        assert!(diagnosis.hint.is_some_and(|hint| hint.contains("programs")));
    }

    #[test]
    fn the_far_ends_own_words_are_passed_on() {
        let words = "serve-archive: ERROR: [refused] connection refused by me";
        let diagnosis = diagnose(words, code(20), SERVE, &settings());
        assert_eq!(diagnosis.reason, format!("ssh ended with exit status: 20: {words}"));
        assert_eq!(diagnose("", None, SERVE, &settings()).reason, "the connection ended");
    }
}
