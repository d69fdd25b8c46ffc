"""Asks for tokens with Azure's libraries for Python, as any application would.

client.py <credential> <resource>... [--client-id ID | --object-id ID | --resource-id ID]

Prints one line of JSON for each resource, with the token's claims and never the token.
"""

import argparse
import asyncio
import base64
import json
import time

import azure.identity
import azure.identity.aio
import msal
import requests


def managed_identity(library, selected):
    if selected.client_id:
        return library.ManagedIdentityCredential(client_id=selected.client_id)
    if selected.object_id:
        return library.ManagedIdentityCredential(identity_config={"object_id": selected.object_id})
    if selected.resource_id:
        config = {"resource_id": selected.resource_id}
        return library.ManagedIdentityCredential(identity_config=config)
    return library.ManagedIdentityCredential()


def default(library, selected):
    if selected.client_id:
        return library.DefaultAzureCredential(managed_identity_client_id=selected.client_id)
    if selected.object_id or selected.resource_id:
        raise SystemExit("DefaultAzureCredential takes no object id and no resource id")
    return library.DefaultAzureCredential()


def with_identity(make):
    def ask(resource, selected):
        with make(azure.identity, selected) as credential:
            return credential.get_token(resource + "/.default").token

    return ask


def with_identity_aio(make):
    async def ask(resource, selected):
        async with make(azure.identity.aio, selected) as credential:
            return (await credential.get_token(resource + "/.default")).token

    return lambda resource, selected: asyncio.run(ask(resource, selected))


def with_msal(resource, selected):
    if selected.client_id:
        identity = msal.UserAssignedManagedIdentity(client_id=selected.client_id)
    elif selected.object_id:
        identity = msal.UserAssignedManagedIdentity(object_id=selected.object_id)
    elif selected.resource_id:
        identity = msal.UserAssignedManagedIdentity(resource_id=selected.resource_id)
    else:
        identity = msal.SystemAssignedManagedIdentity()
    client = msal.ManagedIdentityClient(identity, http_client=requests.Session())
    answer = client.acquire_token_for_client(resource=resource)
    if "access_token" not in answer:
        raise RuntimeError(f"{answer.get('error')}: {answer.get('error_description')}")
    return answer["access_token"]


CREDENTIALS = {
    "managed-identity": with_identity(managed_identity),
    "managed-identity-aio": with_identity_aio(managed_identity),
    "default": with_identity(default),
    "default-aio": with_identity_aio(default),
    "msal": with_msal,
}


def claims_of(token):
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return {name: claims.get(name) for name in ("appid", "oid", "aud")}


def outcome(ask, resource, selected):
    begun = time.monotonic()
    try:
        token, error = ask(resource, selected), None
    except Exception as problem:  # whatever the library makes of it is the answer
        token, error = None, f"{type(problem).__name__}: {problem}"
    seconds = time.monotonic() - begun
    claims = claims_of(token) if token else None
    return {"ok": error is None, "claims": claims, "seconds": seconds, "error": error}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("credential", choices=CREDENTIALS)
    parser.add_argument("resource", nargs="+")
    selector = parser.add_mutually_exclusive_group()
    for name in ("--client-id", "--object-id", "--resource-id"):
        selector.add_argument(name)
    selected = parser.parse_args()
    for resource in selected.resource:
        print(json.dumps(outcome(CREDENTIALS[selected.credential], resource, selected)), flush=True)


if __name__ == "__main__":
    main()
