//! What a flame graph says of its stacks, and what the stacks themselves say.

use std::collections::BTreeMap;

/// What stands in the second line of a picture.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Quality {
    /// Number of samples.
    pub samples: u64,
    /// Samples that are missing, or have no stack.
    pub lost: u64,
    /// Of the distinct addresses, those that have a name.
    pub named_percent: u64,
    /// Samples by what their stack lacks.
    states: BTreeMap<String, u64>,
    /// Of those that are broken, why.
    cuts: BTreeMap<String, u64>,
}

impl Quality {
    /// Of a picture; `None` where it says nothing.
    #[must_use]
    pub fn of(svg: &str) -> Option<Self> {
        let (_, rest) = svg.split_once("id=\"subtitle\"")?;
        let (_, rest) = rest.split_once('>')?;
        let (line, _) = rest.split_once('<')?;
        let (states, cuts) = line.split_once(" (broken: ").unwrap_or((line, ")"));
        let mut quality = Self::default();
        for part in states.split(", ") {
            let (count, what) = part.split_once(' ')?;
            let count = count.replace(',', "").parse().ok()?;
            match what {
                "samples" => quality.samples = count,
                "lost" => quality.lost = count,
                "% of addresses named" => quality.named_percent = count,
                state => {
                    quality.states.insert(state.to_owned(), count);
                }
            }
        }
        for part in cuts
            .strip_suffix(')')?
            .split(", ")
            .filter(|part| !part.is_empty())
        {
            let (reason, count) = part.rsplit_once(' ')?;
            let count = count.replace(',', "").parse().ok()?;
            quality.cuts.insert(reason.to_owned(), count);
        }
        Some(quality)
    }

    /// Samples whose user stack lacks something.
    #[must_use]
    pub fn incomplete(&self) -> u64 {
        self.states.values().sum()
    }

    /// Samples by what their stack lacks, and why if it is broken.
    #[must_use]
    pub fn lacking(&self) -> BTreeMap<String, u64> {
        let broken = self.cuts.iter();
        let broken = broken.map(|(reason, count)| (format!("broken: {reason}"), *count));
        let others = self.states.iter().filter(|(state, _)| *state != "broken");
        let others = others.map(|(state, count)| (state.clone(), *count));
        broken.chain(others).collect()
    }
}

/// What folded stacks look like. Samples without a user stack are left out.
#[derive(Debug, Default)]
pub struct Shape {
    samples: u64,
    without_user: u64,
    user_frames: u64,
    /// Most user frames of one.
    pub deepest: usize,
    /// Samples by the outermost frame.
    outermost: BTreeMap<String, u64>,
}

/// Frames of a stack; container and process stand before them.
fn frames(stack: &str) -> Vec<&str> {
    stack.split(';').skip(2).collect()
}

/// Whether a stack says that it lacks something of its user part.
#[must_use]
pub fn lacks_something(stack: &str) -> bool {
    let first = frames(stack).first().copied().unwrap_or_default();
    ["[broken stack]", "[truncated]", "[unknown]"].contains(&first)
}

impl Shape {
    /// Of folded stacks.
    #[must_use]
    pub fn of<'a>(stacks: impl Iterator<Item = (&'a str, u64)>) -> Self {
        let mut shape = Self::default();
        for (stack, count) in stacks {
            let frames = frames(stack);
            let user = frames.iter().take_while(|frame| !frame.ends_with("_[k]"));
            let user = user.count();
            shape.samples += count;
            if user == 0 {
                shape.without_user += count;
                continue;
            }
            shape.user_frames += user as u64 * count;
            shape.deepest = shape.deepest.max(user);
            *shape.outermost.entry(frames[0].to_owned()).or_default() += count;
        }
        shape
    }

    /// Part of the samples that has a user stack.
    #[must_use]
    pub fn with_user(&self) -> f64 {
        1.0 - self.without_user as f64 / self.samples.max(1) as f64
    }

    /// Mean number of user frames.
    #[must_use]
    pub fn depth(&self) -> f64 {
        self.user_frames as f64 / (self.samples - self.without_user).max(1) as f64
    }

    /// Outermost frames with their part of the user stacks, the most frequent first; four at most.
    #[must_use]
    pub fn begins(&self) -> Vec<(String, f64)> {
        let all = (self.samples - self.without_user).max(1) as f64;
        let mut begins: Vec<(String, f64)> = self
            .outermost
            .iter()
            .map(|(frame, count)| (frame.clone(), *count as f64 / all))
            .collect();
        begins.sort_by(|a, b| b.1.total_cmp(&a.1));
        begins.truncate(4);
        begins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_line_of_a_picture_is_an_account_of_its_stacks() {
        let svg = "<text id=\"subtitle\" x=\"1\">1,235 samples, 3 lost, 90 % of addresses named, 12 broken, \
                   1 deeper than kept (broken: bad frame 9, unmapped 3)</text>";
        let quality = Quality::of(svg).unwrap();
        assert_eq!((quality.samples, quality.lost), (1235, 3));
        assert_eq!((quality.named_percent, quality.incomplete()), (90, 13));
        let lacking = quality.lacking();
        assert_eq!(lacking["broken: bad frame"], 9);
        assert_eq!(lacking["deeper than kept"], 1);
        assert_eq!(lacking.len(), 3);
        let whole = "<text id=\"subtitle\" >7 samples, 0 lost</text>";
        assert_eq!(Quality::of(whole).unwrap().incomplete(), 0);
        assert_eq!(Quality::of("<svg/>"), None);
    }

    #[test]
    fn the_shape_of_stacks_leaves_out_those_without_a_user_part() {
        let folded = [
            ("c;p;_start;main;f;read_[k]", 3),
            ("c;p;[broken stack];f", 1),
            ("c;p;exit_[k]", 4),
        ];
        let shape = Shape::of(folded.into_iter());
        assert_eq!((shape.with_user(), shape.deepest), (0.5, 3));
        assert_eq!(shape.depth(), 2.75);
        assert_eq!(shape.begins()[0], ("_start".to_owned(), 0.75));
        assert!(lacks_something(folded[1].0) && !lacks_something(folded[2].0));
    }
}
