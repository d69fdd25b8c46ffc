//! Publishes events, best effort: a queue that drops what is too much, never holding up the work.

use std::time::Duration;

use api::AzureIdentityBinding;
use futures::StreamExt;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{PostParams, Request};
use kube::{Client, Resource};
use tokio::sync::mpsc;

use crate::metrics::ControllerMetrics;
use crate::watch::{BoundPod, name, namespace, uid};

const CONTROLLER: &str = "aadpodidentity.k8s.io/controller";
const QUEUE: usize = 1024;
/// So much of the queue is for warnings alone: in a burst of pods what works could drown what does
/// not.
const FOR_WARNINGS: usize = QUEUE / 4;
/// One after the other: they must not keep the API server from what matters.
const IN_FLIGHT: usize = 1;
const TIMEOUT: Duration = Duration::from_secs(5);
/// What the API server accepts.
const MAX_NOTE: usize = 1024;

/// Something that a user wants to know.
#[derive(Clone, Debug)]
pub(crate) struct Happening {
    pub(crate) severity: Severity,
    pub(crate) subject: Subject,
    pub(crate) reason: &'static str,
    pub(crate) action: &'static str,
    pub(crate) note: String,
}

/// Good or bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

/// The object that an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// Takes events; clones feed the same queue.
#[derive(Clone, Debug)]
pub(crate) struct EventSender {
    queue: mpsc::Sender<Happening>,
    metrics: ControllerMetrics,
}

/// The task that publishes them.
pub(crate) struct EventPublisher {
    queue: mpsc::Receiver<Happening>,
    client: Client,
    instance: String,
    metrics: ControllerMetrics,
}

/// A queue of events, published as `instance`.
pub(crate) fn events(
    client: Client,
    instance: String,
    metrics: ControllerMetrics,
) -> (EventSender, EventPublisher) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let publisher = EventPublisher { queue, client, instance, metrics: metrics.clone() };
    (EventSender { queue: sender, metrics }, publisher)
}

// === impl Subject ===

impl Subject {
    /// A pod.
    pub(crate) fn pod(pod: &BoundPod) -> Self {
        Self::of(pod)
    }

    /// A binding.
    pub(crate) fn binding(binding: &AzureIdentityBinding) -> Self {
        Self::of(binding)
    }

    fn of<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        let meta = object.meta();
        Self {
            api_version: K::api_version(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            namespace: namespace(meta).to_owned(),
            name: name(meta).to_owned(),
            uid: uid(meta).to_owned(),
        }
    }
}

// === impl Severity ===

impl Severity {
    /// As events and metrics spell it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

// === impl EventSender ===

impl EventSender {
    /// Queues an event, or drops it if too many wait.
    pub(crate) fn send(&self, happening: Happening) {
        let severity = happening.severity;
        let crowded = severity == Severity::Normal && self.room() <= FOR_WARNINGS;
        if crowded || self.queue.try_send(happening).is_err() {
            self.metrics.event_dropped(severity);
        }
    }

    /// How many warnings can be queued now.
    pub(crate) fn room(&self) -> usize {
        self.queue.capacity()
    }
}

// === impl EventPublisher ===

impl EventPublisher {
    /// Publishes until every sender is gone.
    pub(crate) async fn run(mut self) {
        let (client, instance, metrics) = (&self.client, &self.instance, &self.metrics);
        let queue = futures::stream::poll_fn(|cx| self.queue.poll_recv(cx));
        queue
            .for_each_concurrent(IN_FLIGHT, |happening| async move {
                let publish = publish(client, event(happening, instance, Timestamp::now()));
                let outcome = match tokio::time::timeout(TIMEOUT, publish).await {
                    Ok(Ok(_)) => "ok",
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "Cannot publish an event");
                        "refused"
                    }
                    Err(_) => "timed_out",
                };
                metrics.wrote("event", outcome);
            })
            .await;
    }
}

/// The answer is not looked into.
async fn publish(client: &Client, event: Event) -> Result<(), kube::Error> {
    let url = Event::url_path(&(), event.metadata.namespace.as_deref());
    let body = serde_json::to_vec(&event).map_err(kube::Error::SerdeError)?;
    let request = Request::new(url).create(&PostParams::default(), body);
    client.request_text(request.map_err(kube::Error::BuildRequest)?).await.map(drop)
}

fn event(happening: Happening, instance: &str, now: Timestamp) -> Event {
    let subject = happening.subject;
    // As the API server requires of names; the time makes them different.
    let prefix = api::labels::fit(&subject.name, 230);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}.{:x}", now.as_nanosecond())),
            namespace: Some(subject.namespace.clone()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some(happening.severity.as_str().to_owned()),
        reason: Some(happening.reason.to_owned()),
        action: Some(happening.action.to_owned()),
        note: Some(shorten(happening.note)),
        regarding: Some(ObjectReference {
            api_version: Some(subject.api_version),
            kind: Some(subject.kind),
            namespace: Some(subject.namespace),
            name: Some(subject.name),
            uid: Some(subject.uid),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(api::labels::fit(instance, 128)),
        ..Event::default()
    }
}

fn shorten(mut note: String) -> String {
    if note.len() > MAX_NOTE {
        let end = (0..=MAX_NOTE - 3).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
        note.truncate(end);
        note.push('…');
    }
    note
}

#[cfg(test)]
mod tests {
    use runtime::Metrics;

    use super::*;
    use crate::testing::pod;

    #[test]
    fn warnings_have_room_however_much_is_well() {
        let metrics = Metrics::new("test", "0");
        let (queue, mut waiting) = mpsc::channel(QUEUE);
        let sender = EventSender { queue, metrics: ControllerMetrics::new(&metrics) };
        let send = |severity| {
            sender.send(Happening {
                severity,
                subject: Subject::pod(&pod("apps", "web", "sel", "n1")),
                reason: "Any",
                action: "Assigning",
                note: String::new(),
            });
        };
        (0..10_000).for_each(|_| send(Severity::Normal));
        assert_eq!(sender.room(), FOR_WARNINGS);
        (0..=FOR_WARNINGS).for_each(|_| send(Severity::Warning));
        let dropped = |severity: &str| {
            let name = format!("podidentity_events_dropped_total{{severity=\"{severity}\"}} ");
            let text = metrics.text();
            let count = text.lines().find_map(|line| line.strip_prefix(&name)).map(str::to_owned);
            count.unwrap_or_default()
        };
        assert_eq!((dropped("Normal").as_str(), dropped("Warning").as_str()), ("9232", "1"));
        let mut warnings = 0;
        while let Ok(happening) = waiting.try_recv() {
            warnings += usize::from(happening.severity == Severity::Warning);
        }
        assert_eq!(warnings, FOR_WARNINGS);
    }

    #[test]
    fn an_event_fits_what_the_api_server_accepts() {
        let mut subject = Subject::pod(&pod("apps", "web", "sel", "n1"));
        subject.name = "p".repeat(253);
        let happening = Happening {
            severity: Severity::Warning,
            subject,
            reason: "IdentityNotAssigned",
            action: "Assigning",
            note: "é".repeat(2000),
        };
        let event = event(happening, &"i".repeat(200), Timestamp::now());
        assert!(event.metadata.name.unwrap().len() <= 253);
        assert!(event.note.unwrap().len() <= 1024);
        assert!(event.reporting_instance.unwrap().len() <= 128);
        let regarding = event.regarding.unwrap();
        assert_eq!(
            (regarding.kind.as_deref(), regarding.api_version.as_deref()),
            (Some("Pod"), Some("v1"))
        );
        assert_eq!(regarding.uid.as_deref(), Some("uid-apps-web"));
    }
}
