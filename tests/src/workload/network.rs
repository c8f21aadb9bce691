//! Work on the network.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::Worker;

/// Datagrams sent between two looks at the time.
const BURST: u64 = 64;

/// Sends small datagrams as fast as it can. Nobody need take them.
pub(crate) fn flood(to: SocketAddr) -> Vec<Worker> {
    vec![Box::new(move |until| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot make a socket")?;
        socket
            .connect(to)
            .with_context(|| format!("cannot connect to {to}"))?;
        let (mut sent, mut refused) = (0u64, 0u64);
        while !until.is_over() {
            for _ in 0..BURST {
                // A closed port is told by ICMP, a full queue at once.
                match socket.send(&[0; 32]) {
                    Ok(_) => sent += 1,
                    Err(_) => refused += 1,
                }
            }
        }
        Ok(json!({ "sent": sent, "refused": refused }))
    })]
}

/// Takes datagrams, one in each pause, so that the rest is dropped when its buffer is full.
pub(crate) fn sink(at: SocketAddr, pause: Duration) -> Result<Vec<Worker>> {
    let socket = UdpSocket::bind(at).with_context(|| format!("cannot listen at {at}"))?;
    socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .context("cannot set a time limit")?;
    Ok(vec![Box::new(move |until| {
        let (mut received, mut buffer) = (0u64, [0; 2048]);
        while !until.is_over() {
            if socket.recv(&mut buffer).is_ok() {
                received += 1;
                std::thread::sleep(pause);
            }
        }
        Ok(json!({ "received": received }))
    })])
}
