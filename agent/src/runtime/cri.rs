//! The Kubernetes container runtime interface, `runtime.v1`, and containerd's own services: gRPC over a
//! unix socket.

mod codec;
mod describe;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzz;
mod messages;
mod wire;

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use axum::{body::Bytes, http::uri::PathAndQuery};
use prost::Message;
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    transport::{Channel, Endpoint},
};

use self::{codec::Raw, messages as pb, wire::Malformed};
use super::{Metadata, client::Happening, failure::Failure, pace::Pace};
use crate::snapshot::Resources;

/// Longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of an answer about one container or pod: annotations of a pod are 256 KiB at most.
const MOST_ONE: usize = 1 << 20;
/// Bytes of a list; one of 1,000 containers with their labels is some 2 MB.
const MOST_LIST: usize = 16 << 20;
/// What is kept of a list, bytes; what comes then is asked for one by one.
const MOST_LISTED: usize = 16 << 20;
/// Questions that are asked at once.
const AT_ONCE: usize = 4;
/// How often a runtime that has no events is asked whether it lives.
const PING: Duration = Duration::from_secs(5);
/// Namespaces of containerd that are looked into.
const MOST_NAMESPACES: usize = 32;
/// CRI's own namespace in containerd, and Docker's, whose names containerd does not know.
const KUBERNETES: &str = "k8s.io";
const MOBY: &str = "moby";

const VERSION: &str = "/runtime.v1.RuntimeService/Version";
const LIST_CONTAINERS: &str = "/runtime.v1.RuntimeService/ListContainers";
const LIST_PODS: &str = "/runtime.v1.RuntimeService/ListPodSandbox";
const CONTAINER: &str = "/runtime.v1.RuntimeService/ContainerStatus";
const POD: &str = "/runtime.v1.RuntimeService/PodSandboxStatus";
const CRI_EVENTS: &str = "/runtime.v1.RuntimeService/GetContainerEvents";
const OWN_VERSION: &str = "/containerd.services.version.v1.Version/Version";
const OWN_GET: &str = "/containerd.services.containers.v1.Containers/Get";
const OWN_LIST: &str = "/containerd.services.containers.v1.Containers/List";
const OWN_NAMESPACES: &str = "/containerd.services.namespaces.v1.Namespaces/List";
const OWN_EVENTS: &str = "/containerd.services.events.v1.Events/Subscribe";

/// A runtime behind a CRI socket.
#[derive(Clone, Debug)]
pub(super) struct Cri {
    channel: Channel,
    runtime: &'static str,
    /// containerd for Docker alone has CRI turned off.
    has_cri: bool,
    questions: Arc<Semaphore>,
}

/// What is kept of a list.
#[derive(Default)]
struct Listing {
    all: Vec<Metadata>,
    left_out: u64,
    bytes: usize,
}

impl Listing {
    fn add(&mut self, metadata: Metadata) {
        self.bytes = self.bytes.saturating_add(metadata.bytes());
        if self.bytes <= MOST_LISTED {
            self.all.push(metadata);
        } else {
            self.left_out += 1;
        }
    }
}

impl Cri {
    /// Asks who is there.
    pub(super) async fn connect(socket: &Path) -> Result<Self, Failure> {
        let address = format!("unix://{}", socket.display());
        let endpoint = Endpoint::from_shared(address)
            .map_err(|error| Failure::broken("its address", &error))?
            .connect_timeout(PATIENCE);
        let channel = timeout(PATIENCE, endpoint.connect())
            .await
            .map_err(|_| silent("connect"))?
            .map_err(|error| Failure::broken("connect", &cause(&error)))?;
        let mut cri = Self {
            channel,
            runtime: "containerd",
            has_cri: true,
            questions: Arc::new(Semaphore::new(AT_ONCE)),
        };
        match cri.version().await {
            Ok(version) => {
                let name = pb::runtime_name(&version).map_err(|error| nonsense(VERSION, error))?;
                if name.to_ascii_lowercase().starts_with("cri-o") {
                    cri.runtime = "crio";
                }
                Ok(cri)
            }
            Err(status) if status.code() == Code::Unimplemented => {
                cri.has_cri = false;
                let answer = cri.call(OWN_VERSION, &pb::Empty {}, None, MOST_ONE).await;
                match answer {
                    Ok(_) => Ok(cri),
                    Err(status) => Err(failure(OWN_VERSION, &status, MOST_ONE)),
                }
            }
            Err(status) => Err(failure(VERSION, &status, MOST_ONE)),
        }
    }

    async fn version(&self) -> Result<Bytes, Status> {
        let request = pb::VersionRequest {
            version: "0.1.0".to_owned(),
        };
        self.call(VERSION, &request, None, MOST_ONE).await
    }

    pub(super) fn runtime(&self) -> &'static str {
        self.runtime
    }

    fn is_containerd(&self) -> bool {
        self.runtime == "containerd"
    }

    /// All pods and containers, without their limits. And how many there was no room for.
    pub(super) async fn list(&self) -> Result<(Vec<Metadata>, u64), Failure> {
        let mut listing = Listing::default();
        if self.has_cri {
            self.list_cri(&mut listing).await?;
        }
        if self.is_containerd() {
            for namespace in self.own_namespaces().await {
                let answer = self
                    .call(OWN_LIST, &pb::Empty {}, Some(&namespace), MOST_LIST)
                    .await
                    .map_err(|status| failure(OWN_LIST, &status, MOST_LIST))?;
                for container in pb::listed(&answer, pb::own_container) {
                    let container = container.map_err(|error| nonsense(OWN_LIST, error))?;
                    listing.add(describe::own(container));
                }
            }
        }
        Ok((listing.all, listing.left_out))
    }

    async fn list_cri(&self, listing: &mut Listing) -> Result<(), Failure> {
        let everything = pb::ListRequest { filter: None };
        let answer = self
            .call(LIST_PODS, &everything, None, MOST_LIST)
            .await
            .map_err(|status| failure(LIST_PODS, &status, MOST_LIST))?;
        let mut pods: HashMap<String, pb::Pod> = HashMap::new();
        for pod in pb::listed(&answer, |message| pb::pod(message, false)) {
            let pod = pod.map_err(|error| nonsense(LIST_PODS, error))?;
            let sandbox = describe::sandbox(self.runtime, &pod);
            let before = listing.all.len();
            listing.add(sandbox);
            if listing.all.len() > before {
                pods.insert(pod.id.clone(), pod);
            }
        }
        drop(answer);
        let answer = self
            .call(LIST_CONTAINERS, &everything, None, MOST_LIST)
            .await
            .map_err(|status| failure(LIST_CONTAINERS, &status, MOST_LIST))?;
        for container in pb::listed(&answer, pb::container) {
            let container = container.map_err(|error| nonsense(LIST_CONTAINERS, error))?;
            let pod = pods.get(&container.pod);
            listing.add(describe::container(self.runtime, container, pod));
        }
        Ok(())
    }

    /// One container or pod sandbox by its id; `None` if there is none.
    pub(super) async fn lookup(&self, id: &str) -> Result<Option<Metadata>, Failure> {
        if self.has_cri {
            if let Some(found) = self.lookup_container(id).await? {
                return Ok(Some(found));
            }
            if let Some(pod) = self.pod(id).await? {
                return Ok(Some(describe::sandbox(self.runtime, &pod)));
            }
        }
        if self.is_containerd() {
            for namespace in self.own_namespaces().await {
                let request = pb::IdRequest { id: id.to_owned() };
                let answer = self
                    .call(OWN_GET, &request, Some(&namespace), MOST_ONE)
                    .await;
                if let Some(answer) = found(OWN_GET, answer)?
                    && let Some(container) = first(OWN_GET, &answer)?
                {
                    let container = pb::own_container(container);
                    let container = container.map_err(|error| nonsense(OWN_GET, error))?;
                    return Ok(Some(describe::own(container)).filter(|one| one.id == id));
                }
            }
        }
        Ok(None)
    }

    async fn lookup_container(&self, id: &str) -> Result<Option<Metadata>, Failure> {
        let request = pb::ListRequest {
            filter: Some(pb::IdRequest { id: id.to_owned() }),
        };
        let answer = self.call(LIST_CONTAINERS, &request, None, MOST_ONE).await;
        let Some(answer) = found(LIST_CONTAINERS, answer)? else {
            return Ok(None);
        };
        // The beginning of an id finds it too.
        let mut all = pb::listed(&answer, pb::container).filter_map(Result::ok);
        let Some(container) = all.find(|container| container.id == id) else {
            return Ok(None);
        };
        let pod = self.pod(&container.pod).await?;
        let mut metadata = describe::container(self.runtime, container, pod.as_ref());
        metadata.resources = self.resources(id).await?;
        Ok(Some(metadata))
    }

    /// What a container was started with; `None` if it is gone by now, and where its runtime does not say
    /// it.
    async fn resources(&self, id: &str) -> Result<Option<Resources>, Failure> {
        let status = |verbose| pb::StatusRequest {
            id: id.to_owned(),
            verbose,
        };
        let answer = self.call(CONTAINER, &status(false), None, MOST_ONE).await;
        let Some(answer) = found(CONTAINER, answer)? else {
            return Ok(None);
        };
        let Some(container) = first(CONTAINER, &answer)? else {
            return Ok(None);
        };
        let container = pb::container_status(container);
        let container = container.map_err(|error| nonsense(CONTAINER, error))?;
        if container.resources.is_some() {
            return Ok(container.resources);
        }
        // containerd before 1.7 and CRI-O before 1.26 say it in what is meant for a reader.
        let answer = self.call(CONTAINER, &status(true), None, MOST_ONE).await;
        match found(CONTAINER, answer)? {
            Some(answer) => {
                pb::verbose_resources(&answer).map_err(|error| nonsense(CONTAINER, error))
            }
            None => Ok(None),
        }
    }

    async fn pod(&self, id: &str) -> Result<Option<pb::Pod>, Failure> {
        if id.is_empty() {
            return Ok(None);
        }
        let request = pb::StatusRequest {
            id: id.to_owned(),
            verbose: false,
        };
        let answer = self.call(POD, &request, None, MOST_ONE).await;
        let Some(answer) = found(POD, answer)? else {
            return Ok(None);
        };
        let Some(status) = first(POD, &answer)? else {
            return Ok(None);
        };
        let pod = pb::pod(status, true).map_err(|error| nonsense(POD, error))?;
        Ok(Some(pod).filter(|pod| pod.id == id))
    }

    /// containerd's namespaces whose containers have their names there.
    async fn own_namespaces(&self) -> Vec<String> {
        let answer = self.call(OWN_NAMESPACES, &pb::Empty {}, None, MOST_ONE);
        let namespaces = answer.await.map(|answer| pb::namespaces(&answer));
        namespaces
            .unwrap_or_default()
            .into_iter()
            .filter(|name| name != MOBY && !(self.has_cri && name == KUBERNETES))
            .take(MOST_NAMESPACES)
            .collect()
    }

    /// Follows what happens; returns only with the reason why it cannot any longer. `opened` is called
    /// when nothing more can be missed.
    pub(super) async fn follow(
        &self,
        opened: impl FnOnce(),
        happened: impl FnMut(Happening),
    ) -> Result<(), Failure> {
        if self.is_containerd() {
            self.follow_own(opened, happened).await
        } else {
            self.follow_cri(opened, happened).await
        }
    }

    async fn follow_own(
        &self,
        opened: impl FnOnce(),
        mut happened: impl FnMut(Happening),
    ) -> Result<(), Failure> {
        let filters = ["/containers/create", "/tasks/start", "/tasks/exit"]
            .map(|topic| format!("topic==\"{topic}\""))
            .to_vec();
        let mut events = self
            .stream(OWN_EVENTS, &pb::SubscribeRequest { filters })
            .await
            .map_err(|status| failure(OWN_EVENTS, &status, MOST_ONE))?;
        opened();
        let mut pace = Pace::default();
        loop {
            let event = events.message().await;
            let event = event.map_err(|status| failure(OWN_EVENTS, &status, MOST_ONE))?;
            let Some(event) = event else {
                return Err(Failure::broken("Subscribe", &"the stream ended"));
            };
            let understood =
                describe::of_own_event(&event).map_err(|error| nonsense(OWN_EVENTS, error))?;
            if let Some(happening) = understood {
                happened(happening);
            }
            pace.spend(1, event.len()).await;
        }
    }

    async fn follow_cri(
        &self,
        opened: impl FnOnce(),
        mut happened: impl FnMut(Happening),
    ) -> Result<(), Failure> {
        let mut events = match self.stream(CRI_EVENTS, &pb::Empty {}).await {
            Ok(events) => events,
            // Turned off unless `enable_pod_events` is set; names are asked for when a cgroup is made all
            // the same.
            Err(status) if status.code() == Code::Unimplemented => {
                opened();
                return self.ping().await;
            }
            Err(status) => return Err(failure(CRI_EVENTS, &status, MOST_ONE)),
        };
        opened();
        let mut pace = Pace::default();
        loop {
            match events.message().await {
                Ok(Some(message)) => {
                    let event = pb::container_event(&message);
                    let event = event.map_err(|error| nonsense(CRI_EVENTS, error))?;
                    let all = describe::of_event(self.runtime, event);
                    all.into_iter().for_each(&mut happened);
                    pace.spend(1, message.len()).await;
                }
                Ok(None) => {
                    return Err(Failure::broken("GetContainerEvents", &"the stream ended"));
                }
                Err(status) if status.code() == Code::Unimplemented => return self.ping().await,
                Err(status) => return Err(failure(CRI_EVENTS, &status, MOST_ONE)),
            }
        }
    }

    async fn ping(&self) -> Result<(), Failure> {
        loop {
            sleep(PING).await;
            let answer = self.version().await;
            answer.map_err(|status| failure(VERSION, &status, MOST_ONE))?;
        }
    }

    async fn call(
        &self,
        path: &'static str,
        message: &impl Message,
        namespace: Option<&str>,
        limit: usize,
    ) -> Result<Bytes, Status> {
        let mut request = Request::new(message.encode_to_vec());
        if let Some(namespace) = namespace {
            let value = namespace
                .parse()
                .map_err(|_| Status::invalid_argument("a namespace that is no header"))?;
            request.metadata_mut().insert("containerd-namespace", value);
        }
        let late = |_| Status::deadline_exceeded("");
        // Those that wait for one that hangs are not asked either.
        let permit = timeout(PATIENCE, self.questions.acquire());
        let _permit = permit.await.map_err(late)?;
        let mut grpc = self.grpc(limit);
        let whole = async {
            grpc.ready()
                .await
                .map_err(|error| Status::unavailable(cause(&error)))?;
            let path = PathAndQuery::from_static(path);
            grpc.unary(request, path, Raw).await
        };
        let answer = timeout(PATIENCE, whole).await.map_err(late)?;
        Ok(answer?.into_inner())
    }

    async fn stream(
        &self,
        path: &'static str,
        message: &impl Message,
    ) -> Result<Streaming<Bytes>, Status> {
        let mut grpc = self.grpc(MOST_ONE);
        grpc.ready()
            .await
            .map_err(|error| Status::unavailable(cause(&error)))?;
        let request = Request::new(message.encode_to_vec());
        // The head of the answer comes with the first event only.
        let path = PathAndQuery::from_static(path);
        let answer = grpc.server_streaming(request, path, Raw).await?;
        Ok(answer.into_inner())
    }

    fn grpc(&self, limit: usize) -> Grpc<Channel> {
        Grpc::new(self.channel.clone()).max_decoding_message_size(limit)
    }
}

/// An answer, or none where there is no such thing.
fn found(asked: &str, answer: Result<Bytes, Status>) -> Result<Option<Bytes>, Failure> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(failure(asked, &status, MOST_ONE)),
    }
}

/// The first field of an answer.
fn first<'a>(asked: &str, answer: &'a [u8]) -> Result<Option<&'a [u8]>, Failure> {
    pb::first(answer).map_err(|error| nonsense(asked, error))
}

fn silent(asked: &str) -> Failure {
    Failure::Silent {
        asked: asked.to_owned(),
    }
}

fn nonsense(asked: &str, malformed: Malformed) -> Failure {
    Failure::nonsense(method(asked), &malformed)
}

/// `Version` of `/runtime.v1.RuntimeService/Version`.
fn method(asked: &str) -> &str {
    asked.rsplit('/').next().unwrap_or(asked)
}

fn failure(asked: &str, status: &Status, limit: usize) -> Failure {
    let asked = method(asked);
    match status.code() {
        Code::DeadlineExceeded => silent(asked),
        Code::OutOfRange => Failure::TooLong {
            asked: asked.to_owned(),
            limit,
        },
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled => {
            Failure::broken(asked, &status.message())
        }
        code => Failure::refused(asked, &format!("{code:?}: {}", status.message())),
    }
}

/// The innermost cause: the outer ones only say that there is one.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests;
