//! Disks: `/proc/diskstats`, and the errors that a device's driver counts.

use std::path::Path;

use crate::cgroup::{DeviceNumber, FileReader};

/// Most disks that are told; the rest are left out.
const MAX_DISKS: usize = 1_024;
/// Bytes of a sector in this file, whatever the device's own are.
const SECTOR_BYTES: u64 = 512;

/// One disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskSample {
    /// Its name.
    pub name: String,
    /// Its number.
    pub device: DeviceNumber,
    /// Reads and writes completed.
    pub requests: u64,
    /// Bytes read and written.
    pub bytes: u64,
    /// Time of all reads and writes together, queue included, milliseconds.
    pub latency_ms: u64,
    /// Time in which a request was at it, milliseconds.
    pub busy_ms: u64,
    /// Time of all requests together, discards and flushes included, milliseconds.
    pub in_flight_ms: u64,
}

/// Parses `/proc/diskstats`: disks, without their partitions, in its order. Loop devices, device mapper
/// and the like are disks; what never did anything is there, too.
#[must_use]
pub fn parse_diskstats(text: &str) -> Vec<DiskSample> {
    let mut disks: Vec<DiskSample> = Vec::new();
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace();
        let mut number = || fields.next()?.parse::<u32>().ok();
        let Some((major, minor)) = number().zip(number()) else {
            continue;
        };
        let Some(name) = fields.next() else {
            continue;
        };
        let counts: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
        let &[
            reads,
            _,
            read_sectors,
            read_ms,
            writes,
            _,
            write_sectors,
            write_ms,
            _,
            busy_ms,
            in_flight_ms,
            ..,
        ] = counts.as_slice()
        else {
            continue;
        };
        // The kernel lists a disk before its partitions.
        let is_partition = disks
            .iter()
            .rev()
            .any(|disk| is_partition_of(name, &disk.name));
        if is_partition {
            continue;
        }
        if disks.len() == MAX_DISKS {
            break;
        }
        disks.push(DiskSample {
            name: name.to_owned(),
            device: DeviceNumber { major, minor },
            requests: reads.saturating_add(writes),
            bytes: read_sectors
                .saturating_add(write_sectors)
                .saturating_mul(SECTOR_BYTES),
            latency_ms: read_ms.saturating_add(write_ms),
            busy_ms,
            in_flight_ms,
        });
    }
    disks
}

/// A partition is called as its disk with a number behind it, and a `p` between where the disk's name ends
/// in a digit (`bdev_name`, block/partitions/core.c).
fn is_partition_of(name: &str, disk: &str) -> bool {
    let Some(rest) = name.strip_prefix(disk) else {
        return false;
    };
    let number = if disk.ends_with(|last: char| last.is_ascii_digit()) {
        rest.strip_prefix('p')
    } else {
        Some(rest)
    };
    number.is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Requests that failed, as the driver of a disk counts them; `None` where it does not (all but SCSI and
/// what looks like it), and where its directory cannot be read.
pub fn read_errors(reader: &mut FileReader, sys_root: &Path, disk: &str) -> Option<u64> {
    // sysfs has an exclamation mark where a name has a slash.
    let name = disk.replace('/', "!");
    if name.starts_with('.') {
        return None;
    }
    let path = sys_root.join("block").join(name).join("device/ioerr_cnt");
    let text = reader.read(&path).ok()??;
    u64::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    const DISKSTATS: &str = include_str!("../../fixtures/host/diskstats_6_18");

    #[test]
    fn a_disk_has_its_counts() {
        let disks = parse_diskstats(DISKSTATS);
        let names: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
        let loops: Vec<String> = (0..8).map(|n| format!("loop{n}")).collect();
        assert_eq!(names[..8], loops);
        assert_eq!(names[8..], ["vda", "zram0"]);
        let expected = DiskSample {
            name: "vda".into(),
            device: DeviceNumber {
                major: 254,
                minor: 0,
            },
            requests: 1_009_850 + 180_314,
            bytes: (63_656_162 + 158_857_440) * 512,
            latency_ms: 4_540_073 + 885_644,
            busy_ms: 206_684,
            in_flight_ms: 5_441_907,
        };
        assert_eq!(disks[8], expected);
    }

    #[test]
    fn partitions_are_left_out_and_disks_are_not() {
        let listed = [
            "sda",
            "sda1",
            "sda15",
            "sdaa",
            "sdaa1",
            "nvme0n1",
            "nvme0n1p1",
            "nvme0n10",
            "mmcblk0",
            "mmcblk0p2",
            "mmcblk0boot0",
            "loop1",
            "loop10",
            "loop1p1",
            "dm-1",
            "dm-12",
            "md127",
            "md127p1",
            "cciss/c0d0",
            "cciss/c0d0p1",
        ];
        let text: String = listed
            .iter()
            .map(|name| format!("8 0 {name} 1 0 8 1 1 0 8 1 0 2 2\n"))
            .collect();
        let found: Vec<String> = parse_diskstats(&text)
            .into_iter()
            .map(|disk| disk.name)
            .collect();
        let disks = [
            "sda",
            "sdaa",
            "nvme0n1",
            "nvme0n10",
            "mmcblk0",
            "mmcblk0boot0",
            "loop1",
            "loop10",
            "dm-1",
            "dm-12",
            "md127",
            "cciss/c0d0",
        ];
        assert_eq!(found, disks);
    }

    #[test]
    fn errors_are_those_of_the_driver() {
        let sys = tempfile::tempdir().unwrap();
        let device = sys.path().join("block/sda/device");
        fs::create_dir_all(&device).unwrap();
        fs::write(device.join("ioerr_cnt"), "0x1f\n").unwrap();
        let mut reader = FileReader::new();
        assert_eq!(read_errors(&mut reader, sys.path(), "sda"), Some(31));
        assert_eq!(read_errors(&mut reader, sys.path(), "vda"), None);
        assert_eq!(read_errors(&mut reader, sys.path(), "../block/sda"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(text in "([0-9]{0,12} [0-9]{0,3} [a-z0-9]{0,4}( [0-9]{1,20}){0,18}\n|.{0,20}\n){0,6}") {
            for disk in parse_diskstats(&text) {
                prop_assert!(!disk.name.is_empty());
            }
        }
    }
}
