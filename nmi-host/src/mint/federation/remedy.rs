//! What to do when Entra knows no federated credential for an assertion: the command, with the
//! values that it must have. None of them is secret.

use std::fmt;

use api::{Guid, IdentityId, labels};

use super::Shown;

/// A missing federated credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remedy {
    issuer: String,
    subject: String,
    audience: String,
    client_id: Guid,
    resource_id: Option<IdentityId>,
}

/// Entra's codes for it: no match of all three or of none at all, of issuer, audience or subject.
const UNMATCHED: [&str; 5] =
    ["AADSTS70021", "AADSTS70025", "AADSTS700211", "AADSTS700212", "AADSTS700213"];

// === impl Remedy ===

impl Remedy {
    /// For what was shown on behalf of an identity, if `words` of Entra say that it has no such
    /// federated credential.
    pub(crate) fn of(
        words: &str,
        shown: &Shown,
        audience: &str,
        (client_id, resource_id): (&Guid, Option<&IdentityId>),
    ) -> Option<Self> {
        let code = words.split(|c: char| !c.is_ascii_alphanumeric()).next()?;
        UNMATCHED.contains(&code).then(|| Self {
            issuer: shown.claims.issuer.clone(),
            subject: shown.claims.subject.to_string(),
            audience: audience.to_owned(),
            client_id: client_id.clone(),
            resource_id: resource_id.cloned(),
        })
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { issuer, subject, audience, client_id, .. } = self;
        let [issuer, subject, audience] = [issuer, subject, audience].map(|text| quoted(text));
        write!(
            f,
            "client id {client_id} needs a federated credential for issuer {issuer}, subject {subject} and audience {audience}: az identity federated-credential create --name pod-identity-{}",
            labels::short_hash(&[&self.issuer, &self.subject])
        )?;
        match self.resource_id.as_ref().map(IdentityId::arm_id) {
            Some(id) => write!(
                f,
                " --identity-name {} --resource-group {} --subscription {}",
                quoted(id.name()),
                quoted(id.resource_group()),
                quoted(id.subscription())
            )?,
            None => f.write_str(" --identity-name <name> --resource-group <its group>")?,
        }
        write!(f, " --issuer {issuer} --subject {subject} --audiences {audience}")?;
        if self.resource_id.is_none() {
            f.write_str(" (for an app registration: az ad app federated-credential create)")?;
        }
        Ok(())
    }
}

/// For a shell. People copy the line, and not all of it was written by people whom they trust.
fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/()".contains(&b);
    if !text.is_empty() && text.len() <= 512 && text.bytes().all(plain) {
        format!("'{text}'")
    } else {
        "<unreadable>".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::claims::Claims;
    use super::super::testing::{AUDIENCE, ISSUER, account, assertion};
    use super::*;
    use crate::assigned::testing::resource_id;
    use crate::testing::CLIENT;

    fn remedy(words: &str, issuer: &str, resource_id: Option<&IdentityId>) -> Option<String> {
        let claims =
            Claims { issuer: issuer.to_owned(), subject: account("web"), expires_on: u64::MAX };
        let shown = Shown { assertion: assertion("web", 60), claims };
        let identity = (&CLIENT.parse().unwrap(), resource_id);
        Remedy::of(words, &shown, AUDIENCE, identity).map(|remedy| remedy.to_string())
    }

    #[test]
    fn the_command_holds_what_the_assertion_says() {
        let id = resource_id("db");
        let text = remedy("AADSTS70021: No matching", ISSUER, Some(&id)).unwrap();
        for part in [
            &format!("client id {CLIENT} needs a federated credential"),
            "az identity federated-credential create --name pod-identity-",
            "--identity-name 'db' --resource-group 'g' --subscription 's'",
            "--issuer 'https://issuer.example/cluster/'",
            "--subject 'system:serviceaccount:team:web'",
            "--audiences 'api://AzureADTokenExchange'",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = remedy("AADSTS700213: x", ISSUER, None).unwrap();
        assert!(text.contains("--identity-name <name> --resource-group <its group>"), "{text}");
        assert!(text.contains("az ad app federated-credential create"), "{text}");
    }

    #[test]
    fn only_a_missing_credential_has_this_remedy() {
        for words in ["AADSTS700211", "AADSTS700212: x", "AADSTS70025."] {
            assert!(remedy(words, ISSUER, None).is_some(), "{words}");
        }
        for words in ["", "AADSTS7000215: x", "AADSTS700021: x", "invalid_client", "HTTP 400"] {
            assert!(remedy(words, ISSUER, None).is_none(), "{words}");
        }
    }

    #[test]
    fn nobody_smuggles_a_command_into_the_line() {
        for issuer in ["https://x' ; rm -rf ~ '", "a\nb", "$(id)", "a b", ""] {
            let text = remedy("AADSTS70021", issuer, None).unwrap();
            assert!(text.contains("--issuer <unreadable> --subject"), "{text}");
        }
    }
}
