//! The startup gate: holds the application back until the pod's identities are assigned and the
//! tokens that are to be warm are there, so that its first token call succeeds, but not for ever.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use api::node_api::{Assignment, AssignmentState};
use axum::Router;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::routing::get;
use runtime::Latch;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::node::NodeClient;
use crate::warm_up::{Cold, WarmUp};

/// How long a startup probe is held before it fails; the kubelet's own limit must be longer.
const PROBE: Duration = Duration::from_secs(8);

/// How long one question to the agent waits.
const QUESTION: Duration = Duration::from_secs(20);

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The gate. Clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    deadline: Instant,
    state: watch::Sender<State>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Why it is closed.
    Closed(String),
}

// === impl Gate ===

impl Gate {
    /// A gate that opens after `limit` at the latest.
    pub fn new(limit: Duration) -> Self {
        let nothing = State::Closed("the node's agent has not answered yet".to_owned());
        Self(Arc::new(Inner {
            deadline: Instant::now() + limit,
            state: watch::Sender::new(nothing),
        }))
    }

    /// Whether the application may run.
    pub fn is_open(&self) -> bool {
        Instant::now() >= self.0.deadline || *self.0.state.borrow() == State::Open
    }

    /// Waits for the gate to open, at most `limit` long; why it is closed if it did not.
    pub async fn opened(&self, limit: Duration) -> Result<(), String> {
        let mut state = self.0.state.subscribe();
        let until = self.0.deadline.min(Instant::now() + limit);
        tokio::select! {
            biased;
            // The sender is ours, so that this never fails.
            _ = state.wait_for(|state| *state == State::Open) => return Ok(()),
            () = sleep_until(until) => {}
        }
        match &*self.0.state.borrow() {
            State::Closed(why) if Instant::now() < self.0.deadline => Err(why.clone()),
            _ => Ok(()),
        }
    }

    /// `/startupz`: held until the gate opens, so that the application starts at that moment and
    /// not at the next probe.
    pub fn router(self) -> Router {
        Router::new().route("/startupz", get(startupz)).with_state(self)
    }

    /// Opens the gate when the agent says that the pod's identities are assigned and the tokens of
    /// `warm_up` are there. Asks the agent in any case until it has answered once, which `reached`
    /// says, and then gets the tokens behind the application's back. Never ends by itself.
    pub async fn watch(
        self,
        node: Arc<NodeClient>,
        warm_up: WarmUp,
        reached: Latch,
    ) -> Result<(), Infallible> {
        let deadline = self.0.deadline;
        let mut warm = warm_up.is_empty();
        if !self.is_open() {
            let opening = self.open(&node, &warm_up, &reached);
            warm |= timeout_at(deadline, opening).await.is_ok();
            if let State::Closed(reason) = &*self.0.state.borrow() {
                tracing::warn!(reason, "Not holding the application back any longer");
            }
        }
        while !reached.is_set() {
            drop(self.ask(&node, &reached, Duration::ZERO).await);
            sleep(LONGEST_PAUSE).await;
        }
        if !warm && let Err(cold) = warm_up.get().await {
            tracing::warn!(reason = %cold, "No token is warmed up");
        }
        std::future::pending().await
    }

    async fn open(&self, node: &NodeClient, warm_up: &WarmUp, reached: &Latch) {
        let begun = Instant::now();
        self.wait_for_assignment(node, reached).await;
        tracing::info!(elapsed = ?begun.elapsed(), "Identities are assigned");
        if !warm_up.is_empty() {
            self.wait_for_tokens(warm_up).await;
        }
        self.0.state.send_replace(State::Open);
    }

    async fn wait_for_assignment(&self, node: &NodeClient, reached: &Latch) {
        let mut pause = FIRST_PAUSE;
        loop {
            let asked = Instant::now();
            let wait = QUESTION.min(self.0.deadline.saturating_duration_since(asked));
            match self.ask(node, reached, wait).await {
                Ok(()) => return,
                Err(reason) => self.stays_closed(reason),
            }
            // An agent that did wait is asked again at once.
            pause = if asked.elapsed() > LONGEST_PAUSE { FIRST_PAUSE } else { pause * 2 };
            sleep(pause.min(LONGEST_PAUSE)).await;
        }
    }

    async fn wait_for_tokens(&self, warm_up: &WarmUp) {
        let begun = Instant::now();
        self.stays_closed("tokens are being fetched".to_owned());
        loop {
            match warm_up.get().await {
                Ok(()) => {
                    tracing::info!(elapsed = ?begun.elapsed(), "Tokens are warm");
                    return;
                }
                Err(cold @ Cold::NoDefault) => {
                    tracing::warn!(reason = %cold, "No token is warmed up");
                    return;
                }
                Err(cold @ Cold::Missing(_)) => self.stays_closed(cold.to_string()),
            }
            sleep(LONGEST_PAUSE).await;
        }
    }

    fn stays_closed(&self, reason: String) {
        self.0.state.send_if_modified(|state| {
            let changed = !matches!(state, State::Closed(known) if *known == reason);
            if changed {
                tracing::info!(reason, "Holding the application back");
                *state = State::Closed(reason);
            }
            changed
        });
    }

    /// Whether the pod's identities are assigned; why not, if they are not.
    async fn ask(&self, node: &NodeClient, reached: &Latch, wait: Duration) -> Result<(), String> {
        let assignment = node.assignment(wait).await.map_err(|failure| failure.to_string())?;
        reached.set(true);
        judge(&assignment)
    }
}

async fn startupz(Shared(gate): Shared<Gate>) -> (StatusCode, String) {
    match gate.opened(PROBE).await {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting: {reason}\n")),
    }
}

fn judge(assignment: &Assignment) -> Result<(), String> {
    match assignment.state {
        AssignmentState::Assigned => Ok(()),
        AssignmentState::None => {
            Err("no AzureIdentityBinding selects this pod's label aadpodidbinding".to_owned())
        }
        AssignmentState::Pending => {
            let missing = assignment.identities.iter().filter(|identity| !identity.assigned);
            let missing: Vec<String> = missing
                .map(|identity| {
                    let why = identity.message.as_deref().unwrap_or("being attached to the node");
                    format!("AzureIdentity {}/{}: {why}", identity.namespace, identity.name)
                })
                .collect();
            Err(missing.join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::node_api::AssignedIdentitySummary;

    fn assignment(state: AssignmentState) -> Assignment {
        let identity = |name: &str, assigned, message: Option<&str>| AssignedIdentitySummary {
            namespace: "team".to_owned(),
            name: name.to_owned(),
            assigned,
            message: message.map(str::to_owned),
        };
        let identities = vec![
            identity("done", true, None),
            identity("slow", false, None),
            identity("bad", false, Some("no permission to attach")),
        ];
        Assignment { state, identities }
    }

    #[test]
    fn the_reason_names_what_is_missing() {
        assert_eq!(judge(&assignment(AssignmentState::Assigned)), Ok(()));
        let Err(reason) = judge(&assignment(AssignmentState::Pending)) else {
            panic!("pending is not assigned");
        };
        assert_eq!(
            reason,
            "AzureIdentity team/slow: being attached to the node; \
             AzureIdentity team/bad: no permission to attach"
        );
        let Err(reason) = judge(&assignment(AssignmentState::None)) else {
            panic!("unbound is not assigned");
        };
        assert!(reason.contains("AzureIdentityBinding"), "{reason}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_is_held_until_the_identities_are_assigned() {
        let gate = Gate::new(Duration::from_secs(60));
        assert!(!gate.is_open());
        let before = Instant::now();
        let probe = tokio::spawn({
            let gate = gate.clone();
            async move { gate.opened(PROBE).await }
        });
        sleep(Duration::from_secs(3)).await;
        gate.0.state.send_replace(State::Open);
        assert_eq!(probe.await.unwrap(), Ok(()));
        assert_eq!(before.elapsed(), Duration::from_secs(3));
        assert!(gate.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_fails_with_the_reason_and_the_gate_opens_in_the_end() {
        let gate = Gate::new(Duration::from_secs(20));
        gate.0.state.send_replace(State::Closed("why".to_owned()));
        for _ in 0..2 {
            let (status, text) = startupz(Shared(gate.clone())).await;
            assert_eq!((status.as_u16(), text.as_str()), (503, "waiting: why\n"));
        }
        let before = Instant::now();
        assert_eq!(startupz(Shared(gate.clone())).await.0.as_u16(), 200);
        assert_eq!(before.elapsed(), Duration::from_secs(4));
        assert!(gate.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn no_time_means_no_gate() {
        let gate = Gate::new(Duration::ZERO);
        assert!(gate.is_open());
        assert_eq!(gate.opened(PROBE).await, Ok(()));
    }
}
