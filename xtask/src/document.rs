//! Documents of which commands write a part.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::step;

/// A file below the repository of which a command writes what stands between two marks.
pub(crate) struct Section {
    pub(crate) document: &'static str,
    /// Between `<!-- begin: name -->` and `<!-- end: name -->`.
    pub(crate) name: &'static str,
}

impl Section {
    /// Replaces what is there.
    ///
    /// # Errors
    ///
    /// The document or a mark is not there, or it cannot be written.
    pub(crate) fn write(&self, text: &str) -> Result<()> {
        let path = step::repository().join(self.document);
        let old =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let new = replaced(&old, self.name, text)
            .with_context(|| format!("cannot write a part of {}", path.display()))?;
        write(&path, &new)
    }
}

/// Writes a document as a whole.
///
/// # Errors
///
/// It cannot be written.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn replaced(old: &str, name: &str, text: &str) -> Result<String> {
    let marks = [
        format!("<!-- begin: {name} -->\n"),
        format!("<!-- end: {name} -->"),
    ];
    let Some((before, rest)) = old.split_once(&marks[0]) else {
        bail!("there is no {}", marks[0].trim());
    };
    let Some((_, after)) = rest.split_once(&marks[1]) else {
        bail!("there is no {}", marks[1]);
    };
    Ok(format!(
        "{before}{}{}\n{}{after}",
        marks[0],
        text.trim_end(),
        marks[1]
    ))
}

/// The commit that is there, as `git describe` has it; to be asked before anything is built.
pub(crate) fn commit() -> Option<String> {
    let output = Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .current_dir(step::repository())
        .output()
        .ok()?;
    let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !name.is_empty()).then(|| format!("commit {name}"))
}

/// Kernel and CPUs of this machine, for a document.
pub(crate) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("CPUs of an unknown model", |(_, model)| model);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    format!("Linux {}, {cpus} x {model}", kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_part_between_its_marks_is_replaced() {
        let old = "a\n<!-- begin: x -->\nold\n<!-- end: x -->\nb\n";
        let new = replaced(old, "x", "new\n\n").unwrap();
        assert_eq!(new, "a\n<!-- begin: x -->\nnew\n<!-- end: x -->\nb\n");
        assert_eq!(replaced(&new, "x", "new").unwrap(), new);
        assert!(replaced(old, "y", "new").is_err());
    }
}
