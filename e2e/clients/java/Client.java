import com.azure.core.credential.TokenCredential;
import com.azure.core.credential.TokenRequestContext;
import com.azure.identity.DefaultAzureCredentialBuilder;
import com.azure.identity.ManagedIdentityCredentialBuilder;
import com.azure.json.JsonProviders;
import com.azure.json.JsonReader;
import com.azure.json.JsonWriter;
import com.microsoft.aad.msal4j.ManagedIdentityApplication;
import com.microsoft.aad.msal4j.ManagedIdentityId;
import com.microsoft.aad.msal4j.ManagedIdentityParameters;
import java.io.IOException;
import java.io.StringWriter;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;

/**
 * Asks for tokens with Azure's libraries for Java, as any application would.
 *
 * <pre>
 * Client &lt;credential&gt; &lt;resource&gt;... [--client-id ID | --object-id ID | --resource-id ID]
 * Client idle
 * </pre>
 *
 * Prints one line of JSON for each resource, with the token's claims and never the token.
 */
public final class Client {
    private Client() {}

    /** A name of an identity, and of what kind the name is. */
    private record Selector(String kind, String value) {}

    private interface Ask {
        String token(String resource, Selector selected) throws Exception;
    }

    private static final Map<String, Ask> CREDENTIALS = Map.of(
        "managed-identity", (resource, selected) -> token(managedIdentity(selected), resource),
        "default", (resource, selected) -> token(defaultAzure(selected), resource),
        "msal", Client::withMsal);

    private static TokenCredential managedIdentity(Selector selected) {
        ManagedIdentityCredentialBuilder builder = new ManagedIdentityCredentialBuilder();
        switch (selected.kind()) {
            case "--client-id" -> builder.clientId(selected.value());
            case "--object-id" -> builder.objectId(selected.value());
            case "--resource-id" -> builder.resourceId(selected.value());
            default -> { }
        }
        return builder.build();
    }

    private static TokenCredential defaultAzure(Selector selected) {
        DefaultAzureCredentialBuilder builder = new DefaultAzureCredentialBuilder();
        switch (selected.kind()) {
            case "--client-id" -> builder.managedIdentityClientId(selected.value());
            case "--resource-id" -> builder.managedIdentityResourceId(selected.value());
            case "--object-id" ->
                throw new IllegalArgumentException("DefaultAzureCredential takes no object id");
            default -> { }
        }
        return builder.build();
    }

    private static String token(TokenCredential credential, String resource) {
        TokenRequestContext request = new TokenRequestContext().addScopes(resource + "/.default");
        return credential.getTokenSync(request).getToken();
    }

    private static String withMsal(String resource, Selector selected) throws Exception {
        ManagedIdentityId id = switch (selected.kind()) {
            case "--client-id" -> ManagedIdentityId.userAssignedClientId(selected.value());
            case "--object-id" -> ManagedIdentityId.userAssignedObjectId(selected.value());
            case "--resource-id" -> ManagedIdentityId.userAssignedResourceId(selected.value());
            default -> ManagedIdentityId.systemAssigned();
        };
        ManagedIdentityApplication application = ManagedIdentityApplication.builder(id).build();
        ManagedIdentityParameters request = ManagedIdentityParameters.builder(resource).build();
        return application.acquireTokenForManagedIdentity(request).get().accessToken();
    }

    /** What a stack trace says, without where. */
    private static String chain(Throwable problem) {
        StringBuilder text = new StringBuilder(problem.toString());
        for (Throwable cause = problem.getCause(); cause != null; cause = cause.getCause()) {
            text.append("\nCaused by: ").append(cause);
        }
        return text.toString();
    }

    @SuppressWarnings("unchecked")
    private static Map<String, Object> claims(String token) throws IOException {
        byte[] payload = Base64.getUrlDecoder().decode(token.split("\\.")[1]);
        try (JsonReader reader = JsonProviders.createReader(payload)) {
            return (Map<String, Object>) reader.readUntyped();
        }
    }

    private static String outcome(Ask ask, String resource, Selector selected) throws IOException {
        long begun = System.nanoTime();
        String token = null;
        String error = null;
        try {
            token = ask.token(resource, selected);
        } catch (Exception problem) {
            error = chain(problem);
        }
        double seconds = (System.nanoTime() - begun) / 1e9;
        StringWriter line = new StringWriter();
        try (JsonWriter writer = JsonProviders.createWriter(line)) {
            writer.writeStartObject();
            writer.writeBooleanField("ok", error == null);
            if (token != null) {
                Map<String, Object> claims = claims(token);
                writer.writeStartObject("claims");
                for (String name : List.of("appid", "oid", "aud")) {
                    writer.writeUntypedField(name, claims.get(name));
                }
                writer.writeEndObject();
            }
            writer.writeDoubleField("seconds", seconds);
            writer.writeStringField("error", error);
            writer.writeEndObject();
        }
        return line.toString();
    }

    public static void main(String[] args) throws Exception {
        if (args.length == 1 && args[0].equals("idle")) {
            Thread.sleep(Long.MAX_VALUE);
        }
        if (args.length < 2 || !CREDENTIALS.containsKey(args[0])) {
            System.err.println("usage: Client <" + CREDENTIALS.keySet() + "> <resource>... [selector]");
            System.exit(2);
        }
        List<String> resources = new ArrayList<>();
        Selector selected = new Selector("", "");
        for (int i = 1; i < args.length; i++) {
            if (args[i].startsWith("--")) {
                selected = new Selector(args[i], args[++i]);
            } else {
                resources.add(args[i]);
            }
        }
        for (String resource : resources) {
            System.out.println(outcome(CREDENTIALS.get(args[0]), resource, selected));
        }
        // The libraries' threads would go on.
        System.exit(0);
    }
}
