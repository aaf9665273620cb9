//! How a command fails: one line on standard error and an exit code.

use crate::api::ApiError;

#[derive(Debug)]
pub(super) enum Fault {
    /// The command line makes no sense: exit 2.
    Usage(String),
    /// What was asked could not be done: exit 1.
    Failed(String),
    /// The code of a command that ran elsewhere (`exec`), which has said its own words.
    Exit(u8),
    /// The reader of our output went away (`| head`): nothing to say.
    OutputClosed,
}

impl Fault {
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Fault::Failed(message.into())
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Fault::Usage(message.into())
    }

    pub(super) fn from_output(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Fault::OutputClosed,
            _ => Fault::Failed(format!("cannot write the answer: {error}")),
        }
    }

    /// clap's several lines as one: the error, its tips, where to read on (`command`, as far as it was understood).
    pub(super) fn from_clap(error: &clap::Error, command: &str) -> Self {
        let text = error.render().to_string();
        if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            return Fault::Usage(text.trim_end().to_string());
        }
        let told = text.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
        let words: Vec<&str> = told.map(str::trim).filter(|line| !line.is_empty()).collect();
        let sentence = words.join(" ").replace(" tip: ", "; ");
        let sentence = sentence.strip_prefix("error: ").unwrap_or(&sentence);
        Fault::Usage(format!("mesh: {sentence}; see '{command} --help'"))
    }

    /// What standard error gets, if anything.
    pub(super) fn line(&self) -> Option<String> {
        match self {
            Fault::Usage(line) if line.starts_with("mesh: ") || line.contains('\n') => Some(line.clone()),
            Fault::Usage(line) | Fault::Failed(line) => Some(format!("mesh: {line}")),
            Fault::Exit(_) | Fault::OutputClosed => None,
        }
    }

    pub(super) fn code(&self) -> u8 {
        match self {
            Fault::Usage(_) => 2,
            Fault::Failed(_) => 1,
            Fault::Exit(code) => *code,
            Fault::OutputClosed => 0,
        }
    }
}

impl From<ApiError> for Fault {
    fn from(error: ApiError) -> Self {
        Fault::Failed(error.message)
    }
}
