extern crate std;

use std::{boxed::Box, collections::HashMap, vec::Vec};

use super::*;

const ME: u32 = 1;
const HOG: u32 = 2;
const MS: u64 = 1 << 20;
const BEGIN: u64 = 1 << 40;

/// A device, to which requests are issued and of which they complete at given times.
struct Disk(Box<Device>);

struct Request {
    slot: u32,
    started_at: u64,
    served: Served,
}

/// What one waited.
#[derive(Debug, PartialEq)]
struct Split {
    own_ns: u64,
    others_ns: u64,
    named: HashMap<u32, u64>,
}

fn add(counter: &mut u32, ticks: u32) {
    *counter = counter.wrapping_add(ticks);
}

impl Disk {
    fn new() -> Self {
        let mut device = Box::new(Device::ZERO);
        device.begin(77, BEGIN);
        // Counters are anywhere, and wrap.
        device.ticks = [u32::MAX - 1_000; OWNERS];
        device.unplaced = u32::MAX - 3;
        Self(device)
    }

    /// Issues a request that was queued that long; times are from the beginning on.
    fn issue(&self, slot: u32, at: u64, queued: u64) -> Request {
        let mut served = Served::ZERO;
        served.note(0, &self.0, BEGIN + at);
        Request {
            slot,
            started_at: BEGIN + at - queued,
            served,
        }
    }

    fn complete(&mut self, request: &Request, at: u64) -> Split {
        let now = BEGIN + at;
        let ticks = self.0.complete(request.served.at, now);
        self.0.charge(request.slot, ticks, now, add);
        self.split(
            request.slot,
            &request.served,
            [ticks.into(), request.started_at, now],
        )
    }

    fn split(&self, slot: u32, served: &Served, [own, started_at, now]: [u64; 3]) -> Split {
        let latency = now - started_at;
        let waited = served.waited(&self.0, slot, [own, latency, now]).unwrap();
        let mut named = HashMap::new();
        served.parts(&self.0, slot, waited.factor, |culprit, ns| {
            assert!(named.insert(culprit, ns).is_none());
        });
        assert!(waited.others_ns <= latency);
        assert!(named.values().sum::<u64>() <= waited.others_ns);
        Split {
            own_ns: latency - waited.others_ns,
            others_ns: waited.others_ns,
            named,
        }
    }
}

#[track_caller]
fn assert_near(is: u64, expected: u64) {
    // A part in 2^16, and a tick.
    assert!(
        is.abs_diff(expected) <= 32 + (expected >> 14),
        "{is} is not {expected}"
    );
}

#[test]
fn a_request_behind_those_of_another_waits_for_them() {
    let mut disk = Disk::new();
    let hogs: Vec<Request> = (0..8).map(|_| disk.issue(HOG, 0, 0)).collect();
    let mine = disk.issue(ME, 0, 0);
    let behind = disk.issue(HOG, 0, 0);
    for (request, end) in hogs.iter().zip(1..) {
        let split = disk.complete(request, end * MS);
        assert_eq!((split.others_ns, split.named.len()), (0, 0));
    }
    let split = disk.complete(&mine, 9 * MS);
    assert_near(split.named[&HOG], 8 * MS);
    assert_near(split.own_ns, MS);
    let split = disk.complete(&behind, 10 * MS);
    assert_near(split.named[&ME], MS);
    assert_near(split.own_ns, 9 * MS);
}

#[test]
fn an_idle_device_makes_nobody_wait() {
    let mut disk = Disk::new();
    let hog = disk.issue(HOG, 0, 0);
    disk.complete(&hog, MS);
    // After a pause, in which the device did nothing.
    let mine = disk.issue(ME, 5 * MS, 0);
    let split = disk.complete(&mine, 6 * MS);
    assert_eq!((split.own_ns, split.others_ns), (MS, 0));
    // One that comes and goes while mine is there is charged from its issue on.
    let mine = disk.issue(ME, 10 * MS, 0);
    let hog = disk.issue(HOG, 15 * MS, 0);
    disk.complete(&hog, 16 * MS);
    let split = disk.complete(&mine, 20 * MS);
    assert_near(split.named[&HOG], MS);
    assert_near(split.own_ns, 9 * MS);
}

#[test]
fn what_the_device_has_begun_counts_from_the_issue_on() {
    let mut disk = Disk::new();
    let hog = disk.issue(HOG, 0, 0);
    let mine = disk.issue(ME, 9 * MS, 0);
    disk.complete(&hog, 10 * MS);
    let split = disk.complete(&mine, 11 * MS);
    assert_near(split.named[&HOG], MS);
    assert_near(split.own_ns, MS);
}

#[test]
fn time_in_the_queue_is_split_as_that_at_the_device() {
    let mut disk = Disk::new();
    let hog = disk.issue(HOG, 100 * MS, 50 * MS);
    let mine = disk.issue(ME, 100 * MS, 20 * MS);
    disk.complete(&hog, 103 * MS);
    let split = disk.complete(&mine, 104 * MS);
    assert_near(split.named[&HOG], 18 * MS);
    assert_near(split.own_ns, 6 * MS);
    assert_eq!(split.own_ns + split.others_ns, 24 * MS);
}

#[test]
fn a_device_that_serves_many_at_once_is_shared_by_who_completes() {
    let mut disk = Disk::new();
    // Four places for each of two, a request takes 8 ms, and one completes each millisecond.
    let mut waiting: Vec<Request> = (0..8).map(|i| disk.issue(1 + i % 2, 0, 0)).collect();
    let mut last = Vec::new();
    for end in 8..200 {
        let request = waiting.remove(0);
        last.push((request.slot, disk.complete(&request, end * MS)));
        waiting.push(disk.issue(request.slot, end * MS, 0));
    }
    for (slot, split) in &last[100..] {
        assert_near(split.own_ns, 4 * MS);
        assert_near(split.named[&(3 - slot)], 4 * MS);
    }
}

#[test]
fn owners_beyond_the_places_have_no_name_and_count() {
    let mut disk = Disk::new();
    let others = 20;
    let hogs: Vec<Request> = (0..others).map(|i| disk.issue(10 + i, 0, 0)).collect();
    let mine = disk.issue(ME, 0, 0);
    for (request, end) in hogs.iter().zip(1..) {
        disk.complete(request, end * MS);
    }
    let split = disk.complete(&mine, 21 * MS);
    // Four of them and mine have come to places of others.
    assert_eq!(split.named.len(), OWNERS - 5);
    for ns in split.named.values() {
        assert_near(*ns, MS);
    }
    assert_near(split.others_ns, 20 * MS);
    assert_near(split.own_ns, MS);
}

#[test]
fn who_is_served_long_has_a_place_among_many() {
    let mut disk = Disk::new();
    let mut at = 0;
    let mut last = None;
    // Each of forty is served for a moment, again and again; a large one comes late.
    for round in 0..50 {
        for slot in 10..50 {
            let small = disk.issue(slot, at, 0);
            at += MS / 16;
            disk.complete(&small, at);
        }
        if round >= 25 {
            let hog = disk.issue(HOG, at, 0);
            let mine = disk.issue(ME, at, 0);
            at += 5 * MS;
            disk.complete(&hog, at);
            at += MS / 2;
            last = Some(disk.complete(&mine, at));
        }
    }
    let split = last.unwrap();
    assert_near(split.named[&HOG], 5 * MS);
    assert_near(split.own_ns, MS / 2);
    // One that rests leaves its place to others, whatever it had.
    at += OWNER_RESTS_NS + MS;
    for slot in 100..100 + OWNERS as u32 {
        let small = disk.issue(slot, at, 0);
        at += MS;
        disk.complete(&small, at);
    }
    let owners: Vec<u32> = (100..100 + OWNERS as u32).map(|slot| slot + 1).collect();
    let mut places = disk.0.owners;
    places.sort_unstable();
    assert_eq!(places[..], owners[..]);
}

#[test]
fn a_flush_is_the_time_of_who_asked_for_it() {
    let mut disk = Disk::new();
    let now = |at| BEGIN + at;
    // Another one's request goes on meanwhile, and a third one's before the flush is in front of it.
    let third = disk.issue(3, 0, 0);
    let mine = disk.issue(ME, MS, 0);
    disk.0.note_flush(0, now(MS));
    disk.complete(&third, 2 * MS);
    disk.0.flushed(now(6 * MS), add);
    let ticks = disk.0.take_flush(now(0), add).unwrap();
    disk.0.charge(HOG, ticks, now(6 * MS), add);
    assert_near(u64::from(ticks) * 16, 4 * MS);
    let flush = disk.0.flush;
    let split = disk.split(HOG, &flush, [ticks.into(), now(0), now(6 * MS)]);
    // It was issued after one millisecond, and the third one's was before it.
    assert_near(split.named[&3], 6 * MS / 5);
    assert_near(split.own_ns, 6 * MS * 4 / 5);
    let split = disk.complete(&mine, 7 * MS);
    // The third one's had been there for a millisecond, which is left out of both.
    assert_near(split.named[&HOG], 4 * MS * 5 / 6);
    assert_near(split.named[&3], 2 * MS * 5 / 6);
    assert_near(split.own_ns, MS);
    // Who comes later has none of it, and the next one that it was made for is not charged again.
    assert_eq!(disk.0.take_flush(now(8 * MS), add), None);
    assert_eq!(disk.0.take_flush(now(MS), add), Some(0));
}

#[test]
fn completions_that_see_the_same_last_one_charge_no_more_than_there_was() {
    let mut disk = Disk::new();
    let mine = disk.issue(ME, 0, 0);
    let hogs: Vec<Request> = (2..6).map(|slot| disk.issue(slot, 0, 0)).collect();
    for request in &hogs {
        disk.0.last_at = BEGIN;
        disk.complete(request, 10 * MS);
    }
    let split = disk.complete(&mine, 11 * MS);
    assert_near(split.others_ns, 10 * MS);
    for slot in 2..6 {
        assert_near(split.named[&slot], 10 * MS / 4);
    }
    // Nor where time goes back, or the clock of another CPU is behind.
    let mine = disk.issue(ME, 20 * MS, 0);
    assert_eq!(disk.0.complete(BEGIN + 30 * MS, BEGIN + 25 * MS), 0);
    assert_eq!(disk.0.complete(BEGIN + 30 * MS, BEGIN + 5 * MS), 0);
    let split = disk.complete(&mine, 20 * MS);
    assert_eq!((split.own_ns, split.others_ns), (0, 0));
}

#[test]
fn a_place_that_is_another_devices_now_tells_nothing() {
    let mut disk = Disk::new();
    let mine = disk.issue(ME, 0, 0);
    let later = BEGIN + MS + DEVICE_RESTS_NS;
    assert!(!disk.0.is_free(BEGIN + DEVICE_RESTS_NS));
    assert!(disk.0.is_free(later) && Device::ZERO.is_free(1));
    disk.0.begin(78, later);
    assert_eq!(mine.served.waited(&disk.0, ME, [1, MS, later + MS]), None);
    assert!(device_place(u64::MAX) < DEVICES);
}

#[test]
fn a_random_queue_is_split_to_what_was_in_front() {
    let mut state = 1_u64;
    let mut random = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut disk = Disk::new();
    let (mut now, mut queue) = (MS, std::collections::VecDeque::new());
    // Times of former requests: owner, begin and end at the device.
    let mut busy: Vec<(u32, u64, u64)> = Vec::new();
    let (mut others, mut expected) = (0, 0);
    for _ in 0..3_000 {
        for _ in 0..=random(3) {
            let slot = 1 + random(5) as u32;
            queue.push_back((disk.issue(slot, now, 0), now));
        }
        let (request, issued_at) = queue.pop_front().unwrap();
        // A pause now and then.
        now += if queue.is_empty() { random(3) * MS } else { 0 };
        let begin = now.max(issued_at);
        now = begin + 1_000 + random(4 * MS);
        let split = disk.complete(&request, now);
        assert_eq!(split.own_ns + split.others_ns, now - issued_at);
        let in_front = busy.iter().rev().take_while(|one| one.2 > issued_at);
        let mut of: HashMap<u32, u64> = HashMap::new();
        for (slot, begin, end) in in_front.filter(|one| one.0 != request.slot) {
            *of.entry(*slot).or_default() += end - (*begin).max(issued_at);
        }
        others += split.others_ns;
        expected += of.values().sum::<u64>();
        busy.push((request.slot, begin, now));
        while queue.len() > 30 {
            queue.pop_back();
        }
    }
    assert!(
        others.abs_diff(expected) < expected / 50,
        "{others} {expected}"
    );
}
