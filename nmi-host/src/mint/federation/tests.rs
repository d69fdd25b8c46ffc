//! Federated identities' tokens against an Entra on loopback, over TLS.

use std::collections::HashSet;
use std::sync::Arc;

use api::node_api::{Assertion, NodeError, NodeErrorCode, TokenResponse};
use api::{FederatedBy, TokenHash};
use axum::response::Response;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::testing::{ISSUER, account, assertion, assertion_for};
use crate::assigned::AssignedView;
use crate::assigned::testing::{federated, pod};
use crate::broker::Ask;
use crate::broker::testing::{Fixture, fixture_of};
use crate::caller::Caller;
use crate::jwt;
use crate::metrics::HostMetrics;
use crate::mint::principal::testing::{Entra, Form, TENANT, entra, refusal, token, token_with};
use crate::mint::{Imds, Minter};
use crate::pods::PodRef;
use crate::testing::{CLIENT, nowhere};

/// A node with an identity of this form for the pod of each service account.
struct Node {
    fixture: Fixture,
    entra: Entra,
    agents: tempfile::NamedTempFile,
}

async fn node(
    by: FederatedBy,
    accounts: &[&str],
    answer: impl Fn(&Form) -> Response + Clone + Send + Sync + 'static,
) -> Node {
    let entra = entra(answer).await;
    let agents = tempfile::NamedTempFile::new().unwrap();
    let imds = Imds::new(&format!("http://{}", nowhere()), HostMetrics::detached());
    let principals = entra.principals(Some(agents.path().to_owned()));
    let mut fixture = fixture_of(Minter::new(imds, principals, HostMetrics::detached()));
    fixture.assign(accounts.iter().map(|name| {
        let mut view = federated("db", CLIENT, by.clone());
        view.application.as_mut().unwrap().tenant = TENANT.parse().unwrap();
        AssignedView { pod: pod_of(name), ..view }
    }));
    Node { fixture, entra, agents }
}

fn pod_of(account: &str) -> PodRef {
    PodRef { uid: format!("uid-of-{account}"), ..pod() }
}

fn pod_with(account_name: &str) -> Caller {
    Caller { pod: pod_of(account_name), account: Some(account(account_name)) }
}

/// A pod asks, and sends an assertion or none.
async fn ask(
    node: &Node,
    caller: &Caller,
    assertion: Option<&Assertion>,
) -> Result<TokenResponse, NodeError> {
    let resource = "https://vault.azure.net".parse().unwrap();
    let assertion = assertion.cloned();
    let ask = Ask { assertion, ..Ask::of(resource) };
    node.fixture.broker.token(caller, &ask).await
}

/// A token that says whose assertion was shown for it.
fn for_subject(form: &Form) -> Response {
    let shown: Value = jwt::claims(&form["client_assertion"]).unwrap();
    let claims = json!({"aud": "r", "appid": CLIENT, "tid": TENANT, "shown": shown["sub"]});
    token_with(&claims, 3600)
}

fn shown_for(response: &TokenResponse) -> String {
    let claims: Value = jwt::claims(&response.access_token).unwrap();
    claims["shown"].as_str().unwrap().to_owned()
}

fn code(answer: Result<TokenResponse, NodeError>) -> NodeErrorCode {
    answer.unwrap_err().code
}

#[tokio::test]
async fn the_agent_shows_the_token_that_its_file_holds_now() {
    let node = node(FederatedBy::NodeAgent, &["web", "db"], for_subject).await;
    let mut held = Vec::new();
    for (caller, seconds) in [(pod_with("web"), 600), (Caller::of_node(pod_of("db")), 1200)] {
        let agents = assertion("nmi-host", seconds);
        std::fs::write(node.agents.path(), agents.secret()).unwrap();
        let resource = format!("https://{seconds}.example").parse().unwrap();
        let ask = Ask::of(resource);
        let response = node.fixture.broker.token(&caller, &ask).await.unwrap();
        assert_eq!(shown_for(&response), account("nmi-host").to_string());
        assert!(!response.assertion_wanted);
        held.push(agents);
    }
    let asked = node.entra.asked.lock();
    let (path, form) = &asked[0];
    assert_eq!(*path, format!("/{TENANT}/oauth2/v2.0/token"));
    assert_eq!(form["client_id"], CLIENT);
    assert_eq!(form["grant_type"], "client_credentials");
    assert_eq!(form["scope"], "https://600.example/.default");
    assert!(form["client_assertion_type"].ends_with("jwt-bearer"), "{form:?}");
    assert!(!form.contains_key("client_secret"));
    for ((_, form), agents) in asked.iter().zip(held) {
        assert_eq!(form["client_assertion"], agents.secret());
    }
}

#[tokio::test]
async fn an_agent_without_a_token_says_what_to_set() {
    let node = node(FederatedBy::NodeAgent, &["web"], for_subject).await;
    std::fs::remove_file(node.agents.path()).unwrap();
    let error = ask(&node, &pod_with("web"), None).await.unwrap_err();
    assert_eq!(error.code, NodeErrorCode::Refused);
    assert!(error.message.contains("nmiHost.federatedToken"), "{}", error.message);
    assert_eq!(node.entra.count(), 0);
}

#[tokio::test]
async fn a_pod_is_asked_for_its_assertion_once() {
    let node = node(FederatedBy::Pod, &["web"], for_subject).await;
    let web = pod_with("web");
    let error = ask(&node, &web, None).await.unwrap_err();
    assert_eq!(error.code, NodeErrorCode::AssertionRequired);
    assert_eq!(node.entra.count(), 0);
    let sent = assertion("web", 3600);
    let response = ask(&node, &web, Some(&sent)).await.unwrap();
    assert_eq!(shown_for(&response), account("web").to_string());
    assert_eq!(node.entra.asked.lock()[0].1["client_assertion"], sent.secret());
    let again = ask(&node, &web, None).await.unwrap();
    assert!(again.access_token == response.access_token && !again.assertion_wanted);
    assert_eq!(node.entra.count(), 1);
}

#[tokio::test]
async fn pods_of_one_service_account_share_a_token_and_others_do_not() {
    let mut node = node(FederatedBy::Pod, &["web", "db"], for_subject).await;
    let twin = PodRef { name: "web-1".to_owned(), uid: "uid-9".to_owned(), ..pod() };
    let view = federated("db", CLIENT, FederatedBy::Pod);
    let mut views: Vec<AssignedView> = [pod_of("web"), pod_of("db"), twin.clone()]
        .map(|pod| AssignedView { pod, ..view.clone() })
        .into();
    for view in &mut views {
        view.application.as_mut().unwrap().tenant = TENANT.parse().unwrap();
    }
    node.fixture.assign(views);
    ask(&node, &pod_with("web"), Some(&assertion("web", 3600))).await.unwrap();
    let twin = Caller { pod: twin, account: Some(account("web")) };
    assert!(ask(&node, &twin, None).await.is_ok());
    assert_eq!(node.entra.count(), 1);
    assert_eq!(code(ask(&node, &pod_with("db"), None).await), NodeErrorCode::AssertionRequired);
    // An assertion that is not its own gives a pod nothing, and leaves nothing behind.
    let stolen = assertion("web", 3000);
    let error = ask(&node, &pod_with("db"), Some(&stolen)).await.unwrap_err();
    assert_eq!(error.code, NodeErrorCode::Refused);
    assert!(error.message.contains("another service account"), "{}", error.message);
    assert_eq!(code(ask(&node, &pod_with("db"), None).await), NodeErrorCode::AssertionRequired);
    assert_eq!(node.entra.count(), 1);
}

#[tokio::test]
async fn a_process_of_the_node_is_told_to_use_the_other_form() {
    let node = node(FederatedBy::Pod, &["web"], for_subject).await;
    ask(&node, &pod_with("web"), Some(&assertion("web", 3600))).await.unwrap();
    let error = ask(&node, &Caller::of_node(pod_of("web")), None).await.unwrap_err();
    assert_eq!(error.code, NodeErrorCode::Refused);
    assert!(error.message.contains("use federatedBy: NodeAgent"), "{}", error.message);
}

#[tokio::test]
async fn a_bad_assertion_does_not_cost_a_pod_the_token_that_lives() {
    let node = node(FederatedBy::Pod, &["web"], for_subject).await;
    let web = pod_with("web");
    let good = assertion("web", 3600);
    ask(&node, &web, Some(&good)).await.unwrap();
    node.fixture.broker.assertions().forget(&account("web"), &good);
    for bad in [assertion("web", 0), assertion_for("web", "api://x", 60), Assertion::new("x")] {
        assert!(ask(&node, &web, Some(&bad)).await.is_ok());
    }
    assert_eq!(node.entra.count(), 1);
}

#[tokio::test]
async fn another_token_takes_an_assertion_too() {
    let node = node(FederatedBy::Pod, &["web"], for_subject).await;
    let web = pod_with("web");
    let sent = assertion("web", 3600);
    let first = ask(&node, &web, Some(&sent)).await.unwrap();
    node.fixture.broker.assertions().forget(&account("web"), &sent);
    let rejecting = |assertion| Ask {
        rejected: Some(TokenHash::of(&first.access_token)),
        assertion,
        ..Ask::of("https://vault.azure.net".parse().unwrap())
    };
    let broker = &node.fixture.broker;
    assert_eq!(code(broker.token(&web, &rejecting(None)).await), NodeErrorCode::AssertionRequired);
    // Better the token that somebody rejects than none.
    assert!(broker.token(&web, &rejecting(Some(Assertion::new("x")))).await.is_ok());
    assert_eq!(node.entra.count(), 1);
}

#[tokio::test]
async fn an_assertion_is_wanted_again_when_the_token_ages() {
    // Two thirds of its life are over.
    let aging = |_: &Form| {
        let begun = crate::mint::unix(std::time::SystemTime::now()) - 7200;
        token_with(&json!({"aud": "r", "appid": CLIENT, "tid": TENANT, "nbf": begun}), 3600)
    };
    let node = node(FederatedBy::Pod, &["web"], aging).await;
    let web = pod_with("web");
    let sent = assertion("web", 3600);
    assert!(!ask(&node, &web, Some(&sent)).await.unwrap().assertion_wanted, "it is here");
    node.fixture.broker.assertions().forget(&account("web"), &sent);
    assert!(ask(&node, &web, None).await.unwrap().assertion_wanted);
    let next = assertion("web", 3500);
    assert!(!ask(&node, &web, Some(&next)).await.unwrap().assertion_wanted);
}

#[tokio::test]
async fn a_missing_federated_credential_is_told_with_the_command() {
    let unmatched = |_: &Form| {
        let text = "AADSTS70021: No matching federated identity record found.\r\nTrace ID: 1";
        refusal(401, "invalid_client", text)
    };
    for (by, subject) in [(FederatedBy::Pod, "web"), (FederatedBy::NodeAgent, "nmi-host")] {
        let node = node(by, &["web"], unmatched).await;
        std::fs::write(node.agents.path(), assertion("nmi-host", 600).secret()).unwrap();
        let sent = assertion("web", 3600);
        let error = ask(&node, &pod_with("web"), Some(&sent)).await.unwrap_err();
        assert_eq!(error.code, NodeErrorCode::Refused);
        for part in [
            "Entra refused: AADSTS70021",
            "az identity federated-credential create",
            &format!("--issuer '{ISSUER}'"),
            &format!("--subject 'system:serviceaccount:team:{subject}'"),
        ] {
            assert!(error.message.contains(part), "{part}: {}", error.message);
        }
        assert!(!error.message.contains(sent.secret()));
    }
}

#[tokio::test]
async fn what_entra_refused_is_not_shown_again() {
    let node = node(FederatedBy::Pod, &["web"], |form| {
        refusal(401, "invalid_client", &format!("AADSTS700024: {}", form["client_assertion"]))
    })
    .await;
    let sent = assertion("web", 3600);
    let error = ask(&node, &pod_with("web"), Some(&sent)).await.unwrap_err();
    assert_eq!(error.message, "Entra refused: AADSTS700024: (removed)");
    assert_eq!(code(ask(&node, &pod_with("web"), None).await), NodeErrorCode::AssertionRequired);
}

#[tokio::test]
async fn an_assertion_leaves_for_vouched_endpoints_only() {
    let mut node = node(FederatedBy::Pod, &["web"], for_subject).await;
    let mut view = federated("db", CLIENT, FederatedBy::Pod);
    view.pod = pod_of("web");
    view.application.as_mut().unwrap().ad_endpoint = Some("https://evil.example".to_owned());
    node.fixture.assign([view]);
    let error = ask(&node, &pod_with("web"), Some(&assertion("web", 60))).await.unwrap_err();
    assert_eq!(error.code, NodeErrorCode::Refused);
    assert!(error.message.contains("nmiHost.allowedAuthorityHosts"), "{}", error.message);
    assert_eq!(node.entra.count(), 0);
}

#[tokio::test]
async fn a_token_of_another_identity_or_tenant_is_dropped() {
    let other = "00000000-0000-0000-0000-00000000000b";
    for (client, tenant, words) in
        [(other, TENANT, "another identity"), (CLIENT, other, "another tenant")]
    {
        let node = node(FederatedBy::Pod, &["web"], move |_| token(client, tenant)).await;
        let sent = assertion("web", 3600);
        let error = ask(&node, &pod_with("web"), Some(&sent)).await.unwrap_err();
        assert!(error.message.contains(words), "{}", error.message);
    }
}

/// One request: by the pod of which account, with the assertion of which account.
type Step = (usize, Option<usize>);

const ACCOUNTS: [&str; 3] = ["web", "db", "job"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whoever sends whatever in whatever order, at the same time or not.
    #[test]
    fn a_pod_gets_only_what_was_minted_for_its_own_service_account(
        rounds in prop::collection::vec(
            prop::collection::vec((0..3_usize, prop::option::of(0..3_usize)), 1..6), 1..6)
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(run(rounds))?;
    }
}

async fn run(rounds: Vec<Vec<Step>>) -> Result<(), TestCaseError> {
    let node = Arc::new(node(FederatedBy::Pod, &ACCOUNTS, for_subject).await);
    // Who sent his own assertion in an earlier round must be served; who never did must not.
    let mut sent: HashSet<usize> = HashSet::new();
    for round in rounds {
        let asking = round.iter().map(|(who, whose)| {
            let node = node.clone();
            let whose = whose.map(|number| assertion(ACCOUNTS[number], 3600));
            let caller = pod_with(ACCOUNTS[*who]);
            tokio::spawn(async move { ask(&node, &caller, whose.as_ref()).await })
        });
        let answers = futures::future::join_all(asking).await;
        let own = |(who, whose): &Step| *whose == Some(*who);
        let now: HashSet<usize> = round.iter().filter(|step| own(step)).map(|s| s.0).collect();
        for ((who, whose), answer) in round.iter().zip(answers) {
            match answer.unwrap() {
                Ok(response) => {
                    prop_assert_eq!(shown_for(&response), account(ACCOUNTS[*who]).to_string());
                    prop_assert!(sent.contains(who) || now.contains(who), "it sent nothing");
                }
                Err(error) => {
                    prop_assert!(!sent.contains(who) && *whose != Some(*who), "{}", error);
                    let expected = match whose {
                        None => NodeErrorCode::AssertionRequired,
                        Some(_) => NodeErrorCode::Refused,
                    };
                    prop_assert_eq!(error.code, expected);
                }
            }
        }
        sent.extend(now);
    }
    prop_assert!(node.entra.count() <= ACCOUNTS.len(), "one exchange for each account");
    Ok(())
}
