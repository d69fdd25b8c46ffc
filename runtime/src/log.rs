//! Structured logs on standard error, and panics among them.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// How a process logs.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// What to log: a level, or directives such as `info,kube=debug`.
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,

    /// How to print it.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
}

/// The forms of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// The filter directives cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("--log-level {directives:?} is neither a level nor a list of directives")]
pub struct LogError {
    directives: String,
    #[source]
    source: tracing_subscriber::filter::ParseError,
}

impl LogArgs {
    /// Starts logging; once a process.
    pub fn init(&self) -> Result<(), LogError> {
        let filter = EnvFilter::try_new(&self.log_level)
            .map_err(|source| LogError { directives: self.log_level.clone(), source })?;
        let builder =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        // A second call, as tests make, keeps the first subscriber.
        match self.log_format {
            LogFormat::Json => drop(builder.json().flatten_event(true).try_init()),
            LogFormat::Text => drop(builder.with_ansi(false).try_init()),
        }
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            tracing::error!(location = ?panic.location(), "Panicked");
            print(panic);
        }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_level_is_an_error_that_shows_it() {
        let args = LogArgs { log_level: "info,=x=".to_owned(), log_format: LogFormat::Json };
        assert!(args.init().unwrap_err().to_string().contains("info,=x="));
    }
}
