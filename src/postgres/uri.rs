//! Connection URIs: `postgresql://user:password@host:port,host:port/dbname?keyword=value`.
//!
//! Follows libpq, also where it is more generous than RFC 3986: several hosts, a percent-encoded socket directory as
//! host, every part may be missing. Nothing is looked up.

use super::conninfo::{Conninfo, ConninfoError};

/// True if the text is a connection URI.
pub(super) fn is_uri(text: &str) -> bool {
    strip_scheme(text).is_some()
}

fn strip_scheme(text: &str) -> Option<&str> {
    text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"))
}

fn malformed(detail: impl Into<String>) -> ConninfoError {
    ConninfoError::Uri { detail: detail.into() }
}

/// Reads a connection URI.
pub(super) fn parse(text: &str) -> Result<Conninfo, ConninfoError> {
    let rest = strip_scheme(text).ok_or_else(|| malformed("it does not begin with postgresql://"))?;
    let mut conninfo = Conninfo::new();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    // An @ after the first slash belongs to a parameter, not to the user.
    let (authority, tail) = rest.split_at(end);
    let hosts = match authority.split_once('@') {
        Some((user, hosts)) => {
            set_user(&mut conninfo, user)?;
            hosts
        }
        None => authority,
    };
    set_hosts(&mut conninfo, hosts)?;
    let (path, parameters) = tail.split_once('?').unwrap_or((tail, ""));
    let dbname = path.strip_prefix('/').unwrap_or(path);
    if !dbname.is_empty() {
        conninfo.set("dbname", decode(dbname)?)?;
    }
    set_parameters(&mut conninfo, parameters)?;
    Ok(conninfo)
}

fn set_user(conninfo: &mut Conninfo, text: &str) -> Result<(), ConninfoError> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    if !user.is_empty() {
        conninfo.set("user", decode(user)?)?;
    }
    if !password.is_empty() {
        conninfo.set("password", decode(password)?)?;
    }
    Ok(())
}

fn set_hosts(conninfo: &mut Conninfo, text: &str) -> Result<(), ConninfoError> {
    let mut hosts = Vec::new();
    let mut ports = Vec::new();
    for place in text.split(',') {
        let (host, port) = split_port(place)?;
        hosts.push(decode(host)?);
        ports.push(decode(port)?);
    }
    if hosts.iter().any(|host| !host.is_empty()) || hosts.len() > 1 {
        conninfo.set("host", hosts.join(","))?;
    }
    if ports.iter().any(|port| !port.is_empty()) {
        conninfo.set("port", ports.join(","))?;
    }
    Ok(())
}

/// Divides `host:port` or `[address]:port`.
fn split_port(place: &str) -> Result<(&str, &str), ConninfoError> {
    let Some(bracketed) = place.strip_prefix('[') else {
        return Ok(place.split_once(':').unwrap_or((place, "")));
    };
    let (address, after) =
        bracketed.split_once(']').ok_or_else(|| malformed(format!("no closing bracket after '{place}'")))?;
    if address.is_empty() {
        return Err(malformed("an IPv6 address may not be empty"));
    }
    match after.strip_prefix(':') {
        Some(port) => Ok((address, port)),
        None if after.is_empty() => Ok((address, "")),
        None => Err(malformed(format!("'{after}' after an address in brackets"))),
    }
}

fn set_parameters(conninfo: &mut Conninfo, text: &str) -> Result<(), ConninfoError> {
    if text.is_empty() {
        return Ok(());
    }
    for pair in text.split('&') {
        let (name, value) = pair.split_once('=').ok_or_else(|| malformed(format!("parameter '{pair}' has no '='")))?;
        if value.contains('=') {
            return Err(malformed(format!("parameter '{name}' has a second '='; write it as %3D")));
        }
        let (name, value) = (decode(name)?, decode(value)?);
        // The one spelling that JDBC's URIs and libpq's share.
        if name == "ssl" && value == "true" {
            conninfo.set("sslmode", "require")?;
        } else {
            conninfo.set(&name, value)?;
        }
    }
    Ok(())
}

/// Turns %XX into bytes. A space must be encoded; %00 is refused.
fn decode(text: &str) -> Result<String, ConninfoError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        match (digit(), digit()) {
            (Some(0), Some(0)) => return Err(malformed("%00 stands in it")),
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            _ => return Err(malformed("a '%' is not followed by two hexadecimal digits")),
        }
    }
    String::from_utf8(bytes).map_err(|_| malformed("a decoded part is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        Conninfo::parse(text).map_or_else(|error| error.to_string(), |conninfo| conninfo.to_string())
    }

    #[test]
    fn every_part_may_stand_or_be_missing() {
        let cases = [
            ("postgresql://", ""),
            ("postgres://", ""),
            ("postgresql://localhost", "host=localhost"),
            ("postgresql://localhost:5433", "host=localhost port=5433"),
            ("postgresql://localhost/mydb", "host=localhost dbname=mydb"),
            ("postgresql://user@localhost", "host=localhost user=user"),
            ("postgresql:///mydb?host=localhost&port=5433", "host=localhost port=5433 dbname=mydb"),
            ("postgresql://u@h1:1,h2:2/db?sslmode=require", "host=h1,h2 port=1,2 dbname=db user=u sslmode=require"),
            ("postgresql://h1:1,h2/", "host=h1,h2 port=1,"),
            ("postgresql://[2001:db8::1234]:5433/database", "host=2001:db8::1234 port=5433 dbname=database"),
            ("postgresql://%2Fvar%2Flib%2Fpostgresql/dbname", "host=/var/lib/postgresql dbname=dbname"),
            ("postgresql:///db?host=/tmp", "host=/tmp dbname=db"),
            ("postgresql://u%40x@h?application_name=a%20b", "host=h user=u@x application_name='a b'"),
            ("postgresql://h?user=a@b", "host=h user=a@b"),
            ("postgresql://h?ssl=true", "host=h sslmode=require"),
            ("postgresql://:5433", "port=5433"),
        ];
        for (uri, expected) in cases {
            assert_eq!(read(uri), expected, "{uri}");
        }
    }

    #[test]
    fn the_password_is_taken_and_not_printed() {
        let conninfo = Conninfo::parse("postgresql://u:p%3Aw@h").expect("because the URI is right");
        assert_eq!(conninfo.get("password"), Some("p:w"));
        assert_eq!(conninfo.to_string(), "host=h user=u");
    }

    #[test]
    fn malformed_uris_are_refused() {
        for uri in [
            "postgresql://[::1",
            "postgresql://[]",
            "postgresql://[::1]x",
            "postgresql://h?port",
            "postgresql://h?options=a=b",
            "postgresql://h%0",
            "postgresql://h%zz",
            "postgresql://h%00",
            "postgresql://h%ff",
        ] {
            assert!(matches!(Conninfo::parse(uri), Err(ConninfoError::Uri { .. })), "{uri}");
        }
        assert!(matches!(Conninfo::parse("postgresql://h?hots=1"), Err(ConninfoError::UnknownKeyword { .. })));
    }
}
