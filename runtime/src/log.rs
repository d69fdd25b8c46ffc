//! Structured logs on standard error, and panics among them.

use clap::{Args, ValueEnum};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt};

/// Says an error for every attempt to connect; whoever makes the call logs the failure with its
/// circumstances, once.
const NOISY: &str = "kube_client::client::builder";

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
    source: ParseError,
}

impl LogArgs {
    /// Starts logging; once a process.
    pub fn init(&self) -> Result<(), LogError> {
        let targets: Targets = self
            .log_level
            .parse()
            .map_err(|source| LogError { directives: self.log_level.clone(), source })?;
        let targets = if self.log_level.contains(NOISY) {
            targets
        } else {
            targets.with_target(NOISY, LevelFilter::OFF)
        };
        let lines: Box<dyn Layer<Registry> + Send + Sync> = match self.log_format {
            LogFormat::Json => {
                fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed()
            }
            LogFormat::Text => fmt::layer().with_ansi(false).with_writer(std::io::stderr).boxed(),
        };
        // A second call, as tests make, keeps the first subscriber.
        drop(tracing_subscriber::registry().with(lines.with_filter(targets)).try_init());
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
