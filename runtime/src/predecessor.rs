//! The command line of a program that this one succeeds: what still means something may be spelled
//! as it was there, what does not is refused with a sentence that says what replaces it.

use std::ffi::{OsStr, OsString};

/// What a predecessor took and its successor does not.
#[derive(Clone, Copy, Debug)]
pub struct Predecessor {
    /// Its name.
    pub name: &'static str,
    /// Flags without their dashes, and what to do instead.
    pub flags: &'static [(&'static str, &'static str)],
    /// Environment variables, and what to do instead.
    pub variables: &'static [(&'static str, &'static str)],
}

/// Something that is no more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} of {predecessor} does not exist here: {instead}")]
pub struct Gone {
    what: String,
    predecessor: &'static str,
    instead: &'static str,
}

// === impl Predecessor ===

impl Predecessor {
    /// Looks for what is no more; `is_set` tells whether an environment variable is.
    pub fn refuse(
        &self,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        is_set: impl Fn(&str) -> bool,
    ) -> Result<(), Gone> {
        let find = |flag: &str| self.flags.iter().find(|(known, _)| *known == flag);
        let flags = args.into_iter().filter_map(|arg| {
            let text = arg.as_ref().to_str()?;
            let (flag, instead) = find(flag(text)?)?;
            Some((format!("the flag --{flag}"), instead))
        });
        let variables = self.variables.iter().filter(|(name, _)| is_set(name));
        let mut gone = flags.chain(
            variables.map(|(name, instead)| (format!("the environment variable {name}"), instead)),
        );
        match gone.next() {
            None => Ok(()),
            Some((what, instead)) => Err(Gone { what, predecessor: self.name, instead }),
        }
    }
}

/// The arguments with two dashes where a flag that `command` knows has one, as Go allows.
pub fn two_dashes(
    args: impl IntoIterator<Item = OsString>,
    command: &clap::Command,
) -> Vec<OsString> {
    let known = |flag: &str| command.get_arguments().any(|arg| arg.get_long() == Some(flag));
    args.into_iter()
        .map(|arg| match arg.to_str() {
            Some(text) if !text.starts_with("--") && flag(text).is_some_and(known) => {
                OsString::from(format!("-{text}"))
            }
            _ => arg,
        })
        .collect()
}

/// The name of a flag, without dashes and value.
fn flag(arg: &str) -> Option<&str> {
    let flag = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'))?;
    flag.split('=').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Predecessor = Predecessor {
        name: "old",
        flags: &[("qps", "remove it")],
        variables: &[("VM_TYPE", "unset it")],
    };

    #[test]
    fn what_is_no_more_says_what_replaces_it() {
        let refuse = |args: &[&str], set: &str| OLD.refuse(args, |name| name == set);
        for arg in ["--qps=5", "-qps", "--qps"] {
            let error = refuse(&["program", arg], "").unwrap_err().to_string();
            assert_eq!(error, "the flag --qps of old does not exist here: remove it");
        }
        let error = refuse(&[], "VM_TYPE").unwrap_err().to_string();
        assert_eq!(error, "the environment variable VM_TYPE of old does not exist here: unset it");
        assert_eq!(refuse(&["program", "--qpsx", "qps", "--other=--qps"], "OTHER"), Ok(()));
    }

    #[test]
    fn a_flag_that_is_known_may_have_one_dash() {
        let command = clap::Command::new("new").arg(clap::Arg::new("n").long("forceNamespaced"));
        let args = ["new", "-forceNamespaced=true", "--forceNamespaced", "-other", "-v", "x"];
        let spelled = two_dashes(args.map(OsString::from), &command);
        let expected = ["new", "--forceNamespaced=true", "--forceNamespaced", "-other", "-v", "x"];
        assert_eq!(spelled, expected.map(OsString::from));
    }
}
