//! Pressure stall information of a cgroup and of the host.
//!
//! Kept by v2 hierarchies since kernel 4.20 (also where the controllers are in v1 hierarchies), unless the
//! kernel was built without `CONFIG_PSI`, booted with `psi=0`, or `cgroup.pressure` of the cgroup is 0.

use std::path::Path;

use super::{
    error::CgroupError,
    file::{CgroupFiles, FileReader},
    hierarchy::Hierarchies,
};

/// Pressure stall information of a cgroup or of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// CPU.
    pub cpu: Option<PressureTimes>,
    /// Memory.
    pub memory: Option<PressureTimes>,
    /// I/O.
    pub io: Option<PressureTimes>,
}

/// Time lost to one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PressureTimes {
    /// At least one task waited (`some`), microseconds.
    pub waiting_usec: u64,
    /// All non-idle tasks waited (`full`), microseconds.
    pub stalled_usec: u64,
}

/// Parses a pressure file; `None` without its `some` line.
///
/// Before kernel 5.13 the cpu file has no `full` line: the time stalled is then 0, as it is for the host's
/// cpu file in any kernel.
#[must_use]
pub fn parse_pressure(text: &str) -> Option<PressureTimes> {
    let total = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.split(' ')
            .find_map(|field| field.strip_prefix("total="))?
            .parse()
            .ok()
    };
    Some(PressureTimes {
        waiting_usec: total("some")?,
        stalled_usec: total("full").unwrap_or(0),
    })
}

/// Reads the pressure of a cgroup from the unified hierarchy; `None` if it vanished or the kernel keeps
/// none. Three file reads.
///
/// # Errors
///
/// If a file is there and cannot be read.
pub fn read_pressure(
    reader: &mut FileReader,
    hierarchies: &Hierarchies,
    unified_path: &str,
) -> Result<Option<Pressure>, CgroupError> {
    let Some(mount) = &hierarchies.unified else {
        return Ok(None);
    };
    let Some(mut files) = CgroupFiles::new(reader, mount, unified_path) else {
        return Ok(None);
    };
    of_cgroup(&mut files)
}

pub(super) fn of_cgroup(files: &mut CgroupFiles<'_>) -> Result<Option<Pressure>, CgroupError> {
    let pressure = Pressure {
        cpu: files.read("cpu.pressure")?.and_then(parse_pressure),
        memory: files.read("memory.pressure")?.and_then(parse_pressure),
        io: files.read("io.pressure")?.and_then(parse_pressure),
    };
    Ok(some_unless_empty(pressure))
}

/// Reads the pressure of the host from `/proc/pressure`; `None` if the kernel keeps none.
///
/// # Errors
///
/// If a file is there and cannot be read.
pub fn read_host_pressure(
    reader: &mut FileReader,
    proc_root: &Path,
) -> Result<Option<Pressure>, CgroupError> {
    let directory = proc_root.join("pressure");
    let mut one = |name: &str| -> Result<Option<PressureTimes>, CgroupError> {
        Ok(reader.read(&directory.join(name))?.and_then(parse_pressure))
    };
    Ok(some_unless_empty(Pressure {
        cpu: one("cpu")?,
        memory: one("memory")?,
        io: one("io")?,
    }))
}

fn some_unless_empty(pressure: Pressure) -> Option<Pressure> {
    (pressure != Pressure::default()).then_some(pressure)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cgroup::fake::Tree;

    // Kernel 6.18, v2.
    const IO: &str = "some avg10=0.13 avg60=2.58 avg300=3.71 total=23492373\n\
        full avg10=0.04 avg60=2.49 avg300=3.56 total=21796076\n";
    // Kernel 5.10, cpu.
    const CPU_5_10: &str = "some avg10=9.61 avg60=15.85 avg300=15.92 total=99491022\n";

    #[test]
    fn totals_are_taken_and_averages_left() {
        let expected = PressureTimes {
            waiting_usec: 23_492_373,
            stalled_usec: 21_796_076,
        };
        assert_eq!(parse_pressure(IO), Some(expected));
    }

    #[test]
    fn a_cpu_file_without_full_has_no_stall() {
        assert_eq!(
            parse_pressure(CPU_5_10).map(|times| times.stalled_usec),
            Some(0)
        );
    }

    #[test]
    fn a_file_without_totals_is_none() {
        for text in [
            "",
            "full total=1\n",
            "some avg10=0.00\n",
            "some total=x\n",
            "something total=1\n",
        ] {
            assert_eq!(parse_pressure(text), None, "{text}");
        }
    }

    #[test]
    fn a_cgroup_and_the_host_are_read() {
        let v2 = Tree::v2();
        v2.write("web/cpu.pressure", CPU_5_10);
        v2.write("web/io.pressure", IO);
        let mut reader = FileReader::new();
        let found = read_pressure(&mut reader, &v2.hierarchies, "/web")
            .unwrap()
            .unwrap();
        assert_eq!(found.cpu.map(|times| times.waiting_usec), Some(99_491_022));
        assert_eq!(found.memory, None);
        assert_eq!(found.io.map(|times| times.waiting_usec), Some(23_492_373));
        assert_eq!(
            read_pressure(&mut reader, &v2.hierarchies, "/gone").unwrap(),
            None
        );

        let proc_root = tempfile::tempdir().unwrap();
        assert_eq!(
            read_host_pressure(&mut reader, proc_root.path()).unwrap(),
            None
        );
        fs::create_dir(proc_root.path().join("pressure")).unwrap();
        fs::write(proc_root.path().join("pressure/memory"), IO).unwrap();
        let host = read_host_pressure(&mut reader, proc_root.path())
            .unwrap()
            .unwrap();
        assert!(host.memory.is_some() && host.cpu.is_none());
    }

    #[test]
    fn a_v1_host_keeps_no_pressure_of_cgroups() {
        let v1 = Tree::v1();
        assert_eq!(
            read_pressure(&mut FileReader::new(), &v1.hierarchies, "/").unwrap(),
            None
        );
    }
}
