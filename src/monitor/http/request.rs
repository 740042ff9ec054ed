//! A request, as far as it matters here: the method, the path and what follows the question mark.

use crate::config::value;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `HEAD` or `OPTIONS`.
    pub method: String,
    /// Without what follows `?`.
    pub path: String,
    /// Names and values, in order.
    pub query: Vec<(String, String)>,
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// It is no HTTP.
    Malformed,
    /// It wants to change something.
    Method,
    /// It never ends.
    Large,
    /// It did not come in time.
    Late,
}

impl Unfit {
    /// The status code.
    pub fn status(self) -> u16 {
        match self {
            Unfit::Malformed => 400,
            Unfit::Method => 405,
            Unfit::Large => 431,
            Unfit::Late => 408,
        }
    }

    /// The reason in words.
    pub fn words(self) -> &'static str {
        match self {
            Unfit::Malformed => "this is no request\n",
            Unfit::Method => "only GET, HEAD and OPTIONS are answered\n",
            Unfit::Large => "the request is too long\n",
            Unfit::Late => "the request did not come in time\n",
        }
    }
}

impl Request {
    /// Reads the request line; headers do not matter.
    pub fn parse(head: &[u8]) -> Result<Request, Unfit> {
        let text = std::str::from_utf8(head).map_err(|_| Unfit::Malformed)?;
        let line = text.split("\r\n").next().unwrap_or_default();
        let mut words = line.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Unfit::Malformed);
        };
        if !version.starts_with("HTTP/1.") || !target.starts_with('/') {
            return Err(Unfit::Malformed);
        }
        if !["GET", "HEAD", "OPTIONS"].contains(&method) {
            return Err(Unfit::Method);
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.to_owned(), value.to_owned())
        };
        let query = query.split('&').filter(|part| !part.is_empty()).map(pair).collect();
        Ok(Request { method: method.to_owned(), path: path.to_owned(), query })
    }

    /// A number of bytes in the query: plain, or with a unit such as `16MB`. `Some(Err)`: it is none.
    pub fn size(&self, name: &str) -> Option<Result<u64, ()>> {
        let (_, text) = self.query.iter().find(|(known, _)| known == name)?;
        let plain = text.parse::<u64>().ok();
        Some(plain.map_or_else(|| value::size(text).map_err(|_| ()), Ok))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_line_is_read_and_everything_else_refused() {
        let request =
            Request::parse(b"GET /replica?lag=16MB&x HTTP/1.1\r\nHost: a").expect("because it is well formed");
        assert_eq!((request.path.as_str(), request.size("lag")), ("/replica", Some(Ok(16 << 20))));
        assert_eq!(request.size("x"), Some(Err(())));
        assert_eq!(request.size("y"), None);
        let plain = Request::parse(b"OPTIONS /replica?lag=4096 HTTP/1.0").expect("because it is well formed");
        assert_eq!(plain.size("lag"), Some(Ok(4096)));
        for (text, unfit) in [
            ("POST / HTTP/1.1", Unfit::Method),
            ("GET / HTTP/2", Unfit::Malformed),
            ("GET http://x/ HTTP/1.1", Unfit::Malformed),
            ("GET /", Unfit::Malformed),
            ("", Unfit::Malformed),
        ] {
            assert_eq!(Request::parse(text.as_bytes()), Err(unfit), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_ends_the_server(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(request) = Request::parse(&bytes) {
                prop_assert!(request.path.starts_with('/'));
                let _ = request.size("lag");
            }
        }
    }
}
