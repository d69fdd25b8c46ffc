"""Signs in with Azure's command-line tools, as any script would.

client.py <az|azmcp|azmcp-default> <resource>... [--client-id ID | --object-id ID | --resource-id ID]

az is the Azure CLI. azmcp is Azure's MCP server, a program in .NET that signs in with Azure.Identity;
azmcp-default has it use the chain of DefaultAzureCredential for production. Both ask the resource
manager right after signing in: a stand-in for it (resource_manager.py) listens in the pod, where the
pod's hosts file leads. azmcp asks for tokens for the resource manager only, which the stand-in sees.

Prints one line of JSON for each resource, with the token's claims and never the token.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

from resource_manager import ResourceManager, claims_of

AZ = "/opt/azure-cli"
AZMCP = "/opt/azmcp/azmcp"
# For a person at a terminal it would be the login of a browser.
LIMIT = 120


class Failed(Exception):
    """The tool's own words."""


def run(command, environment):
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    if ended.returncode != 0:
        raise Failed((ended.stdout + ended.stderr).strip())
    return ended.stdout


def with_az(resource, selected, manager):
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "AZURE_CONFIG_DIR": folder,
            "HOME": folder,
            "PYTHONPATH": AZ,
            "REQUESTS_CA_BUNDLE": manager.certificate,
        }
        az = [sys.executable, "-m", "azure.cli"]
        chosen = []
        for option in ("client_id", "object_id", "resource_id"):
            if value := getattr(selected, option):
                chosen = ["--" + option.replace("_", "-"), value]
        run([*az, "login", "--identity", *chosen, "--output", "none"], environment)
        show = ["account", "get-access-token", "--resource", resource, "--output", "json"]
        return claims_of(json.loads(run([*az, *show], environment))["accessToken"])


def with_azmcp(credentials):
    def ask(resource, selected, manager):
        if selected.object_id or selected.resource_id:
            raise SystemExit("azmcp takes no object id and no resource id")
        if resource != manager.audience:
            raise SystemExit(f"azmcp asks for {manager.audience} only")
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {
                "AZURE_TOKEN_CREDENTIALS": credentials,
                "AZURE_MCP_COLLECT_TELEMETRY": "false",
                "DOTNET_SYSTEM_GLOBALIZATION_INVARIANT": "1",
                "HOME": folder,
                "SSL_CERT_FILE": manager.certificate,
            }
            if selected.client_id:
                environment["AZURE_CLIENT_ID"] = selected.client_id
            run([AZMCP, "subscription", "list"], environment)
        return manager.seen.pop()

    return ask


CREDENTIALS = {
    "az": with_az,
    "azmcp": with_azmcp("ManagedIdentityCredential"),
    "azmcp-default": with_azmcp("prod"),
}


def outcome(ask, resource, selected, manager):
    begun = time.monotonic()
    try:
        claims, error = ask(resource, selected, manager), None
    except Failed as problem:
        claims, error = None, str(problem)
    seconds = time.monotonic() - begun
    return {"ok": error is None, "claims": claims, "seconds": seconds, "error": error}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("credential", choices=CREDENTIALS)
    parser.add_argument("resource", nargs="+")
    selector = parser.add_mutually_exclusive_group()
    for name in ("--client-id", "--object-id", "--resource-id"):
        selector.add_argument(name)
    selected = parser.parse_args()
    with ResourceManager() as manager:
        for resource in selected.resource:
            ask = CREDENTIALS[selected.credential]
            print(json.dumps(outcome(ask, resource, selected, manager)), flush=True)


if __name__ == "__main__":
    main()
