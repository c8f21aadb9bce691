//! Cgroup mounts in `/proc/PID/mountinfo`.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt as _, OsStringExt},
    path::PathBuf,
};

use super::name::{bytes_of, text_of};

/// Version of a cgroup hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy for each group of controllers.
    V1,
    /// The unified hierarchy.
    V2,
}

/// A mounted cgroup hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted, as the agent can open it.
    pub mount_point: PathBuf,
    /// Version of the hierarchy.
    pub version: Version,
    /// The cgroup that is mounted there; `/` for a whole hierarchy, `/..` and the like for one above
    /// the root of the reader's cgroup namespace.
    pub root: String,
}

impl Mount {
    /// The directory of a cgroup, `None` where it lies outside of this mount or the path has a `..`
    /// component. Whether it exists is not checked.
    #[must_use]
    pub fn directory(&self, cgroup_path: &str) -> Option<PathBuf> {
        if cgroup_path.split('/').any(|component| component == "..") || cgroup_path.contains('\0') {
            return None;
        }
        let relative = match self.visible_root() {
            "" => cgroup_path,
            root => {
                let rest = cgroup_path.strip_prefix(root)?;
                if !rest.is_empty() && !rest.starts_with('/') {
                    return None;
                }
                rest
            }
        };
        // An absolute path would replace the mount point.
        let relative = bytes_of(relative.trim_start_matches('/'));
        Some(self.mount_point.join(OsStr::from_bytes(&relative)))
    }

    /// What the cgroup paths of this mount start with: empty for a whole hierarchy, and for a root above
    /// the namespace, whose name cannot be known.
    #[must_use]
    pub(super) fn visible_root(&self) -> &str {
        if self.levels_above() > 0 {
            return "";
        }
        self.root.trim_end_matches('/')
    }

    /// Whether its root is called the root of the reader's cgroup namespace, or lies above it: then the name of
    /// what is mounted is not known, unless that is the root of the hierarchy.
    #[must_use]
    pub fn is_of_unknown_root(&self) -> bool {
        self.visible_root().is_empty()
    }

    fn levels_above(&self) -> usize {
        self.root.split('/').filter(|part| *part == "..").count()
    }

    /// How much of the hierarchy it shows; more is better. A root above the namespace shows more than
    /// `/`, a cgroup below it less.
    pub(super) fn reach(&self) -> i64 {
        let above = i64::try_from(self.levels_above()).unwrap_or(i64::MAX);
        if above > 0 {
            return above;
        }
        let below = self.root.split('/').filter(|part| !part.is_empty()).count();
        -i64::try_from(below).unwrap_or(i64::MAX)
    }
}

/// A line of the mount table that is a cgroup mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MountLine {
    pub(super) mount: Mount,
    /// The v1 controllers; of v2 the mount table does not tell.
    pub(super) controllers: Vec<String>,
}

/// The cgroup mounts of a mount table, in its order. A later mount on the same mount point hides the
/// earlier one. Lines that do not parse are passed over.
pub(super) fn parse_mountinfo(text: &str) -> Vec<MountLine> {
    let mut lines: Vec<MountLine> = Vec::new();
    for line in text.lines().filter_map(parse_line) {
        lines.retain(|earlier| earlier.mount.mount_point != line.mount.mount_point);
        lines.push(line);
    }
    lines
}

/// `ID PARENT MAJOR:MINOR ROOT MOUNT_POINT OPTIONS [OPTIONAL]... - TYPE SOURCE SUPER_OPTIONS`.
fn parse_line(line: &str) -> Option<MountLine> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    let version = match right.next()? {
        "cgroup" => Version::V1,
        "cgroup2" => Version::V2,
        _ => return None,
    };
    let options = right.nth(1).unwrap_or_default();
    let mut left = left.split(' ').skip(3);
    let root = text_of(unescape(left.next()?).as_bytes()).into_owned();
    let mount_point = PathBuf::from(unescape(left.next()?));
    let controllers = match version {
        Version::V1 => options.split(',').map(str::to_owned).collect(),
        Version::V2 => Vec::new(),
    };
    Some(MountLine {
        mount: Mount {
            mount_point,
            version,
            root,
        },
        controllers,
    })
}

/// Undoes the octal escapes of the mount table (`\040` for a space).
fn unescape(text: &str) -> OsString {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = match rest {
            [
                b'\\',
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                after @ ..,
            ] => Some((((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'), after)),
            _ => None,
        };
        let (byte, after) = escaped.unwrap_or((byte, after));
        bytes.push(byte);
        rest = after;
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn mount(root: &str) -> Mount {
        Mount {
            mount_point: PathBuf::from("/sys/fs/cgroup"),
            version: Version::V2,
            root: root.to_owned(),
        }
    }

    #[test]
    fn octal_escapes_are_undone() {
        let line =
            r"36 31 0:31 /a\134b /mnt/my\040data rw shared:1 master:2 - cgroup cgroup rw,memory";
        let parsed = parse_mountinfo(line);
        assert_eq!(parsed.len(), 1);
        assert_eq!(parsed[0].mount.mount_point, Path::new("/mnt/my data"));
        assert_eq!(parsed[0].mount.root, r"/a\b");
        assert_eq!(unescape(r"\04"), OsString::from(r"\04"));
    }

    #[test]
    fn the_last_mount_on_a_mount_point_hides_the_earlier() {
        let text = "1 0 0:1 / /c rw - cgroup cgroup rw,cpu\n2 1 0:2 / /c rw - cgroup2 none rw\n";
        let parsed = parse_mountinfo(text);
        assert_eq!(parsed.len(), 1);
        assert_eq!(parsed[0].mount.version, Version::V2);
    }

    #[test]
    fn lines_that_do_not_parse_are_passed_over() {
        for line in [
            "",
            " - ",
            " - cgroup",
            "1 2 - cgroup2 x rw",
            "1 2 3 - cgroup",
            "\0 - \0",
        ] {
            assert_eq!(parse_mountinfo(line), []);
        }
    }

    #[test]
    fn no_path_leads_out_of_the_mount() {
        let whole = mount("/");
        assert_eq!(whole.directory("/../etc"), None);
        assert_eq!(whole.directory("/a/../../etc"), None);
        assert_eq!(whole.directory("/a\0b"), None);
        assert_eq!(
            whole.directory("//etc"),
            Some(PathBuf::from("/sys/fs/cgroup/etc"))
        );
        assert_eq!(whole.directory("/"), Some(PathBuf::from("/sys/fs/cgroup/")));
    }

    #[test]
    fn a_mount_of_one_cgroup_takes_paths_from_the_root_of_the_hierarchy() {
        let part = mount("/docker/abc");
        assert_eq!(
            part.directory("/docker/abc/child"),
            Some(PathBuf::from("/sys/fs/cgroup/child"))
        );
        assert_eq!(part.directory("/docker/abcdef"), None);
        assert_eq!(part.directory("/system.slice"), None);
    }

    #[test]
    fn a_mount_from_above_the_namespace_takes_host_paths() {
        let above = mount("/../..");
        assert_eq!(
            above.directory("/system.slice"),
            Some(PathBuf::from("/sys/fs/cgroup/system.slice"))
        );
        assert!(above.reach() > mount("/").reach());
        assert!(mount("/").reach() > mount("/docker/abc").reach());
    }
}
