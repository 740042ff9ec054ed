//! THE table of connection keywords: every one that libpq knows up to PostgreSQL 18, its environment variable, and
//! whether its value is a secret. What a keyword does is decided in `resolve`.

/// One keyword of a connection string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keyword {
    /// The keyword as it is written in a connection string.
    pub name: &'static str,
    /// The environment variable that supplies it where neither the string nor the service file does.
    pub variable: Option<&'static str>,
    /// Its value is never printed.
    pub secret: bool,
}

const fn plain(name: &'static str) -> Keyword {
    Keyword { name, variable: None, secret: false }
}

const fn from_environment(name: &'static str, variable: &'static str) -> Keyword {
    Keyword { name, variable: Some(variable), secret: false }
}

const fn secret(name: &'static str, variable: Option<&'static str>) -> Keyword {
    Keyword { name, variable, secret: true }
}

/// Every keyword, in the order in which a connection string is printed.
pub const KEYWORDS: &[Keyword] = &[
    from_environment("service", "PGSERVICE"),
    from_environment("servicefile", "PGSERVICEFILE"),
    from_environment("host", "PGHOST"),
    from_environment("hostaddr", "PGHOSTADDR"),
    from_environment("port", "PGPORT"),
    from_environment("dbname", "PGDATABASE"),
    from_environment("user", "PGUSER"),
    secret("password", Some("PGPASSWORD")),
    from_environment("passfile", "PGPASSFILE"),
    from_environment("require_auth", "PGREQUIREAUTH"),
    from_environment("channel_binding", "PGCHANNELBINDING"),
    from_environment("connect_timeout", "PGCONNECT_TIMEOUT"),
    from_environment("client_encoding", "PGCLIENTENCODING"),
    from_environment("options", "PGOPTIONS"),
    from_environment("application_name", "PGAPPNAME"),
    plain("fallback_application_name"),
    plain("keepalives"),
    plain("keepalives_idle"),
    plain("keepalives_interval"),
    plain("keepalives_count"),
    plain("tcp_user_timeout"),
    plain("replication"),
    from_environment("sslmode", "PGSSLMODE"),
    from_environment("sslnegotiation", "PGSSLNEGOTIATION"),
    from_environment("sslcompression", "PGSSLCOMPRESSION"),
    from_environment("sslcert", "PGSSLCERT"),
    from_environment("sslkey", "PGSSLKEY"),
    plain("sslkeylogfile"),
    secret("sslpassword", None),
    from_environment("sslcertmode", "PGSSLCERTMODE"),
    from_environment("sslrootcert", "PGSSLROOTCERT"),
    from_environment("sslcrl", "PGSSLCRL"),
    from_environment("sslcrldir", "PGSSLCRLDIR"),
    from_environment("sslsni", "PGSSLSNI"),
    from_environment("requirepeer", "PGREQUIREPEER"),
    from_environment("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    from_environment("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    from_environment("min_protocol_version", "PGMINPROTOCOLVERSION"),
    from_environment("max_protocol_version", "PGMAXPROTOCOLVERSION"),
    from_environment("gssencmode", "PGGSSENCMODE"),
    from_environment("krbsrvname", "PGKRBSRVNAME"),
    from_environment("gsslib", "PGGSSLIB"),
    from_environment("gssdelegation", "PGGSSDELEGATION"),
    from_environment("target_session_attrs", "PGTARGETSESSIONATTRS"),
    from_environment("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    secret("scram_client_key", None),
    secret("scram_server_key", None),
    plain("oauth_issuer"),
    plain("oauth_client_id"),
    secret("oauth_client_secret", None),
    plain("oauth_scope"),
    // Without meaning for many years, but PostgreSQL 13 still accepts and prints them.
    plain("authtype"),
    plain("tty"),
];

/// The keyword of that name.
pub fn find(name: &str) -> Option<&'static Keyword> {
    KEYWORDS.iter().find(|keyword| keyword.name == name)
}

/// The known keyword that looks most like a misspelt one; none if nothing looks like it.
pub fn suggest(name: &str) -> Option<&'static str> {
    let allowed = 1 + name.len() / 4;
    KEYWORDS
        .iter()
        .map(|keyword| (distance(name, keyword.name), keyword.name))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, name)| name)
}

/// How many letters must be put in, taken out or replaced to make one word the other.
fn distance(left: &str, right: &str) -> usize {
    let left = left.to_ascii_lowercase();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_keyword_and_no_variable_stands_there_twice() {
        for (index, keyword) in KEYWORDS.iter().enumerate() {
            let rest = &KEYWORDS[index + 1..];
            assert!(!rest.iter().any(|other| other.name == keyword.name), "{}", keyword.name);
            assert!(
                keyword.variable.is_none() || !rest.iter().any(|other| other.variable == keyword.variable),
                "{}",
                keyword.name
            );
        }
    }

    #[test]
    fn a_misspelt_keyword_is_recognised_and_nonsense_is_not() {
        assert_eq!(suggest("hots"), Some("host"));
        assert_eq!(suggest("database"), None);
        assert_eq!(suggest("db_name"), Some("dbname"));
        assert_eq!(suggest("SSLMode"), Some("sslmode"));
        assert_eq!(suggest("target_session_attr"), Some("target_session_attrs"));
        assert_eq!(suggest("xyzzy"), None);
    }
}
