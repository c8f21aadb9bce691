//! How often the kernel lets a CPU be sampled: `kernel.perf_event_max_sample_rate`, which it lowers by itself
//! where samples take long. Opening an event above it fails with `EINVAL` (`perf_event_open`,
//! `kernel/events/core.c`).

use std::{fs, path::Path};

/// The setting.
pub(crate) const SAMPLE_RATE_SETTING: &str = "kernel.perf_event_max_sample_rate";

/// Samples per second and CPU that are allowed; `None` where the kernel does not say.
pub(crate) fn sample_rate_limit(proc_root: &Path) -> Option<u32> {
    let path = proc_root.join("sys/kernel/perf_event_max_sample_rate");
    parse(&fs::read_to_string(path).ok()?)
}

fn parse(text: &str) -> Option<u32> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_a_number_and_absent_without_its_file() {
        // Linux 6.18.
        assert_eq!(parse("100000\n"), Some(100_000));
        assert_eq!(parse(""), None);
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(sample_rate_limit(folder.path()), None);
        let kernel = folder.path().join("sys/kernel");
        fs::create_dir_all(&kernel).expect("a folder");
        fs::write(kernel.join("perf_event_max_sample_rate"), "60\n").expect("a file");
        assert_eq!(sample_rate_limit(folder.path()), Some(60));
    }
}
