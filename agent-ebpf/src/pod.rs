//! The one way to declare a type that crosses between kernel and user space.

/// Plain old data: any bit pattern of the right size is a value, and no byte of it is padding.
///
/// # Safety
///
/// The type is `repr(C)` or primitive, has no padding, and accepts every bit pattern. Only
/// [`shared!`](crate) implements it for structs, after having checked each of these.
pub unsafe trait Pod: Copy + 'static {}

// SAFETY: integers have no padding and no invalid bit pattern.
unsafe impl Pod for u8 {}
// SAFETY: as above.
unsafe impl Pod for u32 {}
// SAFETY: as above.
unsafe impl Pod for u64 {}
// SAFETY: an array of such values has no padding between its elements.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {}

/// A number, or a struct of such, that wraps: what one counter counted, or several of them summed.
pub trait Wrapping: Copy {
    /// Adds, modulo the width.
    fn wrapping_plus(&mut self, other: &Self);

    /// Subtracts, modulo the width: what was counted since `earlier`, if that was less than the width.
    fn wrapping_minus(&mut self, earlier: &Self);
}

macro_rules! wrapping_integers {
    ($($type:ty)*) => {$(
        impl Wrapping for $type {
            fn wrapping_plus(&mut self, other: &Self) {
                *self = self.wrapping_add(*other);
            }

            fn wrapping_minus(&mut self, earlier: &Self) {
                *self = self.wrapping_sub(*earlier);
            }
        }
    )*};
}

wrapping_integers!(u32 u64);

impl<T: Wrapping, const N: usize> Wrapping for [T; N] {
    fn wrapping_plus(&mut self, other: &Self) {
        for (mine, theirs) in self.iter_mut().zip(other) {
            mine.wrapping_plus(theirs);
        }
    }

    fn wrapping_minus(&mut self, earlier: &Self) {
        for (mine, theirs) in self.iter_mut().zip(earlier) {
            mine.wrapping_minus(theirs);
        }
    }
}

/// Declares a struct of counters that is [`shared!`](crate): each of its fields counts up and wraps.
macro_rules! shared_counters {
    ($(#[$meta:meta])* pub struct $name:ident [$size:expr] {
        $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)*
    }) => {
        shared! {
            $(#[$meta])*
            #[derive(PartialEq, Eq)]
            pub struct $name [$size] {
                $($(#[$field_meta])* pub $field: $type,)*
            }
        }

        impl $crate::Wrapping for $name {
            fn wrapping_plus(&mut self, other: &Self) {
                $($crate::Wrapping::wrapping_plus(&mut self.$field, &other.$field);)*
            }

            fn wrapping_minus(&mut self, earlier: &Self) {
                $($crate::Wrapping::wrapping_minus(&mut self.$field, &earlier.$field);)*
            }
        }
    };
}

/// Declares a struct shared by both sides: `repr(C)`, `Copy`, of [`Pod`] fields only, with its size
/// asserted against the sum of its fields, so that padding which nobody zeroed cannot exist.
macro_rules! shared {
    ($(#[$meta:meta])* pub struct $name:ident [$size:expr] {
        $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)*
    }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl $name {
            /// The value with every byte zero.
            pub const ZERO: Self = {
                const fn is_pod<T: $crate::Pod>() {}
                $(is_pod::<$type>();)*
                assert!(core::mem::size_of::<Self>() == $size, "size is not the one declared");
                assert!(
                    core::mem::size_of::<Self>() == 0 $(+ core::mem::size_of::<$type>())*,
                    "struct has implicit padding"
                );
                // SAFETY: all fields are `Pod`, for which zero is a value.
                unsafe { core::mem::zeroed() }
            };
        }

        const _: $name = $name::ZERO;

        // SAFETY: `repr(C)`, all fields `Pod`, no padding: asserted above.
        unsafe impl $crate::Pod for $name {}
    };
}
