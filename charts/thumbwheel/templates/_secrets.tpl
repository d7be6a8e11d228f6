{{/* The secrets that the chart makes, or, of keys, is given: which, and what they hold. */}}
{{- define "thumbwheel.secrets" -}}
keys: {name: {{ include "thumbwheel.secret" . }}, made: {{ not .Values.secrets.existing }}, keys: [principal-key, master-key, valkey-secret]}
{{- if .Values.evaluation.enabled }}
evaluation: {name: {{ include "thumbwheel.evaluationSecret" . }}, made: true, keys: [access-key, postgres-password, secret-key, valkey-password]}
{{- end }}
{{- end -}}

{{- define "thumbwheel.secret" -}}
{{- .Values.secrets.existing | default (include "thumbwheel.name" (list . "keys")) -}}
{{- end -}}

{{- define "thumbwheel.evaluationSecret" -}}{{ include "thumbwheel.name" (list . "evaluation") }}{{- end -}}

{{/* Whether this one is the chart's to make, and is not there. `helm template` sees no cluster, and shows it. Takes a list of root and name. */}}
{{- define "thumbwheel.makes" -}}
{{- $root := index . 0 -}}
{{- with index (include "thumbwheel.secrets" $root | fromYaml) (index . 1) -}}
{{- if and .made (not (lookup "v1" "Secret" $root.Release.Namespace .name)) }}yes{{ end -}}
{{- end -}}
{{- end -}}

{{- define "thumbwheel.madeOnce" -}}
helm.sh/hook: pre-install,pre-upgrade
# Not Helm's default, which deletes the one that is there: only what this very hook failed to make.
helm.sh/hook-delete-policy: hook-failed
# For charts before this one, to which it is an object like any other: they find it as theirs, and may not delete it.
helm.sh/resource-policy: keep
meta.helm.sh/release-name: {{ .Release.Name }}
meta.helm.sh/release-namespace: {{ .Release.Namespace }}
{{- end -}}

{{/* A secret that lacks a key: pods would wait for it without a word, and another master-key opens nothing. And one that Helm would delete:
     charts before this one had it in their manifests, and what leaves a manifest stays only if it says so. With gitops, and in
     `helm template`, nothing is looked up. */}}
{{- define "thumbwheel.validateSecrets" -}}
{{- if not .Values.gitops -}}
{{- range include "thumbwheel.secrets" . | fromYaml -}}
{{- $facts := . -}}
{{- with lookup "v1" "Secret" $.Release.Namespace .name -}}
  {{- $found := . -}}
  {{- range $facts.keys -}}
    {{- if not (hasKey (default dict $found.data) .) -}}{{ fail (printf "%s: the secret %s lacks %s" ($facts.made | ternary "put it back" "secrets.existing") $facts.name .) }}{{- end -}}
  {{- end -}}
  {{- if and $facts.made $.Release.IsUpgrade (ne "keep" (dig "metadata" "annotations" "helm.sh/resource-policy" "" $found)) -}}
    {{ fail (printf "Helm may delete the secret %s: kubectl --namespace %s annotate secret %s helm.sh/resource-policy=keep" $facts.name $.Release.Namespace $facts.name) }}
  {{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
