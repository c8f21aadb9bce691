//! Where the daemon serves: an address, a name, or a port alone.

use std::{fmt, net::SocketAddr, str::FromStr};

/// Longest name that a host can have, bytes.
const MAX_NAME_BYTES: usize = 253;

/// Where the daemon serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A port of all addresses of the machine, IPv4 and IPv6: `:9464`.
    Any(u16),
    /// One address; `[::]` takes IPv4 as well.
    Socket(SocketAddr),
    /// All addresses of a name: `localhost:9464`.
    Name(String, u16),
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Socket(address));
        }
        let parsed = text.rsplit_once(':').and_then(|(host, port)| {
            let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
            let port = port.parse().ok().filter(|_| digits)?;
            match host {
                "" => Some(Self::Any(port)),
                host => is_name(host).then(|| Self::Name(host.to_owned(), port)),
            }
        });
        parsed.ok_or_else(|| {
            format!(
                "must be an IP address or a name and a port (0 to 65535, 0 takes a free one), for \
                 example 127.0.0.1:9464, [::]:9464, localhost:9464 or :9464, not {text:?}"
            )
        })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any(port) => write!(f, ":{port}"),
            Self::Socket(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// Whether a text can be the name of a host. One whose last part is a number is an address that is written
/// wrongly: resolvers make others of them (`127.1`).
fn is_name(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= MAX_NAME_BYTES
        && text.split('.').all(is_part)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_a_name_and_a_port_alone_are_written_as_they_are_read() {
        let socket = |text: &str| ListenAddress::Socket(text.parse().expect("an address"));
        for (text, expected) in [
            (":9464", ListenAddress::Any(9464)),
            (":0", ListenAddress::Any(0)),
            ("127.0.0.1:9464", socket("127.0.0.1:9464")),
            ("[::]:9464", socket("[::]:9464")),
            ("[::1]:0", socket("[::1]:0")),
            (
                "localhost:9464",
                ListenAddress::Name("localhost".to_owned(), 9464),
            ),
            (
                "node-1.example:80",
                ListenAddress::Name("node-1.example".to_owned(), 80),
            ),
        ] {
            assert_eq!(text.parse(), Ok(expected.clone()), "{text}");
            assert_eq!(expected.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_examples() {
        for text in [
            "",
            ":",
            "9464",
            "localhost",
            "localhost:",
            "localhost:65536",
            "localhost:+80",
            "::1:9464",
            "[::1]",
            "127.0.0.1",
            "127.1:80",
            "300.0.0.1:80",
            "a b:80",
            "a..b:80",
            "http://localhost:80",
        ] {
            let message = text.parse::<ListenAddress>().expect_err(text);
            assert!(message.contains("localhost:9464 or :9464"), "{message}");
            assert!(message.ends_with(&format!("not {text:?}")), "{message}");
        }
    }
}
