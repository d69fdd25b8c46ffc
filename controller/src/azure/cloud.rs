//! Flags and files become the endpoints of one cloud. A flag wins over a file.

use std::path::Path;

use api::cloud::{Cloud, CloudName, CustomEndpoints};

use super::file::{AzureJson, EnvironmentFile};
use super::{AzureArgs, AzureError};

/// The cloud that flags, `azure.json` and the endpoints file describe together.
pub(super) fn cloud(
    args: &AzureArgs,
    json: &AzureJson,
    environment: &EnvironmentFile,
) -> Result<Cloud, AzureError> {
    let name: CloudName =
        given(&args.cloud).or_else(|| given(&json.cloud)).unwrap_or_default().parse()?;
    let mut endpoints = CustomEndpoints {
        authority_host: given(&args.authority_host),
        resource_manager: given(&args.resource_manager),
        resource_manager_audience: given(&args.resource_manager_audience),
    };
    if name == CloudName::Custom {
        fill(&mut endpoints.authority_host, &[&environment.authority_host]);
        let known = [&environment.resource_manager, &json.resource_manager];
        fill(&mut endpoints.resource_manager, &known);
        fill(&mut endpoints.resource_manager_audience, &[&environment.audience]);
    }
    Ok(Cloud::new(name, endpoints)?)
}

/// An empty value is none: charts and pod specs often set variables to nothing.
pub(super) fn given(value: &Option<String>) -> Option<String> {
    value.as_deref().map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned)
}

/// The same for paths.
pub(super) fn path_given(path: &Path) -> Option<&Path> {
    (!path.as_os_str().is_empty()).then_some(path)
}

fn fill(value: &mut Option<String>, others: &[&Option<String>]) {
    *value = value.take().or_else(|| others.iter().find_map(|other| given(other)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn of(
        args: &AzureArgs,
        json: &AzureJson,
        environment: &EnvironmentFile,
    ) -> Result<Cloud, String> {
        cloud(args, json, environment).map_err(|error| error.to_string())
    }

    #[test]
    fn the_public_cloud_is_the_default_and_flags_win_over_the_file() {
        let none = EnvironmentFile::default();
        let china = AzureJson { cloud: some("AzureChinaCloud"), ..AzureJson::default() };
        let args = AzureArgs { cloud: some(" "), ..AzureArgs::default() };
        let arm =
            |args: &AzureArgs, json: &AzureJson| of(args, json, &none).unwrap().resource_manager;
        assert_eq!(arm(&args, &AzureJson::default()), "https://management.azure.com");
        assert_eq!(arm(&args, &china), "https://management.chinacloudapi.cn");
        let args = AzureArgs { cloud: some("azureusgovernmentcloud"), ..args };
        assert_eq!(arm(&args, &china), "https://management.usgovcloudapi.net");
        let args = AzureArgs { cloud: some("Mars"), ..args };
        assert!(of(&args, &china, &none).unwrap_err().contains("unknown cloud \"Mars\""));
    }

    #[test]
    fn a_custom_cloud_is_put_together_from_all_sources() {
        let args = AzureArgs {
            cloud: some("Custom"),
            authority_host: some("https://login.flag"),
            ..AzureArgs::default()
        };
        let json =
            AzureJson { resource_manager: some("https://arm.json/"), ..AzureJson::default() };
        let environment = EnvironmentFile {
            authority_host: some("https://login.file/"),
            resource_manager: some("https://arm.file/"),
            audience: some("https://audience.file/"),
        };
        let cloud = of(&args, &json, &environment).unwrap();
        assert_eq!(cloud.authority_host, "https://login.flag");
        assert_eq!(cloud.resource_manager, "https://arm.file");
        assert_eq!(cloud.resource_manager_audience, "https://audience.file");
        let cloud = of(&args, &json, &EnvironmentFile::default()).unwrap();
        assert_eq!(cloud.resource_manager_audience, "https://arm.json");
        let error = of(&args, &AzureJson::default(), &EnvironmentFile::default()).unwrap_err();
        assert!(error.contains("resource manager"), "{error}");
    }

    #[test]
    fn files_do_not_add_endpoints_to_a_known_cloud_but_flags_are_refused() {
        let environment =
            EnvironmentFile { authority_host: some("https://login.file"), ..Default::default() };
        let cloud = of(&AzureArgs::default(), &AzureJson::default(), &environment).unwrap();
        assert_eq!(cloud.authority_host, "https://login.microsoftonline.com");
        let args = AzureArgs { authority_host: some("https://x"), ..AzureArgs::default() };
        assert!(of(&args, &AzureJson::default(), &environment).is_err());
    }
}
