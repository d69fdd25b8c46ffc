{{- define "pis.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "pis.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: pod-identity-sidecar
{{- end -}}

{{/* Selector labels of one component: dict "root" . "component" "webhook" */}}
{{- define "pis.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Image of one component: dict "root" . "component" "webhook" */}}
{{- define "pis.image" -}}
{{- $registry := required "image.registry is empty: set it to where the images are, e.g. --set image.registry=myregistry.azurecr.io/pod-identity-sidecar (`make images` builds them)" .root.Values.image.registry -}}
{{- printf "%s/%s:%s" $registry .component (.root.Values.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}

{{- define "pis.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Everything that a pod of ours needs to pass Pod Security "restricted". */}}
{{- define "pis.restricted" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Probes on the admin port. */}}
{{- define "pis.probes" -}}
livenessProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 10
  timeoutSeconds: 5
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 2
  timeoutSeconds: 5
{{- end -}}

{{/* Replicas on different nodes where there are several: dict "root" . "component" "webhook" */}}
{{- define "pis.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "pis.selector" . | nindent 8 }}
{{- end -}}

{{/* Audience of the tokens that Entra takes for federated identities. */}}
{{- define "pis.federationAudience" -}}
{{- $ofCloud := dict "AzureUSGovernmentCloud" "USGov" "AzureChinaCloud" "China" -}}
{{- $default := printf "api://AzureADTokenExchange%s" (get $ofCloud .Values.cloud.name) -}}
{{- .Values.azure.federationAudience | default $default -}}
{{- end -}}

{{/* Where Azure is. */}}
{{- define "pis.cloudArgs" -}}
{{- /* azure.json names its cloud itself. */}}
{{- if or (ne .Values.azure.credential "cloudConfig") (ne .Values.cloud.name "AzurePublicCloud") }}
- --cloud={{ .Values.cloud.name }}
{{- end }}
{{- with .Values.cloud.authorityHost }}
- --authority-host={{ . }}
{{- end }}
{{- with .Values.cloud.resourceManager }}
- --resource-manager={{ . }}
{{- end }}
{{- with .Values.cloud.resourceManagerAudience }}
- --resource-manager-audience={{ . }}
{{- end }}
{{- if .Values.cloud.caBundle }}
- --ca-bundle=/etc/pod-identity-sidecar/ca-bundle/ca.crt
{{- end }}
{{- end -}}

{{/* What of the node is mounted for azure.json, at the same path. */}}
{{- define "pis.cloudConfigMount" -}}
{{- $path := .Values.azure.cloudConfigPath -}}
{{- if eq .Values.azure.cloudConfigMount "File" -}}
{{- $path -}}
{{- else if regexMatch "^(/[^/]+){3,}$" $path -}}
{{- dir $path -}}
{{- else -}}
{{- fail (printf "azure.cloudConfigMount=Directory would mount %s of the node: put the file into a directory of its own" (dir $path)) -}}
{{- end -}}
{{- end -}}
