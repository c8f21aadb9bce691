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
