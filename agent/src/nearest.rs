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
            let distance = edit_distance(&query, &lower);
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

/// Letters to insert, remove, replace or swap with their neighbour to turn one text into the other.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut previous_a = None;
    for (row, letter_a) in a.chars().enumerate() {
        let mut current = Vec::with_capacity(b.len() + 1);
        current.push(row + 1);
        for (column, &letter_b) in b.iter().enumerate() {
            let replaced = last[column] + usize::from(letter_a != letter_b);
            let mut best = replaced.min(last[column + 1] + 1).min(current[column] + 1);
            if column > 0 && previous_a == Some(letter_b) && b[column - 1] == letter_a {
                best = best.min(before_last[column - 1] + 1);
            }
            current.push(best);
        }
        before_last = std::mem::replace(&mut last, current);
        previous_a = Some(letter_a);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_counts_once() {
        assert_eq!(edit_distance("checkout", "chekcout"), 1);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }

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
