// Asks for tokens with Azure's modules for Go, as any application would.
//
//	client <credential> <resource>... [--client-id ID | --object-id ID | --resource-id ID]
//	client idle
//
// Prints one line of JSON for each resource, with the token's claims and never the token.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/managedidentity"
)

// selector is a name of an identity, and of what kind the name is.
type selector struct{ kind, value string }

type claims struct {
	AppID string `json:"appid"`
	OID   string `json:"oid"`
	Aud   string `json:"aud"`
}

type outcome struct {
	OK      bool    `json:"ok"`
	Claims  *claims `json:"claims"`
	Seconds float64 `json:"seconds"`
	Error   *string `json:"error"`
}

type ask func(context.Context, string, selector) (string, error)

var credentials = map[string]ask{
	"managed-identity": withIdentity(managedIdentity),
	"default":          withIdentity(defaultAzure),
	"msal":             withMsal,
}

func managedIdentity(selected selector) (azcore.TokenCredential, error) {
	options := azidentity.ManagedIdentityCredentialOptions{}
	switch selected.kind {
	case "--client-id":
		options.ID = azidentity.ClientID(selected.value)
	case "--object-id":
		options.ID = azidentity.ObjectID(selected.value)
	case "--resource-id":
		options.ID = azidentity.ResourceID(selected.value)
	}
	return azidentity.NewManagedIdentityCredential(&options)
}

// DefaultAzureCredential has no option for the identity: it reads the environment.
func defaultAzure(selected selector) (azcore.TokenCredential, error) {
	switch selected.kind {
	case "":
	case "--client-id":
		if err := os.Setenv("AZURE_CLIENT_ID", selected.value); err != nil {
			return nil, err
		}
	default:
		return nil, errors.New("DefaultAzureCredential takes a client id only")
	}
	return azidentity.NewDefaultAzureCredential(nil)
}

func withIdentity(make func(selector) (azcore.TokenCredential, error)) ask {
	return func(ctx context.Context, resource string, selected selector) (string, error) {
		credential, err := make(selected)
		if err != nil {
			return "", err
		}
		scopes := []string{resource + "/.default"}
		token, err := credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: scopes})
		return token.Token, err
	}
}

func withMsal(ctx context.Context, resource string, selected selector) (string, error) {
	id := managedidentity.ID(managedidentity.SystemAssigned())
	switch selected.kind {
	case "--client-id":
		id = managedidentity.UserAssignedClientID(selected.value)
	case "--object-id":
		id = managedidentity.UserAssignedObjectID(selected.value)
	case "--resource-id":
		id = managedidentity.UserAssignedResourceID(selected.value)
	}
	client, err := managedidentity.New(id)
	if err != nil {
		return "", err
	}
	result, err := client.AcquireToken(ctx, resource)
	return result.AccessToken, err
}

func claimsOf(token string) (*claims, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errors.New("the token is no JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, err
	}
	found := &claims{}
	return found, json.Unmarshal(payload, found)
}

func outcomeOf(ask ask, resource string, selected selector) outcome {
	begun := time.Now()
	token, err := ask(context.Background(), resource, selected)
	result := outcome{Seconds: time.Since(begun).Seconds()}
	if err == nil {
		result.Claims, err = claimsOf(token)
	}
	if err != nil {
		text := err.Error()
		result.Error = &text
	}
	result.OK = err == nil
	return result
}

func idle() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	<-ended
}

func run(args []string) error {
	if len(args) == 1 && args[0] == "idle" {
		idle()
		return nil
	}
	if len(args) < 2 || credentials[args[0]] == nil {
		return errors.New("usage: client <managed-identity|default|msal> <resource>... [selector]")
	}
	var resources []string
	selected := selector{}
	for rest := args[1:]; len(rest) > 0; rest = rest[1:] {
		if !strings.HasPrefix(rest[0], "--") {
			resources = append(resources, rest[0])
			continue
		}
		if len(rest) < 2 {
			return fmt.Errorf("%s needs a value", rest[0])
		}
		selected = selector{kind: rest[0], value: rest[1]}
		rest = rest[1:]
	}
	lines := json.NewEncoder(os.Stdout)
	for _, resource := range resources {
		if err := lines.Encode(outcomeOf(credentials[args[0]], resource, selected)); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}
