//! Settings of the injected containers that annotations may override: chart < namespace < pod.
//! A value that cannot be used is ignored with a warning.

use std::fmt;
use std::str::FromStr;

use crate::gate::GateTimeout;
use crate::quantity::Quantity;
use crate::warm_up::WarmUp;
use crate::warnings::Warnings;

/// What begins every annotation of ours.
pub(crate) const PREFIX: &str = "aadpodidentity.k8s.io/";

/// The settings of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Of each injected container.
    pub resources: Resources,
    /// Of nmi-sidecar.
    pub log_level: LogLevel,
    /// How long nmi-sidecar holds the application back.
    pub gate_timeout: GateTimeout,
    /// The tokens that it gets before.
    pub warm_up: WarmUp,
}

/// Requests and limits of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// CPU request.
    pub cpu_request: Quantity,
    /// Memory request.
    pub memory_request: Quantity,
    /// CPU limit; not below the request.
    pub cpu_limit: Quantity,
    /// Memory limit; not below the request.
    pub memory_limit: Quantity,
}

/// How much nmi-sidecar logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Errors.
    Error,
    /// And what may become one.
    Warn,
    /// And changes of state.
    Info,
    /// And every request.
    Debug,
}

/// It is not one of the levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one of error, warn, info, debug")]
pub struct NotALogLevel;

type Apply = fn(&mut Settings, &str) -> Result<(), String>;

const OVERRIDES: [(&str, Apply); 6] = [
    ("sidecar-cpu-request", |s, v| set(&mut s.resources.cpu_request, Quantity::cpu(v))),
    ("sidecar-memory-request", |s, v| set(&mut s.resources.memory_request, Quantity::memory(v))),
    ("sidecar-cpu-limit", |s, v| set(&mut s.resources.cpu_limit, Quantity::cpu(v))),
    ("sidecar-memory-limit", |s, v| set(&mut s.resources.memory_limit, Quantity::memory(v))),
    ("log-level", |s, v| set(&mut s.log_level, named(v, v.parse::<LogLevel>()))),
    ("gate-timeout", |s, v| set(&mut s.gate_timeout, named(v, v.parse::<GateTimeout>()))),
];

// === impl Settings ===

impl Settings {
    /// Applies what one object's annotations say; `whose` names it in warnings.
    pub(crate) fn apply<'a>(
        &mut self,
        whose: &str,
        annotation: impl Fn(&str) -> Option<&'a str>,
        warnings: &mut Warnings,
    ) {
        for (name, apply) in OVERRIDES {
            let Some(value) = annotation(&format!("{PREFIX}{name}")) else { continue };
            if let Err(reason) = apply(self, value) {
                warnings.push(format!("{whose} annotation {PREFIX}{name} ignored: {reason}"));
            }
        }
    }

    /// Raises a limit that is below its request, as layers may leave them: the API server would
    /// refuse the pod.
    pub(crate) fn raise_limits(&mut self, warnings: &mut Warnings) {
        let Resources { cpu_request, memory_request, cpu_limit, memory_limit } =
            &mut self.resources;
        for (what, request, limit) in
            [("cpu", cpu_request, cpu_limit), ("memory", memory_request, memory_limit)]
        {
            if *request > *limit {
                warnings.push(format!(
                    "{PREFIX}sidecar-{what}-limit raised from {limit} to the request, {request}"
                ));
                *limit = request.clone();
            }
        }
    }
}

/// Whether this is the name of an override, without the prefix.
pub(crate) fn is_override(name: &str) -> bool {
    OVERRIDES.iter().any(|(known, _)| *known == name)
}

fn set<T, E: fmt::Display>(target: &mut T, value: Result<T, E>) -> Result<(), String> {
    *target = value.map_err(|error| error.to_string())?;
    Ok(())
}

fn named<T, E: fmt::Display>(value: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| format!("{value:?} is {error}"))
}

// === impl LogLevel ===

impl LogLevel {
    const ALL: [Self; 4] = [Self::Error, Self::Warn, Self::Info, Self::Debug];

    fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for LogLevel {
    type Err = NotALogLevel;

    fn from_str(text: &str) -> Result<Self, NotALogLevel> {
        Self::ALL.into_iter().find(|level| level.as_str() == text).ok_or(NotALogLevel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> Settings {
        Settings {
            resources: Resources {
                cpu_request: Quantity::cpu("10m").unwrap(),
                memory_request: Quantity::memory("16Mi").unwrap(),
                cpu_limit: Quantity::cpu("500m").unwrap(),
                memory_limit: Quantity::memory("64Mi").unwrap(),
            },
            log_level: LogLevel::Info,
            gate_timeout: GateTimeout::default(),
            warm_up: WarmUp::default(),
        }
    }

    fn apply(settings: &mut Settings, name: &str, value: &str) -> Warnings {
        let mut warnings = Warnings::default();
        let key = format!("{PREFIX}{name}");
        settings.apply("pod", |asked| (asked == key).then_some(value), &mut warnings);
        warnings
    }

    #[test]
    fn every_override_sets_its_own_setting_and_no_other() {
        type Read = fn(&Settings) -> String;
        let cases: [(&str, &str, Read); 6] = [
            ("sidecar-cpu-request", "20m", |s| s.resources.cpu_request.to_string()),
            ("sidecar-memory-request", "32Mi", |s| s.resources.memory_request.to_string()),
            ("sidecar-cpu-limit", "1", |s| s.resources.cpu_limit.to_string()),
            ("sidecar-memory-limit", "128Mi", |s| s.resources.memory_limit.to_string()),
            ("log-level", "debug", |s| s.log_level.to_string()),
            ("gate-timeout", "5s", |s| s.gate_timeout.to_string()),
        ];
        for (name, value, _) in &cases {
            let mut settings = defaults();
            assert!(apply(&mut settings, name, value).as_slice().is_empty(), "{name}");
            for (other, _, read) in &cases {
                let expected = if other == name { (*value).to_owned() } else { read(&defaults()) };
                assert_eq!(read(&settings), expected, "{name} changed {other}");
            }
        }
    }

    #[test]
    fn what_cannot_be_used_is_ignored_with_a_warning_that_names_it() {
        for (name, value) in [
            ("sidecar-cpu-request", "-1"),
            ("sidecar-memory-limit", "100m"),
            ("log-level", "INFO"),
            ("log-level", ""),
            ("gate-timeout", "60"),
            ("gate-timeout", "1h"),
        ] {
            let mut settings = defaults();
            let warnings = apply(&mut settings, name, value);
            assert_eq!(settings, defaults(), "{name}={value}");
            assert!(warnings.as_slice()[0].contains(name), "{warnings:?}");
        }
    }

    #[test]
    fn a_request_above_the_limit_raises_it_and_says_so() {
        let mut settings = defaults();
        apply(&mut settings, "sidecar-memory-request", "96Mi");
        let mut warnings = Warnings::default();
        settings.raise_limits(&mut warnings);
        assert_eq!(settings.resources.memory_limit.as_str(), "96Mi");
        assert_eq!(settings.resources.cpu_limit.as_str(), "500m");
        assert_eq!(warnings.as_slice().len(), 1);
    }
}
