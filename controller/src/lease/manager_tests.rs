//! Two replicas and an API server that holds one lease, in paused time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use parking_lot::Mutex;
use tokio::time::advance;
use tower_test::mock;

use super::*;

/// One stored lease, and whether the API server answers.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lease: Option<serde_json::Value>,
    version: u64,
    /// Writes that came too late.
    refused: usize,
    down: bool,
}

impl Server {
    /// A client of the server, and the task that answers it.
    fn client(&self) -> Client {
        let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
        let server = self.clone();
        tokio::spawn(async move {
            while let Some((request, send)) = handle.next_request().await {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let sent = serde_json::from_slice(&body).unwrap_or_default();
                let (code, answer) = server.answer(&parts.method, sent);
                let body = Body::from(answer.to_string().into_bytes());
                send.send_response(Response::builder().status(code).body(body).unwrap());
            }
        });
        Client::new(service, "default")
    }

    fn answer(&self, method: &Method, mut sent: serde_json::Value) -> (u16, serde_json::Value) {
        let mut state = self.0.lock();
        if state.down {
            return failure(500, "InternalError");
        }
        let stored = state.lease.clone();
        match (method, stored) {
            (&Method::GET, None) => return failure(404, "NotFound"),
            (&Method::GET, Some(lease)) => return (200, lease),
            (&Method::POST, Some(_)) => return failure(409, "AlreadyExists"),
            (&Method::PUT, Some(lease))
                if lease["metadata"]["resourceVersion"] != sent["metadata"]["resourceVersion"] =>
            {
                state.refused += 1;
                return failure(409, "Conflict");
            }
            _ => {}
        }
        state.version += 1;
        sent["metadata"]["resourceVersion"] = state.version.to_string().into();
        state.lease = Some(sent.clone());
        (200, sent)
    }

    fn holder(&self) -> Option<String> {
        let state = self.0.lock();
        let lease = state.lease.as_ref()?;
        lease["spec"]["holderIdentity"].as_str().map(str::to_owned)
    }
}

fn failure(code: u16, reason: &str) -> (u16, serde_json::Value) {
    let status = serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "reason": reason, "code": code, "message": reason});
    (code, status)
}

/// A replica that counts its terms and knows whether it may write.
struct Replica {
    shutdown: Shutdown,
    terms: Arc<AtomicUsize>,
    leadership: Arc<Mutex<Option<Leadership>>>,
    task: tokio::task::JoinHandle<Result<(), LeadError>>,
}

impl Replica {
    fn start(server: &Server, name: &str) -> Self {
        let settings = LeaseSettings {
            namespace: "system".to_owned(),
            name: "controller".to_owned(),
            holder: name.to_owned(),
            duration: Duration::from_secs(15),
        };
        let manager = LeaseManager::new(server.client(), settings);
        let shutdown = Shutdown::manual();
        let terms = Arc::new(AtomicUsize::new(0));
        let leadership = Arc::new(Mutex::new(None));
        let (counted, shown) = (terms.clone(), leadership.clone());
        let task = tokio::spawn(manager.run(shutdown.clone(), move |leadership| {
            counted.fetch_add(1, Ordering::SeqCst);
            *shown.lock() = Some(leadership);
            std::future::pending::<Result<(), String>>()
        }));
        Self { shutdown, terms, leadership, task }
    }

    fn leads(&self) -> bool {
        self.leadership.lock().as_ref().is_some_and(|held| held.remaining().is_some())
    }

    fn terms(&self) -> usize {
        self.terms.load(Ordering::SeqCst)
    }
}

/// Lets time pass in small steps, so that every timer fires in its turn.
async fn pass(seconds: u64) {
    for _ in 0..seconds * 10 {
        advance(Duration::from_millis(100)).await;
        settle().await;
    }
}

async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_replica_leads_and_goes_on_leading() {
    let server = Server::default();
    let (a, b) = (Replica::start(&server, "a"), Replica::start(&server, "b"));
    pass(60).await;
    assert!(a.leads() != b.leads());
    assert_eq!(a.terms() + b.terms(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_clean_shutdown_hands_over_within_five_seconds() {
    let server = Server::default();
    let a = Replica::start(&server, "a");
    pass(1).await;
    let b = Replica::start(&server, "b");
    pass(10).await;
    assert!(a.leads() && !b.leads());
    a.shutdown.begin();
    pass(1).await;
    a.task.await.unwrap().unwrap();
    assert_ne!(server.holder().as_deref(), Some("a"), "given back");
    pass(3).await;
    assert!(b.leads());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_stops_before_another_may_begin() {
    let server = Server::default();
    let a = Replica::start(&server, "a");
    pass(1).await;
    assert!(a.leads());
    server.0.lock().down = true;
    pass(14).await;
    let last = a.leads();
    pass(1).await;
    assert!(!a.leads(), "15 s after the last renewal at the latest");
    assert!(last || a.terms() == 1);
    server.0.lock().down = false;
    pass(4).await;
    assert!(a.leads(), "its own lease is taken again at once");
    assert_eq!(a.terms(), 2, "as a new term");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_dies_is_replaced_after_the_lease_has_expired() {
    let server = Server::default();
    let a = Replica::start(&server, "a");
    pass(1).await;
    let b = Replica::start(&server, "b");
    pass(5).await;
    a.task.abort();
    let held = a.leadership.lock().clone().unwrap();
    while !b.leads() {
        assert!(server.holder().as_deref() == Some("a") || held.remaining().is_none());
        pass(1).await;
    }
    assert!(held.remaining().is_none(), "never two at a time");
    assert_eq!(server.holder().as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_resigns_gives_another_the_first_go_and_comes_back_if_there_is_none() {
    let server = Server::default();
    let settings = |name: &str| LeaseSettings {
        namespace: "system".to_owned(),
        name: "controller".to_owned(),
        holder: name.to_owned(),
        duration: Duration::from_secs(15),
    };
    let terms = Arc::new(AtomicUsize::new(0));
    let counted = terms.clone();
    let manager = LeaseManager::new(server.client(), settings("a"));
    let shutdown = Shutdown::manual();
    let resigning = tokio::spawn(manager.run(shutdown.clone(), move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async {
            sleep(Duration::from_secs(10)).await;
            Ok::<_, String>(())
        }
    }));
    pass(35).await;
    assert_eq!((terms.load(Ordering::SeqCst), server.holder()), (1, None), "nobody is there yet");
    pass(10).await;
    assert_eq!(terms.load(Ordering::SeqCst), 2, "after half a minute it tries again");
    let b = Replica::start(&server, "b");
    pass(60).await;
    assert!(b.leads(), "the other was faster");
    assert_eq!(terms.load(Ordering::SeqCst), 2);
    shutdown.begin();
    resigning.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_edit_of_the_lease_costs_no_term_but_another_holder_does() {
    let server = Server::default();
    let a = Replica::start(&server, "a");
    pass(1).await;
    let edit = |holder: &str| {
        let mut state = server.0.lock();
        state.version += 1;
        let version = state.version.to_string();
        let lease = state.lease.as_mut().unwrap();
        lease["metadata"]["resourceVersion"] = version.into();
        lease["spec"]["holderIdentity"] = holder.into();
    };
    edit("a");
    pass(20).await;
    assert!(a.leads() && a.terms() == 1);
    edit("c");
    pass(6).await;
    assert!(!a.leads(), "noticed at the next renewal");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_slept_through_its_claim_asks_for_nothing_before_it_looks_who_leads() {
    let server = Server::default();
    let a = Replica::start(&server, "a");
    pass(1).await;
    assert!(a.leads());
    // While it sleeps, another one takes the lease.
    let taken = {
        let mut state = server.0.lock();
        state.version += 1;
        let version = state.version;
        let lease = state.lease.as_mut().unwrap();
        lease["metadata"]["resourceVersion"] = version.to_string().into();
        lease["spec"]["holderIdentity"] = "b".into();
        version
    };
    advance(Duration::from_secs(20)).await;
    settle().await;
    assert!(!a.leads());
    pass(5).await;
    assert_eq!((a.terms(), server.0.lock().version), (1, taken), "nothing was written");
    assert_eq!(server.0.lock().refused, 0, "nor tried");
}
