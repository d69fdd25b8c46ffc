// Asks for tokens with Azure's libraries for JavaScript, as any application would.
//
// client.js <credential> <resource>... [--client-id ID | --object-id ID | --resource-id ID]
// client.js idle
//
// Prints one line of JSON for each resource, with the token's claims and never the token.

import { parseArgs } from "node:util";
import { DefaultAzureCredential, ManagedIdentityCredential } from "@azure/identity";
import { ManagedIdentityApplication } from "@azure/msal-node";

function managedIdentity(selected) {
  if (selected.clientId) return new ManagedIdentityCredential({ clientId: selected.clientId });
  if (selected.objectId) return new ManagedIdentityCredential({ objectId: selected.objectId });
  if (selected.resourceId) return new ManagedIdentityCredential({ resourceId: selected.resourceId });
  return new ManagedIdentityCredential();
}

function defaultAzure(selected) {
  if (selected.objectId) throw new Error("DefaultAzureCredential takes no object id");
  return new DefaultAzureCredential({
    managedIdentityClientId: selected.clientId,
    managedIdentityResourceId: selected.resourceId,
  });
}

const withIdentity = (make) => async (resource, selected) =>
  (await make(selected).getToken(`${resource}/.default`)).token;

async function withMsal(resource, selected) {
  const application = new ManagedIdentityApplication({
    managedIdentityIdParams: {
      userAssignedClientId: selected.clientId,
      userAssignedObjectId: selected.objectId,
      userAssignedResourceId: selected.resourceId,
    },
  });
  return (await application.acquireToken({ resource })).accessToken;
}

const credentials = {
  "managed-identity": withIdentity(managedIdentity),
  default: withIdentity(defaultAzure),
  msal: withMsal,
};

function claimsOf(token) {
  const { appid, oid, aud } = JSON.parse(Buffer.from(token.split(".")[1], "base64url"));
  return { appid, oid, aud };
}

async function outcome(ask, resource, selected) {
  const begun = performance.now();
  let token = null;
  let error = null;
  try {
    token = await ask(resource, selected);
  } catch (problem) {
    error = String(problem);
  }
  const seconds = (performance.now() - begun) / 1000;
  return { ok: error === null, claims: token && claimsOf(token), seconds, error };
}

const text = { type: "string" };
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { "client-id": text, "object-id": text, "resource-id": text },
});
const selected = {
  clientId: values["client-id"],
  objectId: values["object-id"],
  resourceId: values["resource-id"],
};
const [credential, ...resources] = positionals;
if (credential === "idle") {
  process.on("SIGTERM", () => process.exit(0));
  setInterval(() => {}, 1 << 30);
} else if (credential in credentials && resources.length > 0) {
  for (const resource of resources) {
    console.log(JSON.stringify(await outcome(credentials[credential], resource, selected)));
  }
  // Not when the last idle connection has timed out.
  process.exit(0);
} else {
  console.error(`one of ${Object.keys(credentials).join(", ")}, and resources`);
  process.exit(2);
}
