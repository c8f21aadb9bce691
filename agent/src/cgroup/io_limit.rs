//! Limits on the block I/O of a cgroup, by device.
//!
//! v2: `io.max`. v1: `blkio.throttle.{read,write}_{bps,iops}_device`.

use std::collections::BTreeMap;

use super::{
    error::CgroupError,
    file::{CgroupFiles, FileReader},
    hierarchy::Hierarchies,
    io::{DeviceNumber, parse_device},
    mount::Version,
};

/// What a cgroup may do to one device in a second; `None` where that has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoLimit {
    /// Bytes read.
    pub read_bytes: Option<u64>,
    /// Bytes written.
    pub write_bytes: Option<u64>,
    /// Reads.
    pub reads: Option<u64>,
    /// Writes.
    pub writes: Option<u64>,
}

/// By device, ordered by number.
pub type IoLimits = BTreeMap<DeviceNumber, IoLimit>;

/// Parses `io.max` of v2. A device without a limit is left out.
#[must_use]
pub fn parse_io_max(text: &str) -> IoLimits {
    let mut limits = IoLimits::new();
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace();
        let Some(device) = fields.next().and_then(parse_device) else {
            continue;
        };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            // `max` is no number.
            if let Ok(value) = value.parse()
                && let Some(place) = place(key)
            {
                *place(limits.entry(device).or_default()) = Some(value);
            }
        }
    }
    limits
}

fn place(key: &str) -> Option<fn(&mut IoLimit) -> &mut Option<u64>> {
    Some(match key {
        "rbps" | "read_bps" => |limit| &mut limit.read_bytes,
        "wbps" | "write_bps" => |limit| &mut limit.write_bytes,
        "riops" | "read_iops" => |limit| &mut limit.reads,
        "wiops" | "write_iops" => |limit| &mut limit.writes,
        _ => return None,
    })
}

/// Parses one of v1's files, a device and a limit a line; `kind` is the part of its name that says what it
/// limits: `read_bps`, `write_iops`.
pub fn parse_throttle_device(text: &str, kind: &str, limits: &mut IoLimits) {
    let Some(place) = place(kind) else {
        return;
    };
    for line in text.lines() {
        if let Some((device, value)) = line.split_once(' ')
            && let (Some(device), Ok(value)) = (parse_device(device), value.trim().parse())
        {
            *place(limits.entry(device).or_default()) = Some(value);
        }
    }
}

/// Reads the limits of a cgroup; empty where there are none, and where it vanished. One file on v2,
/// four on v1.
///
/// # Errors
///
/// If a file is there and cannot be read.
pub fn read_io_limits(
    reader: &mut FileReader,
    hierarchies: &Hierarchies,
    cgroup_path: &str,
) -> Result<IoLimits, CgroupError> {
    let mut limits = IoLimits::new();
    let Some(mount) = &hierarchies.blkio else {
        return Ok(limits);
    };
    let Some(mut files) = CgroupFiles::new(reader, mount, cgroup_path) else {
        return Ok(limits);
    };
    if mount.version == Version::V2 {
        return Ok(files.read("io.max")?.map(parse_io_max).unwrap_or_default());
    }
    for (kind, name) in [
        ("read_bps", "blkio.throttle.read_bps_device"),
        ("write_bps", "blkio.throttle.write_bps_device"),
        ("read_iops", "blkio.throttle.read_iops_device"),
        ("write_iops", "blkio.throttle.write_iops_device"),
    ] {
        if let Some(text) = files.read(name)? {
            parse_throttle_device(text, kind, &mut limits);
        }
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::fake::Tree;

    const DEVICE: DeviceNumber = DeviceNumber {
        major: 254,
        minor: 16,
    };
    const LIMIT: IoLimit = IoLimit {
        read_bytes: Some(1_048_576),
        write_bytes: None,
        reads: None,
        writes: Some(120),
    };

    #[test]
    fn v2_and_v1_give_the_same_limits() {
        let expected = IoLimits::from([(DEVICE, LIMIT)]);
        let v2 = Tree::v2();
        v2.write(
            "web/io.max",
            "254:16 rbps=1048576 wbps=max riops=max wiops=120\n8:0 rbps=max\n",
        );
        let mut reader = FileReader::new();
        assert_eq!(
            read_io_limits(&mut reader, &v2.hierarchies, "/web").unwrap(),
            expected
        );
        let v1 = Tree::v1();
        v1.write(
            "blkio/web/blkio.throttle.read_bps_device",
            "254:16 1048576\n",
        );
        v1.write("blkio/web/blkio.throttle.write_bps_device", "");
        v1.write("blkio/web/blkio.throttle.write_iops_device", "254:16 120\n");
        assert_eq!(
            read_io_limits(&mut reader, &v1.hierarchies, "/web").unwrap(),
            expected
        );
    }

    #[test]
    fn what_is_not_there_has_no_limits() {
        let mut reader = FileReader::new();
        for tree in [Tree::v2(), Tree::v1()] {
            let found = read_io_limits(&mut reader, &tree.hierarchies, "/gone").unwrap();
            assert_eq!(found, IoLimits::new());
        }
    }

    #[test]
    fn broken_lines_are_passed_over() {
        let text = "rbps=1\n8: rbps=1\n8:0 rbps=-1 wbps=x =3 other=4\n:\n8:0\n";
        assert_eq!(parse_io_max(text), IoLimits::new());
        let mut limits = IoLimits::new();
        for text in ["8:0\n", "8:0 \n", "x 1\n", "8:0 -1\n"] {
            parse_throttle_device(text, "read_bps", &mut limits);
        }
        parse_throttle_device("8:0 1\n", "other", &mut limits);
        assert_eq!(limits, IoLimits::new());
    }
}
