//! The executable mappings of a process: `/proc/PID/maps`.

use std::sync::Arc;

use super::image::Image;

/// Most executable mappings kept of a process.
const MAX_MAPPINGS: usize = 16_384;

/// An executable mapping.
#[derive(Clone, Debug)]
pub(crate) struct Mapping {
    /// First address.
    pub(super) start: u64,
    /// Address after the last.
    pub(super) end: u64,
    /// Where in the file it begins, bytes.
    pub(super) offset: u64,
    /// Device: major and minor number.
    pub(super) device: (u32, u32),
    /// Inode; 0 is none.
    pub(super) inode: u64,
    /// Path, `[vdso]` and the like, or nothing.
    pub(super) path: Arc<str>,
    /// Its file, where it was opened while it was mapped.
    pub(super) image: Option<Arc<Image>>,
}

/// As the kernel tells it: whether its file is open does not matter.
impl PartialEq for Mapping {
    fn eq(&self, other: &Self) -> bool {
        let told = |one: &Self| (one.start, one.end, one.offset, one.device, one.inode);
        told(self) == told(other) && self.path == other.path
    }
}

impl Eq for Mapping {}

impl Mapping {
    /// Whether bytes of a file are mapped.
    pub(super) fn is_file(&self) -> bool {
        self.inode != 0 && self.path.starts_with('/')
    }

    /// Memory it takes, bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.path.len()
    }

    /// What to call it in a frame: the file name.
    pub(super) fn module(&self) -> &str {
        let path = self.path.strip_suffix(" (deleted)").unwrap_or(&self.path);
        let name = path.rsplit('/').next().unwrap_or(path);
        match name {
            "" | "anon" => "[anon]",
            name if name.starts_with("[anon") => "[anon]",
            name => name,
        }
    }
}

/// Parses the executable mappings, in order of address. Lines that make no sense are left out.
pub(super) fn parse(text: &str) -> Vec<Mapping> {
    text.lines()
        .filter_map(parse_line)
        .take(MAX_MAPPINGS)
        .collect()
}

fn parse_line(line: &str) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    if permissions.as_bytes().get(2) != Some(&b'x') {
        return None;
    }
    let offset = fields.next()?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let inode = fields.next()?;
    Some(Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        offset: u64::from_str_radix(offset, 16).ok()?,
        device: (
            u32::from_str_radix(major, 16).ok()?,
            u32::from_str_radix(minor, 16).ok()?,
        ),
        inode: inode.parse().ok()?,
        path: fields.next().unwrap_or("").trim_start_matches(' ').into(),
        image: None,
    })
}

/// The mapping that covers an address.
pub(super) fn find(mappings: &[Mapping], address: u64) -> Option<&Mapping> {
    let index = mappings.partition_point(|mapping| mapping.end <= address);
    mappings
        .get(index)
        .filter(|mapping| mapping.start <= address)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Linux 6.18, x86-64, a shell; two lines (a deleted file, an anonymous mapping) of a JVM.
    const MAPS: &str = "\
5611ab7c9000-5611ab7cd000 r--p 00000000 fe:00 131158                     /usr/bin/dash
5611ab7cd000-5611ab7e1000 r-xp 00004000 fe:00 131158                     /usr/bin/dash
5611ab7ea000-5611ab80b000 rw-p 00000000 00:00 0                          [heap]
7f2e31000000-7f2e31270000 rwxp 00000000 00:00 0 
7f2e4c426000-7f2e4c57b000 r-xp 00026000 fe:00 135069                     /srv/my app/libc.so.6 (deleted)
7ffd9a9e2000-7ffd9a9e4000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";

    #[test]
    fn executable_mappings_are_parsed() {
        let mappings = parse(MAPS);
        let modules: Vec<_> = mappings.iter().map(Mapping::module).collect();
        assert_eq!(
            modules,
            ["dash", "[anon]", "libc.so.6", "[vdso]", "[vsyscall]"]
        );
        assert_eq!(&*mappings[2].path, "/srv/my app/libc.so.6 (deleted)");
        assert_eq!(mappings[0].offset, 0x4000);
        assert!(mappings[0].is_file() && !mappings[1].is_file());
        assert_eq!(
            find(&mappings, 0x5611_ab7c_d000).map(Mapping::module),
            Some("dash")
        );
        assert_eq!(find(&mappings, 0x5611_ab7e_1000), None);
        assert_eq!(find(&mappings, 0), None);
        assert_eq!(find(&mappings, u64::MAX), None);
    }

    #[test]
    fn nonsense_is_left_out() {
        for text in [
            "",
            "\n\n",
            "x",
            "1-2 r-xp",
            "1-2 r-xp 0 0 x",
            "zz-1 r-xp 0 0:0 0",
            "1 r-xp 0 0 0",
            "1-2 r-xp 0 0 0",
        ] {
            assert_eq!(parse(text), [], "{text:?}");
        }
    }
}
