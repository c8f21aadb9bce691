//! Functions with mangled names.

use std::hint::black_box;

use serde_json::json;

use super::{
    ThreadOptions, Worker,
    cpu::workers,
    hot::{Lengths, thread_cpu_ns},
};

/// The C++ function as a reader expects to see it.
pub const CPP_FUNCTION: &str = "shop::Cart::total(int)";
/// The Rust function as a reader expects to see it.
pub const RUST_FUNCTION: &str = "ctrscope_tests::workload::mangled::rust_function";

fn spin(seed: u64, rounds: u64, multiplier: u64) -> u64 {
    (0..rounds).fold(seed | 1, |value, round| {
        black_box(value.wrapping_mul(multiplier).rotate_left(13) ^ round)
    })
}

// What a C++ compiler makes of `int shop::Cart::total(int)`.
/// Computes for a while.
// SAFETY: no other symbol of this program has the name.
#[inline(never)]
#[unsafe(export_name = "_ZN4shop4Cart5totalEi")]
extern "C" fn cpp_function(seed: u64, rounds: u64) -> u64 {
    spin(seed, rounds, 0x9E37_79B9_7F4A_7C15)
}

#[inline(never)]
fn rust_function(seed: u64, rounds: u64) -> u64 {
    spin(seed, rounds, 0xC2B2_AE3D_27D4_EB4F)
}

/// Calls the one that has had less CPU time.
pub(crate) fn mangled(options: &ThreadOptions) -> Vec<Worker> {
    workers(options, || {
        Box::new(|until| {
            let (mut seed, mut cpp_ns, mut rust_ns) = (0, 0, 0);
            let mut lengths = Lengths::default();
            while !until.is_over() {
                let rounds = lengths.next();
                let start = thread_cpu_ns();
                let spent = if cpp_ns <= rust_ns {
                    seed = black_box(cpp_function(seed, rounds));
                    &mut cpp_ns
                } else {
                    seed = black_box(rust_function(seed, rounds));
                    &mut rust_ns
                };
                *spent += thread_cpu_ns().saturating_sub(start);
            }
            Ok(json!({ "cpp_ns": cpp_ns, "rust_ns": rust_ns }))
        })
    })
}
