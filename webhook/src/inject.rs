//! The patch that carries out a plan; empty for a pod that has everything already.

use api::labels::STATUS;
use json_patch::Patch;
use serde::Serialize;
use serde_json::Value;

use crate::config::InjectorConfig;
use crate::containers::{empty_volume, init_redirect, nmi_sidecar, nmi_volume};
use crate::decision::Plan;
use crate::ours::{EMPTY_VOLUME, INIT_REDIRECT, MODE, NMI_SIDECAR, NMI_VOLUME};
use crate::pod::PodView;
use crate::pointer::{PatchBuilder, PatchError};

const INIT_CONTAINERS: [&str; 2] = ["spec", "initContainers"];

/// What is written on an injected pod.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    version: &'a str,
    mode: &'a str,
    sidecar_image: &'a str,
    init_image: &'a str,
}

/// The additions that the pod lacks.
///
/// A container that is there stays where it is: another injector may want to be first too, and
/// whoever moves things fights with it.
pub fn patch(pod: &Value, plan: &Plan, config: &InjectorConfig) -> Result<Patch, PatchError> {
    let mut builder = PatchBuilder::new(pod);
    let view = PodView::new(pod);
    let position = |name| view.init_containers().position(|container| container.name() == name);

    let mut after_init = position(INIT_REDIRECT).map(|index| index + 1);
    if after_init.is_none() {
        let container = serde_json::to_value(init_redirect(config, plan))?;
        builder.insert(&INIT_CONTAINERS, 0, container)?;
        after_init = Some(1);
    }
    if let (None, Some(index)) = (position(NMI_SIDECAR), after_init) {
        let container = serde_json::to_value(nmi_sidecar(config, plan))?;
        builder.insert(&INIT_CONTAINERS, index, container)?;
    }
    for (name, volume) in [(NMI_VOLUME, nmi_volume(config)), (EMPTY_VOLUME, empty_volume())] {
        if !view.volumes().any(|present| present["name"].as_str() == Some(name)) {
            builder.append(&["spec", "volumes"], serde_json::to_value(volume)?)?;
        }
    }
    // Without the containers, a status that is there is not ours.
    if !builder.is_empty() || view.annotation(STATUS).is_none() {
        let status = status(view, config)?;
        if view.annotation(STATUS) != Some(status.as_str()) {
            builder.set(&["metadata", "annotations"], STATUS, Value::String(status))?;
        }
    }
    Ok(builder.finish())
}

fn status(pod: PodView<'_>, config: &InjectorConfig) -> Result<String, PatchError> {
    let image_of = |name| {
        let container = pod.init_containers().find(|container| container.name() == name);
        container.and_then(|container| container.field("image").as_str())
    };
    let status = Status {
        version: config.version,
        mode: MODE,
        sidecar_image: image_of(NMI_SIDECAR).unwrap_or(&config.sidecar_image),
        init_image: image_of(INIT_REDIRECT).unwrap_or(&config.init_image),
    };
    Ok(serde_json::to_string(&status)?)
}
