//! Records a profile: opens a session, waits, names the frames, draws.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ctrscope_ebpf::counter;

use super::core::ProfileLossTotals;
use crate::{
    bpf::{BpfError, ProfileSession, SharedSlots, layout::Resolved},
    host::{parse_cpu_list, sample_rate_limit},
    profile::{
        Asked, FlameGraph, Owner, Profile, ProfileLosses, RawProfile, RawSample, Symbolizer, name,
        write_folded, write_pprof, write_speedscope,
    },
    snapshot::OTHER_NAME,
    source::{Cancel, ProfileFormat, ProfileRequest, RenderedProfile, SourceError, Split},
};

/// How often new processes are looked at and the slot table is brought up to date.
const REFRESH: Duration = Duration::from_millis(100);
/// The list of CPUs that are online.
const ONLINE_CPUS: &str = "/sys/devices/system/cpu/online";

/// What a session needs of the engine.
pub(super) struct SessionParts {
    pub(super) proc_root: PathBuf,
    pub(super) resolved: Arc<Resolved>,
    pub(super) slots: SharedSlots,
    pub(super) losses: ProfileLossTotals,
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
    let (mut session, frequency) = start(parts, request, slot)?;
    let mut symbolizer = Symbolizer::with_proc(&parts.proc_root);
    let mut known = HashSet::new();
    let mut labels = names()?;
    let began_unix_ms = unix_ms();
    let began = Instant::now();
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
        let mut grown = false;
        for tgid in session.tgids() {
            if known.insert(tgid) {
                symbolizer.remember(tgid);
                grown = true;
            }
        }
        // A slot may change hands during a long profile; the first name that was seen counts.
        if grown {
            for (slot, name) in names()? {
                labels.entry(slot).or_insert(name);
            }
        }
    }
    session.stop();
    let seconds = began.elapsed().as_secs_f64();
    let losses = session.losses();
    for (total, loss) in parts.losses.iter().zip(&losses) {
        total.fetch_add(loss.count, Ordering::Relaxed);
    }
    let loss = |index: u32| {
        losses
            .get(index as usize)
            .map_or(0, |counter| counter.count)
    };
    let other = Arc::new(Owner::named(OTHER_NAME));
    let sample_ns = 1_000_000_000 / u64::from(frequency.max(1));
    let empty: Arc<[u64]> = Arc::from([]);
    let samples = session.samples();
    // A thread that was sampled and has gone leaves its process here by name at least.
    drop(session);
    let raw = RawProfile {
        profile_type: request.profile_type,
        began_unix_ms,
        samples: samples
            .into_iter()
            .map(|sample| RawSample {
                owner: Arc::clone(labels.get(&sample.slot).unwrap_or(&other)),
                tgid: sample.tgid,
                tid: sample.tid,
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
            stacks: loss(counter::STACKS_FULL),
        },
    };
    let named = name(&raw, &mut symbolizer, request.split);
    Ok(RenderedProfile {
        body: write(&named, request.format, subject)?,
        samples: named.count,
        lost: raw.losses.total(),
        seconds,
        frequency,
    })
}

/// Starts a session at the rate asked for, or at the highest that the kernel allows; returns it with its rate.
fn start(
    parts: &SessionParts,
    request: &ProfileRequest,
    slot: Option<u32>,
) -> Result<(ProfileSession, u32), SourceError> {
    let mut frequency = allowed(&parts.proc_root, request.frequency);
    // Some may have come or gone since the start.
    let cpus = online(Path::new(ONLINE_CPUS)).unwrap_or_else(|| parts.cpus.clone());
    loop {
        let session = ProfileSession::start(
            &parts.resolved,
            Arc::clone(&parts.slots),
            slot,
            frequency,
            request.split == Split::Thread,
            &cpus,
        );
        match session {
            Ok(session) => return Ok((session, frequency)),
            Err(error) => {
                // It may have been lowered just now.
                let lower = allowed(&parts.proc_root, frequency);
                if lower >= frequency {
                    return Err(refused(error));
                }
                frequency = lower;
            }
        }
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
