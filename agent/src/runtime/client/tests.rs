//! Against servers made up here, on sockets of their own.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    sync::atomic::AtomicBool,
    thread,
};

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::*;
use crate::runtime::SocketState;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const PATIENCE: Duration = Duration::from_secs(20);

/// What a server does with the path of a request and its connection.
type Behaviour = fn(&str, &mut UnixStream);

/// A server of its own thread; its socket goes with it.
struct Server {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(path: &Path, behaviour: Behaviour) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut open = Vec::new();
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(mut stream) = stream else { continue };
                open.push(stream.try_clone().unwrap());
                thread::spawn(move || {
                    let mut head = Vec::new();
                    let mut byte = [0];
                    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                        head.push(byte[0]);
                    }
                    let head = String::from_utf8_lossy(&head).into_owned();
                    let path = head.split(' ').nth(1).unwrap_or_default();
                    behaviour(path, &mut stream);
                    let _ = stream.shutdown(std::net::Shutdown::Both);
                });
            }
            for stream in open {
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
        });
        Self {
            path: path.to_owned(),
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = UnixStream::connect(&self.path);
        let _ = fs::remove_file(&self.path);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer_with(stream: &mut UnixStream, status: &str, body: &str) {
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
}

/// Keeps the connection until the other side ends it.
fn hold(stream: &mut UnixStream) {
    let _ = stream.read(&mut [0; 64]);
}

fn events(stream: &mut UnixStream, first: &str) {
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    if !first.is_empty() {
        let _ = write!(stream, "{:x}\r\n{first}\r\n", first.len());
    }
    hold(stream);
}

/// A Docker Engine with one container.
fn good(path: &str, stream: &mut UnixStream) {
    let listed =
        format!(r#"[{{"Id":"{ID}","Names":["/web"],"Image":"nginx:1","Labels":{{"a":"b"}}}}]"#);
    let inspected = format!(
        r#"{{"Id":"{ID}","Name":"/web","Config":{{"Image":"nginx:1","Labels":null}},"HostConfig":{{"NanoCpus":500000000}}}}"#
    );
    if path.starts_with("/version") {
        answer_with(stream, "200 OK", r#"{"Components":[{"Name":"Engine"}]}"#);
    } else if path.starts_with("/containers/json") {
        answer_with(stream, "200 OK", &listed);
    } else if path.contains(ID) {
        answer_with(stream, "200 OK", &inspected);
    } else if path.starts_with("/events") {
        events(stream, "");
    } else {
        answer_with(stream, "404 Not Found", "{}");
    }
}

/// One whose only container is gone when it is asked for.
fn short_lived(path: &str, stream: &mut UnixStream) {
    if path.starts_with("/version") {
        answer_with(stream, "200 OK", "{}");
    } else if path.starts_with("/containers/json") {
        answer_with(stream, "200 OK", "[]");
    } else if path.starts_with("/events") {
        let line = format!(
            "{{\"Action\":\"start\",\"Actor\":{{\"ID\":\"{ID}\",\"Attributes\":{{\"name\":\"job\",\"image\":\"i\"}}}}}}\n"
        );
        events(stream, &line);
    } else {
        answer_with(stream, "404 Not Found", "{}");
    }
}

/// One that lists nothing and tells nothing, and knows one container when it is asked for it.
fn asked_only(path: &str, stream: &mut UnixStream) {
    if path.starts_with("/containers/json") {
        answer_with(stream, "200 OK", "[]");
    } else {
        good(path, stream);
    }
}

fn hangs(_: &str, stream: &mut UnixStream) {
    hold(stream);
}

fn garbage(_: &str, stream: &mut UnixStream) {
    let _ = stream.write_all(&[0xfe; 4_096]);
}

fn nonsense(_: &str, stream: &mut UnixStream) {
    answer_with(stream, "200 OK", "[[[");
}

fn endless(path: &str, stream: &mut UnixStream) {
    if path.starts_with("/version") {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        // Endless, until the other side has enough.
        while stream.write_all(&[b' '; 65_536]).is_ok() {}
    }
}

fn ten_megabytes(_: &str, stream: &mut UnixStream) {
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10485760\r\n\r\n");
    hold(stream);
}

fn closes(_: &str, _: &mut UnixStream) {}

/// A good one whose list is longer than any.
fn long_list(path: &str, stream: &mut UnixStream) {
    if path.starts_with("/containers/json") {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 17825792\r\n\r\n");
        hold(stream);
    } else {
        good(path, stream);
    }
}

/// One that hangs as soon as it is asked for a container.
fn stuck(path: &str, stream: &mut UnixStream) {
    if path.contains(ID) {
        hold(stream);
    } else {
        good(path, stream);
    }
}

/// Events in pieces that end anywhere, empty lines among them, and one that never ends.
fn pieces(path: &str, stream: &mut UnixStream) {
    if !path.starts_with("/events") {
        return short_lived(path, stream);
    }
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    let event = |name: &str| {
        format!(
            "\n{{\"Action\":\"start\",\"Actor\":{{\"ID\":\"{ID}\",\"Attributes\":{{\"name\":\"{name}\"}}}}}}\n\n"
        )
    };
    let all = format!("{}{}", event("first"), event("second"));
    for piece in all.as_bytes().chunks(7) {
        let _ = write!(stream, "{:x}\r\n", piece.len());
        let _ = stream.write_all(piece);
        let _ = stream.write_all(b"\r\n");
    }
    let piece = [b'x'; 4_096];
    while stream.write_all(b"1000\r\n").is_ok() && stream.write_all(&piece).is_ok() {
        if stream.write_all(b"\r\n").is_err() {
            break;
        }
    }
}

fn start(socket: &Path) -> Runtimes {
    let options = RuntimeOptions {
        sockets: vec![socket.to_owned()],
        ..RuntimeOptions::default()
    };
    Runtimes::start(options, Box::new(|| {})).unwrap()
}

/// Takes news until one is what is wanted.
fn wait_for(runtimes: &Runtimes, wanted: impl Fn(&Update) -> bool) -> Update {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(update) = runtimes.take().into_iter().find(&wanted) {
            return update;
        }
        assert!(Instant::now() < deadline, "{:?}", runtimes.status());
        thread::sleep(Duration::from_millis(5));
    }
}

fn wait_status(runtimes: &Runtimes, wanted: impl Fn(&RuntimeStatus) -> bool) -> RuntimeStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = runtimes.status().into_iter().find(&wanted) {
            return status;
        }
        assert!(Instant::now() < deadline, "{:?}", runtimes.status());
        thread::sleep(Duration::from_millis(5));
    }
}

fn name_of(update: &Update) -> &str {
    match update {
        Update::Described(metadata) => &metadata.name,
        _ => "",
    }
}

#[test]
fn what_is_there_is_listed_and_one_is_looked_up() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let _server = Server::start(&socket, good);
    let runtimes = start(&socket);
    let Update::Described(listed) = wait_for(&runtimes, |update| name_of(update) == "web") else {
        unreachable!("it has a name");
    };
    assert_eq!(
        (listed.runtime, listed.image.as_str()),
        ("docker", "nginx:1")
    );
    runtimes.ask(ID, None);
    let has_limit = |update: &Update| match update {
        Update::Described(metadata) => metadata
            .resources
            .is_some_and(|limits| limits.cpu_limit_cores == Some(0.5)),
        _ => false,
    };
    wait_for(&runtimes, has_limit);
    runtimes.ask("abcd", None);
    let unknown = Update::Unknown {
        id: "abcd".to_owned(),
    };
    assert_eq!(wait_for(&runtimes, |update| *update == unknown), unknown);
    let status = wait_status(&runtimes, |status| status.state == SocketState::Connected);
    assert_eq!((status.connections, status.failures), (1, 0));
}

#[test]
fn a_container_that_is_gone_already_has_the_name_of_its_event() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let _server = Server::start(&socket, short_lived);
    let runtimes = start(&socket);
    wait_for(&runtimes, |update| name_of(update) == "job");
    runtimes.ask(ID, None);
    wait_for(&runtimes, |update| name_of(update) == "job");
}

#[test]
fn a_runtime_that_comes_back_is_listed_anew() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let server = Server::start(&socket, good);
    let runtimes = start(&socket);
    wait_for(&runtimes, |update| name_of(update) == "web");
    drop(server);
    wait_status(&runtimes, |status| status.state == SocketState::Failing);
    let _server = Server::start(&socket, good);
    wait_for(&runtimes, |update| name_of(update) == "web");
    assert_eq!(runtimes.status()[0].connections, 2);
}

#[test]
fn a_socket_that_appears_later_is_found_and_one_that_goes_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("run")).unwrap();
    let options = RuntimeOptions {
        host_root: folder.path().to_owned(),
        sockets: vec![],
        search: true,
    };
    let runtimes = Runtimes::start(options, Box::new(|| {})).unwrap();
    assert_eq!(runtimes.status(), []);
    let server = Server::start(&folder.path().join("run/docker.sock"), good);
    wait_for(&runtimes, |update| name_of(update) == "web");
    drop(server);
    let deadline = Instant::now() + PATIENCE;
    while !runtimes.status().is_empty() {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_is_no_runtime_is_told_and_costs_no_more() {
    let behaviours: [(Behaviour, &str); 6] = [
        (hangs, "no answer to /version within 2 s"),
        (garbage, "no whole answer to /version"),
        (nonsense, "makes no sense"),
        (ten_megabytes, "is longer than"),
        // By length or by time, whichever comes first.
        (endless, "/version"),
        (closes, "no whole answer to /version"),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (index, (behaviour, expected)) in behaviours.into_iter().enumerate() {
        let socket = folder.path().join(format!("docker{index}.sock"));
        let _server = Server::start(&socket, behaviour);
        let runtimes = start(&socket);
        let status = wait_status(&runtimes, |status| status.failures > 0);
        assert_eq!(status.state, SocketState::Failing);
        assert!(status.reason.contains(expected), "{}", status.reason);
        // It ends although the other side does nothing of the kind.
        let began = Instant::now();
        drop(runtimes);
        assert!(began.elapsed() < PATIENCE / 2);
    }
}

#[test]
fn a_list_that_is_too_long_costs_the_list_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let _server = Server::start(&socket, long_list);
    let runtimes = start(&socket);
    let status = wait_status(&runtimes, |status| status.failures > 0);
    assert_eq!(status.state, SocketState::Connected);
    assert!(
        status.reason.contains("is longer than"),
        "{}",
        status.reason
    );
    runtimes.ask(ID, None);
    wait_for(&runtimes, |update| name_of(update) == "web");
    let status = wait_status(&runtimes, |_| true);
    assert_eq!(
        (status.state, status.connections),
        (SocketState::Connected, 1)
    );
    assert!(!status.reason.is_empty(), "it is told as long as it lasts");
}

#[test]
fn a_runtime_that_answers_no_longer_is_given_up_and_connected_anew() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let _server = Server::start(&socket, stuck);
    let runtimes = start(&socket);
    wait_status(&runtimes, |status| status.connections == 1);
    // More than are asked at once, so that some do not even get their turn.
    for _ in 0..6 {
        runtimes.ask(ID, None);
    }
    let status = wait_status(&runtimes, |status| status.connections > 1);
    assert!(status.failures > 3, "{status:?}");
}

#[test]
fn events_are_read_whatever_pieces_they_come_in_and_one_without_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let _server = Server::start(&socket, pieces);
    let runtimes = start(&socket);
    wait_for(&runtimes, |update| name_of(update) == "first");
    wait_for(&runtimes, |update| name_of(update) == "second");
    let status = wait_status(&runtimes, |status| status.reason.contains("longer than"));
    assert!(status.reason.contains("/events"), "{}", status.reason);
}

#[test]
fn no_protocol_is_fooled_by_another() {
    let folder = tempfile::tempdir().unwrap();
    // By its name it could be anything: gRPC is tried first.
    for (name, behaviour) in [
        ("a.sock", hangs as Behaviour),
        ("b.sock", garbage),
        ("c.sock", closes),
    ] {
        let socket = folder.path().join(name);
        let _server = Server::start(&socket, behaviour);
        let runtimes = start(&socket);
        let status = wait_status(&runtimes, |status| status.failures > 0);
        assert_eq!(status.state, SocketState::Failing, "{name}");
        assert!(!status.reason.is_empty());
    }
    let socket = folder.path().join("d.sock");
    let _server = Server::start(&socket, good);
    let runtimes = start(&socket);
    wait_for(&runtimes, |update| name_of(update) == "web");
}

#[test]
fn a_file_and_nothing_at_all_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("docker.sock");
    fs::write(&file, "").unwrap();
    for (path, expected) in [
        (file, "it is no socket"),
        (folder.path().join("none.sock"), "there is no such file"),
    ] {
        let runtimes = start(&path);
        let status = wait_status(&runtimes, |status| status.failures > 0);
        assert!(status.reason.contains(expected), "{}", status.reason);
    }
}

#[test]
fn what_holds_no_id_is_not_asked_for() {
    let runtimes = Runtimes::start(RuntimeOptions::default(), Box::new(|| {})).unwrap();
    runtimes.ask("../../etc", None);
    assert_eq!(runtimes.dropped(), 1);
    runtimes.ask(ID, None);
    let unknown = Update::Unknown { id: ID.to_owned() };
    assert_eq!(wait_for(&runtimes, |_| true), unknown);
}

/// Each of the unknown is asked for again over a second.
#[test]
fn many_that_nobody_knows_keep_no_other_from_its_name() {
    const UNKNOWN: usize = 400;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("docker.sock");
    let _server = Server::start(&socket, asked_only);
    let runtimes = start(&socket);
    wait_status(&runtimes, |status| status.state == SocketState::Connected);
    for index in 0..UNKNOWN {
        runtimes.ask(&format!("{index:064x}"), None);
    }
    runtimes.ask(ID, None);
    let unknown = std::cell::Cell::new(0);
    let update = wait_for(&runtimes, |update| {
        unknown.set(unknown.get() + usize::from(matches!(update, Update::Unknown { .. })));
        matches!(update, Update::Described(_))
    });
    assert_eq!(name_of(&update), "web");
    // It does not come after them, however slow this machine is.
    assert!(unknown.get() < UNKNOWN / 2, "{} before it", unknown.get());
}
