//! Which tasks issue block requests: the kernel's own trace, not the agent's.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};

/// Where tracefs is mounted, if anywhere.
const TRACEFS: &str = "/sys/kernel/tracing";
/// Room for the trace of one CPU, KiB: some ten thousand requests.
const BUFFER_KIB: &str = "4096";

/// A write that was issued to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Thread that issued it.
    pub tid: u32,
    /// Name of that thread.
    pub comm: String,
    /// Bytes of it.
    pub bytes: u64,
}

/// A trace of `block_rq_issue` in an instance of its own. Dropping it removes the instance.
pub struct IssueTrace {
    instance: PathBuf,
}

impl IssueTrace {
    /// Starts to trace; `None` where no tracefs is mounted.
    ///
    /// # Errors
    ///
    /// tracefs refuses.
    pub fn start() -> Result<Option<Self>> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let instances = Path::new(TRACEFS).join("instances");
        if !instances.is_dir() {
            return Ok(None);
        }
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ctrscope-test-{}-{count}", std::process::id());
        let instance = instances.join(name);
        fs::create_dir(&instance).with_context(|| format!("cannot make {}", instance.display()))?;
        let trace = Self { instance };
        trace.write("buffer_size_kb", BUFFER_KIB)?;
        trace.write("events/block/block_rq_issue/enable", "1")?;
        Ok(Some(trace))
    }

    /// The writes that were issued since the start.
    ///
    /// # Errors
    ///
    /// The trace cannot be read.
    pub fn writes(&self) -> Result<Vec<Issue>> {
        let path = self.instance.join("trace");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text.lines().filter_map(parse_write).collect())
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.instance.join(file);
        fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for IssueTrace {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.instance) {
            eprintln!("trace left behind: {}: {error}", self.instance.display());
        }
    }
}

/// A line of the text format of `block_rq_issue` (`include/trace/events/block.h`); `None` for what is
/// no write.
fn parse_write(line: &str) -> Option<Issue> {
    let (head, event) = line.split_once(": block_rq_issue: ")?;
    let mut fields = event.split_whitespace().skip(1);
    let operation = fields.next()?;
    let bytes = fields.next()?.parse().ok()?;
    // The name may hold blanks, the CPU in brackets follows it.
    let (task, _) = head.split_once(" [")?;
    let (comm, tid) = task.trim().rsplit_once('-')?;
    operation.contains('W').then_some(Issue {
        tid: tid.parse().ok()?,
        comm: comm.to_owned(),
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_has_its_task_and_bytes() {
        let line = "    kworker/u8:1-34      [001] d..1.    93.218413: block_rq_issue: 254,0 W 524288 () 264192 + 1024 [kworker/u8:1]";
        let expected = Issue {
            tid: 34,
            comm: "kworker/u8:1".into(),
            bytes: 524_288,
        };
        assert_eq!(parse_write(line), Some(expected));
    }

    #[test]
    fn reads_and_other_lines_are_no_writes() {
        let read = "  cat-9   [000] .....  1.5: block_rq_issue: 254,0 RA 4096 () 8 + 8 [cat]";
        assert_eq!(parse_write(read), None);
        assert_eq!(parse_write("# tracer: nop"), None);
    }
}
