{{/* Secrets that the chart generates, or receives as existing secrets, with the value that names
     them and their keys. Those of callers are checked by `thumbwheel.validateIdentity`. */}}
{{- define "thumbwheel.secrets" -}}
keys: {name: {{ include "thumbwheel.secret" . }}, value: secrets.existing, made: {{ not .Values.secrets.existing }}, keys: [{{ .Values.secrets.keys.principalKey }}, {{ .Values.secrets.keys.masterKey }}, {{ .Values.secrets.keys.valkeySecret }}]}
{{- if not (include "thumbwheel.external" .) }}
modelServer: {name: {{ include "thumbwheel.modelServerSecret" . }}, value: serving.existingSecret, made: {{ not .Values.serving.existingSecret }}, keys: [{{ .Values.secrets.keys.modelServerKey }}]}
{{- end }}
{{- if include "thumbwheel.identity" . }}
identity: {name: {{ include "thumbwheel.identitySecret" . }}, value: identity.existing.private, made: {{ not .Values.identity.existing.private }}, keys: []}
callers: {name: {{ include "thumbwheel.callersSecret" . }}, value: identity.existing.public, made: {{ not .Values.identity.existing.public }}, keys: []}
{{- end }}
{{- if .Values.evaluation.enabled }}
evaluation: {name: {{ include "thumbwheel.evaluationSecret" . }}, value: evaluation.enabled, made: true, keys: [access-key, postgres-password, secret-key, valkey-password]}
{{- end }}
{{- end -}}

{{- define "thumbwheel.secret" -}}
{{- .Values.secrets.existing | default (include "thumbwheel.name" (list . "keys")) -}}
{{- end -}}

{{/* Separate from the secret of the other keys, which older releases and backups have without this
     key. Losing it costs nothing: a new one may be generated. */}}
{{- define "thumbwheel.modelServerSecret" -}}
{{- .Values.serving.existingSecret | default (include "thumbwheel.name" (list . "model-server")) -}}
{{- end -}}

{{/* Name of the secret with a key of a service. Arguments: list of root and key. */}}
{{- define "thumbwheel.secretOf" -}}
{{- if eq (index . 1) "model-server-key" }}{{ include "thumbwheel.modelServerSecret" (index . 0) }}{{ else }}{{ include "thumbwheel.secret" (index . 0) }}{{ end -}}
{{- end -}}

{{/* Name of the key of a service in its secret. Arguments: list of root and key. */}}
{{- define "thumbwheel.keyOf" -}}
{{- $names := (index . 0).Values.secrets.keys -}}
{{- index (dict "principal-key" $names.principalKey "master-key" $names.masterKey "valkey-secret" $names.valkeySecret "model-server-key" $names.modelServerKey) (index . 1) -}}
{{- end -}}

{{- define "thumbwheel.evaluationSecret" -}}{{ include "thumbwheel.name" (list . "evaluation") }}{{- end -}}

{{/* Non-empty if the chart generates this secret and the secret does not exist. `helm template`
     has no cluster and therefore renders it. Arguments: list of root and name. */}}
{{- define "thumbwheel.makes" -}}
{{- $root := index . 0 -}}
{{- with index (include "thumbwheel.secrets" $root | fromYaml) (index . 1) -}}
{{- if and .made (not (lookup "v1" "Secret" $root.Release.Namespace .name)) }}yes{{ end -}}
{{- end -}}
{{- end -}}

{{/* Replace pods when a secret changes that they read only when they start: its name, its key and,
     where the chart can look it up, its content. Not the content of a secret that the chart generates:
     it does not exist when the first pods are rendered, and the next upgrade would replace them all.
     Arguments: list of root, list of environment variables, and list of references as variables have. */}}
{{- define "thumbwheel.secretsChecksum" -}}
{{- $root := index . 0 -}}
{{- $references := index . 2 -}}
{{- range index . 1 -}}{{- with dig "valueFrom" "secretKeyRef" "" . -}}{{- $references = append $references . -}}{{- end -}}{{- end -}}
{{- $made := list -}}
{{- range include "thumbwheel.secrets" $root | fromYaml -}}{{- if .made -}}{{- $made = append $made .name -}}{{- end -}}{{- end -}}
{{- $contents := dict -}}{{- $read := list -}}
{{- range $references -}}
  {{- if not (or $root.Values.gitops (has .name $made) (hasKey $contents .name)) -}}
    {{- $found := lookup "v1" "Secret" $root.Release.Namespace .name -}}
    {{- $_ := set $contents .name (default dict (get (default dict $found) "data")) -}}
  {{- end -}}
  {{- $read = append $read (list .name .key (get (default dict (get $contents .name)) .key | default "")) -}}
{{- end -}}
{{- $read | toJson | sha256sum | trunc 16 -}}
{{- end -}}

{{- define "thumbwheel.madeOnce" -}}
helm.sh/hook: pre-install,pre-upgrade
# Override Helm's default policy, which deletes an existing object: delete only what this hook
# failed to create.
helm.sh/hook-delete-policy: hook-failed
# For earlier charts, in which the secret is an ordinary object: they adopt it and must not delete
# it.
helm.sh/resource-policy: keep
meta.helm.sh/release-name: {{ .Release.Name }}
meta.helm.sh/release-namespace: {{ .Release.Namespace }}
{{- end -}}

{{/* Keys that a secret of the cluster lacks, separated by commas. Arguments: list of secret and its keys. */}}
{{- define "thumbwheel.lackingKeys" -}}
{{- $data := default dict (index . 0).data -}}{{- $lacking := list -}}
{{- range index . 1 -}}{{- if not (hasKey $data .) -}}{{- $lacking = append $lacking . -}}{{- end -}}{{- end -}}
{{- join ", " $lacking -}}
{{- end -}}

{{/* Reject a secret without one of its keys: pods would wait for the key, and another master-key decrypts
     nothing. Reject a secret that Helm would delete: earlier charts had it in their manifests, and an object
     that leaves the manifests is deleted without the annotation. With gitops and in `helm template`
     nothing is looked up. */}}
{{- define "thumbwheel.validateSecrets" -}}
{{- if not .Values.gitops -}}
{{- range $kind, $facts := include "thumbwheel.secrets" . | fromYaml -}}
{{- with lookup "v1" "Secret" $.Release.Namespace .name -}}
  {{- $found := . -}}
  {{- with include "thumbwheel.lackingKeys" (list . $facts.keys) -}}{{ println (printf "%s: the secret %s lacks %s" ($facts.made | ternary "put it back" $facts.value) $facts.name .) }}{{- end -}}
  {{- if and $facts.made $.Release.IsUpgrade (ne "keep" (dig "metadata" "annotations" "helm.sh/resource-policy" "" $found)) -}}
    {{- println (printf "Helm may delete the secret %s: kubectl --namespace %s annotate secret %s helm.sh/resource-policy=keep" $facts.name $.Release.Namespace $facts.name) -}}
  {{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
