//! What a profile measures and how finely it is told apart.

use crate::choice::Choice;

/// What a profile measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ProfileType {
    /// Samples of what runs.
    #[default]
    Cpu,
}

impl Choice for ProfileType {
    const ALL: &'static [Self] = &[Self::Cpu];

    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Cpu => "Samples of what runs",
        }
    }
}

impl ProfileType {
    /// What is measured, in words.
    #[must_use]
    pub fn measure(self) -> &'static str {
        match self {
            Self::Cpu => "on-CPU",
        }
    }

    /// What is counted.
    #[must_use]
    pub fn count_name(self) -> &'static str {
        match self {
            Self::Cpu => "samples",
        }
    }

    /// Whether what is counted is drawn, and not how long it took.
    #[must_use]
    pub fn draws_counts(self) -> bool {
        match self {
            Self::Cpu => true,
        }
    }
}

/// How finely the stacks of a container are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Split {
    /// By the name of the process: those of one name together.
    #[default]
    Name,
    /// By process.
    Process,
    /// By process and thread.
    Thread,
}

impl Choice for Split {
    const ALL: &'static [Self] = &[Self::Name, Self::Process, Self::Thread];

    fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Process => "process",
            Self::Thread => "thread",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Name => "By the name of the process: those of one name together",
            Self::Process => "By process",
            Self::Thread => "By process and thread",
        }
    }
}
