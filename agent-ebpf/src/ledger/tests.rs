extern crate std;

use std::{boxed::Box, collections::HashMap, vec::Vec};

use super::*;
use crate::slot;

const ME: u32 = 1;

fn of(slot: u32) -> u64 {
    occupant(slot, CONTAINER)
}

fn idle() -> u64 {
    occupant(slot::IDLE, WAKE_UP)
}

fn kernel() -> u64 {
    occupant(slot::KERNEL, KERNEL)
}

/// # Safety
///
/// As [`append`].
unsafe fn fold_whole(ring: *mut Stretches) {
    // SAFETY: by the caller.
    unsafe { fold(ring, |occupant, ns| put_in_span(ring, occupant, ns)) }
}

/// A CPU whose switches are told one by one.
struct Cpu {
    ring: Box<Stretches>,
    now: u64,
    task_clock: u64,
    /// Slices: owner, begin, end.
    slices: Vec<(u64, u64, u64)>,
}

impl Cpu {
    fn new() -> Self {
        let mut cpu = Self {
            ring: Box::new(Stretches::ZERO),
            now: 1 << 40,
            task_clock: 77,
            slices: Vec::new(),
        };
        // The first switch: nothing is known of what ran before.
        cpu.runs(of(9), 0, 0, false);
        cpu.slices.clear();
        cpu
    }

    /// A slice of a length, of which interrupts had a part.
    fn runs(&mut self, occupant: u64, ns: u64, interrupts: u64, is_preempted: bool) {
        let begin = self.now;
        self.now += ns;
        self.task_clock += ns - interrupts;
        // SAFETY: it is this one's alone.
        unsafe {
            let ring = &raw mut *self.ring;
            append(
                ring,
                occupant,
                self.now,
                self.task_clock,
                is_preempted,
                || fold_whole(ring),
            );
        }
        self.slices.push((occupant, begin, self.now));
    }

    /// What a walk from the last slice's begin back to `queued` gives, by occupant.
    fn walked(&mut self, queued: u64) -> HashMap<u64, u64> {
        let both = self.walked_both(queued);
        assert!(both.values().all(|[ns, left]| ns == left), "{both:?}");
        both.into_iter().map(|(one, [ns, _])| (one, ns)).collect()
    }

    /// The same, and what of it was while the one that waited was not throttled.
    fn walked_both(&mut self, queued: u64) -> HashMap<u64, [u64; 2]> {
        let mut parts: HashMap<u64, [u64; 2]> = HashMap::new();
        // SAFETY: as above.
        let sum = unsafe {
            let ring = &raw mut *self.ring;
            let mut charge = |one, ns, left| {
                let sums = parts.entry(one).or_default();
                *sums = [sums[0] + ns, sums[1] + left];
                ns
            };
            let mut sum = walk_slices(ring, queued, kernel(), &mut charge);
            if self.ring.walked_to > queued {
                sum += walk(ring, queued, |number, shares| {
                    parts_of_stretch(ring, number, shares, kernel(), &mut charge)
                });
            }
            if self.ring.walked_to > queued {
                sum += walk_spans(ring, queued, |number, shares| {
                    parts_of_span(ring, number, shares, kernel(), &mut charge)
                });
            }
            sum
        };
        assert_eq!(sum, parts.values().map(|[ns, _]| ns).sum::<u64>());
        parts.retain(|_, [ns, _]| *ns != 0);
        parts
    }

    /// The container that waits was throttled from one time to another.
    fn throttled(&mut self, number: usize, begin: u64, end: u64) {
        self.ring.has_throttled = 1;
        self.ring.throttled[number] = [begin, end];
    }

    /// The same from the slices themselves.
    fn truth(&self, queued: u64) -> HashMap<u64, u64> {
        let mut parts = HashMap::new();
        let (_, earlier) = self.slices.split_last().unwrap();
        for &(one, begin, end) in earlier {
            let ns = end.saturating_sub(begin.max(queued));
            if ns > 0 {
                *parts.entry(one).or_default() += ns;
            }
        }
        parts
    }
}

#[test]
fn long_slices_are_told_to_the_nanosecond() {
    let mut cpu = Cpu::new();
    let queued = cpu.now;
    for (one, ns) in [
        (of(2), 3_000_000),
        (of(3), 4_000_001),
        (idle(), 777_777),
        (of(2), 1_000_003),
    ] {
        cpu.runs(one, ns, 0, true);
    }
    cpu.runs(of(4), 2_000_000, 0, true);
    assert_eq!(cpu.walked(queued), cpu.truth(queued));
    // The last is charged by whoever walks.
    assert_eq!(cpu.walked(queued).get(&of(4)), None);
    assert_eq!(cpu.now - cpu.ring.slice_begin, 2_000_000);
}

#[test]
fn a_wait_that_began_within_a_slice_has_the_rest_of_it() {
    let mut cpu = Cpu::new();
    cpu.runs(of(2), 8_000_000, 0, true);
    let queued = cpu.now - 2_000_000;
    cpu.runs(of(3), 5_000_000, 0, true);
    cpu.runs(of(2), 1_000_000, 0, true);
    let walked = cpu.walked(queued);
    assert_eq!(walked[&of(3)], 5_000_000);
    assert_eq!(walked[&of(2)], 2_000_000);
}

#[test]
fn a_thousand_short_slices_are_told_by_occupant() {
    let mut cpu = Cpu::new();
    let queued = cpu.now;
    // Two that wake each other, and now and then a third.
    for i in 0_u64..2_000 {
        cpu.runs(of(2), 2_000 + i % 7, 0, false);
        cpu.runs(of(3), 3_000 + i % 5, 0, true);
        if i % 10 == 0 {
            cpu.runs(kernel(), 1_500, 0, false);
        }
    }
    let (walked, truth) = (cpu.walked(queued), cpu.truth(queued));
    let all: u64 = truth.values().sum();
    assert!(all > 10_000_000 && all < 16_000_000);
    for (one, ns) in truth {
        assert!(
            walked[&one].abs_diff(ns) * 1_000 <= all,
            "{one:x}: {walked:?} {ns}"
        );
    }
}

#[test]
fn what_is_beyond_the_walk_is_nobodys_and_never_too_much() {
    let mut cpu = Cpu::new();
    let queued = cpu.now;
    for i in 0..200_000_u32 {
        cpu.runs(of(2 + i % 3), 4_000, 0, false);
    }
    let walked: u64 = cpu.walked(queued).values().sum();
    let truth: u64 = cpu.truth(queued).values().sum();
    assert!(
        walked <= truth && walked >= 500_000_000,
        "{walked} of {truth}"
    );
}

#[test]
fn a_task_of_little_weight_is_told_who_had_the_cpu_for_a_quarter_of_a_second() {
    let mut cpu = Cpu::new();
    // What it had itself is no part of its wait, and of an old one a small one at most.
    cpu.runs(of(ME), 3_000_000, 0, true);
    let queued = cpu.now;
    for i in 0_u64..28_000 {
        cpu.runs(of(2), 2_000 + i % 7, 0, false);
        cpu.runs(of(3), 3_000 + i % 5, 0, true);
        if i % 1_000 == 0 {
            cpu.runs(of(4), 4_000_000, 0, true);
            cpu.runs(kernel(), 20_000, 5_000, false);
        }
    }
    let (walked, truth) = (cpu.walked(queued), cpu.truth(queued));
    let all: u64 = truth.values().sum();
    assert!(all > 250_000_000, "{all}");
    let told: u64 = walked.values().sum();
    assert!(told <= all && told * 100 >= all * 98, "{told} of {all}");
    for (one, ns) in truth {
        assert!(
            walked[&one].abs_diff(ns) * 100 <= all,
            "{one:x}: {walked:?} {ns}"
        );
    }
    let own = walked.get(&of(ME)).copied().unwrap_or_default();
    assert!(own * 100 <= all, "{own} of {all}");
}

#[test]
fn more_occupants_than_a_stretch_has_room_for_open_another() {
    let mut cpu = Cpu::new();
    let queued = cpu.now;
    for slot in 2..32 {
        cpu.runs(of(slot), 5_000, 0, false);
    }
    assert_eq!(cpu.walked(queued), cpu.truth(queued));
}

#[test]
fn what_interrupts_had_of_a_slice_is_theirs() {
    let mut cpu = Cpu::new();
    let queued = cpu.now;
    cpu.runs(of(2), 4_000_000, 1_000_000, true);
    cpu.runs(of(3), 4_000_000, 0, true);
    cpu.runs(of(2), 1_000_000, 250_000, true);
    let expected = HashMap::from([
        (of(2), 3_000_000),
        (of(3), 4_000_000),
        (kernel(), 1_000_000),
    ]);
    assert_eq!(cpu.walked(queued), expected);
    assert_eq!(cpu.ring.slice_interrupts_ns, 250_000);
}

#[test]
fn clocks_that_go_astray_give_nothing_absurd() {
    let mut cpu = Cpu::new();
    let queued = cpu.now;
    cpu.runs(of(2), 1_000_000, 0, true);
    // The task clock ahead of the other one, then the clock back.
    cpu.task_clock += 500_000;
    cpu.runs(of(2), 1_000_000, 0, true);
    cpu.now -= 3_000_000;
    cpu.runs(of(3), 0, 0, true);
    cpu.runs(of(3), 1_000_000, 0, true);
    cpu.runs(of(4), 1_000_000, 0, true);
    let walked: u64 = cpu.walked(queued).values().sum();
    assert!(walked <= 3_000_000, "{walked}");
    assert_eq!(cpu.walked(u64::MAX).values().sum::<u64>(), 0);
}

/// What ran just before a wait is no part of it, however short the slices are.
#[test]
fn a_wait_that_begins_with_a_wake_up_among_short_slices_has_none_of_what_was_before() {
    let mut cpu = Cpu::new();
    for _ in 0..100 {
        cpu.runs(of(ME), 150_000, 0, false);
        cpu.runs(of(2), 200_000, 0, false);
        let queued = cpu.now;
        cpu.runs(of(3), 100_000, 0, false);
        cpu.runs(of(4), 10_000, 0, false);
        assert_eq!(cpu.walked(queued), cpu.truth(queued));
        assert_eq!(cpu.truth(queued), HashMap::from([(of(3), 100_000)]));
    }
}

/// A container that has itself split into many cgroups loses its names, and others are not blamed for it.
#[test]
fn more_occupants_than_a_span_tells_apart_keep_their_cause() {
    let mut cpu = Cpu::new();
    let queued = cpu.now;
    for i in 0..20_000_u32 {
        cpu.runs(of(2 + i % 60), 20_000, 0, false);
        if i % 50 == 0 {
            cpu.runs(occupant(70 + i / 50 % 9, SYSTEM), 30_000, 0, false);
        }
    }
    let by_cause = |parts: HashMap<u64, u64>, cause| -> u64 {
        let of = parts
            .into_iter()
            .filter(|(one, _)| cause_for(*one, u64::from(ME)) == cause as u64);
        of.map(|(_, ns)| ns).sum()
    };
    let (walked, truth) = (cpu.walked(queued), cpu.truth(queued));
    assert!(truth.values().sum::<u64>() > 400_000_000);
    for cause in [CONTAINER, SYSTEM] {
        let (told, all) = (
            by_cause(walked.clone(), cause),
            by_cause(truth.clone(), cause),
        );
        assert!(
            told.abs_diff(all) * 100 <= all * 2,
            "{cause}: {told} of {all}"
        );
    }
}

#[test]
fn a_ring_that_was_never_written_tells_nothing() {
    let mut ring = Box::new(Stretches::ZERO);
    // SAFETY: it is this one's alone.
    let sum = unsafe {
        let ring = &raw mut *ring;
        fold_whole(ring);
        let recent = walk_slices(ring, 5, kernel(), |_, ns, _| ns);
        let older = walk(ring, 5, |number, shares| {
            parts_of_stretch(ring, number, shares, kernel(), |_, ns, _| ns)
        });
        recent + older + walk_spans(ring, 5, |_, shares| shares.share)
    };
    assert_eq!(sum, 0);
}

#[test]
fn the_cause_is_what_the_occupant_is_for_the_one_that_waited() {
    let victim = u64::from(ME);
    for (one, cause) in [
        (of(ME), SELF),
        (of(2), CONTAINER),
        (occupant(ME, SYSTEM), SELF),
        (occupant(3, SYSTEM), SYSTEM),
        (occupant(0, SYSTEM), SYSTEM),
        (kernel(), KERNEL),
        (idle(), WAKE_UP),
    ] {
        assert_eq!(cause_for(one, victim), cause as u64, "{one:x}");
    }
    assert_eq!(cause_for(occupant(0, SYSTEM), 0), SELF as u64);
}

#[test]
fn what_the_quota_had_is_taken_from_what_others_had() {
    // Of 10 ms its own tasks had 2; for 4 it was throttled, nobody knows when: others are to blame for 4 of their 8.
    let one = factor(4_000_000, 8_000_000);
    assert_eq!(scaled(6_000_000, one), 3_000_000);
    assert_eq!(scaled(2_000_000, one), 1_000_000);
    assert_eq!(factor(0, 8_000_000), 0);
    assert_eq!(factor(8_000_000, 8_000_000), WHOLE);
    // Others are never to blame for more than they had.
    assert_eq!(factor(9_000_000, 8_000_000), WHOLE);
    assert_eq!(factor(5, 0), WHOLE);
    // A week.
    let week = 604_800_000_000_000;
    assert!(factor(week / 2, week).abs_diff(WHOLE / 2) <= 1);
    assert_eq!(scaled(1 << 40, WHOLE), 1 << 40);
}

#[test]
fn who_ran_while_it_was_throttled_is_not_to_blame() {
    let mut cpu = Cpu::new();
    let queued = cpu.now;
    cpu.throttled(2, queued - 500_000, queued + 90_000_000);
    // A neighbour has the CPU meanwhile, and then another one.
    for _ in 0..30 {
        cpu.runs(of(2), 3_000_000, 0, true);
    }
    for _ in 0..3 {
        cpu.runs(of(3), 3_000_000, 300_000, true);
    }
    cpu.runs(of(4), 1_000_000, 0, true);
    let both = cpu.walked_both(queued);
    let left = |of: u64| both[&of][1];
    // The oldest are in stretches of one slice each, the parts of which are in 1,024ths.
    assert_eq!(both[&of(2)][0], 90_000_000);
    assert!(left(of(2)) < 100_000, "{both:?}");
    assert!(
        left(of(3)).abs_diff(8_100_000) < 20_000 && left(kernel()).abs_diff(900_000) < 20_000,
        "{both:?}"
    );
}

#[test]
fn among_short_slices_who_ran_while_it_was_throttled_is_not_to_blame() {
    let mut cpu = Cpu::new();
    let queued = cpu.now;
    // Two that wake each other for 80 ms, of which the first 40 and 8 later ones do not count.
    let phases = [
        (2, 40_000_000),
        (3, 22_000_000),
        (2, 8_000_000),
        (3, 10_000_000),
    ];
    let mut begin = cpu.now;
    for (number, (other, ns)) in phases.into_iter().enumerate() {
        while cpu.now < begin + ns {
            cpu.runs(of(other), 4_000, 0, false);
            cpu.runs(of(other + 2), 1_000, 0, true);
        }
        if other == 2 {
            cpu.throttled(number, begin, cpu.now);
        }
        begin = cpu.now;
    }
    let both = cpu.walked_both(queued);
    let (innocent, guilty) = (
        both[&of(2)][1] + both[&of(4)][1],
        both[&of(3)][1] + both[&of(5)][1],
    );
    // Of 48 and 32 ms. The old ones are in spans of 8 ms and more, which can take in both.
    assert!(innocent < 8_000_000, "{both:?}");
    assert!(guilty > 24_000_000 && guilty <= 32_100_000, "{both:?}");
}

#[test]
fn times_that_overlap_an_interval_are_left_out_of_it() {
    let times = [[100, 200], [0, 0], [250, 400], [350, 350]];
    for (begin, end, within) in [
        (0, 1_000, 250),
        (150, 300, 100),
        (0, 100, 0),
        (400, 900, 0),
        (120, 130, 10),
        (300, 120, 0),
    ] {
        assert_eq!(inside(&times, begin, end), within, "{begin} to {end}");
        let length = end.saturating_sub(begin);
        assert_eq!(outside(&times, begin, end), length - within);
    }
    // Two that overlap each other are not told apart, and no more is left out than there is.
    assert_eq!(outside(&[[0, 100], [0, 100], [0, 0], [0, 0]], 0, 100), 0);
}

#[test]
fn queues_of_a_slab_have_places_of_their_own() {
    // Of 60 queues 576 or 1,024 bytes apart, in two places each, nearly all.
    for step in [576, 640, 1_024, 4_096] {
        let mut places = HashMap::new();
        for i in 0..60_u64 {
            let place = throttles_place(0xffff_8881_0246_8000 + i * step) >> 1;
            assert!(place < THROTTLED_QUEUES / 2);
            *places.entry(place).or_insert(0) += 1;
        }
        let evicted: u32 = places.values().map(|&n: &u32| n.saturating_sub(2)).sum();
        assert!(evicted <= 2, "{step}: {evicted}");
    }
}

/// A task that leaves the CPU without having been seen to get it: what was added to the sum began when the one before left.
#[test]
fn a_time_of_throttling_is_kept_although_who_came_next_came_unseen() {
    let mut kept = Throttles::ZERO;
    kept.left(0x100, 1_000, 10_000, true);
    kept.left(0x100, 6_000, 40_000, false);
    assert_eq!(kept.part_of(0, 50_000), 5_000);
    assert_eq!(kept.part_of(10_000, 15_000), 5_000, "from its beginning on");
    // And not twice.
    kept.got(6_000, 40_000, 50_000, false);
    assert_eq!(kept.part_of(0, 60_000), 5_000);
    // One whose beginning is not known is not kept.
    kept.left(0x100, 9_000, 70_000, false);
    assert_eq!(kept.part_of(0, 80_000), 5_000);
}

#[test]
fn a_throttling_that_began_when_the_last_task_left_counts_from_the_wake_up_on() {
    let mut kept = Throttles::ZERO;
    kept.left(0x100, 1_000, 10_000, true);
    // Throttled from 10,000 to 60,000; this one woke at 40,000.
    kept.got(51_000, 40_000, u64::MAX, false);
    assert_eq!(kept.part_of(40_000, 70_000), 20_000);
    // One that had waited all the time, and one that woke afterwards.
    assert_eq!(kept.part_of(5_000, 80_000), 50_000);
    assert_eq!(kept.part_of(65_000, 90_000), 0);
    // Nothing is added without an increase.
    kept.got(51_000, 1_000, u64::MAX, false);
    assert_eq!(kept.part_of(0, u64::MAX), 50_000);
}

#[test]
fn a_throttling_of_an_empty_queue_began_with_the_first_that_woke() {
    let mut kept = Throttles::ZERO;
    kept.left(0x100, 0, 10_000, false);
    kept.got(5_000, 42_000, u64::MAX, false);
    assert_eq!(kept.part_of(42_000, 60_000), 5_000);
    assert_eq!(kept.part_of(45_000, 60_000), 2_000);
}

#[test]
fn a_throttling_ends_no_later_than_it_is_noted() {
    let mut kept = Throttles::ZERO;
    kept.left(0x100, 0, 10_000, false);
    kept.got(5_000, 42_000, 44_000, false);
    assert_eq!(kept.part_of(0, u64::MAX), 2_000);
    // Where an empty queue counts as well, nobody knows when it was.
    kept.left(0x100, 5_000, 50_000, false);
    kept.got(90_000, 60_000, 61_000, true);
    assert_eq!(kept.part_of(60_000, 61_000), 0);
    kept.left(0x100, 90_000, 70_000, true);
    kept.got(95_000, 60_000, 80_000, true);
    assert_eq!(kept.part_of(60_000, 80_000), 5_000);
}

#[test]
fn several_throttlings_of_one_wait_add_up_and_old_ones_go() {
    let mut kept = Throttles::ZERO;
    let mut total = 0;
    for round in 0..6_u64 {
        kept.left(0x100, total, round * 100 + 50, true);
        total += 30;
        kept.got(total, 0, u64::MAX, false);
    }
    assert_eq!(kept.part_of(0, 1_000), 30 * KEPT_THROTTLES as u64);
    assert_eq!(kept.part_of(460, 1_000), 20 + 30);
    // Another queue takes over.
    kept.left(0x200, 5, 2_000, true);
    assert_eq!(kept.part_of(0, u64::MAX), 0);
}

#[test]
fn a_pair_keeps_its_place_until_it_is_cleared() {
    let mut place = PairSlot::ZERO;
    let (mine, other) = (pair_key(1, 2), pair_key(3, 4));
    assert!(place.take(mine, 100) && place.take(mine, 5));
    assert!(!place.take(other, 7));
    assert_eq!((place.key, place.ns), (mine, 105));
    place.key = 0;
    assert!(place.take(other, 7));
    assert_eq!((place.key, place.ns), (other, 112));
    assert_eq!((pair_victim(other), pair_culprit(other)), (3, 4));
    let (victim, culprit) = (slot::MAX_SLOTS - 1, slot::KERNEL);
    let key = pair_key(u64::from(victim), u64::from(culprit));
    assert_eq!((pair_victim(key), pair_culprit(key)), (victim, culprit));
}

/// How many of the pairs of so many containers that all wait for each other have no place.
fn without_a_place(containers: u64) -> usize {
    let mut places = std::vec![PairSlot::ZERO; PAIRS as usize];
    let all = (1..=containers).flat_map(|one| (1..=containers).map(move |other| (one, other)));
    let pairs = all.filter(|(victim, culprit)| victim != culprit);
    let has_none = |&(victim, culprit): &(u64, u64)| {
        let key = pair_key(victim, culprit);
        let place = pair_place(0, victim, culprit);
        !places[place as usize].take(key, 1) && !places[beside(place) as usize].take(key, 1)
    };
    pairs.filter(has_none).count()
}

#[test]
fn pairs_of_some_containers_have_a_place_and_of_many_most() {
    assert_eq!(without_a_place(12), 0);
    // Of 870 and of 3,540 pairs on one CPU.
    let few = without_a_place(30);
    assert!(few * 100 <= 870 * 3, "{few}");
    let many = without_a_place(60);
    assert!(many * 100 <= 3_540 * 25, "{many}");
}

#[test]
fn only_what_somebody_else_had_is_a_pairs() {
    let pairs: Vec<usize> = (0..CAUSES)
        .filter(|&cause| is_pair(cause as u64, 3) == 1)
        .collect();
    assert_eq!(pairs, [CONTAINER, SYSTEM]);
    assert_eq!(is_pair(CONTAINER as u64, u64::from(slot::ANY)), 0);
}
