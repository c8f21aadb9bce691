//! Completion of what is typed in a shell: subcommands and flags by clap, names of containers by the daemon.

use std::{env, ffi::OsStr, path::PathBuf, sync::mpsc, thread, time::Duration};

use clap_complete::CompletionCandidate;

use crate::{
    client::HttpSource,
    config::{Config, parse_server},
    resolve::display_name,
    snapshot::Snapshot,
    source::Source as _,
    terminal::printable,
};

/// Where the daemon is, as the command line has it.
pub(crate) const SERVER_VARIABLE: &str = "CTRSCOPE_SERVER";
/// The configuration file.
pub(crate) const CONFIG_VARIABLE: &str = "CTRSCOPE_CONFIG";

/// Longest that a shell waits for names.
const PATIENCE: Duration = Duration::from_secs(1);
/// Names that are offered at most.
const MOST: usize = 500;

/// The containers whose name or id begins with what is typed, those that live first. None where no daemon
/// answers within a second.
pub(crate) fn containers(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else {
        return Vec::new();
    };
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        // The line is not finished, so what it says of the daemon is not known.
        let file = env::var_os(CONFIG_VARIABLE).map(PathBuf::from);
        let server = env::var(SERVER_VARIABLE).ok();
        let server = match server {
            Some(server) => parse_server(&server).ok()?,
            None => Config::read(file.as_deref()).ok()?.server,
        };
        sender.send(HttpSource::new(&server).snapshot().ok()?).ok()
    });
    let snapshot = receiver.recv_timeout(PATIENCE);
    snapshot.map_or_else(|_| Vec::new(), |snapshot| candidates(&snapshot, current))
}

fn candidates(snapshot: &Snapshot, current: &str) -> Vec<CompletionCandidate> {
    let mut found: Vec<(bool, String, String)> = Vec::new();
    for container in &snapshot.containers {
        let identity = &container.identity;
        let whole = display_name(identity);
        // A name that is no part of a longer one, or that longer one, or an id: as much as is typed of it.
        let name = [&whole, &identity.container, &identity.container_id]
            .into_iter()
            .find(|name| name.starts_with(current) && is_plain(name));
        let Some(name) = name else {
            continue;
        };
        let has_exited = container.exited_at_unix_ms.is_some();
        let about = match (identity.image.as_str(), has_exited) {
            (_, true) => "exited".to_owned(),
            ("", false) => identity.runtime.clone(),
            (image, false) => printable(image).into_owned(),
        };
        found.push((has_exited, name.clone(), about));
    }
    found.sort();
    found.dedup_by(|one, other| one.1 == other.1);
    found
        .into_iter()
        .take(MOST)
        .map(|(_, name, about)| {
            let help = (!about.is_empty()).then(|| about.into());
            CompletionCandidate::new(name).help(help)
        })
        .collect()
}

/// Whether a name means nothing to any shell: bash takes what is offered as it is into the line, and whoever
/// may make a cgroup chooses its name. Others are typed, or meant by their ids.
fn is_plain(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.@:%+,=/-".contains(&byte);
    !name.is_empty() && !name.starts_with('-') && name.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::snapshot::{Container, Identity};

    fn container(namespace: &str, pod: &str, name: &str, id: &str) -> Container {
        Container {
            identity: Arc::new(Identity {
                namespace: namespace.to_owned(),
                pod: pod.to_owned(),
                container: name.to_owned(),
                container_id: id.to_owned(),
                image: "web:1".to_owned(),
                ..Identity::default()
            }),
            ..Container::default()
        }
    }

    #[test]
    fn names_and_ids_are_offered_as_far_as_they_are_typed() {
        let mut old = container("", "", "webold", "dead03");
        old.exited_at_unix_ms = Some(1);
        let snapshot = Snapshot {
            containers: vec![
                old,
                container("shop", "checkout-1", "app", "cafe01"),
                container("", "", "web", "beef02"),
                container("", "", "web\x1b[2J", "beef09"),
                container("", "", "web;reboot;.service", ""),
                container("", "", "web$(reboot)", "cafe07"),
                container("", "", "web*", ""),
                container("", "", "web\\x2dup.service", ""),
                container("", "", "--web", ""),
            ],
            ..Snapshot::default()
        };
        let offered = |current: &str| -> Vec<String> {
            let all = candidates(&snapshot, current).into_iter();
            all.map(|one| one.get_value().to_string_lossy().into_owned())
                .collect()
        };
        assert_eq!(offered("we"), ["web", "webold"]);
        assert_eq!(offered("shop/"), ["shop/checkout-1/app"]);
        assert_eq!(offered("ap"), ["app"]);
        assert_eq!(offered("beef02"), ["beef02"]);
        assert_eq!(
            offered(""),
            ["beef09", "cafe07", "shop/checkout-1/app", "web", "webold"]
        );
        assert!(offered("nothing").is_empty());
    }
}
