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

{{/* Non-empty if services refuse unsigned calls. An upgrade accepts them while the pods that it
     replaces sign no calls. */}}
{{- define "thumbwheel.identityRequired" -}}
{{- if and (eq .Values.identity.mode "required") (not (and .Release.IsUpgrade (include "thumbwheel.unsigned" .))) }}yes{{ end -}}
{{- end -}}

{{/* Non-empty if the secret with the keys does not exist, or if a pod that calls others runs without
     a key. The secret alone proves nothing: it remains after a failed upgrade, whose old pods go on,
     and after an upgrade to mode none. A service that calls nothing in the earlier release needs no
     key there. Deployments show their new template before the old pods have ended; ReplicaSets show
     both. With gitops nothing is looked up. */}}
{{- define "thumbwheel.unsigned" -}}
{{- $root := . -}}
{{- include "thumbwheel.makes" (list $root "identity") -}}
{{- if not $root.Values.gitops -}}
{{- $callers := dict -}}
{{- $known := include "thumbwheel.known" $root | fromYaml -}}
{{- range $name, $facts := $known -}}
  {{- $targets := list -}}
  {{- range $facts.calls -}}
    {{- if hasKey $known . -}}{{- $targets = append $targets (printf "TW_%s_%s_TARGET" (upper $name) (upper .)) -}}{{- end -}}
  {{- end -}}
  {{- $_ := set $callers (include "thumbwheel.name" (list $root $name)) (dict "key" (printf "TW_%s_IDENTITY_KEY" (upper $name)) "targets" $targets) -}}
{{- end -}}
{{- range (lookup "apps/v1" "ReplicaSet" $root.Release.Namespace "").items -}}
  {{- $replicas := dig "status" "replicas" 0 . | int -}}
  {{- $found := list -}}
  {{- range .spec.template.spec.containers -}}{{- range .env -}}{{- $found = append $found .name -}}{{- end -}}{{- end -}}
  {{- range .metadata.ownerReferences -}}
    {{- with get $callers .name -}}
      {{- $calls := false -}}
      {{- range .targets -}}{{- if has . $found -}}{{- $calls = true -}}{{- end -}}{{- end -}}
      {{- if and $replicas $calls (not (has .key $found)) }}yes{{ end -}}
    {{- end -}}
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

{{/* Reject half of the keys: a private key without its public key would end all calls of a caller,
     and pods would wait for a missing private key. A caller that is new in this chart has none in
     the secrets of an earlier release. With gitops and in `helm template` nothing is looked up. */}}
{{- define "thumbwheel.validateIdentity" -}}
{{- if include "thumbwheel.identity" . -}}
{{- $existing := .Values.identity.existing -}}
{{- if ne (empty $existing.private) (empty $existing.public) -}}{{ println "identity.existing: set private and public, or none of the two" }}
{{- else if and .Values.gitops (not $existing.private) -}}{{ println "identity.existing: gitops generates no keys; secrets with private and public keys are required (or identity.mode: none)" }}
{{- else if not .Values.gitops -}}
  {{- $privateName := include "thumbwheel.identitySecret" . -}}{{- $publicName := include "thumbwheel.callersSecret" . -}}
  {{- $private := lookup "v1" "Secret" .Release.Namespace $privateName -}}
  {{- $public := lookup "v1" "Secret" .Release.Namespace $publicName -}}
  {{- if and (not $existing.private) (ne (empty $private) (empty $public)) -}}{{ println (printf "identity: only one of the secrets %s and %s exists; restore the other, or delete both so that the chart creates them" $privateName $publicName) }}{{- end -}}
  {{- if and $private $public -}}
  {{- range $caller := include "thumbwheel.callers" . | fromJsonArray -}}
    {{- $lacking := list -}}
    {{- if not (hasKey (default dict $private.data) (printf "%s.key" $caller)) -}}{{- $lacking = append $lacking (printf "%s.key in %s" $caller $privateName) -}}{{- end -}}
    {{- $known := false -}}
    {{- range keys (default dict $public.data) -}}{{- if hasPrefix (printf "%s." $caller) . -}}{{- $known = true -}}{{- end -}}{{- end -}}
    {{- if not $known -}}{{- $lacking = append $lacking (printf "%s.pem in %s" $caller $publicName) -}}{{- end -}}
    {{- if $lacking -}}{{ println (printf "identity: the caller %s is new in this chart, or its key was lost: the secrets lack %s. Nothing was changed. Create the key, then upgrade: docs/kubernetes.md, Key of a new caller" $caller (join " and " $lacking)) }}{{- end -}}
  {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
