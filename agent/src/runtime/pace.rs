//! How fast events are taken: a runtime that floods costs a few per cent of a CPU and not all of it.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What is taken in a second, bytes.
const A_SECOND: usize = 4 << 20;
/// What an event costs beside its own bytes, so that 4,096 small ones fit into a second.
const AN_EVENT: usize = 1 << 10;

/// Lets pass what a second has room for, then waits for the next one. What is not read meanwhile stays
/// with the runtime, which in the end has to wait as well.
#[derive(Debug)]
pub(super) struct Pace {
    left: usize,
    until: Instant,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            left: A_SECOND,
            until: Instant::now() + Duration::from_secs(1),
        }
    }
}

impl Pace {
    /// So many events of so many bytes together were taken; waits if that was all that there is room for.
    pub(super) async fn spend(&mut self, events: usize, bytes: usize) {
        let cost = events.saturating_mul(AN_EVENT).saturating_add(bytes);
        self.left = self.left.saturating_sub(cost);
        if self.left == 0 {
            sleep_until(self.until).await;
        }
        if Instant::now() >= self.until {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_slowed_and_a_trickle_is_not() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut pace = Pace::default();
            let began = Instant::now();
            for _ in 0..1_000 {
                pace.spend(1, 500).await;
            }
            assert!(began < pace.until, "nothing was waited for");
            let until = pace.until;
            pace.spend(1, A_SECOND).await;
            assert!(Instant::now() >= until && pace.left == A_SECOND);
        });
    }
}
