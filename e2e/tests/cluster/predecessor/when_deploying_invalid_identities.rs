//! Identities that Azure does not have, beside one that it has.

use serde_json::json;

use super::{LIMIT, assigned, assignments, by, impatient};
use crate::env::{Identity, env, eventually};
use crate::namespace::Namespace;

/// Binds identities that do not exist in Azure.
async fn bind_invalid(space: &Namespace, like: &Identity) {
    for number in 0..2 {
        let name = format!("invalid-{number}");
        let spec = json!({
            "type": 0,
            "resourceID": like.resource_id.replace(&format!("/{}", like.name), &format!("/{}-{name}", space.name)),
            "clientID": format!("2a000000-0000-0000-0000-99999999999{number}"),
        });
        space.apply(&space.object("AzureIdentity", &name, &spec)).await.unwrap();
        space.bind_name(&name, "app").await;
    }
}

async fn only_the_valid_one(space: &Namespace, valid: &Identity) {
    let expected = [
        ("invalid-0".to_owned(), "Created".to_owned()),
        ("invalid-1".to_owned(), "Created".to_owned()),
        (valid.name.clone(), "Assigned".to_owned()),
    ];
    eventually("only the valid one is assigned", LIMIT, async || {
        let mut now = assignments(space, "app").await;
        now.sort();
        (now == expected).then_some(())
    })
    .await;
    space.token("app", &by(valid)).await.is_of(valid);
}

#[tokio::test]
async fn should_assign_the_valid_identity_to_the_node_when_batch_assigning_identities_that_contain_invalid_identities()
 {
    let space = Namespace::new("invalid-batch").await;
    let valid = env().await.azure.identity("valid-batch", 163).await;
    bind_invalid(&space, &valid).await;
    space.bind(&valid, "app").await;
    space.start(&impatient(space.pod("app", "app"))).await;
    only_the_valid_one(&space, &valid).await;
    space.done().await;
}

#[tokio::test]
async fn should_not_unassign_existing_identity_if_we_assign_invalid_identities() {
    let space = Namespace::new("invalid-later").await;
    let valid = env().await.azure.identity("valid-first", 164).await;
    space.bind(&valid, "app").await;
    space.start(&impatient(space.pod("app", "app"))).await;
    assigned(&space, "app", &[&valid]).await;
    bind_invalid(&space, &valid).await;
    only_the_valid_one(&space, &valid).await;
    space.done().await;
}
