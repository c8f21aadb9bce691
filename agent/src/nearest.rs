//! Names near a mistyped one, by edit distance.

/// Longest text that is compared; what is longer is no slip of the finger.
const MAX_CHARS: usize = 128;

/// Returns up to `limit` candidates near `query`, the nearest first: those that differ in at most a
/// third of its letters, then those that contain it.
pub(crate) fn nearest<'a>(
    query: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    limit: usize,
) -> Vec<&'a str> {
    let query = query.to_lowercase();
    let length = query.chars().count();
    if length == 0 || length > MAX_CHARS {
        return Vec::new();
    }
    let allowed = (length / 3).max(1);
    let mut near: Vec<(usize, &str)> = candidates
        .into_iter()
        .filter(|candidate| !candidate.is_empty() && candidate.chars().count() <= MAX_CHARS)
        .filter_map(|candidate| {
            let lower = candidate.to_lowercase();
            // Letters to insert, remove, replace or swap with their neighbour.
            let distance = strsim::osa_distance(&query, &lower);
            if distance <= allowed {
                Some((distance, candidate))
            } else if length >= 3 && lower.contains(&query) {
                Some((MAX_CHARS + distance, candidate))
            } else {
                None
            }
        })
        .collect();
    near.sort_unstable();
    near.dedup();
    near.truncate(limit);
    near.into_iter().map(|(_, candidate)| candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_come_first_and_far_ones_not_at_all() {
        let names = ["checkout", "checkin", "postgres", "checkout-worker"];
        assert_eq!(
            nearest("chekout", names, 3),
            ["checkout"],
            "one letter is missing"
        );
        assert_eq!(nearest("check", names, 2), ["checkin", "checkout"]);
        assert!(nearest("", names, 3).is_empty());
        assert!(nearest("zzz", names, 3).is_empty());
    }
}
