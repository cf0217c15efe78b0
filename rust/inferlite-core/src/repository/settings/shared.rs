//! The URL of a Redis or Valkey server, read as the Python layer reads it.

use std::fmt;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::Duration;

use crate::cache::{Address, Server};

const FORMS: &str = "`redis://user:password@host:6379/0` or `unix:///path/of.sock?db=0`";
const DEFAULT_PORT: u16 = 6379;
const MOST_DATABASES: u32 = 1 << 31;

/// Where a server is, and how to enter.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedPlace {
    host: Host,
    user: Option<String>,
    password: Option<String>,
    database: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Named(String, u16),
    Socket(PathBuf),
}

/// Shows no password.
impl fmt::Debug for SharedPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedPlace").field(&self.host).finish()
    }
}

/// Says where it is, and not how to enter.
impl fmt::Display for SharedPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Named(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Host::Named(host, port) => write!(f, "{host}:{port}"),
            Host::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

impl SharedPlace {
    /// What a URL says; messages never show a password.
    pub(super) fn read(url: &str) -> Result<Self, String> {
        let unreadable = || format!("it cannot be read: write {FORMS}");
        let (kind, rest) = url.split_once("://").ok_or_else(unreadable)?;
        let is_unix = match kind.to_ascii_lowercase().as_str() {
            "redis" | "valkey" => false,
            "unix" | "redis+unix" | "valkey+unix" => true,
            "rediss" | "valkeys" => {
                return Err(
                    "it cannot use TLS: name a tunnel on this machine, such as stunnel's, by `redis://localhost:port`"
                        .to_owned(),
                );
            }
            _ => return Err(format!("it is of a kind that is not known: write {FORMS}")),
        };
        if is_unix { Self::unix(rest) } else { Self::network(rest) }
    }

    fn network(rest: &str) -> Result<Self, String> {
        let no_host = || format!("it needs a host, and takes nothing behind the number of the database: write {FORMS}");
        if rest.contains(['?', '#']) {
            return Err(no_host());
        }
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (entrance, address) = match authority.rsplit_once('@') {
            Some((entrance, address)) => (Some(entrance), address),
            None => (None, authority),
        };
        // An address of IPv6 stands in brackets, since it has colons itself.
        let (host, port) = match address.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':').or(port.is_empty().then_some(""))),
            None => match address.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (address, Some("")),
            },
        };
        let port = match port {
            Some("") => Some(DEFAULT_PORT),
            Some(port) => port.parse().ok(),
            None => None,
        };
        let port = port.ok_or_else(|| format!("it cannot be read: write {FORMS}"))?;
        if host.is_empty() {
            return Err(no_host());
        }
        let (user, password) = match entrance.map(|entrance| entrance.split_once(':').unwrap_or((entrance, ""))) {
            Some((user, password)) => (unquoted(user)?, unquoted(password)?),
            None => (String::new(), String::new()),
        };
        Self::enter(Host::Named(host.to_owned(), port), user, password, database)
    }

    fn unix(rest: &str) -> Result<Self, String> {
        let wrong =
            || format!("it needs the path of a socket, and takes `db`, `user` and `pass` behind it: write {FORMS}");
        let (path, options) = rest.split_once('?').unwrap_or((rest, ""));
        if !path.starts_with('/') || rest.contains('#') {
            return Err(wrong());
        }
        let (mut user, mut password, mut database) = (String::new(), String::new(), String::new());
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').ok_or_else(wrong)?;
            let value = unquoted(&value.replace('+', " "))?;
            match name {
                "db" => database = value,
                "user" | "username" => user = value,
                "pass" | "password" => password = value,
                _ => return Err(wrong()),
            }
        }
        Self::enter(Host::Socket(unquoted(path)?.into()), user, password, &database)
    }

    fn enter(host: Host, user: String, password: String, database: &str) -> Result<Self, String> {
        let is_number = database.bytes().all(|byte| byte.is_ascii_digit());
        let number = if database.is_empty() {
            Some(0)
        } else {
            database.parse().ok()
        };
        let database = number
            .filter(|number| is_number && *number < MOST_DATABASES)
            .ok_or_else(|| format!("it names the database `{database}`, which is no number: write {FORMS}"))?;
        if !user.is_empty() && password.is_empty() {
            return Err(format!("it names a user without a password: write {FORMS}"));
        }
        Ok(Self {
            host,
            user: Some(user).filter(|user| !user.is_empty()),
            password: Some(password).filter(|password| !password.is_empty()),
            database,
        })
    }

    /// The server, whose name is looked up here, since questions have no time for that.
    #[must_use]
    pub fn server(&self, timeout: Duration) -> Server {
        let address = match &self.host {
            Host::Socket(path) => Address::Unix(path.clone()),
            Host::Named(host, port) => {
                let found = (host.as_str(), *port).to_socket_addrs();
                Address::Tcp(found.map(Iterator::collect).unwrap_or_default())
            }
        };
        Server {
            address,
            user: self.user.clone(),
            password: self.password.clone(),
            database: self.database,
            timeout,
        }
    }
}

/// Text with `%41` for `A`; what is no such number stays as it is.
fn unquoted(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, others)) = rest.split_first() {
        let digits = others.get(..2).filter(|_| first == b'%');
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| str::from_utf8(digits).ok());
        if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            bytes.push(byte);
            rest = others.get(2..).unwrap_or_default();
        } else {
            bytes.push(first);
            rest = others;
        }
    }
    String::from_utf8(bytes).map_err(|_| format!("it must be UTF-8: write {FORMS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> (Host, Option<String>, Option<String>, u32) {
        let place = SharedPlace::read(url).expect("it is right");
        (place.host, place.user, place.password, place.database)
    }

    #[test]
    fn a_server_is_named_by_host_or_by_socket() {
        let named = |host: &str, port| Host::Named(host.to_owned(), port);
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            place("redis://cache.example"),
            (named("cache.example", 6379), None, None, 0)
        );
        assert_eq!(
            place("valkey://u%40x:p%3Aw@h:1/7"),
            (named("h", 1), some("u@x"), some("p:w"), 7)
        );
        assert_eq!(
            place("redis://:only@[::1]:2/"),
            (named("::1", 2), None, some("only"), 0)
        );
        assert_eq!(
            place("unix:///a%20b.sock?db=3&user=u&pass=p"),
            (Host::Socket("/a b.sock".into()), some("u"), some("p"), 3)
        );
    }

    #[test]
    fn what_names_no_server_is_refused_without_its_password() {
        for (url, start) in [
            ("host:6379", "it cannot be read"),
            ("redis://h:99999", "it cannot be read"),
            ("redis://[::1]x", "it cannot be read"),
            ("rediss://h", "it cannot use TLS"),
            ("http://h", "it is of a kind that is not known"),
            ("redis://", "it needs a host"),
            ("redis://:pw@/0", "it needs a host"),
            ("redis://h?db=1", "it needs a host"),
            ("redis://h/x", "it names the database `x`, which is no number"),
            (
                "redis://h/2147483648",
                "it names the database `2147483648`, which is no number",
            ),
            ("redis://u@h", "it names a user without a password"),
            ("unix://h/a.sock", "it needs the path of a socket"),
            ("unix:///a.sock?x=1", "it needs the path of a socket"),
        ] {
            let reason = SharedPlace::read(url).expect_err(url);
            assert!(reason.starts_with(start), "{url}: {reason}");
            assert!(!reason.contains("pw"));
        }
    }

    #[test]
    fn it_says_where_it_is_and_not_how_to_enter() {
        for (url, said) in [
            ("redis://u:pw@h", "h:6379"),
            ("redis://:pw@[::1]:2/3", "[::1]:2"),
            ("unix:///a.sock?user=u&pass=pw&db=3", "/a.sock"),
        ] {
            let place = SharedPlace::read(url).expect("it is right");
            assert_eq!(place.to_string(), said);
            assert!(!format!("{place:?}").contains("pw"));
        }
    }
}
