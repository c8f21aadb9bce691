//! Sum and difference of cumulative numbers, which follow from their declaration.

use super::Histogram;

/// A number that is only added to, or a struct of such.
///
/// Absent is not zero: what was never measured stays `None` in sums and differences.
pub trait Counted: Clone {
    /// Adds what another one counted.
    fn add(&mut self, other: &Self);

    /// What was counted since `earlier`; `None` where any number went backwards, which is a reset.
    fn since(&self, earlier: &Self) -> Option<Self>;

    /// Whether any number went backwards since `earlier`.
    fn is_reset(&self, earlier: &Self) -> bool;

    /// Holds on to what was measured before: a number that went backwards since `earlier`, or is absent now,
    /// stays what it was.
    fn hold(&mut self, earlier: &Self);
}

impl Counted for u64 {
    fn add(&mut self, other: &Self) {
        *self = self.saturating_add(*other);
    }

    fn since(&self, earlier: &Self) -> Option<Self> {
        self.checked_sub(*earlier)
    }

    fn is_reset(&self, earlier: &Self) -> bool {
        self < earlier
    }

    fn hold(&mut self, earlier: &Self) {
        *self = (*self).max(*earlier);
    }
}

impl Counted for Histogram {
    fn add(&mut self, other: &Self) {
        Self::add(self, other);
    }

    fn since(&self, earlier: &Self) -> Option<Self> {
        (!self.is_reset(earlier)).then(|| Self::since(self, earlier))
    }

    fn is_reset(&self, earlier: &Self) -> bool {
        let mut pairs = earlier.buckets().iter().zip(self.buckets());
        pairs.any(|(old, new)| new < old) || self.sum_ns() < earlier.sum_ns()
    }

    fn hold(&mut self, earlier: &Self) {
        if self.is_reset(earlier) {
            *self = earlier.clone();
        }
    }
}

impl<T: Counted, const N: usize> Counted for [T; N] {
    fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.iter_mut().zip(other) {
            mine.add(theirs);
        }
    }

    fn since(&self, earlier: &Self) -> Option<Self> {
        let mut added = self.clone();
        for (now, then) in added.iter_mut().zip(earlier) {
            *now = now.since(then)?;
        }
        Some(added)
    }

    fn is_reset(&self, earlier: &Self) -> bool {
        self.iter()
            .zip(earlier)
            .any(|(now, then)| now.is_reset(then))
    }

    fn hold(&mut self, earlier: &Self) {
        for (now, then) in self.iter_mut().zip(earlier) {
            now.hold(then);
        }
    }
}

/// Of two subjects that were measured both times, one that went backwards is `None` alone.
impl<T: Counted> Counted for Option<T> {
    fn add(&mut self, other: &Self) {
        match (self, other) {
            (Some(mine), Some(theirs)) => mine.add(theirs),
            (mine @ None, Some(theirs)) => *mine = Some(theirs.clone()),
            (_, None) => {}
        }
    }

    fn since(&self, earlier: &Self) -> Option<Self> {
        let both = self.as_ref().zip(earlier.as_ref());
        Some(both.and_then(|(now, then)| now.since(then)))
    }

    fn is_reset(&self, earlier: &Self) -> bool {
        let both = self.as_ref().zip(earlier.as_ref());
        both.is_some_and(|(now, then)| now.is_reset(then))
    }

    fn hold(&mut self, earlier: &Self) {
        match (self, earlier) {
            (Some(now), Some(then)) => now.hold(then),
            (now @ None, Some(then)) => *now = Some(then.clone()),
            (_, None) => {}
        }
    }
}

/// Declares a struct of [`Counted`] fields, which is one itself.
macro_rules! counters {
    ($(#[$meta:meta])* pub struct $name:ident {
        $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl $crate::snapshot::Counted for $name {
            fn add(&mut self, other: &Self) {
                $($crate::snapshot::Counted::add(&mut self.$field, &other.$field);)*
            }

            fn since(&self, earlier: &Self) -> Option<Self> {
                Some(Self {
                    $($field: $crate::snapshot::Counted::since(&self.$field, &earlier.$field)?,)*
                })
            }

            fn is_reset(&self, earlier: &Self) -> bool {
                false $(|| $crate::snapshot::Counted::is_reset(&self.$field, &earlier.$field))*
            }

            fn hold(&mut self, earlier: &Self) {
                $($crate::snapshot::Counted::hold(&mut self.$field, &earlier.$field);)*
            }
        }
    };
}
