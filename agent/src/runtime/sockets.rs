//! Where runtimes have their sockets.

use std::{
    fs::{self, OpenOptions},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use tokio::net::UnixStream;

/// Which protocol a socket speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// CRI, and containerd's own services: gRPC.
    Cri,
    /// Docker's Engine API: HTTP.
    Docker,
    /// Not known: both are tried.
    Any,
}

/// Distribution or runtime, place below the host's root, protocol. Under `run`, not `var/run`, which is
/// an absolute link and would lead out of a mounted root. RKE2 has its socket where k3s has it, and the
/// nodes of kind where containerd has it.
pub(crate) const SOCKETS: &[(&str, &str, Protocol)] = &[
    (
        "containerd",
        "run/containerd/containerd.sock",
        Protocol::Cri,
    ),
    ("k3s", "run/k3s/containerd/containerd.sock", Protocol::Cri),
    ("k0s", "run/k0s/containerd.sock", Protocol::Cri),
    (
        "microk8s",
        "var/snap/microk8s/common/run/containerd.sock",
        Protocol::Cri,
    ),
    ("crio", "run/crio/crio.sock", Protocol::Cri),
    ("docker", "run/docker.sock", Protocol::Docker),
    // In the virtual machine of Docker Desktop, where `var/run` is a folder of its own.
    ("docker", "run/guest-services/docker.sock", Protocol::Docker),
    ("podman", "run/podman/podman.sock", Protocol::Docker),
];

/// Where users have their folders below the host's root.
const USERS: &str = "run/user";
/// Runtime and place of the sockets of users who run containers without root, below `run/user/<uid>`.
const OF_USERS: &[(&str, &str)] = &[("docker", "docker.sock"), ("podman", "podman/podman.sock")];
/// Users whose sockets are looked for.
const MOST_USERS: usize = 64;

/// A socket, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// What is expected there, for a reader.
    pub(crate) runtime: &'static str,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// What it speaks.
    pub(crate) protocol: Protocol,
    /// The user whose runtime it is; `None` for one of the system.
    pub(crate) user: Option<u32>,
}

impl Place {
    /// A path that somebody named; what it speaks and whose it is, by its name.
    pub(super) fn named(path: &Path) -> Self {
        let name = path.to_string_lossy();
        let is_docker = name.contains("docker") || name.contains("podman");
        let mut before = path.ancestors();
        // `…/run/user/<uid>/…`
        let user = before.find_map(|folder| {
            let is_of_user = folder.parent().is_some_and(|users| users.ends_with(USERS));
            let uid = folder.file_name().filter(|_| is_of_user)?;
            uid.to_str()?.parse().ok()
        });
        Self {
            runtime: "unknown",
            path: path.to_owned(),
            protocol: if is_docker {
                Protocol::Docker
            } else {
                Protocol::Any
            },
            user,
        }
    }

    /// Connects. A user could put a link to somebody else's socket in the place of the own one, so there
    /// only a socket that belongs to this user is spoken to.
    pub(super) async fn connect(&self) -> io::Result<UnixStream> {
        let Some(user) = self.user else {
            return UnixStream::connect(&self.path).await;
        };
        // A handle of what is there now, whatever is there later.
        let handle = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
            .open(&self.path)?;
        let owner = handle.metadata()?.uid();
        if owner != user {
            return Err(io::Error::other(format!(
                "it belongs to user {owner}, not to user {user} whose folder it is in"
            )));
        }
        UnixStream::connect(format!("/proc/self/fd/{}", handle.as_raw_fd())).await
    }
}

/// Whether a socket is there.
pub(crate) fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// The sockets that are there in the usual places, those of the system first.
pub(crate) fn search(host_root: &Path) -> Vec<Place> {
    let usual = SOCKETS.iter().map(|&(runtime, path, protocol)| Place {
        runtime,
        path: host_root.join(path),
        protocol,
        user: None,
    });
    let folders = fs::read_dir(host_root.join(USERS)).into_iter().flatten();
    let users = folders
        .take(MOST_USERS)
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .flat_map(|user: u32| {
            OF_USERS.iter().map(move |&(runtime, path)| Place {
                runtime,
                path: host_root.join(USERS).join(user.to_string()).join(path),
                protocol: Protocol::Docker,
                user: Some(user),
            })
        });
    usual
        .chain(users)
        .filter(|place| is_socket(&place.path))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use super::*;

    fn own_uid() -> u32 {
        fs::metadata("/proc/self").unwrap().uid()
    }

    #[test]
    fn the_usual_places_are_looked_at_and_files_are_no_sockets() {
        let root = tempfile::tempdir().unwrap();
        let mut listeners = Vec::new();
        let mut make = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            listeners.push(UnixListener::bind(path).unwrap());
        };
        let all = [
            "run/containerd/containerd.sock",
            "run/k3s/containerd/containerd.sock",
            "run/k0s/containerd.sock",
            "var/snap/microk8s/common/run/containerd.sock",
            "run/crio/crio.sock",
            "run/podman/podman.sock",
            "run/user/1000/docker.sock",
            "run/user/1000/podman/podman.sock",
            "run/user/0x7/docker.sock",
        ];
        all.into_iter().for_each(&mut make);
        fs::write(root.path().join("run/docker.sock"), "").unwrap();
        let found = search(root.path());
        let paths: Vec<_> = found
            .iter()
            .map(|place| place.path.strip_prefix(root.path()).unwrap())
            .collect();
        assert_eq!(paths, all[..8].iter().map(Path::new).collect::<Vec<_>>());
        let users: Vec<_> = found.iter().filter_map(|place| place.user).collect();
        assert_eq!(users, [1_000, 1_000]);
    }

    #[test]
    fn a_named_path_is_a_users_where_users_have_theirs() {
        let user = |path: &str| Place::named(Path::new(path)).user;
        assert_eq!(user("/run/user/1000/docker.sock"), Some(1_000));
        assert_eq!(user("/host/run/user/7/podman/podman.sock"), Some(7));
        for path in [
            "/run/docker.sock",
            "/run/user/x/a.sock",
            "/user/7/a",
            "a.sock",
            "/",
        ] {
            assert_eq!(user(path), None, "{path}");
        }
    }

    #[test]
    fn a_users_socket_is_spoken_to_only_if_it_is_the_users() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("docker.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let link = root.path().join("link.sock");
        symlink(&path, &link).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        let connect = |path: &Path, user| {
            let place = Place {
                user,
                ..Place::named(path)
            };
            runtime.block_on(place.connect()).map(|_| ())
        };
        assert!(connect(&path, None).is_ok() && connect(&link, None).is_ok());
        assert!(connect(&path, Some(own_uid())).is_ok());
        let refused = connect(&path, Some(own_uid() + 1)).unwrap_err();
        assert!(refused.to_string().contains("belongs to user"), "{refused}");
        assert!(connect(&link, Some(own_uid())).is_err());
    }
}
