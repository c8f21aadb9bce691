//! The network tree: what is lost in a container's network namespace.

use super::{
    facts::NetworkFacts,
    tree::{Draft, Tree},
    verdict::{Asked, Evidence, Relation, Resource, ResourceDiagnosis, Unit, Verdict},
    view::{View, ratio},
    words::{percent, speed},
};

/// Use of a link from which it is said to be full.
const FULL_LINK: f64 = 0.9;

/// Walks the tree.
pub(super) fn diagnose(view: &View<'_>) -> ResourceDiagnosis {
    let mut tree = Tree::new(Resource::Network, view);
    if tree.yes(is_listen_queue_full) {
        tree.found(
            Verdict::ListenQueueFull,
            &["listen_queue_full"],
            listen_queue_full(view),
        );
    }
    if tree.yes(drops_packets) {
        tree.found(Verdict::NetworkDrops, &["drops"], network_drops(view));
    }
    if tree.yes(retransmits) {
        tree.found(Verdict::Retransmits, &["retransmits"], retransmitted(view));
    }
    if !tree.found_any() && tree.yes(is_idle) {
        let draft = Draft::of("it neither sent nor received");
        return tree.finish(Verdict::Idle, &["idle"], draft);
    }
    let rests_on = &["listen_queue_full", "drops", "retransmits"];
    tree.finish(Verdict::Unbound, rests_on, unbound(view))
}

fn facts<'a>(view: &View<'a>) -> Option<&'a NetworkFacts> {
    view.container.network.as_ref()
}

fn per_second(view: &View<'_>, count: impl FnOnce(&NetworkFacts) -> Option<u64>) -> Option<f64> {
    view.per_second(count(facts(view)?)? as f64)
}

/// Did nothing go in or out?
fn is_idle(view: &View<'_>) -> Asked {
    let bytes = facts(view).map(|one| one.received_bytes.saturating_add(one.sent_bytes) as f64);
    Asked::all(
        "idle",
        "Did nothing go in or out?",
        vec![Evidence::new("bytes", Unit::Bytes, bytes).is(Relation::AtMost, ("", 0.0))],
    )
}

/// Are connections refused because a listener's queue is full?
fn is_listen_queue_full(view: &View<'_>) -> Asked {
    let drops = facts(view).and_then(|one| one.listen_drops);
    Asked::all(
        "listen_queue_full",
        "Are connections dropped because a listener's queue is full?",
        vec![
            // Whoever connects waits a second before it tries again, so one is enough.
            Evidence::new("listen_drops", Unit::Count, drops.map(|drops| drops as f64))
                .is(Relation::Above, ("", 0.0)),
        ],
    )
}

/// Do interfaces or receive buffers drop packets?
fn drops_packets(view: &View<'_>) -> Asked {
    let threshold = view.thresholds.dropped_packets_per_second();
    let dropped = per_second(view, |one| Some(one.dropped_packets));
    let errors = per_second(view, |one| Some(one.error_packets));
    let full = per_second(view, |one| one.udp_receive_errors);
    let number =
        |name, value| Evidence::new(name, Unit::PerSecond, value).is(Relation::AtLeast, threshold);
    Asked::any(
        "drops",
        "Do interfaces or receive buffers drop packets?",
        vec![
            number("dropped_packets_per_second", dropped),
            number("udp_buffer_full_per_second", full),
            Evidence::new("error_packets_per_second", Unit::PerSecond, errors),
        ],
    )
}

/// Are segments sent again?
fn retransmits(view: &View<'_>) -> Asked {
    let thresholds = view.thresholds;
    let again = per_second(view, |one| one.retransmitted_segments);
    Asked::all(
        "retransmits",
        "Are TCP segments sent again?",
        vec![
            Evidence::new(
                "retransmitted_ratio",
                Unit::Ratio,
                retransmitted_ratio(view),
            )
            .is(Relation::AtLeast, thresholds.retransmitted_ratio()),
            Evidence::new("retransmitted_per_second", Unit::PerSecond, again)
                .is(Relation::AtLeast, thresholds.retransmitted_per_second()),
        ],
    )
}

/// Segments sent again over all that were sent; nothing sent is nothing sent again.
fn retransmitted_ratio(view: &View<'_>) -> Option<f64> {
    let facts = facts(view)?;
    let (again, sent) = (facts.retransmitted_segments?, facts.sent_segments?);
    // The kernel counts what is sent again apart from what is sent.
    Some(ratio(again as f64, sent.saturating_add(again) as f64).unwrap_or(0.0))
}

/// A draft whose numbers may be another's, where the namespace is the host's.
fn draft(view: &View<'_>, summary: String, severity: f64, remedies: Vec<String>) -> Draft {
    let mut draft = Draft {
        summary,
        severity,
        remedies,
        ..Draft::default()
    };
    if facts(view).is_some_and(|facts| facts.is_host) {
        draft.lowered.push((
            0.5,
            "it has the host's network, so these are the numbers of all that has it".to_owned(),
        ));
    }
    draft
}

fn listen_queue_full(view: &View<'_>) -> Draft {
    let drops = facts(view).and_then(|one| one.listen_drops).unwrap_or(0);
    let rate = view.per_second(drops as f64).unwrap_or(0.0);
    draft(
        view,
        format!(
            "{drops} connections were dropped because a listener's queue was full; whoever connects waits a \
             second before it tries again"
        ),
        // Each makes a client wait for a second.
        rate.min(1.0),
        vec![
            "make it accept faster: it is off the CPU or has too few accepting threads (see its CPU verdict)"
                .to_owned(),
            "or let more wait: the backlog that the program gives to listen(), bounded by \
             net.core.somaxconn of its network namespace; `ss -ltn` inside shows the queues"
                .to_owned(),
        ],
    )
}

fn network_drops(view: &View<'_>) -> Draft {
    let dropped = per_second(view, |one| Some(one.dropped_packets)).unwrap_or(0.0);
    let full = per_second(view, |one| one.udp_receive_errors).unwrap_or(0.0);
    let least = view.thresholds.dropped_packets_per_second;
    let mut words = Vec::new();
    let mut remedies = Vec::new();
    if dropped >= least {
        words.push(format!(
            "its interfaces dropped {dropped:.1} packets a second"
        ));
        remedies.push(
            "find the interface and the reason (`ip -s -s link` inside, `tc -s qdisc` on both ends of the \
             veth pair): a policer or a full queue there, or a packet that nobody wanted"
                .to_owned(),
        );
    }
    if full >= least {
        words.push(format!(
            "{full:.1} UDP datagrams a second found the receiver's buffer full"
        ));
        remedies.push(
            "read faster (see its CPU verdict), or make the buffer larger: SO_RCVBUF, bounded by \
             net.core.rmem_max"
                .to_owned(),
        );
    }
    // Two hundred milliseconds a drop, until all the time is lost.
    let severity = ((dropped + full) * 0.2).min(1.0) * 0.5;
    draft(view, words.join("; "), severity, remedies)
}

fn retransmitted(view: &View<'_>) -> Draft {
    let ratio = retransmitted_ratio(view).unwrap_or(0.0);
    let mut summary = format!("{} of its TCP segments were sent again", percent(ratio));
    let mut remedies = vec![
        "find where they get lost: `ss -ti` inside names the connections, and whether one peer or all have \
         them"
            .to_owned(),
    ];
    let full: Vec<String> = view
        .window
        .host
        .interfaces
        .iter()
        .filter_map(|(name, link)| {
            let most = link.received_bytes.max(link.sent_bytes) as f64;
            // A virtual one has no speed.
            let link_speed = link.bytes_per_second.filter(|&speed| speed > 0)? as f64;
            let used = view.per_second_of_host(most)? / link_speed;
            let drops = link.dropped_packets;
            (used >= FULL_LINK || drops > 0).then(|| {
                format!(
                    "{name} at {} of its speed, {drops} packets dropped",
                    percent(used)
                )
            })
        })
        .collect();
    if view.window.host.interfaces.is_empty() {
        summary.push_str("; the host's interfaces are not measured");
    } else if full.is_empty() {
        summary.push_str(
            "; the host's interfaces neither are full nor drop, so it is the way or the peer",
        );
    } else {
        summary.push_str(&format!("; of the host's interfaces: {}", full.join("; ")));
        remedies.insert(
            0,
            "the host's own link is full or drops: find who fills it, or give it a faster one"
                .to_owned(),
        );
    }
    draft(view, summary, (ratio * 10.0).min(1.0) * 0.5, remedies)
}

fn unbound(view: &View<'_>) -> Draft {
    let Some(facts) = facts(view) else {
        return Draft::of("its network namespace could not be looked at");
    };
    let rate = |bytes: u64| speed(view.per_second(bytes as f64).unwrap_or(0.0));
    draft(
        view,
        format!(
            "nothing is lost; it received {} and sent {}",
            rate(facts.received_bytes),
            rate(facts.sent_bytes)
        ),
        0.0,
        Vec::new(),
    )
}
