{{/* Certificates of mutual TLS between services. Non-empty if services have certificates. */}}
{{- define "thumbwheel.tls" -}}{{ if ne .Values.tls.mode "none" }}yes{{ end }}{{- end -}}

{{/* JSON list of the names with a certificate: services, and clients that are no services. */}}
{{- define "thumbwheel.certified" -}}
{{- $clients := or .Values.training.enabled .Values.reviewDraw.enabled | ternary (list "test-health" "training") (list "test-health") -}}
{{- concat (include "thumbwheel.known" . | fromYaml | keys | sortAlpha) $clients | toJson -}}
{{- end -}}

{{/* Secret with the certificate of a name. Arguments: list of root and name. */}}
{{- define "thumbwheel.certificateSecret" -}}{{ include "thumbwheel.name" . }}-tls{{- end -}}

{{/* Settings of a service. */}}
{{- define "thumbwheel.tlsSettings" -}}
{{- if include "thumbwheel.tls" . -}}
tls_certificate: /tls/tls.crt
tls_key: /tls/tls.key
tls_authority: /tls/ca.crt
{{- end -}}
{{- end -}}

{{/* Mount of the certificate. The folder is mounted whole, because the kubelet does not update
     single files (subPath). */}}
{{- define "thumbwheel.tlsMount" -}}
{{- if include "thumbwheel.tls" . }}
- {name: tls, mountPath: /tls, readOnly: true}
{{- end }}
{{- end -}}

{{/* Volume with the certificate of a name, readable by the group of the pod. Arguments: list of
     root and name. */}}
{{- define "thumbwheel.tlsVolume" -}}
{{- if include "thumbwheel.tls" (index . 0) }}
- {name: tls, secret: {secretName: {{ include "thumbwheel.certificateSecret" . }}, defaultMode: 0440}}
{{- end }}
{{- end -}}

{{/* Name of the chart's own authority and its issuer. */}}
{{- define "thumbwheel.authority" -}}{{ include "thumbwheel.name" (list . "authority") }}{{- end -}}

{{/* Reject a missing operator, and secrets without one of their keys, for whose files pods would
     wait. With gitops and in `helm template` nothing is looked up. */}}
{{- define "thumbwheel.validateTls" -}}
{{- if eq .Values.tls.mode "certManager" -}}
{{- include "thumbwheel.needs" (list . "cert-manager.io/v1/Certificate" "tls.mode: certManager, but the cluster has no Certificate of cert-manager.io/v1 (cert-manager)") -}}
{{- if ge (.Values.tls.certManager.renewBefore | trimSuffix "h" | int) (.Values.tls.certManager.duration | trimSuffix "h" | int) -}}{{ println "tls.certManager.renewBefore: must be below tls.certManager.duration" }}{{- end -}}
{{- else if and (eq .Values.tls.mode "secrets") (not .Values.gitops) -}}
{{- range $name := include "thumbwheel.certified" . | fromJsonArray -}}
  {{- $secret := include "thumbwheel.certificateSecret" (list $ $name) -}}
  {{- with lookup "v1" "Secret" $.Release.Namespace $secret -}}
    {{- with include "thumbwheel.lackingKeys" (list . (list "tls.crt" "tls.key" "ca.crt")) -}}{{ println (printf "tls.mode: the secret %s lacks %s" $secret .) }}{{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
