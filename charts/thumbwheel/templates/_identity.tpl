{{/* Keys that sign calls between services. Non-empty if calls are signed. */}}
{{- define "thumbwheel.identity" -}}{{ if ne .Values.identity.mode "none" }}yes{{ end }}{{- end -}}

{{/* Secret with the private keys (CALLER.key), and secret with the public keys (CALLER.pem,
     CALLER.NAME.pem), which is mounted whole, so that a rotation can add keys. */}}
{{- define "thumbwheel.identitySecret" -}}
{{- .Values.identity.existing.private | default (include "thumbwheel.name" (list . "identity")) -}}
{{- end -}}

{{- define "thumbwheel.callersSecret" -}}
{{- .Values.identity.existing.public | default (include "thumbwheel.name" (list . "callers")) -}}
{{- end -}}

{{/* Non-empty if a service calls others over gRPC. Arguments: list of root and facts. */}}
{{- define "thumbwheel.signs" -}}
{{- $known := include "thumbwheel.known" (index . 0) | fromYaml -}}
{{- range (index . 1).calls }}{{ if hasKey $known . }}yes{{ end }}{{ end -}}
{{- end -}}

{{/* JSON list of the callers: services that call others, training, and people. */}}
{{- define "thumbwheel.callers" -}}
{{- $callers := list "operator" "training" -}}
{{- range $name, $facts := include "thumbwheel.known" . | fromYaml -}}
  {{- if include "thumbwheel.signs" (list $ $facts) -}}{{- $callers = append $callers $name -}}{{- end -}}
{{- end -}}
{{- sortAlpha $callers | toJson -}}
{{- end -}}

{{/* JSON list of the files of private keys. */}}
{{- define "thumbwheel.identityKeys" -}}
{{- $keys := list -}}
{{- range include "thumbwheel.callers" . | fromJsonArray }}{{- $keys = append $keys (printf "%s.key" .) -}}{{- end -}}
{{- $keys | toJson -}}
{{- end -}}

{{/* Non-empty if services refuse unsigned calls. An upgrade accepts them while the pods that it
     replaces sign no calls. */}}
{{- define "thumbwheel.identityRequired" -}}
{{- if and (eq .Values.identity.mode "required") (not (and .Release.IsUpgrade (include "thumbwheel.unsigned" .))) }}yes{{ end -}}
{{- end -}}

{{/* Non-empty if the secret with the keys does not exist, or if a pod of a caller runs without a
     key. The secret alone proves nothing: it remains after a failed upgrade, whose old pods go on,
     and after an upgrade to mode none. Deployments show their new template before the old pods
     have ended; ReplicaSets show both. With gitops nothing is looked up. */}}
{{- define "thumbwheel.unsigned" -}}
{{- $root := . -}}
{{- include "thumbwheel.makes" (list $root "identity") -}}
{{- if not $root.Values.gitops -}}
{{- $variables := dict -}}
{{- range $name, $facts := include "thumbwheel.known" $root | fromYaml -}}
  {{- if include "thumbwheel.signs" (list $root $facts) -}}
    {{- $_ := set $variables (include "thumbwheel.name" (list $root $name)) (printf "TW_%s_IDENTITY_KEY" (upper $name)) -}}
  {{- end -}}
{{- end -}}
{{- range (lookup "apps/v1" "ReplicaSet" $root.Release.Namespace "").items -}}
  {{- $replicas := dig "status" "replicas" 0 . | int -}}
  {{- $found := list -}}
  {{- range .spec.template.spec.containers -}}{{- range .env -}}{{- $found = append $found .name -}}{{- end -}}{{- end -}}
  {{- range .metadata.ownerReferences -}}
    {{- $variable := get $variables .name -}}
    {{- if and $variable $replicas (not (has $variable $found)) }}yes{{ end -}}
  {{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Settings of a service. Arguments: list of root, name and facts. */}}
{{- define "thumbwheel.identitySettings" -}}
{{- $root := index . 0 -}}{{- $facts := index . 2 -}}
{{- if include "thumbwheel.identity" $root -}}
{{- if include "thumbwheel.signs" (list $root $facts) }}
identity_key: /identity/{{ index . 1 }}.key
{{- end }}
{{- if not $facts.http }}
identity_keys: /callers
{{- if not (include "thumbwheel.identityRequired" $root) }}
identity_required: false
{{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* Mounts and volumes of a pod. Arguments: list of root, caller (empty: signs no calls), and
     whether it verifies calls. */}}
{{- define "thumbwheel.identityMounts" -}}
{{- if include "thumbwheel.identity" (index . 0) }}
{{- if index . 1 }}
- {name: identity, mountPath: /identity, readOnly: true}
{{- end }}
{{- if index . 2 }}
- {name: callers, mountPath: /callers, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{- define "thumbwheel.identityVolumes" -}}
{{- $root := index . 0 -}}
{{- if include "thumbwheel.identity" $root }}
{{- with index . 1 }}
- {name: identity, secret: {secretName: {{ include "thumbwheel.identitySecret" $root }}, defaultMode: 0440, items: [{key: {{ . }}.key, path: {{ . }}.key}]}}
{{- end }}
{{- if index . 2 }}
- {name: callers, secret: {secretName: {{ include "thumbwheel.callersSecret" $root }}, defaultMode: 0440}}
{{- end }}
{{- end }}
{{- end -}}

{{/* Environment variable of training. */}}
{{- define "thumbwheel.identityEnvironment" -}}
{{- if include "thumbwheel.identity" . }}
- {name: TW_TRAINING_IDENTITY_KEY, value: /identity/training.key}
{{- end }}
{{- end -}}

{{/* Reject half of the keys: a new private key without its public key would end all calls. */}}
{{- define "thumbwheel.validateIdentity" -}}
{{- if include "thumbwheel.identity" . -}}
{{- $existing := .Values.identity.existing -}}
{{- if ne (empty $existing.private) (empty $existing.public) -}}{{ fail "identity.existing: set private and public, or none of the two" }}{{- end -}}
{{- if and .Values.gitops (not $existing.private) -}}{{ fail "identity.existing: gitops generates no keys; secrets with private and public keys are required (or identity.mode: none)" }}{{- end -}}
{{- if not (or .Values.gitops $existing.private) -}}
  {{- $private := lookup "v1" "Secret" .Release.Namespace (include "thumbwheel.identitySecret" .) -}}
  {{- $public := lookup "v1" "Secret" .Release.Namespace (include "thumbwheel.callersSecret" .) -}}
  {{- if ne (empty $private) (empty $public) -}}{{ fail (printf "identity: only one of the secrets %s and %s exists; restore the other, or delete both so that the chart creates them" (include "thumbwheel.identitySecret" .) (include "thumbwheel.callersSecret" .)) }}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
