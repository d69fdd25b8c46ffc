//! Several identities on a pod, many pods, and pods that move from one to another.

use std::time::Duration;

use e2e::pods;

use super::{assigned, by, refused};
use crate::env::{env, eventually};
use crate::namespace::{Namespace, curl};

const PODS: usize = 40;

/// What the predecessor allowed itself.
const BURST: Duration = Duration::from_secs(150);

#[tokio::test]
async fn should_remove_the_correct_identities_when_adding_azureidentity_and_azureidentitybinding_in_order_and_removing_them_in_random_order()
 {
    let space = Namespace::new("several").await;
    let azure = &env().await.azure;
    let mut left = Vec::new();
    for number in 0..5 {
        let identity = azure.identity(&format!("several-{number}"), 148 + number).await;
        space.bind(&identity, "app").await;
        left.push(identity);
    }
    space.start(&space.pod("app", "app")).await;
    assigned(&space, "app", &left.iter().collect::<Vec<_>>()).await;
    // An order that is none of first to last, last to first, inside out.
    for at in [3, 0, 2, 0] {
        let gone = left.remove(at);
        space.delete("azureidentity", &gone.name).await;
        assigned(&space, "app", &left.iter().collect::<Vec<_>>()).await;
        refused(&space, "app", &by(&gone)).await;
        for identity in &left {
            space.token("app", &by(identity)).await.is_of(identity);
        }
    }
    space.done().await;
}

#[tokio::test]
async fn should_create_azureassignedidentities_for_40_pods_within_150_seconds() {
    let space = Namespace::new("forty").await;
    let identity = env().await.azure.identity("forty", 153).await;
    space.bind(&identity, "app").await;
    let command = curl(&by(&identity)).replace("curl -sS", "curl -sS --fail");
    for number in 0..PODS {
        let name = format!("app-{number}");
        let pod = pods::client(&space.name, &name, &["bash", "-c", &command]);
        space.apply(&pods::bound(pod, &space.selector("app"))).await.unwrap();
    }
    eventually("all pods have had their token", BURST, async || {
        let all = space.env.get(&["-n", &space.name, "pods"]).await;
        let phases: Vec<_> =
            all["items"].as_array().unwrap().iter().map(|pod| &pod["status"]["phase"]).collect();
        assert!(phases.iter().all(|&phase| phase != "Failed"), "{phases:?}");
        (phases.iter().filter(|&&phase| phase == "Succeeded").count() == PODS).then_some(())
    })
    .await;
    space.done().await;
}

#[tokio::test]
async fn should_create_a_new_azureassignedidentity_when_the_pod_label_is_changed() {
    let space = Namespace::new("relabelled").await;
    let azure = &env().await.azure;
    let (before, after) =
        (azure.identity("label-one", 154).await, azure.identity("label-two", 155).await);
    space.bind(&before, "before").await;
    space.bind(&after, "after").await;
    space.start(&space.pod("app", "before")).await;
    assigned(&space, "app", &[&before]).await;
    let label = format!("aadpodidbinding={}", space.selector("after"));
    let label = ["-n", &space.name, "label", "pod", "app", &label, "--overwrite"];
    space.env.kubectl(&label).await.unwrap();
    assigned(&space, "app", &[&after]).await;
    refused(&space, "app", &by(&before)).await;
    space.token("app", &by(&after)).await.is_of(&after);
    space.done().await;
}
