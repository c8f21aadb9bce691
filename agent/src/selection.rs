//! Which containers have numbers of their own: patterns on who they are.

use std::{collections::BTreeMap, fmt, str::FromStr};

use crate::snapshot::Identity;

/// Longest pattern, bytes.
const MAX_BYTES: usize = 256;
/// Most patterns of a list.
pub const MAX_PATTERNS: usize = 64;

/// What a pattern is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    Namespace,
    Pod,
    Container,
    Image,
    Label(String),
    Annotation(String),
}

/// Who a container is, as far as patterns ask.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its names.
    pub identity: &'a Identity,
    /// Its labels; empty where no runtime has told them.
    pub labels: &'a BTreeMap<String, String>,
    /// Its annotations, likewise.
    pub annotations: &'a BTreeMap<String, String>,
}

/// A pattern such as `namespace=kube-*`: a field and a glob, in which `*` stands for any text, the empty
/// one too, and `?` for one character. It must fit the whole of the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    field: Field,
    glob: String,
}

impl FromStr for Pattern {
    type Err = String;

    /// Reads `namespace=GLOB`, `pod=GLOB`, `container=GLOB`, `image=GLOB`, `label.KEY=GLOB` or
    /// `annotation.KEY=GLOB`.
    fn from_str(text: &str) -> Result<Self, String> {
        let error = || {
            format!(
                "must be namespace=GLOB, pod=GLOB, container=GLOB, image=GLOB, label.KEY=GLOB or \
                 annotation.KEY=GLOB of at most {MAX_BYTES} bytes, not {text:?}"
            )
        };
        if text.len() > MAX_BYTES {
            return Err(error());
        }
        let (field, glob) = text.split_once('=').ok_or_else(error)?;
        let field = match field {
            "namespace" => Field::Namespace,
            "pod" => Field::Pod,
            "container" => Field::Container,
            "image" => Field::Image,
            other => match other.split_once('.') {
                Some(("label", key)) if !key.is_empty() => Field::Label(key.to_owned()),
                Some(("annotation", key)) if !key.is_empty() => Field::Annotation(key.to_owned()),
                _ => return Err(error()),
            },
        };
        Ok(Self {
            field,
            glob: glob.to_owned(),
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, glob } = self;
        match field {
            Field::Namespace => write!(f, "namespace={glob}"),
            Field::Pod => write!(f, "pod={glob}"),
            Field::Container => write!(f, "container={glob}"),
            Field::Image => write!(f, "image={glob}"),
            Field::Label(key) => write!(f, "label.{key}={glob}"),
            Field::Annotation(key) => write!(f, "annotation.{key}={glob}"),
        }
    }
}

impl Pattern {
    fn fits(&self, subject: Subject<'_>) -> bool {
        let identity = subject.identity;
        let value = match &self.field {
            Field::Namespace => Some(&identity.namespace),
            Field::Pod => Some(&identity.pod),
            Field::Container => Some(&identity.container),
            Field::Image => Some(&identity.image),
            Field::Label(key) => subject.labels.get(key),
            Field::Annotation(key) => subject.annotations.get(key),
        };
        value.is_some_and(|value| glob_fits(&self.glob, value))
    }
}

/// Which containers have numbers of their own; the others are summed in `_other`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// What is in; empty for all.
    pub include: Vec<Pattern>,
    /// What is out, whatever includes it.
    pub exclude: Vec<Pattern>,
}

impl Selection {
    /// Whether everything is in.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// Whether a container is in. One without labels fits no pattern of a label.
    #[must_use]
    pub fn admits(&self, subject: Subject<'_>) -> bool {
        let fits = |pattern: &Pattern| pattern.fits(subject);
        !self.exclude.iter().any(fits) && (self.include.is_empty() || self.include.iter().any(fits))
    }
}

/// Whether a glob fits a whole text. At a mismatch the last `*` takes one character more, so the time is
/// at most the product of the lengths.
fn glob_fits(glob: &str, text: &str) -> bool {
    let (mut glob, mut text) = (glob.chars(), text.chars());
    let mut star = None;
    loop {
        let (rest_of_glob, rest_of_text) = (glob.clone(), text.clone());
        match (glob.next(), text.next()) {
            (None, None) => return true,
            (Some('*'), _) => {
                // The star itself takes nothing yet.
                text = rest_of_text;
                star = Some((glob.clone(), text.clone()));
                continue;
            }
            (Some('?'), Some(_)) => continue,
            (Some(one), Some(other)) if one == other => continue,
            _ => drop(rest_of_glob),
        }
        let Some((after, from)) = &mut star else {
            return false;
        };
        if from.next().is_none() {
            return false;
        }
        glob = after.clone();
        text = from.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_fits_the_whole_text() {
        for (glob, text, fits) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "anything", true),
            ("web", "web", true),
            ("web", "webs", false),
            ("we?", "web", true),
            ("we?", "we", false),
            ("kube-*", "kube-system", true),
            ("kube-*", "my-kube-system", false),
            ("*-*-x", "a-b-c-x", true),
            ("*-*-x", "a-x", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("?*", "", false),
            ("*é", "café", true),
        ] {
            assert_eq!(glob_fits(glob, text), fits, "{glob} {text}");
        }
    }

    #[test]
    fn a_glob_of_many_stars_ends_soon() {
        assert!(!glob_fits(
            &"*a".repeat(128),
            &"a".repeat(4_096).replace("aaaa", "aaab")
        ));
    }

    #[test]
    fn a_pattern_is_written_as_it_is_read() {
        for text in [
            "namespace=kube-*",
            "pod=",
            "container=a=b",
            "image=*/nginx:*",
            "label.app.kubernetes.io/name=web",
            "annotation.prometheus.io/scrape=false",
        ] {
            let pattern: Pattern = text.parse().expect(text);
            assert_eq!(pattern.to_string(), text);
        }
        for text in [
            "",
            "web",
            "name=web",
            "label.=x",
            "label=x",
            "annotation.=x",
            "labels.a=x",
            &"x".repeat(257),
        ] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_exclude_beats_an_include_and_no_include_is_all() {
        let patterns = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let identity = Identity {
            namespace: "prod".into(),
            container: "web".into(),
            ..Identity::default()
        };
        let labels = BTreeMap::from([("tier".to_owned(), "front".to_owned())]);
        let annotations = BTreeMap::from([("scrape".to_owned(), "false".to_owned())]);
        let subject = Subject {
            identity: &identity,
            labels: &labels,
            annotations: &annotations,
        };
        let admits = |include: &[&str], exclude: &[&str]| {
            let selection = Selection {
                include: patterns(include),
                exclude: patterns(exclude),
            };
            selection.admits(subject)
        };
        assert!(admits(&[], &[]));
        assert!(admits(&[], &["namespace=test"]));
        assert!(!admits(&[], &["label.tier=front"]));
        assert!(admits(&[], &["label.missing=*"]));
        assert!(!admits(&[], &["annotation.scrape=false"]));
        assert!(admits(&[], &["annotation.tier=*", "label.scrape=*"]));
        assert!(admits(&["namespace=test", "namespace=prod"], &[]));
        assert!(!admits(&["namespace=test"], &[]));
        assert!(!admits(&["namespace=prod"], &["container=w*"]));
    }
}
