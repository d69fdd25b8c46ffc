//! As whom the controller talks to Azure, by what was configured. Pure.

use std::path::{Path, PathBuf};

use azure_core::credentials::Secret;

use super::cloud::{given, path_given};
use super::file::AzureJson;
use super::secret::SecretSource;
use super::{AzureArgs, AzureError, ControllerIdentity, CredentialKind, ManagedId};

/// What `azure.json` says.
pub(super) fn identity_of_file(json: &AzureJson) -> Result<ControllerIdentity, AzureError> {
    const KIND: &str = "azure.json without useManagedIdentityExtension";
    if json.use_managed_identity {
        return managed("userAssignedIdentityID", given(&json.user_assigned_identity));
    }
    let missing = |setting| AzureError::Missing { kind: KIND, setting };
    let tenant_id = given(&json.tenant_id).ok_or_else(|| missing("tenantId"))?;
    let client_id = given(&json.client_id).ok_or_else(|| missing("aadClientId"))?;
    // As the cloud provider of Kubernetes: the secret first.
    if let Some(secret) = given_secret(&json.client_secret).map(SecretSource::Given) {
        return Ok(ControllerIdentity::ServicePrincipal { tenant_id, client_id, secret });
    }
    let file = json.certificate_path.as_deref().and_then(path_given);
    let file = file.ok_or_else(|| missing("aadClientSecret or aadClientCertPath"))?.to_owned();
    let password = json.certificate_password.clone().map_or_else(no_password, SecretSource::Given);
    Ok(ControllerIdentity::Certificate { tenant_id, client_id, file, password })
}

/// What flags and environment say.
pub(super) fn identity_of_args(args: &AzureArgs) -> Result<ControllerIdentity, AzureError> {
    match args.azure_credential {
        CredentialKind::ManagedIdentity => managed_of_args(args),
        CredentialKind::ServicePrincipal => service_principal(args),
        CredentialKind::WorkloadIdentity => workload(args),
        CredentialKind::Auto => first_configured(args),
    }
}

fn first_configured(args: &AzureArgs) -> Result<ControllerIdentity, AzureError> {
    if boolean("USE_MSI", &args.use_msi)? {
        managed_of_args(args)
    } else if given(&args.client_id).is_some()
        || given_secret(&args.client_secret).is_some()
        || args.client_secret_path.as_deref().and_then(path_given).is_some()
        || certificate(args).is_some()
    {
        service_principal(args)
    } else if args.federated_token_file.as_deref().and_then(path_given).is_some() {
        workload(args)
    } else {
        Err(AzureError::NoCredential)
    }
}

fn managed_of_args(args: &AzureArgs) -> Result<ControllerIdentity, AzureError> {
    managed("USER_ASSIGNED_MSI_CLIENT_ID", given(&args.user_assigned_msi_client_id))
}

fn managed(name: &'static str, id: Option<String>) -> Result<ControllerIdentity, AzureError> {
    let Some(text) = id else { return Ok(ControllerIdentity::Managed(None)) };
    let id = if let Ok(id) = text.parse() {
        ManagedId::Client(id)
    } else if let Ok(id) = text.parse() {
        ManagedId::Resource(id)
    } else {
        return Err(AzureError::NotAnIdentity { name, value: text });
    };
    Ok(ControllerIdentity::Managed(Some(id)))
}

fn service_principal(args: &AzureArgs) -> Result<ControllerIdentity, AzureError> {
    let missing = |setting| AzureError::Missing { kind: "a service principal", setting };
    let tenant_id = given(&args.tenant_id).ok_or_else(|| missing("TENANT_ID (--tenant-id)"))?;
    let client_id = given(&args.client_id).ok_or_else(|| missing("CLIENT_ID (--client-id)"))?;
    let secret = secret_source(
        ("CLIENT_SECRET", &args.client_secret),
        ("CLIENT_SECRET_PATH", &args.client_secret_path),
    )?;
    let certificate = certificate(args);
    match (secret, certificate) {
        (Some(secret), None) => {
            Ok(ControllerIdentity::ServicePrincipal { tenant_id, client_id, secret })
        }
        (None, Some(file)) => {
            let password = secret_source(
                ("CLIENT_CERTIFICATE_PASSWORD", &args.client_certificate_password),
                ("CLIENT_CERTIFICATE_PASSWORD_PATH", &args.client_certificate_password_path),
            )?;
            let password = password.unwrap_or_else(no_password);
            let file = file.to_owned();
            Ok(ControllerIdentity::Certificate { tenant_id, client_id, file, password })
        }
        (None, None) => {
            Err(missing("CLIENT_SECRET, CLIENT_SECRET_PATH or CLIENT_CERTIFICATE_PATH"))
        }
        (Some(SecretSource::Given(_)), Some(_)) => {
            Err(AzureError::Both("CLIENT_SECRET", "CLIENT_CERTIFICATE_PATH"))
        }
        (Some(SecretSource::File(_)), Some(_)) => {
            Err(AzureError::Both("CLIENT_SECRET_PATH", "CLIENT_CERTIFICATE_PATH"))
        }
    }
}

/// A secret that is given, or in a file, but not both.
fn secret_source(
    (name, given): (&'static str, &Option<Secret>),
    (path_name, path): (&'static str, &Option<PathBuf>),
) -> Result<Option<SecretSource>, AzureError> {
    match (given_secret(given), path.as_deref().and_then(path_given)) {
        (Some(_), Some(_)) => Err(AzureError::Both(name, path_name)),
        (Some(secret), None) => Ok(Some(SecretSource::Given(secret))),
        (None, path) => Ok(path.map(|path| SecretSource::File(path.to_owned()))),
    }
}

fn certificate(args: &AzureArgs) -> Option<&Path> {
    args.client_certificate_path.as_deref().and_then(path_given)
}

fn no_password() -> SecretSource {
    SecretSource::Given(Secret::new(""))
}

fn workload(args: &AzureArgs) -> Result<ControllerIdentity, AzureError> {
    let missing = |setting| AzureError::Missing { kind: "workload identity", setting };
    Ok(ControllerIdentity::Workload {
        tenant_id: given(&args.federated_tenant_id)
            .ok_or_else(|| missing("AZURE_TENANT_ID (--federated-tenant-id)"))?,
        client_id: given(&args.federated_client_id)
            .ok_or_else(|| missing("AZURE_CLIENT_ID (--federated-client-id)"))?,
        token_file: args
            .federated_token_file
            .as_deref()
            .and_then(path_given)
            .ok_or_else(|| missing("AZURE_FEDERATED_TOKEN_FILE (--federated-token-file)"))?
            .to_owned(),
    })
}

fn given_secret(secret: &Option<Secret>) -> Option<Secret> {
    secret.clone().filter(|secret| !secret.secret().is_empty())
}

fn boolean(name: &'static str, value: &Option<String>) -> Result<bool, AzureError> {
    match given(value) {
        None => Ok(false),
        Some(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(value) => Err(AzureError::NotABoolean { name, value }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = "AAAAAAAA-0000-0000-0000-000000000001";
    const RESOURCE: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/own";

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn principal() -> AzureArgs {
        AzureArgs {
            tenant_id: some("tenant"),
            client_id: some("client"),
            client_secret: Some(Secret::new("p4ssw0rd")),
            ..AzureArgs::default()
        }
    }

    fn federated() -> AzureArgs {
        AzureArgs {
            federated_tenant_id: some("tenant"),
            federated_client_id: some("workload"),
            federated_token_file: Some("/var/token".into()),
            ..AzureArgs::default()
        }
    }

    /// How the choice is shown in logs, or the error.
    fn chosen(args: &AzureArgs) -> String {
        identity_of_args(args)
            .map_or_else(|error| error.to_string(), |identity| identity.to_string())
    }

    #[test]
    fn the_first_that_is_configured_is_taken() {
        let mut all = AzureArgs { use_msi: some("TRUE"), ..principal() };
        all.federated_token_file = Some("/var/token".into());
        assert_eq!(chosen(&all), "system-assigned managed identity");
        all.use_msi = some("False");
        assert_eq!(chosen(&all), "service principal client");
        assert_eq!(chosen(&federated()), "workload identity workload");
        assert_eq!(chosen(&principal()), "service principal client");
        let empty = AzureArgs {
            use_msi: some(""),
            client_id: some(""),
            client_secret: Some(Secret::new("")),
            federated_token_file: Some("".into()),
            ..AzureArgs::default()
        };
        assert!(chosen(&empty).starts_with("no Azure credential is configured"));
    }

    #[test]
    fn an_explicit_kind_is_not_replaced_by_another() {
        let kind = |azure_credential, args| chosen(&AzureArgs { azure_credential, ..args });
        let managed = kind(CredentialKind::ManagedIdentity, principal());
        assert_eq!(managed, "system-assigned managed identity");
        let workload = kind(CredentialKind::WorkloadIdentity, principal());
        assert_eq!(workload, "workload identity needs AZURE_TENANT_ID (--federated-tenant-id)");
        let principal = kind(CredentialKind::ServicePrincipal, federated());
        assert_eq!(principal, "a service principal needs TENANT_ID (--tenant-id)");
    }

    #[test]
    fn a_managed_identity_is_named_by_client_id_or_arm_id() {
        let of = |id: &str| {
            chosen(&AzureArgs {
                use_msi: some("true"),
                user_assigned_msi_client_id: some(id),
                ..AzureArgs::default()
            })
        };
        assert_eq!(of(CLIENT), format!("managed identity {}", CLIENT.to_ascii_lowercase()));
        assert_eq!(of(RESOURCE), format!("managed identity {RESOURCE}"));
        assert_eq!(of(" "), "system-assigned managed identity");
        assert!(of("own").contains("USER_ASSIGNED_MSI_CLIENT_ID"));
    }

    #[test]
    fn half_a_service_principal_is_an_error_that_names_the_other_half() {
        let without = AzureArgs { client_secret: None, ..principal() };
        let words = "a service principal needs CLIENT_SECRET, CLIENT_SECRET_PATH or CLIENT_CERTIFICATE_PATH";
        assert_eq!(chosen(&without), words);
        let with = AzureArgs { client_certificate_path: Some("/c.pem".into()), ..principal() };
        assert!(chosen(&with).contains("not both"), "{}", chosen(&with));
        let with = AzureArgs { client_secret: None, ..with };
        assert_eq!(chosen(&with), "service principal client");
        let without = AzureArgs { client_id: None, ..principal() };
        assert_eq!(chosen(&without), "a service principal needs CLIENT_ID (--client-id)");
    }

    #[test]
    fn a_secret_is_given_or_in_a_file() {
        let path = |path: &str| Some(PathBuf::from(path));
        let file = AzureArgs {
            client_secret: None,
            client_secret_path: path("/var/secret"),
            ..principal()
        };
        let ControllerIdentity::ServicePrincipal { secret, .. } = identity_of_args(&file).unwrap()
        else {
            panic!("no secret")
        };
        assert_eq!(secret, SecretSource::File("/var/secret".into()));
        assert_eq!(
            chosen(&AzureArgs { client_secret_path: path(""), ..principal() }),
            "service principal client"
        );
        let both = AzureArgs { client_secret_path: path("/var/secret"), ..principal() };
        assert_eq!(chosen(&both), "give CLIENT_SECRET or CLIENT_SECRET_PATH, not both");
        let proofs = AzureArgs { client_certificate_path: path("/c.pfx"), ..file };
        let words = "give CLIENT_SECRET_PATH or CLIENT_CERTIFICATE_PATH, not both";
        assert_eq!(chosen(&proofs), words);
        let certificate = AzureArgs {
            client_secret_path: None,
            client_certificate_password_path: path("/var/password"),
            ..proofs
        };
        let ControllerIdentity::Certificate { password, .. } =
            identity_of_args(&certificate).unwrap()
        else {
            panic!("no certificate")
        };
        assert_eq!(password, SecretSource::File("/var/password".into()));
        let both =
            AzureArgs { client_certificate_password: Some(Secret::new("p4ss")), ..certificate };
        assert!(chosen(&both).contains("CLIENT_CERTIFICATE_PASSWORD_PATH, not both"));
    }

    #[test]
    fn booleans_are_strict() {
        let args = AzureArgs { use_msi: some("yes"), ..principal() };
        assert_eq!(chosen(&args), "USE_MSI must be true or false, not \"yes\"");
    }

    #[test]
    fn the_file_chooses_like_the_nodes_do() {
        let aks = AzureJson {
            client_id: some("msi"),
            client_secret: Some(Secret::new("msi")),
            use_managed_identity: true,
            user_assigned_identity: some(CLIENT),
            ..AzureJson::default()
        };
        let of = |json: &AzureJson| {
            identity_of_file(json).map_or_else(|error| error.to_string(), |id| id.to_string())
        };
        assert!(of(&aks).starts_with("managed identity"));
        let principal = AzureJson {
            tenant_id: some("t"),
            client_id: some("client"),
            client_secret: Some(Secret::new("p4ssw0rd")),
            ..AzureJson::default()
        };
        assert_eq!(of(&principal), "service principal client");
        let broken = AzureJson { client_secret: None, ..principal };
        assert_eq!(
            of(&broken),
            "azure.json without useManagedIdentityExtension needs aadClientSecret or aadClientCertPath"
        );
        let certificate = AzureJson {
            certificate_path: Some("/etc/kubernetes/sp.pfx".into()),
            certificate_password: Some(Secret::new("p4ssw0rd")),
            ..broken
        };
        let ControllerIdentity::Certificate { file, password, .. } =
            identity_of_file(&certificate).unwrap()
        else {
            panic!("not a certificate")
        };
        assert_eq!(
            (file.to_str(), password),
            (Some("/etc/kubernetes/sp.pfx"), SecretSource::Given(Secret::new("p4ssw0rd")))
        );
    }

    #[test]
    fn a_secret_is_never_shown() {
        let identity = identity_of_args(&principal()).unwrap();
        assert!(!format!("{identity:#?} {identity}").contains("p4ssw0rd"));
        assert!(!format!("{:#?}", principal()).contains("p4ssw0rd"));
    }
}
