//! Whether a pod is injected, and how. Pure: takes values, returns a value.

use api::labels::{BINDING, INJECT, WARM_UP, strict_bool};
use serde_json::Value;

use crate::advice::advise;
use crate::config::InjectorConfig;
use crate::hazards::{DenyReason, hazards};
use crate::namespace_view::{NamespaceView, OptIn};
use crate::ours::{MODE, MODE_KEY};
use crate::overrides::Settings;
use crate::pod::PodView;
use crate::warm_up::WarmUp;
use crate::warnings::Warnings;

const MIRROR: &str = "kubernetes.io/config.mirror";

/// A decision, and what the author of the pod should read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What becomes of the pod.
    pub decision: Decision,
    /// What `kubectl` prints.
    pub warnings: Warnings,
}

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It gets the redirect and the sidecar.
    Inject(Box<Plan>),
    /// It is let in as it is, for at least one reason.
    Skip(Vec<SkipReason>),
    /// It is refused, for at least one reason.
    Deny(Vec<DenyReason>),
}

/// How a pod is injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The settings after all overrides.
    pub settings: Settings,
    /// Whether the pod sets an AppArmor profile for all its containers, which ours must not get.
    pub resets_app_armor: bool,
}

/// Why a pod is let in as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// Not the creation of a pod.
    NotAPodCreation,
    /// It carries neither the label nor the annotation.
    NotRequested,
    /// The label is there but empty.
    EmptySelector,
    /// The annotation says no.
    OptedOut,
    /// Its namespace does not carry the label.
    NamespaceNotEnabled,
    /// It is in the node's network.
    HostNetwork,
    /// It sees the node's processes.
    HostPid,
    /// It runs on Windows.
    Windows,
    /// It mirrors a static pod, which runs already.
    MirrorPod,
}

// === impl SkipReason ===

impl SkipReason {
    /// The reason, for metrics and the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotAPodCreation => "not_a_pod_creation",
            Self::NotRequested => "not_requested",
            Self::EmptySelector => "empty_selector",
            Self::OptedOut => "opted_out",
            Self::NamespaceNotEnabled => "namespace_not_enabled",
            Self::HostNetwork => "host_network",
            Self::HostPid => "host_pid",
            Self::Windows => "windows",
            Self::MirrorPod => "mirror_pod",
        }
    }

    /// What to tell an author who asked for an identity; nothing if it is what was asked for.
    fn warning(self) -> Option<&'static str> {
        match self {
            Self::NotAPodCreation | Self::NotRequested | Self::OptedOut => None,
            Self::EmptySelector => Some("label aadpodidbinding is empty"),
            Self::NamespaceNotEnabled => {
                Some("its namespace is not labelled aadpodidentity.k8s.io/inject=enabled")
            }
            Self::HostNetwork => Some("with hostNetwork, a redirect would hit the whole node"),
            Self::HostPid => Some("with hostPID, it could read the token of every sidecar"),
            Self::Windows => Some("there is no redirect for Windows"),
            Self::MirrorPod => Some("static pods have no service account token"),
        }
    }
}

/// Whether the pod asks for an identity; the rest of a decision is of no interest if it does not.
pub(crate) fn asks(pod: &Value) -> bool {
    let pod = PodView::new(pod);
    match pod.annotation(INJECT) {
        Some("true") => true,
        Some("false") => false,
        _ => pod.label(BINDING).is_some_and(|selector| !selector.is_empty()),
    }
}

/// Decides what becomes of a pod.
pub fn decide(pod: &Value, namespace: &NamespaceView, config: &InjectorConfig) -> Verdict {
    let asks = asks(pod);
    let pod = PodView::new(pod);
    let mut warnings = Warnings::default();
    let decision = unless_asked(pod, asks, namespace)
        .unwrap_or_else(|| examine(pod, namespace, config, &mut warnings));
    if let Decision::Skip(reasons) = &decision {
        let wanted = asks || reasons.contains(&SkipReason::EmptySelector);
        for reason in reasons.iter().filter_map(|reason| reason.warning().filter(|_| wanted)) {
            warnings.push(format!("this pod has NO identity: {reason}"));
        }
        if let (true, OptIn::Other(value)) = (asks, namespace.opt_in()) {
            warnings.push(format!("namespace label {INJECT} is {value:?}, not \"enabled\""));
        }
    }
    Verdict { decision, warnings }
}

/// What is decided already by what the pod and its namespace ask for, if injection is not it.
fn unless_asked(pod: PodView<'_>, asks: bool, namespace: &NamespaceView) -> Option<Decision> {
    let skip = |reason| Some(Decision::Skip(vec![reason]));
    if pod.annotation(MIRROR).is_some() {
        // Before all else: a mirror pod that is refused only hides a static pod that runs.
        return skip(SkipReason::MirrorPod);
    }
    if let OptIn::Absent | OptIn::Other(_) = namespace.opt_in() {
        return skip(SkipReason::NamespaceNotEnabled);
    }
    match strict_bool(INJECT, pod.annotation(INJECT)) {
        Err(error) => Some(Decision::Deny(vec![error.into()])),
        Ok(Some(false)) => skip(SkipReason::OptedOut),
        Ok(Some(true)) => None,
        Ok(None) if asks => None,
        Ok(None) if pod.label(BINDING).is_some() => skip(SkipReason::EmptySelector),
        Ok(None) => skip(SkipReason::NotRequested),
    }
}

/// Whether the pod can be injected.
fn examine(
    pod: PodView<'_>,
    namespace: &NamespaceView,
    config: &InjectorConfig,
    warnings: &mut Warnings,
) -> Decision {
    let obstacles = obstacles(pod);
    if !obstacles.is_empty() {
        return Decision::Skip(obstacles);
    }
    let mut reasons = hazards(pod);
    if namespace.allows_unsafe_pods(config.allow_unsafe_pods, warnings) {
        for reason in reasons.extract_if(.., |reason| reason.can_be_allowed()) {
            warnings.push(format!("allowed although {reason}"));
        }
    }
    let modes = [pod.annotation(MODE_KEY), namespace.annotation(MODE_KEY)];
    reasons.extend(
        modes
            .into_iter()
            .flatten()
            .filter(|mode| *mode != MODE)
            .map(|mode| DenyReason::InterceptMode(mode.to_owned())),
    );
    let mut settings = config.settings.clone();
    match warm_up(pod, namespace) {
        Ok(None) => {}
        Ok(Some(warm_up)) => settings.warm_up = warm_up,
        Err(reason) => reasons.push(reason),
    }
    if !reasons.is_empty() {
        return Decision::Deny(reasons);
    }
    settings.apply("namespace", |key| namespace.annotation(key), warnings);
    settings.apply("pod", |key| pod.annotation(key), warnings);
    settings.raise_limits(warnings);
    advise(pod, namespace, warnings);
    let profile = pod.spec("securityContext")["appArmorProfile"]["type"].as_str();
    // Where the pod has no profile ours must have none either: any makes the kubelet refuse the
    // pod on a node without AppArmor.
    let resets_app_armor = profile.is_some_and(|profile| profile != "Unconfined");
    Decision::Inject(Box::new(Plan { settings, resets_app_armor }))
}

/// The tokens to get beforehand, as the pod or else its namespace names them. What cannot be read
/// is refused: an author who counts on them would find out only when there is an outage.
fn warm_up(pod: PodView<'_>, namespace: &NamespaceView) -> Result<Option<WarmUp>, DenyReason> {
    let (whose, text) = match (pod.annotation(WARM_UP), namespace.annotation(WARM_UP)) {
        (Some(text), _) => ("pod", text),
        (None, Some(text)) => ("namespace", text),
        (None, None) => return Ok(None),
    };
    text.parse().map(Some).map_err(|error| DenyReason::WarmUp { whose, error })
}

/// What makes a redirect in the pod impossible.
fn obstacles(pod: PodView<'_>) -> Vec<SkipReason> {
    let windows = pod.spec("os")["name"].as_str() == Some("windows")
        || ["kubernetes.io/os", "beta.kubernetes.io/os"]
            .into_iter()
            .any(|key| pod.spec("nodeSelector")[key].as_str() == Some("windows"));
    [
        (pod.flag("hostNetwork"), SkipReason::HostNetwork),
        (pod.flag("hostPID"), SkipReason::HostPid),
        (windows, SkipReason::Windows),
    ]
    .into_iter()
    .filter_map(|(is_one, reason)| is_one.then_some(reason))
    .collect()
}
