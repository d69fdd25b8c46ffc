//! The ARM client against scripted answers: what is sent, in which order, and what is made of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::cloud::{Cloud, CloudName, CustomEndpoints};
use api::{Guid, Host};
use runtime::Metrics;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::fixtures::{SUBSCRIPTION, delta, id, scale_set, vm};
use super::scripted::{Answer, Script, Token};
use super::{ArmClient, ArmError, Compute, HostIdentities, ThrottleScope};

const OPERATION: &str = "https://management.azure.com/subscriptions/s/providers/Microsoft.Compute/locations/we/operations/1?api-version=2024-07-01";

fn client(script: &Arc<Script>) -> ArmClient {
    let cloud = Cloud::new(CloudName::AzurePublicCloud, CustomEndpoints::default()).unwrap();
    ArmClient::new(&cloud, Arc::new(Token), script.transport()).unwrap()
}

fn guid(name: &str) -> Guid {
    format!(
        "00000000-0000-0000-0000-{:012x}",
        name.bytes().fold(0u64, |n, b| n * 256 + u64::from(b))
    )
    .parse()
    .unwrap()
}

fn host_in(state: &str, kind: &str, attached: &[&str], etag: Option<&str>) -> Value {
    let identities: serde_json::Map<String, Value> = attached
        .iter()
        .map(|name| (id(name).to_string(), json!({"clientId": guid(name).as_str()})))
        .collect();
    let mut body = json!({
        "id": "x",
        "identity": {"type": kind, "userAssignedIdentities": identities},
        "properties": {"provisioningState": state},
    });
    if let Some(etag) = etag {
        body["etag"] = json!(etag);
    }
    body
}

/// A host with these identities, at rest.
fn host(attached: &[&str]) -> Answer {
    Answer::json(200, &host_in("Succeeded", "UserAssigned", attached, None))
}

fn versioned(attached: &[&str], etag: &str) -> Answer {
    Answer::json(200, &host_in("Succeeded", "UserAssigned", attached, Some(etag)))
}

/// PATCH accepted; as on the real ARM the host still looks as before.
fn accepted(attached: &[&str]) -> Answer {
    Answer::json(202, &host_in("Updating", "UserAssigned", attached, None))
        .with("azure-asyncoperation", OPERATION)
        .with("retry-after", "10")
}

fn operation(status: &str) -> Answer {
    Answer::json(200, &json!({"status": status})).with("retry-after", "10")
}

fn refusal(status: u16, code: &str, message: &str) -> Answer {
    Answer::json(status, &json!({"error": {"code": code, "message": message}}))
}

fn names(identities: &HostIdentities) -> Vec<&str> {
    identities.attached.keys().map(|id| id.arm_id().name()).collect()
}

async fn get_and_patch(
    client: &ArmClient,
    host: &Host,
    (attach, detach): (&[&str], &[&str]),
) -> Result<HostIdentities, ArmError> {
    let current = client.get(host).await?;
    Ok(client.patch(host, &current, &delta(attach, detach)).await?.identities)
}

#[tokio::test]
async fn requests_say_who_asks_for_what() {
    let script = Script::new([host(&[]), host(&["a"])]);
    let client = client(&script);
    get_and_patch(&client, &scale_set(), (&["a"], &[])).await.unwrap();
    let asked = script.asked();
    let url = format!(
        "https://management.azure.com/subscriptions/{SUBSCRIPTION}/resourceGroups/MC_rg/providers/Microsoft.Compute/virtualMachineScaleSets/aks-nodes-vmss?api-version=2024-07-01"
    );
    for request in &asked {
        assert_eq!(request.url, url);
        let agent = request.header("user-agent").unwrap();
        assert_eq!(agent, format!("pod-identity-sidecar/{}", env!("CARGO_PKG_VERSION")));
        let token = request.header("authorization").unwrap();
        assert_eq!(token, "Bearer token for https://management.azure.com/.default");
        assert!(request.header("x-ms-client-request-id").is_some());
    }
    assert_eq!(script.methods(), ["GET", "PATCH"]);
    assert_eq!(asked[1].header("content-type").as_deref(), Some("application/json"));
}

#[tokio::test]
async fn a_synchronous_patch_needs_no_other_request() {
    let script = Script::new([host(&["other"]), host(&["a", "other"])]);
    let client = client(&script);
    let after = get_and_patch(&client, &vm(), (&["A"], &[])).await.unwrap();
    assert_eq!(after.attached[&id("a")].client_id, Some(guid("a")));
    assert_eq!(names(&after), ["a", "other"]);
    let sent = json!({"identity": {
        "type": "UserAssigned",
        "userAssignedIdentities": {id("A").as_str(): {}},
    }});
    assert_eq!(script.patches(), [sent]);
}

#[tokio::test]
async fn a_system_assigned_identity_survives_both_ways() {
    let kind = "SystemAssigned, UserAssigned";
    let both = |attached| Answer::json(200, &host_in("Succeeded", kind, attached, None));
    let system = Answer::json(200, &host_in("Succeeded", "SystemAssigned", &[], None));
    let script = Script::new([system.clone(), both(&["a"]), system]);
    let client = client(&script);
    let after = get_and_patch(&client, &vm(), (&["a"], &[])).await.unwrap();
    let after = client.patch(&vm(), &after, &delta(&[], &["a"])).await.unwrap().identities;
    assert!(after.system_assigned && after.attached.is_empty());
    let types: Vec<_> =
        script.patches().iter().map(|body| body["identity"]["type"].clone()).collect();
    assert_eq!(types, [kind, "SystemAssigned"]);
}

#[tokio::test]
async fn nothing_to_do_is_no_request() {
    let script = Script::new([host(&["a"])]);
    let client = client(&script);
    let current = client.get(&vm()).await.unwrap();
    for change in [delta(&[], &[]), delta(&["A"], &["b"])] {
        assert_eq!(client.patch(&vm(), &current, &change).await.unwrap().identities, current);
    }
    assert_eq!(script.methods(), ["GET"]);
}

#[tokio::test]
async fn a_host_that_is_being_deleted_takes_no_changes() {
    let deleting = Answer::json(200, &host_in("Deleting", "None", &[], None));
    let script = Script::new([deleting]);
    let error = get_and_patch(&client(&script), &vm(), (&["a"], &[])).await.unwrap_err();
    assert_eq!(error, ArmError::HostDeleting { host: vm() });
}

#[tokio::test(start_paused = true)]
async fn the_end_of_an_operation_is_seen_soon_and_the_details_are_read() {
    let mut answers = vec![host(&[]), accepted(&[])];
    answers.extend((0..8).map(|_| operation("InProgress")));
    answers.extend([operation("Succeeded"), host(&["a"])]);
    let script = Script::new(answers);
    let client = client(&script);
    let start = Instant::now();
    let after = get_and_patch(&client, &scale_set(), (&["a"], &[])).await.unwrap();
    assert_eq!(after.attached[&id("a")].client_id, Some(guid("a")));
    let waited = start.elapsed();
    assert!(waited < Duration::from_secs(2), "ARM's 10 s are not waited for: {waited:?}");
    let polls: Vec<_> = script.asked().into_iter().filter(|asked| asked.url == OPERATION).collect();
    assert_eq!(polls.len(), 9);
    let gap = polls.windows(2).map(|pair| pair[1].at - pair[0].at).max().unwrap();
    assert!(gap <= Duration::from_millis(300), "{gap:?}");
}

#[tokio::test(start_paused = true)]
async fn detaching_asynchronously_reads_nothing_afterwards() {
    let script = Script::new([host(&["a", "b"]), accepted(&["a", "b"]), operation("Succeeded")]);
    let client = client(&script);
    let after = get_and_patch(&client, &scale_set(), (&[], &["a"])).await.unwrap();
    assert_eq!(names(&after), ["b"]);
    assert_eq!(after.attached[&id("b")].client_id, Some(guid("b")));
    assert_eq!(after.provisioning_state.as_deref(), Some("Succeeded"));
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_fails_is_an_error_with_arms_words() {
    let message = format!("Resource '{}' was not found.", id("b"));
    let failed = json!({
        "status": "Failed",
        "error": {"code": "FailedIdentityOperation", "message": message},
    });
    let script = Script::new([host(&[]), accepted(&[]), Answer::json(200, &failed)]);
    let error = get_and_patch(&client(&script), &vm(), (&["a", "b"], &[])).await.unwrap_err();
    let ArmError::IdentityRefused { identities, .. } = error.cause() else { panic!("{error:?}") };
    assert_eq!(identities, &[id("b")]);
    assert!(!error.changed_nothing(), "the other one may be there");
}

#[tokio::test(start_paused = true)]
async fn trouble_while_polling_does_not_lose_the_operation() {
    let script = Script::new([
        host(&[]),
        accepted(&[]),
        refusal(503, "ServerTimeout", "later"),
        refusal(429, "TooManyRequests", "throttled").with("retry-after", "30"),
        Answer::Refused, // three tries
        Answer::Refused,
        Answer::Refused,
        operation("Succeeded"),
        host(&["a"]),
    ]);
    let client = client(&script);
    let start = Instant::now();
    let after = get_and_patch(&client, &vm(), (&["a"], &[])).await.unwrap();
    assert_eq!(names(&after), ["a"]);
    assert!(start.elapsed() >= Duration::from_secs(30), "a throttled poll is not hurried");
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_is_told_to_wait_waits_and_beyond_the_deadline_says_how_long() {
    let throttled = |wait| refusal(429, "TooManyRequests", "slow").with("retry-after", wait);
    let later = |wait| refusal(503, "ServerTimeout", "later").with("retry-after", wait);
    for (answer, wait, code) in [
        (throttled("900"), 900, "throttled"),
        (later("900"), 900, "unavailable"),
        (throttled("18446744073709551615"), u64::MAX, "throttled"),
    ] {
        let script = Script::new([host(&[]), accepted(&[]), answer]);
        let error = get_and_patch(&client(&script), &vm(), (&["a"], &[])).await.unwrap_err();
        assert_eq!((error.code(), error.changed_nothing()), (code, false));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(wait)));
    }
    for (answer, wait) in [(throttled("30"), 30_000), (later("30"), 30_000), (throttled("0"), 200)]
    {
        let script =
            Script::new([host(&[]), accepted(&[]), answer, operation("Succeeded"), host(&["a"])]);
        get_and_patch(&client(&script), &vm(), (&["a"], &[])).await.unwrap();
        let asked = script.asked();
        assert_eq!(asked[3].at - asked[2].at, Duration::from_millis(wait));
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_is_looked_at_again_runs_out_of_time_of_its_own() {
    let throttled = refusal(429, "TooManyRequests", "slow").with("retry-after", "500");
    let mut answers = vec![host(&[]), accepted(&[]), throttled];
    answers.extend((0..300).map(|_| operation("InProgress")));
    let error = get_and_patch(&client(&Script::new(answers)), &vm(), (&["a"], &[])).await;
    assert_eq!(error.unwrap_err(), ArmError::TimedOut { after: Duration::from_secs(600) });
}

#[tokio::test(start_paused = true)]
async fn an_operation_without_end_is_given_up() {
    let mut answers = vec![host(&[]), accepted(&[])];
    answers.extend((0..500).map(|_| operation("InProgress")));
    let script = Script::new(answers);
    let error = get_and_patch(&client(&script), &vm(), (&["a"], &[])).await.unwrap_err();
    assert_eq!(error, ArmError::TimedOut { after: Duration::from_secs(600) });
    assert!(error.is_transient());
}

#[tokio::test(start_paused = true)]
async fn a_location_or_the_host_itself_can_be_followed() {
    let location = Answer::Reply { status: 202, headers: vec![], body: String::new() }
        .with("location", OPERATION);
    let running = Answer::Reply { status: 202, headers: vec![], body: String::new() };
    let updating = Answer::json(200, &host_in("Updating", "UserAssigned", &["a"], None));
    for (begun, then) in [
        (location, vec![running, host(&["a"])]),
        (updating.clone(), vec![updating.clone(), host(&["a"])]),
        (accepted(&[]), vec![refusal(404, "NotFound", "gone"), updating, host(&["a"])]),
    ] {
        let mut answers = vec![host(&[]), begun];
        answers.extend(then);
        let script = Script::new(answers);
        let after = get_and_patch(&client(&script), &vm(), (&["a"], &[])).await.unwrap();
        assert_eq!(names(&after), ["a"]);
        assert_eq!(after.attached[&id("a")].client_id, Some(guid("a")));
    }
}

#[tokio::test(start_paused = true)]
async fn the_token_goes_to_arm_only() {
    let elsewhere = Answer::json(202, &json!({}))
        .with("azure-asyncoperation", "https://evil.example/operations/1")
        .with("location", "http://management.azure.com/operations/1");
    let script = Script::new([host(&[]), elsewhere, host(&["a"])]);
    get_and_patch(&client(&script), &vm(), (&["a"], &[])).await.unwrap();
    for request in script.asked() {
        assert!(request.url.starts_with("https://management.azure.com/"), "{}", request.url);
    }
}

/// More than one request holds.
const MANY: usize = 200;

fn numbered() -> Vec<String> {
    (0..MANY).map(|n| format!("id{n:03}")).collect()
}

#[tokio::test]
async fn many_identities_go_in_several_requests() {
    let new = numbered();
    let new: Vec<&str> = new.iter().map(String::as_str).collect();
    let script = Script::new([host(&[]), host(&new[..150]), host(&new)]);
    let after = get_and_patch(&client(&script), &vm(), (&new, &[])).await.unwrap();
    assert_eq!(after.attached.len(), MANY);
    let sizes: Vec<_> = script
        .patches()
        .iter()
        .map(|body| body["identity"]["userAssignedIdentities"].as_object().unwrap().len())
        .collect();
    assert_eq!(sizes, [150, 50]);
}

#[tokio::test(start_paused = true)]
async fn throttling_is_reported_at_once_and_not_retried() {
    let throttled = refusal(429, "TooManyRequests", "slow down").with("retry-after", "60");
    let script = Script::new([throttled.clone(), host(&[]), throttled]);
    let client = client(&script);
    let start = Instant::now();
    let expected = ArmError::Throttled {
        scope: ThrottleScope::Host,
        retry_after: Some(Duration::from_secs(60)),
    };
    assert_eq!(client.get(&vm()).await.unwrap_err(), expected);
    let error = get_and_patch(&client, &vm(), (&["a"], &[])).await.unwrap_err();
    assert_eq!(error, expected);
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(script.methods(), ["GET", "GET", "PATCH"]);
}

#[tokio::test(start_paused = true)]
async fn a_hiccup_is_retried_twice_an_outage_is_reported() {
    let error = refusal(502, "BadGateway", "oops");
    let script = Script::new([error.clone(), Answer::Refused, host(&["a"])]);
    assert_eq!(names(&client(&script).get(&vm()).await.unwrap()), ["a"]);
    let script = Script::new([error.clone(), error.clone(), error]);
    let result = client(&script).get(&vm()).await.unwrap_err();
    assert_eq!(result.code(), "unavailable");
    let once = client(&Script::new([refusal(500, "InternalServerError", "oops")]));
    assert_eq!(once.get(&vm()).await.unwrap_err().code(), "unavailable");
    let later = refusal(503, "ServerTimeout", "later").with("retry-after", "7");
    let result = client(&Script::new([later])).get(&vm()).await.unwrap_err();
    assert_eq!(result.retry_after(), Some(Duration::from_secs(7)));
}

#[tokio::test(start_paused = true)]
async fn a_change_without_an_answer_is_sent_once_and_may_have_been_made() {
    let gateway = |status| refusal(status, "Gateway", "no answer from behind");
    for lost in [gateway(502), gateway(504), Answer::Refused, Answer::Silence] {
        // The second try would meet what the first one did.
        let script = Script::new([
            versioned(&[], "\"1\""),
            lost.clone(),
            refusal(412, "PreconditionFailed", "The etag does not match."),
            versioned(&["a"], "\"2\""),
        ]);
        let error = get_and_patch(&client(&script), &vm(), (&["a"], &[])).await.unwrap_err();
        assert!(!error.changed_nothing() && error.is_transient(), "{lost:?}: {error:?}");
        assert_eq!(script.methods(), ["GET", "PATCH"], "{lost:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_request_is_counted_with_its_answer() {
    let script = Script::new([
        refusal(502, "BadGateway", "oops"), // and once more
        host(&[]),
        accepted(&[]),
        operation("InProgress"),
        refusal(429, "TooManyRequests", "slow"),
        operation("Succeeded"),
        host(&["a"]),
        refusal(403, "AuthorizationFailed", "no"),
        Answer::Silence,
    ]);
    let (client, metrics) = (client(&script), Metrics::new("test", "0"));
    client.register(&metrics);
    let after = get_and_patch(&client, &vm(), (&["a"], &[])).await.unwrap();
    client.patch(&vm(), &after, &delta(&["b"], &[])).await.unwrap_err();
    client.get(&vm()).await.unwrap_err();
    let text = metrics.text();
    let counted: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("podidentity_arm_requests_total"))
        .collect();
    let expected = [
        r#"{request="get",answer="ok"} 2"#,
        r#"{request="get",answer="failed"} 1"#,
        r#"{request="get",answer="none"} 1"#,
        r#"{request="patch",answer="ok"} 1"#,
        r#"{request="patch",answer="refused"} 1"#,
        r#"{request="poll",answer="ok"} 2"#,
        r#"{request="poll",answer="throttled"} 1"#,
    ];
    assert_eq!(counted, BTreeSet::from(expected));
}

#[tokio::test(start_paused = true)]
async fn silence_has_an_end() {
    let error = client(&Script::new([Answer::Silence])).get(&vm()).await.unwrap_err();
    assert!(matches!(error, ArmError::TimedOut { .. }), "{error:?}");
}

#[tokio::test]
async fn what_is_no_host_is_not_taken_for_an_empty_one() {
    let page = Answer::Reply { status: 200, headers: vec![], body: "<html>".to_owned() };
    let error = client(&Script::new([page])).get(&vm()).await.unwrap_err();
    assert_eq!(error.code(), "unavailable");
    let gone = refusal(404, "ResourceNotFound", "The Resource was not found.");
    let error = client(&Script::new([gone])).get(&vm()).await.unwrap_err();
    assert_eq!(error, ArmError::HostNotFound { host: vm() });
}

// === changes by others ===

#[tokio::test]
async fn a_change_is_sent_for_the_version_that_was_seen() {
    let script = Script::new([
        versioned(&[], "\"1\""),
        versioned(&["a"], "\"2\""),
        versioned(&["a", "b"], "\"3\""),
    ]);
    let client = client(&script);
    let after = get_and_patch(&client, &vm(), (&["a"], &[])).await.unwrap();
    client.patch(&vm(), &after, &delta(&["b"], &[])).await.unwrap();
    let versions: Vec<_> = script.asked().iter().map(|asked| asked.header("if-match")).collect();
    assert_eq!(versions, [None, Some("\"1\"".to_owned()), Some("\"2\"".to_owned())]);
}

#[tokio::test]
async fn the_last_detach_does_not_sweep_away_what_another_attached_meanwhile() {
    let script = Script::new([
        versioned(&["ours"], "\"1\""),
        refusal(412, "PreconditionFailed", "The etag does not match."),
        versioned(&["ours", "theirs"], "\"2\""),
        versioned(&["theirs"], "\"3\""),
    ]);
    let after = get_and_patch(&client(&script), &vm(), (&[], &["ours"])).await.unwrap();
    assert_eq!(names(&after), ["theirs"]);
    let kinds: Vec<_> =
        script.patches().iter().map(|body| body["identity"]["type"].clone()).collect();
    assert_eq!(kinds, ["None", "UserAssigned"]);
    assert_eq!(script.asked()[3].header("if-match").as_deref(), Some("\"2\""));
}

#[tokio::test]
async fn what_another_attached_meanwhile_is_told_from_what_we_attach() {
    let script = Script::new([
        versioned(&[], "\"1\""),
        refusal(412, "PreconditionFailed", "The etag does not match."),
        versioned(&["theirs"], "\"2\""),
        versioned(&["ours", "theirs"], "\"3\""),
    ]);
    let client = client(&script);
    let current = client.get(&vm()).await.unwrap();
    let change = delta(&["ours", "theirs"], &[]);
    let patched = client.patch(&vm(), &current, &change).await.unwrap();
    assert_eq!(names(&patched.identities), ["ours", "theirs"]);
    assert_eq!(patched.found, delta(&["theirs"], &[]).attach);
}

#[tokio::test]
async fn what_an_earlier_request_of_the_change_attached_is_not_found_but_made() {
    let new = numbered();
    let new: Vec<&str> = new.iter().map(String::as_str).collect();
    let first = [&new[..150], &["id170"]].concat();
    let script = Script::new([
        versioned(&["id170"], "\"1\""),
        versioned(&first, "\"2\""),
        refusal(412, "PreconditionFailed", "The etag does not match."),
        versioned(&[&first[..], &["id160"]].concat(), "\"3\""),
        versioned(&new, "\"4\""),
    ]);
    let client = client(&script);
    let current = client.get(&vm()).await.unwrap();
    let patched = client.patch(&vm(), &current, &delta(&new, &[])).await.unwrap();
    assert_eq!(patched.identities.attached.len(), MANY);
    assert_eq!(patched.found, delta(&["id160", "id170"], &[]).attach);
}

#[tokio::test]
async fn a_refusal_after_a_request_that_was_taken_is_not_nothing() {
    let new = numbered();
    let new: Vec<&str> = new.iter().map(String::as_str).collect();
    let denied = || refusal(403, "AuthorizationFailed", "does not have authorization");
    let script = Script::new([host(&[]), host(&new[..150]), denied(), host(&[]), denied()]);
    let client = client(&script);
    for certain in [false, true] {
        let error = get_and_patch(&client, &vm(), (&new, &[])).await.unwrap_err();
        assert!(matches!(error.cause(), ArmError::Forbidden { .. }), "{error:?}");
        assert_eq!(error.changed_nothing(), certain);
    }
}

#[tokio::test]
async fn a_host_that_keeps_changing_is_a_conflict() {
    let changed = refusal(412, "PreconditionFailed", "The etag does not match.");
    let script =
        Script::new([versioned(&[], "\"1\""), changed.clone(), versioned(&[], "\"2\""), changed]);
    let error = get_and_patch(&client(&script), &vm(), (&["a"], &[])).await.unwrap_err();
    assert_eq!(error.code(), "conflict");
}

#[tokio::test(start_paused = true)]
async fn without_versions_an_old_view_is_looked_at_again() {
    let ours = ["ours"].as_slice();
    for (age, detach, fresh) in [
        (1, ours, true),   // the last identity, just seen
        (60, ours, false), // the last identity, seen a while ago
        (60, [].as_slice(), true),
        (600, [].as_slice(), false),
    ] {
        let attach: &[&str] = if detach.is_empty() { &["new"] } else { &[] };
        let reply = if detach.is_empty() { host(&["new", "ours"]) } else { host(&[]) };
        let mut answers = vec![host(ours)];
        answers.extend((!fresh).then(|| host(ours)));
        answers.push(reply);
        let script = Script::new(answers);
        let client = client(&script);
        let current = client.get(&vm()).await.unwrap();
        tokio::time::advance(Duration::from_secs(age)).await;
        client.patch(&vm(), &current, &delta(attach, detach)).await.unwrap();
        let reads = script.methods().iter().filter(|method| *method == "GET").count();
        assert_eq!(reads, if fresh { 1 } else { 2 }, "{age} s, detach {detach:?}");
    }
}

#[tokio::test]
async fn a_view_that_is_not_ours_is_looked_at_again() {
    let script = Script::new([host(&["a"]), host(&["a", "b"])]);
    let invented = HostIdentities::default();
    let after =
        client(&script).patch(&vm(), &invented, &delta(&["b"], &[])).await.unwrap().identities;
    assert_eq!(names(&after), ["a", "b"]);
    assert_eq!(script.methods(), ["GET", "PATCH"]);
}

#[tokio::test]
async fn after_a_refusal_the_host_is_looked_at_again() {
    let conflict = refusal(409, "Conflict", "conflict with a concurrent request");
    let script = Script::new([host(&[]), conflict, host(&[]), host(&["a"])]);
    let client = client(&script);
    let current = client.get(&vm()).await.unwrap();
    let error = client.patch(&vm(), &current, &delta(&["a"], &[])).await.unwrap_err();
    assert_eq!(error.code(), "conflict");
    client.patch(&vm(), &current, &delta(&["a"], &[])).await.unwrap();
    assert_eq!(script.methods(), ["GET", "PATCH", "GET", "PATCH"]);
}

#[tokio::test(start_paused = true)]
async fn success_that_changed_nothing_is_reported_as_it_is() {
    let script = Script::new([host(&[]), accepted(&[]), operation("Succeeded"), host(&[])]);
    let after = get_and_patch(&client(&script), &vm(), (&["a"], &[])).await.unwrap();
    assert!(after.attached.is_empty());
}
