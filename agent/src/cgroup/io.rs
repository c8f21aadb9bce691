//! The kernel's own account of a cgroup's block I/O by device.
//!
//! v2: `io.stat`. v1: `blkio.throttle.io_service_bytes` and `blkio.throttle.io_serviced`, in their
//! recursive form where the kernel has it, so that child cgroups are included as in v2. v1 charges buffered
//! writes to the root cgroup.

use std::collections::BTreeMap;

use super::{
    error::CgroupError,
    file::{CgroupFiles, FileReader},
    hierarchy::Hierarchies,
    mount::Version,
};

/// A block device, by its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNumber {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// What a cgroup did to one device; `None` where the kernel does not count it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// Bytes read.
    pub read_bytes: Option<u64>,
    /// Bytes written.
    pub write_bytes: Option<u64>,
    /// Reads.
    pub read_count: Option<u64>,
    /// Writes.
    pub write_count: Option<u64>,
    /// Bytes discarded; not counted by older kernels.
    pub discard_bytes: Option<u64>,
    /// Discards.
    pub discard_count: Option<u64>,
}

/// By device, ordered by number.
pub type IoByDevice = BTreeMap<DeviceNumber, DeviceIo>;

/// Parses `io.stat` of v2. Devices without counters are left out; other controllers' keys are passed over.
///
/// Some kernels print devices without counters in front of the next one on the same line, so a
/// device number starts an entry wherever it stands.
#[must_use]
pub fn parse_io_stat(text: &str) -> IoByDevice {
    let mut devices = IoByDevice::new();
    for line in text.lines() {
        let mut device = None;
        for field in line.split_ascii_whitespace() {
            if let Some(number) = parse_device(field) {
                device = Some(number);
                continue;
            }
            let (Some(device), Some((key, value))) = (device, field.split_once('=')) else {
                continue;
            };
            let pick: fn(&mut DeviceIo) -> &mut Option<u64> = match key {
                "rbytes" => |io| &mut io.read_bytes,
                "wbytes" => |io| &mut io.write_bytes,
                "rios" => |io| &mut io.read_count,
                "wios" => |io| &mut io.write_count,
                "dbytes" => |io| &mut io.discard_bytes,
                "dios" => |io| &mut io.discard_count,
                _ => continue,
            };
            if let Ok(value) = value.parse() {
                *pick(devices.entry(device).or_default()) = Some(value);
            }
        }
    }
    devices
}

/// Parses `blkio.throttle.io_service_bytes` and `blkio.throttle.io_serviced` of v1.
#[must_use]
pub fn parse_blkio(service_bytes: &str, serviced: &str) -> IoByDevice {
    let mut devices = IoByDevice::new();
    for (device, operation, value) in blkio_lines(service_bytes) {
        let io: &mut DeviceIo = devices.entry(device).or_default();
        match operation {
            "Read" => io.read_bytes = Some(value),
            "Write" => io.write_bytes = Some(value),
            "Discard" => io.discard_bytes = Some(value),
            _ => {}
        }
    }
    for (device, operation, value) in blkio_lines(serviced) {
        let io: &mut DeviceIo = devices.entry(device).or_default();
        match operation {
            "Read" => io.read_count = Some(value),
            "Write" => io.write_count = Some(value),
            "Discard" => io.discard_count = Some(value),
            _ => {}
        }
    }
    devices
}

/// Reads the block I/O of a cgroup; `None` if it vanished or the controller is not enabled, an empty map if
/// it did none. One file read on v2, two to four on v1.
///
/// # Errors
///
/// If a file is there and cannot be read.
pub fn read_io(
    reader: &mut FileReader,
    hierarchies: &Hierarchies,
    cgroup_path: &str,
) -> Result<Option<IoByDevice>, CgroupError> {
    let Some(mount) = &hierarchies.blkio else {
        return Ok(None);
    };
    let Some(mut files) = CgroupFiles::new(reader, mount, cgroup_path) else {
        return Ok(None);
    };
    if mount.version == Version::V2 {
        return Ok(files.read("io.stat")?.map(parse_io_stat));
    }
    let bytes = owned_first(
        &mut files,
        [
            "blkio.throttle.io_service_bytes_recursive",
            "blkio.throttle.io_service_bytes",
        ],
    )?;
    let Some(bytes) = bytes else {
        return Ok(None);
    };
    let counts = owned_first(
        &mut files,
        [
            "blkio.throttle.io_serviced_recursive",
            "blkio.throttle.io_serviced",
        ],
    )?;
    Ok(Some(parse_blkio(
        &bytes,
        counts.as_deref().unwrap_or_default(),
    )))
}

/// The text of the first of these files that is there.
fn owned_first(
    files: &mut CgroupFiles<'_>,
    names: [&'static str; 2],
) -> Result<Option<String>, CgroupError> {
    for name in names {
        if let Some(text) = files.read(name)? {
            return Ok(Some(text.to_owned()));
        }
    }
    Ok(None)
}

/// `MAJOR:MINOR OPERATION VALUE`; the line of the total has no device.
fn blkio_lines(text: &str) -> impl Iterator<Item = (DeviceNumber, &str, u64)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let device = parse_device(fields.next()?)?;
        let operation = fields.next()?;
        Some((device, operation, fields.next()?.parse().ok()?))
    })
}

pub(super) fn parse_device(field: &str) -> Option<DeviceNumber> {
    let (major, minor) = field.split_once(':')?;
    Some(DeviceNumber {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::fake::Tree;

    const SDA: DeviceNumber = DeviceNumber { major: 8, minor: 0 };
    const FULL: DeviceIo = DeviceIo {
        read_bytes: Some(4096),
        write_bytes: Some(8192),
        read_count: Some(1),
        write_count: Some(2),
        discard_bytes: Some(0),
        discard_count: Some(0),
    };
    // The layout of Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/blkio-controller.rst.
    const IO_STAT: &str = "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n";
    const SERVICE_BYTES: &str = "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 4096\n8:0 Async 8192\n\
        8:0 Discard 0\n8:0 Total 12288\nTotal 12288\n";
    const SERVICED: &str = "8:0 Read 1\n8:0 Write 2\n8:0 Sync 1\n8:0 Async 2\n8:0 Discard 0\n\
        8:0 Total 3\nTotal 3\n";

    #[test]
    fn both_versions_give_the_same_account() {
        let expected = IoByDevice::from([(SDA, FULL)]);
        assert_eq!(parse_io_stat(IO_STAT), expected);
        assert_eq!(parse_blkio(SERVICE_BYTES, SERVICED), expected);
    }

    #[test]
    fn devices_without_counters_on_the_same_line_are_left_out() {
        let text =
            "7:7 7:6 7:0 8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n253:0 \n";
        assert_eq!(parse_io_stat(text), IoByDevice::from([(SDA, FULL)]));
    }

    #[test]
    fn keys_of_other_controllers_are_passed_over() {
        let text = "8:0 rbytes=1 cost.usage=5 cost.vrate=100.00 x y=\n";
        let found = parse_io_stat(text);
        assert_eq!(found[&SDA].read_bytes, Some(1));
        assert_eq!(found[&SDA].write_bytes, None);
    }

    #[test]
    fn broken_lines_are_passed_over() {
        assert_eq!(
            parse_io_stat("rbytes=1\n8: rbytes=1\n-1:0 rbytes=1\n8:0 rbytes=-1\n"),
            IoByDevice::new()
        );
        assert_eq!(
            parse_blkio("Total 0\n8:0 Read\n8:0\n:\n", ""),
            IoByDevice::new()
        );
    }

    #[test]
    fn v1_prefers_the_files_that_include_children() {
        let v1 = Tree::v1();
        v1.write("blkio/web/blkio.throttle.io_service_bytes", "8:0 Read 1\n");
        v1.write("blkio/web/blkio.throttle.io_serviced", SERVICED);
        let mut reader = FileReader::new();
        let found = read_io(&mut reader, &v1.hierarchies, "/web")
            .unwrap()
            .unwrap();
        assert_eq!(found[&SDA].read_bytes, Some(1));
        v1.write(
            "blkio/web/blkio.throttle.io_service_bytes_recursive",
            SERVICE_BYTES,
        );
        let found = read_io(&mut reader, &v1.hierarchies, "/web")
            .unwrap()
            .unwrap();
        assert_eq!(found[&SDA], FULL);
    }

    #[test]
    fn no_io_is_empty_and_a_vanished_cgroup_is_none() {
        let v2 = Tree::v2();
        v2.write("web/io.stat", "");
        let mut reader = FileReader::new();
        assert_eq!(
            read_io(&mut reader, &v2.hierarchies, "/web").unwrap(),
            Some(IoByDevice::new())
        );
        assert_eq!(
            read_io(&mut reader, &v2.hierarchies, "/gone").unwrap(),
            None
        );
    }
}
