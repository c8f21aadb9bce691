//! What a profile measures and how finely it is told apart.

/// What a profile measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum ProfileType {
    /// Samples of what runs.
    #[default]
    Cpu,
}

impl ProfileType {
    /// Its name, as it is asked for.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
        }
    }

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Split {
    /// By the name of the process: those of one name together.
    #[default]
    Name,
    /// By process.
    Process,
    /// By process and thread.
    Thread,
}

impl Split {
    /// Its name, as it is asked for.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Process => "process",
            Self::Thread => "thread",
        }
    }
}
