//! Binds what the configuration names: one socket, or one for each address of a name.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use rustix::{io::Errno, net::sockopt::set_ipv6_v6only};
use tokio::net::{TcpListener, TcpSocket, lookup_host};

use crate::config::ListenAddress;

/// Connections that wait in the kernel to be accepted.
const BACKLOG: u32 = 1024;

/// Binds an address. There is one socket at least, and all have one port.
///
/// # Errors
///
/// The port is taken, the address is none of this machine, or the name has none.
pub async fn bind(address: &ListenAddress) -> io::Result<Vec<TcpListener>> {
    match address {
        ListenAddress::Socket(address) => Ok(vec![listen(*address)?]),
        ListenAddress::Any(port) => {
            let listener = match listen((Ipv6Addr::UNSPECIFIED, *port).into()) {
                Err(error) if is_not_here(&error) => listen((Ipv4Addr::UNSPECIFIED, *port).into()),
                result => result,
            };
            Ok(vec![listener?])
        }
        ListenAddress::Name(name, port) => listen_on_all(&addresses(name, *port).await?),
    }
}

/// The addresses of a name. That of this machine needs no file and no server.
async fn addresses(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if name.eq_ignore_ascii_case("localhost") {
        return Ok(vec![
            (Ipv4Addr::LOCALHOST, port).into(),
            (Ipv6Addr::LOCALHOST, port).into(),
        ]);
    }
    let mut addresses: Vec<SocketAddr> = lookup_host((name, port)).await?.collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// Binds those that this machine has: without IPv6, a name's other address is enough.
fn listen_on_all(addresses: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        let mut address = *address;
        if let Some(first) = listeners.first() {
            address.set_port(first.local_addr()?.port());
        }
        match listen(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) if is_not_here(&error) => failure = error,
            Err(error) => return Err(error),
        }
    }
    if listeners.is_empty() {
        return Err(failure);
    }
    Ok(listeners)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => {
            let socket = TcpSocket::new_v6()?;
            // Whatever `net.ipv6.bindv6only` says.
            if address.ip().is_unspecified() {
                set_ipv6_v6only(&socket, false)?;
            }
            socket
        }
    };
    // A port that was served on a moment ago is free.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Whether an address is of a family that the kernel has not, or of no interface.
fn is_not_here(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno == Some(Errno::AFNOSUPPORT) || errno == Some(Errno::ADDRNOTAVAIL)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn bound(text: &str) -> io::Result<Vec<SocketAddr>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let listeners = bind(&text.parse().expect("an address")).await?;
            // The kernel takes connections by itself.
            let addresses: Vec<_> = listeners.iter().flat_map(TcpListener::local_addr).collect();
            let port = addresses[0].port();
            for host in ["127.0.0.1", "::1"] {
                let reached = TcpStream::connect((host, port)).is_ok();
                let should = reached_over(text, host);
                assert_eq!(reached, should, "{text} over {host}: {addresses:?}");
            }
            Ok(addresses)
        })
    }

    /// Whether this machine has IPv6, which a test cannot give it.
    fn has_ipv6() -> bool {
        std::net::TcpListener::bind("[::1]:0").is_ok()
    }

    fn reached_over(text: &str, host: &str) -> bool {
        match (text, host) {
            ("127.0.0.1:0", _) => host == "127.0.0.1",
            ("[::1]:0", _) => host == "::1",
            (_, "::1") => has_ipv6(),
            _ => true,
        }
    }

    #[test]
    fn a_port_alone_a_name_and_both_loopbacks_are_served() {
        let mut texts = vec![":0", "localhost:0", "LOCALHOST:0", "127.0.0.1:0"];
        if has_ipv6() {
            texts.extend(["[::]:0", "[::1]:0"]);
        }
        for text in texts {
            let addresses = bound(text).expect(text);
            let port = addresses[0].port();
            assert!(addresses.iter().all(|address| address.port() == port));
        }
    }

    #[test]
    fn an_address_of_another_machine_and_a_name_without_any_are_refused() {
        let error = bound("192.0.2.1:0").expect_err("it is nobody's");
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        bound("ctrscope.invalid:0").expect_err("it has no address");
        assert!(listen_on_all(&[]).is_err());
    }

    #[test]
    fn one_address_of_a_name_is_enough_but_none_may_be_taken() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let _inside = runtime.enter();
        let nobodys: SocketAddr = "192.0.2.1:0".parse().expect("an address");
        let mine: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let listeners = listen_on_all(&[nobodys, mine]).expect("one of them");
        assert_eq!(listeners.len(), 1);
        let taken = listeners[0].local_addr().expect("bound");
        let error = listen_on_all(&[taken]).expect_err("it is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
