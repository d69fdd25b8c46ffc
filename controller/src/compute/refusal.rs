//! From ARM's words to a condition: which [`ArmError`] an answer means, whose fault it is, and what
//! an admin can do about it.
//!
//! Pure. Bodies differ by resource provider, so nothing here relies on the shape of a sentence.

use std::time::Duration;

use api::{Guid, Host, IdentityId};
use serde_json::Value;

use super::request::Reply;
use super::{ArmError, ThrottleScope};

/// Longer texts of ARM's are cut: they end up in events and conditions.
const MESSAGE_LIMIT: usize = 1024;

const IDENTITY_TYPE: &str = "microsoft.managedidentity/userassignedidentities/";

/// Codes that say that an identity of the request is what ARM did not like.
const IDENTITY_CODES: &[&str] = &[
    "FailedIdentityOperation",
    "LinkedAuthorizationFailed",
    "LinkedInvalidPropertyId",
    "InvalidIdentityValues",
];

/// What ARM said when it did not do what it was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The HTTP status; absent when an operation ended badly.
    pub(super) status: Option<u16>,
    pub(super) code: String,
    pub(super) message: String,
    /// Everything that was said, nested details included, in lower case.
    said: String,
    retry_after: Option<Duration>,
    from_gateway: bool,
}

impl Refusal {
    /// From an answer that is no success.
    pub(super) fn of(reply: &Reply) -> Self {
        let body: Option<Value> = serde_json::from_slice(&reply.body).ok();
        let error = body.map(|mut body| body.get_mut("error").map_or(Value::Null, Value::take));
        let mut refusal = Self::of_error(error.as_ref());
        if refusal.code.is_empty() {
            refusal.code = format!("HTTP {}", reply.status);
        }
        if refusal.message.is_empty() {
            refusal.message = cut(String::from_utf8_lossy(&reply.body).trim());
        }
        refusal.status = Some(reply.status);
        refusal.retry_after = reply.retry_after;
        refusal.from_gateway = reply.from_gateway;
        refusal
    }

    /// From the `error` of an operation that ended badly.
    pub(super) fn of_operation(end: &str, error: Option<&Value>) -> Self {
        let mut refusal = Self::of_error(error);
        if refusal.code.is_empty() {
            end.clone_into(&mut refusal.code);
        }
        if refusal.message.is_empty() {
            "ARM gave no reason".clone_into(&mut refusal.message);
        }
        refusal
    }

    fn of_error(error: Option<&Value>) -> Self {
        let text = |name: &str| error.and_then(|error| error.get(name)).and_then(Value::as_str);
        let mut said = String::new();
        collect_texts(error.unwrap_or(&Value::Null), &mut said);
        Self {
            code: text("code").unwrap_or_default().to_owned(),
            message: cut(text("message").unwrap_or_default()),
            said,
            ..Self::default()
        }
    }

    fn is(&self, codes: &[&str]) -> bool {
        codes.iter().any(|code| self.code.eq_ignore_ascii_case(code))
    }

    /// The identities of the request that ARM speaks of. The search goes from what was sent to
    /// what was said, so that no way of quoting or joining ids can hide one.
    fn blamed(&self, host: &Host, sent: &[&IdentityId]) -> Vec<IdentityId> {
        let named: Vec<_> = sent
            .iter()
            .filter(|id| names(&self.said, id) || self.misses_home_of(id, host))
            .map(|id| (*id).clone())
            .collect();
        let speaks_of_others = self.said.contains(IDENTITY_TYPE);
        match sent {
            // Only one can be meant.
            [only] if named.is_empty() && !speaks_of_others && self.is(IDENTITY_CODES) => {
                vec![(*only).clone()]
            }
            _ => named,
        }
    }

    /// Whether the group or subscription that does not exist is the identity's, not the host's.
    fn misses_home_of(&self, id: &IdentityId, host: &Host) -> bool {
        let (id, host) = (id.arm_id(), host.id());
        let (lost, near) = if self.is(&["ResourceGroupNotFound"]) {
            (id.resource_group(), host.resource_group())
        } else if self.is(&["SubscriptionNotFound"]) {
            (id.subscription(), host.subscription())
        } else {
            return false;
        };
        let quoted = format!("'{}'", lost.to_ascii_lowercase());
        !lost.eq_ignore_ascii_case(near) && self.said.contains(&quoted)
    }

    /// The principal that ARM talked to, as it says in its refusals.
    fn principal(&self) -> String {
        self.said
            .split("object id '")
            .nth(1)
            .and_then(|rest| rest.split('\'').next())
            .and_then(|id| id.parse::<Guid>().ok())
            .map_or_else(|| "<principal id of the controller>".to_owned(), |id| id.to_string())
    }

    fn throttle_scope(&self) -> ThrottleScope {
        let subscription = self.from_gateway
            || self.code.to_ascii_lowercase().contains("subscription")
            || ["this subscription", "for subscription", "the subscription"]
                .iter()
                .any(|words| self.said.contains(words));
        if subscription { ThrottleScope::Subscription } else { ThrottleScope::Host }
    }
}

/// What `refusal` of a request on `host` means, which was to change the identities `sent`.
pub(super) fn classify(refusal: Refusal, host: &Host, sent: &[&IdentityId]) -> ArmError {
    let Refusal { retry_after, .. } = refusal;
    match refusal.status {
        // The sign-in is good, for the hosts of another tenant.
        Some(401) if refusal.is(&["InvalidAuthenticationTokenTenant"]) => {
            let remedy = "the host's subscription belongs to another tenant than the controller's \
                          identity, which cannot change it";
            let remedy = Some(remedy.to_owned());
            return ArmError::Forbidden { message: told(&refusal), remedy };
        }
        Some(401) => return ArmError::Authentication { message: told(&refusal) },
        Some(429) => {
            return ArmError::Throttled { scope: refusal.throttle_scope(), retry_after };
        }
        Some(408 | 499 | 500..) => {
            return ArmError::Unavailable { message: told(&refusal), retry_after };
        }
        _ => {}
    }
    let identities = refusal.blamed(host, sent);
    if !identities.is_empty() && refusal.status.is_none_or(|status| status != 412) {
        let remedy = identity_remedy(&refusal, &identities);
        let Refusal { code, message, .. } = refusal;
        return ArmError::IdentityRefused { identities, code, message, remedy };
    }
    if let Some(remedy) = block_remedy(&refusal, host) {
        let Refusal { code, message, .. } = refusal;
        return ArmError::Blocked { code, message, remedy };
    }
    let host = host.clone();
    match refusal.status {
        Some(403) => {
            let remedy = host_remedy(&refusal, &host);
            ArmError::Forbidden { message: told(&refusal), remedy }
        }
        Some(404)
            if refusal.is(&["ResourceNotFound", "ResourceGroupNotFound", "NotFound"])
                && !refusal.said.contains(IDENTITY_TYPE) =>
        {
            ArmError::HostNotFound { host }
        }
        Some(409) if refusal.said.contains("marked for deletion") => {
            ArmError::HostDeleting { host }
        }
        Some(409 | 412) => conflict(refusal),
        None if refusal.is(&[
            "OperationCanceled",
            "Canceled",
            "OperationPreempted",
            "Conflict",
        ]) =>
        {
            conflict(refusal)
        }
        _ => ArmError::Rejected { code: refusal.code, message: refusal.message },
    }
}

fn conflict(refusal: Refusal) -> ArmError {
    let Refusal { code, message, retry_after, .. } = refusal;
    ArmError::Conflict { code, message, retry_after }
}

fn told(refusal: &Refusal) -> String {
    format!("{} ({})", refusal.message, refusal.code)
}

fn identity_remedy(refusal: &Refusal, identities: &[IdentityId]) -> Option<String> {
    if refusal.is(&["LinkedAuthorizationFailed"]) {
        let principal = refusal.principal();
        let commands: Vec<_> = identities
            .iter()
            .map(|id| grant("Managed Identity Operator", &principal, id.as_str()))
            .collect();
        return Some(commands.join("\n"));
    }
    let said = &refusal.said;
    let missing = ["not found", "could not be found", "does not exist"];
    if missing.iter().any(|words| said.contains(words)) {
        return Some(
            "create the identity, or correct spec.resourceID of its AzureIdentity".to_owned(),
        );
    }
    None
}

fn host_remedy(refusal: &Refusal, host: &Host) -> Option<String> {
    if refusal.is(&["DenyAssignmentAuthorizationFailed"]) {
        let text = "lift the deny assignment; that of a node resource group of AKS with: az aks \
                    update --nrg-lockdown-restriction-level Unrestricted";
        return Some(text.to_owned());
    }
    let id = host.id();
    let group =
        format!("/subscriptions/{}/resourceGroups/{}", id.subscription(), id.resource_group());
    refusal
        .is(&["AuthorizationFailed"])
        .then(|| grant("Virtual Machine Contributor", &refusal.principal(), &group))
}

/// What to do about what keeps everybody from changing the host, if that is why ARM refused.
fn block_remedy(refusal: &Refusal, host: &Host) -> Option<String> {
    let (subscription, group) = (host.id().subscription(), quoted(host.id().resource_group()));
    if refusal.is(&["ScopeLocked"]) {
        return Some(format!(
            "remove the lock; to see locks: az lock list --subscription {subscription} \
             --resource-group {group}"
        ));
    }
    if refusal.is(&["ReadOnlyDisabledSubscription"]) {
        return Some(format!("enable the subscription {subscription} again"));
    }
    if refusal.is(&["MissingSubscriptionRegistration"]) {
        let named = refusal.message.split("namespace '").nth(1);
        let named = named.and_then(|rest| rest.split('\'').next());
        let namespace = quoted(named.unwrap_or("Microsoft.Compute"));
        return Some(format!(
            "az provider register --namespace {namespace} --subscription {subscription}"
        ));
    }
    refusal.is(&["RequestDisallowedByPolicy"]).then(|| {
        "change the policy that ARM names, or exempt the host: az policy exemption create"
            .to_owned()
    })
}

/// The command that gives `principal` a role.
fn grant(role: &str, principal: &str, scope: &str) -> String {
    let (principal, scope) = (quoted(principal), quoted(scope));
    format!("az role assignment create --role \"{role}\" --assignee {principal} --scope {scope}")
}

/// A word of a command, quoted where a shell would stumble: resource groups may have parentheses.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.');
    if word.chars().all(plain) { word.to_owned() } else { format!("\"{word}\"") }
}

/// Whether `said`, in lower case, speaks of `id` and not only of one that begins like it.
fn names(said: &str, id: &IdentityId) -> bool {
    let goes_on = |rest: &str| {
        let mut rest = rest.chars();
        let in_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || "-_".contains(c));
        match rest.next() {
            // The end of a sentence, unless a name goes on behind it.
            Some('.') => in_name(rest.next()),
            next => in_name(next),
        }
    };
    let whole = id.arm_id().folded();
    let short = format!(
        "{IDENTITY_TYPE}{}' under resource group '{}'",
        id.arm_id().name(),
        id.arm_id().resource_group()
    );
    said.contains(&short.to_ascii_lowercase())
        || said
            .match_indices(whole)
            .any(|(at, _)| said.get(at + whole.len()..).is_some_and(|rest| !goes_on(rest)))
}

/// Every text in an error, however deep: which of them names the culprit depends on the provider.
fn collect_texts(value: &Value, said: &mut String) {
    match value {
        Value::String(text) => {
            said.push_str(&text.to_ascii_lowercase());
            said.push('\n');
        }
        Value::Array(values) => values.iter().for_each(|value| collect_texts(value, said)),
        Value::Object(fields) => fields.values().for_each(|value| collect_texts(value, said)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MESSAGE_LIMIT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::{SUBSCRIPTION, id, scale_set};
    use super::*;

    const PRINCIPAL: &str = "d7586b94-0a56-43cc-b3f4-4e91d133fe67";

    fn reply(status: u16, code: &str, message: &str) -> Reply {
        let body = json!({"error": {"code": code, "message": message}});
        Reply { status, body: body.to_string().into_bytes(), ..Reply::default() }
    }

    /// What an answer means to a request that changed the identities `a`, `ab` and `c`.
    fn meaning(reply: &Reply) -> ArmError {
        let sent = [id("a"), id("ab"), id("c")];
        let sent: Vec<&IdentityId> = sent.iter().collect();
        classify(Refusal::of(reply), &scale_set(), &sent)
    }

    fn refused(error: &ArmError) -> Vec<&str> {
        match error {
            ArmError::IdentityRefused { identities, .. } => {
                identities.iter().map(|id| id.arm_id().name()).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn linked_authorization(scopes: &str) -> Reply {
        let message = format!(
            "The client '{PRINCIPAL}' with object id '{PRINCIPAL}' has permission to perform action \
             'Microsoft.Compute/virtualMachineScaleSets/write' on scope '{}'; however, it does not \
             have permission to perform action \
             'Microsoft.ManagedIdentity/userAssignedIdentities/assign/action' on the linked \
             scope(s) '{scopes}' or the linked scope(s) are invalid.",
            scale_set()
        );
        reply(403, "LinkedAuthorizationFailed", &message)
    }

    #[test]
    fn a_missing_role_names_the_identities_and_the_commands_that_grant_it() {
        let error = meaning(&linked_authorization(&format!("{},{}", id("A"), id("C"))));
        assert_eq!(refused(&error), ["a", "c"]);
        let remedy = error.remedy().unwrap();
        let lines: Vec<_> = remedy.lines().collect();
        assert_eq!(lines.len(), 2);
        let expected = format!(
            "az role assignment create --role \"Managed Identity Operator\" --assignee {PRINCIPAL} --scope \"{}\"",
            id("a")
        );
        assert_eq!(lines[0], expected);
        assert!(!error.is_transient());
        assert_eq!(error.code(), "identity_refused");
    }

    #[test]
    fn an_id_that_only_begins_alike_is_not_blamed() {
        assert_eq!(refused(&meaning(&linked_authorization(id("ab").as_str()))), ["ab"]);
        for end in ["", "'", ".", ". Try again", ",", "\"}", ")"] {
            let text = format!("Cannot use {}{end}", id("a"));
            assert_eq!(refused(&meaning(&reply(400, "Other", &text))), ["a"], "{end}");
        }
        for end in ["-x", "_", ".x", "1"] {
            let text = format!("Cannot use {}{end}", id("a"));
            let error = meaning(&reply(400, "Other", &text));
            assert_eq!(error.code(), "rejected", "{end}");
        }
    }

    #[test]
    fn a_linked_scope_that_is_no_identity_is_the_controllers_own_problem() {
        let subnet = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/s";
        assert_eq!(meaning(&linked_authorization(subnet)).code(), "forbidden");
    }

    #[test]
    fn a_deleted_identity_is_found_however_arm_says_it() {
        let whole = id("c").to_string();
        let group = id("c").arm_id().resource_group().to_ascii_uppercase();
        for (status, code, message) in [
            (
                400,
                "FailedIdentityOperation",
                format!(
                    "Identity operation for resource '{}' failed with error 'Failed to perform \
                     resource identity operation. Status: 'BadRequest'. Response: \
                     '{{\"error\":{{\"code\":\"BadRequest\",\"message\":\"Resource \
                     '{whole}' was not found.\"}}}}'.'.",
                    scale_set()
                ),
            ),
            (404, "ResourceNotFound", format!("The Resource '{whole}' was not found.")),
            (
                404,
                "ResourceNotFound",
                format!(
                    "The Resource 'Microsoft.ManagedIdentity/userAssignedIdentities/c' under \
                     resource group '{group}' was not found."
                ),
            ),
        ] {
            let error = meaning(&reply(status, code, &message));
            assert_eq!(refused(&error), ["c"], "{message}");
            assert!(error.remedy().unwrap().contains("spec.resourceID"), "{message}");
        }
        let parameter = format!("ResourceIdentity identityId '{whole}' is invalid.");
        assert_eq!(refused(&meaning(&reply(400, "InvalidParameter", &parameter))), ["c"]);
    }

    #[test]
    fn nested_details_are_searched_too() {
        let body = json!({"error": {
            "code": "BadRequest",
            "message": "One or more errors occurred.",
            "details": [{"code": "FailedIdentityOperation", "innererror": {"text": id("A")
                .to_string()}}],
        }});
        let reply = Reply { status: 400, body: body.to_string().into_bytes(), ..Reply::default() };
        assert_eq!(refused(&meaning(&reply)), ["a"]);
    }

    #[test]
    fn a_lost_home_of_an_identity_is_not_the_hosts() {
        let group = |name: &str| format!("Resource group '{name}' could not be found.");
        let code = "ResourceGroupNotFound";
        let error = meaning(&reply(404, code, &group(id("a").arm_id().resource_group())));
        assert_eq!(refused(&error), ["a", "ab", "c"]);
        assert_eq!(meaning(&reply(404, code, &group("mc_rg"))).code(), "host_not_found");
        let message = format!("The subscription '{SUBSCRIPTION}' could not be found.");
        assert_eq!(meaning(&reply(404, "SubscriptionNotFound", &message)).code(), "rejected");
    }

    #[test]
    fn an_unnamed_culprit_is_known_only_where_nobody_else_can_be_meant() {
        let one = id("a");
        let other = format!("Resource '{}' was not found.", id("foreign"));
        for (sent, message, code) in [
            (vec![&one], "Identity operation failed.", "identity_refused"),
            (vec![&one], other.as_str(), "rejected"),
            (vec![], "Identity operation failed.", "rejected"),
        ] {
            let reply = reply(400, "FailedIdentityOperation", message);
            let error = classify(Refusal::of(&reply), &scale_set(), &sent);
            assert_eq!(error.code(), code, "{message} {sent:?}");
        }
        let error = meaning(&reply(400, "FailedIdentityOperation", "Identity operation failed."));
        assert_eq!(error.code(), "rejected");
    }

    #[test]
    fn every_other_answer_has_its_condition() {
        let lock = "The scope cannot perform write operation because it is locked.";
        for (status, code, message, expected, transient) in [
            (401, "ExpiredAuthenticationToken", "The token has expired.", "authentication", false),
            (401, "InvalidAuthenticationTokenTenant", "wrong issuer", "forbidden", false),
            (403, "AuthorizationFailed", "does not have authorization", "forbidden", false),
            (403, "RequestDisallowedByPolicy", "disallowed by policy", "blocked", false),
            (404, "ResourceNotFound", "The Resource was not found.", "host_not_found", false),
            (404, "InvalidResourceType", "no such type", "rejected", false),
            (408, "RequestTimeout", "timeout", "unavailable", true),
            (499, "ClientClosedRequest", "closed", "unavailable", true),
            (409, "Conflict", "conflict with a concurrent request", "conflict", true),
            (409, "OperationNotAllowed", "another operation is in progress", "conflict", true),
            (409, "OperationNotAllowed", "It is marked for deletion.", "host_deleting", false),
            (409, "ScopeLocked", lock, "blocked", false),
            (409, "ReadOnlyDisabledSubscription", "disabled", "blocked", false),
            (409, "MissingSubscriptionRegistration", "not registered", "blocked", false),
            (412, "PreconditionFailed", "etag", "conflict", true),
            (429, "TooManyRequests", "throttled", "throttled", true),
            (500, "InternalServerError", "oops", "unavailable", true),
            (503, "ServerTimeout", "later", "unavailable", true),
            (400, "InvalidParameter", "bad", "rejected", false),
        ] {
            let error = meaning(&reply(status, code, message));
            assert_eq!((error.code(), error.is_transient()), (expected, transient), "{code}");
        }
        for (status, expected) in [(404, "rejected"), (502, "unavailable"), (418, "rejected")] {
            let body = b"<html>proxy</html>".to_vec();
            let error = meaning(&Reply { status, body, ..Reply::default() });
            assert_eq!(error.code(), expected);
            assert!(error.to_string().contains("<html>proxy</html>"), "{error}");
        }
    }

    #[test]
    fn a_server_error_that_names_an_identity_blames_nobody() {
        let message = format!("Cannot reach the home of {}", id("a"));
        assert_eq!(meaning(&reply(503, "ServerTimeout", &message)).code(), "unavailable");
    }

    #[test]
    fn an_operation_that_ends_badly_is_read_like_an_answer() {
        let sent = id("a");
        let end = |code: &str, message: &str| {
            let error = json!({"code": code, "message": message});
            let refusal = Refusal::of_operation("OperationFailed", Some(&error));
            classify(refusal, &scale_set(), &[&sent])
        };
        let named = format!("Resource '{}' was not found.", id("A"));
        assert_eq!(end("FailedIdentityOperation", &named).code(), "identity_refused");
        // One identity of many may be why: the caller finds out which.
        assert_eq!(end("InternalExecutionError", "retry later").code(), "rejected");
        assert_eq!(end("OperationPreempted", "preempted").code(), "conflict");
        assert_eq!(end("VMExtensionProvisioningError", "script failed").code(), "rejected");
        let silent = Refusal::of_operation("OperationFailed", None);
        let error = classify(silent, &scale_set(), &[&sent]);
        assert_eq!(
            error.to_string(),
            "ARM refused the request (OperationFailed): ARM gave no reason"
        );
    }

    #[test]
    fn a_missing_role_on_the_host_has_its_command() {
        let message = format!(
            "The client '{PRINCIPAL}' with object id '{PRINCIPAL}' does not have authorization to \
             perform action 'Microsoft.Compute/virtualMachineScaleSets/read' over scope '{}'.",
            scale_set()
        );
        let error = meaning(&reply(403, "AuthorizationFailed", &message));
        let expected = format!(
            "az role assignment create --role \"Virtual Machine Contributor\" --assignee {PRINCIPAL} --scope /subscriptions/{SUBSCRIPTION}/resourceGroups/MC_rg"
        );
        assert_eq!(error.remedy(), Some(expected));
        let anonymous = meaning(&reply(403, "AuthorizationFailed", "no")).remedy().unwrap();
        assert!(anonymous.contains("--assignee \"<principal id of the controller>\""));
    }

    #[test]
    fn what_blocks_the_host_has_its_remedy_and_no_culprit_among_the_identities() {
        let lock = format!(
            "The scope '{host}' cannot perform write operation because following scope(s) are \
             locked: '{host}'. Please remove the lock and try again.",
            host = scale_set()
        );
        let unregistered = "The subscription is not registered to use namespace \
                            'Microsoft.ManagedIdentity'. See https://aka.ms/rps-not-found.";
        let only = id("a");
        for (status, code, message, remedy) in [
            (
                409,
                "ScopeLocked",
                lock.as_str(),
                format!("az lock list --subscription {SUBSCRIPTION} --resource-group MC_rg"),
            ),
            (
                409,
                "ReadOnlyDisabledSubscription",
                "The subscription is disabled and therefore marked as read only.",
                format!("enable the subscription {SUBSCRIPTION}"),
            ),
            (
                409,
                "MissingSubscriptionRegistration",
                unregistered,
                format!(
                    "az provider register --namespace Microsoft.ManagedIdentity --subscription {SUBSCRIPTION}"
                ),
            ),
            (
                403,
                "RequestDisallowedByPolicy",
                "Resource 'aks-nodes-vmss' was disallowed by policy.",
                "change the policy".to_owned(),
            ),
            (
                403,
                "DenyAssignmentAuthorizationFailed",
                "has permission; however, the access is denied because of the deny assignment.",
                "--nrg-lockdown-restriction-level Unrestricted".to_owned(),
            ),
        ] {
            // Also with a single identity, which else is to blame.
            let refusal = Refusal::of(&reply(status, code, message));
            let error = classify(refusal, &scale_set(), &[&only]);
            assert!(error.remedy().unwrap().contains(&remedy), "{error:?}");
            assert!(!matches!(error, ArmError::IdentityRefused { .. }), "{error:?}");
            assert!(error.to_string().contains(message) && error.changed_nothing());
        }
    }

    #[test]
    fn a_policy_or_lock_that_names_an_identity_is_about_that_one() {
        for (status, code) in [(403, "RequestDisallowedByPolicy"), (409, "ScopeLocked")] {
            let message = format!("Not with '{}'", id("c"));
            assert_eq!(refused(&meaning(&reply(status, code, &message))), ["c"], "{code}");
        }
    }

    #[test]
    fn a_throttle_is_of_the_host_unless_arm_speaks_of_the_subscription() {
        let wait = Some(Duration::from_secs(60));
        let scope = |reply: Reply| {
            let error = meaning(&Reply { retry_after: wait, ..reply });
            assert_eq!(error.retry_after(), wait);
            match error {
                ArmError::Throttled { scope, .. } => scope,
                other => panic!("{other:?}"),
            }
        };
        let host = format!("Too many requests for {}", scale_set());
        assert_eq!(scope(reply(429, "TooManyRequests", &host)), ThrottleScope::Host);
        let all = "The server rejected the request because too many requests have been received for this subscription.";
        assert_eq!(scope(reply(429, "OperationNotAllowed", all)), ThrottleScope::Subscription);
        let code = "SubscriptionRequestsThrottled";
        assert_eq!(scope(reply(429, code, "")), ThrottleScope::Subscription);
        let gateway = Reply { from_gateway: true, ..reply(429, "TooManyRequests", "") };
        assert_eq!(scope(gateway), ThrottleScope::Subscription);
    }

    #[test]
    fn long_messages_are_cut_between_letters() {
        let message = "ü".repeat(5000);
        let ArmError::Rejected { message, .. } = meaning(&reply(400, "Other", &message)) else {
            panic!()
        };
        assert_eq!(message.chars().count(), MESSAGE_LIMIT + 1);
    }
}
