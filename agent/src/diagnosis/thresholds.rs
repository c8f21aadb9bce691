//! The thresholds that answers are compared with: configuration, each with a default and its reason.
//!
//! [`THRESHOLDS`] is the one table of them. The keys of the configuration file, the values that
//! `--threshold` takes and the table in `docs/diagnosis.md` are made from it.

use super::verdict::Unit;

/// A threshold of the table.
#[derive(Clone, Copy)]
pub struct Threshold {
    /// Its key.
    pub key: &'static str,
    /// What it is compared with.
    pub meaning: &'static str,
    /// Why the default is what it is.
    pub reason: &'static str,
    /// What it counts.
    pub unit: Unit,
    /// Its default.
    pub default: f64,
    /// Smallest value.
    pub least: f64,
    /// Largest value.
    pub most: f64,
    get: fn(&Thresholds) -> f64,
    set: fn(&mut Thresholds, f64),
}

macro_rules! thresholds {
    ($($key:ident = $default:literal in $least:literal ..= $most:literal, $unit:ident, $meaning:literal, $reason:literal;)*) => {
        /// What answers are compared with.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Thresholds {
            $(#[doc = $meaning] pub $key: f64,)*
        }

        impl Default for Thresholds {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }

        /// Every threshold.
        pub const THRESHOLDS: &[Threshold] = &[$(Threshold {
            key: stringify!($key),
            meaning: $meaning,
            reason: $reason,
            unit: Unit::$unit,
            default: $default,
            least: $least,
            most: $most,
            get: |all| all.$key,
            set: |all, value| all.$key = value,
        }),*];

        /// The thresholds with their keys, as evidence names them.
        #[expect(missing_docs, reason = "each is the threshold of its name")]
        impl Thresholds {
            $(#[must_use] pub fn $key(&self) -> (&'static str, f64) { (stringify!($key), self.$key) })*
        }
    };
}

thresholds! {
    idle_cores = 0.001 in 0.0 ..= 1.0, Cores,
        "CPU time and waiting together below which a container is idle.",
        "A health check of 10 ms every 10 s is this much; what does less cannot be told to be held back.";
    throttled_periods_ratio = 0.01 in 0.0 ..= 1.0, Ratio,
        "Share of a quota's periods in which it throttled, from which it holds back.",
        "A throttled period delays what runs in it by up to a period, 100 ms by default; with one in a hundred the 99th percentile of latency has it.";
    wait_ratio = 0.05 in 0.001 ..= 1.0, Ratio,
        "Share of the time that a container wanted a CPU, and waited for one, from which it waits; half of it where involuntary switches rise as well.",
        "Waking a task costs some microseconds that are no contention; one twentieth is what a service's owner begins to see in its latency.";
    waiting_tasks = 0.01 in 0.0 ..= 100.0, Count,
        "Tasks waiting for a CPU, as a mean over the window, below which nobody is held back.",
        "10 ms a second: less is not felt, however large a share of a small use it is.";
    cpu_pressure_ratio = 0.1 in 0.001 ..= 1.0, Ratio,
        "Share of the window in which some task waited for a CPU (PSI), from which a container waits; asked only where run queue latency is not measured.",
        "Pressure counts the time in which any of many tasks waited, so it is above the share that each of them lost.";
    involuntary_per_second = 10.0 in 0.0 ..= 10000.0, PerSecond,
        "Involuntary context switches for each second on CPUs, from which they rise.",
        "A task with a competitor loses its CPU every few milliseconds, more than a hundred times a second; kernel threads alone make a few.";
    busy_idle_ratio = 0.1 in 0.0 ..= 0.9, Ratio,
        "Idle time of a CPU up to which it is busy.",
        "The kernel counts in ticks, and a balanced machine that is full still idles for some percent.";
    spare_idle_ratio = 0.2 in 0.0 ..= 1.0, Ratio,
        "Idle time of CPUs, as a mean, from which there is room on them.",
        "Twice what is allowed to a busy CPU, so that no machine is both full and roomy.";
    steal_ratio = 0.05 in 0.001 ..= 1.0, Ratio,
        "Share of its CPUs' time that the hypervisor took, from which it holds back.",
        "A twentieth, as for waiting: a task on a CPU that is stolen waits without being on any run queue.";
    interrupt_ratio = 0.25 in 0.001 ..= 1.0, Ratio,
        "Share of a CPU's time in interrupts, hard and soft, from which that CPU is named.",
        "A quarter: below it, moving interrupts away gains less than the noise of placement.";
    tenants_ratio = 0.1 in 0.0 ..= 1.0, Ratio,
        "Share of its CPUs that everybody else used, up to which the others are idle.",
        "Agents and system services of a node take some percent; what is above has tenants.";
    culprit_share = 0.5 in 0.5 ..= 1.0, Ratio,
        "Share of the time that a container waited for others, from which one neighbour is the culprit.",
        "More than all others together: acting on it helps more than acting on anybody else. Below a half there can be two, so it cannot be set lower.";
    innocent_share = 0.05 in 0.0 ..= 0.5, Ratio,
        "Share of all that a container waited, for its own tasks included, up to which a busy neighbour is exonerated.",
        "Without it the wait would be a twentieth shorter at most, which is below what counts as waiting.";
    burst_ratio = 1.1 in 1.0 ..= 100.0, Factor,
        "CPU time over what is guaranteed, from which a container bursts.",
        "A tenth above is within what the scheduler's fairness leaves open over a window.";
    memory_full_ratio = 0.95 in 0.1 ..= 1.0, Ratio,
        "Usage over the limit from which the limit is reached, where its hits are not counted.",
        "The kernel reclaims in batches, so a container at its limit is seen a few percent below.";
    refaults_per_second = 100.0 in 0.0 ..= 10000000.0, PerSecond,
        "Pages that were given up and needed again, from which it hurts.",
        "A read of a page takes 0.1 ms from flash, so a hundred are a hundredth of a task's time, and ten times that on a disk.";
    memory_pressure_ratio = 0.05 in 0.001 ..= 1.0, Ratio,
        "Share of the window in which some task waited for memory, from PSI or as time in direct reclaim, from which it hurts.",
        "A twentieth, as for waiting for CPUs.";
    host_available_ratio = 0.1 in 0.0 ..= 1.0, Ratio,
        "Available memory of the host over all of it, up to which the host is short.",
        "The kernel's watermarks are some percent of it, and reclaim in the background begins above them.";
    io_pressure_ratio = 0.1 in 0.001 ..= 1.0, Ratio,
        "Share of the window in which some task waited for I/O, from which a container waits for it.",
        "Whoever logs or reads a file waits for some percent; a tenth shows in latencies.";
    io_limit_ratio = 0.9 in 0.1 ..= 1.0, Ratio,
        "What was done to a device over the limit, from which the limit is reached.",
        "The kernel enforces over slices of 100 ms, so that a window that begins or ends in between is short of the limit.";
    disk_busy_ratio = 0.8 in 0.1 ..= 1.0, Ratio,
        "Share of the window in which a request was at the device, from which it is busy.",
        "Queueing theory's knee: at four fifths a request finds another in front of it four times out of five.";
    disk_queue_count = 2.0 in 1.0 ..= 1024.0, Count,
        "Mean of the requests at a busy device, from which they queue.",
        "One task that reads and waits keeps one there; two are in each other's way or want a device that does both at once.";
    slow_factor = 3.0 in 1.5 ..= 1000.0, Factor,
        "Latency for each place in the queue, over the device's own normal, from which it is slow.",
        "Medians of windows differ by a factor of two with the mix of requests; three is outside of that.";
    slow_bytes_per_second = 50000000.0 in 1000.0 ..= 1000000000000.0, BytesPerSecond,
        "Speed that every device has, by which large requests are allowed to take longer than normal ones.",
        "Half of what a single hard disk reads in a row.";
    dirty_ratio = 0.7 in 0.1 ..= 1.0, Ratio,
        "Dirty pages over the threshold at which the kernel blocks writers, from which it slows them down.",
        "The kernel begins halfway between the background threshold and the limit: at 0.75 of it with the defaults.";
    dropped_packets_per_second = 1.0 in 0.0 ..= 10000000.0, PerSecond,
        "Packets dropped by its interfaces, from which it is told.",
        "Each costs a retransmission, 200 ms at least where nothing follows it.";
    retransmitted_ratio = 0.01 in 0.0001 ..= 1.0, Ratio,
        "TCP segments sent again, over those sent, from which packets are lost on the way.",
        "With one in a hundred lost, TCP's rate over a millisecond's round trip is bounded to some 18 MB/s (Mathis); healthy networks have one in ten thousand.";
    retransmitted_per_second = 1.0 in 0.0 ..= 1000000.0, PerSecond,
        "TCP segments sent again, below which there are too few to tell.",
        "One lost segment of fifty is no rate.";
}

impl Threshold {
    /// Its value.
    #[must_use]
    pub fn value(&self, all: &Thresholds) -> f64 {
        (self.get)(all)
    }
}

impl Thresholds {
    /// Sets one by its key.
    ///
    /// # Errors
    ///
    /// A message that says the keys, or the range.
    pub fn set(&mut self, key: &str, value: f64) -> Result<(), String> {
        let Some(one) = THRESHOLDS.iter().find(|one| one.key == key) else {
            let keys: Vec<&str> = THRESHOLDS.iter().map(|one| one.key).collect();
            return Err(format!("is no threshold; they are {}", keys.join(", ")));
        };
        if !(one.least..=one.most).contains(&value) {
            return Err(format!(
                "must be a number from {} to {}, not {value}",
                one.least, one.most
            ));
        }
        (one.set)(self, value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The Markdown table of `docs/diagnosis.md`.
    fn reference_table() -> String {
        let mut out =
            String::from("| key | default | range | what | why |\n|---|---|---|---|---|\n");
        for one in THRESHOLDS {
            let unit = match one.unit {
                Unit::Ratio | Unit::Count => "",
                Unit::PerSecond => " a second",
                Unit::Factor => " times",
                Unit::Seconds => " s",
                Unit::Cores => " cores",
                Unit::Bytes => " bytes",
                Unit::BytesPerSecond => " bytes a second",
            };
            out.push_str(&format!(
                "| `{}` | {}{unit} | {} to {} | {} | {} |\n",
                one.key, one.default, one.least, one.most, one.meaning, one.reason,
            ));
        }
        out
    }

    #[test]
    fn each_default_is_in_its_range_and_each_key_sets_its_own_value() {
        for one in THRESHOLDS {
            assert!((one.least..=one.most).contains(&one.default), "{}", one.key);
            let mut all = Thresholds::default();
            assert_eq!(one.value(&all), one.default);
            all.set(one.key, one.most).expect(one.key);
            assert_eq!(one.value(&all), one.most, "{}", one.key);
            let changed = THRESHOLDS
                .iter()
                .filter(|other| other.value(&all) != other.default)
                .count();
            assert!(changed <= 1, "{}", one.key);
        }
    }

    /// With `CTRSCOPE_UPDATE_DOCS` set it writes the table instead.
    #[test]
    fn the_reference_lists_every_threshold() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/diagnosis.md");
        let found = std::fs::read_to_string(path).expect("the document is there");
        let opening = "<!-- thresholds, written by the drift test -->\n";
        let start = found.find(opening).expect("the table opens") + opening.len();
        let end = start + found[start..].find("<!-- end -->").expect("the table ends");
        let mut document = found.clone();
        document.replace_range(start..end, &reference_table());
        if std::env::var_os("CTRSCOPE_UPDATE_DOCS").is_some() {
            std::fs::write(path, &document).expect("the document is written");
            return;
        }
        assert!(
            found == document,
            "docs/diagnosis.md is not what the code has; run \
             `CTRSCOPE_UPDATE_DOCS=1 cargo test -p ctrscope --lib the_reference`"
        );
    }

    #[test]
    fn the_document_names_every_verdict() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/diagnosis.md");
        let document = std::fs::read_to_string(path).expect("the document is there");
        for verdict in crate::diagnosis::Verdict::ALL {
            let name = format!("`{}`", verdict.label());
            assert!(document.contains(&name), "{name}");
        }
    }

    #[test]
    fn a_bad_key_or_value_says_what_is_allowed() {
        let mut all = Thresholds::default();
        let error = all.set("wait", 1.0).expect_err("no key");
        assert!(
            error.starts_with("is no threshold; they are idle_cores, "),
            "{error}"
        );
        assert_eq!(
            all.set("culprit_share", 0.2),
            Err("must be a number from 0.5 to 1, not 0.2".to_owned())
        );
        assert!(all.set("wait_ratio", f64::NAN).is_err());
        assert_eq!(all, Thresholds::default());
    }
}
