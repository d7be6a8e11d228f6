{{/* Guard model of the operator: settings of the guardrail, key, policy and egress. */}}

{{/* Settings of the guardrail as YAML. */}}
{{- define "thumbwheel.guardModelSettings" -}}
{{- $settings := dict -}}
{{- with .Values.guardrail.operator -}}
  {{- if .endpoint -}}
    {{- range $key, $value := omit . "prompt" "existingSecret" "secretKey" "egress" -}}{{- $_ := set $settings (printf "operator_%s" (snakecase $key)) $value -}}{{- end -}}
    {{- if .existingSecret -}}{{- $_ := set $settings "operator_key_file" "/guard-model-key/key" -}}{{- end -}}
    {{- if .prompt -}}{{- $_ := set $settings "operator_prompt_file" "/guard-model/prompt.txt" -}}{{- end -}}
  {{- end -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end -}}

{{- define "thumbwheel.guardModelMounts" -}}
{{- with .Values.guardrail.operator }}
{{- if .existingSecret }}
- {name: guard-model-key, mountPath: /guard-model-key, readOnly: true}
{{- end }}
{{- if .prompt }}
- {name: guard-model, mountPath: /guard-model, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{/* The secret is optional: without it no text is shown, or the model is skipped, as with any other
     failure of the model. */}}
{{- define "thumbwheel.guardModelVolumes" -}}
{{- with .Values.guardrail.operator }}
{{- if .existingSecret }}
- name: guard-model-key
  secret: {secretName: {{ .existingSecret }}, optional: true, items: [{key: {{ .secretKey | quote }}, path: key}]}
{{- end }}
{{- if .prompt }}
- {name: guard-model, configMap: {name: {{ include "thumbwheel.name" (list $ "guard-model") }}}}
{{- end }}
{{- end }}
{{- end -}}

{{/* Egress rules of the guardrail: those of the values, or every address at the port of the URL. */}}
{{- define "thumbwheel.guardModelEgress" -}}
{{- with .Values.guardrail.operator -}}
{{- if .egress -}}
{{ include "thumbwheel.egressRules" .egress }}
{{- else if .endpoint -}}
{{ include "thumbwheel.everywhere" (include "thumbwheel.portOfUrl" .endpoint | int | list | toJson) }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "thumbwheel.validateGuardModel" -}}
{{- $v := .Values.guardrail.operator -}}
{{- if $v.endpoint -}}
  {{- if not $v.model -}}{{ println "guardrail.operator.model: required with guardrail.operator.endpoint" }}{{- end -}}
  {{- if not (include "thumbwheel.isEncrypted" $v.endpoint) -}}{{ println "guardrail.operator.endpoint: must begin with https://, except for a host inside the cluster (NAME.NAMESPACE.svc)" }}{{- end -}}
{{- else -}}
  {{- range $name := list "model" "prompt" "existingSecret" "egress" -}}
    {{- if index $v $name -}}{{ println (printf "guardrail.operator.%s: there is no guardrail.operator.endpoint" $name) }}{{- end -}}
  {{- end -}}
{{- end -}}
{{- if and (eq $v.format "json") (not $v.prompt) -}}{{ println "guardrail.operator.prompt: required with guardrail.operator.format json" }}{{- end -}}
{{- if and $v.prompt (not (has $v.format (list "json" "yes_no"))) -}}{{ println (printf "guardrail.operator.prompt: guardrail.operator.format %s does not use it" $v.format) }}{{- end -}}
{{- range keys (include "thumbwheel.values" (list . "guardrail") | fromYaml).settings | sortAlpha -}}
  {{- if hasPrefix "operator_" . -}}{{ println (printf "services.guardrail.settings.%s: set guardrail.operator, which also gives the guardrail key, policy and network access" .) }}{{- end -}}
{{- end -}}
{{- end -}}
