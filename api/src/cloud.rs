//! The Azure clouds: where Entra and ARM are in each.

use std::fmt;
use std::str::FromStr;

/// Endpoints of one cloud. Every URL is `https` and ends without a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cloud {
    /// Entra, e.g. `https://login.microsoftonline.com`.
    pub authority_host: String,
    /// ARM, e.g. `https://management.azure.com`.
    pub resource_manager: String,
    /// Audience of ARM tokens, without `/.default`; Azure keeps a trailing slash off here.
    pub resource_manager_audience: String,
}

/// The clouds by the names that `azure.json` and upstream's `CLOUD` use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloudName {
    /// The public cloud.
    AzurePublicCloud,
    /// US government.
    AzureUsGovernmentCloud,
    /// China, operated by 21Vianet.
    AzureChinaCloud,
    /// Azure Stack Hub and others: endpoints are given one by one.
    Custom,
}

/// Why no cloud could be made of the settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloudError {
    /// The name is none of the four.
    #[error(
        "unknown cloud {0:?}: use AzurePublicCloud, AzureUSGovernmentCloud, AzureChinaCloud or Custom"
    )]
    UnknownName(String),
    /// A custom cloud lacks an endpoint.
    #[error("cloud Custom needs {0}")]
    Missing(&'static str),
    /// An endpoint is not `https`.
    #[error("{0} must be an https URL, not {1:?}")]
    NotHttps(&'static str, String),
    /// Endpoints were given for a cloud whose endpoints are known.
    #[error("{0} is only for cloud Custom")]
    OnlyForCustom(&'static str),
}

/// Endpoints of a custom cloud, as flags or the chart give them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CustomEndpoints {
    /// See [`Cloud::authority_host`].
    pub authority_host: Option<String>,
    /// See [`Cloud::resource_manager`].
    pub resource_manager: Option<String>,
    /// See [`Cloud::resource_manager_audience`]; the ARM endpoint if absent.
    pub resource_manager_audience: Option<String>,
}

// === impl CloudName ===

impl CloudName {
    /// The audience that federated tokens have in this cloud, unless an admin chose another.
    pub fn federation_audience(self) -> &'static str {
        match self {
            Self::AzurePublicCloud | Self::Custom => "api://AzureADTokenExchange",
            Self::AzureUsGovernmentCloud => "api://AzureADTokenExchangeUSGov",
            Self::AzureChinaCloud => "api://AzureADTokenExchangeChina",
        }
    }
}

impl FromStr for CloudName {
    type Err = CloudError;

    fn from_str(text: &str) -> Result<Self, CloudError> {
        match text.to_ascii_lowercase().as_str() {
            "" | "azurecloud" | "azurepubliccloud" => Ok(Self::AzurePublicCloud),
            "azureusgovernment" | "azureusgovernmentcloud" => Ok(Self::AzureUsGovernmentCloud),
            "azurechinacloud" => Ok(Self::AzureChinaCloud),
            "custom" | "azurestackcloud" => Ok(Self::Custom),
            _ => Err(CloudError::UnknownName(text.to_owned())),
        }
    }
}

impl fmt::Display for CloudName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AzurePublicCloud => "AzurePublicCloud",
            Self::AzureUsGovernmentCloud => "AzureUSGovernmentCloud",
            Self::AzureChinaCloud => "AzureChinaCloud",
            Self::Custom => "Custom",
        })
    }
}

// === impl Cloud ===

impl Cloud {
    /// Puts a cloud together; endpoints are required for `Custom` and refused for the others.
    pub fn new(name: CloudName, custom: CustomEndpoints) -> Result<Self, CloudError> {
        let (authority, arm) = match name {
            CloudName::AzurePublicCloud => {
                ("https://login.microsoftonline.com", "https://management.azure.com")
            }
            CloudName::AzureUsGovernmentCloud => {
                ("https://login.microsoftonline.us", "https://management.usgovcloudapi.net")
            }
            CloudName::AzureChinaCloud => {
                ("https://login.chinacloudapi.cn", "https://management.chinacloudapi.cn")
            }
            CloudName::Custom => return Self::custom(custom),
        };
        if custom.authority_host.is_some() {
            return Err(CloudError::OnlyForCustom("the authority host"));
        }
        if custom.resource_manager.is_some() || custom.resource_manager_audience.is_some() {
            return Err(CloudError::OnlyForCustom("the resource manager endpoint"));
        }
        Ok(Self {
            authority_host: authority.to_owned(),
            resource_manager: arm.to_owned(),
            resource_manager_audience: arm.to_owned(),
        })
    }

    fn custom(endpoints: CustomEndpoints) -> Result<Self, CloudError> {
        let authority_host = https("the authority host", endpoints.authority_host)?;
        let resource_manager = https("the resource manager endpoint", endpoints.resource_manager)?;
        let resource_manager_audience = match endpoints.resource_manager_audience {
            Some(audience) => audience.trim_end_matches('/').to_owned(),
            None => resource_manager.clone(),
        };
        Ok(Self { authority_host, resource_manager, resource_manager_audience })
    }
}

fn https(what: &'static str, url: Option<String>) -> Result<String, CloudError> {
    let url = url.filter(|url| !url.is_empty()).ok_or(CloudError::Missing(what))?;
    if url.starts_with("https://") && url.len() > "https://".len() {
        Ok(url.trim_end_matches('/').to_owned())
    } else {
        Err(CloudError::NotHttps(what, url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_azure_json_are_known_in_any_case() {
        for name in ["AzurePublicCloud", "AZUREPUBLICCLOUD", "AzureCloud", ""] {
            assert_eq!(name.parse(), Ok(CloudName::AzurePublicCloud), "{name}");
        }
        assert_eq!("AzureStackCloud".parse(), Ok(CloudName::Custom));
        assert!("AzureGermanCloud".parse::<CloudName>().is_err());
    }

    #[test]
    fn custom_needs_https_endpoints() {
        let custom = |authority: &str, arm: &str| {
            Cloud::new(
                CloudName::Custom,
                CustomEndpoints {
                    authority_host: Some(authority.to_owned()),
                    resource_manager: Some(arm.to_owned()),
                    resource_manager_audience: None,
                },
            )
        };
        let cloud = custom("https://login.example/", "https://arm.example").unwrap();
        assert_eq!(cloud.authority_host, "https://login.example");
        assert_eq!(cloud.resource_manager_audience, "https://arm.example");
        assert!(matches!(custom("http://login", "https://arm"), Err(CloudError::NotHttps(..))));
        assert!(matches!(custom("", "https://arm"), Err(CloudError::Missing(_))));
    }

    #[test]
    fn known_clouds_take_no_endpoints() {
        let endpoints =
            CustomEndpoints { authority_host: Some("https://x".to_owned()), ..Default::default() };
        assert!(Cloud::new(CloudName::AzurePublicCloud, endpoints).is_err());
    }
}
