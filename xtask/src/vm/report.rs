//! `docs/kernels.md`: the matrix and its results.

use std::fmt::Write as _;

use anyhow::Result;

use super::Row;
use crate::{document, step};

/// Writes the document; anew after each boot, so that an interruption leaves what was seen.
///
/// # Errors
///
/// It cannot be written.
pub(crate) fn write(rows: &[Row], cells: usize, commit: Option<&str>) -> Result<()> {
    let path = step::repository().join("docs/kernels.md");
    document::write(&path, &render(rows, cells, commit)?)?;
    if rows.len() == cells {
        println!("wrote {}", path.display());
    }
    Ok(())
}

fn render(rows: &[Row], cells: usize, commit: Option<&str>) -> Result<String> {
    let mut text = String::from(
        "# Kernels\n\n\
         Written by `cargo xtask vm --all`. One static binary, the same for all; Debian's kernels, each \
         booted with two emulated CPUs (qemu, no hardware virtualization); the end-to-end tests of \
         the kernel side on real containers (runc) inside. Tolerances against the kernel's own \
         accounts are twice those of a native run.\n\n\
         RSS is the agent's after its first scrape on the idle machine; maps are `bytes_memlock` of \
         `bpftool map show`, summed.\n\n\
         | kernel | cgroups | passed | failed | skipped | RSS | peak | maps | time |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    if let Some(commit) = commit {
        text = text.replacen(". One static", &format!(", at {commit}. One static"), 1);
    }
    let mib = |bytes: Option<u64>| {
        bytes.map_or_else(
            || "?".to_owned(),
            |bytes| format!("{:.1} MiB", bytes as f64 / 1048576.0),
        )
    };
    for row in rows {
        let outcome = &row.outcome;
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {:.0} s |",
            row.release,
            row.cgroups(),
            outcome.passed.len(),
            outcome.failed.len(),
            outcome.skipped.len(),
            mib(outcome.rss_kib.map(|kib| kib * 1024)),
            mib(outcome.peak_kib.map(|kib| kib * 1024)),
            mib(outcome.maps_bytes),
            outcome.seconds,
        )?;
    }
    let mut notes = String::new();
    if rows.len() < cells {
        writeln!(
            notes,
            "- the run ended after {} of {cells} boots",
            rows.len()
        )?;
    }
    for row in rows {
        if let Some(of) = &row.commit
            && commit.is_some_and(|commit| commit != of)
        {
            writeln!(notes, "- {} {}: at {of}", row.release, row.cgroups())?;
        }
        for name in &row.outcome.failed {
            writeln!(
                notes,
                "- {} {}: **failed** {name}",
                row.release,
                row.cgroups()
            )?;
        }
        for name in &row.outcome.early {
            writeln!(
                notes,
                "- {} {}: an earlier boot ended early: {name}",
                row.release,
                row.cgroups()
            )?;
        }
        for (name, reason) in &row.outcome.skipped {
            writeln!(
                notes,
                "- {} {}: {name} skipped: {reason}",
                row.release,
                row.cgroups()
            )?;
        }
        for what in &row.outcome.absent {
            writeln!(
                notes,
                "- {} {}: the kernel has no {what}",
                row.release,
                row.cgroups()
            )?;
        }
    }
    if !notes.is_empty() {
        text.push('\n');
        text.push_str(&notes);
    }
    Ok(text)
}
