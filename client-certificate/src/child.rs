//! Takes PKCS#12 files apart in a process of its own.
//!
//! The author of a file decides how much memory and time it takes, up to a gigabyte and minutes,
//! and whoever may write a Secret is an author. The child has narrow limits; what happens to it does
//! not happen to the program that asks.

use std::io::{self, Read, Write};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::assertion::Certificate;
use crate::pkcs12::{UnpackError, Unpacked, unpack};

/// Runs children, one at a time.
#[derive(Debug)]
pub struct Unpacker {
    place: Semaphore,
    way: Way,
}

#[derive(Clone, Copy, Debug)]
enum Way {
    /// By this program with these arguments.
    Child(&'static str, &'static [&'static str]),
    /// In this process.
    #[cfg(any(test, feature = "testing"))]
    Here,
}

/// The first argument that makes this program the child.
const COMMAND: &str = "unpack-certificate";

const MAX_FILE_BYTES: usize = 64 * 1024;
const MAX_ANSWER_BYTES: u64 = 2 * MAX_FILE_BYTES as u64;

/// A file of usual strength needs 5 MB and 50 ms.
const MEMORY_BYTES: u64 = 96 * 1024 * 1024;
const CPU_SECONDS: u64 = 2;

/// Other work may keep the child from its processor.
const TIMEOUT: Duration = Duration::from_secs(10);

/// For the others' files.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

// === impl Unpacker ===

impl Unpacker {
    /// Takes files apart in children of this program.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it is a way to start processes")]
    pub fn new() -> Self {
        Self { place: Semaphore::new(1), way: Way::Child("/proc/self/exe", &[COMMAND]) }
    }

    /// Takes files apart in this process: that of a test cannot be the child.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn here() -> Self {
        Self { way: Way::Here, ..Self::new() }
    }

    /// The key and certificates of a file, when it is this file's turn.
    ///
    /// # Errors
    /// If it holds no key that Entra takes, no certificate of it, or costs too much.
    pub async fn unpack(&self, file: &[u8], password: &str) -> Result<Certificate, UnpackError> {
        if file.len() > MAX_FILE_BYTES || password.len() > MAX_FILE_BYTES {
            return Err(UnpackError::TooLarge);
        }
        let unpacked = match self.way {
            Way::Child(program, arguments) => {
                // The semaphore is never closed.
                let _place = timeout(TURN_TIMEOUT, self.place.acquire())
                    .await
                    .map_err(|_| UnpackError::NotTried)?;
                let question = encode(&[password.as_bytes(), file]);
                let answer = timeout(TIMEOUT, ask(program, arguments, &question)).await;
                answer.map_err(|_| UnpackError::TooExpensive)?.map_err(|error| {
                    tracing::warn!(%error, "Certificate cannot be unpacked");
                    UnpackError::NotTried
                })??
            }
            #[cfg(any(test, feature = "testing"))]
            Way::Here => unpack(file, password)?,
        };
        Certificate::new(unpacked)
    }
}

async fn ask(
    program: &str,
    arguments: &[&str],
    question: &[u8],
) -> io::Result<Result<Unpacked, UnpackError>> {
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::Error::other("no pipes"));
    };
    // It reads everything before it writes anything. If it ended already, its status tells more.
    drop(stdin.write_all(question).await);
    drop(stdin);
    let mut answer = Vec::new();
    stdout.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
    let status = child.wait().await?;
    Ok(match status.code() {
        Some(0) => decode(&answer).and_then(unpacked).ok_or(UnpackError::Unreadable),
        Some(code) => Err(error_of(code)),
        None => Err(UnpackError::TooExpensive),
    })
}

fn unpacked(parts: Vec<Vec<u8>>) -> Option<Unpacked> {
    let mut parts = parts.into_iter();
    let key = parts.next()?;
    Some(Unpacked { key, chain: parts.collect() })
}

/// What the program does if it was started as the child: reads the question from standard input
/// and writes the answer to standard output.
pub fn unpack_for_parent() -> Option<ExitCode> {
    std::env::args_os().nth(1).filter(|argument| argument == COMMAND)?;
    let code = match answer_parent() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(code_of(error)),
    };
    Some(code)
}

fn answer_parent() -> Result<(), UnpackError> {
    let limit = |resource, most| {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, limit).map_err(|_| UnpackError::TooExpensive)
    };
    limit(Resource::Core, 0)?;
    limit(Resource::As, MEMORY_BYTES)?;
    limit(Resource::Cpu, CPU_SECONDS)?;
    let mut question = Vec::new();
    io::stdin().lock().read_to_end(&mut question).map_err(|_| UnpackError::TooExpensive)?;
    let parts = decode(&question).ok_or(UnpackError::Unreadable)?;
    let [password, file] = parts.as_slice() else { return Err(UnpackError::Unreadable) };
    let password = std::str::from_utf8(password).map_err(|_| UnpackError::Unreadable)?;
    let unpacked = unpack(file, password)?;
    let parts: Vec<&[u8]> =
        std::iter::once(&unpacked.key).chain(&unpacked.chain).map(Vec::as_slice).collect();
    io::stdout().lock().write_all(&encode(&parts)).map_err(|_| UnpackError::Unreadable)
}

/// Each part after its length.
fn encode(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend((part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

fn decode(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<8>()?;
        let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
        let (part, rest) = rest.split_at_checked(length)?;
        parts.push(part.to_vec());
        bytes = rest;
    }
    Some(parts)
}

/// Codes that neither a panic nor an allocator ends a process with.
const CODES: [(UnpackError, u8); 4] = [
    (UnpackError::Unreadable, 40),
    (UnpackError::NotOneKey, 41),
    (UnpackError::NoCertificate, 42),
    (UnpackError::KeyType, 43),
];

fn code_of(error: UnpackError) -> u8 {
    CODES.iter().find(|(known, _)| *known == error).map_or(1, |(_, code)| *code)
}

fn error_of(code: i32) -> UnpackError {
    let known = CODES.iter().find(|(_, known)| i32::from(*known) == code);
    known.map_or(UnpackError::TooExpensive, |(error, _)| *error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_as_they_were_sent() {
        let parts: [&[u8]; 3] = [b"", b"password", b"\0file"];
        assert_eq!(decode(&encode(&parts)).unwrap(), parts);
        for cut in [1, 7, 12, 30] {
            let bytes = encode(&parts);
            assert_eq!(decode(&bytes[..bytes.len() - cut]).map(|parts| parts.len()), None, "{cut}");
        }
        assert_eq!(decode(&u64::MAX.to_be_bytes()), None);
    }

    #[test]
    fn codes_name_their_errors_and_everything_else_is_an_excess() {
        for (error, code) in CODES {
            assert_eq!((code_of(error), error_of(code.into())), (code, error));
        }
        for code in [1, 101, 134] {
            assert_eq!(error_of(code), UnpackError::TooExpensive);
        }
    }

    #[tokio::test]
    async fn however_a_child_ends_the_parent_goes_on() {
        let cases: [(&'static [&'static str], UnpackError); 6] = [
            (&["-c", "exit 41"], UnpackError::NotOneKey),
            (&["-c", "read -r line; exit 42"], UnpackError::NoCertificate),
            (&["-c", "kill -9 $$"], UnpackError::TooExpensive),
            (&["-c", "exit 1"], UnpackError::TooExpensive),
            (&["-c", "echo nonsense"], UnpackError::Unreadable),
            (&["-c", ""], UnpackError::Unreadable),
        ];
        for (arguments, expected) in cases {
            let unpacker = Unpacker { way: Way::Child("/bin/sh", arguments), ..Unpacker::new() };
            let error = unpacker.unpack(&[b'\n'; MAX_FILE_BYTES], "").await.err();
            assert_eq!(error, Some(expected), "{arguments:?}");
        }
        let unpacker = Unpacker { way: Way::Child("/nonexistent", &[]), ..Unpacker::new() };
        assert_eq!(unpacker.unpack(b"x", "").await.err(), Some(UnpackError::NotTried));
    }

    #[tokio::test]
    async fn what_is_larger_than_any_certificate_is_not_looked_at() {
        let file = vec![0; MAX_FILE_BYTES + 1];
        let error = Unpacker::here().unpack(&file, "").await.err();
        assert_eq!(error, Some(UnpackError::TooLarge));
    }
}
