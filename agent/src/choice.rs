//! A value out of a few words, as a flag or a parameter of a query names it.

/// An enum whose values have names.
pub trait Choice: Copy + Default + PartialEq + Send + Sync + 'static {
    /// All of them, in the order of the help.
    const ALL: &'static [Self];

    /// Its name, as it is asked for.
    fn name(self) -> &'static str;

    /// What it means, for the help: a phrase without a full stop.
    fn about(self) -> &'static str;

    /// The value of a name.
    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|one| one.name() == name)
    }
}
