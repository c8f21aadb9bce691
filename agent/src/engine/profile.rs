//! Records a profile: opens a session, waits, names the frames, draws.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ctrscope_ebpf::{counter, profile::ProgramKey};

use super::{profile_totals::ProfileTotals, profiler::Profiler};
use crate::{
    bpf::{BpfError, ProfileSession},
    host::{parse_cpu_list, sample_rate_limit},
    profile::{
        Asked, FlameGraph, Owner, Profile, ProfileLosses, RawProfile, RawSample, Symbolizer,
        WalkEnd, name, write_folded, write_pprof, write_speedscope,
    },
    snapshot::OTHER_NAME,
    source::{Cancel, ProfileFormat, ProfileRequest, RenderedProfile, SourceError, Split},
};

/// How often the slot table is brought up to date.
const REFRESH: Duration = Duration::from_millis(100);
/// How often the names of containers are asked for. A slot may change hands during a long profile.
const NAMES_INTERVAL: Duration = Duration::from_secs(1);
/// The list of CPUs that are online.
const ONLINE_CPUS: &str = "/sys/devices/system/cpu/online";

/// What a session needs of the engine.
pub(super) struct SessionParts {
    pub(super) profiler: Profiler,
    pub(super) totals: Arc<ProfileTotals>,
    /// CPUs that were online when the agent started.
    pub(super) cpus: Vec<u32>,
}

/// CPUs that are online, by the kernel's list.
fn online(list: &Path) -> Option<Vec<u32>> {
    parse_cpu_list(&fs::read_to_string(list).ok()?)
}

/// Records and renders a profile on the calling thread.
pub(super) fn record(
    parts: &SessionParts,
    request: &ProfileRequest,
    slot: Option<u32>,
    subject: &str,
    names: impl Fn() -> Result<HashMap<u32, Arc<Owner>>, SourceError>,
    cancel: &Cancel,
) -> Result<RenderedProfile, SourceError> {
    let proc_root = parts.profiler.proc_root();
    let recording = parts.profiler.begin().map_err(refused)?;
    let frequency = allowed(proc_root, request.frequency);
    // Some may have come or gone since the start.
    let cpus = online(Path::new(ONLINE_CPUS)).unwrap_or_else(|| parts.cpus.clone());
    let by_thread = request.split == Split::Thread;
    let mut labels = names()?;
    let mut session = ProfileSession::start(&recording.sampler, slot, frequency, by_thread, &cpus)
        .map_err(refused)?;
    let began_unix_ms = unix_ms();
    let began = session.began;
    let mut named = Instant::now();
    loop {
        let left = request.duration.saturating_sub(began.elapsed());
        if cancel.is_cancelled() {
            return Err(SourceError::Cancelled);
        }
        if left.is_zero() || cancel.is_stopped() {
            break;
        }
        std::thread::sleep(left.min(REFRESH));
        session.refresh();
        if named.elapsed() >= NAMES_INTERVAL {
            named = Instant::now();
            add_names(&mut labels, names()?);
        }
    }
    session.stop();
    let seconds = began.elapsed().as_secs_f64();
    add_names(&mut labels, names()?);
    let losses = session.losses();
    let loss = |index: u32| {
        losses
            .get(index as usize)
            .map_or(0, |counter| counter.count)
    };
    let other = Arc::new(Owner::named(OTHER_NAME));
    let sample_ns = 1_000_000_000 / u64::from(frequency.max(1));
    let empty: Arc<[u64]> = Arc::from([]);
    let samples = session.samples();
    let lost = samples.iter().filter(|sample| sample.is_lost);
    let lost_stacks = lost.map(|sample| sample.count).sum();
    drop(session);
    let pythons = recording.pythons(&samples);
    let stops = samples.iter().map(|sample| (sample.stop, sample.count));
    parts.totals.add(stops, recording.refused());
    parts.totals.set_maps(recording.sampler.maps());
    parts.totals.set_losses(&recording.sampler.losses());
    let programs: HashSet<ProgramKey> = samples.iter().map(|sample| sample.program).collect();
    let mut symbolizer = Symbolizer::with_proc(proc_root)
        .cached(parts.profiler.symbols())
        .with_inlined(request.inlined);
    for (program, process) in recording.processes(|key| programs.contains(&key)) {
        symbolizer.know(program, process);
    }
    let raw = RawProfile {
        profile_type: request.profile_type,
        began_unix_ms,
        samples: samples
            .into_iter()
            .map(|sample| RawSample {
                owner: Arc::clone(labels.get(&sample.slot).unwrap_or(&other)),
                program: sample.program,
                tid: sample.tid,
                python: sample
                    .python
                    .and_then(|(hash, _)| pythons.get(&hash).cloned()),
                end: WalkEnd::of(sample.stop),
                user: sample.user.unwrap_or_else(|| Arc::clone(&empty)),
                kernel: sample.kernel.unwrap_or_else(|| Arc::clone(&empty)),
                count: sample.count,
                ns: sample.count.saturating_mul(sample_ns),
            })
            .collect(),
        seconds,
        frequency,
        asked: Asked {
            seconds: request.duration.as_secs_f64(),
            frequency: request.frequency,
        },
        losses: ProfileLosses {
            samples: loss(counter::SAMPLES_FULL),
            stacks: lost_stacks,
            unreadable: loss(counter::STACK_UNREADABLE),
            strangers: slot.map_or(0, |_| loss(counter::SAMPLE_UNKNOWN)),
        },
    };
    let named = name(&raw, &mut symbolizer, request.split);
    parts
        .totals
        .add_addresses([named.symbol_hits, named.symbol_misses]);
    Ok(RenderedProfile {
        body: write(&named, request.format, subject)?,
        samples: named.count,
        lost: raw.losses.total(),
        seconds,
        frequency,
    })
}

/// Adds names of slots; the first that was seen counts.
fn add_names(labels: &mut HashMap<u32, Arc<Owner>>, names: HashMap<u32, Arc<Owner>>) {
    for (slot, name) in names {
        labels.entry(slot).or_insert(name);
    }
}

/// The rate, or the highest that the kernel allows.
fn allowed(proc_root: &Path, frequency: u32) -> u32 {
    sample_rate_limit(proc_root).map_or(frequency, |limit| frequency.min(limit.max(1)))
}

/// A profile in a format.
fn write(profile: &Profile, format: ProfileFormat, subject: &str) -> Result<Vec<u8>, SourceError> {
    let mut body = Vec::new();
    let written = match format {
        ProfileFormat::Svg => {
            return FlameGraph::new(subject)
                .draw(profile)
                .map_err(|source| SourceError::Failed {
                    context: "draw the profile".into(),
                    source: Box::new(source),
                });
        }
        ProfileFormat::Folded => write_folded(profile, &mut body),
        ProfileFormat::Pprof => write_pprof(profile, &mut body),
        ProfileFormat::Speedscope => write_speedscope(profile, subject, &mut body),
    };
    written.map_err(|source| SourceError::Failed {
        context: "write the profile".into(),
        source: Box::new(source),
    })?;
    Ok(body)
}

fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

fn refused(error: BpfError) -> SourceError {
    match error {
        BpfError::Unsupported { .. } => SourceError::Unsupported(error.to_string()),
        other => SourceError::Failed {
            context: "start to sample stacks".into(),
            source: Box::new(other),
        },
    }
}
