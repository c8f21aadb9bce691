//! Networks: what a network namespace did, and the interfaces of the host.
//!
//! A namespace is known by the inode of a process's `net/dev`: the kernel numbers the proc entries of each
//! namespace by themselves (fs/proc/generic.c, `proc_register`), and unlike `ns/net` anybody may look at it.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use crate::cgroup::{CgroupError, FileReader};

/// Most interfaces of a namespace that are told; the rest are left out.
const MAX_INTERFACES: usize = 4_096;
const LOOPBACK: &str = "lo";

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceSample {
    /// Its name.
    pub name: String,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets received and sent.
    pub packets: u64,
    /// Packets dropped, both directions.
    pub dropped_packets: u64,
    /// Packets in error, both directions.
    pub error_packets: u64,
}

/// Parses `/proc/PID/net/dev`, loopback included.
#[must_use]
pub fn parse_net_dev(text: &str) -> Vec<InterfaceSample> {
    text.lines()
        .filter_map(|line| {
            // Names have no colon, and the headings have no number behind theirs.
            let (name, rest) = line.rsplit_once(':')?;
            let counts: Vec<u64> = rest
                .split_ascii_whitespace()
                .map_while(|field| field.parse().ok())
                .collect();
            let &[
                received_bytes,
                received,
                receive_errors,
                receive_drops,
                _,
                _,
                _,
                _,
                sent_bytes,
                sent,
                send_errors,
                send_drops,
                ..,
            ] = counts.as_slice()
            else {
                return None;
            };
            Some(InterfaceSample {
                name: name.trim().to_owned(),
                received_bytes,
                sent_bytes,
                packets: received.saturating_add(sent),
                dropped_packets: receive_drops.saturating_add(send_drops),
                error_packets: receive_errors.saturating_add(send_errors),
            })
        })
        .take(MAX_INTERFACES)
        .collect()
}

/// What a network namespace did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkSample {
    /// Bytes received by its interfaces, loopback left out.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets received and sent, loopback included.
    pub packets: u64,
    /// Packets dropped, both directions.
    pub dropped_packets: u64,
    /// Packets in error, both directions.
    pub error_packets: u64,
    /// TCP segments sent, those that were sent again left out.
    pub sent_segments: Option<u64>,
    /// TCP segments sent again.
    pub retransmitted_segments: Option<u64>,
    /// Connections that a listener refused, for the most part because its queue was full.
    pub listen_drops: Option<u64>,
    /// UDP datagrams dropped because the receiver's buffer was full.
    pub udp_receive_errors: Option<u64>,
}

impl NetworkSample {
    /// Takes in the interfaces.
    fn add_interfaces(&mut self, interfaces: &[InterfaceSample]) {
        for interface in interfaces {
            self.packets = self.packets.saturating_add(interface.packets);
            if interface.name == LOOPBACK {
                continue;
            }
            for (sum, value) in [
                (&mut self.received_bytes, interface.received_bytes),
                (&mut self.sent_bytes, interface.sent_bytes),
                (&mut self.dropped_packets, interface.dropped_packets),
                (&mut self.error_packets, interface.error_packets),
            ] {
                *sum = sum.saturating_add(value);
            }
        }
    }
}

/// Takes TCP and UDP out of `/proc/PID/net/snmp`.
pub fn parse_snmp(text: &str, sample: &mut NetworkSample) {
    // TCP counts both versions of IP, UDP only the fourth here.
    sample.sent_segments = column(text, "Tcp:", "OutSegs");
    sample.retransmitted_segments = column(text, "Tcp:", "RetransSegs");
    sample.udp_receive_errors = column(text, "Udp:", "RcvbufErrors");
}

/// Adds UDP of the sixth version of IP, out of `/proc/PID/net/snmp6`.
pub fn parse_snmp6(text: &str, sample: &mut NetworkSample) {
    let errors = text.lines().find_map(|line| {
        let value = line.strip_prefix("Udp6RcvbufErrors")?;
        value.trim().parse::<u64>().ok()
    });
    if let Some(errors) = errors {
        let sum = sample.udp_receive_errors.unwrap_or(0);
        sample.udp_receive_errors = Some(sum.saturating_add(errors));
    }
}

/// Takes the listeners out of `/proc/PID/net/netstat`. `ListenOverflows` are a part of `ListenDrops`
/// (net/ipv4/tcp_ipv4.c).
pub fn parse_netstat(text: &str, sample: &mut NetworkSample) {
    sample.listen_drops = column(text, "TcpExt:", "ListenDrops");
}

/// The value below a name, where a line of names is followed by one of values, both with the same prefix.
fn column(text: &str, prefix: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
    let position = lines
        .next()?
        .split_ascii_whitespace()
        .position(|column| column == name)?;
    let values = lines.next()?;
    values.split_ascii_whitespace().nth(position)?.parse().ok()
}

/// What tells the network namespace of a process from others while it is there; `None` if the process is
/// gone.
#[must_use]
pub fn read_namespace_id(proc_root: &Path, pid: u32) -> Option<u64> {
    let path = proc_root.join(pid.to_string()).join("net/dev");
    Some(fs::metadata(path).ok()?.ino())
}

/// Reads the interfaces that a process sees; `None` if it is gone.
///
/// # Errors
///
/// If the file is there and cannot be read.
pub fn read_interfaces(
    reader: &mut FileReader,
    proc_root: &Path,
    pid: u32,
) -> Result<Option<Vec<InterfaceSample>>, CgroupError> {
    let path = proc_root.join(pid.to_string()).join("net/dev");
    Ok(reader.read(&path)?.map(parse_net_dev))
}

/// Reads what the network namespace of a process did; `None` if it is gone. Four files; only one where no
/// packet went anywhere since `last`, whose other numbers then still hold.
///
/// # Errors
///
/// If a file is there and cannot be read.
pub fn read_namespace(
    reader: &mut FileReader,
    proc_root: &Path,
    pid: u32,
    last: Option<&NetworkSample>,
) -> Result<Option<NetworkSample>, CgroupError> {
    let Some(interfaces) = read_interfaces(reader, proc_root, pid)? else {
        return Ok(None);
    };
    let mut sample = NetworkSample::default();
    sample.add_interfaces(&interfaces);
    if let Some(last) = last
        && last.packets == sample.packets
    {
        return Ok(Some(NetworkSample {
            dropped_packets: sample.dropped_packets,
            error_packets: sample.error_packets,
            ..*last
        }));
    }
    let directory = proc_root.join(pid.to_string()).join("net");
    for (name, parse) in [
        ("snmp", parse_snmp as fn(&str, &mut NetworkSample)),
        ("snmp6", parse_snmp6),
        ("netstat", parse_netstat),
    ] {
        if let Some(text) = reader.read(&directory.join(name))? {
            parse(text, &mut sample);
        }
    }
    Ok(Some(sample))
}

/// The speed of a link, bytes per second; `None` for one that has none (virtual, or down).
pub fn read_link_speed(reader: &mut FileReader, sys_root: &Path, interface: &str) -> Option<u64> {
    if interface.contains('/') || interface.starts_with('.') {
        return None;
    }
    let path = sys_root.join("class/net").join(interface).join("speed");
    // A virtual interface answers with an error or with -1.
    let megabits: u64 = reader.read(&path).ok()??.trim().parse().ok()?;
    (megabits > 0).then(|| megabits.saturating_mul(1_000_000 / 8))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEV: &str = include_str!("../../fixtures/host/net_dev_6_18");
    const SNMP: &str = include_str!("../../fixtures/host/net_snmp_6_18");
    const NETSTAT: &str = include_str!("../../fixtures/host/net_netstat_6_18");

    fn write(root: &Path, pid: u32, files: &[(&str, &str)]) {
        let directory = root.join(pid.to_string()).join("net");
        fs::create_dir_all(&directory).unwrap();
        for (name, text) in files {
            fs::write(directory.join(name), text).unwrap();
        }
    }

    #[test]
    fn interfaces_have_their_counts() {
        let interfaces = parse_net_dev(DEV);
        let names: Vec<&str> = interfaces.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["lo", "ifb0", "ifb1", "eth0"]);
        let expected = InterfaceSample {
            name: "eth0".into(),
            received_bytes: 702_981_573,
            sent_bytes: 831_183,
            packets: 18_113 + 9_693,
            dropped_packets: 0,
            error_packets: 0,
        };
        assert_eq!(interfaces[3], expected);
        // Each kind of its own, and a name with a colon, as an alias has.
        let text = "eth0:1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        let alias = &parse_net_dev(text)[0];
        assert_eq!(alias.name, "eth0:1");
        assert_eq!((alias.dropped_packets, alias.error_packets), (16, 14));
    }

    #[test]
    fn a_namespace_is_summed_without_its_loopback() {
        let root = tempfile::tempdir().unwrap();
        let snmp6 = "Ip6InReceives                   \t5\nUdp6RcvbufErrors                \t3\n";
        write(
            root.path(),
            7,
            &[
                ("dev", DEV),
                ("snmp", SNMP),
                ("snmp6", snmp6),
                ("netstat", NETSTAT),
            ],
        );
        let mut reader = FileReader::new();
        let found = read_namespace(&mut reader, root.path(), 7, None)
            .unwrap()
            .unwrap();
        let expected = NetworkSample {
            received_bytes: 702_981_573,
            sent_bytes: 831_183,
            packets: 2 * 306_991 + 18_113 + 9_693,
            sent_segments: Some(316_906),
            retransmitted_segments: Some(251),
            listen_drops: Some(0),
            udp_receive_errors: Some(3),
            ..NetworkSample::default()
        };
        assert_eq!(found, expected);
        assert_eq!(
            read_namespace(&mut reader, root.path(), 8, None).unwrap(),
            None
        );
    }

    #[test]
    fn without_a_packet_the_other_numbers_stand() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), 7, &[("dev", DEV), ("snmp", SNMP)]);
        let mut reader = FileReader::new();
        let mut read = |last: Option<&NetworkSample>| {
            read_namespace(&mut reader, root.path(), 7, last)
                .unwrap()
                .unwrap()
        };
        let first = read(None);
        fs::remove_file(root.path().join("7/net/snmp")).unwrap();
        assert_eq!(read(Some(&first)), first);
        let other = NetworkSample {
            packets: 1,
            ..first
        };
        assert_eq!(read(Some(&other)).sent_segments, None);
    }

    #[test]
    fn a_namespace_has_an_identity() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), 7, &[("dev", DEV)]);
        write(root.path(), 8, &[("dev", DEV)]);
        let id = |pid| read_namespace_id(root.path(), pid);
        assert!(id(7).is_some());
        assert_eq!(id(7), id(7));
        assert_ne!(id(7), id(8));
        assert_eq!(id(9), None);
    }

    #[test]
    fn a_link_without_a_speed_has_none() {
        let sys = tempfile::tempdir().unwrap();
        let mut reader = FileReader::new();
        for (name, text, expected) in [
            ("eth0", "10000\n", Some(1_250_000_000)),
            ("eth1", "-1\n", None),
            ("eth2", "0\n", None),
        ] {
            let directory = sys.path().join("class/net").join(name);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("speed"), text).unwrap();
            assert_eq!(read_link_speed(&mut reader, sys.path(), name), expected);
        }
        assert_eq!(read_link_speed(&mut reader, sys.path(), "gone"), None);
        assert_eq!(
            read_link_speed(&mut reader, sys.path(), "../net/eth0"),
            None
        );
    }

    #[test]
    fn a_table_of_another_shape_gives_nothing() {
        for text in [
            "",
            "Tcp:",
            "Tcp: OutSegs\n",
            "Tcp: OutSegs\nTcp:\n",
            "Tcp: a\nTcp: 1\n",
        ] {
            let mut sample = NetworkSample::default();
            parse_snmp(text, &mut sample);
            assert_eq!(sample, NetworkSample::default(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(
            text in "((Tcp|Udp|TcpExt): [a-zA-Z0-9 ]{0,30}\n| *[a-z0-9:]{0,6}: ?([0-9]{1,20} ?){0,17}\n|.{0,20}\n){0,6}"
        ) {
            let mut sample = NetworkSample::default();
            sample.add_interfaces(&parse_net_dev(&text));
            parse_snmp(&text, &mut sample);
            parse_snmp6(&text, &mut sample);
            parse_netstat(&text, &mut sample);
        }
    }
}
