//! Settings files: `azure.json` of the nodes, and the endpoints file of Azure Stack Hub.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use azure_core::credentials::Secret;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::AzureError;

/// What the controller reads of `azure.json`. Hosts are found by their nodes' provider ids, so
/// that subscription and resource group are not among it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct AzureJson {
    pub(super) cloud: Option<String>,
    #[serde(rename = "resourceManagerEndpoint")]
    pub(super) resource_manager: Option<String>,
    #[serde(rename = "tenantId")]
    pub(super) tenant_id: Option<String>,
    #[serde(rename = "aadClientId")]
    pub(super) client_id: Option<String>,
    #[serde(rename = "aadClientSecret")]
    pub(super) client_secret: Option<Secret>,
    #[serde(rename = "aadClientCertPath")]
    pub(super) certificate_path: Option<PathBuf>,
    #[serde(rename = "aadClientCertPassword")]
    pub(super) certificate_password: Option<Secret>,
    #[serde(rename = "useManagedIdentityExtension")]
    pub(super) use_managed_identity: bool,
    #[serde(rename = "userAssignedIdentityID")]
    pub(super) user_assigned_identity: Option<String>,
}

/// What the controller reads of the file that `AZURE_ENVIRONMENT_FILEPATH` names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct EnvironmentFile {
    #[serde(rename = "activeDirectoryEndpoint")]
    pub(super) authority_host: Option<String>,
    #[serde(rename = "resourceManagerEndpoint")]
    pub(super) resource_manager: Option<String>,
    #[serde(rename = "tokenAudience")]
    pub(super) audience: Option<String>,
}

/// The bytes of a file; errors name it.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, AzureError> {
    let unreadable = |source| AzureError::Unreadable { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(unreadable)?;
    // A container has the file that was there when it began. If that was replaced since then it
    // has no name any more.
    if file.metadata().map_err(unreadable)?.nlink() == 0 {
        return Err(AzureError::Replaced { path: path.to_owned() });
    }
    let mut content = Vec::new();
    file.read_to_end(&mut content).map_err(unreadable)?;
    Ok(content)
}

/// Parses the content of the file at `path`: JSON, or YAML as aad-pod-identity also took it.
pub(super) fn parse<T: DeserializeOwned>(path: &Path, content: &[u8]) -> Result<T, AzureError> {
    // Written by tools of Windows, too.
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let invalid =
        |format, line, column| AzureError::Invalid { path: path.to_owned(), format, line, column };
    if content.trim_ascii_start().starts_with(b"{") {
        return serde_json::from_slice(content)
            .map_err(|error| invalid("JSON", error.line() as u64, error.column() as u64));
    }
    match serde_saphyr::from_slice(content) {
        Ok(Some(settings)) => Ok(settings),
        Ok(None) => Err(invalid("YAML", 1, 1)), // an empty file would do for settings without any
        Err(error) => {
            let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
            Err(invalid("YAML", line, column))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn azure_json(text: &str) -> Result<AzureJson, AzureError> {
        parse(Path::new("azure.json"), text.as_bytes())
    }

    #[test]
    fn the_file_of_an_aks_node_is_read() {
        let file = azure_json(
            "\u{feff}{
                \"cloud\": \"AzurePublicCloud\", \"tenantId\": \"t\",
                \"subscriptionId\": \"s\", \"resourceGroup\": \"g\", \"vmType\": \"vmss\",
                \"aadClientId\": \"msi\", \"aadClientSecret\": \"msi\",
                \"useManagedIdentityExtension\": true,
                \"userAssignedIdentityID\": \"00000000-0000-0000-0000-000000000001\",
                \"loadBalancerSku\": \"Standard\", \"cloudProviderBackoff\": true
            }",
        )
        .unwrap();
        assert!(file.use_managed_identity);
        assert_eq!(file.client_secret.unwrap().secret(), "msi");
        assert_eq!(
            file.user_assigned_identity.as_deref(),
            Some("00000000-0000-0000-0000-000000000001")
        );
        assert_eq!(azure_json("{}").unwrap(), AzureJson::default());
    }

    #[test]
    fn a_file_without_a_name_is_one_that_was_replaced() {
        use std::os::fd::AsRawFd;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "old").unwrap();
        let open = File::open(file.path()).unwrap();
        // Leads to the open file, whatever becomes of its name: as a bind mount does.
        let mounted = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
        assert_eq!(read(&mounted).unwrap(), b"old");
        let new = tempfile::NamedTempFile::new().unwrap();
        std::fs::rename(new.path(), file.path()).unwrap();
        let error = read(&mounted).unwrap_err();
        assert!(matches!(error, AzureError::Replaced { .. }), "{error:?}");
    }

    #[test]
    fn the_same_file_as_yaml_is_read() {
        let yaml = "\u{feff}# by hand\n  cloud: AzurePublicCloud\n  tenantId: 't'\n  \
                    subscriptionId: s\n  aadClientId: 4711\n  aadClientSecret: \"p4ss: w0rd #1\"\n  \
                    useManagedIdentityExtension: false\n  userAssignedIdentityID:\n";
        let expected = AzureJson {
            cloud: Some("AzurePublicCloud".to_owned()),
            tenant_id: Some("t".to_owned()),
            client_id: Some("4711".to_owned()),
            client_secret: Some(Secret::new("p4ss: w0rd #1")),
            ..AzureJson::default()
        };
        assert_eq!(azure_json(yaml).unwrap(), expected);
        let json = "\n {\"aadClientId\": \"4711\", \"tenantId\": \"t\", \"cloud\": \"AzurePublicCloud\", \
                    \"aadClientSecret\": \"p4ss: w0rd #1\"}";
        assert_eq!(azure_json(json).unwrap(), expected);
    }

    #[test]
    fn what_is_neither_is_no_empty_file() {
        for text in [
            "",
            " \n",
            "# nothing\n",
            "null",
            "p4ssw0rd",
            "- cloud: c",
            "a: b: c",
            "a: 1\n---\na: 2",
        ] {
            let error = azure_json(text).map(|_| ()).unwrap_err().to_string();
            assert!(error.starts_with("azure.json is not valid YAML"), "{text:?}: {error}");
        }
    }

    #[test]
    fn no_error_and_no_debug_quotes_a_secret() {
        for (text, words) in [
            ("{\n\"aadClientSecret\": [4711]}", "JSON of the expected shape, at line 2 column 19"),
            (
                "cloud: c\naadClientSecret: [4711]",
                "YAML of the expected shape, at line 2 column 18",
            ),
            ("aadClientSecret: \"4711", "YAML of the expected shape, at line 1 column 18"),
        ] {
            let error = azure_json(text).unwrap_err();
            assert_eq!(error.to_string(), format!("azure.json is not valid {words}"));
            assert!(!format!("{error:?}").contains("4711"));
        }
        let file = azure_json("{\"aadClientSecret\": \"p4ssw0rd\"}").unwrap();
        assert!(!format!("{file:?}").contains("p4ssw0rd"));
    }
}
