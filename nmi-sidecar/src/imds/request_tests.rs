//! One table for each rule of the contract that a request can break.

use super::*;

const PATH: &str = "/metadata/identity/oauth2/token";
const GUID: &str = "aaaaaaaa-1111-2222-3333-444444444444";
const GOOD: &str = "api-version=2018-02-01&resource=https://vault.azure.net";

type Fields<'a> = &'a [(&'a str, &'a str)];

const HEADERS: Fields<'_> = &[("Metadata", "true"), ("Host", "169.254.169.254")];

fn ask(method: &str, target: &str, headers: Fields<'_>) -> Result<TokenRequest, ImdsError> {
    let headers: Vec<Header<'_>> =
        headers.iter().map(|(name, value)| Header { name, value: value.as_bytes() }).collect();
    parse(method, target, &headers, &Hosts::with(vec!["imds.test".to_owned()]))
}

fn query(query: &str) -> Result<TokenKey, ImdsError> {
    ask("GET", &format!("{PATH}?{query}"), HEADERS).map(|request| request.key)
}

fn with(extra: Fields<'_>) -> Result<TokenRequest, ImdsError> {
    ask("GET", &format!("{PATH}?{GOOD}"), &[HEADERS, extra].concat())
}

#[test]
fn r1_only_the_token_path_in_its_three_spellings_exists() {
    for path in [
        "/metadata/identity/oauth2/token",
        "/METADATA/identity/oauth2/token",
        "/MetaData/identity/oauth2/token/",
    ] {
        assert!(ask("GET", &format!("{path}?{GOOD}"), HEADERS).is_ok(), "{path}");
    }
    for path in [
        "/",
        "//",
        "/metadata",
        "/metadata/identity",
        "//metadata/identity/oauth2/token",
        "/metadata//identity/oauth2/token",
        "/metadata/identity/oauth2/token//",
        "/metadata/Identity/oauth2/token",
        "/metadata/identity/OAuth2/token",
        "/metadata/identity/oauth2/tokenX",
        "/metadata/identity/oauth2/token/x",
        "/metadata/identity\\oauth2\\token",
        "/metadata\\identity/oauth2/token/",
        "/metadata/identity%5coauth2/token",
        "/metadata/identity%2foauth2/token",
        "/metadata/identity/oauth2%2ftoken",
        "/%6detadata/identity/oauth2/token",
        "/metadata/./identity/oauth2/token",
        "/metadata/x/../identity/oauth2/token",
        "/metadata/%2e%2e/metadata/identity/oauth2/token",
        "/metadata;x/identity/oauth2/token",
        "/metadata/identity/oauth2/token;x",
        "/metadata/identity/oauth2/token%00",
        "/metadata/identity/oauth2/token%20",
        "/metadata/identity/oauth2/token#",
        "/metadatä/identity/oauth2/token",
    ] {
        assert_eq!(
            ask("GET", &format!("{path}?{GOOD}"), HEADERS),
            Err(ImdsError::NotFound),
            "{path}"
        );
    }
    for target in
        ["*", "http://169.254.169.254/metadata/identity/oauth2/token", "169.254.169.254:80", ""]
    {
        let error = ask("GET", target, HEADERS).unwrap_err();
        assert!(matches!(error, ImdsError::Malformed(_)), "{target}");
    }
}

#[test]
fn r2_get_is_the_only_method_but_the_path_comes_first() {
    for method in ["HEAD", "POST", "PUT", "OPTIONS", "get", "TRACE"] {
        assert_eq!(ask(method, PATH, HEADERS), Err(ImdsError::MethodNotAllowed), "{method}");
        assert_eq!(ask(method, "/metadata/instance", HEADERS), Err(ImdsError::NotFound));
    }
}

#[test]
fn r3_the_metadata_header_is_one_true_and_comes_before_everything_in_the_query() {
    for value in ["true", "True", "TRUE"] {
        let headers = [("metadata", value), ("host", "169.254.169.254")];
        assert!(ask("GET", &format!("{PATH}?{GOOD}"), &headers).is_ok(), "{value}");
    }
    let host = ("Host", "169.254.169.254");
    let rows: [Fields<'_>; 7] = [
        &[],
        &[host],
        &[host, ("Metadata", "false")],
        &[host, ("Metadata", "")],
        &[host, ("Metadata", "true,true")],
        &[host, ("Metadata", "true"), ("Metadata", "true")],
        &[host, ("Metadata", "true"), ("metadata", "false")],
    ];
    for headers in rows {
        for target in
            [PATH.to_owned(), format!("{PATH}?{GOOD}"), format!("{PATH}?resource=a&resource=b")]
        {
            let error = ask("GET", &target, headers).unwrap_err();
            assert_eq!(error, ImdsError::NoMetadataHeader, "{target} {headers:?}");
        }
    }
}

#[test]
fn r4_a_forwarded_request_is_refused_and_a_mesh_s_header_is_not() {
    for value in ["10.0.0.1", ""] {
        assert_eq!(with(&[("x-ForWarded-for", value)]), Err(ImdsError::Forwarded));
    }
    let two = [("X-Forwarded-For", "a"), ("X-Forwarded-For", "b")];
    assert_eq!(with(&two), Err(ImdsError::Forwarded));
    assert!(with(&[("X-Forwarded-Proto", "http"), ("Sec-Fetch-Mode", "cors")]).is_ok());
}

#[test]
fn r5_the_host_is_the_metadata_address_and_no_web_page_asks() {
    let call = |hosts: &[&str]| {
        let mut headers = vec![("Metadata", "true")];
        headers.extend(hosts.iter().map(|host| ("Host", *host)));
        ask("GET", &format!("{PATH}?{GOOD}"), &headers)
    };
    for host in ["169.254.169.254", "169.254.169.254:80", "imds.test"] {
        assert!(call(&[host]).is_ok(), "{host}");
    }
    for host in [
        "",
        "evil.example",
        "127.0.0.1:8000",
        "169.254.169.254.evil.example",
        "169.254.169.254:81",
        "2852039166",
    ] {
        assert_eq!(call(&[host]), Err(ImdsError::ForbiddenHost), "{host}");
    }
    for hosts in [&[][..], &["169.254.169.254", "169.254.169.254"], &["169.254.169.254", "evil"]] {
        assert!(matches!(call(hosts), Err(ImdsError::Malformed(_))), "{hosts:?}");
    }
    for origin in ["http://evil.example", "null", ""] {
        assert_eq!(with(&[("Origin", origin)]), Err(ImdsError::ForbiddenOrigin), "{origin}");
    }
}

#[test]
fn r6_api_version_and_resource_are_required_and_well_formed() {
    for version in ["2018-02-01", "2019-08-01", "2020-09-01", "2025-04-07", "2099-12-31"] {
        assert!(query(&format!("api-version={version}&resource=r")).is_ok(), "{version}");
    }
    for version in [
        "",
        "1.0",
        "2018-01-31",
        "2017-08-01",
        "2018-02-1",
        "2018-02-01x",
        "2018/02/01",
        "latest",
        "20180201ab",
        "+2018-02-0",
    ] {
        let found = query(&format!("api-version={version}&resource=r"));
        assert_eq!(found, Err(ImdsError::ApiVersion), "{version}");
    }
    assert_eq!(query("resource=r"), Err(ImdsError::ApiVersion));
    assert_eq!(query(""), Err(ImdsError::ApiVersion));

    let longest = "r".repeat(512);
    for resource in ["r", "https%3A%2F%2Fgraph.microsoft.com/", "api://x", longest.as_str()] {
        assert!(
            query(&format!("api-version=2018-02-01&resource={resource}")).is_ok(),
            "{resource}"
        );
    }
    let long = "r".repeat(513);
    for resource in
        ["", "a%20b", "a+b", "a%0ab", "a%00", "%c3%a4", "ä", long.as_str(), "a#b", "a%7f"]
    {
        let found = query(&format!("api-version=2018-02-01&resource={resource}"));
        assert!(matches!(found, Err(ImdsError::Query(_))), "{resource}: {found:?}");
    }
    let missing = query("api-version=2018-02-01").unwrap_err();
    assert_eq!(missing, ImdsError::Query("Required query variable 'resource' is missing"));
    let twice = query("api-version=2018-02-01&resource=a&resource=a").unwrap_err();
    assert!(matches!(twice, ImdsError::Query(text) if text.contains("Duplicate")));
}

#[test]
fn r7_a_selector_names_an_identity_without_regard_to_case_or_none() {
    let upper = GUID.to_uppercase();
    let lower = query(&format!("{GOOD}&client_id={GUID}")).unwrap();
    assert_eq!(query(&format!("{GOOD}&client_id={upper}")).unwrap(), lower);
    assert_eq!(lower.identity, Some(IdentitySelector::ClientId(GUID.parse().unwrap())));
    for bad in ["default", "%20", "aaaaaaaa-1111", "{aaaaaaaa-1111-2222-3333-444444444444}"] {
        for name in ["client_id", "object_id", "msi_res_id"] {
            let found = query(&format!("{GOOD}&{name}={bad}"));
            let Err(ImdsError::IdentityNotFound(named)) = found else { panic!("{name}={bad}") };
            assert!(named.starts_with(name), "{named}");
        }
    }
    assert_eq!(query(GOOD).unwrap().identity, None);
}

#[test]
fn a_selector_that_cannot_be_read_is_told_back_if_it_is_fit_to_print() {
    let long = "x".repeat(129);
    let rows = [
        ("client_id=default", "client_id default is not a GUID"),
        ("principal_id=x", "object_id x is not a GUID"),
        ("mi_res_id=x", "msi_res_id x is not the resource id of a user-assigned identity"),
        ("client_id=a%0d%0aSet-Cookie", "client_id in the query is not a GUID"),
        ("client_id=%c3%a4", "client_id in the query is not a GUID"),
        (&format!("client_id={long}"), "client_id in the query is not a GUID"),
    ];
    for (selector, expected) in rows {
        let found = query(&format!("{GOOD}&{selector}"));
        assert_eq!(found, Err(ImdsError::IdentityNotFound(expected.to_owned())), "{selector}");
    }
}

#[test]
fn r9_all_spellings_of_a_resource_id_are_one_selector() {
    let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/i";
    let encoded = id.replace('/', "%2F").to_lowercase();
    let expected = query(&format!("{GOOD}&msi_res_id={id}")).unwrap();
    assert!(matches!(expected.identity, Some(IdentitySelector::ResourceId(_))));
    for name in ["mi_res_id", "resource_id", "msi-res-id"] {
        for id in [id, &encoded] {
            assert_eq!(query(&format!("{GOOD}&{name}={id}")).unwrap(), expected, "{name}");
        }
    }
    let by_object = |name| query(&format!("{GOOD}&{name}={GUID}")).unwrap();
    assert_eq!(by_object("principal_id"), by_object("object_id"));
    assert_ne!(by_object("object_id"), by_object("client_id"));
}

#[test]
fn r10_no_other_category_of_metadata_exists_whatever_the_headers() {
    for path in [
        "/metadata/instance?api-version=2021-02-01",
        "/metadata/instance/compute",
        "/metadata/attested/document",
        "/metadata/scheduledevents",
        "/metadata/loadbalancer",
        "/metadata/versions",
        "/metadata/identity/info",
        "/metadata/identity/getplatformmetadata?cred-api-version=2.0",
        "/metadata/identity/credential",
    ] {
        for headers in [HEADERS, &[][..]] {
            assert_eq!(ask("GET", path, headers), Err(ImdsError::NotFound), "{path}");
        }
    }
    let version_2 = "/metadata/identity/issuecredential";
    assert_eq!(ask("POST", version_2, HEADERS), Err(ImdsError::NotFound));
}

#[test]
fn the_resource_is_kept_verbatim() {
    for resource in ["https://database.windows.net/", "https://Vault.Azure.Net", "urn:x"] {
        let raw = format!("api-version=2018-02-01&resource={resource}&xms_cc=CP1&claims=x");
        assert_eq!(query(&raw).unwrap().resource, resource);
    }
}

#[test]
fn the_id_of_a_request_is_taken_from_its_header_if_it_is_one_guid() {
    let id = |fields: Fields<'_>| with(fields).unwrap().correlation.map(|id| id.to_string());
    let upper = GUID.to_uppercase();
    assert_eq!(id(&[("X-Ms-Client-Request-Id", &upper)]).as_deref(), Some(GUID));
    let one = ("x-ms-client-request-id", GUID);
    let rows: [Fields<'_>; 4] = [
        &[],
        &[("x-ms-client-request-id", "request-7")],
        &[("x-ms-client-request-id", "")],
        &[one, one],
    ];
    for fields in rows {
        assert_eq!(id(fields), None, "{fields:?}");
    }
}

#[test]
fn a_refused_token_is_no_part_of_the_key() {
    let hash = TokenHash::of("spent");
    let plain = with(&[]).unwrap();
    let target = format!("{PATH}?{GOOD}&token_sha256_to_refresh={hash}");
    let asked = ask("GET", &target, HEADERS).unwrap();
    assert_eq!(asked.key, plain.key);
    assert_eq!((plain.refused, asked.refused), (None, Some(hash)));
}
