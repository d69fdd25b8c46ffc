//! Fault points: places at which a test lets the process die as by `kill -9`, or pauses it.
//!
//! Only with the feature `fault-points`, which no release has: without it nothing is left of them,
//! not even their names. `POD_IDENTITY_FAULT_POINT=<point>.<moment>` chooses one, and the process
//! ends when it gets there for the first time. With `POD_IDENTITY_FAULT=pause` it stops there, once,
//! until somebody sends SIGCONT.

/// A place at which the process may end.
macro_rules! fault_point {
    ($point:expr, $moment:literal) => {
        #[cfg(feature = "fault-points")]
        $crate::fault::reach($point, $moment);
    };
}

pub(crate) use fault_point;

/// Ends or pauses the process if this is the point that was chosen: no destructor runs, nothing is
/// flushed.
#[cfg(feature = "fault-points")]
pub(crate) fn reach(point: &str, moment: &str) {
    let chosen = std::env::var("POD_IDENTITY_FAULT_POINT").unwrap_or_default();
    if chosen.split_once('.') != Some((point, moment)) {
        return;
    }
    match std::env::var("POD_IDENTITY_FAULT").as_deref() {
        Ok("pause") => pause_once(),
        _ => std::process::abort(),
    }
}

#[cfg(feature = "fault-points")]
fn pause_once() {
    use rustix::process::{Signal, getpid, kill_process};
    static PAUSED: std::sync::Once = std::sync::Once::new();
    PAUSED.call_once(|| {
        if kill_process(getpid(), Signal::STOP).is_err() {
            std::process::abort();
        }
    });
}
