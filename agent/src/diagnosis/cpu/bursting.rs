//! Bursting: more CPU than is guaranteed, on what others do not use; and what happens when they come.

use crate::diagnosis::{
    facts::ContainerFacts,
    verdict::{Bursting, Party, Squeezed},
    view::View,
    words::{cores, seconds},
};

/// CPU time below which nobody relies on a burst: cores.
const LEAST_CORES: f64 = 0.05;
/// Part of what it had before that a squeezed container has at most.
const SQUEEZED_TO: f64 = 0.8;
/// Part of what a newcomer uses now that it used at most before it came.
const NEWCOMER_HAD: f64 = 0.25;
/// Former windows among which the time before the squeeze is looked for.
const FORMER_WINDOWS: usize = 30;

/// Whether it runs above its guarantee, and since when.
pub(in crate::diagnosis) fn bursting(view: &View<'_>) -> Option<Bursting> {
    let entitled = view.container.cpu.entitlement.as_ref()?;
    let guaranteed = entitled.guaranteed_cores;
    let obtained = entitled.obtained_cores;
    let above = guaranteed * view.thresholds.burst_ratio;
    if obtained < above.max(LEAST_CORES) {
        return None;
    }
    let former = &view.container.cpu.former_cores;
    let windows = former.iter().rev().take_while(|&&had| had >= above).count();
    let since = windows as f64 + 1.0;
    Some(Bursting {
        guaranteed_cores: guaranteed,
        obtained_cores: obtained,
        since_unix_ms: before_end(view, since),
        may_be_longer: windows == former.len(),
        summary: format!(
            "it uses {}, and {} are guaranteed by its weight: {} of it are what others leave idle, and go when \
             they come",
            cores(obtained),
            cores(guaranteed),
            cores(obtained - guaranteed)
        ),
    })
}

/// Whether it had more than its guarantee before and lost it to somebody who came.
pub(in crate::diagnosis) fn squeezed(view: &View<'_>, culprits: &[Party]) -> Option<Squeezed> {
    let entitled = view.container.cpu.entitlement.as_ref()?;
    let now = entitled.obtained_cores;
    let former = &view.container.cpu.former_cores;
    let recent = former.get(former.len().saturating_sub(FORMER_WINDOWS)..)?;
    let most = recent.iter().copied().fold(0.0, f64::max);
    let above = entitled.guaranteed_cores * view.thresholds.burst_ratio;
    if most < above.max(LEAST_CORES) || now > most * SQUEEZED_TO {
        return None;
    }
    // Windows in which it has been squeezed, this one included.
    let is_squeezed = |had: &&f64| **had <= most * SQUEEZED_TO;
    let windows = 1 + recent.iter().rev().take_while(is_squeezed).count();
    // It may just want less than before: somebody must have come.
    if neighbours_gained(view, windows) < (most - now) / 2.0 {
        return None;
    }
    let newcomer = culprits
        .iter()
        .find(|culprit| came(view, &culprit.name, windows))
        .map(|culprit| culprit.name.clone())
        .unwrap_or_default();
    let ago = seconds(windows as f64 * view.window.seconds);
    let who = if newcomer.is_empty() {
        "others came".to_owned()
    } else {
        format!("{newcomer} came")
    };
    Some(Squeezed {
        former_cores: most,
        now_cores: now,
        guaranteed_cores: entitled.guaranteed_cores,
        since_unix_ms: before_end(view, windows as f64),
        summary: format!(
            "it had {} before, above the {} that are guaranteed, on CPU that nobody used; {who} within the \
             last {ago}, and it has {} since",
            cores(most),
            cores(entitled.guaranteed_cores),
            cores(now)
        ),
        newcomer,
    })
}

/// Whether those of a name use much now and used little `windows` ago and before. One that was not there
/// yet has no former windows.
fn came(view: &View<'_>, name: &str, windows: usize) -> bool {
    let mut found = false;
    let (mut now, mut before) = (0.0, 0.0);
    for one in view.context.named(name) {
        let Some(used) = view.cores_of(one) else {
            return false;
        };
        found = true;
        now += used;
        let former = &one.cpu.former_cores;
        let earlier = former.len().saturating_sub(windows.saturating_sub(1));
        // The window in which it came has both.
        let earlier = former.get(..earlier.saturating_sub(1)).unwrap_or_default();
        let recent = earlier
            .get(earlier.len().saturating_sub(FORMER_WINDOWS)..)
            .unwrap_or_default();
        before += recent.iter().copied().fold(0.0, f64::max);
    }
    found && now > 0.0 && before <= now * NEWCOMER_HAD
}

/// What the neighbours use more than before the last `windows`: cores.
fn neighbours_gained(view: &View<'_>, windows: usize) -> f64 {
    let gained = |one: &ContainerFacts| {
        let now = view.cores_of(one)?;
        let former = &one.cpu.former_cores;
        // The window in which they came has both, so the one before it counts as well.
        let at = |place: usize| former.get(former.len().checked_sub(place)?).copied();
        let before = at(windows)
            .unwrap_or(0.0)
            .min(at(windows + 1).unwrap_or(0.0));
        Some(now - before)
    };
    view.neighbours().filter_map(gained).sum()
}

fn before_end(view: &View<'_>, windows: f64) -> u64 {
    let ms = (windows * view.window.seconds * 1e3).max(0.0);
    view.window.ended_at_unix_ms.saturating_sub(ms as u64)
}
