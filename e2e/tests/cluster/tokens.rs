//! Tokens in application containers, init containers, as any user, by every selector.

use serde_json::json;

use crate::env::env;
use crate::host;
use crate::namespace::{Answer, Namespace, curl, parse};

#[tokio::test]
async fn an_application_gets_the_identity_that_was_bound() {
    let space = Namespace::new("application").await;
    let identity = env().await.azure.identity("application", 1).await;
    space.bind(&identity, "app").await;
    space.start(&space.pod("app", "app")).await;

    let answer = space.token("app", "").await;
    answer.is_of(&identity);
    let Answer::Http(200, body) = answer else { unreachable!() };
    for field in
        ["access_token", "client_id", "expires_in", "expires_on", "ext_expires_in", "not_before"]
    {
        assert!(body[field].is_string(), "{field} must be a string: {}", body[field]);
    }
    assert_eq!(body["resource"], "https://vault.azure.net");
    assert_eq!(body["token_type"], "Bearer");
    space.done().await;
}

#[tokio::test]
async fn a_users_init_container_gets_a_token() {
    let space = Namespace::new("init").await;
    let identity = env().await.azure.identity("init", 2).await;
    space.bind(&identity, "app").await;
    let mut pod = space.pod("app", "app");
    let command = curl("");
    pod["spec"]["initContainers"] =
        json!([e2e::pods::container("first", &["bash", "-c", &command])]);
    space.start(&pod).await;
    let args = ["-n", &space.name, "logs", "app", "-c", "first"];
    parse(&space.env.kubectl(&args).await.unwrap()).is_of(&identity);
    space.done().await;
}

#[tokio::test]
async fn every_user_id_is_redirected_also_the_sidecars_own() {
    let space = Namespace::new("users").await;
    let identity = env().await.azure.identity("users", 3).await;
    space.bind(&identity, "app").await;
    for uid in [0, 1000, 65534, 65532] {
        let name = format!("uid-{uid}");
        let mut pod = space.pod(&name, "app");
        let security = &mut pod["spec"]["containers"][0]["securityContext"];
        security["runAsUser"] = json!(uid);
        security["runAsNonRoot"] = json!(uid != 0);
        space.start(&pod).await;
        space.token(&name, "").await.is_of(&identity);
        let instance = "curl -sS -o /dev/null -w '%{http_code}' -H Metadata:true 'http://169.254.169.254/metadata/instance?api-version=2021-02-01'";
        assert_eq!(space.exec(&name, instance).await.unwrap(), "404", "as {uid}");
    }
    space.done().await;
}

#[tokio::test]
async fn each_selector_finds_its_identity_among_two() {
    let space = Namespace::new("selectors").await;
    let azure = &env().await.azure;
    let (one, two) = (azure.identity("one", 4).await, azure.identity("two", 5).await);
    space.bind(&one, "both").await;
    space.bind(&two, "both").await;
    space.start(&space.pod("app", "both")).await;

    for identity in [&one, &two] {
        for selector in [
            format!("&client_id={}", identity.client_id),
            format!("&client_id={}", identity.client_id.to_uppercase()),
            format!("&object_id={}", identity.object_id),
            format!("&principal_id={}", identity.object_id),
            format!("&msi_res_id={}", identity.resource_id),
            format!("&mi_res_id={}", identity.resource_id.to_lowercase()),
            format!("&resource_id={}", identity.resource_id),
        ] {
            space.token("app", &selector).await.is_of(identity);
        }
    }
    space.token("app", "").await.is_refused("Multiple user assigned identities exist");
    let stranger = "&client_id=20000000-0000-0000-0000-000000000004";
    space.token("app", stranger).await.is_refused("Identity not found");
    space.done().await;
}

#[tokio::test]
async fn a_namespaced_identity_stays_in_its_namespace() {
    let home = Namespace::new("home").await;
    let away = Namespace::new("elsewhere").await;
    let azure = &env().await.azure;
    let (shared, kept) = (azure.identity("shared", 6).await, azure.identity("kept", 7).await);
    home.bind(&shared, "shared").await;
    home.bind(&kept, "kept").await;
    let annotate =
        ["annotate", "azureidentity", "kept", "aadpodidentity.k8s.io/Behavior=namespaced"];
    env().await.kubectl(&[&["-n", home.name.as_str()], &annotate[..]].concat()).await.unwrap();

    for (space, pod, selector) in
        [(&home, "kept", "kept"), (&away, "shared", "shared"), (&away, "stranger", "kept")]
    {
        let mut pod = e2e::pods::bound(space.pod(pod, ""), &home.selector(selector));
        pod["metadata"]["annotations"] = json!({"aadpodidentity.k8s.io/gate-timeout": "5s"});
        space.start(&pod).await;
    }
    home.token("kept", "").await.is_of(&kept);
    away.token("shared", "").await.is_of(&shared);
    away.token("stranger", "").await.is_refused("Identity not found");
    home.done().await;
    away.done().await;
}

#[tokio::test]
async fn a_process_on_the_node_asks_for_a_pods_token() {
    let space = Namespace::new("host").await;
    let identity = env().await.azure.identity("host", 8).await;
    space.bind(&identity, "app").await;
    space.start(&space.pod("app", "app")).await;

    let node = space.node_of("app").await;
    let ask = async |pod: &str| host::ask(&node, &[("podns", &space.name), ("podname", pod)]).await;
    let Answer::Http(200, body) = ask("app").await else { panic!("no token") };
    assert_eq!(body["clientid"], identity.client_id.as_str());
    Answer::Http(200, body["token"].clone()).is_of(&identity);
    let Answer::Http(status, body) = ask("nobody").await else { panic!("no answer") };
    assert_eq!(status, 404, "{body}");
    space.done().await;
}
