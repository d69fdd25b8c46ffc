//! T17: whatever happens and however much is logged, no token gets into the log or the metrics.

mod common;

use std::io::Write;
use std::sync::Arc;

use api::node_api::NodeErrorCode;
use common::node::AssertionPolicy;
use common::{FakeNode, Setup, Sidecar};
use parking_lot::Mutex;
use tracing_subscriber::fmt::MakeWriter;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn no_token_is_ever_logged_or_counted() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let mut node = FakeNode::start().await;
    let setup = Setup { verify_after: "0", gate: "60s", ..Setup::default() };
    let sidecar = Sidecar::start(&node, setup).await;
    assert_eq!(sidecar.token("r").await.status, 200);
    assert_eq!(sidecar.token("r").await.status, 200);
    node.fails(NodeErrorCode::Refused, "AADSTS500011: unknown resource");
    assert_eq!(sidecar.token("other").await.status, 400);
    *node.state.assertion.lock() = AssertionPolicy::Required;
    assert_eq!(sidecar.token("federated").await.status, 400);
    std::fs::write(sidecar.file("federated-token"), "pod-assertion").unwrap();
    node.answers(Ok(86_400));
    assert_eq!(sidecar.token("federated-2").await.status, 200);
    node.stop().await;
    assert_eq!(sidecar.token("r").await.status, 200);
    let metrics = sidecar.admin("/metrics").await.body;

    let text = String::from_utf8(log.0.lock().clone()).unwrap();
    assert!(text.contains("Cannot answer with a token"), "the log works: {text}");
    assert!(text.contains("correlation_id"), "{text}");
    for secret in ["secret-token", "pod-token", "pod-assertion"] {
        for (number, line) in text.lines().enumerate() {
            assert!(!line.contains(secret), "line {number} holds {secret}");
        }
        assert!(!metrics.contains(secret));
    }
}
