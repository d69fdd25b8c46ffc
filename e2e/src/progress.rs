//! Tells the person at the terminal what happens: one line a step, and a sign of life during long ones.

use std::future::Future;
use std::time::{Duration, Instant};

const HEARTBEAT: Duration = Duration::from_secs(15);

/// Prints steps with the time since it was made, to standard error.
#[derive(Clone, Debug)]
pub struct Progress {
    start: Instant,
    audience: Audience,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    Terminal,
    Nobody,
}

impl Progress {
    /// Lines go to standard error, so that standard output stays for results.
    #[must_use]
    pub fn to_stderr() -> Self {
        Self { start: Instant::now(), audience: Audience::Terminal }
    }

    /// Says nothing.
    #[must_use]
    pub fn silent() -> Self {
        Self { start: Instant::now(), audience: Audience::Nobody }
    }

    /// One line about something that was done or is about to be done.
    pub fn step(&self, text: impl AsRef<str>) {
        if self.audience == Audience::Terminal {
            eprintln!("[{:6.1} s] {}", self.start.elapsed().as_secs_f32(), text.as_ref());
        }
    }

    /// Time since the progress began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Waits for `work`, and every 15 s says that it is still at it.
    pub async fn watch<T>(&self, label: &str, work: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let mut beat = tokio::time::interval(HEARTBEAT);
        beat.tick().await;
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = beat.tick() => {
                    self.step(format!("still {label}, {} s", begun.elapsed().as_secs()));
                }
            }
        }
    }
}
