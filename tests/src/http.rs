//! As much of an HTTP client as the tests need.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result};

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header lines, as they came.
    pub headers: String,
    /// Body.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Gets a path. Waits up to `timeout` for each part of the answer.
///
/// # Errors
///
/// No connection, or no HTTP.
pub fn get(address: SocketAddr, path: &str, timeout: Duration) -> Result<Response> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))
        .with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(timeout))?;
    // HTTP/1.0: the answer ends with the connection and is never chunked.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .with_context(|| format!("no answer to GET {path}"))?;
    parse(&answer).with_context(|| format!("GET {path}: not an HTTP answer"))
}

fn parse(answer: &[u8]) -> Option<Response> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let (status_line, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    Some(Response {
        status: status_line.split(' ').nth(1)?.parse().ok()?,
        headers: headers.to_owned(),
        body: answer[end + 4..].to_vec(),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_answer_has_status_headers_and_body() {
        let answer = super::parse(b"HTTP/1.0 404 Not Found\r\na: b\r\n\r\n{}").unwrap();
        assert_eq!((answer.status, answer.headers.as_str()), (404, "a: b"));
        assert_eq!(answer.body, b"{}");
        assert!(super::parse(b"nonsense").is_none());
    }
}
