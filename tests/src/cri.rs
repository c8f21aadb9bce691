//! A container runtime that only answers: CRI as CRI-O speaks it, on a socket in a temporary folder, about
//! containers that a test makes itself.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::ready,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response,
    body::{Bytes, Incoming},
    header::HeaderValue,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tempfile::TempDir;
use tokio::{net::UnixListener, sync::oneshot};

use crate::containerd::{
    Resources,
    messages::{ContainerMetadata, Id, PodMetadata},
};

/// <https://grpc.github.io/grpc/core/md_doc_statuscodes.html>
const OK: &str = "0";
const NOT_FOUND: &str = "5";
const UNIMPLEMENTED: &str = "12";
/// Bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A container, alone in its pod.
#[derive(Clone, Debug)]
pub struct Served {
    /// Of the container.
    pub id: String,
    /// Of the container.
    pub name: String,
    /// Of the pod, as the next two.
    pub namespace: String,
    /// Its name; the id of its sandbox is made of the container's.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Served {
    fn sandbox(&self) -> String {
        self.id.chars().rev().collect()
    }
}

/// By the ids of containers and by those of their sandboxes.
#[derive(Default)]
struct All {
    containers: BTreeMap<String, Served>,
    sandboxes: BTreeMap<String, String>,
}

/// The socket and who answers on it; ended on drop.
pub struct Cri {
    all: Arc<Mutex<All>>,
    folder: TempDir,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Cri {
    /// Listens, and knows no container yet.
    ///
    /// # Errors
    ///
    /// It cannot listen.
    pub fn start() -> Result<Self> {
        let folder = TempDir::with_prefix("ctrscope-cri-")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let path = folder.path().join("crio.sock");
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(&path).with_context(|| format!("cannot bind {}", path.display()))?
        };
        let all = Arc::<Mutex<All>>::default();
        let (end, ended) = oneshot::channel();
        let answering = Arc::clone(&all);
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = listen(&listener, &answering) => {}
                    _ = ended => {}
                }
            });
        });
        Ok(Self {
            all,
            folder,
            end: Some(end),
            thread: Some(thread),
        })
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("crio.sock")
    }

    /// From now on the container is there.
    pub fn add(&self, container: Served) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.sandboxes
            .insert(container.sandbox(), container.id.clone());
        all.containers.insert(container.id.clone(), container);
    }

    /// From now on it is not.
    pub fn remove(&self, id: &str) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(container) = all.containers.remove(id) {
            all.sandboxes.remove(&container.sandbox());
        }
    }
}

impl Drop for Cri {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            let _ = end.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn listen(listener: &UnixListener, all: &Arc<Mutex<All>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let all = Arc::clone(all);
        let service = service_fn(move |request| answer(Arc::clone(&all), request));
        tokio::spawn(async move {
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

async fn answer(all: Arc<Mutex<All>>, request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let all = all.lock().unwrap_or_else(PoisonError::into_inner);
    let (message, status) = match all.ask(&path, body.get(PREFIX..).unwrap_or_default()) {
        Ok(message) => (Some(message), OK),
        Err(status) => (None, status),
    };
    let mut data = Vec::new();
    if let Some(message) = message {
        data.push(0);
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        data.extend_from_slice(&length.to_be_bytes());
        data.extend_from_slice(&message);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    let body = Full::new(Bytes::from(data)).with_trailers(ready(Some(Ok(trailers))));
    let mut response = Response::new(body.boxed());
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}

impl All {
    /// The encoded answer, or a status. What is no part of CRI is containerd's own; events CRI-O has only
    /// where they are turned on.
    fn ask(&self, path: &str, message: &[u8]) -> Result<Vec<u8>, &'static str> {
        let method = path.strip_prefix("/runtime.v1.RuntimeService/");
        match method.ok_or(UNIMPLEMENTED)? {
            "Version" => Ok(Version {
                runtime: "cri-o".to_owned(),
            }
            .encode_to_vec()),
            "ListContainers" => {
                let asked = List::decode(message).map_err(|_| UNIMPLEMENTED)?;
                let found = self.containers.values();
                let found = found.filter(|one| asked.wants(&one.id)).map(container);
                Ok(Containers {
                    all: found.collect(),
                }
                .encode_to_vec())
            }
            "ListPodSandbox" => {
                let asked = List::decode(message).map_err(|_| UNIMPLEMENTED)?;
                let found = self.containers.values();
                let found = found
                    .filter(|one| asked.wants(&one.sandbox()))
                    .map(|one| PodSandbox {
                        id: one.sandbox(),
                        metadata: Some(metadata(one)),
                        labels: one.labels.clone(),
                    });
                Ok(PodSandboxes {
                    all: found.collect(),
                }
                .encode_to_vec())
            }
            "ContainerStatus" => {
                let asked = Id::decode(message).map_err(|_| UNIMPLEMENTED)?;
                let one = self.containers.get(&asked.id).ok_or(NOT_FOUND)?;
                Ok(ContainerStatusAnswer {
                    status: Some(ContainerStatus {
                        id: one.id.clone(),
                        metadata: Some(name(one)),
                        resources: Some(ContainerResources {
                            linux: Some(Resources::default()),
                        }),
                    }),
                }
                .encode_to_vec())
            }
            "PodSandboxStatus" => {
                let asked = Id::decode(message).map_err(|_| UNIMPLEMENTED)?;
                let id = self.sandboxes.get(&asked.id).ok_or(NOT_FOUND)?;
                let one = self.containers.get(id).ok_or(NOT_FOUND)?;
                Ok(PodSandboxStatusAnswer {
                    status: Some(PodSandboxStatus {
                        id: one.sandbox(),
                        metadata: Some(metadata(one)),
                        labels: one.labels.clone(),
                    }),
                }
                .encode_to_vec())
            }
            _ => Err(UNIMPLEMENTED),
        }
    }
}

fn name(one: &Served) -> ContainerMetadata {
    ContainerMetadata {
        name: one.name.clone(),
        attempt: 0,
    }
}

fn metadata(one: &Served) -> PodMetadata {
    PodMetadata {
        name: one.pod.clone(),
        uid: one.uid.clone(),
        namespace: one.namespace.clone(),
    }
}

fn container(one: &Served) -> Container {
    Container {
        id: one.id.clone(),
        sandbox: one.sandbox(),
        metadata: Some(name(one)),
    }
}

/// The messages of `pkg/apis/runtime/v1/api.proto` of kubernetes/cri-api, with the fields that are filled.
#[derive(Clone, PartialEq, Message)]
struct Version {
    #[prost(string, tag = "2")]
    runtime: String,
}

/// `ListContainersRequest` and `ListPodSandboxRequest`.
#[derive(Clone, PartialEq, Message)]
struct List {
    #[prost(message, optional, tag = "1")]
    filter: Option<Id>,
}

impl List {
    fn wants(&self, id: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.id == id)
    }
}

#[derive(Clone, PartialEq, Message)]
struct Containers {
    #[prost(message, repeated, tag = "1")]
    all: Vec<Container>,
}

#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    sandbox: String,
    #[prost(message, optional, tag = "3")]
    metadata: Option<ContainerMetadata>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxes {
    #[prost(message, repeated, tag = "1")]
    all: Vec<PodSandbox>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandbox {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<PodMetadata>,
    #[prost(btree_map = "string, string", tag = "5")]
    labels: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerStatusAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<ContainerStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerStatus {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "16")]
    resources: Option<ContainerResources>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerResources {
    #[prost(message, optional, tag = "1")]
    linux: Option<Resources>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatusAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<PodSandboxStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatus {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<PodMetadata>,
    #[prost(btree_map = "string, string", tag = "7")]
    labels: BTreeMap<String, String>,
}
