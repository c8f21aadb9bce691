//! Collector of the kernel's own files of each container: bandwidth control, memory, pressure.
//!
//! They are read on a thread of their own, so that the one that takes in the kernel's events does not wait until
//! they are. Three rules say whom it reads ([`readings`]) and how dear that may be ([`thread`]):
//!
//! - Each collection asks for a round, and waits for it for a moment only. A number that is not of this round
//!   has the time of its own reading.
//! - A container that does nothing is read rarely. Its bandwidth control cannot change, its pressure only while
//!   a task of it waits, which shows at the next reading, and its memory only by what others do to it (reclaim,
//!   a new limit). So who ran or did I/O is read at each round, once more after that until nothing moves, and
//!   then only in its turn, which comes at least once in [`readings::QUIET_INTERVAL`].
//! - When the last task of a container has ended, it is read at once: its cgroup stays until its runtime has
//!   noticed, and what happened to it last (an OOM kill, say) is in the files then.

mod readings;
mod sample;
mod thread;

pub(super) use readings::FileReading;
pub(super) use thread::FileThread;
