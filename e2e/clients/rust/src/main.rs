//! Asks for tokens with Azure's crate, as any application would. Prints one line of JSON for each
//! resource, with the token's claims and never the token.

use std::time::Instant;

use anyhow::{Context, Result};
use azure_core::credentials::TokenCredential;
use azure_identity::{ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Do nothing until told to end.
    Idle,
    /// Ask with `ManagedIdentityCredential`.
    ManagedIdentity(Request),
}

#[derive(Debug, Args)]
struct Request {
    #[arg(required = true)]
    resources: Vec<String>,
    #[command(flatten)]
    selector: Selector,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct Selector {
    #[arg(long)]
    client_id: Option<String>,
    #[arg(long)]
    object_id: Option<String>,
    #[arg(long)]
    resource_id: Option<String>,
}

impl Selector {
    fn identity(&self) -> Option<UserAssignedId> {
        let client = self.client_id.clone().map(UserAssignedId::ClientId);
        let object = self.object_id.clone().map(UserAssignedId::ObjectId);
        let resource = self.resource_id.clone().map(UserAssignedId::ResourceId);
        client.or(object).or(resource)
    }
}

async fn token(resource: &str, selector: &Selector) -> Result<String> {
    let options = ManagedIdentityCredentialOptions {
        user_assigned_id: selector.identity(),
        ..ManagedIdentityCredentialOptions::default()
    };
    let credential = ManagedIdentityCredential::new(Some(options))?;
    let scope = format!("{resource}/.default");
    Ok(credential.get_token(&[&scope], None).await?.token.secret().to_owned())
}

fn claims(token: &str) -> Result<Value> {
    let payload = token.split('.').nth(1).context("the token is no JWT")?;
    let all: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?;
    Ok(json!({"appid": all["appid"], "oid": all["oid"], "aud": all["aud"]}))
}

async fn outcome(resource: &str, selector: &Selector) -> Value {
    let begun = Instant::now();
    let token = token(resource, selector).await;
    let seconds = begun.elapsed().as_secs_f64();
    match token.and_then(|token| claims(&token)) {
        Ok(claims) => json!({"ok": true, "claims": claims, "seconds": seconds, "error": null}),
        Err(error) => {
            let error = format!("{error:#}");
            json!({"ok": false, "claims": null, "seconds": seconds, "error": error})
        }
    }
}

#[expect(clippy::print_stdout, reason = "the result")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Idle => {
            signal(SignalKind::terminate())?.recv().await;
        }
        Command::ManagedIdentity(request) => {
            for resource in &request.resources {
                println!("{}", outcome(resource, &request.selector).await);
            }
        }
    }
    Ok(())
}
