//! A containerd of its own with its CRI plugin: data, state and socket in a temporary folder, pods in the
//! host's network, so that no CNI is needed.

pub(crate) mod messages;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tonic::{
    Request,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

pub use self::messages::Resources;

use self::messages as cri;
use crate::{
    binaries, cgroup,
    daemon::{Daemon, Folder, PATIENCE},
    wait_until,
};

/// The image: the workload program and nothing else. Run as it is it sleeps, as a sandbox does.
const IMAGE: &str = "docker.io/library/ctrscope-workload:test";
/// Longest that a question to it may take.
const ANSWER: Duration = Duration::from_secs(60);
/// A namespace of the node, not of the pod.
const OF_THE_NODE: i32 = 2;

/// A running containerd; ended on drop, with all of its pods.
pub struct Containerd {
    // In the order in which they end.
    daemon: Daemon,
    folder: Folder,
    runtime: tokio::runtime::Runtime,
    parent: String,
}

/// A pod; removed with its containerd.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Id of its sandbox.
    pub id: String,
    config: cri::PodConfig,
}

impl Containerd {
    /// Starts it and gives it an image that holds the workload program.
    ///
    /// # Errors
    ///
    /// `containerd` or `ctr` is missing, or it does not come up.
    pub fn start() -> Result<Self> {
        let folder = Folder::new("ctrscope-containerd-", &[])?;
        let path = |name: &str| folder.path().join(name);
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n[grpc]\naddress = {:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = {IMAGE:?}\n\
             disable_tcp_service = true\nrestrict_oom_score_adj = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = {:?}\nconf_dir = {:?}\n",
            path("data"),
            path("state"),
            path("containerd.sock"),
            path("cni-bin"),
            path("cni"),
        );
        fs::write(path("config.toml"), config)?;
        let daemon = start_daemon(&folder)?;
        let containerd = Self {
            daemon,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            parent: format!("/{}", cgroup::own_name("ctrscope-pods")),
            folder,
        };
        containerd.wait_ready()?;
        let archive = containerd.folder.path().join("image.tar");
        write_image(containerd.folder.path(), &archive)?;
        let output = Command::new("ctr")
            .arg("--address")
            .arg(containerd.socket())
            .args(["--namespace", "k8s.io", "images", "import"])
            .args(["--snapshotter", "native"])
            .arg(&archive)
            .output()
            .context("cannot run ctr")?;
        if !output.status.success() {
            bail!("ctr: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(containerd)
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("containerd.sock")
    }

    /// Runs a pod without containers. Its uid is `uid-<name>`.
    ///
    /// # Errors
    ///
    /// containerd refuses.
    pub fn run_pod(&self, namespace: &str, name: &str, labels: &[(&str, &str)]) -> Result<Pod> {
        let uid = format!("uid-{name}");
        self.run_pod_in(&self.parent, (namespace, name, &uid), labels)
    }

    /// Runs a pod without containers where the kubelet would put it: its class is `burstable`,
    /// `besteffort` or nothing, which is guaranteed.
    ///
    /// # Errors
    ///
    /// containerd refuses.
    pub fn run_pod_of_class(&self, class: &str, name: &str, uid: &str) -> Result<Pod> {
        let parent = Path::new(&self.parent).join("kubepods").join(class);
        let parent = parent.join(format!("pod{uid}"));
        self.run_pod_in(&parent.to_string_lossy(), ("shop", name, uid), &[])
    }

    fn run_pod_in(
        &self,
        parent: &str,
        (namespace, name, uid): (&str, &str, &str),
        labels: &[(&str, &str)],
    ) -> Result<Pod> {
        let config = cri::PodConfig {
            metadata: Some(cri::PodMetadata {
                name: name.to_owned(),
                uid: uid.to_owned(),
                namespace: namespace.to_owned(),
            }),
            labels: owned(labels),
            linux: Some(cri::LinuxPod {
                cgroup_parent: parent.to_owned(),
                security: Some(cri::PodSecurity {
                    namespaces: Some(host_network()),
                }),
            }),
        };
        let request = cri::RunPod {
            config: Some(config.clone()),
        };
        let answer: cri::Id = self.call("RunPodSandbox", request)?;
        Ok(Pod {
            id: answer.id,
            config,
        })
    }

    /// Starts a container of a pod with the workload program and gives its id.
    ///
    /// # Errors
    ///
    /// containerd refuses.
    pub fn start_container(
        &self,
        pod: &Pod,
        name: &str,
        attempt: u32,
        workload: &[&str],
    ) -> Result<String> {
        self.start_container_with(pod, name, attempt, workload, None)
    }

    /// As [`start_container`](Self::start_container), with requests and limits.
    ///
    /// # Errors
    ///
    /// containerd refuses.
    pub fn start_container_with(
        &self,
        pod: &Pod,
        name: &str,
        attempt: u32,
        workload: &[&str],
        resources: Option<Resources>,
    ) -> Result<String> {
        let mut command = vec!["/workload".to_owned()];
        command.extend(workload.iter().map(|&word| word.to_owned()));
        let request = cri::CreateContainer {
            pod: pod.id.clone(),
            config: Some(cri::ContainerConfig {
                metadata: Some(cri::ContainerMetadata {
                    name: name.to_owned(),
                    attempt,
                }),
                image: Some(cri::Id {
                    id: IMAGE.to_owned(),
                }),
                command,
                labels: owned(&[("tier", "test")]),
                linux: Some(cri::LinuxContainer {
                    resources,
                    security: Some(cri::ContainerSecurity {
                        namespaces: Some(host_network()),
                    }),
                }),
            }),
            pod_config: Some(pod.config.clone()),
        };
        let created: cri::Id = self.call("CreateContainer", request)?;
        let _: cri::Empty = self.call("StartContainer", created.clone())?;
        Ok(created.id)
    }

    /// Ends a container and removes it.
    ///
    /// # Errors
    ///
    /// containerd refuses.
    pub fn remove_container(&self, id: &str) -> Result<()> {
        let stop = cri::StopContainer {
            id: id.to_owned(),
            seconds: 0,
        };
        let _: cri::Empty = self.call("StopContainer", stop)?;
        let _: cri::Empty = self.call("RemoveContainer", cri::Id { id: id.to_owned() })?;
        Ok(())
    }

    /// Ends a pod with its containers and removes it.
    ///
    /// # Errors
    ///
    /// containerd refuses.
    pub fn remove_pod(&self, pod: &Pod) -> Result<()> {
        let id = cri::Id { id: pod.id.clone() };
        let _: cri::Empty = self.call("StopPodSandbox", id.clone())?;
        let _: cri::Empty = self.call("RemovePodSandbox", id)?;
        Ok(())
    }

    /// Kills it as a crash would, and starts it again; containers go on.
    ///
    /// # Errors
    ///
    /// It does not come up again.
    pub fn crash_and_restart(&mut self) -> Result<()> {
        self.daemon.crash()?;
        let _ = fs::remove_file(self.socket());
        self.daemon = start_daemon(&self.folder)?;
        self.wait_ready()
    }

    fn wait_ready(&self) -> Result<()> {
        wait_until(PATIENCE, "containerd's CRI answers", || {
            Ok(self
                .call::<_, cri::Empty>("Version", cri::Empty {})
                .is_ok()
                .then_some(()))
        })
        .with_context(|| self.folder.log())
    }

    fn call<Q, A>(&self, method: &str, message: Q) -> Result<A>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let path = format!("/runtime.v1.RuntimeService/{method}").parse()?;
        let address = format!("unix://{}", self.socket().display());
        self.runtime.block_on(async {
            let channel: Channel = Endpoint::from_shared(address)?
                .timeout(ANSWER)
                .connect()
                .await
                .context("connect to containerd")?;
            let mut grpc = Grpc::new(channel);
            grpc.ready().await?;
            let codec = ProstCodec::<Q, A>::default();
            let answer = grpc
                .unary(Request::new(message), path, codec)
                .await
                .with_context(|| method.to_owned())?;
            Ok(answer.into_inner())
        })
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let pods = self.call::<_, cri::Pods>("ListPodSandbox", cri::Empty {});
        for pod in pods.map(|pods| pods.items).unwrap_or_default() {
            let _ = self.call::<_, cri::Empty>("StopPodSandbox", pod.clone());
            let _ = self.call::<_, cri::Empty>("RemovePodSandbox", pod);
        }
        for hierarchy in cgroup::hierarchies().unwrap_or_default() {
            let _ = cgroup::remove(&hierarchy.mount.join(self.parent.trim_start_matches('/')));
        }
    }
}

fn start_daemon(folder: &Folder) -> Result<Daemon> {
    let mut command = Command::new("containerd");
    command
        .arg("--config")
        .arg(folder.path().join("config.toml"));
    folder.spawn(&mut command)
}

fn host_network() -> cri::Namespaces {
    cri::Namespaces {
        network: OF_THE_NODE,
    }
}

fn owned(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    pairs
        .iter()
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// An image in the form of `docker save`: one layer with the workload program.
fn write_image(folder: &Path, archive: &Path) -> Result<()> {
    let root = folder.join("root");
    let parts = folder.join("image");
    fs::create_dir(&root)?;
    fs::create_dir(&parts)?;
    fs::copy(binaries::workload()?, root.join("workload"))?;
    tar(&parts.join("layer.tar"), &root)?;
    let output = Command::new("sha256sum")
        .arg(parts.join("layer.tar"))
        .output()
        .context("cannot run sha256sum")?;
    let digest = String::from_utf8_lossy(&output.stdout);
    let digest = digest
        .split_whitespace()
        .next()
        .context("sha256sum says nothing")?;
    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let config = serde_json::json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Cmd": ["/workload", "sleep-burn", "--burn-ms", "1", "--sleep-ms", "1000"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    fs::write(parts.join("config.json"), config.to_string())?;
    let manifest = serde_json::json!([{
        "Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"],
    }]);
    fs::write(parts.join("manifest.json"), manifest.to_string())?;
    tar(archive, &parts)
}

fn tar(archive: &Path, directory: &Path) -> Result<()> {
    // By name and not as `.`: readers look for `manifest.json`, not `./manifest.json`.
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.file_name());
    }
    let status = Command::new("tar")
        .arg("-cf")
        .arg(archive)
        .arg("-C")
        .arg(directory)
        .args(names)
        .status()
        .context("cannot run tar")?;
    if !status.success() {
        bail!("tar: {status}");
    }
    Ok(())
}
