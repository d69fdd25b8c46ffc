//! The metadata service.

use std::time::Duration;

use fake_azure::seed;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fixture::{client, demo, read, second, start};

#[tokio::test]
async fn a_token_comes_in_eight_string_fields_and_belongs_to_the_attached_identity() {
    let fixture = start().await;
    let (status, body) = fixture.imds("").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let fields: Vec<_> = body.as_object().unwrap().keys().cloned().collect();
    let expected = [
        "access_token",
        "client_id",
        "expires_in",
        "expires_on",
        "ext_expires_in",
        "not_before",
        "resource",
        "token_type",
    ];
    assert_eq!(fields, expected);
    assert!(body.as_object().unwrap().values().all(Value::is_string), "{body}");
    assert_eq!(body["expires_in"], "86400");

    let claims = fixture.claims(&body);
    assert_eq!(claims.aud, "https://vault.azure.net");
    assert_eq!(claims.exp.to_string(), body["expires_on"].as_str().unwrap());
    assert!(claims.xms_mirid.unwrap().ends_with("/nodes-agentpool"));
    assert_eq!(claims.appid.as_str(), body["client_id"].as_str().unwrap());
    assert_eq!((claims.ver.as_str(), claims.idtyp.as_str()), ("1.0", "app"));
    assert_eq!(claims.tid.as_str(), seed::TENANT);
}

#[tokio::test]
async fn malformed_requests_are_refused_in_the_words_of_the_real_service() {
    let fixture = start().await;
    let base = format!("{}/metadata/identity/oauth2/token", fixture.fake.imds_url());
    let ok = "?api-version=2018-02-01&resource=r";
    let header = Some(("Metadata", "true"));
    for (method, query, headers, status, description) in [
        (Method::GET, ok, None, 400, "Required metadata header not specified"),
        (
            Method::GET,
            ok,
            Some(("Metadata", "false")),
            400,
            "Required metadata header not specified",
        ),
        (
            Method::GET,
            "?api-version=2018-02-01",
            header,
            400,
            "Required query variable 'resource' is missing",
        ),
        (
            Method::GET,
            "?api-version=2018-02-01&resource=api://unknown-x",
            header,
            400,
            "AADSTS500011",
        ),
    ] {
        let mut request = fixture.http.request(method, format!("{base}{query}"));
        if let Some((name, value)) = headers {
            request = request.header(name, value);
        }
        let (found, body) = read(request.send().await.unwrap()).await;
        assert_eq!(found.as_u16(), status, "{query} {headers:?}");
        let text = body["error_description"].as_str().unwrap();
        assert!(text.starts_with(description), "{text}");
    }
    let forwarded = fixture.http.get(format!("{base}{ok}"));
    let forwarded = forwarded.header("Metadata", "true").header("X-Forwarded-For", "10.0.0.1");
    assert_eq!(forwarded.send().await.unwrap().status(), StatusCode::BAD_REQUEST);

    let old = fixture.http.get(format!("{base}?api-version=2017-01-01")).header("Metadata", "true");
    let (status, body) = read(old.send().await.unwrap()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body["newest-versions"].is_array(), "{body}");

    let post = fixture.http.post(format!("{base}{ok}")).header("Metadata", "true");
    assert_eq!(post.send().await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    let unknown = format!("{}/metadata/identity/getplatformmetadata", fixture.fake.imds_url());
    assert_eq!(fixture.http.get(unknown).send().await.unwrap().status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn only_attached_identities_are_answered() {
    let fixture = start().await;
    let selector = format!("&msi_res_id={}", demo());
    let not_found = json!({"error": "invalid_request", "error_description": "Identity not found"});
    assert_eq!(fixture.imds(&selector).await, (StatusCode::BAD_REQUEST, not_found.clone()));

    fixture.attach(&seed::scale_set_id(), &[demo()]).await;
    let (status, body) = fixture.imds(&selector).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(fixture.claims(&body).xms_mirid.unwrap(), demo().as_str());

    let (status, body) = fixture.imds("").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(
        body["error_description"],
        "Multiple user assigned identities exist, please specify the clientId / resourceId of the \
         identity in the token request"
    );

    let body = json!({"host": seed::scale_set_id(), "identities": [demo()]});
    fixture.ask(Method::POST, "/_fake/hosts/detach", body).await;
    assert_eq!(fixture.imds(&selector).await, (StatusCode::BAD_REQUEST, not_found));
}

#[tokio::test]
async fn an_identity_is_not_found_until_it_has_propagated() {
    let fixture = start().await;
    fixture.faults(json!({"propagation_delay_ms": 3_600_000})).await;
    fixture.attach(&seed::scale_set_id(), &[demo()]).await;
    let selector = format!("&mi_res_id={}", demo());
    assert_eq!(fixture.imds(&selector).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(fixture.imds("").await.0, StatusCode::OK, "the one from before is known");
    fixture.faults(json!({})).await;
    assert_eq!(fixture.imds(&selector).await.0, StatusCode::OK);
}

#[tokio::test]
async fn the_callers_address_decides_whose_identities_these_are() {
    let fixture = start().await;
    let vm3 = json!({"id": seed::machine_id(), "instances": [
        {"name": "vm3", "addresses": ["127.0.0.3"]},
    ]});
    fixture.ask(Method::POST, "/_fake/hosts", vm3).await;
    let from_vm3 = client(&fixture.fake, Some("127.0.0.3"));
    let (_, body) = fixture.imds_from(&from_vm3, "").await;
    assert_eq!(fixture.claims(&body).xms_mirid.unwrap(), seed::machine_id().as_str());

    let (_, body) = fixture.imds("").await;
    assert!(fixture.claims(&body).xms_mirid.unwrap().ends_with("/nodes-agentpool"));

    let journal = fixture.journal("imds").await;
    assert_eq!(journal[0].instance.as_deref(), Some("vm3"));
    assert_eq!(journal[0].source, Some("127.0.0.3".parse().unwrap()));
    assert_eq!(journal[1].host, Some(seed::scale_set_id()));
}

#[tokio::test]
async fn a_machine_has_five_requests_at_a_time_unless_the_limit_is_off() {
    let fixture = start().await;
    for (limit, expect_throttled) in [(true, true), (false, false)] {
        fixture.faults(json!({"imds": {"latency_ms": 1500}, "imds_rate_limit": limit})).await;
        let mut requests = tokio::task::JoinSet::new();
        for _ in 0..12 {
            let http = fixture.http.clone();
            let url = format!(
                "{}/metadata/identity/oauth2/token?api-version=2018-02-01&resource=r",
                fixture.fake.imds_url()
            );
            requests.spawn(async move {
                http.get(url).header("Metadata", "true").send().await.unwrap().status()
            });
        }
        let statuses = requests.join_all().await;
        let throttled = statuses.iter().filter(|status| status.as_u16() == 429).count();
        let answered = statuses.iter().filter(|status| status.is_success()).count();
        assert_eq!(throttled + answered, 12, "{statuses:?}");
        assert_eq!(throttled > 0, expect_throttled, "limit {limit}: {statuses:?}");
        assert!(answered >= 5, "{statuses:?}");
    }
}

#[tokio::test]
async fn failures_are_counted_carry_retry_after_and_then_end() {
    let fixture = start().await;
    let faults = json!({"imds": {"fail_next": 1, "status": 429, "retry_after_seconds": 3}});
    fixture.faults(faults).await;
    let url = format!(
        "{}/metadata/identity/oauth2/token?api-version=2018-02-01&resource=r",
        fixture.fake.imds_url()
    );
    let response = fixture.http.get(url).header("Metadata", "true").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(response.headers()["retry-after"], "3");
    assert_eq!(fixture.imds("").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_fault_of_one_identity_leaves_the_others_alone() {
    let fixture = start().await;
    fixture.attach(&seed::scale_set_id(), &[demo(), second()]).await;
    fixture.faults(json!({"identities": {demo().as_str(): {"token_status": 503}}})).await;
    let ask = async |id| fixture.imds(&format!("&msi_res_id={id}")).await.0.as_u16();
    assert_eq!((ask(demo()).await, ask(second()).await), (503, 200));
}

#[tokio::test]
async fn a_service_that_is_down_refuses_and_comes_back_on_the_same_address() {
    let fixture = start().await;
    assert_eq!(fixture.imds("").await.0, StatusCode::OK);
    fixture.faults(json!({"down": {"imds": "refuse"}})).await;
    let url = format!("{}/metadata/instance", fixture.fake.imds_url());
    let error = fixture.http.get(&url).send().await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    assert_eq!(fixture.arm_token().await.split('.').count(), 3, "the others are up");
    fixture.faults(json!({})).await;
    assert_eq!(fixture.imds("").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_service_that_hangs_accepts_and_never_answers() {
    let fixture = start().await;
    fixture.faults(json!({"down": {"imds": "hang"}})).await;
    let url = format!("{}/metadata/instance", fixture.fake.imds_url());
    let error =
        fixture.http.get(&url).timeout(Duration::from_millis(300)).send().await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    let journal = fixture.journal_of("imds", 1).await;
    assert_eq!(journal[0].status, 499);
    fixture.faults(json!({})).await;
    assert_eq!(fixture.imds("").await.0, StatusCode::OK);
}

#[tokio::test]
async fn instance_metadata_is_there_to_be_kept_from_pods() {
    let fixture = start().await;
    let url = format!("{}/metadata/instance?api-version=2021-02-01", fixture.fake.imds_url());
    let request = fixture.http.get(url).header("Metadata", "true");
    let (status, body) = read(request.send().await.unwrap()).await;
    assert_eq!((status, &body["compute"]["vmScaleSetName"]), (StatusCode::OK, &json!("nodes")));
}

#[tokio::test]
async fn the_journal_names_the_identity_and_has_no_token() {
    let fixture = start().await;
    fixture.attach(&seed::scale_set_id(), &[demo()]).await;
    let (_, body) = fixture.imds(&format!("&msi_res_id={}", demo())).await;
    let journal = fixture.journal("imds").await;
    let entry = &journal[0];
    assert_eq!((entry.status, entry.identity.clone()), (200, Some(demo())));
    assert_eq!(entry.resource.as_deref(), Some("https://vault.azure.net"));
    assert!(entry.query.as_ref().unwrap().contains("msi_res_id="));
    let text = serde_json::to_string(&journal).unwrap();
    assert!(!text.contains(body["access_token"].as_str().unwrap()));
}
