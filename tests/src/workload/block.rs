//! Work on a block device.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    ptr::NonNull,
    slice, thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{BlockOptions, Until, Worker};

/// Alignment that `O_DIRECT` needs on every common device.
const ALIGNMENT: usize = 4096;

/// The work of each thread, with a file of its own.
pub(crate) fn in_threads(
    options: &BlockOptions,
    work: impl Fn(BlockOptions) -> Vec<Worker>,
) -> Vec<Worker> {
    let one = |number: usize| {
        let mut own = options.clone();
        if number > 0 {
            own.file.as_mut_os_string().push(format!(".{number}"));
        }
        work(own)
    };
    (0..options.threads.max(1)).flat_map(one).collect()
}

/// Reads, writes or both, past the page cache.
pub(crate) fn direct(options: BlockOptions, read: bool, write: bool) -> Vec<Worker> {
    vec![Box::new(move |until| {
        let mut buffer = Buffer::new(options.block)?;
        if read {
            fill(&options)?;
        }
        let file = open(&options, libc::O_DIRECT)?;
        let mut offsets = Offsets::new(&options);
        let (mut bytes_read, mut bytes_written, mut operations) = (0, 0, 0u64);
        while more(&options, until, operations) {
            let offset = offsets.next();
            if write {
                file.write_all_at(buffer.bytes(), offset)
                    .context("cannot write")?;
                bytes_written += options.block as u64;
            }
            if read {
                file.read_exact_at(buffer.bytes(), offset)
                    .context("cannot read")?;
                bytes_read += options.block as u64;
            }
            operations += 1;
            pause(&options);
        }
        Ok(json!({ "bytes_read": bytes_read, "bytes_written": bytes_written }))
    })]
}

/// Writes through the page cache.
pub(crate) fn buffered(
    options: BlockOptions,
    fsync_every: u64,
    fsync_first: bool,
    datasync: bool,
) -> Vec<Worker> {
    vec![Box::new(move |until| {
        let mut buffer = Buffer::new(options.block)?;
        let file = open(&options, 0)?;
        let mut offsets = Offsets::new(&options);
        let mut operations = 0u64;
        while more(&options, until, operations) {
            file.write_all_at(buffer.bytes(), offsets.next())
                .context("cannot write")?;
            operations += 1;
            let is_due = fsync_every > 0 && operations.is_multiple_of(fsync_every);
            if is_due || (fsync_first && operations == 1) {
                let synced = if datasync {
                    file.sync_data()
                } else {
                    file.sync_all()
                };
                synced.context("cannot fsync")?;
            }
            pause(&options);
        }
        Ok(json!({ "bytes_written": operations * options.block as u64 }))
    })]
}

/// Reads through the page cache.
pub(crate) fn read_buffered(options: BlockOptions) -> Vec<Worker> {
    vec![Box::new(move |until| {
        let mut buffer = Buffer::new(options.block)?;
        fill(&options)?;
        let file = open(&options, 0)?;
        let mut offsets = Offsets::new(&options);
        let mut operations = 0u64;
        while more(&options, until, operations) {
            file.read_exact_at(buffer.bytes(), offsets.next())
                .context("cannot read")?;
            operations += 1;
            pause(&options);
        }
        Ok(json!({ "bytes_read": operations * options.block as u64 }))
    })]
}

fn more(options: &BlockOptions, until: &Until, operations: u64) -> bool {
    !until.is_over()
        && options
            .bytes
            .is_none_or(|bytes| operations * (options.block as u64) < bytes)
}

fn pause(options: &BlockOptions) {
    if options.pause_ms > 0 {
        thread::sleep(Duration::from_millis(options.pause_ms));
    }
}

fn open(options: &BlockOptions, flags: i32) -> Result<File> {
    ensure!(
        options.block >= ALIGNMENT && options.block.is_multiple_of(ALIGNMENT),
        "--block must be a multiple of {ALIGNMENT}"
    );
    ensure!(
        options.size >= options.block as u64,
        "--size must be at least --block"
    );
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(flags)
        .open(&options.file)
        .with_context(|| format!("cannot open {}", options.file.display()))
}

/// Gives the file its size in written blocks, so that reads reach the device.
fn fill(options: &BlockOptions) -> Result<()> {
    const CHUNK: usize = 1 << 20;
    let file = open(options, 0)?;
    let mut length = file.metadata()?.len();
    if length >= options.size {
        // Not even an fsync, which would be a write on the kernel's account.
        return Ok(());
    }
    let chunk = vec![0x5a; CHUNK];
    while length < options.size {
        file.write_all_at(&chunk, length).context("cannot fill")?;
        length += CHUNK as u64;
    }
    file.sync_all().context("cannot fsync")
}

/// Offsets of the operations: ascending and starting over, or random.
struct Offsets {
    blocks: u64,
    block: u64,
    random: bool,
    state: u64,
}

impl Offsets {
    fn new(options: &BlockOptions) -> Self {
        let block = options.block.max(1) as u64;
        Self {
            blocks: (options.size / block).max(1),
            block,
            random: options.random,
            state: 0,
        }
    }

    fn next(&mut self) -> u64 {
        let index = if self.random {
            // A linear congruence (Knuth's MMIX); the high bits are the good ones.
            self.state = self
                .state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.state >> 33) % self.blocks
        } else {
            self.state += 1;
            (self.state - 1) % self.blocks
        };
        index * self.block
    }
}

/// Memory aligned for `O_DIRECT`.
struct Buffer {
    start: NonNull<u8>,
    layout: Layout,
}

impl Buffer {
    fn new(length: usize) -> Result<Self> {
        ensure!(length > 0, "--block must not be 0");
        let layout = Layout::from_size_align(length, ALIGNMENT)?;
        // SAFETY: the size is not 0.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).context("no memory")?;
        Ok(Self { start, layout })
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: allocated with this size, initialized to zeroes, borrowed from `self`.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}
