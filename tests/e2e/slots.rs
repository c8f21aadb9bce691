//! Places for profiles: all taken, given back by a client that went away.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use ctrscope_tests::{Agent, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);
/// More than the daemon has places.
const CLIENTS: usize = 12;

/// Asks for a long profile and does not wait for it.
fn ask(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let path = "/api/v1/profile?type=cpu&seconds=60&format=folded";
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    stream
}

#[test]
fn taken_profile_places_are_refused_and_a_client_that_leaves_frees_its_own() {
    let agent = Agent::start(&[]).unwrap();
    let short = "/api/v1/profile?type=cpu&seconds=1&format=folded";
    let clients: Vec<TcpStream> = (0..CLIENTS).map(|_| ask(agent.address())).collect();
    let refusal = wait_until(PATIENCE, "a refusal", || {
        let answer = agent.get(short)?;
        Ok((answer.status == 429).then_some(answer))
    })
    .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&refusal.body).unwrap();
    assert_eq!(json["error"]["code"], "busy", "{json}");
    // Only profiles are refused.
    assert_eq!(agent.get("/metrics").unwrap().status, 200);

    drop(clients);
    wait_until(PATIENCE, "the places are free again", || {
        Ok((agent.get(short)?.status == 200).then_some(()))
    })
    .unwrap();
}
