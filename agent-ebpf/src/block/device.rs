//! Whose requests a device served while others waited.
//!
//! From one completion to the next a device's time is charged to whose request completes, from its issue on where the
//! device had nothing before. A request notes at its issue what had been charged to each owner; what has been added by its
//! completion, it waited for them. Time in a queue before the issue is split in the same proportions. The rest is its own,
//! so that the sum is its latency.
//!
//! Completions alone tell this: a count of what is in flight would drift with each that no tracepoint shows. A device that
//! serves several at once is taken for one that serves them in the order of their completions.
//!
//! # Races
//!
//! Completions on two CPUs may see the same last one, and both charge the time since: no kernel before 5.12 has an atomic
//! exchange. What a request waited for others is therefore bounded by the time that it was at the device, less its own.

use crate::ledger::is_equal;

/// Devices that are told apart, as a power of two.
pub const DEVICES_ORDER: u32 = 6;
/// The same as a number.
pub const DEVICES: u32 = 1 << DEVICES_ORDER;
/// Owners of a device that are told apart: those that it served longest (Metwally, Agrawal, El Abbadi, Efficient
/// Computation of Frequent and Top-k Elements in Data Streams, 2005).
pub const OWNERS: usize = 1 << OWNERS_ORDER;
const OWNERS_ORDER: u32 = 4;
/// How long an owner has had nothing done when it counts for nothing against one that has no place, nanoseconds.
pub const OWNER_RESTS_NS: u64 = 1_000_000_000;
/// How long a device has had nothing done when its place is given to another one, nanoseconds.
pub const DEVICE_RESTS_NS: u64 = 10_000_000_000;
/// Device time is kept in ticks of 16 ns, so that 32 bits hold more than the longest request takes.
const TICK_ORDER: u32 = 4;
/// Most that is charged at once, ticks: 34 s.
const MOST_TICKS: u64 = i32::MAX as u64;
/// Longest latency that is split, nanoseconds: 19 h. Then 16 bits are left for factors.
const LONGEST_NS: u64 = 1 << 46;
const FACTOR_BITS: u32 = 16;

shared! {
    /// What a device had served by the time that a request was issued to it, in the array `SERVED` at the place of the
    /// request in `REQUESTS`.
    pub struct Served [80] {
        /// When, monotonic nanoseconds.
        pub at: u64,
        /// The device, an index into `DEVICES`; beyond it where the device has no place.
        pub device: u32,
        /// As [`Device::unplaced`].
        pub unplaced: u32,
        /// As [`Device::ticks`].
        pub ticks: [u32; OWNERS],
    }
}

shared! {
    /// A device, in the array `DEVICES` at [`device_place`] of its queue's number, or else at the place beside it.
    pub struct Device [640] {
        /// The number of its request queue, a function of its address; 0 is free.
        pub number: u64,
        /// Since when it has the place, monotonic nanoseconds.
        pub since: u64,
        /// Its last completion, monotonic nanoseconds.
        pub last_at: u64,
        /// The last completion of a flush that the block layer made up, monotonic nanoseconds.
        pub flush_at: u64,
        /// The device's time of that flush, which is in `unplaced` until whoever asked for it completes; ticks.
        pub flush_ticks: u32,
        /// Time that is nobody's, ticks.
        pub unplaced: u32,
        /// Time of each owner, ticks. It goes on when a place changes its owner.
        pub ticks: [u32; OWNERS],
        /// The owners' slots plus one; 0 is free.
        pub owners: [u32; OWNERS],
        /// When an owner took its place from another one, monotonic nanoseconds.
        pub taken_at: [u64; OWNERS],
        /// When it was last charged, monotonic nanoseconds.
        pub used_at: [u64; OWNERS],
        /// What it counts for against others that want its place, ticks: its time, and what the former owners counted for.
        pub weights: [u64; OWNERS],
        /// What had been served when the last flush that the block layer made up was issued.
        pub flush: Served,
        /// Zero.
        pub reserved: u64,
    }
}

/// What a request waited for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waited {
    /// For all of them together, nanoseconds; no more than its latency.
    pub others_ns: u64,
    /// By which their ticks become nanoseconds of it, for [`Served::parts`].
    pub factor: u64,
}

/// Where a device has its place, by its queue's number: as [`super::place`].
#[inline(always)]
#[must_use]
pub const fn device_place(number: u64) -> u32 {
    ((number >> 5).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - DEVICES_ORDER)) as u32
}

/// Ticks since an earlier state of a counter. Without a branch: an old kernel's verifier would follow it both ways for each
/// owner, with other bounds of their sum each time.
#[inline(always)]
const fn added(now: u32, earlier: u32) -> u64 {
    now.wrapping_sub(earlier) as u64
}

impl Device {
    /// Whether the place is free for a device that has none.
    #[inline(always)]
    #[must_use]
    pub const fn is_free(&self, now: u64) -> bool {
        self.number == 0 || now.saturating_sub(self.last_at) > DEVICE_RESTS_NS
    }

    /// Gives the place to a device.
    #[inline(always)]
    pub const fn begin(&mut self, number: u64, now: u64) {
        self.since = now;
        self.last_at = now;
        self.flush_at = 0;
        self.number = number;
    }

    /// The device's time of a request that completes now, ticks. Those of all that complete one after the other, with no
    /// pause, add up to the time that it took.
    #[inline(always)]
    pub const fn complete(&mut self, issued_at: u64, now: u64) -> u32 {
        let last_at = self.last_at;
        if now > last_at {
            self.last_at = now;
        }
        let since = if issued_at > last_at {
            issued_at
        } else {
            last_at
        };
        let ticks = (now >> TICK_ORDER).saturating_sub(since >> TICK_ORDER);
        if ticks > MOST_TICKS {
            return MOST_TICKS as u32;
        }
        ticks as u32
    }

    /// Charges time to an owner. `add` adds to a counter that other CPUs may add to.
    #[inline(always)]
    pub fn charge(&mut self, slot: u32, ticks: u32, now: u64, add: impl Fn(&mut u32, u32)) {
        let place = match self.place_of(slot) {
            Some(place) => place,
            None => self.take_place(slot, now),
        };
        if let (Some(used_at), Some(weight), Some(counter)) = (
            self.used_at.get_mut(place),
            self.weights.get_mut(place),
            self.ticks.get_mut(place),
        ) {
            *used_at = now;
            *weight = weight.wrapping_add(u64::from(ticks));
            add(counter, ticks);
        }
    }

    #[inline(always)]
    fn place_of(&self, slot: u32) -> Option<usize> {
        let mut place = 0;
        while place < OWNERS {
            if self.owners[place] == slot + 1 {
                return Some(place);
            }
            place += 1;
        }
        None
    }

    /// Gives an owner the place of the one that counts for least.
    #[inline(always)]
    fn take_place(&mut self, slot: u32, now: u64) -> usize {
        // Weight and place in one number, and the place mixed with one that is not known: of each place that it can be a
        // verifier would follow all that comes after.
        let salt = now & (OWNERS as u64 - 1);
        let mut least = u64::MAX;
        let mut place = 0;
        while place < OWNERS {
            // Where another CPU's clock is ahead, it wraps to what is no rest.
            let rested_ns = now.wrapping_sub(self.used_at[place]);
            // Without a branch, as in `added`.
            let is_active = 1 - (OWNER_RESTS_NS.wrapping_sub(rested_ns) >> 63);
            let weight = self.weights[place] * is_active;
            let key = weight << OWNERS_ORDER | (place as u64 ^ salt);
            if key < least {
                least = key;
            }
            place += 1;
        }
        let place = ((least ^ salt) & (OWNERS as u64 - 1)) as usize;
        if self.owners[place] != 0 {
            self.taken_at[place] = now;
        }
        self.owners[place] = slot + 1;
        self.weights[place] = least >> OWNERS_ORDER;
        place
    }

    /// A flush that the block layer made up is issued to it, whose index is this.
    #[inline(always)]
    pub const fn note_flush(&mut self, index: u32, now: u64) {
        self.flush.at = now;
        self.flush.device = index;
        self.flush.unplaced = self.unplaced;
        self.flush.ticks = self.ticks;
    }

    /// A flush that the block layer made up completes: nobody's until whoever asked for it does.
    #[inline(always)]
    pub fn flushed(&mut self, now: u64, add: impl Fn(&mut u32, u32)) {
        let ticks = self.complete(self.flush.at, now);
        self.flush_ticks = ticks;
        self.flush_at = now;
        add(&mut self.unplaced, ticks);
    }

    /// A request for a flush that was started then completes: what is to be charged to its owner, if it is the first one
    /// that the last flush was made for, ticks; `None` where there was no flush.
    #[inline(always)]
    pub fn take_flush(&mut self, started_at: u64, add: impl Fn(&mut u32, u32)) -> Option<u32> {
        if self.flush_at < started_at || self.flush_at == 0 {
            return None;
        }
        let ticks = self.flush_ticks;
        if ticks != 0 {
            self.flush_ticks = 0;
            add(&mut self.unplaced, ticks.wrapping_neg());
        }
        Some(ticks)
    }
}

impl Served {
    /// Notes what a device has served until now.
    #[inline(always)]
    pub const fn note(&mut self, device: u32, of: &Device, now: u64) {
        self.at = now;
        self.device = device;
        self.unplaced = of.unplaced;
        self.ticks = of.ticks;
    }

    /// What a request of an owner that completes now waited for others; `None` where the device's place is another's
    /// by now. `self` is of its issue, `own_ticks` what has just been charged for it, and `latency_ns` all of its time.
    #[inline(always)]
    #[must_use]
    pub const fn waited(
        &self,
        device: &Device,
        slot: u32,
        [own_ticks, latency_ns, now]: [u64; 3],
    ) -> Option<Waited> {
        if self.at < device.since {
            return None;
        }
        let mut own = 0;
        let mut others = added(device.unplaced, self.unplaced);
        if others > MOST_TICKS {
            // It is less than it was: a flush has found its owner.
            others = 0;
        }
        let mut place = 0;
        while place < OWNERS {
            let ticks = added(device.ticks[place], self.ticks[place]);
            // Without a branch, as in `added`.
            let is_kept = device.taken_at[place].wrapping_sub(self.at) >> 63;
            let is_own = is_equal(device.owners[place] as u64, slot as u64 + 1);
            let mine = ticks * (is_own & is_kept);
            own += mine;
            others += ticks - mine;
            place += 1;
        }
        if own == 0 {
            // It has come to its place since, and what else was charged there is another's.
            own = own_ticks;
            others = others.saturating_sub(own_ticks);
        }
        let span = (now >> TICK_ORDER).saturating_sub(self.at >> TICK_ORDER);
        if span == 0 || others == 0 {
            return Some(Waited {
                others_ns: 0,
                factor: 0,
            });
        }
        // What was at the device already is charged from before the issue, and two CPUs may charge one time.
        let rest = span.saturating_sub(own);
        let bounded = if others < rest { others } else { rest };
        let latency_ns = if latency_ns < LONGEST_NS {
            latency_ns
        } else {
            LONGEST_NS
        };
        let others_ns = (bounded * ((latency_ns << FACTOR_BITS) / span)) >> FACTOR_BITS;
        Some(Waited {
            others_ns,
            factor: (others_ns << FACTOR_BITS) / others,
        })
    }

    /// Tells for each other owner what was waited for it, nanoseconds. Who has come to the place of another one since, has
    /// no name.
    #[inline(always)]
    pub fn parts(&self, device: &Device, slot: u32, factor: u64, mut tell: impl FnMut(u32, u64)) {
        let mut place = 0;
        while place < OWNERS {
            let ticks = added(device.ticks[place], self.ticks[place]);
            let ns = ticks.wrapping_mul(factor) >> FACTOR_BITS;
            let owner = device.owners[place];
            if ns != 0 && owner != 0 && owner != slot + 1 && device.taken_at[place] < self.at {
                tell(owner - 1, ns);
            }
            place += 1;
        }
    }
}

#[cfg(test)]
mod tests;
